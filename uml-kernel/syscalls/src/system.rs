//! The machine and the task's attributes: uname, sysinfo, limits, scheduling, prctl, reboot.

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::{Ctx, Reply};
use uml_core::kernel::PowerAction;
use uml_core::ns::PidNs;
use uml_core::task::exit::begin_group_exit;
use uml_core::task::{Cap, Resource, Rlimit, Task};
use uml_core::time::Clock;
use uml_core::time::cpulimit::CpuLimit;
use uml_core::user;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::process::Rusage;
use crate::table::Entry;

pub const TABLE: &[Entry] = &[
    call!(63, "uname", uname(Out)),
    call!(97, "getrlimit", getrlimit(Int, Out)),
    call!(98, "getrusage", getrusage(Int, Out)),
    call!(99, "sysinfo", sysinfo(Out)),
    call!(100, "times", times(Out)),
    call!(103, "syslog", syslog(Int, Out, Int)),
    call!(135, "personality", personality(Flags)),
    call!(158, "arch_prctl", arch_prctl(Int, Addr)),
    call!(160, "setrlimit", setrlimit(Int, In)),
    call!(169, "reboot", reboot(Flags, Flags, Flags, Str)),
    call!(170, "sethostname", sethostname(In, Size)),
    call!(171, "setdomainname", setdomainname(In, Size)),
    call!(302, "prlimit64", prlimit64(Pid, Int, In, Out)),
    call!(309, "getcpu", getcpu(Out, Out)),
    call!(318, "getrandom", getrandom(Out, Size, Flags)),
    call!(324, "membarrier", membarrier(Int, Flags)),
    call!(
        334,
        "rseq",
        rseq(Addr, Size, Flags, Flags),
        Never,
        Partial(
            "ENOSYS on trap and ptrace, and where the machine's CPU numbers are not the host's"
        )
    ),
    call!(167, "swapon", swap(Path, Flags), Never, Refused("no swap; ENOSYS")),
    call!(168, "swapoff", swap(Path, Flags), Never, Refused("no swap; ENOSYS")),
    call!(163, "acct", acct(Path), Never, Refused("no process accounting; ENOSYS")),
    call!(153, "vhangup", vhangup()),
    call!(248, "add_key", refused(), Never, Refused("no keyrings; ENOSYS")),
    call!(249, "request_key", refused(), Never, Refused("no keyrings; ENOSYS")),
    call!(250, "keyctl", refused(), Never, Refused("no keyrings; ENOSYS")),
    call!(298, "perf_event_open", refused(), Never, Refused("no performance events; ENOSYS")),
    call!(321, "bpf", refused(), Never, Refused("no BPF; ENOSYS")),
    call!(323, "userfaultfd", refused(), Never, Refused("no userfaultfd; ENOSYS")),
    call!(425, "io_uring_setup", refused(), Never, Refused("no io_uring; ENOSYS")),
    call!(426, "io_uring_enter", refused(), Never, Refused("no io_uring; ENOSYS")),
    call!(427, "io_uring_register", refused(), Never, Refused("no io_uring; ENOSYS")),
    call!(154, "modify_ldt", refused(), Never, Refused("no 16-bit segments; ENOSYS")),
    call!(440, "process_madvise", refused(), Never, Refused("no advice for others; ENOSYS")),
    call!(451, "cachestat", refused(), Never, Refused("no cache statistics; ENOSYS")),
    call!(459, "lsm_get_self_attr", refused(), Never, Refused("no security modules; ENOSYS")),
    call!(460, "lsm_set_self_attr", refused(), Never, Refused("no security modules; ENOSYS")),
    call!(461, "lsm_list_modules", refused(), Never, Refused("no security modules; ENOSYS")),
    call!(462, "mseal", refused(), Never, Refused("no sealed mappings; ENOSYS")),
    call!(175, "init_module", refused(), Never, Refused("no modules; ENOSYS")),
    call!(176, "delete_module", refused(), Never, Refused("no modules; ENOSYS")),
    call!(313, "finit_module", refused(), Never, Refused("no modules; ENOSYS")),
    call!(246, "kexec_load", refused(), Never, Refused("no kexec; ENOSYS")),
    call!(320, "kexec_file_load", refused(), Never, Refused("no kexec; ENOSYS")),
];

