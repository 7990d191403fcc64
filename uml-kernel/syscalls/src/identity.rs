//! Users, groups, capabilities (credentials(7), capabilities(7)).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::task::cred::{CAP_FULL, SECBIT_KEEP_CAPS, SECBIT_NO_SETUID_FIXUP};
use uml_core::task::{Cap, Cred};
use uml_core::user;

use crate::call;
use crate::table::Entry;

pub const TABLE: &[Entry] = &[
    call!(102, "getuid", getuid()),
    call!(104, "getgid", getgid()),
    call!(105, "setuid", setuid(Int)),
    call!(106, "setgid", setgid(Int)),
    call!(107, "geteuid", geteuid()),
    call!(108, "getegid", getegid()),
    call!(113, "setreuid", setreuid(Int, Int)),
    call!(114, "setregid", setregid(Int, Int)),
    call!(115, "getgroups", getgroups(Int, Out)),
    call!(116, "setgroups", setgroups(Int, In)),
    call!(117, "setresuid", setresuid(Int, Int, Int)),
    call!(118, "getresuid", getresuid(Ptr, Ptr, Ptr)),
    call!(119, "setresgid", setresgid(Int, Int, Int)),
    call!(120, "getresgid", getresgid(Ptr, Ptr, Ptr)),
    call!(122, "setfsuid", setfsuid(Int)),
    call!(123, "setfsgid", setfsgid(Int)),
    call!(125, "capget", capget(Ptr, Ptr)),
    call!(126, "capset", capset(Ptr, Ptr)),
];

/// "Leave alone" in the set*id calls.
const KEEP: u32 = u32::MAX;

/// A user id of a set*uid call as a kernel id; `EINVAL` without a mapping.
fn kuid(cred: &Cred, uid: u32) -> Result<u32> {
    if uid == KEEP { Ok(KEEP) } else { cred.user_ns.kuid(uid) }
}

/// A group id of a set*gid call as a kernel id; `EINVAL` without a mapping.
fn kgid(cred: &Cred, gid: u32) -> Result<u32> {
    if gid == KEEP { Ok(KEEP) } else { cred.user_ns.kgid(gid) }
}

fn getuid(cx: &mut Ctx<'_>) -> Result<u64> {
    let c = cx.task.cred();
    Ok(c.user_ns.uid(c.uid).into())
}

fn geteuid(cx: &mut Ctx<'_>) -> Result<u64> {
    let c = cx.task.cred();
    Ok(c.user_ns.uid(c.euid).into())
}

fn getgid(cx: &mut Ctx<'_>) -> Result<u64> {
    let c = cx.task.cred();
    Ok(c.user_ns.gid(c.gid).into())
}

fn getegid(cx: &mut Ctx<'_>) -> Result<u64> {
    let c = cx.task.cred();
    Ok(c.user_ns.gid(c.egid).into())
}

/// Adjusts capabilities after user ids changed (capabilities(7), "Effect of user ID changes").
fn fix_capabilities(old: &Cred, new: &mut Cred) {
    if new.securebits & SECBIT_NO_SETUID_FIXUP != 0 {
        return;
    }
    // The user that is root here; a namespace without a map has none.
    let Ok(root) = new.user_ns.kuid(0) else { return };
    let had_root = [old.uid, old.euid, old.suid].contains(&root);
    let has_root = [new.uid, new.euid, new.suid].contains(&root);
    if had_root && !has_root {
        if new.securebits & SECBIT_KEEP_CAPS == 0 {
            new.cap_permitted = 0;
            new.cap_effective = 0;
        }
        new.cap_ambient = 0;
    }
    if old.euid == root && new.euid != root {
        new.cap_effective = 0;
    }
    if old.euid != root && new.euid == root {
        new.cap_effective = new.cap_permitted;
    }
}

