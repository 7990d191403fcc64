//! Formats and host-side conventions that the kernel shares with its tools.
//!
//! * [`cow`] – copy-on-write disk images, all historic versions, as header
//!   codec, image engine ([`cow::Image`]) and merge planner.
//! * [`door`] – running programs in the guest from outside.
//! * [`mconsole`] – the management console's datagrams and command table.
//! * [`pcap`] – capture files.
//! * [`switch`] – the control protocol of `uml_switch`.
//! * [`umid`] – the per-instance directory: names, claiming, removal, lookup.
//! * [`store`] – positioned file access used by `cow`; [`host_lock`] – the
//!   advisory locks that keep two programs off one image; [`unix_path`] –
//!   socket addresses longer than `sun_path`.
//!
//! Key types: [`cow::Header`], [`cow::Image`], [`mconsole::Request`],
//! [`mconsole::Reply`], [`umid::Umid`], [`umid::Claim`].
//!
//! Neighbours: the operating system below (through `std` and `nix`, no
//! `unsafe`); the drivers crate and the programs `uml_moo`, `uml_mkcow`,
//! `uml_mconsole` and `umld` above. Command lines, progress bars, tasks and
//! the guest's file system do not belong here.
//!
//! Lock order: inside [`cow::Image`] the `persist` lock (held across bitmap
//! writes) comes before the bitmap's own lock. In [`umid`] the file lock on
//! `uml_dir` comes before the list of held directories.
#![forbid(unsafe_code)]

pub mod cow;
pub mod door;
pub mod host_lock;
pub mod mconsole;
pub mod pcap;
pub mod store;
pub mod switch;
pub mod umid;
pub mod unix_path;

/// The C library's text for an I/O error (`No such file or directory`),
/// without the `(os error N)` that Rust appends; scripts match this text.
pub fn strerror(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_owned(),
        None => error.to_string(),
    }
}
