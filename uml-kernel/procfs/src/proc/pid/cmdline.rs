//! `/proc/<pid>/cmdline`: the arguments, each ended by NUL (proc_pid_cmdline(5)).

use uml_abi::Result;
use uml_core::task::Task;

use super::{Target, memory};
use crate::synth::Text;

pub fn show(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    let Ok(mm) = t.task()?.mm() else { return Ok(()) };
    let l = mm.map().layout;
    let args = memory::range(&mm, l.arg_start, l.arg_end);
    let overwritten = args.last().is_some_and(|b| *b != 0);
    if !overwritten || l.env_start != l.arg_end {
        out.raw(&args);
        return Ok(());
    }
    // The program wrote a title over its arguments (setproctitle(3)), perhaps into the environment: one string.
    let mut title = args;
    if let Some(n) = title.iter().position(|b| *b == 0) {
        title.truncate(n + 1);
    } else {
        let rest = memory::range(&mm, l.env_start, l.env_end);
        let n = rest.iter().position(|b| *b == 0).map_or(rest.len(), |n| n + 1);
        title.extend_from_slice(&rest[..n]);
    }
    out.raw(&title);
    Ok(())
}
