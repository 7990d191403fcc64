//! The filesystem `mqueue` (mq_overview(7)): the queues of an ipc namespace as files.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::{DirEmit, FileOps};
use uml_core::ns::IpcNs;
use uml_core::task::Task;
use uml_core::vfs::{
    Caching, Dev, DirOps, FsType, Inode, Metadata, NewNode, NodeKind, SetAttr, StatFs, SuperBlock,
    Timespec, dirent_kind, now,
};

use super::{MSG_MAX, MSGSIZE_MAX, MqFile, Names, QUEUES_MAX, Queue};

/// Magic number of statfs(2).
const MAGIC: u64 = 0x1980_0202;
/// Size that files show (FILENT_SIZE).
const FILE_SIZE: u64 = 80;
/// Inode number of the directory.
const ROOT_INO: u64 = 1;

/// The type.
pub struct MqueueType;

impl FsType for MqueueType {
    fn name(&self) -> &'static str {
        "mqueue"
    }

    fn user_mountable(&self) -> bool {
        true
    }

    fn mount(&self, task: &Task, _: &[u8], _: u64, _: &[u8]) -> Result<Arc<dyn SuperBlock>> {
        let ipc = task.ns().ipc.clone();
        let place = ipc.parts.get::<Instance>();
        let mut instance = place.0.lock();
        if let Some(fs) = instance.upgrade() {
            return Ok(fs);
        }
        let dev = task.kernel().vfs.anonymous_dev();
        let fs = Arc::new_cyclic(|me: &Weak<MqueueFs>| MqueueFs {
            ipc: Arc::downgrade(&ipc),
            dev,
            root: Arc::new(Root {
                fs: me.clone(),
                made: now(),
                attr: Mutex::new(Rank::LEAF, (0o1777, 0, 0)),
            }),
            inodes: Mutex::new(Rank::LEAF, Vec::new()),
        });
        *instance = Arc::downgrade(&fs);
        Ok(fs)
    }
}

/// The instance of a namespace, while it is mounted.
struct Instance(Mutex<Weak<MqueueFs>>);

impl Default for Instance {
    fn default() -> Instance {
        Instance(Mutex::new(Rank(208), Weak::new()))
    }
}

struct MqueueFs {
    ipc: Weak<IpcNs>,
    dev: Dev,
    root: Arc<Root>,
    /// By the address of the queue: nodes that are not looked for stay untouched, since they may be the last of their queue.
    inodes: Mutex<Vec<(usize, Weak<Node>)>>,
}

impl MqueueFs {
    fn names(&self) -> Result<Arc<Names>> {
        Ok(self.ipc.upgrade().ok_or(ENODEV)?.parts.get())
    }

    fn node(self: &Arc<Self>, queue: &Arc<Queue>) -> Arc<dyn Inode> {
        let key = Arc::as_ptr(queue) as usize;
        let mut v = self.inodes.lock();
        v.retain(|(_, n)| n.strong_count() != 0);
        let held = v.iter().find(|(k, _)| *k == key).and_then(|(_, n)| n.upgrade());
        held.unwrap_or_else(|| {
            let n = Arc::new(Node { fs: self.clone(), queue: queue.clone() });
            v.push((key, Arc::downgrade(&n)));
            n
        })
    }
}