/// Applies a change of ids; a process whose effective ids change is no longer dumpable.
fn commit(cx: &Ctx<'_>, old: &Cred, mut new: Cred) {
    fix_capabilities(old, &mut new);
    if (old.euid, old.egid) != (new.euid, new.egid) {
        cx.task.process.dumpable.store(0, std::sync::atomic::Ordering::Relaxed);
        cx.task.personal.lock().pdeath_signal = 0;
    }
    cx.task.set_cred(Arc::new(new));
}

fn setuid(cx: &mut Ctx<'_>, uid: u32) -> Result<u64> {
    let old = cx.task.cred();
    let uid = old.user_ns.kuid(uid)?;
    let mut new = (*old).clone();
    if old.capable_here(Cap::Setuid) {
        new.uid = uid;
        new.suid = uid;
    } else if uid != old.uid && uid != old.suid {
        return Err(EPERM);
    }
    new.euid = uid;
    new.fsuid = uid;
    commit(cx, &old, new);
    Ok(0)
}

fn setgid(cx: &mut Ctx<'_>, gid: u32) -> Result<u64> {
    let old = cx.task.cred();
    let gid = old.user_ns.kgid(gid)?;
    let mut new = (*old).clone();
    if old.capable_here(Cap::Setgid) {
        new.gid = gid;
        new.sgid = gid;
    } else if gid != old.gid && gid != old.sgid {
        return Err(EPERM);
    }
    new.egid = gid;
    new.fsgid = gid;
    commit(cx, &old, new);
    Ok(0)
}

fn setreuid(cx: &mut Ctx<'_>, r: u32, e: u32) -> Result<u64> {
    let old = cx.task.cred();
    let (r, e) = (kuid(&old, r)?, kuid(&old, e)?);
    let mut new = (*old).clone();
    let any = old.capable_here(Cap::Setuid);
    if r != KEEP {
        if !any && r != old.uid && r != old.euid {
            return Err(EPERM);
        }
        new.uid = r;
    }
    if e != KEEP {
        if !any && ![old.uid, old.euid, old.suid].contains(&e) {
            return Err(EPERM);
        }
        new.euid = e;
    }
    if r != KEEP || e != KEEP && e != old.uid {
        new.suid = new.euid;
    }
    new.fsuid = new.euid;
    commit(cx, &old, new);
    Ok(0)
}

fn setregid(cx: &mut Ctx<'_>, r: u32, e: u32) -> Result<u64> {
    let old = cx.task.cred();
    let (r, e) = (kgid(&old, r)?, kgid(&old, e)?);
    let mut new = (*old).clone();
    let any = old.capable_here(Cap::Setgid);
    if r != KEEP {
        if !any && r != old.gid && r != old.egid {
            return Err(EPERM);
        }
        new.gid = r;
    }
    if e != KEEP {
        if !any && ![old.gid, old.egid, old.sgid].contains(&e) {
            return Err(EPERM);
        }
        new.egid = e;
    }
    if r != KEEP || e != KEEP && e != old.gid {
        new.sgid = new.egid;
    }
    new.fsgid = new.egid;
    commit(cx, &old, new);
    Ok(0)
}

fn setresuid(cx: &mut Ctx<'_>, r: u32, e: u32, s: u32) -> Result<u64> {
    let old = cx.task.cred();
    let (r, e, s) = (kuid(&old, r)?, kuid(&old, e)?, kuid(&old, s)?);
    let own = [old.uid, old.euid, old.suid];
    if !old.capable_here(Cap::Setuid) && [r, e, s].iter().any(|v| *v != KEEP && !own.contains(v)) {
        return Err(EPERM);
    }
    let mut new = (*old).clone();
    let set = |field: &mut u32, v: u32| {
        if v != KEEP {
            *field = v;
        }
    };
    set(&mut new.uid, r);
    set(&mut new.euid, e);
    set(&mut new.suid, s);
    new.fsuid = new.euid;
    commit(cx, &old, new);
    Ok(0)
}

