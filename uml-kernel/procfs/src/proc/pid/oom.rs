//! `/proc/<pid>/{oom_score,oom_score_adj,oom_adj}`: who is killed when memory runs out.

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::{Cap, Task};

use super::Target;
use crate::synth::{Text, parse_i64, words};

/// Range of oom_score_adj.
const MAX: i64 = 1000;
/// Range of the older oom_adj, whose -17 means "never".
const OLD_MAX: i64 = 15;
const OLD_NEVER: i64 = -17;

pub fn show_score_adj(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "{}", t.task()?.process.oom_score_adj.load(Ordering::Relaxed));
    Ok(())
}

pub fn show_adj(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    let adj = i64::from(t.task()?.process.oom_score_adj.load(Ordering::Relaxed));
    let old = if adj == MAX { OLD_MAX } else { adj * -OLD_NEVER / MAX };
    writeln!(out, "{old}");
    Ok(())
}

/// Sets the adjustment; lowering it below what it was needs CAP_SYS_RESOURCE (`EACCES`).
fn set(t: &Target, writer: &Task, adj: i64) -> Result<()> {
    let task = t.task()?;
    let cell = &task.process.oom_score_adj;
    if adj < i64::from(cell.load(Ordering::Relaxed)) && !writer.cred().capable(Cap::SysResource) {
        return Err(EACCES);
    }
    cell.store(adj as i32, Ordering::Relaxed);
    Ok(())
}

fn number(data: &[u8]) -> Result<i64> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    parse_i64(word)
}

pub fn store_score_adj(t: &Target, writer: &Task, data: &[u8]) -> Result<()> {
    let v = number(data)?;
    if !(-MAX..=MAX).contains(&v) {
        return Err(EINVAL);
    }
    set(t, writer, v)
}

pub fn store_adj(t: &Target, writer: &Task, data: &[u8]) -> Result<()> {
    let v = number(data)?;
    if !(-16..=OLD_MAX).contains(&v) && v != OLD_NEVER {
        return Err(EINVAL);
    }
    set(t, writer, if v == OLD_MAX { MAX } else { v * MAX / -OLD_NEVER })
}

/// Share of memory in use, in thousandths, with the adjustment; shown as Linux scales it: 0 to 2000.
pub fn show_score(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    let task = t.task()?;
    let adj = i64::from(task.process.oom_score_adj.load(Ordering::Relaxed));
    let resident = match task.mm() {
        Ok(mm) => uml_host::procinfo::statm(mm.space().host_pid()).map_or(0, |s| s.resident * 4096),
        Err(_) => 0,
    };
    let total = t.kernel()?.mem_bytes.max(1);
    let points = i64::try_from(resident.saturating_mul(1000) / total).unwrap_or(MAX).min(MAX);
    let score = if adj == -MAX { 0 } else { ((points + adj + MAX) * 2 / 3).max(0) };
    writeln!(out, "{score}");
    Ok(())
}
