//! Inodes of synthetic trees.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::cgroup::Cgroup;
use uml_core::file::{DirEmit, FileOps};
use uml_core::task::{Cred, Task};
use uml_core::vfs::{
    Caching, DirOps, Inode, Metadata, NewNode, NodeKind, Path, Perm, SetAttr, SuperBlock,
    SymlinkOps, Timespec, now,
};

use super::dir::DirFile;
use super::{Directory, SynthFs, child_ino};

/// Ownership and access of the nodes of one subject, when they are not fixed.
pub trait Access: Send + Sync {
    /// Present owner and group.
    fn owner(&self) -> (u32, u32);

    /// False once the subject is gone: the node is not handed out again.
    fn alive(&self) -> bool {
        true
    }

    /// Permission bits, where they are kept elsewhere than in the node.
    fn mode(&self) -> Option<u32> {
        None
    }

    /// chmod(2), chown(2); times are the node's.
    fn change(&self, attr: &SetAttr) -> Result<()> {
        let _ = attr;
        Err(EPERM)
    }

    /// Checks beyond mode bits, as [`Inode::permission`].
    fn permission(&self, cred: &Cred, mask: u32, perm: &Perm) -> Option<Result<()>> {
        let _ = (cred, mask, perm);
        None
    }
}

/// A file.
pub trait Regular: Send + Sync {
    /// open(2).
    fn open(&self, flags: u32) -> Result<Box<dyn FileOps>>;

    /// `st_size`.
    fn size(&self) -> u64 {
        0
    }
}

/// A symbolic link.
pub trait Link: Send + Sync {
    /// The text.
    fn readlink(&self, task: &Task) -> Result<Vec<u8>>;

    /// `st_size`.
    fn size(&self) -> u64 {
        0
    }

    /// Where a magic link leads.
    fn follow(&self, task: &Task) -> Option<Result<Path>> {
        let _ = task;
        None
    }
}

/// What a node does.
pub enum Body {
    Dir(Box<dyn Directory>),
    File(Box<dyn Regular>),
    Link(Box<dyn Link>),
}

impl Body {
    fn file_type(&self) -> u32 {
        match self {
            Body::Dir(_) => libc::S_IFDIR,
            Body::File(_) => libc::S_IFREG,
            Body::Link(_) => libc::S_IFLNK,
        }
    }
}

/// What a directory says about one of its entries.
pub struct Spec {
    /// Permission bits.
    pub mode: u32,
    /// Inode number; by default derived from the parent's and the name.
    pub ino: Option<u64>,
    pub access: Option<Arc<dyn Access>>,
    pub body: Body,
}

impl Spec {
    /// A directory of mode 0555.
    pub fn dir(d: impl Directory + 'static) -> Spec {
        Spec { mode: 0o555, ino: None, access: None, body: Body::Dir(Box::new(d)) }
    }

    /// A file.
    pub fn file(mode: u32, f: impl Regular + 'static) -> Spec {
        Spec { mode, ino: None, access: None, body: Body::File(Box::new(f)) }
    }

    /// A symbolic link of mode 0777.
    pub fn link(l: impl Link + 'static) -> Spec {
        Spec { mode: 0o777, ino: None, access: None, body: Body::Link(Box::new(l)) }
    }

    /// A symbolic link with a fixed text.
    pub fn symlink(target: impl Into<Vec<u8>>) -> Spec {
        Spec::link(FixedLink(target.into()))
    }

    /// With other permission bits.
    pub fn mode(mut self, mode: u32) -> Spec {
        self.mode = mode;
        self
    }

    /// With an inode number.
    pub fn ino(mut self, ino: u64) -> Spec {
        self.ino = Some(ino);
        self
    }

    /// With changing ownership.
    pub fn access(mut self, a: Arc<dyn Access>) -> Spec {
        self.access = Some(a);
        self
    }
}

struct FixedLink(Vec<u8>);

impl Link for FixedLink {
    fn readlink(&self, _: &Task) -> Result<Vec<u8>> {
        Ok(self.0.clone())
    }
}

struct Attr {
    perm: u32,
    uid: u32,
    gid: u32,
    atime: Timespec,
    mtime: Timespec,
    ctime: Timespec,
}

/// An inode.
pub struct Node {
    fs: Arc<SynthFs>,
    /// Keeps the directory's node as long as this one: both stay the same for whoever holds either.
    parent: Option<Arc<Node>>,
    me: Weak<Node>,
    ino: u64,
    attr: Mutex<Attr>,
    access: Option<Arc<dyn Access>>,
    body: Body,
    children: Mutex<HashMap<Box<[u8]>, Weak<Node>>>,
}

impl Node {
    /// The inode for `spec`, which got the number `ino` unless it has its own.
    pub fn new(fs: Arc<SynthFs>, parent: Option<Arc<Node>>, ino: u64, spec: Spec) -> Arc<Node> {
        let t = now();
        let attr = Attr { perm: spec.mode, uid: 0, gid: 0, atime: t, mtime: t, ctime: t };
        Arc::new_cyclic(|me| Node {
            fs,
            parent,
            me: me.clone(),
            ino: spec.ino.unwrap_or(ino),
            attr: Mutex::new(Rank::LEAF, attr),
            access: spec.access,
            body: spec.body,
            children: Mutex::new(Rank::LEAF, HashMap::new()),
        })
    }

    /// Inode number.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// The directory it is in.
    pub fn parent(&self) -> Option<Arc<Node>> {
        self.parent.clone()
    }

    /// What it does.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The control group whose directory it is.
    pub fn cgroup(&self) -> Option<&Arc<Cgroup>> {
        match &self.body {
            Body::Dir(d) => d.cgroup(),
            _ => None,
        }
    }