fn setresgid(cx: &mut Ctx<'_>, r: u32, e: u32, s: u32) -> Result<u64> {
    let old = cx.task.cred();
    let (r, e, s) = (kgid(&old, r)?, kgid(&old, e)?, kgid(&old, s)?);
    let own = [old.gid, old.egid, old.sgid];
    if !old.capable_here(Cap::Setgid) && [r, e, s].iter().any(|v| *v != KEEP && !own.contains(v)) {
        return Err(EPERM);
    }
    let mut new = (*old).clone();
    let set = |field: &mut u32, v: u32| {
        if v != KEEP {
            *field = v;
        }
    };
    set(&mut new.gid, r);
    set(&mut new.egid, e);
    set(&mut new.sgid, s);
    new.fsgid = new.egid;
    commit(cx, &old, new);
    Ok(0)
}

fn getresuid(cx: &mut Ctx<'_>, r: u64, e: u64, s: u64) -> Result<u64> {
    let c = cx.task.cred();
    user::write_obj(&cx.task, r, &c.user_ns.uid(c.uid))?;
    user::write_obj(&cx.task, e, &c.user_ns.uid(c.euid))?;
    user::write_obj(&cx.task, s, &c.user_ns.uid(c.suid))?;
    Ok(0)
}

fn getresgid(cx: &mut Ctx<'_>, r: u64, e: u64, s: u64) -> Result<u64> {
    let c = cx.task.cred();
    user::write_obj(&cx.task, r, &c.user_ns.gid(c.gid))?;
    user::write_obj(&cx.task, e, &c.user_ns.gid(c.egid))?;
    user::write_obj(&cx.task, s, &c.user_ns.gid(c.sgid))?;
    Ok(0)
}

fn setfsuid(cx: &mut Ctx<'_>, uid: u32) -> Result<u64> {
    let old = cx.task.cred();
    let own = [old.uid, old.euid, old.suid, old.fsuid];
    let uid = old.user_ns.kuid(uid).unwrap_or(KEEP);
    let root = old.user_ns.kuid(0).unwrap_or(KEEP);
    if uid != KEEP && (old.capable_here(Cap::Setuid) || own.contains(&uid)) {
        let mut new = (*old).clone();
        new.fsuid = uid;
        // The file-related capabilities follow the filesystem uid.
        let file_caps = [
            Cap::Chown,
            Cap::DacOverride,
            Cap::DacReadSearch,
            Cap::Fowner,
            Cap::Fsetid,
            Cap::LinuxImmutable,
            Cap::Mknod,
            Cap::MacOverride,
        ]
        .iter()
        .fold(0, |m, c| m | 1u64 << *c as u8);
        if old.fsuid == root && uid != root {
            new.cap_effective &= !file_caps;
        } else if old.fsuid != root && uid == root {
            new.cap_effective |= new.cap_permitted & file_caps;
        }
        cx.task.set_cred(Arc::new(new));
    }
    Ok(old.user_ns.uid(old.fsuid).into())
}

fn setfsgid(cx: &mut Ctx<'_>, gid: u32) -> Result<u64> {
    let old = cx.task.cred();
    let own = [old.gid, old.egid, old.sgid, old.fsgid];
    let gid = old.user_ns.kgid(gid).unwrap_or(KEEP);
    if gid != KEEP && (old.capable_here(Cap::Setgid) || own.contains(&gid)) {
        let mut new = (*old).clone();
        new.fsgid = gid;
        cx.task.set_cred(Arc::new(new));
    }
    Ok(old.user_ns.gid(old.fsgid).into())
}

/// NGROUPS_MAX.
const NGROUPS_MAX: i32 = 65536;

fn getgroups(cx: &mut Ctx<'_>, size: i32, list: u64) -> Result<u64> {
    let c = cx.task.cred();
    if size < 0 {
        return Err(EINVAL);
    }
    if size > 0 {
        if (size as usize) < c.groups.len() {
            return Err(EINVAL);
        }
        let shown: Vec<u32> = c.groups.iter().map(|g| c.user_ns.gid(*g)).collect();
        user::write_array(&cx.task, list, &shown)?;
    }
    Ok(c.groups.len() as u64)
}

