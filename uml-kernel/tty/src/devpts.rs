//! devpts: the filesystem of pseudo-terminal slaves (mount(8), pts(4)). Every mount is an instance
//! of its own, as on Linux since 4.7.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::{DirEmit, File, FileOps};
use uml_core::registry::{CharDriver, NodeOpen, Opened};
use uml_core::task::Task;
use uml_core::vfs::open::open_path;
use uml_core::vfs::walk::{DirFd, lookup};
use uml_core::vfs::{
    Caching, Dev, DirOps, FsType, Inode, Metadata, Mount, Path, SetAttr, StatFs, SuperBlock,
    Timespec, now,
};

use crate::file::TtyFile;
use crate::pty::{self, PTS_MAJOR, PeerOpener, PtyMaster};
use crate::session::Sessions;
use crate::tty::Tty;

/// DEVPTS_SUPER_MAGIC of statfs(2).
const MAGIC: u64 = 0x1cd1;
/// Device number of ptmx.
pub const PTMX: Dev = Dev::new(5, 2);
/// Most pseudo-terminals of one instance (/proc/sys/kernel/pty/max).
const MAX: u32 = 4096;
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
/// Inode number of slave 0.
const FIRST_INO: u64 = 3;

/// Mount options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Options {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: u32,
    ptmxmode: u32,
    max: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { uid: None, gid: None, mode: 0o600, ptmxmode: 0, max: MAX }
    }
}

impl Options {
    /// From mount option text; `EINVAL` for what is unknown or malformed.
    fn parse(data: &[u8]) -> Result<Options> {
        let text = std::str::from_utf8(data).map_err(|_| EINVAL)?;
        let mut o = Options::default();
        for word in text.split(',').filter(|w| !w.is_empty()) {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let decimal = || value.parse::<u32>().map_err(|_| EINVAL);
            let mode = || match u32::from_str_radix(value, 8) {
                Ok(m) => Ok(m & 0o7777),
                Err(_) => Err(EINVAL),
            };
            match key {
                "uid" => o.uid = Some(decimal()?),
                "gid" => o.gid = Some(decimal()?),
                "mode" => o.mode = mode()?,
                "ptmxmode" => o.ptmxmode = mode()?,
                "max" => o.max = decimal().ok().filter(|m| *m <= 1 << 20).ok_or(EINVAL)?,
                // Every mount is a new instance.
                "newinstance" if value.is_empty() => {}
                _ => return Err(EINVAL),
            }
        }
        Ok(o)
    }
}

/// An instance.
pub struct DevPts {
    dev: Dev,
    me: Weak<DevPts>,
    sessions: Arc<Sessions>,
    options: Mutex<Options>,
    root: Arc<Node>,
    ptmx: Arc<Node>,
    slaves: Mutex<BTreeMap<u32, Arc<Node>>>,
}

enum Kind {
    Root,
    Ptmx,
    Slave(u32, Arc<Tty>),
}

struct Attr {
    mode: u32,
    uid: u32,
    gid: u32,
    atime: Timespec,
    mtime: Timespec,
    ctime: Timespec,
}

/// An inode of devpts.
pub struct Node {
    fs: Weak<DevPts>,
    kind: Kind,
    attr: Mutex<Attr>,
}

impl Node {
    fn new(fs: &Weak<DevPts>, kind: Kind, mode: u32, uid: u32, gid: u32) -> Arc<Node> {
        let t = now();
        let attr = Attr { mode, uid, gid, atime: t, mtime: t, ctime: t };
        Arc::new(Node { fs: fs.clone(), kind, attr: Mutex::new(Rank::LEAF, attr) })
    }

    fn instance(&self) -> Arc<DevPts> {
        match self.fs.upgrade() {
            Some(fs) => fs,
            // Inodes are reached through mounts, which hold the superblock.
            None => unreachable!("devpts inode without its superblock"),
        }
    }
}

impl DevPts {
    /// A new instance without slaves; `data` is mount option text.
    pub fn new(sessions: &Arc<Sessions>, dev: Dev, data: &[u8]) -> Result<Arc<DevPts>> {
        let options = Options::parse(data)?;
        Ok(Arc::new_cyclic(|me| DevPts {
            dev,
            me: me.clone(),
            sessions: sessions.clone(),
            options: Mutex::new(Rank::LEAF, options),
            root: Node::new(me, Kind::Root, libc::S_IFDIR | 0o755, 0, 0),
            ptmx: Node::new(me, Kind::Ptmx, libc::S_IFCHR | options.ptmxmode, 0, 0),
            slaves: Mutex::new(Rank::SUPER, BTreeMap::new()),
        }))
    }

