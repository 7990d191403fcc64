//! Names of sockets: paths and abstract names (unix(7), "Address format").

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_core::vfs::modify;
use uml_core::vfs::perm::{MAY_WRITE, path_permission};
use uml_core::vfs::walk::FOLLOW;
use uml_core::vfs::{DirFd, Inode, NodeKind, lookup};

use super::{Kind, UnixSocket};

/// Room for a name in `struct sockaddr_un`.
const PATH_MAX: usize = 108;
const FAMILY: [u8; 2] = (libc::AF_UNIX as u16).to_le_bytes();

/// What a socket is bound to.
#[derive(Clone)]
pub(super) enum Name {
    /// The bytes after the leading NUL.
    Abstract(Vec<u8>),
    /// As given, and the inode that stands for it.
    Path(Vec<u8>, Arc<dyn Inode>),
}

impl Name {
    /// As `struct sockaddr_un`.
    pub fn to_sockaddr(&self) -> Vec<u8> {
        match self {
            Name::Abstract(n) => [&FAMILY[..], &[0], n].concat(),
            Name::Path(p, _) => [&FAMILY[..], p, &[0]].concat(),
        }
    }
}

/// The address of an unbound socket: the family alone.
pub(super) fn unnamed() -> Vec<u8> {
    FAMILY.to_vec()
}

/// An address argument.
pub(super) enum Target<'a> {
    /// Only the family: bind(2) picks a name.
    Auto,
    Abstract(&'a [u8]),
    Path(&'a [u8]),
}

/// Parses `struct sockaddr_un`: `EINVAL` when it is not one.
pub(super) fn parse(addr: &[u8]) -> Result<Target<'_>> {
    let Some((family, path)) = addr.split_at_checked(2) else { return Err(EINVAL) };
    if family != FAMILY || path.len() > PATH_MAX {
        return Err(EINVAL);
    }
    match path.first() {
        None => Ok(Target::Auto),
        Some(0) => Ok(Target::Abstract(&path[1..])),
        Some(_) => {
            let end = path.iter().position(|b| *b == 0).unwrap_or(path.len());
            Ok(Target::Path(&path[..end]))
        }
    }
}

type Abstract = HashMap<(u64, Kind, Vec<u8>), Weak<UnixSocket>>;

/// Abstract names; each network namespace and type of socket has its own.
static ABSTRACT: LazyLock<Mutex<Abstract>> =
    LazyLock::new(|| Mutex::new(Rank::LEAF, HashMap::new()));

fn claim(socket: &UnixSocket, name: Vec<u8>) -> Result<Name> {
    let mut table = ABSTRACT.lock();
    let key = (socket.net, socket.kind, name);
    if table.get(&key).is_some_and(|s| s.strong_count() > 0) {
        return Err(EADDRINUSE);
    }
    let name = key.2.clone();
    table.insert(key, socket.me.clone());
    Ok(Name::Abstract(name))
}

impl UnixSocket {
    pub(super) fn bind_to(&self, task: &Task, addr: &[u8]) -> Result<()> {
        let target = parse(addr)?;
        if self.inner.lock().name.is_some() {
            // A second bind, also to "any name", is refused except that the latter is a no-op.
            return if matches!(target, Target::Auto) { Ok(()) } else { Err(EINVAL) };
        }
        let name = match target {
            Target::Auto => return self.autobind(task),
            Target::Abstract(n) => claim(self, n.to_vec())?,
            Target::Path(p) => {
                // The permissions of the socket's own inode (fchmod(2)); umask and the directory's
                // rules apply as to any new file.
                let file = self.file.get().and_then(Weak::upgrade);
                let mode = file.map_or(0o777, |i| i.mode());
                let place = modify::create(task, &DirFd::Cwd, p, NodeKind::Socket, mode)
                    .map_err(|e| if e == EEXIST { EADDRINUSE } else { e })?;
                let inode = place.inode().clone();
                let me = self.this()?;
                let any: Arc<dyn std::any::Any + Send + Sync> = me;
                task.kernel().vfs.registry.bind_socket(&inode, Arc::downgrade(&any));
                Name::Path(p.to_vec(), inode)
            }
        };
        self.set_name(task, name)
    }

    fn set_name(&self, task: &Task, name: Name) -> Result<()> {
        let kernel = task.kernel();
        let lost = {
            let mut inner = self.inner.lock();
            if inner.name.is_none() {
                inner.name = Some(name);
                inner.bound = Some(Arc::downgrade(&kernel));
                return Ok(());
            }
            name
        };
        self.release(&lost, Some(&kernel));
        Err(EINVAL)
    }

    /// Gives it an abstract name of five hexadecimal digits.
    pub(super) fn autobind(&self, task: &Task) -> Result<()> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        if self.inner.lock().name.is_some() {
            return Ok(());
        }
        for _ in 0..=0xfffff {
            let n = NEXT.fetch_add(1, Ordering::Relaxed) & 0xfffff;
            match claim(self, format!("{n:05x}").into_bytes()) {
                Ok(name) => return self.set_name(task, name),
                Err(EADDRINUSE) => {}
                Err(e) => return Err(e),
            }
        }
        Err(ENOSPC)
    }

    /// Frees a name of its own.
    pub(super) fn release(&self, name: &Name, kernel: Option<&Arc<Kernel>>) {
        match name {
            Name::Abstract(n) => {
                let key = (self.net, self.kind, n.clone());
                let mut table = ABSTRACT.lock();
                if table.get(&key).is_some_and(|s| std::ptr::eq(s.as_ptr(), self)) {
                    table.remove(&key);
                }
            }
            Name::Path(_, inode) => {
                if let Some(k) = kernel {
                    k.vfs.registry.unbind_socket(inode);
                }
            }
        }
    }

    /// The socket that `addr` names, for connecting or sending.
    pub(super) fn find(&self, task: &Task, addr: &[u8]) -> Result<Arc<UnixSocket>> {
        match parse(addr)? {
            Target::Auto => Err(EINVAL),
            Target::Abstract(n) => {
                let table = ABSTRACT.lock();
                let found = table.get(&(self.net, self.kind, n.to_vec())).and_then(Weak::upgrade);
                found.ok_or(ECONNREFUSED)
            }
            Target::Path(p) => {
                let place = lookup(task, &DirFd::Cwd, p, FOLLOW)?;
                path_permission(&place, &task.cred(), MAY_WRITE)?;
                if place.inode().file_type() != libc::S_IFSOCK {
                    return Err(ECONNREFUSED);
                }
                let any = task.kernel().vfs.registry.socket(place.inode())?;
                let found = any.downcast::<UnixSocket>().map_err(|_| ECONNREFUSED)?;
                if found.kind != self.kind {
                    return Err(EPROTOTYPE);
                }
                Ok(found)
            }
        }
    }
}
