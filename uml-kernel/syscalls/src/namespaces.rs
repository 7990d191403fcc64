//! unshare(2) and setns(2).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::ns::change;
use uml_core::ns::nsfs::NsFile;

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] =
    &[call!(272, "unshare", unshare(Flags)), call!(308, "setns", setns(Fd, Flags))];

fn unshare(cx: &mut Ctx<'_>, flags: u64) -> Result<u64> {
    change::unshare(&cx.task, flags)?;
    Ok(0)
}

fn setns(cx: &mut Ctx<'_>, fd: i32, kinds: i32) -> Result<u64> {
    let file = cx.task.file(fd)?;
    let kinds = kinds as u32 as u64;
    if let Some(f) = file.downcast::<NsFile>() {
        change::join(&cx.task, &f.ns, kinds)?;
        return Ok(0);
    }
    let kernel = cx.task.kernel();
    let (pid, _) = kernel.hooks.pidfd_target(&file).map_err(|_| EINVAL)?;
    let target = kernel.tree.read().leader(pid).ok_or(ESRCH)?;
    change::join_task(&cx.task, &target, kinds)?;
    Ok(0)
}
