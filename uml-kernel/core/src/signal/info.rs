//! `siginfo_t` (sigaction(2)) as bytes.

use crate::task::Task;

/// Size of `siginfo_t`.
pub const SIGINFO_SIZE: usize = 128;

/// `si_code` values used by the kernel.
pub const SI_USER: i32 = 0;
pub const SI_KERNEL: i32 = 0x80;
pub const SI_QUEUE: i32 = -1;
pub const SI_TIMER: i32 = -2;
pub const SI_TKILL: i32 = -6;
pub const SEGV_MAPERR: i32 = 1;
pub const SEGV_ACCERR: i32 = 2;
pub const CLD_EXITED: i32 = 1;
pub const CLD_KILLED: i32 = 2;
pub const CLD_DUMPED: i32 = 3;
pub const CLD_TRAPPED: i32 = 4;
pub const CLD_STOPPED: i32 = 5;
pub const CLD_CONTINUED: i32 = 6;

/// The variable part of `siginfo_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigFields {
    /// kill(2), tgkill(2), SI_KERNEL: sender.
    Kill { pid: i32, uid: u32 },
    /// sigqueue(3), mq_notify(3): sender and value.
    Queue { pid: i32, uid: u32, value: u64 },
    /// POSIX timers: timer id, overrun count, value.
    Timer { id: i32, overrun: i32, value: u64 },
    /// SIGCHLD: child, its user, status, times in clock ticks.
    Child { pid: i32, uid: u32, status: i32, utime: i64, stime: i64 },
    /// Faults: the address.
    Fault { addr: u64 },
    /// SIGIO/SIGPOLL.
    Poll { band: i64, fd: i32 },
    /// SIGSYS of a guest seccomp filter.
    Sys { addr: u64, nr: i32, arch: u32 },
    /// Verbatim bytes after the three leading ints and padding (rt_sigqueueinfo(2)).
    Raw([u8; 112]),
}

/// A signal with its information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigInfo {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pub fields: SigFields,
}

impl SigInfo {
    /// A signal sent by the kernel itself (SI_KERNEL).
    pub fn kernel(signo: i32) -> SigInfo {
        SigInfo { signo, errno: 0, code: SI_KERNEL, fields: SigFields::Kill { pid: 0, uid: 0 } }
    }

    /// A signal sent by `task` with kill(2) (SI_USER).
    pub fn user(signo: i32, task: &Task) -> SigInfo {
        let fields = SigFields::Kill { pid: task.process.pid, uid: task.cred().uid };
        SigInfo { signo, errno: 0, code: SI_USER, fields }
    }

    /// A fault at `addr`.
    pub fn fault(signo: i32, code: i32, addr: u64) -> SigInfo {
        SigInfo { signo, errno: 0, code, fields: SigFields::Fault { addr } }
    }

    /// The 128 bytes a program sees.
    pub fn to_bytes(&self) -> [u8; SIGINFO_SIZE] {
        let mut b = [0u8; SIGINFO_SIZE];
        let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
        put(0, &self.signo.to_le_bytes());
        put(4, &self.errno.to_le_bytes());
        put(8, &self.code.to_le_bytes());
        match self.fields {
            SigFields::Kill { pid, uid } => {
                put(16, &pid.to_le_bytes());
                put(20, &uid.to_le_bytes());
            }
            SigFields::Queue { pid, uid, value } => {
                put(16, &pid.to_le_bytes());
                put(20, &uid.to_le_bytes());
                put(24, &value.to_le_bytes());
            }
            SigFields::Timer { id, overrun, value } => {
                put(16, &id.to_le_bytes());
                put(20, &overrun.to_le_bytes());
                put(24, &value.to_le_bytes());
            }
            SigFields::Child { pid, uid, status, utime, stime } => {
                put(16, &pid.to_le_bytes());
                put(20, &uid.to_le_bytes());
                put(24, &status.to_le_bytes());
                put(32, &utime.to_le_bytes());
                put(40, &stime.to_le_bytes());
            }
            SigFields::Fault { addr } => put(16, &addr.to_le_bytes()),
            SigFields::Poll { band, fd } => {
                put(16, &band.to_le_bytes());
                put(24, &fd.to_le_bytes());
            }
            SigFields::Sys { addr, nr, arch } => {
                put(16, &addr.to_le_bytes());
                put(24, &nr.to_le_bytes());
                put(28, &arch.to_le_bytes());
            }
            SigFields::Raw(raw) => put(16, &raw),
        }
        b
    }

    /// What rt_sigqueueinfo(2) was given.
    pub fn from_bytes(b: &[u8; SIGINFO_SIZE]) -> SigInfo {
        let int = |at: usize| i32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let mut raw = [0; 112];
        raw.copy_from_slice(&b[16..]);
        SigInfo { signo: int(0), errno: int(4), code: int(8), fields: SigFields::Raw(raw) }
    }

    /// As the programs of `task` see it: processes and users by the numbers of its namespaces.
    pub fn seen_by(mut self, task: &Task) -> SigInfo {
        let (SigFields::Kill { pid, uid }
        | SigFields::Queue { pid, uid, .. }
        | SigFields::Child { pid, uid, .. }) = &mut self.fields
        else {
            return self;
        };
        let users = task.cred().user_ns.clone();
        if *pid > 0 {
            *pid = task.show_pid(*pid);
        }
        *uid = users.uid(*uid);
        self
    }

    /// Pid of the sender, where the signal has one.
    pub fn sender(&self) -> i32 {
        match self.fields {
            SigFields::Kill { pid, .. }
            | SigFields::Queue { pid, .. }
            | SigFields::Child { pid, .. } => pid,
            _ => 0,
        }
    }
}
