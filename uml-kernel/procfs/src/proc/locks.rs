//! `/proc/locks`: advisory file locks (proc_locks(5)).

use uml_abi::Result;
use uml_core::file::leases;
use uml_core::file::locks::{self, LockOwner};
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    let shown = |pid: i32| if pid > 0 { s.pid_ns.show(pid) } else { pid };
    let mut n = 0;
    for locks::FileLocks { inode, records, flocks } in locks::table().list() {
        let Ok(meta) = inode.metadata() else { continue };
        let dev = inode.dev().unwrap_or_else(|| inode.superblock().dev());
        let file = format!("{:02x}:{:02x}:{}", dev.major, dev.minor, meta.ino);
        let mut line = |class: &str, write: bool, pid: i32, range: String| {
            n += 1;
            let access = if write { "WRITE" } else { "READ" };
            writeln!(out, "{n}: {class:<6} ADVISORY  {access:<5} {pid} {file} {range}");
        };
        for r in records {
            let class = match r.owner {
                LockOwner::Process { .. } => "POSIX",
                LockOwner::File(_) => "OFDLCK",
            };
            let end = if r.end == u64::MAX { "EOF".to_string() } else { r.end.to_string() };
            line(class, r.write, shown(r.owner.pid()), format!("{} {end}", r.start));
        }
        for (exclusive, pid) in flocks {
            line("FLOCK", exclusive, pid, "0 EOF".to_string());
        }
    }
    for l in leases::table().list() {
        let Ok(meta) = l.file.path.metadata() else { continue };
        let dev = l.file.path.dev();
        let file = format!("{:02x}:{:02x}:{}", dev.major, dev.minor, meta.ino);
        let state = if l.breaking { "BREAKING" } else { "ACTIVE" };
        let access = if l.kind == leases::Kind::Write { "WRITE" } else { "READ" };
        n += 1;
        writeln!(out, "{n}: LEASE  {state:<9} {access:<5} {} {file} 0 EOF", l.pid);
    }
    Ok(())
}
