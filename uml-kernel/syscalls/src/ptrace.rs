//! ptrace(2): the requests of a tracer.

use std::sync::Arc;

use uml_abi::errno::*;
use uml_abi::{Errno, Result};
use uml_core::ctx::Ctx;
use uml_core::ptrace::{self, Place, Resume, Stop, option};
use uml_core::signal::{NSIG, SIGINFO_SIZE, SigInfo, kill_process};
use uml_core::task::{Cap, Task};
use uml_core::user::{self, IoVec};
use uml_platform::Regs;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[call!(
    101,
    "ptrace",
    ptrace(Int, Pid, Addr, Addr),
    Never,
    Partial(
        "no block steps, thread areas and filter dumps; hardware breakpoints as the host allows"
    )
)];

const TRACEME: u32 = 0;
const PEEKTEXT: u32 = 1;
const PEEKDATA: u32 = 2;
const PEEKUSER: u32 = 3;
const POKETEXT: u32 = 4;
const POKEDATA: u32 = 5;
const POKEUSER: u32 = 6;
const CONT: u32 = 7;
const KILL: u32 = 8;
const SINGLESTEP: u32 = 9;
const GETREGS: u32 = 12;
const SETREGS: u32 = 13;
const GETFPREGS: u32 = 14;
const SETFPREGS: u32 = 15;
const ATTACH: u32 = 16;
const DETACH: u32 = 17;
const SYSCALL: u32 = 24;
const ARCH_PRCTL: u32 = 30;
const SYSEMU: u32 = 31;
const SYSEMU_SINGLESTEP: u32 = 32;
const SETOPTIONS: u32 = 0x4200;
const GETEVENTMSG: u32 = 0x4201;
const GETSIGINFO: u32 = 0x4202;
const SETSIGINFO: u32 = 0x4203;
const GETREGSET: u32 = 0x4204;
const SETREGSET: u32 = 0x4205;
const SEIZE: u32 = 0x4206;
const INTERRUPT: u32 = 0x4207;
const LISTEN: u32 = 0x4208;
const PEEKSIGINFO: u32 = 0x4209;
const GETSIGMASK: u32 = 0x420a;
const SETSIGMASK: u32 = 0x420b;
const SECCOMP_GET_FILTER: u32 = 0x420c;
const SECCOMP_GET_METADATA: u32 = 0x420d;
const GET_SYSCALL_INFO: u32 = 0x420e;
const GET_RSEQ_CONFIGURATION: u32 = 0x420f;

fn ptrace(cx: &mut Ctx<'_>, request: u64, pid: i32, addr: u64, data: u64) -> Result<u64> {
    // The request is a long; only small numbers mean something.
    let request = u32::try_from(request).unwrap_or(u32::MAX);
    let me = cx.task.clone();
    if request == TRACEME {
        ptrace::trace_me(&me)?;
        return Ok(0);
    }
    let tid = if pid > 0 { me.kernel_pid(pid)? } else { return Err(ESRCH) };
    match request {
        ATTACH | SEIZE => {
            if request == SEIZE {
                if addr != 0 {
                    return Err(EIO);
                }
                check_options(&me, data, EIO)?;
            }
            let tracee = me.kernel().tree.read().task(tid).ok_or(ESRCH)?;
            let options = if request == SEIZE { data as u32 } else { 0 };
            ptrace::attach(&me, &tracee, request == SEIZE, options)?;
            return Ok(0);
        }
        _ => {}
    }
    let tracee = ptrace::tracee_of(&me, tid)?;
    match request {
        KILL => {
            kill_process(&me.kernel(), &tracee.process);
            return Ok(0);
        }
        INTERRUPT => {
            if !tracee.ptrace.seized() {
                return Err(EIO);
            }
            tracee.trace_interrupt();
            return Ok(0);
        }
        _ => {}
    }
    let stop = tracee.ptrace.stopped().ok_or(ESRCH)?;
    with_stopped(cx, request, &tracee, &stop, addr, data)
}

