//! `/proc/<pid>/{cwd,exe,root}`: magic links.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;
use uml_core::vfs::Path;

use super::Target;
use crate::synth::{Link, Spec};

struct Magic {
    target: Target,
    get: fn(&Task) -> Result<Path>,
}

impl Magic {
    fn path(&self, reader: &Task) -> Result<Path> {
        (self.get)(&*self.target.inspect(reader)?)
    }
}

/// The text of a magic link as `reader` sees it.
pub fn text(path: &Path, reader: &Task) -> Vec<u8> {
    reader.kernel().vfs.path_name(path, &reader.fs().root()).display()
}

impl Link for Magic {
    fn readlink(&self, task: &Task) -> Result<Vec<u8>> {
        Ok(text(&self.path(task)?, task))
    }

    fn follow(&self, task: &Task) -> Option<Result<Path>> {
        Some(self.path(task))
    }
}

fn link(t: &Target, get: fn(&Task) -> Result<Path>) -> Spec {
    Spec::link(Magic { target: t.clone(), get })
}

/// A task that has exited has no directories.
pub(super) fn living(t: &Task) -> Result<()> {
    match t.run_state() {
        uml_core::task::RunState::Zombie | uml_core::task::RunState::Dead => Err(ENOENT),
        _ => Ok(()),
    }
}

pub fn cwd(t: &Target) -> Spec {
    link(t, |t| living(t).map(|()| t.fs().cwd()))
}

pub fn root(t: &Target) -> Spec {
    link(t, |t| living(t).map(|()| t.fs().root()))
}

pub fn exe(t: &Target) -> Spec {
    // Of a leader that has ended, nothing is known, though its process may live.
    link(t, |t| living(t).and_then(|()| t.process.exe.lock().clone().ok_or(ENOENT)))
}
