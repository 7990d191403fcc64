//! How much may be promised (proc_sys_vm(5), `overcommit_memory`).

use uml_abi::Result;
use uml_abi::errno::ENOMEM;

use crate::kernel::Kernel;
use crate::task::{Cap, Task};

/// `vm.overcommit_memory`: anything goes, or no more than [`limit`].
const ALWAYS: u64 = 1;
const NEVER: u64 = 2;

/// Bytes promised to programs: private writable memory, and shared memory that has no file (`Committed_AS`).
pub fn committed() -> u64 {
    uml_mm::commit::committed() + crate::shm::promised()
}

/// Most bytes that are promised in mode 2 (`CommitLimit`).
pub fn limit(kernel: &Kernel) -> u64 {
    let s = &kernel.sysctl;
    match s.vm_overcommit_kbytes.unsigned() {
        0 => kernel.mem_bytes / 100 * s.vm_overcommit_ratio.unsigned(),
        kb => kb << 10,
    }
}

/// May `more` bytes be promised to `task`? `ENOMEM` for more than there can ever be in mode 0, and
/// beyond the limit in mode 2.
pub fn check(task: &Task, more: u64) -> Result<()> {
    if more == 0 {
        return Ok(());
    }
    let kernel = task.kernel();
    match kernel.sysctl.vm_overcommit_memory.unsigned() {
        ALWAYS => Ok(()),
        NEVER => {
            let mut limit = limit(&kernel);
            if !task.cred().capable(Cap::SysAdmin) {
                limit =
                    limit.saturating_sub(kernel.sysctl.vm_admin_reserve_kbytes.unsigned() << 10);
            }
            // One process shall not be able to take all that is left.
            let own = task.mm().map_or(0, |mm| mm.map().vmas.total(|_| true));
            let user = kernel.sysctl.vm_user_reserve_kbytes.unsigned() << 10;
            limit = limit.saturating_sub(user.min(own / 32));
            if committed().saturating_add(more) > limit { Err(ENOMEM) } else { Ok(()) }
        }
        _ if more > kernel.mem_bytes => Err(ENOMEM),
        _ => Ok(()),
    }
}

/// True when MAP_NORESERVE has its effect: not in mode 2.
pub fn noreserve_counts(kernel: &Kernel) -> bool {
    kernel.sysctl.vm_overcommit_memory.unsigned() != NEVER
}