/// PTRACE_O_*: `unknown` for bits that do not exist. Who suspends filters has CAP_SYS_ADMIN and none itself: `EPERM`.
fn check_options(me: &Task, options: u64, unknown: Errno) -> Result<()> {
    if options & !u64::from(option::OFFERED) != 0 {
        return Err(unknown);
    }
    if options & u64::from(option::SUSPEND_SECCOMP) != 0 {
        require_unfiltered(me, EPERM)?;
    }
    Ok(())
}

/// CAP_SYS_ADMIN, and no filters that somebody may have meant to keep the caller from this.
fn require_unfiltered(me: &Task, refusal: Errno) -> Result<()> {
    let free = me.seccomp.mode() == uml_core::seccomp::DISABLED && !me.ptrace.suspends_seccomp();
    if me.cred().capable(Cap::SysAdmin) && free { Ok(()) } else { Err(refusal) }
}

/// A filter of a tracee, counted from the one that was installed first: `EINVAL` where it has none, `ENOENT` when there
/// are fewer.
fn tracer_filter(me: &Task, tracee: &Task, n: u64) -> Result<(Vec<u8>, u64)> {
    require_unfiltered(me, EACCES)?;
    if tracee.seccomp.mode() != uml_core::seccomp::FILTER {
        return Err(EINVAL);
    }
    let n = usize::try_from(n).map_err(|_| ENOENT)?;
    tracee.seccomp.describe(n).ok_or(ENOENT)
}

fn with_stopped(
    cx: &mut Ctx<'_>,
    request: u32,
    tracee: &Arc<Task>,
    stop: &Stop,
    addr: u64,
    data: u64,
) -> Result<u64> {
    let me = cx.task.clone();
    let resume = |how: Resume| {
        if data > NSIG as u64 {
            return Err(EIO);
        }
        if tracee.trace_resume(how, data as i32) { Ok(0) } else { Err(ESRCH) }
    };
    let change = |f: &mut dyn FnMut(&mut Stop)| tracee.ptrace.change(|s| f(s)).ok_or(ESRCH);
    match request {
        CONT => resume(Resume::Cont),
        SYSCALL => resume(Resume::Syscall),
        SINGLESTEP => resume(Resume::Step),
        SYSEMU => resume(Resume::Sysemu),
        SYSEMU_SINGLESTEP => resume(Resume::SysemuStep),
        DETACH => {
            if data > NSIG as u64 {
                return Err(EIO);
            }
            if ptrace::detach(tracee, data as i32) { Ok(0) } else { Err(ESRCH) }
        }
        LISTEN => {
            if !tracee.ptrace.seized() || !tracee.trace_listen() {
                return Err(EIO);
            }
            Ok(0)
        }
        PEEKTEXT | PEEKDATA => {
            let mut word = [0u8; 8];
            if tracee.mm()?.read_foreign(addr, &mut word) != 8 {
                return Err(EIO);
            }
            user::write_bytes(&me, data, &word)?;
            Ok(0)
        }
        POKETEXT | POKEDATA => {
            let word = data.to_ne_bytes();
            if tracee.mm()?.poke(addr, &word) == 8 { Ok(0) } else { Err(EIO) }
        }
        PEEKUSER => {
            let value = peek_user(tracee, stop, addr)?;
            user::write_obj(&me, data, &value)?;
            Ok(0)
        }
        POKEUSER => poke_user(tracee, stop, addr, data),
        GETREGS => {
            user::write_array(&me, data, &words(&stop.regs))?;
            Ok(0)
        }
        SETREGS => {
            let w: Vec<u64> = user::read_array(&me, data, WORDS)?;
            set_regs(tracee, stop, &w)
        }
        GETFPREGS => {
            user::write_bytes(&me, data, &xsave(&stop.xstate)[..FXSAVE])?;
            Ok(0)
        }
        SETFPREGS => set_xstate(tracee, stop, &user::read_bytes(&me, data, FXSAVE)?),
        GETREGSET | SETREGSET => regset(&me, tracee, stop, request == SETREGSET, addr, data),
        SETOPTIONS => {
            check_options(&me, data, EINVAL)?;
            tracee.ptrace.set_options(data as u32);
            Ok(0)
        }
        GETEVENTMSG => {
            user::write_obj(&me, data, &tracee.ptrace.message())?;
            Ok(0)
        }
        GETSIGINFO => {
            let info = stop.info.ok_or(EINVAL)?;
            user::write_bytes(&me, data, &info.seen_by(tracee).to_bytes())?;
            Ok(0)
        }
        SETSIGINFO => {
            let b: [u8; SIGINFO_SIZE] = user::read_obj(&me, data)?;
            stop.info.ok_or(EINVAL)?;
            let info = SigInfo::from_bytes(&b);
            change(&mut |s| s.info = Some(info))?;
            Ok(0)
        }
        PEEKSIGINFO => peek_siginfo(&me, tracee, addr, data),
        GETSIGMASK | SETSIGMASK => {
            if addr != 8 {
                return Err(EINVAL);
            }
            if request == GETSIGMASK {
                user::write_obj(&me, data, &tracee.blocked())?;
            } else {
                tracee.set_blocked(user::read_obj(&me, data)?);
            }
            Ok(0)
        }
        SECCOMP_GET_FILTER => {
            let (program, _) = tracer_filter(&me, tracee, addr)?;
            if data != 0 {
                user::write_bytes(&me, data, &program)?;
            }
            Ok(program.len() as u64 / 8)
        }
        SECCOMP_GET_METADATA => {
            require_unfiltered(&me, EACCES)?;
            // `struct seccomp_metadata`: which filter, and its flags.
            let n = (addr as usize).min(16);
            if n < 8 {
                return Err(EINVAL);
            }
            let which: u64 = user::read_obj(&me, data)?;
            let (_, flags) = tracer_filter(&me, tracee, which)?;
            let answer = [which.to_le_bytes(), flags.to_le_bytes()].concat();
            user::write_bytes(&me, data, &answer[..n])?;
            Ok(n as u64)
        }
        GET_SYSCALL_INFO => syscall_info(&me, stop, addr, data),
        GET_RSEQ_CONFIGURATION => {
            let rseq = tracee.personal.lock().rseq.unwrap_or_default();
            let mut b = [0u8; 24];
            b[..8].copy_from_slice(&rseq.0.to_le_bytes());
            b[8..12].copy_from_slice(&rseq.1.to_le_bytes());
            b[12..16].copy_from_slice(&rseq.2.to_le_bytes());
            let n = b.len().min(addr as usize);
            user::write_bytes(&me, data, &b[..n])?;
            Ok(24)
        }
        ARCH_PRCTL => arch_prctl(&me, tracee, stop, addr, data),
        _ => Err(EIO),
    }
}