    /// Makes a pair; the slave belongs to `task`'s user.
    fn new_master(self: &Arc<DevPts>, task: &Task, mnt: Weak<Mount>) -> Result<PtyMaster> {
        let options = *self.options.lock();
        let cred = task.cred();
        let mut slaves = self.slaves.lock();
        let index = (0..options.max).find(|i| !slaves.contains_key(i)).ok_or(ENOSPC)?;
        let (tty, line) = pty::new_pair(index, &self.sessions);
        let node = Node::new(
            &self.me,
            Kind::Slave(index, tty.clone()),
            libc::S_IFCHR | options.mode,
            options.uid.unwrap_or(cred.fsuid),
            options.gid.unwrap_or(cred.fsgid),
        );
        slaves.insert(index, node);
        drop(slaves);
        let peer = Peer { fs: self.clone(), mnt, index };
        Ok(PtyMaster::new(tty, line, Box::new(peer), index))
    }

    fn slave(&self, index: u32) -> Option<Arc<Tty>> {
        match &self.slaves.lock().get(&index)?.kind {
            Kind::Slave(_, tty) => Some(tty.clone()),
            _ => None,
        }
    }
}

/// What a master knows of its instance.
struct Peer {
    fs: Arc<DevPts>,
    /// Where the instance was mounted when the master was opened.
    mnt: Weak<Mount>,
    index: u32,
}

impl PeerOpener for Peer {
    fn open_peer(&self, task: &Task, flags: u32) -> Result<i32> {
        let mnt = self.mnt.upgrade().ok_or(EIO)?;
        let name = self.index.to_string();
        let place = lookup(task, &DirFd::At(mnt.root_path()), name.as_bytes(), 0)?;
        let cloexec = flags & libc::O_CLOEXEC as u32 != 0;
        let file: Arc<File> = open_path(task, place, flags)?;
        task.install_fd(file, cloexec)
    }

    fn master_closed(&self) {
        let node = self.fs.slaves.lock().remove(&self.index);
        drop(node);
    }
}

impl SuperBlock for DevPts {
    fn fs_type(&self) -> &'static str {
        "devpts"
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

    fn show_options(&self) -> String {
        let o = *self.options.lock();
        let mut s = String::new();
        if let Some(uid) = o.uid {
            s.push_str(&format!(",uid={uid}"));
        }
        if let Some(gid) = o.gid {
            s.push_str(&format!(",gid={gid}"));
        }
        s.push_str(&format!(",mode={:03o},ptmxmode={:03o}", o.mode, o.ptmxmode));
        if o.max < MAX {
            s.push_str(&format!(",max={}", o.max));
        }
        s
    }

