//! The seccomp filter of guest processes, as a BPF program (seccomp(2)).

use std::ops::Range;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

impl Insn {
    /// Memory image.
    pub fn to_bytes(self) -> [u8; 8] {
        let mut b = [0; 8];
        b[..2].copy_from_slice(&self.code.to_ne_bytes());
        (b[2], b[3]) = (self.jt, self.jf);
        b[4..].copy_from_slice(&self.k.to_ne_bytes());
        b
    }
}

const LD_ABS: u16 = 0x20;
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const RET: u16 = 0x06;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_TRAP: u32 = 0x0003_0000;
const RET_NOTIF: u32 = 0x7fc0_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// AUDIT_ARCH_X86_64.
pub const ARCH: u32 = 0xc000_003e;
/// Bit of x32 call numbers.
pub const X32_BIT: u32 = 0x4000_0000;

/// Call numbers below this are told apart one by one.
pub const NR_MAX: u32 = 512;

/// Calls that a probe of all calls cannot make: they end or derail their caller.
pub const NEVER_PROBED: [i64; 3] = [libc::SYS_rt_sigreturn, libc::SYS_exit, libc::SYS_exit_group];

/// Calls about whose arguments no outer filter has reason to care: descriptors, buffers,
/// lengths, clocks, the caller's own state.
pub const PLAIN: [libc::c_long; 106] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_stat,
    libc::SYS_fstat,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_lseek,
    libc::SYS_munmap,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_access,
    libc::SYS_pipe,
    libc::SYS_select,
    libc::SYS_sched_yield,
    libc::SYS_madvise,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_pause,
    libc::SYS_nanosleep,
    libc::SYS_getitimer,
    libc::SYS_alarm,
    libc::SYS_setitimer,
    libc::SYS_getpid,
    libc::SYS_sendfile,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_exit,
    libc::SYS_wait4,
    libc::SYS_uname,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_getdents,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_readlink,
    libc::SYS_umask,
    libc::SYS_gettimeofday,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_getuid,
    libc::SYS_getgid,
    libc::SYS_geteuid,
    libc::SYS_getegid,
    libc::SYS_getppid,
    libc::SYS_getpgrp,
    libc::SYS_getgroups,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigsuspend,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_time,
    libc::SYS_futex,
    libc::SYS_sched_getaffinity,
    libc::SYS_epoll_wait,
    libc::SYS_getdents64,
    libc::SYS_set_tid_address,
    libc::SYS_timer_settime,
    libc::SYS_timer_gettime,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit_group,
    libc::SYS_epoll_ctl,
    libc::SYS_waitid,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_pselect6,
    libc::SYS_ppoll,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_epoll_pwait,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_eventfd2,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_copy_file_range,
    libc::SYS_statx,
    libc::SYS_epoll_pwait2,
];

/// A filter under which one call traps and everything else is allowed.
pub fn trap_one(nr: u32) -> Vec<Insn> {
    let mut a = Asm::default();
    a.load(NR);
    a.ret_if_eq(nr, RET_TRAP);
    a.ret(RET_ALLOW);
    a.code
}

/// A filter under which every call notifies but those that end the caller.
pub fn notify_all() -> Vec<Insn> {
    let mut a = Asm::default();
    a.load(NR);
    a.ret_if_eq(libc::SYS_exit as u32, RET_ALLOW);
    a.ret_if_eq(libc::SYS_exit_group as u32, RET_ALLOW);
    a.ret(RET_NOTIF);
    a.code
}

// Offsets in struct seccomp_data.
const NR: u32 = 0;
const ARCH_OFF: u32 = 4;
const IP_LO: u32 = 8;
const IP_HI: u32 = 12;
const ARG0_LO: u32 = 16;
const ARG0_HI: u32 = 20;
const ARG1_LO: u32 = 24;
const ARG1_HI: u32 = 28;

