//! Landlock (landlock(7), Documentation/userspace-api/landlock.rst): restrictions that a thread puts on itself and on
//! everything it starts.
//!
//! A [`Ruleset`] is what a program builds behind a descriptor. To restrict itself it adds the ruleset's present content as
//! a [`Layer`] to its [`Domain`], which is part of its credentials. A layer refuses what it *handles* unless one of its
//! rules grants it; all layers of a domain must agree. Tasks without a domain pay one test where a file is opened or a
//! name changed, and nothing in a walk.

pub mod files;
pub mod scope;

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use crate::file::{File, FileOps};
use crate::task::Task;
use crate::vfs::anon::{self, AnonKind};
use crate::vfs::{Dentry, Path, inode_key};

/// What LANDLOCK_CREATE_RULESET_VERSION tells: everything up to the flags of landlock_restrict_self(2) about logs.
pub const ABI: u64 = 7;
/// What LANDLOCK_CREATE_RULESET_ERRATA tells, a bit for each erratum of Linux that does not apply: MPTCP is not TCP, a
/// process may always signal its own threads, directories that a bind mount lost are looked at through it.
pub const ERRATA: u64 = 7;

/// LANDLOCK_ACCESS_FS_*.
pub mod fs {
    pub const EXECUTE: u32 = 1 << 0;
    pub const WRITE_FILE: u32 = 1 << 1;
    pub const READ_FILE: u32 = 1 << 2;
    pub const READ_DIR: u32 = 1 << 3;
    pub const REMOVE_DIR: u32 = 1 << 4;
    pub const REMOVE_FILE: u32 = 1 << 5;
    pub const MAKE_CHAR: u32 = 1 << 6;
    pub const MAKE_DIR: u32 = 1 << 7;
    pub const MAKE_REG: u32 = 1 << 8;
    pub const MAKE_SOCK: u32 = 1 << 9;
    pub const MAKE_FIFO: u32 = 1 << 10;
    pub const MAKE_BLOCK: u32 = 1 << 11;
    pub const MAKE_SYM: u32 = 1 << 12;
    pub const REFER: u32 = 1 << 13;
    pub const TRUNCATE: u32 = 1 << 14;
    pub const IOCTL_DEV: u32 = 1 << 15;
    /// How many there are.
    pub const COUNT: usize = 16;
    pub const ALL: u32 = (1 << COUNT) - 1;
    /// Those that mean something for a file that is not a directory.
    pub const OF_FILES: u32 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
}

/// LANDLOCK_ACCESS_NET_*.
pub mod net {
    pub const BIND_TCP: u32 = 1 << 0;
    pub const CONNECT_TCP: u32 = 1 << 1;
    pub const ALL: u32 = 3;
}

/// Most layers of a domain (landlock(7), "Limitations").
pub const MAX_LAYERS: usize = 16;
/// Most rules of a ruleset. Linux stops at 2^32, where memory is charged to the program; here a rule keeps a directory
/// entry of the kernel's own memory.
pub const MAX_RULES: usize = 1 << 16;

/// The rights and scopes that a ruleset is about; what it does not handle it allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    /// [`fs`] bits.
    pub fs: u32,
    /// [`net`] bits.
    pub net: u32,
    /// [`scope`] bits.
    pub scoped: u32,
}

#[derive(Clone)]
struct FileRule {
    /// Keeps the inode, and with it its identity, and the entry in the cache, so that walks find the same inode.
    _dentry: Arc<Dentry>,
    access: u32,
}

/// What is granted: by inode identity, and by port.
#[derive(Clone, Default)]
struct Rules {
    files: HashMap<usize, FileRule>,
    ports: HashMap<u16, u32>,
}

impl Rules {
    fn check_room(&self) -> Result<()> {
        if self.files.len() + self.ports.len() < MAX_RULES { Ok(()) } else { Err(E2BIG) }
    }
}

/// A set of rules that grows (landlock_create_ruleset(2), landlock_add_rule(2)).
pub struct Ruleset {
    handled: Handled,
    rules: Mutex<Arc<Rules>>,
}

