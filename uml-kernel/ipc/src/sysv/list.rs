//! Lines of /proc/sysvipc (proc_sysvipc(5)).

use uml_core::task::Task;

use super::{msg, sem, shm};

/// One line for each message queue.
pub fn messages(task: &Task) -> String {
    let line = |(id, q): (i32, std::sync::Arc<msg::MsgQueue>)| {
        let s = q.stat();
        let p = s.perm;
        format!(
            "{:10} {:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}\n",
            p.key,
            id,
            p.mode,
            s.cbytes,
            s.qnum,
            s.lspid,
            s.lrpid,
            p.uid,
            p.gid,
            p.cuid,
            p.cgid,
            s.stime,
            s.rtime,
            s.ctime
        )
    };
    msg::table(task).list().into_iter().map(line).collect()
}

/// One line for each semaphore set.
pub fn semaphores(task: &Task) -> String {
    let line = |(id, set): (i32, std::sync::Arc<sem::SemSet>)| {
        let s = set.stat();
        let p = s.perm;
        format!(
            "{:10} {:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}\n",
            p.key, id, p.mode, s.count, p.uid, p.gid, p.cuid, p.cgid, s.otime, s.ctime
        )
    };
    sem::table(task).list().into_iter().map(line).collect()
}

/// One line for each shared memory segment. Its whole size counts as resident, as nothing is ever swapped.
pub fn segments(task: &Task) -> String {
    let line = |(id, seg): (i32, std::sync::Arc<shm::Segment>)| {
        let s = seg.stat();
        let p = s.perm;
        format!(
            "{:10} {:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}\n",
            p.key,
            id,
            p.mode,
            s.size,
            s.cpid,
            s.lpid,
            s.nattch,
            p.uid,
            p.gid,
            p.cuid,
            p.cgid,
            s.atime,
            s.dtime,
            s.ctime,
            s.size,
            0
        )
    };
    shm::table(task).list().into_iter().map(line).collect()
}