/// Whose filter it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role<'a> {
    /// The notify backend: guest calls notify, except the listed numbers, which trap. The
    /// stub's calls are confirmed by notification.
    Notify { trap: &'a [u32] },
    /// The trap backend's mapper thread, which never leaves the stub; also the lower of the
    /// two filters of its guest threads.
    Mapper,
    /// The trap backend's guest threads.
    Thread,
}

#[derive(Default)]
struct Asm {
    code: Vec<Insn>,
}

impl Asm {
    fn load(&mut self, off: u32) {
        self.code.push(Insn { code: LD_ABS, jt: 0, jf: 0, k: off });
    }

    fn ret(&mut self, action: u32) {
        self.code.push(Insn { code: RET, jt: 0, jf: 0, k: action });
    }

    /// `if A == k { return action }`.
    fn ret_if_eq(&mut self, k: u32, action: u32) {
        self.code.push(Insn { code: JEQ, jt: 0, jf: 1, k });
        self.ret(action);
    }

    /// Returns `action` if each word of the call at an offset has the value given.
    fn ret_if(&mut self, conds: &[(u32, u32)], action: u32) {
        // Each condition is a load and a comparison; the return is the last instruction.
        let mut left = conds.len() * 2 + 1;
        for &(off, k) in conds {
            left -= 2;
            self.load(off);
            self.code.push(Insn { code: JEQ, jt: 0, jf: left as u8, k });
        }
        self.ret(action);
    }

    fn allow(&mut self, nr: libc::c_long) {
        self.ret_if(&[(NR, nr as u32)], RET_ALLOW);
    }
}

/// Builds the filter. `stub` is the guest address range of the stub's code, inside one
/// 4 GiB block.
pub fn build(stub: Range<u64>, role: Role<'_>) -> Vec<Insn> {
    let mut a = Asm::default();
    // Another architecture's entry: the handler reports it with its `si_arch`.
    a.load(ARCH_OFF);
    a.code.push(Insn { code: JEQ, jt: 1, jf: 0, k: ARCH });
    a.ret(RET_TRAP);

    let own = stub_part(role);
    let len = own.code.len();
    a.load(IP_HI);
    a.code.push(Insn { code: JEQ, jt: 0, jf: (len + 3) as u8, k: (stub.start >> 32) as u32 });
    a.load(IP_LO);
    a.code.push(Insn { code: JGE, jt: 0, jf: (len + 1) as u8, k: stub.start as u32 });
    a.code.push(Insn { code: JGE, jt: len as u8, jf: 0, k: stub.end as u32 });
    a.code.extend(own.code);

    if let Role::Notify { trap } = role {
        a.load(NR);
        a.code.push(Insn { code: JGE, jt: 0, jf: 1, k: X32_BIT });
        a.ret(RET_TRAP);
        if trap.len() < NR_MAX as usize / 2 {
            for &nr in trap {
                a.ret_if_eq(nr, RET_TRAP);
            }
            a.ret(RET_NOTIF);
        } else {
            // Most trap: name the others.
            for nr in (0..NR_MAX).filter(|nr| !trap.contains(nr)) {
                a.ret_if_eq(nr, RET_NOTIF);
            }
            a.ret(RET_TRAP);
        }
    } else {
        a.ret(RET_TRAP);
    }
    a.code
}