/// Registers in `struct user_regs_struct`.
const WORDS: usize = 27;

/// The registers as that structure has them.
fn words(r: &Regs) -> [u64; WORDS] {
    [
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx,
        r.rsi, r.rdi, r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds,
        r.es, r.fs, r.gs,
    ]
}

fn from_words(w: &[u64]) -> Regs {
    let at = |i: usize| w.get(i).copied().unwrap_or(0);
    Regs {
        r15: at(0),
        r14: at(1),
        r13: at(2),
        r12: at(3),
        rbp: at(4),
        rbx: at(5),
        r11: at(6),
        r10: at(7),
        r9: at(8),
        r8: at(9),
        rax: at(10),
        rcx: at(11),
        rdx: at(12),
        rsi: at(13),
        rdi: at(14),
        orig_rax: at(15),
        rip: at(16),
        cs: at(17),
        eflags: at(18),
        rsp: at(19),
        ss: at(20),
        fs_base: at(21),
        gs_base: at(22),
        ds: at(23),
        es: at(24),
        fs: at(25),
        gs: at(26),
    }
}

/// Replaces the registers; `EIO` for segment bases outside the user half and for selectors of no user segment.
fn set_regs(tracee: &Task, stop: &Stop, new: &[u64]) -> Result<u64> {
    let mut w = words(&stop.regs);
    w[..new.len()].copy_from_slice(new);
    let regs = from_words(&w);
    let user = |a: u64| a < 1 << 47;
    if !user(regs.fs_base) || !user(regs.gs_base) || regs.cs & 3 != 3 || regs.ss & 3 != 3 {
        return Err(EIO);
    }
    if regs != stop.regs {
        let set = |s: &mut Stop| {
            s.regs = regs;
            s.regs_changed = true;
        };
        tracee.ptrace.change(set).ok_or(ESRCH)?;
    }
    Ok(0)
}