fn refused(_: &mut Ctx<'_>) -> Result<u64> {
    Err(ENOSYS)
}

fn swap(cx: &mut Ctx<'_>, _path: u64, _flags: i32) -> Result<u64> {
    cx.task.require(Cap::SysAdmin)?;
    Err(ENOSYS)
}

fn acct(cx: &mut Ctx<'_>, _path: u64) -> Result<u64> {
    cx.task.require(Cap::SysPacct)?;
    Err(ENOSYS)
}

fn vhangup(cx: &mut Ctx<'_>) -> Result<u64> {
    cx.task.require(Cap::SysTtyConfig)?;
    if let Some(t) = cx.task.kernel().terminals() {
        t.vhangup(&cx.task);
    }
    Ok(0)
}

/// Length of the fields of `struct new_utsname`.
const UTS_LEN: usize = 65;

fn uname(cx: &mut Ctx<'_>, buf: u64) -> Result<u64> {
    let uts = cx.task.ns().uts.clone();
    let mut out = [0u8; UTS_LEN * 6];
    let mut put = |i: usize, s: &[u8]| {
        let n = s.len().min(UTS_LEN - 1);
        out[i * UTS_LEN..i * UTS_LEN + n].copy_from_slice(&s[..n]);
    };
    put(0, b"Linux");
    put(1, &uts.hostname.lock());
    put(2, uml_core::version::RELEASE.as_bytes());
    put(3, uml_core::version::VERSION.as_bytes());
    // PER_LINUX32 (personality(2)).
    let persona = cx.task.process.personality.load(Ordering::Relaxed) & 0xff;
    put(4, if persona == 8 { b"i686" } else { b"x86_64" });
    put(5, &uts.domainname.lock());
    user::write_bytes(&cx.task, buf, &out)?;
    Ok(0)
}

fn set_name(cx: &Ctx<'_>, addr: u64, len: usize) -> Result<Vec<u8>> {
    cx.task.require_in(&cx.task.ns().uts.owner, Cap::SysAdmin)?;
    if len > UTS_LEN - 1 {
        return Err(EINVAL);
    }
    user::read_bytes(&cx.task, addr, len)
}

fn sethostname(cx: &mut Ctx<'_>, addr: u64, len: usize) -> Result<u64> {
    let name = set_name(cx, addr, len)?;
    *cx.task.ns().uts.hostname.lock() = name;
    Ok(0)
}

fn setdomainname(cx: &mut Ctx<'_>, addr: u64, len: usize) -> Result<u64> {
    let name = set_name(cx, addr, len)?;
    *cx.task.ns().uts.domainname.lock() = name;
    Ok(0)
}

fn resource(n: i32) -> Result<Resource> {
    Resource::from_raw(n as u32 as u64).ok_or(EINVAL)
}

fn getrlimit(cx: &mut Ctx<'_>, n: i32, out: u64) -> Result<u64> {
    let l = cx.task.process.rlimits.lock().get(resource(n)?);
    user::write_obj(&cx.task, out, &[l.soft, l.hard])?;
    Ok(0)
}

fn set_limit(cx: &Ctx<'_>, target: &Task, r: Resource, new: Rlimit) -> Result<()> {
    if new.soft > new.hard {
        return Err(EINVAL);
    }
    if r == Resource::NoFile && new.hard > uml_core::file::fdtable::NR_OPEN {
        return Err(EPERM);
    }
    let privileged = cx.task.cred().capable(Cap::SysResource);
    let mut limits = target.process.rlimits.lock();
    if new.hard > limits.get(r).hard && !privileged {
        return Err(EPERM);
    }
    limits.set(r, new);
    drop(limits);
    if r == Resource::Cpu {
        CpuLimit::watch(&target.process, &target.kernel());
    }
    Ok(())
}

fn setrlimit(cx: &mut Ctx<'_>, n: i32, new: u64) -> Result<u64> {
    let [soft, hard]: [u64; 2] = user::read_obj(&cx.task, new)?;
    let r = resource(n)?;
    set_limit(cx, &cx.task, r, Rlimit { soft, hard })?;
    Ok(0)
}