impl SuperBlock for MqueueFs {
    fn fs_type(&self) -> &'static str {
        "mqueue"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: MAGIC, block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    fn dev(&self) -> Dev {
        self.dev
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The directory.
struct Root {
    fs: Weak<MqueueFs>,
    made: Timespec,
    /// Mode, owner, group.
    attr: Mutex<(u32, u32, u32)>,
}

impl Root {
    fn fs(&self) -> Result<Arc<MqueueFs>> {
        self.fs.upgrade().ok_or(ENODEV)
    }
}

impl Inode for Root {
    fn metadata(&self) -> Result<Metadata> {
        let (mode, uid, gid) = *self.attr.lock();
        Ok(Metadata {
            ino: ROOT_INO,
            mode: libc::S_IFDIR | mode,
            nlink: 2,
            uid,
            gid,
            blksize: 4096,
            atime: self.made,
            mtime: self.made,
            ctime: self.made,
            ..Metadata::default()
        })
    }

    fn set_attr(&self, a: &SetAttr) -> Result<()> {
        let mut attr = self.attr.lock();
        *attr = (a.mode.unwrap_or(attr.0), a.uid.unwrap_or(attr.1), a.gid.unwrap_or(attr.2));
        Ok(())
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        match self.fs.upgrade() {
            Some(fs) => fs,
            None => unreachable!("a mounted directory keeps its filesystem"),
        }
    }

    fn file_type(&self) -> u32 {
        libc::S_IFDIR
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        Some(self)
    }

    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        Err(EISDIR)
    }

    fn caching(&self) -> Caching {
        Caching::Revalidate
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DirOps for Root {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let fs = self.fs()?;
        let names = fs.names()?;
        let queue = names.0.lock().get(name).cloned().ok_or(ENOENT)?;
        Ok(fs.node(&queue))
    }

    fn create(&self, name: &[u8], node: &NewNode) -> Result<Arc<dyn Inode>> {
        if !matches!(node.kind, NodeKind::Regular) {
            return Err(EPERM);
        }
        let fs = self.fs()?;
        let names = fs.names()?;
        let mut names = names.0.lock();
        if names.len() >= QUEUES_MAX {
            return Err(ENOSPC);
        }
        if names.contains_key(name) {
            return Err(EEXIST);
        }
        let owner = (node.uid, node.gid);
        let queue = Queue::new(node.mode, owner, owner.0, (MSG_MAX, MSGSIZE_MAX), 0);
        names.insert(name.to_vec(), queue.clone());
        drop(names);
        Ok(fs.node(&queue))
    }

    fn unlink(&self, name: &[u8], _: &Arc<dyn Inode>) -> Result<()> {
        let names = self.fs()?.names()?;
        let gone = names.0.lock().remove(name);
        gone.map(|_| ()).ok_or(ENOENT)
    }

    fn readdir(&self, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        let all: Vec<(Vec<u8>, u64)> =
            self.fs()?.names()?.0.lock().iter().map(|(n, q)| (n.clone(), q.ino)).collect();
        // Positions follow the order of names; 0 to 2 are the start, `.` and `..`.
        let at = off.saturating_sub(2).max(1) as usize - 1;
        for (i, (name, ino)) in all.iter().enumerate().skip(at) {
            let next = i as u64 + 4;
            if !out.emit(name, *ino, dirent_kind(libc::S_IFREG), next) {
                break;
            }
            *off = next;
        }
        Ok(())
    }
}

/// A queue as a file.
struct Node {
    fs: Arc<MqueueFs>,
    queue: Arc<Queue>,
}

/// A number for a queue's inode.
pub(super) fn next_ino() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(ROOT_INO + 1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata> {
        let s = self.queue.state.lock();
        Ok(Metadata {
            ino: self.queue.ino,
            mode: libc::S_IFREG | s.mode,
            nlink: 1,
            uid: s.uid,
            gid: s.gid,
            size: FILE_SIZE,
            blksize: 4096,
            atime: self.queue.made,
            mtime: self.queue.made,
            ctime: self.queue.made,
            ..Metadata::default()
        })
    }

    fn set_attr(&self, a: &SetAttr) -> Result<()> {
        let mut s = self.queue.state.lock();
        s.mode = a.mode.unwrap_or(s.mode);
        s.uid = a.uid.unwrap_or(s.uid);
        s.gid = a.gid.unwrap_or(s.gid);
        Ok(())
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        self.fs.clone()
    }

    fn file_type(&self) -> u32 {
        libc::S_IFREG
    }

    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        Ok(Box::new(MqFile { queue: self.queue.clone() }))
    }

    fn caching(&self) -> Caching {
        Caching::Revalidate
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
