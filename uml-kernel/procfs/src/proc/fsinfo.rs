//! `/proc/fs`: what mounted filesystems say of themselves, by type and device (ext4(5), "FILES").

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_core::vfs::{Dev, SuperBlock};

use super::fs::{Mnt, Subject};
use crate::synth::{Directory, Entry, Spec, TextFn};

/// Types with such a directory, whether or not any is mounted.
const TYPES: [&str; 1] = ["ext4"];

pub fn root(s: &Subject) -> Spec {
    Spec::dir(Types(s.clone()))
}

struct Types(Arc<Mnt>);

impl Types {
    fn has(&self, kind: &str) -> bool {
        let kernel = self.0.kernel.upgrade();
        kernel.is_some_and(|k| k.vfs.registry.fs(kind.as_bytes()).is_ok())
    }
}

impl Directory for Types {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        let kind = TYPES.into_iter().find(|t| t.as_bytes() == name).ok_or(ENOENT)?;
        if self.has(kind) { Ok(Spec::dir(Devices(self.0.clone(), kind))) } else { Err(ENOENT) }
    }

    fn list(&self, _: &Task) -> Result<Vec<Entry>> {
        let there = TYPES.into_iter().filter(|t| self.has(t));
        Ok(there.map(|t| Entry::new(t, libc::S_IFDIR)).collect())
    }

    fn links(&self) -> u32 {
        2 + TYPES.into_iter().filter(|t| self.has(t)).count() as u32
    }
}

/// Some of the mounted filesystems, with the names of their devices.
pub(crate) fn on_devices(
    kernel: &Kernel,
    which: impl Fn(&dyn SuperBlock) -> bool,
) -> Vec<(String, Arc<dyn SuperBlock>)> {
    let mut supers = kernel.vfs.superblocks();
    supers.retain(|s| which(&**s));
    if supers.is_empty() {
        return Vec::new();
    }
    let devices = kernel.vfs.registry.block_devices();
    let name = |dev: Dev| devices.iter().find(|d| d.dev() == dev).map(|d| d.name());
    supers.into_iter().filter_map(|s| Some((name(s.dev())?, s))).collect()
}

/// The mounted filesystems of one type by the names of their devices.
struct Devices(Arc<Mnt>, &'static str);

impl Devices {
    fn mounted(&self) -> Vec<(String, Arc<dyn SuperBlock>)> {
        let Some(kernel) = self.0.kernel.upgrade() else { return Vec::new() };
        on_devices(&kernel, |s| s.proc_files().is_some_and(|(t, _)| t == self.1))
    }
}

impl Directory for Devices {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        let mut mounted = self.mounted().into_iter();
        let (_, sb) = mounted.find(|(n, _)| n.as_bytes() == name).ok_or(ENOENT)?;
        Ok(Spec::dir(Files(Arc::downgrade(&sb))))
    }

    fn list(&self, _: &Task) -> Result<Vec<Entry>> {
        let mounted = self.mounted().into_iter();
        Ok(mounted.map(|(n, _)| Entry::new(n, libc::S_IFDIR)).collect())
    }

    fn keeps(&self, _: &[u8]) -> bool {
        // Another filesystem may be on the device by now.
        false
    }

    fn links(&self) -> u32 {
        2 + self.mounted().len() as u32
    }
}

/// The files of one filesystem, which this does not keep from being unmounted.
struct Files(std::sync::Weak<dyn SuperBlock>);

impl Files {
    fn names(&self) -> &'static [&'static str] {
        self.0.upgrade().and_then(|s| s.proc_files()).map_or(&[], |(_, names)| names)
    }
}

impl Directory for Files {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        let name = self.names().iter().find(|n| n.as_bytes() == name).ok_or(ENOENT)?;
        let sb = self.0.clone();
        let text = TextFn::new(move |_, out| {
            let text = sb.upgrade().ok_or(ENOENT)?.proc_text(name)?;
            out.raw(text.as_bytes());
            Ok(())
        });
        Ok(Spec::file(0o444, text))
    }

    fn list(&self, _: &Task) -> Result<Vec<Entry>> {
        Ok(self.names().iter().map(|n| Entry::new(*n, libc::S_IFREG)).collect())
    }
}
