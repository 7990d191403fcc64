//! Synthetic filesystems: proc, sysfs and cgroup2.
//!
//! Key types: [`ProcFs`], [`SysFs`] and [`Cgroup2Fs`], the filesystem types that mount(2) finds; [`synth`], the toolkit
//! their inodes are made of. `proc/NAME.rs` is `/proc/NAME`, `proc/pid/NAME.rs` is `/proc/<pid>/NAME`.
//!
//! Neighbours: `uml-core` below, whose state is shown and changed here, and `uml-host` for what only the host knows
//! (resident memory, CPU time). Nothing is kept here that another subsystem decides by: such values are
//! in core (`Kernel::sysctl`, `Kernel::devices`).
//!
//! Lock order: the locks of this crate are leaves, but for the cgroup hierarchy, which is taken before the
//! process tree.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod proc;
pub mod synth;
pub mod sysfs;

use std::sync::Arc;

use uml_core::kernel::Kernel;

pub use cgroup::Cgroup2Fs;
pub use proc::{ProcFs, SysvIpc};
pub use sysfs::SysFs;

/// Enters the filesystem types of this crate. What is returned takes contributions of other subsystems
/// ([`proc::sources::Sources`]).
pub fn register(kernel: &Arc<Kernel>) -> Arc<ProcFs> {
    let proc = Arc::new(ProcFs::default());
    kernel.vfs.registry.add_fs(proc.clone());
    kernel.vfs.registry.add_fs(Arc::new(SysFs::default()));
    kernel.vfs.registry.add_fs(Arc::new(Cgroup2Fs::default()));
    let _ = kernel.hooks.cgroup_of_dir.set(cgroup::to_join);
    let _ = kernel.hooks.proc_dir_of.set(proc::process_of);
    sysfs::NodeBridge::install(kernel, proc.sources.clone());
    proc
}