/// A thread by id, 0 for the caller.
pub fn thread(cx: &Ctx<'_>, tid: i32) -> Result<std::sync::Arc<Task>> {
    match tid {
        0 => Ok(cx.task.clone()),
        t if t < 0 => Err(EINVAL),
        t => {
            let tid = cx.task.kernel_pid(t)?;
            cx.task.kernel().tree.read().task(tid).ok_or(ESRCH)
        }
    }
}

fn prlimit64(cx: &mut Ctx<'_>, pid: i32, n: i32, new: u64, old: u64) -> Result<u64> {
    let wanted: Option<[u64; 2]> =
        if new != 0 { Some(user::read_obj(&cx.task, new)?) } else { None };
    let target = if pid == 0 { cx.task.clone() } else { thread(cx, pid).map_err(|_| ESRCH)? };
    if target.process.pid != cx.task.process.pid {
        let (c, t) = (cx.task.cred(), target.cred());
        let same = [t.uid, t.euid, t.suid].iter().all(|u| *u == c.uid)
            && [t.gid, t.egid, t.sgid].iter().all(|g| *g == c.gid);
        if !same && !c.capable(Cap::SysResource) {
            return Err(EPERM);
        }
    }
    let r = resource(n)?;
    let before = target.process.rlimits.lock().get(r);
    if let Some([soft, hard]) = wanted {
        set_limit(cx, &target, r, Rlimit { soft, hard })?;
    }
    if old != 0 {
        user::write_obj(&cx.task, old, &[before.soft, before.hard])?;
    }
    Ok(0)
}

fn getrusage(cx: &mut Ctx<'_>, who: i32, out: u64) -> Result<u64> {
    let usage = match who {
        libc::RUSAGE_SELF => {
            let mut u = uml_core::task::usage::of_process(&cx.task);
            uml_core::task::usage::add_host(&mut u, cx.task.mm()?.space().host_pid());
            u
        }
        libc::RUSAGE_CHILDREN => *cx.task.process.child_usage.lock(),
        libc::RUSAGE_THREAD => uml_core::task::usage::of_task(&cx.task),
        _ => return Err(EINVAL),
    };
    user::write_obj(&cx.task, out, &Rusage::from_usage(&usage))?;
    Ok(0)
}

/// Clock ticks a second (sysconf(_SC_CLK_TCK)).
const HZ_NS: u64 = 10_000_000;

fn times(cx: &mut Ctx<'_>, out: u64) -> Result<u64> {
    let own = uml_core::task::usage::of_process(&cx.task);
    let children = *cx.task.process.child_usage.lock();
    if out != 0 {
        let t = [own.user_ns, own.system_ns, children.user_ns, children.system_ns];
        user::write_obj(&cx.task, out, &t.map(|ns| ns / HZ_NS))?;
    }
    Ok(cx.task.kernel().uptime().as_nanos() as u64 / HZ_NS)
}

/// `struct sysinfo`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawSysinfo {
    uptime: i64,
    loads: [u64; 3],
    totalram: u64,
    freeram: u64,
    sharedram: u64,
    bufferram: u64,
    totalswap: u64,
    freeswap: u64,
    procs: u16,
    pad: u16,
    pad2: u32,
    totalhigh: u64,
    freehigh: u64,
    mem_unit: u32,
    pad3: u32,
}
const _: () = assert!(size_of::<RawSysinfo>() == 112);

fn sysinfo(cx: &mut Ctx<'_>, out: u64) -> Result<u64> {
    let k = cx.task.kernel();
    let mem = k.memory_info();
    let raw = RawSysinfo {
        uptime: cx.task.ns().time.shown(Clock::Boottime, k.uptime()).as_secs() as i64,
        loads: k.load.averages().map(|l| (l * 65536.0) as u64),
        totalram: mem.total,
        freeram: mem.free,
        procs: k.tree.read().task_count().min(65535) as u16,
        mem_unit: 1,
        ..RawSysinfo::default()
    };
    user::write_obj(&cx.task, out, &raw)?;
    Ok(0)
}

