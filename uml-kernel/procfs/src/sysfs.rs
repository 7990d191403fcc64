//! sysfs (sysfs(5)): the devices of [`uml_core::device::DeviceTree`] and facts of the machine.
//!
//! One instance serves all mounts. Directories are computed from the device tree when they are looked at; a device is
//! `devices/PATH`, everything else links there.

mod block;
mod bridge;
mod cpu;
mod devices;
mod filesystems;
mod kernel;
mod links;
mod node;
mod root;

use std::sync::{Arc, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_core::vfs::{FsType, SuperBlock};

use crate::synth::{Directory, Entry, Spec, SynthFs};

pub use bridge::NodeBridge;

/// SYSFS_MAGIC.
const MAGIC: u64 = 0x6265_6572;
/// `st_size` of attributes.
const PAGE: u64 = 4096;

/// What directories are computed from.
pub struct Sys {
    kernel: Weak<Kernel>,
}

/// As the parts of the tree hold it.
pub type Subject = Arc<Sys>;

impl Sys {
    /// The machine; `ENODEV` when it is gone.
    fn kernel(&self) -> Result<Arc<Kernel>> {
        self.kernel.upgrade().ok_or(ENODEV)
    }
}

/// The type `sysfs`.
#[derive(Default)]
pub struct SysFs {
    instance: OnceLock<Arc<SynthFs>>,
}

impl SysFs {
    /// The instance of `kernel`.
    pub fn instance(&self, kernel: &Arc<Kernel>) -> Arc<SynthFs> {
        let make = || {
            let sys = Arc::new(Sys { kernel: Arc::downgrade(kernel) });
            SynthFs::new(kernel, "sysfs", MAGIC, move || root::spec(&sys))
        };
        self.instance.get_or_init(make).clone()
    }
}

impl FsType for SysFs {
    fn name(&self) -> &'static str {
        "sysfs"
    }

    fn user_mountable(&self) -> bool {
        true
    }

    fn mount(&self, task: &Task, _: &[u8], _: u64, _: &[u8]) -> Result<Arc<dyn SuperBlock>> {
        Ok(self.instance(&task.kernel()))
    }
}

/// One entry of a computed directory: name and what is made of it.
pub(crate) enum Item {
    Dir(String, Box<dyn Fn() -> Spec + Send + Sync>),
    File(String, Spec),
    Link(String, String),
}

impl Item {
    /// A directory.
    fn dir(name: impl Into<String>, make: impl Fn() -> Spec + Send + Sync + 'static) -> Item {
        Item::Dir(name.into(), Box::new(make))
    }

    /// A read-only file whose text is made by `show`.
    fn text(
        name: impl Into<String>,
        show: impl Fn() -> Result<String> + Send + Sync + 'static,
    ) -> Item {
        let file = crate::synth::TextFn::new(move |_, out| {
            out.raw(show()?.as_bytes());
            out.raw(b"\n");
            Ok(())
        });
        Item::File(name.into(), Spec::file(0o444, file.sized(PAGE)))
    }

    fn name(&self) -> &str {
        match self {
            Item::Dir(n, _) | Item::File(n, _) | Item::Link(n, _) => n,
        }
    }

    fn kind(&self) -> u32 {
        match self {
            Item::Dir(..) => libc::S_IFDIR,
            Item::File(..) => libc::S_IFREG,
            Item::Link(..) => libc::S_IFLNK,
        }
    }
}

/// A directory whose entries a function computes.
pub(crate) struct Computed {
    items: Box<dyn Fn() -> Result<Vec<Item>> + Send + Sync>,
}

impl Computed {
    fn new(items: impl Fn() -> Result<Vec<Item>> + Send + Sync + 'static) -> Computed {
        Computed { items: Box::new(items) }
    }

    fn spec(items: impl Fn() -> Result<Vec<Item>> + Send + Sync + 'static) -> Spec {
        Spec::dir(Computed::new(items)).mode(0o755)
    }
}

impl Directory for Computed {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        let items = (self.items)()?;
        let item = items.into_iter().find(|i| i.name().as_bytes() == name).ok_or(ENOENT)?;
        Ok(match item {
            Item::Dir(_, make) => make(),
            Item::File(_, spec) => spec,
            Item::Link(_, target) => Spec::symlink(target),
        })
    }

    fn list(&self, _: &Task) -> Result<Vec<Entry>> {
        Ok((self.items)()?.iter().map(|i| Entry::new(i.name(), i.kind())).collect())
    }

    fn keeps(&self, name: &[u8]) -> bool {
        (self.items)().is_ok_and(|v| v.iter().any(|i| i.name().as_bytes() == name))
    }

    fn links(&self) -> u32 {
        let dirs = |v: Vec<Item>| v.iter().filter(|i| matches!(i, Item::Dir(..))).count();
        2 + (self.items)().map_or(0, dirs) as u32
    }
}

/// An empty directory: a place to mount on, or one that tools expect.
pub(crate) fn empty() -> Spec {
    Computed::spec(|| Ok(Vec::new()))
}
