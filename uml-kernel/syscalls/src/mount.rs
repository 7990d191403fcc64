//! mount(2), umount2(2), pivot_root(2).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::landlock;
use uml_core::task::{Cap, Task};
use uml_core::user;
use uml_core::vfs::mount::*;
use uml_core::vfs::mounting::PropagationType;
use uml_core::vfs::walk::{self, DirFd};
use uml_core::vfs::{FsType, Path, SuperBlock};

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(165, "mount", mount(Str, Path, Str, Flags, Ptr)),
    call!(166, "umount2", umount2(Path, Flags)),
    call!(155, "pivot_root", pivot_root(Path, Path)),
    call!(179, "quotactl", no_quota(), Never, Refused("no quotas; ENOSYS")),
    call!(443, "quotactl_fd", no_quota(), Never, Refused("no quotas; ENOSYS")),
];

/// Longest option text (a page).
const DATA_MAX: usize = 4096;
const STRICTATIME: u64 = libc::MS_STRICTATIME;

fn optional(task: &Task, ptr: u64, max: usize) -> Result<Vec<u8>> {
    if ptr == 0 { Ok(Vec::new()) } else { user::read_cstr(task, ptr, max, EINVAL) }
}

/// MNT_* flags of MS_* ones; relatime is the default.
fn mount_flags(flags: u64) -> u64 {
    let mut f = flags & MNT_FLAGS & !(MNT_RELATIME | MNT_NOATIME);
    if flags & libc::MS_NOATIME != 0 {
        f |= MNT_NOATIME;
    } else if flags & STRICTATIME == 0 {
        f |= MNT_RELATIME;
    }
    f
}

fn mount(
    cx: &mut Ctx<'_>,
    source: u64,
    target: u64,
    kind: u64,
    flags: u64,
    data: u64,
) -> Result<u64> {
    let task = &cx.task;
    let kind = optional(task, kind, 4096)?;
    let source = optional(task, source, libc::PATH_MAX as usize)?;
    let data = optional(task, data, DATA_MAX)?;
    let target = user::read_path(task, target)?;
    // Old programs put a magic number into the upper half.
    let flags = if flags & 0xffff_0000 == libc::MS_MGC_VAL { flags & 0xffff } else { flags };
    let at = walk::lookup(task, &DirFd::Cwd, &target, walk::FOLLOW)?;
    landlock::files::may_mount(&task.cred())?;
    may_mount(task)?;
    let kernel = task.kernel();
    let ns = task.fs().mounts();
    let propagation = libc::MS_SHARED | libc::MS_PRIVATE | libc::MS_SLAVE | libc::MS_UNBINDABLE;
    if flags & libc::MS_REMOUNT != 0 {
        return remount(task, &at, flags, &data);
    }
    if flags & libc::MS_BIND != 0 {
        if source.is_empty() {
            return Err(EINVAL);
        }
        let from = walk::lookup(task, &DirFd::Cwd, &source, walk::FOLLOW)?;
        let copy = kernel.vfs.bind(&ns, &from, flags & libc::MS_REC != 0)?;
        kernel.vfs.attach(&ns, &copy, &at)?;
        return Ok(0);
    }
    if flags & propagation != 0 {
        if flags & !(propagation | libc::MS_REC | libc::MS_SILENT) != 0 {
            return Err(EINVAL);
        }
        set_propagation(task, &at, flags & propagation, flags & libc::MS_REC != 0)?;
        return Ok(0);
    }
    if flags & libc::MS_MOVE != 0 {
        if source.is_empty() {
            return Err(EINVAL);
        }
        let from = walk::lookup(task, &DirFd::Cwd, &source, walk::FOLLOW)?;
        kernel.vfs.move_mount(&ns, &from, &at)?;
        return Ok(0);
    }
    if kind.is_empty() {
        return Err(EINVAL);
    }
    let fs_type = kernel.vfs.registry.fs(&kind)?;
    let no_devices = may_mount_type(task, &*fs_type)?;
    let sb = fs_type.mount(task, &source, flags, &data)?;
    let name = if source.is_empty() { &b"none"[..] } else { &source };
    let m = kernel.vfs.new_mount_for(task, sb.clone(), name, mount_flags(flags))?;
    m.instance.forbid_devices(no_devices);
    m.instance.own(&ns.owner());
    // The same superblock twice in one place is a mistake (mount(2) EBUSY).
    if same_on_top(&at, &sb) {
        return Err(EBUSY);
    }
    kernel.vfs.attach(&ns, &m, &at)?;
    Ok(0)
}

fn same_on_top(at: &Path, sb: &Arc<dyn SuperBlock>) -> bool {
    let key = |s: &Arc<dyn SuperBlock>| Arc::as_ptr(s) as *const ();
    at.is_mount_root() && key(&at.mnt.sb) == key(sb)
}