    fn remount(&self, _read_only: bool, data: &[u8]) -> Result<()> {
        let options = Options::parse(data)?;
        *self.options.lock() = options;
        self.ptmx.attr.lock().mode = libc::S_IFCHR | options.ptmxmode;
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata> {
        let (ino, nlink, rdev) = match self.kind {
            Kind::Root => (ROOT_INO, 2, Dev::default()),
            Kind::Ptmx => (PTMX_INO, 1, PTMX),
            Kind::Slave(i, _) => (FIRST_INO + u64::from(i), 1, Dev::new(PTS_MAJOR, i)),
        };
        let a = self.attr.lock();
        Ok(Metadata {
            ino,
            mode: a.mode,
            nlink,
            uid: a.uid,
            gid: a.gid,
            rdev,
            blksize: 1024,
            atime: a.atime,
            mtime: a.mtime,
            ctime: a.ctime,
            ..Metadata::default()
        })
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        let mut a = self.attr.lock();
        if let Some(m) = attr.mode {
            a.mode = (a.mode & libc::S_IFMT) | (m & 0o7777);
        }
        a.uid = attr.uid.unwrap_or(a.uid);
        a.gid = attr.gid.unwrap_or(a.gid);
        a.atime = attr.atime.unwrap_or(a.atime);
        a.mtime = attr.mtime.unwrap_or(a.mtime);
        a.ctime = attr.ctime.unwrap_or(a.ctime);
        Ok(())
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        self.instance()
    }

    fn file_type(&self) -> u32 {
        match self.kind {
            Kind::Root => libc::S_IFDIR,
            _ => libc::S_IFCHR,
        }
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        matches!(self.kind, Kind::Root).then_some(self as &dyn DirOps)
    }

    fn open(&self, _flags: u32) -> Result<Box<dyn FileOps>> {
        // Directories are read through DirOps, devices opened through the registry.
        Err(EISDIR)
    }

    fn caching(&self) -> Caching {
        Caching::Revalidate
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DirOps for Node {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let fs = self.instance();
        if name == b"ptmx" {
            return Ok(fs.ptmx.clone());
        }
        let text = std::str::from_utf8(name).map_err(|_| ENOENT)?;
        let index: u32 = text.parse().map_err(|_| ENOENT)?;
        // One spelling per number: not `007`, not `+7`.
        if index.to_string() != text {
            return Err(ENOENT);
        }
        let node = fs.slaves.lock().get(&index).cloned().ok_or(ENOENT)?;
        Ok(node)
    }

    fn readdir(&self, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        let fs = self.instance();
        // Positions are inode numbers plus three, so that they stay valid while slaves come and go.
        let position = |ino: u64| ino + 3;
        if *off < position(PTMX_INO) {
            if !out.emit(b"ptmx", PTMX_INO, libc::DT_CHR, position(PTMX_INO)) {
                return Ok(());
            }
            *off = position(PTMX_INO);
        }
        let indices: Vec<u32> = fs.slaves.lock().keys().copied().collect();
        for i in indices {
            let ino = FIRST_INO + u64::from(i);
            if position(ino) <= *off {
                continue;
            }
            if !out.emit(i.to_string().as_bytes(), ino, libc::DT_CHR, position(ino)) {
                return Ok(());
            }
            *off = position(ino);
        }
        Ok(())
    }
}

/// The filesystem type.
pub struct DevPtsType {
    sessions: Arc<Sessions>,
}

impl DevPtsType {
    /// A type whose terminals belong to `sessions`.
    pub fn new(sessions: &Arc<Sessions>) -> DevPtsType {
        DevPtsType { sessions: sessions.clone() }
    }
}

impl FsType for DevPtsType {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn user_mountable(&self) -> bool {
        true
    }

    fn mount(
        &self,
        task: &Task,
        _source: &[u8],
        _flags: u64,
        data: &[u8],
    ) -> Result<Arc<dyn SuperBlock>> {
        let dev = task.kernel().vfs.anonymous_dev();
        Ok(DevPts::new(&self.sessions, dev, data)?)
    }
}

/// Opens `/dev/ptmx`: the master of a new pair in the instance that the node belongs to, or that is
/// mounted at `pts` beside it (pts(4)).
pub struct PtmxDriver;

impl CharDriver for PtmxDriver {
    fn open(&self, req: &NodeOpen<'_>) -> Result<Opened> {
        let mnt = instance_mount(req)?;
        let fs = mnt.sb.as_any().downcast_ref::<DevPts>().and_then(|f| f.me.upgrade());
        let master = fs.ok_or(ENODEV)?.new_master(req.task, Arc::downgrade(&mnt))?;
        let ops: Box<dyn FileOps> = Box::new(master);
        Ok(ops.into())
    }
}

fn instance_mount(req: &NodeOpen<'_>) -> Result<Arc<Mount>> {
    if req.path.mnt.sb.as_any().is::<DevPts>() {
        return Ok(req.path.mnt.clone());
    }
    let parent = req.path.dentry.parent().ok_or(ENODEV)?;
    let dir = Path { mnt: req.path.mnt.clone(), dentry: parent };
    let pts = lookup(req.task, &DirFd::At(dir), b"pts", 0).map_err(|_| ENODEV)?;
    if pts.is_mount_root() && pts.mnt.sb.as_any().is::<DevPts>() {
        return Ok(pts.mnt);
    }
    Err(ENODEV)
}

/// Opens slaves.
pub struct PtsDriver;

impl CharDriver for PtsDriver {
    fn open(&self, req: &NodeOpen<'_>) -> Result<Opened> {
        // A node that somebody made elsewhere names no instance.
        let fs = req.path.mnt.sb.as_any().downcast_ref::<DevPts>().ok_or(EIO)?;
        let tty = fs.slave(req.dev.minor).ok_or(EIO)?;
        let opening = tty.open(req.task, false, acquires(req.flags))?;
        let ops: Box<dyn FileOps> = Box::new(TtyFile::new(tty, opening));
        Ok(ops.into())
    }
}

/// True when open(2) with these flags may make the terminal the controlling one.
pub fn acquires(flags: u32) -> bool {
    flags & libc::O_NOCTTY as u32 == 0 && flags & libc::O_ACCMODE as u32 != libc::O_WRONLY as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let o = Options::parse(b"gid=5,mode=620,ptmxmode=666,newinstance").expect("options");
        assert_eq!((o.gid, o.mode, o.ptmxmode), (Some(5), 0o620, 0o666));
        assert_eq!(Options::parse(b""), Ok(Options::default()));
        for bad in [&b"gid=x"[..], b"mode=9", b"what", b"newinstance=1", b"max=99999999", b"\xff"] {
            assert_eq!(Options::parse(bad), Err(EINVAL));
        }
    }

    use crate::tty::tests::{machine, read, write};
    use uml_core::registry::DeviceNode;
    use uml_core::task::{Cred, FsContext};
    use uml_core::vfs::open::{OpenHow, open};

    fn nodes(task: &Task) -> Vec<String> {
        struct Names(Vec<String>);
        impl DirEmit for Names {
            fn emit(&mut self, name: &[u8], _ino: u64, _kind: u8, _next: u64) -> bool {
                self.0.push(String::from_utf8_lossy(name).into_owned());
                true
            }
        }
        let mut out = Names(Vec::new());
        let root = task.fs().root();
        root.inode().dir().expect("directory").readdir(&mut 0, &mut out).expect("readdir");
        out.0
    }

    #[test]
    fn a_pair_by_name() {
        let m = machine();
        let layer = crate::devices::TerminalLayer::install(&m.kernel).expect("install");
        let dev = m.kernel.vfs.anonymous_dev();
        let fs = DevPts::new(&layer.sessions, dev, b"ptmxmode=666,mode=620,gid=5").expect("fs");
        let (ns, _) = m.kernel.vfs.first_namespace(fs, b"devpts", 0);
        let task = m.task(0, 0, 0);
        task.set_fs(Arc::new(FsContext::new(ns.root().root_path(), ns.clone())));
        task.set_cred(Arc::new(Cred { fsuid: 1000, ..Cred::root() }));
        let how = |flags| OpenHow::new(flags, 0);

        let rw = libc::O_RDWR;
        let master = open(&task, &DirFd::Cwd, b"/ptmx", &how(rw)).expect("ptmx");
        assert_eq!(nodes(&task), ["ptmx", "0"]);
        // Locked until unlockpt(3).
        assert_eq!(open(&task, &DirFd::Cwd, b"/0", &how(rw)).err(), Some(EIO));
        master.downcast::<PtyMaster>().expect("master").set_locked(false);
        let slave = open(&task, &DirFd::Cwd, b"/0", &how(rw)).expect("slave");
        let meta = slave.path.metadata().expect("metadata");
        assert_eq!((meta.mode, meta.uid, meta.gid), (libc::S_IFCHR | 0o620, 1000, 5));
        assert_eq!(meta.rdev, Dev::new(136, 0));
        write(&task, &master, "hi\n").expect("write");
        assert_eq!(read(&task, &slave, 10).as_deref(), Ok("hi\n"));
        // It became the controlling terminal.
        assert_eq!(layer.sessions.terminal_of(&task).map(|t| t.dev()), Some(Dev::new(136, 0)));

        let second = open(&task, &DirFd::Cwd, b"/ptmx", &how(rw)).expect("ptmx");
        assert_eq!(nodes(&task), ["ptmx", "0", "1"]);
        drop(master);
        assert_eq!(nodes(&task), ["ptmx", "1"]);
        assert_eq!(open(&task, &DirFd::Cwd, b"/0", &how(rw)).err(), Some(ENOENT));
        for absent in [&b"/01"[..], b"/+1", b"/9999999999", b"/x"] {
            assert_eq!(open(&task, &DirFd::Cwd, absent, &how(rw)).err(), Some(ENOENT));
        }
        drop(second);
        let names: Vec<String> =
            m.kernel.vfs.registry.nodes().into_iter().map(|n: DeviceNode| n.name).collect();
        assert_eq!(names, ["tty", "console", "ptmx"]);
    }

    #[test]
    fn the_number_of_pairs_is_limited() {
        let m = machine();
        let fs = DevPts::new(&m.sessions, Dev::new(0, 99), b"max=2").expect("fs");
        let task = m.task(0, 0, 0);
        let a = fs.new_master(&task, Weak::new()).expect("first");
        let _b = fs.new_master(&task, Weak::new()).expect("second");
        assert_eq!(fs.new_master(&task, Weak::new()).err(), Some(ENOSPC));
        drop(a);
        assert!(fs.new_master(&task, Weak::new()).is_ok());
    }
}
