//! `/proc/self` and `/proc/thread-self`.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::ENOENT;
use uml_core::ns::PidNs;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::{Link, Spec};

struct Own {
    thread: bool,
    pid_ns: Arc<PidNs>,
}

impl Link for Own {
    fn readlink(&self, task: &Task) -> Result<Vec<u8>> {
        // Who is not in the mount's pid namespace has no directory there.
        let pid = self.pid_ns.show(task.process.pid);
        if pid == 0 {
            return Err(ENOENT);
        }
        let tid = self.pid_ns.show(task.tid);
        let text = if self.thread { format!("{pid}/task/{tid}") } else { pid.to_string() };
        Ok(text.into_bytes())
    }
}

pub fn process(s: &Subject) -> Spec {
    Spec::link(Own { thread: false, pid_ns: s.pid_ns.clone() })
}

pub fn thread(s: &Subject) -> Spec {
    Spec::link(Own { thread: true, pid_ns: s.pid_ns.clone() })
}
