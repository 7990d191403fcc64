//! The parts of `umld`.
//!
//! * [`cli`] – the command line; [`cmd`] – one module per verb; [`run`] – a machine in the foreground.
//! * [`spec`] – vm.toml, typed and checked, and the kernel's command line it stands for.
//! * [`state`] – what is kept of instances; [`instance`] – instances as commands see them; [`wire`] – messages.
//! * [`holder`] – the process that keeps one instance; [`stop`] – how a kernel is stopped.
//! * [`daemon`] – the daemon for many; [`fleet`] – fleet.toml; [`image`] – disk images.
//! * [`guest_init`] – process 1 of a machine on the host's userland: the only part that runs inside a guest.
//! * [`disk_fs`], [`guest_files`] – files on the disks of stopped instances; [`resources`] – limits; [`mconsole`],
//!   [`process`], [`notify`] – talking to kernels, processes and service managers.
//!
//! Data flows one way: command line, specs, kernel. Neighbours below: `uml-kernel` (the kernel it contains), `uml-formats`,
//! `uml-ext4`, `uml_mconsole`, `uml_moo`. What happens inside the guest is the kernel's. No locks; files are replaced
//! whole, and an instance's `lock` file decides who may change it.

#![forbid(unsafe_code)]

pub mod cli;
pub mod cmd;
pub mod daemon;
pub mod disk_fs;
pub mod failure;
pub mod fleet;
pub mod guest_files;
pub mod guest_init;
pub mod guest_net;
pub mod holder;
pub mod image;
pub mod instance;
pub mod journal;
pub mod mconsole;
pub mod notify;
pub mod process;
pub mod resources;
pub mod run;
pub mod spec;
pub mod state;
pub mod stop;
pub mod wire;
