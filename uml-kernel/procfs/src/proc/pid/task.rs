//! `/proc/<pid>/task`: the threads.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;

use super::super::fs::parse_pid;
use super::{PidDir, Target};
use crate::synth::{Directory, Entry, Spec};

struct Tasks(Target);

pub fn dir(t: &Target) -> Spec {
    Spec::dir(Tasks(t.clone()))
}

impl Directory for Tasks {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        let shown = parse_pid(name).ok_or(ENOENT)?;
        let tid = self.0.mnt.pid_ns.kernel_pid(shown).ok_or(ENOENT)?;
        PidDir::spec(self.0.thread(tid).ok_or(ENOENT)?).map_err(|_| ENOENT)
    }

    fn list(&self, _: &Task) -> Result<Vec<Entry>> {
        let tasks = self.0.members().map_err(|_| ENOENT)?;
        let entry = |t: &std::sync::Arc<Task>| Entry {
            name: self.0.mnt.pid_ns.show(t.tid).to_string().into_bytes(),
            kind: libc::S_IFDIR,
            ino: Some(Target::ino(t) ^ 1),
        };
        Ok(tasks.iter().map(entry).collect())
    }

    fn links(&self) -> u32 {
        2 + self.0.members().map_or(0, |t| t.len() as u32)
    }
}