/// The open file of a ruleset.
struct RulesetFile(Arc<Ruleset>);

impl FileOps for RulesetFile {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Ruleset {
    /// An empty ruleset. `ENOMSG` when it handles nothing.
    pub fn new(handled: Handled) -> Result<Arc<Ruleset>> {
        if handled == Handled::default() {
            return Err(ENOMSG);
        }
        Ok(Arc::new(Ruleset { handled, rules: Mutex::new(Rank::LEAF, Arc::default()) }))
    }

    /// The ruleset as an open file of `task`.
    pub fn open(self: Arc<Ruleset>, task: &Task) -> Arc<File> {
        let cred = task.cred();
        let place = anon::path(AnonKind::Other("[landlock-ruleset]"), &cred);
        File::new(Box::new(RulesetFile(self)), place, libc::O_RDWR as u32, cred)
    }

    /// The ruleset behind `file`; `EBADFD` for another kind of file.
    pub fn of(file: &File) -> Result<Arc<Ruleset>> {
        file.ops.as_any().downcast_ref::<RulesetFile>().map(|f| f.0.clone()).ok_or(EBADFD)
    }

    /// Grants `access` ([`fs`] bits) to what lies at `place` and below it. `ENOMSG` for no right, `EINVAL` for rights that
    /// are not handled or that a file cannot have, `EBADFD` for a place that is in no tree, `E2BIG` for one rule too many.
    pub fn allow_beneath(&self, place: &Path, access: u32) -> Result<()> {
        if place.dentry.is_anonymous() {
            return Err(EBADFD);
        }
        if place.inode().dir().is_none() && access & !fs::OF_FILES != 0 {
            return Err(EINVAL);
        }
        let mut rules = self.rules.lock();
        let rules = Arc::make_mut(&mut rules);
        let key = inode_key(place.inode());
        if let Some(r) = rules.files.get_mut(&key) {
            r.access |= access;
            return Ok(());
        }
        rules.check_room()?;
        rules.files.insert(key, FileRule { _dentry: place.dentry.clone(), access });
        Ok(())
    }

    /// `ENOMSG` for no right, `EINVAL` for rights that this ruleset does not handle.
    pub fn check_files(&self, access: u64) -> Result<u32> {
        check_access(access, self.handled.fs)
    }

    /// Grants `access` ([`net`] bits) to a TCP port. `ENOMSG`, `EINVAL`, `E2BIG` as [`Ruleset::allow_beneath`]; `EINVAL` for
    /// what is no port.
    pub fn allow_port(&self, port: u64, access: u64) -> Result<()> {
        let access = check_access(access, self.handled.net)?;
        let port = u16::try_from(port).map_err(|_| EINVAL)?;
        let mut rules = self.rules.lock();
        let rules = Arc::make_mut(&mut rules);
        if !rules.ports.contains_key(&port) {
            rules.check_room()?;
        }
        *rules.ports.entry(port).or_default() |= access;
        Ok(())
    }
}

fn check_access(access: u64, handled: u32) -> Result<u32> {
    if access == 0 {
        return Err(ENOMSG);
    }
    if access & !u64::from(handled) != 0 {
        return Err(EINVAL);
    }
    Ok(access as u32)
}

/// A ruleset as it was when somebody restricted itself with it.
pub struct Layer {
    handled: Handled,
    rules: Arc<Rules>,
}

impl Layer {
    /// The rights of files that it refuses without a rule: moving files between directories is among them whether it was
    /// asked for or not, as soon as the layer is about files at all.
    fn refuses(&self) -> u32 {
        if self.handled.fs == 0 { 0 } else { self.handled.fs | fs::REFER }
    }
}

/// The restrictions of a task. Immutable; a further layer makes a new domain below this one.
pub struct Domain {
    /// Outermost first.
    layers: Vec<Arc<Layer>>,
    /// What some layer handles.
    any: Handled,
}

impl std::fmt::Debug for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Domain({} layers, {:?})", self.layers.len(), self.any)
    }
}