fn syslog(cx: &mut Ctx<'_>, action: i32, buf: u64, len: i32) -> Result<u64> {
    const READ: i32 = 2;
    const READ_ALL: i32 = 3;
    const READ_CLEAR: i32 = 4;
    const CLEAR: i32 = 5;
    const SIZE_UNREAD: i32 = 9;
    const SIZE_BUFFER: i32 = 10;
    if action != READ_ALL && action != SIZE_BUFFER {
        cx.task.require(Cap::Syslog)?;
    }
    match action {
        0 | 1 => Ok(0),
        READ | READ_ALL | READ_CLEAR => {
            if buf == 0 || len < 0 {
                return Err(EINVAL);
            }
            if action == READ {
                return syslog_read(cx, buf, len as usize);
            }
            let mut text = Vec::new();
            for r in uml_base::klog::snapshot() {
                text.extend_from_slice(log_line(&r).as_bytes());
            }
            // The newest part that fits, from the start of a line.
            let mut start = text.len().saturating_sub(len as usize);
            if start > 0 {
                start += text[start..].iter().position(|b| *b == b'\n').map_or(0, |n| n + 1);
            }
            let tail = &text[start..];
            user::write_bytes(&cx.task, buf, tail)?;
            if action == READ_CLEAR {
                uml_base::klog::clear();
            }
            Ok(tail.len() as u64)
        }
        CLEAR => {
            uml_base::klog::clear();
            Ok(0)
        }
        6 | 7 => Ok(0),
        8 => {
            if !(1..=8).contains(&len) {
                return Err(EINVAL);
            }
            cx.task.kernel().set_console_level(len as u8);
            Ok(0)
        }
        SIZE_UNREAD => {
            let from = cx.task.kernel().syslog_seq.load(Ordering::SeqCst);
            let n: usize = std::iter::successors(uml_base::klog::read_from(from), |r| {
                uml_base::klog::read_from(r.seq + 1)
            })
            .map(|r| log_line(&r).len())
            .sum();
            Ok(n as u64)
        }
        SIZE_BUFFER => Ok(256 * 1024),
        _ => Err(EINVAL),
    }
}

fn log_line(r: &uml_base::klog::Record) -> String {
    format!("<{}>{}\n", r.prio, uml_base::klog::format(r))
}

/// SYSLOG_ACTION_READ: waits for records and consumes them.
fn syslog_read(cx: &mut Ctx<'_>, buf: u64, len: usize) -> Result<u64> {
    if len == 0 {
        return Ok(0);
    }
    let k = cx.task.kernel();
    let next = || uml_base::klog::read_from(k.syslog_seq.load(Ordering::SeqCst));
    let mut record = cx
        .task
        .wait(
            uml_base::klog::queue(),
            uml_base::Events::READABLE,
            uml_core::task::WaitKind::Interruptible,
            None,
            "do_syslog",
            next,
        )?
        .ok_or(EAGAIN)?;
    let mut text = Vec::new();
    loop {
        let line = log_line(&record);
        if text.len() + line.len() > len {
            break;
        }
        text.extend_from_slice(line.as_bytes());
        k.syslog_seq.store(record.seq + 1, Ordering::SeqCst);
        match next() {
            Some(r) => record = r,
            None => break,
        }
    }
    user::write_bytes(&cx.task, buf, &text)?;
    Ok(text.len() as u64)
}

fn personality(cx: &mut Ctx<'_>, value: u32) -> Result<u64> {
    let p = &cx.task.process.personality;
    let old = p.load(Ordering::Relaxed);
    if value != 0xffff_ffff {
        p.store(value.into(), Ordering::Relaxed);
    }
    Ok(old)
}