/// Bytes of `struct user`, and where its debug registers are.
const USER_SIZE: u64 = 912;
const DEBUG_REGS: u64 = 848;

/// Which debug register the word at `addr` of `struct user` is.
fn debug_register(addr: u64) -> Option<usize> {
    let word = addr.checked_sub(DEBUG_REGS)? as usize / 8;
    (word < 8).then_some(word)
}

fn peek_user(tracee: &Task, stop: &Stop, addr: u64) -> Result<u64> {
    if addr & 7 != 0 || addr >= USER_SIZE {
        return Err(EIO);
    }
    if let Some(n) = debug_register(addr) {
        return Ok(tracee.ptrace.debug_register(n));
    }
    // Beyond the registers: sizes that nobody fills in.
    Ok(words(&stop.regs).get(addr as usize / 8).copied().unwrap_or(0))
}

fn poke_user(tracee: &Task, stop: &Stop, addr: u64, data: u64) -> Result<u64> {
    if addr & 7 != 0 || addr >= USER_SIZE {
        return Err(EIO);
    }
    let i = addr as usize / 8;
    if i < WORDS {
        let mut w = words(&stop.regs);
        w[i] = data;
        return set_regs(tracee, stop, &w);
    }
    let n = debug_register(addr).ok_or(EIO)?;
    ptrace::set_debug_register(tracee, n, data).map(|()| 0)
}

const FXSAVE: usize = 512;
/// Bytes 464 to 511 of the legacy image are the software's.
const SOFTWARE: usize = 464;

/// The state as PTRACE_GETREGSET has it: without the frame's closing magic, and with the mask of features where the
/// frame describes itself (<asm/ptrace-abi.h>, `xstate_fx_sw_bytes`).
fn xsave(frame: &[u8]) -> Vec<u8> {
    let word = |at: usize| {
        let b = frame.get(at..at + 4).unwrap_or(&[0; 4]);
        u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize
    };
    let size = word(SOFTWARE + 16).clamp(FXSAVE, frame.len().max(FXSAVE));
    let mut out = frame.to_vec();
    out.resize(size, 0);
    let features = frame.get(SOFTWARE + 8..SOFTWARE + 16).unwrap_or(&[0; 8]).to_vec();
    out[SOFTWARE..FXSAVE].fill(0);
    out[SOFTWARE..SOFTWARE + 8].copy_from_slice(&features);
    out
}

/// Replaces the beginning of the extended state, all but the software's bytes.
fn set_xstate(tracee: &Task, stop: &Stop, new: &[u8]) -> Result<u64> {
    let mut state = stop.xstate.clone();
    let n = new.len().min(xsave(&stop.xstate).len());
    if state.len() < n || n < FXSAVE {
        return Err(EINVAL);
    }
    let software = state[SOFTWARE..FXSAVE].to_vec();
    state[..n].copy_from_slice(&new[..n]);
    state[SOFTWARE..FXSAVE].copy_from_slice(&software);
    // MXCSR's reserved bits (legacy image, offset 24).
    if state[26] != 0 || state[27] != 0 {
        return Err(EINVAL);
    }
    if n == FXSAVE && state.len() > FXSAVE + 8 {
        // The legacy part counts from now on: its bits of XSTATE_BV.
        state[FXSAVE] |= 3;
    }
    let set = |s: &mut Stop| {
        s.xstate = state;
        s.xstate_changed = true;
    };
    tracee.ptrace.change(set).ok_or(ESRCH)?;
    Ok(0)
}