/// What calls from the stub's own code do. Guest code can jump there with registers of its
/// choice, so what is allowed must do no harm with any.
fn stub_part(role: Role<'_>) -> Asm {
    let mut a = Asm::default();
    let nr = |nr: libc::c_long| (NR, nr as u32);
    a.allow(libc::SYS_rt_sigreturn);
    // Waking is harmless whatever the address: no futex of the kernel is in memory shared
    // with guests except those of the slots, whose waiters check.
    a.ret_if(&[nr(libc::SYS_futex), (ARG1_LO, libc::FUTEX_WAKE as u32)], RET_ALLOW);
    for code in 0x1001..=0x1004 {
        a.ret_if(&[nr(libc::SYS_arch_prctl), (ARG0_LO, code)], RET_ALLOW);
    }
    let pdeathsig = [
        nr(libc::SYS_prctl),
        (ARG0_LO, libc::PR_SET_PDEATHSIG as u32),
        (ARG0_HI, 0),
        (ARG1_LO, libc::SIGKILL as u32),
        (ARG1_HI, 0),
    ];
    if role != Role::Thread {
        a.ret_if(&pdeathsig, RET_ALLOW);
        let getppid = [nr(libc::SYS_getppid), (ARG0_LO, uml_stub::REAL_GETPPID as u32)];
        a.ret_if(&getppid, RET_ALLOW);
        a.allow(libc::SYS_exit_group);
    }
    // Waiting keeps nobody but the caller.
    a.ret_if(&[nr(libc::SYS_futex), (ARG1_LO, libc::FUTEX_WAIT as u32)], RET_ALLOW);
    if let Role::Notify { .. } = role {
        a.ret(RET_NOTIF);
        return a;
    }
    a.allow(libc::SYS_exit);
    if role == Role::Mapper {
        for call in MAPPER_CALLS {
            a.allow(call);
        }
        a.ret_if(&[nr(libc::SYS_seccomp), (ARG0_LO, 1), (ARG1_LO, 0)], RET_ALLOW);
    }
    a.ret(RET_KILL_PROCESS);
    a
}