fn arch_prctl(cx: &mut Ctx<'_>, code: i32, addr: u64) -> Result<u64> {
    const SET_GS: i32 = 0x1001;
    const SET_FS: i32 = 0x1002;
    const GET_FS: i32 = 0x1003;
    const GET_GS: i32 = 0x1004;
    const GET_CPUID: i32 = 0x1011;
    const XCOMP_SUPP: i32 = 0x1021;
    const XCOMP_PERM: i32 = 0x1022;
    const REQ_XCOMP_PERM: i32 = 0x1023;
    match code {
        SET_FS | SET_GS => {
            if addr >= cx.task.mm()?.user_max() {
                return Err(EPERM);
            }
            cx.reply = Reply::PassThrough;
            Ok(0)
        }
        GET_FS | GET_GS => {
            let regs = cx.hw.regs()?;
            let base = if code == GET_FS { regs.fs_base } else { regs.gs_base };
            user::write_obj(&cx.task, addr, &base)?;
            Ok(0)
        }
        GET_CPUID => Ok(1),
        XCOMP_SUPP | XCOMP_PERM => {
            let features = xfeatures(cx)?;
            user::write_obj(&cx.task, addr, &features)?;
            Ok(0)
        }
        REQ_XCOMP_PERM if addr >= XFEATURE_MAX => Err(EINVAL),
        // Features that need permission (AMX tiles) are not offered: frames of the size found at boot hold no room for them.
        REQ_XCOMP_PERM => Err(EOPNOTSUPP),
        _ => Err(EINVAL),
    }
}

/// Number of features of extended state that Linux knows.
const XFEATURE_MAX: u64 = 20;

/// The features of extended state that signal frames carry: those every program may use.
fn xfeatures(cx: &mut Ctx<'_>) -> Result<u64> {
    // The reserved bytes of the legacy area say it (sigcontext.h, struct _fpx_sw_bytes).
    const XFEATURES_AT: usize = 472;
    const LEGACY: u64 = 3;
    let image = cx.hw.xstate()?;
    let bytes = image.get(XFEATURES_AT..XFEATURES_AT + 8).and_then(|b| b.try_into().ok());
    Ok(bytes.map_or(LEGACY, u64::from_le_bytes) | LEGACY)
}

fn reboot(cx: &mut Ctx<'_>, magic1: u32, magic2: u32, cmd: u32, _arg: u64) -> Result<u64> {
    let ns = &cx.task.process.pid_ns;
    cx.task.require_in(&ns.owner, Cap::SysBoot)?;
    const MAGIC1: u32 = 0xfee1_dead;
    const MAGIC2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    if magic1 != MAGIC1 || !MAGIC2.contains(&magic2) {
        return Err(EINVAL);
    }
    if ns.parent.is_some() {
        return reboot_namespace(&cx.task, ns, cmd as i32);
    }
    let k = cx.task.kernel();
    match cmd as i32 {
        libc::LINUX_REBOOT_CMD_CAD_ON => k.ctrl_alt_del.store(true, Ordering::SeqCst),
        libc::LINUX_REBOOT_CMD_CAD_OFF => k.ctrl_alt_del.store(false, Ordering::SeqCst),
        libc::LINUX_REBOOT_CMD_HALT => {
            uml_base::klog::log(uml_base::Level::Emerg, format_args!("reboot: System halted"));
            k.power(PowerAction::Halt);
        }
        libc::LINUX_REBOOT_CMD_POWER_OFF => {
            uml_base::klog::log(uml_base::Level::Emerg, format_args!("reboot: Power down"));
            k.power(PowerAction::PowerOff);
        }
        libc::LINUX_REBOOT_CMD_RESTART | libc::LINUX_REBOOT_CMD_RESTART2 => {
            uml_base::klog::log(uml_base::Level::Emerg, format_args!("reboot: Restarting system"));
            k.power(PowerAction::Restart);
        }
        _ => return Err(EINVAL),
    }
    Ok(0)
}

/// A pid namespace is rebooted: its init ends, and with it all that is in it; who waits for the init sees why
/// (reboot(2), "Behavior inside PID namespaces").
fn reboot_namespace(task: &Task, ns: &PidNs, cmd: i32) -> Result<u64> {
    let signal = match cmd {
        libc::LINUX_REBOOT_CMD_RESTART | libc::LINUX_REBOOT_CMD_RESTART2 => libc::SIGHUP,
        libc::LINUX_REBOOT_CMD_POWER_OFF | libc::LINUX_REBOOT_CMD_HALT => libc::SIGINT,
        _ => return Err(EINVAL),
    };
    let kernel = task.kernel();
    let init = ns.init().and_then(|pid| {
        let tree = kernel.tree.read();
        let entry = tree.get(pid)?;
        entry.threads.values().next().cloned()
    });
    if let Some(init) = init {
        begin_group_exit(&init, signal);
    }
    // The caller is in it.
    begin_group_exit(task, libc::SIGKILL);
    Ok(0)
}

