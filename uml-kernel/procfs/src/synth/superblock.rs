//! The superblock of a synthetic filesystem.

use std::any::Any;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_base::{Mutex, Rank};
use uml_core::kernel::Kernel;
use uml_core::vfs::{Dev, Inode, StatFs, SuperBlock};

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

    fn remount(&self, _read_only: bool, data: &[u8]) -> Result<()> {
        match &self.remount {
            Some(f) => f(data),
            None => Ok(()),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
