//! `/proc/sysvipc/{msg,sem,shm}` (proc_sysvipc(5)); the rows come from the IPC subsystem.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::{Row, Text};

/// A System V IPC facility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysvIpc {
    Msg,
    Sem,
    Shm,
}

pub static ROWS: &[Row<Subject>] = &[
    Row::text("msg", 0o444, |s, t, o| show(s, t, o, SysvIpc::Msg)),
    Row::text("sem", 0o444, |s, t, o| show(s, t, o, SysvIpc::Sem)),
    Row::text("shm", 0o444, |s, t, o| show(s, t, o, SysvIpc::Shm)),
];

fn show(s: &Subject, task: &Task, out: &mut Text, which: SysvIpc) -> Result<()> {
    let head = match which {
        SysvIpc::Msg => {
            "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime"
        }
        SysvIpc::Sem => {
            "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime"
        }
        SysvIpc::Shm => {
            "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap"
        }
    };
    writeln!(out, "{head}");
    s.sources.sysv(which, task, out);
    Ok(())
}
