//! `/proc/<pid>/clear_refs`: resets referenced and soft-dirty bits, which are the host's.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;

use super::Target;
use crate::synth::words;

/// 1 all pages, 2 anonymous, 3 file-mapped, 4 soft-dirty bits, 5 peak resident size (proc_pid_clear_refs(5)).
pub fn store(t: &Target, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    let what: u8 = word.parse().map_err(|_| EINVAL)?;
    if !(1..=5).contains(&what) {
        return Err(EINVAL);
    }
    match t.task()?.mm() {
        Ok(mm) => uml_host::procinfo::clear_refs(mm.space().host_pid(), what),
        Err(_) => Ok(()),
    }
}
