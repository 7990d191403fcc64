//! A traced host thread: ptrace(2) requests as thin wrappers.
//!
//! The host accepts requests only from the thread that attached, and only while the tracee
//! is stopped; a tracee that was killed meanwhile answers `ESRCH`.

use std::mem::{MaybeUninit, offset_of, size_of};

use uml_abi::{Result, errno};

use crate::api::Regs;
use crate::sys::{self, last_errno};

/// Register sets: x87 and SSE as FXSAVE writes them; all extended state as XSAVE does.
pub const NT_PRFPREG: usize = 2;
pub const NT_X86_XSTATE: usize = 0x202;
const PTRACE_SYSEMU: u32 = 31;
const PTRACE_SETSIGMASK: u32 = 0x420b;

/// `struct ptrace_syscall_info`, the part for a call's entry.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SyscallInfo {
    op: u8,
    pad: [u8; 3],
    pub arch: u32,
    pub ip: u64,
    pub sp: u64,
    pub nr: u64,
    pub args: [u64; 6],
}

/// How a stopped thread goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// To its next system call, which is not executed (PTRACE_SYSEMU).
    Emulate,
    /// Executing calls.
    Native,
}

/// What a wait found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At the entry of a system call.
    Call,
    /// A signal is about to be delivered.
    Signal(i32),
    /// Stopped by [`Tracee::interrupt`].
    Attached,
    /// On its way out, with memory and registers still there; it goes on dying when resumed.
    Exiting,
    /// Dead. A thread other than its process's first is reaped.
    Dead,
}

/// A thread traced by the calling one.
#[derive(Clone, Copy)]
pub struct Tracee {
    pub tid: i32,
    /// First thread of its process, which is reaped with the process.
    leader: bool,
}

impl Tracee {
    /// Attaches to a running thread of process `pid`. It dies with the calling thread.
    pub fn seize(pid: i32, tid: i32) -> Result<Tracee> {
        let t = Tracee { tid, leader: pid == tid };
        let options =
            libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXIT;
        t.request(libc::PTRACE_SEIZE, 0, options as usize)?;
        Ok(t)
    }

    /// Attaches to a running thread for a moment; see [`crate::debug::visit`].
    pub fn visit(pid: i32, tid: i32) -> Result<Tracee> {
        let t = Tracee { tid, leader: pid == tid };
        t.request(libc::PTRACE_SEIZE, 0, 0)?;
        Ok(t)
    }

    fn request(&self, request: u32, addr: usize, data: usize) -> Result<()> {
        // SAFETY: the callers pass addresses of live objects where the request wants them.
        let r = unsafe { libc::syscall(libc::SYS_ptrace, request, self.tid, addr, data) };
        if r < 0 { Err(last_errno()) } else { Ok(()) }
    }

    /// Stops the running thread.
    pub fn interrupt(&self) -> Result<()> {
        self.request(libc::PTRACE_INTERRUPT, 0, 0)
    }

    /// Lets the thread go on untraced.
    pub fn detach(&self) -> Result<()> {
        self.request(libc::PTRACE_DETACH, 0, 0)
    }

    /// Resumes, delivering `signo` unless it is 0.
    pub fn resume(&self, how: Go, signo: i32) -> Result<()> {
        let request = if how == Go::Emulate { PTRACE_SYSEMU } else { libc::PTRACE_CONT };
        self.request(request, 0, signo as usize)
    }

    pub fn set_blocked(&self, mask: u64) -> Result<()> {
        self.request(PTRACE_SETSIGMASK, size_of::<u64>(), (&raw const mask) as usize)
    }

    pub fn regs(&self) -> Result<Regs> {
        let mut r = Regs::default();
        // `Regs` is laid out like `struct user_regs_struct`.
        self.request(libc::PTRACE_GETREGS, 0, (&raw mut r) as usize)?;
        Ok(r)
    }

