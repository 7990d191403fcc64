//! Disk images: ext4 without partitions, made without root.
//!
//! * [`build`] – from a Debian suite, a directory, a tar archive or an OCI layout. [`source`] reads those, [`writer`] writes
//!   what they have into the filesystem by our ext4 library, [`configure`] makes it bootable.
//! * [`manage`] – list, info, resize, check, rm.

pub mod build;
pub mod configure;
pub mod manage;
pub mod source;
pub mod writer;

use std::path::{Path, PathBuf};

use crate::cli::ImageCommand;
use crate::failure::Result;
use crate::state::Store;

/// Runs a command.
pub fn run(c: &ImageCommand) -> Result<u8> {
    match c {
        ImageCommand::Build(a) => build::run(a),
        ImageCommand::List(a) => manage::list(a),
        ImageCommand::Info(a) => manage::info(&a.name, a.json),
        ImageCommand::Resize(a) => manage::resize(&a.name, &a.size),
        ImageCommand::Check(a) => manage::check(&a.name),
        ImageCommand::Rm(a) => manage::rm(&a.names),
    }
}

/// The file of an image: a path when it has a slash, else a name below `~/.uml/.umld/.images`.
pub fn path(store: &Store, name: &str) -> PathBuf {
    if name.contains('/') {
        Path::new(name).to_owned()
    } else {
        store.images().join(format!("{name}.img"))
    }
}