/// What the mapper does for the kernel.
const MAPPER_CALLS: [libc::c_long; 12] = [
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_clone,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the few instructions the builder uses.
    fn run(prog: &[Insn], nr: u32, arch: u32, ip: u64, args: [u64; 2]) -> u32 {
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&nr.to_le_bytes());
        data[4..8].copy_from_slice(&arch.to_le_bytes());
        data[8..16].copy_from_slice(&ip.to_le_bytes());
        data[16..24].copy_from_slice(&args[0].to_le_bytes());
        data[24..32].copy_from_slice(&args[1].to_le_bytes());
        let (mut pc, mut acc) = (0, 0);
        loop {
            let i = prog[pc];
            pc += 1;
            match i.code {
                LD_ABS => {
                    let o = i.k as usize;
                    acc = u32::from_le_bytes(data[o..o + 4].try_into().unwrap());
                }
                JEQ => pc += usize::from(if acc == i.k { i.jt } else { i.jf }),
                JGE => pc += usize::from(if acc >= i.k { i.jt } else { i.jf }),
                RET => return i.k,
                c => panic!("opcode {c:#x}"),
            }
        }
    }

    const STUB: Range<u64> = 0x7fff_bf00_0000..0x7fff_bf00_1000;

    #[test]
    fn guest_calls_notify_or_trap() {
        let p = build(STUB, Role::Notify { trap: &[56, 9] });
        for ip in
            [0x40_0000, 0x7fff_bf00_1000, 0x7fff_beff_ffff, 0xbf00_0010, 0xffff_ffff_ff60_0002]
        {
            assert_eq!(run(&p, 39, ARCH, ip, [0; 2]), RET_NOTIF, "{ip:#x}");
            assert_eq!(run(&p, 15, ARCH, ip, [0; 2]), RET_NOTIF);
            assert_eq!(run(&p, 157, ARCH, ip, [1, 9]), RET_NOTIF);
            assert_eq!(run(&p, 202, ARCH, ip, [0, 1]), RET_NOTIF);
            assert_eq!(run(&p, 56, ARCH, ip, [0; 2]), RET_TRAP);
            assert_eq!(run(&p, 9, ARCH, ip, [0; 2]), RET_TRAP);
            assert_eq!(run(&p, 39 | X32_BIT, ARCH, ip, [0; 2]), RET_TRAP);
            assert_eq!(run(&p, 20, 0x4000_0003, ip, [0; 2]), RET_TRAP);
        }
    }

    #[test]
    fn most_calls_trap_under_an_outer_filter() {
        let hidden: Vec<u32> = (0..NR_MAX).filter(|nr| !PLAIN.contains(&(*nr).into())).collect();
        let p = build(STUB, Role::Notify { trap: &hidden });
        let f = |nr| run(&p, nr, ARCH, 0x40_0000, [0; 2]);
        for nr in [0, 1, 39, 202, 231, 281, 332] {
            assert_eq!(f(nr), RET_NOTIF, "{nr}");
        }
        for nr in [2, 9, 56, 101, 135, 165, 257, 321, 435, 450, 511, 512, 2000, u32::MAX] {
            assert_eq!(f(nr), RET_TRAP, "{nr}");
        }
        assert!(p.len() < 4096);
    }

    #[test]
    fn stub_calls_are_confirmed() {
        let p = build(STUB, Role::Notify { trap: &[56, 9] });
        for ip in [STUB.start, STUB.start + 5, STUB.end - 1] {
            let f = |nr, a, b| run(&p, nr, ARCH, ip, [a, b]);
            assert_eq!(f(15, 0, 0), RET_ALLOW);
            assert_eq!(f(157, 1, 9), RET_ALLOW);
            assert_eq!(f(157, 1, 0), RET_NOTIF);
            assert_eq!(f(157, 1, 9 | 1 << 32), RET_NOTIF);
            assert_eq!(f(157, 4, 9), RET_NOTIF);
            assert_eq!(f(202, 0x1000, 1), RET_ALLOW);
            assert_eq!(f(202, 0x1000, 0), RET_ALLOW);
            assert_eq!(f(202, 0x1000, 9), RET_NOTIF);
            assert_eq!(f(158, 0x1000, 0), RET_NOTIF);
            for code in 0x1001..=0x1004 {
                assert_eq!(f(158, code, 0), RET_ALLOW);
            }
            assert_eq!(f(158, 0x1005, 0), RET_NOTIF);
            assert_eq!(f(110, 0x1001, 0), RET_ALLOW);
            for nr in [9, 10, 11, 56, 57, 59, 62, 101, 110, 317, 39 | X32_BIT] {
                assert_eq!(f(nr, 0, 0), RET_NOTIF, "{nr}");
            }
            assert_eq!(run(&p, 20, 0x4000_0003, ip, [0; 2]), RET_TRAP);
        }
    }
    #[test]
    fn trap_threads_can_only_report() {
        let thread = build(STUB, Role::Thread);
        let mapper = build(STUB, Role::Mapper);
        for ip in [0x40_0000, STUB.end] {
            for nr in [0, 15, 39, 56, 202, 231] {
                assert_eq!(run(&thread, nr, ARCH, ip, [0; 2]), RET_TRAP);
                assert_eq!(run(&mapper, nr, ARCH, ip, [0; 2]), RET_TRAP);
            }
        }
        for nr in 0..500 {
            let allowed = matches!(nr, 15 | 60 | 202);
            let want = if allowed { RET_ALLOW } else { RET_KILL_PROCESS };
            assert_eq!(run(&thread, nr, ARCH, STUB.start, [0; 2]), want, "{nr}");
        }
        for nr in [9, 10, 11, 25, 28, 56, 60, 231] {
            assert_eq!(run(&mapper, nr, ARCH, STUB.start, [0; 2]), RET_ALLOW, "{nr}");
        }
        assert_eq!(run(&mapper, 317, ARCH, STUB.start, [1, 0]), RET_ALLOW);
        for (nr, args) in [(317, [1, 8]), (157, [1, 0]), (59, [0; 2]), (62, [0; 2]), (2, [0; 2])] {
            assert_eq!(run(&mapper, nr, ARCH, STUB.start, args), RET_KILL_PROCESS, "{nr}");
        }
        // What a thread may do, the filter below it lets through.
        for nr in 0..500 {
            for a in [[0, 0], [0, 1], [0x1001, 0], [0x1004, 0], [1, 9]] {
                if run(&thread, nr, ARCH, STUB.start, a) == RET_ALLOW {
                    assert_eq!(run(&mapper, nr, ARCH, STUB.start, a), RET_ALLOW);
                }
            }
        }
    }
}