    pub fn set_regs(&self, r: &Regs) -> Result<()> {
        self.request(libc::PTRACE_SETREGS, 0, std::ptr::from_ref(r) as usize)
    }

    pub fn set_rax(&self, v: i64) -> Result<()> {
        self.request(libc::PTRACE_POKEUSER, offset_of!(Regs, rax), v as usize)
    }

    /// Reads debug register `n` (0 to 7).
    pub fn debug_register(&self, n: usize) -> Result<u64> {
        let mut value = 0u64;
        self.request(libc::PTRACE_PEEKUSER, debug_offset(n), (&raw mut value) as usize)?;
        Ok(value)
    }

    pub fn set_debug_register(&self, n: usize, value: u64) -> Result<()> {
        self.request(libc::PTRACE_POKEUSER, debug_offset(n), value as usize)
    }

    /// The call at whose entry the thread is stopped (Linux 5.3).
    pub fn syscall_info(&self) -> Result<SyscallInfo> {
        const ENTRY: u8 = 1;
        let mut i = SyscallInfo::default();
        self.request(
            libc::PTRACE_GET_SYSCALL_INFO,
            size_of::<SyscallInfo>(),
            (&raw mut i) as usize,
        )?;
        if i.op == ENTRY { Ok(i) } else { Err(errno::EIO) }
    }

    /// `si_code` and `si_addr` of the signal that is about to be delivered.
    pub fn siginfo(&self) -> Result<(i32, u64)> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        self.request(libc::PTRACE_GETSIGINFO, 0, info.as_mut_ptr() as usize)?;
        // SAFETY: plain data, zeroed and then filled by the host; for signals without an
        // address the member holds other words of the union, which are as good as any.
        unsafe {
            let info = info.assume_init();
            Ok((info.si_code, info.si_addr() as u64))
        }
    }

    /// Reads a register set, as many bytes of it as fit; how many.
    pub fn xstate(&self, note: usize, buf: &mut [u8]) -> Result<usize> {
        let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        self.request(libc::PTRACE_GETREGSET, note, (&raw mut iov) as usize)?;
        Ok(iov.iov_len)
    }

    pub fn set_xstate(&self, note: usize, buf: &[u8]) -> Result<()> {
        let mut iov = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
        self.request(libc::PTRACE_SETREGSET, note, (&raw mut iov) as usize)
    }

    /// Waits until the thread stops or is dead.
    pub fn wait(&self) -> Stop {
        loop {
            match sys::wait_traced(self.tid, self.leader) {
                Ok(None) => return Stop::Dead,
                Ok(Some(code)) => return stop(code),
                Err(errno::EINTR) => {}
                // Reaped by somebody else.
                Err(_) => return Stop::Dead,
            }
        }
    }
}

/// Where debug register `n` is in the user area.
fn debug_offset(n: usize) -> usize {
    offset_of!(libc::user, u_debugreg) + n * size_of::<u64>()
}

/// Reads the stop code of ptrace(2): a signal, and above it an event.
fn stop(code: i32) -> Stop {
    const CALL: i32 = libc::SIGTRAP | 0x80;
    match (code & 0xff, code >> 8) {
        (CALL, 0) => Stop::Call,
        (_, libc::PTRACE_EVENT_EXIT) => Stop::Exiting,
        (_, libc::PTRACE_EVENT_STOP) => Stop::Attached,
        (signo, _) => Stop::Signal(signo),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_codes() {
        assert_eq!(stop(libc::SIGTRAP | 0x80), Stop::Call);
        assert_eq!(stop(libc::SIGTRAP), Stop::Signal(libc::SIGTRAP));
        assert_eq!(stop(libc::SIGURG), Stop::Signal(libc::SIGURG));
        assert_eq!(stop(libc::SIGTRAP | 128 << 8), Stop::Attached);
        assert_eq!(stop(libc::SIGTRAP | 6 << 8), Stop::Exiting);
        assert_eq!(size_of::<Regs>(), size_of::<libc::user_regs_struct>());
    }
}