fn regset(me: &Task, tracee: &Task, stop: &Stop, set: bool, kind: u64, iov: u64) -> Result<u64> {
    const PRSTATUS: u64 = 1;
    const PRFPREG: u64 = 2;
    const X86_XSTATE: u64 = 0x202;
    let v: IoVec = user::read_obj(me, iov)?;
    let current: Vec<u8> = match kind {
        PRSTATUS => words(&stop.regs).as_bytes().to_vec(),
        PRFPREG => xsave(&stop.xstate)[..FXSAVE].to_vec(),
        X86_XSTATE => xsave(&stop.xstate),
        _ => return Err(EINVAL),
    };
    let n = current.len().min(usize::try_from(v.len).unwrap_or(usize::MAX));
    if kind == PRSTATUS && v.len & 7 != 0 {
        return Err(EINVAL);
    }
    if set {
        let new = user::read_bytes(me, v.base, n)?;
        if kind == PRSTATUS {
            let w: Vec<u64> = new
                .chunks_exact(8)
                .map(|c| c.iter().rev().fold(0, |a, b| a << 8 | u64::from(*b)))
                .collect();
            set_regs(tracee, stop, &w)?;
        } else {
            // The whole set, as a part of it could not be checked.
            if n < current.len() {
                return Err(EFAULT);
            }
            set_xstate(tracee, stop, &new)?;
        }
    } else {
        user::write_bytes(me, v.base, &current[..n])?;
    }
    user::write_obj(me, iov, &IoVecOut { base: v.base, len: n as u64 })?;
    Ok(0)
}

/// `struct iovec` for writing back.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct IoVecOut {
    base: u64,
    len: u64,
}

/// `struct ptrace_peeksiginfo_args`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct PeekArgs {
    off: u64,
    flags: u32,
    nr: i32,
}

fn peek_siginfo(me: &Task, tracee: &Task, args: u64, data: u64) -> Result<u64> {
    const SHARED: u32 = 1;
    let a: PeekArgs = user::read_obj(me, args)?;
    if a.flags & !SHARED != 0 || a.nr < 0 {
        return Err(EINVAL);
    }
    let queue: Vec<SigInfo> = if a.flags & SHARED != 0 {
        tracee.process.sighand.lock().pending.queue.iter().copied().collect()
    } else {
        tracee.pending.lock().queue.iter().copied().collect()
    };
    let start = usize::try_from(a.off).unwrap_or(usize::MAX).min(queue.len());
    let mut done = 0;
    for info in queue[start..].iter().take(a.nr as usize) {
        let at = data.wrapping_add(done * SIGINFO_SIZE as u64);
        match user::write_bytes(me, at, &info.seen_by(tracee).to_bytes()) {
            Ok(()) => done += 1,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `struct ptrace_syscall_info`: as much of it as fits, and its whole size.
fn syscall_info(me: &Task, stop: &Stop, size: u64, data: u64) -> Result<u64> {
    const ARCH: u32 = 0xc000_003e;
    let mut b = [0u8; 88];
    let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
    put(4, &ARCH.to_le_bytes());
    put(8, &stop.regs.rip.to_le_bytes());
    put(16, &stop.regs.rsp.to_le_bytes());
    let mut call = |nr: u64, args: &[u64; 6]| {
        put(24, &nr.to_le_bytes());
        for (i, a) in args.iter().enumerate() {
            put(32 + 8 * i, &a.to_le_bytes());
        }
    };
    let (op, used) = match stop.place {
        Place::Other => (0, 24),
        Place::Entry { nr, args } => {
            call(nr, &args);
            (1, 80)
        }
        Place::Exit { .. } => {
            // What the tracer may have put there counts.
            let value = stop.regs.rax as i64;
            put(24, &value.to_le_bytes());
            put(32, &[u8::from((-4095..0).contains(&value))]);
            (2, 33)
        }
        Place::Seccomp { nr, args, data } => {
            call(nr, &args);
            put(80, &data.to_le_bytes());
            (3, 84)
        }
    };
    b[0] = op;
    let n = used.min(usize::try_from(size).unwrap_or(usize::MAX));
    user::write_bytes(me, data, &b[..n])?;
    Ok(used as u64)
}

fn arch_prctl(me: &Task, tracee: &Task, stop: &Stop, addr: u64, code: u64) -> Result<u64> {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let mut w = words(&stop.regs);
    match code {
        GET_FS => user::write_obj(me, addr, &w[21])?,
        GET_GS => user::write_obj(me, addr, &w[22])?,
        SET_FS | SET_GS => {
            if addr >= 1 << 47 {
                return Err(EPERM);
            }
            w[if code == SET_FS { 21 } else { 22 }] = addr;
            set_regs(tracee, stop, &w)?;
        }
        _ => return Err(EINVAL),
    }
    Ok(0)
}