/// Changes the propagation type; exactly one bit of `kind`.
pub(crate) fn set_propagation(
    task: &Arc<Task>,
    at: &Path,
    kind: u64,
    recursive: bool,
) -> Result<()> {
    let kind = match kind {
        libc::MS_SHARED => PropagationType::Shared,
        libc::MS_SLAVE => PropagationType::Slave,
        libc::MS_PRIVATE => PropagationType::Private,
        libc::MS_UNBINDABLE => PropagationType::Unbindable,
        _ => return Err(EINVAL),
    };
    if !at.is_mount_root() {
        return Err(EINVAL);
    }
    task.kernel().vfs.set_propagation(&at.mnt, kind, recursive);
    Ok(())
}

fn remount(task: &Arc<Task>, at: &Path, flags: u64, data: &[u8]) -> Result<u64> {
    let local = at.mnt.ns().is_some_and(|n| Arc::ptr_eq(&n, &task.fs().mounts()));
    if !at.is_mount_root() || !local {
        return Err(EINVAL);
    }
    let mut new = mount_flags(flags);
    let atime = libc::MS_NOATIME | libc::MS_NODIRATIME | libc::MS_RELATIME | STRICTATIME;
    if flags & atime == 0 {
        // Without a word about access times they stay as they are.
        let keep = MNT_NOATIME | MNT_NODIRATIME | MNT_RELATIME;
        new = new & !keep | at.mnt.flags() & keep;
    }
    at.mnt.may_set_flags(new)?;
    if flags & libc::MS_BIND == 0 {
        task.require_in(&at.mnt.instance.owner(), Cap::SysAdmin)?;
        at.mnt.sb.remount(flags & libc::MS_RDONLY != 0, data)?;
    }
    at.mnt.set_flags(new);
    task.kernel().vfs.announce(&task.fs().mounts());
    Ok(0)
}

fn umount2(cx: &mut Ctx<'_>, target: u64, flags: i32) -> Result<u64> {
    const NOFOLLOW: i32 = 8;
    let known = libc::MNT_FORCE | libc::MNT_DETACH | libc::MNT_EXPIRE | NOFOLLOW;
    if flags & !known != 0 {
        return Err(EINVAL);
    }
    let expire = flags & libc::MNT_EXPIRE != 0;
    if expire && flags & (libc::MNT_FORCE | libc::MNT_DETACH) != 0 {
        return Err(EINVAL);
    }
    let task = &cx.task;
    let path = user::read_path(task, target)?;
    let follow = if flags & NOFOLLOW != 0 { 0 } else { walk::FOLLOW };
    let at = walk::lookup(task, &DirFd::Cwd, &path, follow)?;
    may_mount(task)?;
    let own = at.mnt.ns().is_some_and(|n| Arc::ptr_eq(&n, &task.fs().mounts()));
    if at.is_mount_root() && own {
        landlock::files::may_mount(&task.cred())?;
    }
    let fs = task.fs();
    let detach = flags & libc::MNT_DETACH != 0;
    if at.is_mount_root() && Arc::ptr_eq(&at.mnt, &fs.root().mnt) && !detach {
        // The root is never taken away; what can be done is to write everything and stop writing.
        at.mnt.sb.sync()?;
        at.mnt.sb.remount(true, b"")?;
        at.mnt.set_flags(at.mnt.flags() | MNT_RDONLY);
        return Ok(0);
    }
    let ns = fs.mounts();
    task.kernel().vfs.unmount(&ns, at, detach, expire)?;
    Ok(0)
}

fn pivot_root(cx: &mut Ctx<'_>, new_root: u64, put_old: u64) -> Result<u64> {
    let task = &cx.task;
    may_mount(task)?;
    let flags = walk::FOLLOW | walk::DIRECTORY;
    let new = walk::lookup(task, &DirFd::Cwd, &user::read_path(task, new_root)?, flags)?;
    let old = walk::lookup(task, &DirFd::Cwd, &user::read_path(task, put_old)?, flags)?;
    landlock::files::may_mount(&task.cred())?;
    task.kernel().vfs.pivot_root(task, &new, &old)?;
    Ok(0)
}

/// `EPERM` unless the task may change the mounts it sees (CAP_SYS_ADMIN in the user namespace of its mount
/// namespace).
pub fn may_mount(task: &Task) -> Result<()> {
    task.require_in(&task.fs().mounts().owner(), Cap::SysAdmin)
}

/// Whether the task may make an instance of the type, and whether its device nodes must not be opened: without privilege
/// outside its user namespace only types made for it, and of those only devpts with its own devices. `EPERM`.
pub fn may_mount_type(task: &Task, kind: &dyn FsType) -> Result<bool> {
    if task.fs().mounts().owner().is_initial() {
        return Ok(false);
    }
    if !kind.user_mountable() {
        return Err(EPERM);
    }
    if kind.name() == "proc" {
        task.require_in(&task.process.pid_ns.owner, Cap::SysAdmin)?;
    }
    Ok(kind.name() != "devpts")
}

fn no_quota(_: &mut Ctx<'_>) -> Result<u64> {
    Err(ENOSYS)
}