    fn this(&self) -> Arc<Node> {
        match self.me.upgrade() {
            Some(n) => n,
            None => unreachable!("called through a reference that keeps it alive"),
        }
    }

    fn directory(&self) -> Result<&dyn Directory> {
        match &self.body {
            Body::Dir(d) => Ok(&**d),
            _ => Err(ENOTDIR),
        }
    }

    fn alive(&self) -> bool {
        self.access.as_ref().is_none_or(|a| a.alive())
    }

    /// The child `name`, the same node while anybody holds it.
    pub fn child(&self, name: &[u8]) -> Result<Arc<Node>> {
        let dir = self.directory()?;
        let cached = self.children.lock().get(name).and_then(Weak::upgrade);
        if let Some(n) = cached
            && n.alive()
            && dir.keeps(name)
        {
            return Ok(n);
        }
        let spec = dir.lookup(name)?;
        let made = Node::new(self.fs.clone(), Some(self.this()), child_ino(self.ino, name), spec);
        let mut map = self.children.lock();
        if map.len() > 64 && map.len().is_power_of_two() {
            map.retain(|_, w| w.strong_count() != 0);
        }
        map.insert(name.into(), Arc::downgrade(&made));
        Ok(made)
    }

    /// The child `name` if somebody holds its node.
    pub fn held(&self, name: &[u8]) -> Option<Arc<Node>> {
        self.children.lock().get(name).and_then(Weak::upgrade)
    }

    /// Forgets the child `name`, which was removed.
    pub fn forget(&self, name: &[u8]) {
        self.children.lock().remove(name);
    }

    fn owner(&self) -> (u32, u32) {
        match &self.access {
            Some(a) => a.owner(),
            None => {
                let a = self.attr.lock();
                (a.uid, a.gid)
            }
        }
    }
}

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata> {
        let (uid, gid) = self.owner();
        let nlink = match &self.body {
            Body::Dir(d) => d.links(),
            _ => 1,
        };
        let size = match &self.body {
            Body::File(f) => f.size(),
            Body::Link(l) => l.size(),
            Body::Dir(_) => 0,
        };
        let perm = self.access.as_ref().and_then(|a| a.mode());
        let a = self.attr.lock();
        Ok(Metadata {
            ino: self.ino,
            mode: self.file_type() | perm.unwrap_or(a.perm),
            nlink,
            uid,
            gid,
            size,
            blksize: 4096,
            atime: a.atime,
            mtime: a.mtime,
            ctime: a.ctime,
            ..Metadata::default()
        })
    }

    fn perm(&self) -> Result<Perm> {
        let (uid, gid) = self.owner();
        let perm = self.access.as_ref().and_then(|a| a.mode());
        let mode = self.file_type() | perm.unwrap_or_else(|| self.attr.lock().perm);
        Ok(Perm { mode, uid, gid })
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        // O_TRUNC and truncate(2) mean nothing here and are accepted (shell redirections).
        let changes_owner = attr.mode.is_some() || attr.uid.is_some() || attr.gid.is_some();
        if let Some(a) = self.access.as_ref().filter(|_| changes_owner) {
            a.change(attr)?;
        }
        let mut a = self.attr.lock();
        if let Some(m) = attr.mode {
            a.perm = m & 0o7777;
        }
        a.uid = attr.uid.unwrap_or(a.uid);
        a.gid = attr.gid.unwrap_or(a.gid);
        a.atime = attr.atime.unwrap_or(a.atime);
        a.mtime = attr.mtime.unwrap_or(a.mtime);
        a.ctime = attr.ctime.unwrap_or(a.ctime);
        Ok(())
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        self.fs.clone()
    }

    fn file_type(&self) -> u32 {
        self.body.file_type()
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        matches!(self.body, Body::Dir(_)).then_some(self)
    }

    fn symlink(&self) -> Option<&dyn SymlinkOps> {
        matches!(self.body, Body::Link(_)).then_some(self)
    }

    fn open(&self, flags: u32) -> Result<Box<dyn FileOps>> {
        match &self.body {
            Body::Dir(_) => Ok(Box::new(DirFile::new(self.this()))),
            Body::File(f) => f.open(flags),
            Body::Link(_) => Err(ELOOP),
        }
    }

    fn permission(&self, cred: &Cred, mask: u32) -> Option<Result<()>> {
        let a = self.access.as_ref()?;
        match self.perm() {
            Ok(p) => a.permission(cred, mask, &p),
            Err(e) => Some(Err(e)),
        }
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
        Ok(self.child(name)?)
    }

    fn creates(&self) -> bool {
        self.fs.fs_type() != "proc"
    }

    fn create(&self, name: &[u8], node: &NewNode) -> Result<Arc<dyn Inode>> {
        if !matches!(node.kind, NodeKind::Directory) {
            return Err(EPERM);
        }
        self.directory()?.mkdir(name, node)?;
        Ok(self.child(name)?)
    }

    fn rmdir(&self, name: &[u8], _inode: &Arc<dyn Inode>) -> Result<()> {
        self.directory()?.rmdir(name)?;
        self.forget(name);
        Ok(())
    }

    fn readdir(&self, _off: &mut u64, _out: &mut dyn DirEmit) -> Result<()> {
        // Listing needs the reader and a snapshot per open file; the VFS goes through `open`.
        Err(EISDIR)
    }
}

impl SymlinkOps for Node {
    fn readlink(&self, task: &Task) -> Result<Vec<u8>> {
        match &self.body {
            Body::Link(l) => l.readlink(task),
            _ => Err(EINVAL),
        }
    }

    fn follow(&self, task: &Task) -> Option<Result<Path>> {
        match &self.body {
            Body::Link(l) => l.follow(task),
            _ => None,
        }
    }
}