fn getcpu(cx: &mut Ctx<'_>, cpu: u64, node: u64) -> Result<u64> {
    let n = cx.task.kernel().current_cpu();
    if cpu != 0 {
        user::write_obj(&cx.task, cpu, &n)?;
    }
    if node != 0 {
        user::write_obj(&cx.task, node, &0u32)?;
    }
    Ok(0)
}

fn getrandom(cx: &mut Ctx<'_>, buf: u64, len: usize, flags: u32) -> Result<u64> {
    let known = libc::GRND_NONBLOCK | libc::GRND_RANDOM | libc::GRND_INSECURE;
    let both = libc::GRND_RANDOM | libc::GRND_INSECURE;
    if flags & !known != 0 || flags & both == both {
        return Err(EINVAL);
    }
    let mut left = len.min(user::MAX_RW_COUNT);
    let mut done = 0u64;
    let mut chunk = [0u8; 4096];
    while left > 0 {
        let n = left.min(chunk.len());
        uml_host::random::fill(&mut chunk[..n]);
        let mm = cx.task.mm()?;
        let wrote = mm.write_partial(buf.wrapping_add(done), &chunk[..n]);
        done += wrote as u64;
        if wrote < n {
            return if done == 0 { Err(EFAULT) } else { Ok(done) };
        }
        left -= n;
        if done >= 256 && cx.task.signal_pending() {
            break;
        }
    }
    Ok(done)
}

fn membarrier(cx: &mut Ctx<'_>, cmd: i32, flags: u32) -> Result<u64> {
    const QUERY: i32 = 0;
    const GLOBAL: i32 = 1;
    const GLOBAL_EXPEDITED: i32 = 1 << 1;
    const REGISTER_GLOBAL_EXPEDITED: i32 = 1 << 2;
    const PRIVATE_EXPEDITED: i32 = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;
    const PRIVATE_SYNC_CORE: i32 = 1 << 5;
    const REGISTER_PRIVATE_SYNC_CORE: i32 = 1 << 6;
    const KNOWN: i32 = GLOBAL
        | GLOBAL_EXPEDITED
        | REGISTER_GLOBAL_EXPEDITED
        | PRIVATE_EXPEDITED
        | REGISTER_PRIVATE_EXPEDITED
        | PRIVATE_SYNC_CORE
        | REGISTER_PRIVATE_SYNC_CORE;
    match cmd {
        QUERY if flags == 0 => Ok(KNOWN as u64),
        c if flags == 0 && c & KNOWN == c && c.count_ones() == 1 => {
            // Threads of the guest program are threads of one host process, so the host's call means
            // the same there.
            cx.reply = Reply::PassThrough;
            Ok(0)
        }
        _ => Err(EINVAL),
    }
}

/// The area is registered for the guest's own host thread: preemption and migration, which end critical sections, are the
/// host's. So are the CPU numbers it shows.
fn rseq(cx: &mut Ctx<'_>, addr: u64, len: u32, flags: u32, _sig: u32) -> Result<u64> {
    const UNREGISTER: u32 = 1;
    const SIZE: u32 = 32;
    let kernel = cx.task.kernel();
    let limits = kernel.platform().ok_or(ENOSYS)?.limits();
    if !limits.rseq || !kernel.same_cpu_numbers.load(Ordering::Relaxed) {
        return Err(ENOSYS);
    }
    if flags & !UNREGISTER != 0 || len < SIZE || addr % u64::from(SIZE) != 0 {
        return Err(EINVAL);
    }
    if addr.checked_add(len.into()).is_none_or(|e| e > limits.user_max) {
        return Err(EFAULT);
    }
    cx.reply = Reply::PassThrough;
    Ok(0)
}
