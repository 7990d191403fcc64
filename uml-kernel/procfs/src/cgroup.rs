//! cgroup2 (cgroups(7), Documentation/admin-guide/cgroup-v2.rst): the files of [`uml_core::cgroup`].
//!
//! All mounts show one hierarchy, those made in a namespace its part of it (cgroup_namespaces(7)). Owners and modes that chown(2) and chmod(2) set (delegation) are kept by group, not by
//! inode.

mod attrs;
mod core_files;
mod cpu;
mod dir;
mod file;
mod io;
mod members;
mod memory;
mod pids;
mod pressure;

use std::sync::{Arc, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::cgroup::{Cgroup, CgroupListener};
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_core::vfs::{FsType, Inode, SuperBlock, watch};

use crate::synth::SynthFs;
use attrs::Attrs;
use dir::GroupDir;

pub use dir::to_join;
pub use file::DELEGATED;

/// CGROUP2_SUPER_MAGIC.
const MAGIC: u64 = 0x6367_7270;
/// Mount options; but for `nsdelegate` they name behaviour that is always there or concerns controllers that are not.
pub const OPTIONS: [&str; 6] = [
    "nsdelegate",
    "favordynmods",
    "memory_localevents",
    "memory_recursiveprot",
    "memory_hugetlb_accounting",
    "pids_localevents",
];

/// What files are made from: the machine, its hierarchy and the owners of files.
pub struct Control {
    kernel: Weak<Kernel>,
    attrs: Attrs,
    options: Arc<Mutex<Vec<&'static str>>>,
}

impl Control {
    /// Namespaces are borders of delegation (mount option `nsdelegate`).
    fn delegates_namespaces(&self) -> bool {
        self.options.lock().contains(&"nsdelegate")
    }

    /// The machine; `ENODEV` when it is gone.
    fn kernel(&self) -> Result<Arc<Kernel>> {
        self.kernel.upgrade().ok_or(ENODEV)
    }
}

/// A group as a subject of files.
#[derive(Clone)]
pub struct Subject {
    control: Arc<Control>,
    group: Arc<Cgroup>,
}

/// The type `cgroup2`.
pub struct Cgroup2Fs {
    instance: OnceLock<Arc<SynthFs>>,
    options: Arc<Mutex<Vec<&'static str>>>,
}

impl Default for Cgroup2Fs {
    fn default() -> Self {
        let options = Arc::new(Mutex::new(Rank::LEAF, Vec::new()));
        Cgroup2Fs { instance: OnceLock::new(), options }
    }
}

fn parse_options(data: &[u8]) -> Result<Vec<&'static str>> {
    let text = std::str::from_utf8(data).map_err(|_| EINVAL)?;
    let words = text.split(',').map(str::trim).filter(|w| !w.is_empty());
    words.map(|w| OPTIONS.iter().find(|o| **o == w).copied().ok_or(EINVAL)).collect()
}

impl Cgroup2Fs {
    /// The instance of `kernel`.
    pub fn instance(&self, kernel: &Arc<Kernel>) -> Arc<SynthFs> {
        let make = || {
            let control = Arc::new(Control {
                kernel: Arc::downgrade(kernel),
                attrs: Attrs::default(),
                options: self.options.clone(),
            });
            let root = Subject { control, group: kernel.cgroups.root().clone() };
            let (shown, changed) = (self.options.clone(), self.options.clone());
            let fs = SynthFs::with_options(
                kernel,
                "cgroup2",
                MAGIC,
                move || GroupDir::spec(root.clone()),
                Some(Box::new(move |data| {
                    *changed.lock() = parse_options(data)?;
                    Ok(())
                })),
                Some(Box::new(move || shown.lock().iter().map(|o| format!(",{o}")).collect())),
            );
            kernel.cgroups.set_listener(Arc::new(Notify { fs: Arc::downgrade(&fs) }));
            fs
        };
        self.instance.get_or_init(make).clone()
    }
}

impl FsType for Cgroup2Fs {
    fn name(&self) -> &'static str {
        "cgroup2"
    }

    fn user_mountable(&self) -> bool {
        true
    }

    fn mount(&self, task: &Task, _: &[u8], _: u64, data: &[u8]) -> Result<Arc<dyn SuperBlock>> {
        let options = parse_options(data)?;
        let kernel = task.kernel();
        let fs = self.instance(&kernel);
        // They are the whole machine's: from within a namespace they are ignored.
        if Arc::ptr_eq(&task.ns().cgroup.root, kernel.cgroups.root()) {
            *self.options.lock() = options;
        }
        Ok(fs)
    }
}

/// Tells inotify(7) watchers of files that change by themselves.
struct Notify {
    fs: Weak<SynthFs>,
}

impl CgroupListener for Notify {
    fn changed(&self, group: &Arc<Cgroup>, file: &'static str) {
        let Some(mut at) = self.fs.upgrade().and_then(|fs| fs.held_root()) else { return };
        let path = group.path();
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            match at.held(name) {
                Some(n) => at = n,
                None => return,
            }
        }
        if let Some(file) = at.held(file.as_bytes()) {
            let inode: Arc<dyn Inode> = file;
            watch::table().inode(&inode, watch::IN_MODIFY);
        }
    }
}
