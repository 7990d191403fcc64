//! The kernel proper: tasks, signals, open files, the virtual filesystem, and the registries that
//! filesystems and drivers are entered in.
//!
//! Key types: [`kernel::Kernel`] (the machine), [`task::Task`] (a guest thread), [`file::File`] (an open
//! file), [`vfs`] (inodes, dentries, mounts), [`ctx::Ctx`] (a task during one of its events).
//!
//! Neighbours: `uml-mm` and `uml-platform` below; `uml-fs`, `uml-drivers`, `uml-syscalls` and the binary
//! above. A new subsystem goes into a crate above unless tasks themselves need it.
//!
//! Lock order: `uml_base::Rank`, outermost first. Never sleep with a ranked lock held.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod configure;
pub mod ctx;
pub mod device;
pub mod exec;
pub mod file;
pub mod gate;
pub mod io;
pub mod kernel;
pub mod landlock;
pub mod memory;
pub mod ns;
pub mod ptrace;
pub mod registry;
pub mod seccomp;
pub mod shm;
pub mod signal;
pub mod sysctl;
pub mod task;
pub mod time;
pub mod user;
pub mod version;
pub mod vfs;