impl Domain {
    /// The domain `of` with the content of `ruleset` as its innermost layer. `E2BIG` beyond [`MAX_LAYERS`].
    pub fn enter(of: Option<&Arc<Domain>>, ruleset: &Ruleset) -> Result<Arc<Domain>> {
        let mut layers = of.map(|d| d.layers.clone()).unwrap_or_default();
        if layers.len() >= MAX_LAYERS {
            return Err(E2BIG);
        }
        let rules = ruleset.rules.lock().clone();
        layers.push(Arc::new(Layer { handled: ruleset.handled, rules }));
        let mut any = Handled::default();
        for l in &layers {
            any.fs |= l.handled.fs;
            any.net |= l.handled.net;
            any.scoped |= l.handled.scoped;
        }
        Ok(Arc::new(Domain { layers, any }))
    }

    /// Some layer is about files.
    pub fn restricts_files(&self) -> bool {
        self.any.fs != 0
    }

    /// `EACCES` unless every layer that handles `access`, one [`net`] bit, grants it for `port`.
    pub fn check_port(&self, port: u16, access: u32) -> Result<()> {
        let refuses = |l: &&Arc<Layer>| {
            let granted = l.rules.ports.get(&port).copied().unwrap_or(0);
            l.handled.net & access & !granted != 0
        };
        if self.layers.iter().any(|l| refuses(&l)) { Err(EACCES) } else { Ok(()) }
    }

    /// Some layer handles one of these [`net`] bits.
    pub fn restricts_net(&self, access: u32) -> bool {
        self.any.net & access != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(net: u32) -> Arc<Ruleset> {
        Ruleset::new(Handled { net, ..Handled::default() }).unwrap()
    }

    #[test]
    fn a_ruleset_is_about_something() {
        assert_eq!(Ruleset::new(Handled::default()).err(), Some(ENOMSG));
    }

    #[test]
    fn every_layer_must_grant_a_port() {
        let a = ruleset(net::ALL);
        a.allow_port(80, net::CONNECT_TCP.into()).unwrap();
        a.allow_port(80, net::BIND_TCP.into()).unwrap();
        a.allow_port(443, net::CONNECT_TCP.into()).unwrap();
        let d = Domain::enter(None, &a).unwrap();
        assert_eq!(d.check_port(80, net::BIND_TCP), Ok(()));
        assert_eq!(d.check_port(443, net::BIND_TCP), Err(EACCES));
        let b = ruleset(net::CONNECT_TCP);
        b.allow_port(443, net::CONNECT_TCP.into()).unwrap();
        let d = Domain::enter(Some(&d), &b).unwrap();
        assert_eq!(d.check_port(80, net::BIND_TCP), Ok(()));
        assert_eq!(d.check_port(80, net::CONNECT_TCP), Err(EACCES));
        assert_eq!(d.check_port(443, net::CONNECT_TCP), Ok(()));
        // What is added later does not reach who is restricted already.
        b.allow_port(80, net::CONNECT_TCP.into()).unwrap();
        assert_eq!(d.check_port(80, net::CONNECT_TCP), Err(EACCES));
    }

    #[test]
    fn rules_are_checked_and_bounded() {
        let r = ruleset(net::BIND_TCP);
        assert_eq!(r.allow_port(1, 0), Err(ENOMSG));
        assert_eq!(r.allow_port(1, net::CONNECT_TCP.into()), Err(EINVAL));
        assert_eq!(r.allow_port(65536, net::BIND_TCP.into()), Err(EINVAL));
        let full = (0..MAX_RULES as u64).try_for_each(|p| r.allow_port(p, 1));
        assert_eq!(full, Ok(()));
        assert_eq!(r.allow_port(7, net::BIND_TCP.into()), Ok(()));
        assert_eq!(r.rules.lock().check_room(), Err(E2BIG));
    }

    #[test]
    fn layers_are_limited() {
        let r = ruleset(net::ALL);
        let mut d = Domain::enter(None, &r).unwrap();
        for _ in 1..MAX_LAYERS {
            d = Domain::enter(Some(&d), &r).unwrap();
        }
        assert_eq!(Domain::enter(Some(&d), &r).err(), Some(E2BIG));
    }
}
