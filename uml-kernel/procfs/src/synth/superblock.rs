//! The superblock of a synthetic filesystem.

use std::any::Any;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::DirEmit;
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_core::vfs::handle::{Export, Handle, list};
use uml_core::vfs::{Dev, Inode, StatFs, SuperBlock, dirent_kind};

use super::{Node, Spec};

/// Takes the option text of a remount; returns what mount tables show.
type Remount = Box<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;
type ShowOptions = Box<dyn Fn() -> String + Send + Sync>;

/// A mounted synthetic filesystem. Its nodes hold it; it holds its root only weakly.
pub struct SynthFs {
    name: &'static str,
    magic: u64,
    dev: Dev,
    make_root: Box<dyn Fn() -> Spec + Send + Sync>,
    root: Mutex<Weak<Node>>,
    me: Weak<SynthFs>,
    remount: Option<Remount>,
    show: Option<ShowOptions>,
}

impl SynthFs {
    /// An instance whose root directory is `make_root()`.
    pub fn new(
        kernel: &Kernel,
        name: &'static str,
        magic: u64,
        make_root: impl Fn() -> Spec + Send + Sync + 'static,
    ) -> Arc<SynthFs> {
        SynthFs::with_options(kernel, name, magic, make_root, None, None)
    }

    /// As [`SynthFs::new`], with mount options.
    pub fn with_options(
        kernel: &Kernel,
        name: &'static str,
        magic: u64,
        make_root: impl Fn() -> Spec + Send + Sync + 'static,
        remount: Option<Remount>,
        show: Option<ShowOptions>,
    ) -> Arc<SynthFs> {
        let dev = kernel.vfs.anonymous_dev();
        Arc::new_cyclic(|me| SynthFs {
            name,
            magic,
            dev,
            make_root: Box::new(make_root),
            root: Mutex::new(Rank::LEAF, Weak::new()),
            me: me.clone(),
            remount,
            show,
        })
    }

    /// The root node if somebody holds it.
    pub fn held_root(&self) -> Option<Arc<Node>> {
        self.root.lock().upgrade()
    }

    /// The root node.
    pub fn root_node(&self) -> Arc<Node> {
        if let Some(r) = self.root.lock().upgrade() {
            return r;
        }
        let me = match self.me.upgrade() {
            Some(me) => me,
            None => unreachable!("called through a reference that keeps it alive"),
        };
        let made = Node::new(me, None, 1, (self.make_root)());
        let mut root = self.root.lock();
        match root.upgrade() {
            Some(r) => r,
            None => {
                *root = Arc::downgrade(&made);
                made
            }
        }
    }
}

/// Inode number of the child `name` of a directory: derived, so that listing a directory need not make
/// its inodes. 48 bits keep the chance of two equal ones negligible.
pub fn child_ino(parent: u64, name: &[u8]) -> u64 {
    let mut h = DefaultHasher::new();
    (parent, name).hash(&mut h);
    (h.finish() & 0xffff_ffff_ffff).max(2)
}

impl SuperBlock for SynthFs {
    fn fs_type(&self) -> &'static str {
        self.name
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root_node()
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: self.magic, block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    fn dev(&self) -> Dev {
        self.dev
    }

    fn show_options(&self) -> String {
        self.show.as_ref().map_or_else(String::new, |f| f())
    }

    fn shown_to(&self, task: &Task) -> Option<Vec<Vec<u8>>> {
        let root = self.root_node();
        root.cgroup()?;
        let path = task.ns().cgroup.root.path();
        let names = path.split(|b| *b == b'/').filter(|n| !n.is_empty());
        Some(names.map(<[u8]>::to_vec).collect())
    }

    fn root_name(&self, reader: &Task, root: &dyn Inode) -> Option<Vec<u8>> {
        let group = root.as_any().downcast_ref::<Node>()?.cgroup()?;
        Some(group.path_from(&reader.ns().cgroup.root))
    }

    fn remount(&self, _read_only: bool, data: &[u8]) -> Result<()> {
        match &self.remount {
            Some(f) => f(data),
            None => Ok(()),
        }
    }

    fn export(&self) -> Option<&dyn Export> {
        // Programs ask for the numbers of control groups that way; sysfs and proc are not asked.
        (self.name == "cgroup2").then_some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// FILEID_KERNFS: a 64-bit inode number.
const BY_NUMBER: i32 = 0xfe;

/// The entries of a directory that matter when a number is looked for.
struct Listing {
    ino: u64,
    found: Option<Vec<u8>>,
    directories: Vec<Vec<u8>>,
}

impl DirEmit for Listing {
    fn emit(&mut self, name: &[u8], ino: u64, kind: u8, _: u64) -> bool {
        if ino == self.ino {
            self.found = Some(name.to_vec());
        } else if kind == dirent_kind(libc::S_IFDIR) {
            self.directories.push(name.to_vec());
        }
        self.found.is_none()
    }
}

impl Export for SynthFs {
    fn encode(&self, inode: &Arc<dyn Inode>) -> Result<Handle> {
        let node = inode.as_any().downcast_ref::<Node>().ok_or(EOPNOTSUPP)?;
        Ok(Handle { kind: BY_NUMBER, bytes: node.ino().to_ne_bytes().to_vec() })
    }

    fn decode(&self, task: &Task, handle: &Handle) -> Result<Arc<dyn Inode>> {
        let number: [u8; 8] = handle.bytes[..].try_into().map_err(|_| ESTALE)?;
        if handle.kind != BY_NUMBER {
            return Err(ESTALE);
        }
        let ino = u64::from_ne_bytes(number);
        let root: Arc<dyn Inode> = self.root_node();
        if root.metadata()?.ino == ino {
            return Ok(root);
        }
        let mut todo = vec![root];
        while let Some(dir) = todo.pop() {
            let Some(ops) = dir.dir() else { continue };
            let mut l = Listing { ino, found: None, directories: Vec::new() };
            list(task, &dir, &mut l)?;
            if let Some(name) = l.found {
                return ops.lookup(&name).map_err(|_| ESTALE);
            }
            // What was removed since is not looked at.
            todo.extend(l.directories.iter().filter_map(|n| ops.lookup(n).ok()));
        }
        Err(ESTALE)
    }

    fn parent(&self, dir: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>> {
        let node = dir.as_any().downcast_ref::<Node>().ok_or(ESTALE)?;
        Ok(node.parent().ok_or(ESTALE)?)
    }
}