fn setgroups(cx: &mut Ctx<'_>, size: i32, list: u64) -> Result<u64> {
    let old = cx.task.cred();
    let ns = &old.user_ns;
    if !old.capable_here(Cap::Setgid) || !ns.may_setgroups() {
        return Err(EPERM);
    }
    if !(0..=NGROUPS_MAX).contains(&size) {
        return Err(EINVAL);
    }
    let given: Vec<u32> = user::read_array(&cx.task, list, size as usize)?;
    let mut groups = given.iter().map(|g| ns.kgid(*g)).collect::<Result<Vec<u32>>>()?;
    groups.sort_unstable();
    let mut new = (*old).clone();
    new.groups = groups.into();
    cx.task.set_cred(Arc::new(new));
    Ok(0)
}

const CAP_VERSION_1: u32 = 0x1998_0330;
const CAP_VERSION_2: u32 = 0x2007_1026;
const CAP_VERSION_3: u32 = 0x2008_0522;

/// Checks the header; returns the pid and the number of 32-bit words per set.
fn cap_header(cx: &Ctx<'_>, hdr: u64) -> Result<(i32, usize)> {
    let [version, pid]: [u32; 2] = user::read_obj(&cx.task, hdr)?;
    let words = match version {
        CAP_VERSION_1 => 1,
        CAP_VERSION_2 | CAP_VERSION_3 => 2,
        _ => {
            user::write_obj(&cx.task, hdr, &CAP_VERSION_3)?;
            return Err(EINVAL);
        }
    };
    Ok((pid as i32, words))
}

fn capget(cx: &mut Ctx<'_>, hdr: u64, data: u64) -> Result<u64> {
    let (pid, words) = match cap_header(cx, hdr) {
        // A null data pointer only asks for the version.
        Err(EINVAL) if data == 0 => return Ok(0),
        other => other?,
    };
    if pid < 0 {
        return Err(EINVAL);
    }
    let cred = if pid == 0 {
        cx.task.cred()
    } else {
        let tid = cx.task.kernel_pid(pid)?;
        cx.task.kernel().tree.read().task(tid).ok_or(ESRCH)?.cred()
    };
    if data == 0 {
        return Ok(0);
    }
    let sets = [cred.cap_effective, cred.cap_permitted, cred.cap_inheritable];
    let out: Vec<u32> = (0..words).flat_map(|w| sets.map(|s| (s >> (32 * w)) as u32)).collect();
    user::write_array(&cx.task, data, &out)?;
    Ok(0)
}

fn capset(cx: &mut Ctx<'_>, hdr: u64, data: u64) -> Result<u64> {
    let (pid, words) = cap_header(cx, hdr)?;
    if pid != 0 && pid != cx.task.show_pid(cx.task.tid) {
        return Err(EPERM);
    }
    let raw: Vec<u32> = user::read_array(&cx.task, data, words * 3)?;
    let set = |i: usize| {
        (0..words).fold(0u64, |m, w| m | u64::from(raw[w * 3 + i]) << (32 * w)) & CAP_FULL
    };
    let (effective, permitted, inheritable) = (set(0), set(1), set(2));
    let old = cx.task.cred();
    let may_add = old.capable_here(Cap::Setpcap);
    let inheritable_ok = if may_add {
        inheritable & !(old.cap_inheritable | old.cap_bounding) == 0
    } else {
        inheritable & !(old.cap_inheritable | old.cap_permitted) == 0
    };
    if !inheritable_ok || permitted & !old.cap_permitted != 0 || effective & !permitted != 0 {
        return Err(EPERM);
    }
    let mut new = (*old).clone();
    new.cap_effective = effective;
    new.cap_permitted = permitted;
    new.cap_inheritable = inheritable;
    new.cap_ambient &= permitted & inheritable;
    cx.task.set_cred(Arc::new(new));
    Ok(0)
}
