//! The files behind `/proc/<pid>/ns/*` (namespaces(7)): one inode per namespace, numbered by it. An open
//! or bind-mounted file keeps its namespace alive.

use std::any::Any;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use crate::ctx::Ctx;
use crate::file::{File, FileOps};
use crate::kernel::Kernel;
use crate::ns::{Namespace, NsKind};
use crate::task::Cred;
use crate::vfs::{Inode, Metadata, Mount, Path, StatFs, SuperBlock, Timespec, anon, now};

/// An open namespace file.
pub struct NsFile {
    pub ns: Namespace,
}

/// ioctl_ns(2).
const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_PARENT: u32 = 0xb702;
const NS_GET_NSTYPE: u32 = 0xb703;
const NS_GET_OWNER_UID: u32 = 0xb704;
/// Linux 6.11: pids between a pid namespace and the caller's.
const NS_GET_PID_FROM_PIDNS: u32 = 0x8004_b706;
const NS_GET_TGID_FROM_PIDNS: u32 = 0x8004_b707;
const NS_GET_PID_IN_PIDNS: u32 = 0x8004_b708;
const NS_GET_TGID_IN_PIDNS: u32 = 0x8004_b709;

impl NsFile {
    /// A descriptor of a related namespace.
    fn open_related(cx: &Ctx<'_>, ns: Namespace) -> Result<u64> {
        let kernel = cx.task.kernel();
        let path = kernel.nsfs().path(&kernel, &ns);
        let file = File::new(Box::new(NsFile { ns }), path, libc::O_RDONLY as u32, cx.task.cred());
        Ok(cx.task.install_fd(file, true)? as u64)
    }
}

impl FileOps for NsFile {
    fn ioctl(&self, cx: &mut Ctx<'_>, _: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        let mine = cx.task.cred().user_ns.clone();
        match cmd {
            NS_GET_NSTYPE => Ok(self.ns.kind().clone_flag()),
            NS_GET_USERNS => {
                // Only what is in the caller's namespace or below may be seen.
                let owner = self.ns.owner().filter(|o| o.is_within(&mine)).ok_or(EPERM)?;
                NsFile::open_related(cx, Namespace::User(owner))
            }
            NS_GET_PARENT => match &self.ns {
                Namespace::User(u) => {
                    let p = u.parent.clone().filter(|p| p.is_within(&mine)).ok_or(EPERM)?;
                    NsFile::open_related(cx, Namespace::User(p))
                }
                Namespace::Pid(n) => {
                    let own = &cx.task.process.pid_ns;
                    let p = n.parent.clone().filter(|p| p.is_within(own)).ok_or(EPERM)?;
                    NsFile::open_related(cx, Namespace::Pid(p))
                }
                _ => Err(EINVAL),
            },
            NS_GET_OWNER_UID => match &self.ns {
                Namespace::User(u) => {
                    crate::user::write_obj(&cx.task, arg, &mine.uid(u.owner))?;
                    Ok(0)
                }
                _ => Err(EINVAL),
            },
            NS_GET_PID_FROM_PIDNS
            | NS_GET_TGID_FROM_PIDNS
            | NS_GET_PID_IN_PIDNS
            | NS_GET_TGID_IN_PIDNS => self.translate(cx, cmd, arg as i32),
            _ => Err(ENOTTY),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl NsFile {
    /// Translates a pid between this namespace and the caller's.
    fn translate(&self, cx: &Ctx<'_>, cmd: u32, pid: i32) -> Result<u64> {
        let Namespace::Pid(ns) = &self.ns else { return Err(EINVAL) };
        let own = &cx.task.process.pid_ns;
        let inward = matches!(cmd, NS_GET_PID_IN_PIDNS | NS_GET_TGID_IN_PIDNS);
        let (from, to) = if inward { (own, ns) } else { (ns, own) };
        let kernel_pid = from.kernel_pid(pid).ok_or(ESRCH)?;
        let task = cx.task.kernel().tree.read().task(kernel_pid).ok_or(ESRCH)?;
        let group = matches!(cmd, NS_GET_TGID_FROM_PIDNS | NS_GET_TGID_IN_PIDNS);
        match to.show(if group { task.process.pid } else { task.tid }) {
            0 => Err(ESRCH),
            n => Ok(n as u64),
        }
    }
}

struct NsInode {
    fs: Arc<NsFs>,
    ns: Namespace,
    made: Timespec,
}

impl Inode for NsInode {
    fn metadata(&self) -> Result<Metadata> {
        Ok(Metadata {
            ino: self.ns.id(),
            mode: libc::S_IFREG | 0o444,
            nlink: 1,
            blksize: 4096,
            atime: self.made,
            mtime: self.made,
            ctime: self.made,
            ..Metadata::default()
        })
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        self.fs.clone()
    }

    fn file_type(&self) -> u32 {
        libc::S_IFREG
    }

    fn permission(&self, _: &Cred, mask: u32) -> Option<Result<()>> {
        // These files are immutable.
        (mask & libc::W_OK as u32 != 0).then_some(Err(EPERM))
    }

    fn open(&self, flags: u32) -> Result<Box<dyn FileOps>> {
        if flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32 {
            return Err(EPERM);
        }
        Ok(Box::new(NsFile { ns: self.ns.clone() }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The internal filesystem of namespace files.
pub struct NsFs {
    dev: crate::vfs::Dev,
    me: Weak<NsFs>,
    /// By kind and number: what is not looked for stays untouched, since it may be the last of its namespace, and what ends with
    /// that takes locks.
    inodes: Mutex<Vec<((NsKind, u64), Weak<NsInode>)>>,
    mount: Mutex<Weak<Mount>>,
}

impl NsFs {
    /// One for `kernel`.
    pub fn new(kernel: &Kernel) -> Arc<NsFs> {
        let dev = kernel.vfs.anonymous_dev();
        Arc::new_cyclic(|me| NsFs {
            dev,
            me: me.clone(),
            inodes: Mutex::new(Rank::LEAF, Vec::new()),
            mount: Mutex::new(Rank::LEAF, Weak::new()),
        })
    }

    fn inode(&self, ns: &Namespace) -> Arc<NsInode> {
        let fs = match self.me.upgrade() {
            Some(fs) => fs,
            None => unreachable!("called through a reference that keeps it alive"),
        };
        let key = (ns.kind(), ns.id());
        let mut v = self.inodes.lock();
        v.retain(|(_, w)| w.strong_count() != 0);
        let found = v.iter().find(|(k, _)| *k == key).and_then(|(_, w)| w.upgrade());
        found.unwrap_or_else(|| {
            let i = Arc::new(NsInode { fs, ns: ns.clone(), made: now() });
            v.push((key, Arc::downgrade(&i)));
            i
        })
    }

    /// The place of a namespace.
    pub fn path(&self, kernel: &Kernel, ns: &Namespace) -> Path {
        let inode = self.inode(ns);
        let mounted = self.mount.lock().upgrade();
        let mnt = mounted.unwrap_or_else(|| {
            let m = kernel.vfs.new_mount(inode.fs.clone(), b"nsfs", 0);
            *self.mount.lock() = Arc::downgrade(&m);
            m
        });
        anon::named_path(&mnt, inode, ns.to_string().as_bytes())
    }
}

impl SuperBlock for NsFs {
    fn fs_type(&self) -> &'static str {
        "nsfs"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.inode(&Namespace::User(crate::ns::UserNs::initial()))
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: 0x6e73_6673, block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    fn dev(&self) -> crate::vfs::Dev {
        self.dev
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
