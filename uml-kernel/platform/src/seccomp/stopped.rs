//! The registers of a guest thread that stopped in the stub's handler, and the system call
//! it may have stopped for.

use uml_abi::{Result, errno};
use uml_stub::slot;

use super::arena::Slot;
use super::frame::{Frame, Xstate, inside};
use super::zygote::INTERRUPT;
use crate::api::{Event, Regs, Syscall};

pub const ENOSYS: i64 = -(libc::ENOSYS as i64);

/// What the pending system call will return.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No call is pending, or complete registers were set.
    None,
    /// Not said yet.
    Open,
    Value(i64),
    /// The host makes the call.
    Pass,
}

/// Where a thread's slot is, and what every slot header carries.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub slot: &'a Slot,
    /// Guest address.
    pub addr: u64,
    /// `slot::FLAG_NO_FSGSBASE` or 0.
    pub flags: u64,
}

/// The kernel's copy of a stopped thread's state.
pub struct Stopped {
    pub call: Option<Syscall>,
    pub outcome: Outcome,
    frame: Frame,
    frame_dirty: bool,
    fs_base: u64,
    gs_base: u64,
    bases_dirty: bool,
}

impl Stopped {
    /// Nothing known.
    pub fn new() -> Stopped {
        Stopped {
            call: None,
            outcome: Outcome::None,
            frame: Frame::fresh(),
            frame_dirty: false,
            fs_base: 0,
            gs_base: 0,
            bases_dirty: false,
        }
    }

    /// The state of a thread that has not run: everything zero.
    pub fn fresh() -> Stopped {
        Stopped { frame_dirty: true, bases_dirty: true, ..Stopped::new() }
    }

    /// Reads what the handler stored; `None` when it makes no sense.
    pub fn load(&mut self, p: Place<'_>, xstate: usize) -> Option<()> {
        self.frame = Frame::load(p.slot, p.addr, xstate)?;
        self.frame_dirty = false;
        self.fs_base = p.slot.get(slot::FS_BASE);
        self.gs_base = p.slot.get(slot::GS_BASE);
        self.bases_dirty = false;
        Some(())
    }

    /// Reads back what [`Stopped::store`] or [`Stopped::copy_to`] prepared.
    pub fn reload(&mut self, p: Place<'_>, xstate: usize) -> Option<()> {
        p.slot.put(slot::UCONTEXT, p.slot.get(slot::RESUME_SP));
        self.load(p, xstate)?;
        self.bases_dirty = true;
        Some(())
    }

    /// Why the handler was entered. `None` when the report makes no sense.
    pub fn event(&mut self, p: Place<'_>) -> Option<Event> {
        let s = p.slot;
        let signo = s.get(slot::SIGNO) as i32;
        let info = inside(s.get(slot::SIGINFO), p.addr, 128)?;
        let code = s.get(info + 8) as i32;
        let addr = s.get(info + 16);
        let arch = (s.get(info + 24) >> 32) as u32;
        // Positive codes come from the host kernel; the rest was sent by somebody outside.
        if signo == INTERRUPT || code <= 0 {
            return Some(Event::Interrupted);
        }
        match signo {
            libc::SIGSYS => {
                let call = self.frame.syscall(arch);
                self.call = Some(call);
                self.outcome = Outcome::Open;
                Some(Event::Syscall(call))
            }
            libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP => {
                Some(Event::Exception(self.frame.exception(signo, code, addr)))
            }
            _ => None,
        }
    }

    /// Writes what was changed back to the slot, so that a resume loads it. A pending
    /// call's outcome becomes part of it.
    pub fn store(&mut self, p: Place<'_>) {
        match self.outcome {
            Outcome::None | Outcome::Pass => {}
            Outcome::Open => self.set_rax(ENOSYS),
            Outcome::Value(v) => self.set_rax(v),
        }
        self.outcome = Outcome::None;
        if self.frame_dirty {
            self.frame.store(p.slot, p.addr);
        }
        let mut flags = p.flags;
        if self.bases_dirty {
            p.slot.put(slot::FS_BASE, self.fs_base);
            p.slot.put(slot::GS_BASE, self.gs_base);
            flags |= slot::FLAG_FS | slot::FLAG_GS;
        }
        p.slot.put(slot::FLAGS, flags);
        p.slot.put(slot::RESUME_SP, p.addr + self.frame.at as u64);
    }

    /// Prepares the slot of a new thread: this frame and extended state with `regs` in
    /// place of the registers.
    pub fn copy_to(&self, from: Place<'_>, to: Place<'_>, regs: &Regs, xstate: usize) {
        let mut f = self.frame;
        f.set_regs(regs);
        if let Some(at) = f.fpstate {
            let mut image = vec![0; xstate];
            from.slot.read(at, &mut image);
            to.slot.write(at, &image);
        }
        f.store(to.slot, to.addr);
        to.slot.put(slot::RESUME_SP, to.addr + f.at as u64);
        to.slot.put(slot::FS_BASE, regs.fs_base);
        to.slot.put(slot::GS_BASE, regs.gs_base);
        to.slot.put(slot::FLAGS, slot::FLAG_FS | slot::FLAG_GS | to.flags);
    }

    pub fn set_rax(&mut self, v: i64) {
        self.frame.set_rax(v as u64);
        self.frame_dirty = true;
    }

    pub fn regs(&self) -> Regs {
        let mut r = self.frame.regs(self.fs_base, self.gs_base);
        match self.outcome {
            Outcome::None => return r,
            Outcome::Value(v) => r.rax = v as u64,
            _ => r.rax = ENOSYS as u64,
        }
        r.orig_rax = self.call.map_or(u64::MAX, |c| c.nr);
        r
    }

    /// Replaces the registers; `regs` has passed [`check_bases`].
    pub fn set_regs(&mut self, regs: &Regs) {
        self.frame.set_regs(regs);
        self.frame_dirty = true;
        self.set_bases(regs.fs_base, regs.gs_base);
        self.outcome = Outcome::None;
    }

    pub fn bases(&self) -> (u64, u64) {
        (self.fs_base, self.gs_base)
    }

    pub fn set_bases(&mut self, fs_base: u64, gs_base: u64) {
        if (fs_base, gs_base) != self.bases() {
            (self.fs_base, self.gs_base) = (fs_base, gs_base);
            self.bases_dirty = true;
        }
    }

    pub fn append_xstate(&self, p: Place<'_>, x: &Xstate, out: &mut Vec<u8>) {
        let Some(at) = self.frame.fpstate else { return out.extend_from_slice(x.initial()) };
        let from = out.len();
        out.resize(from + x.size(), 0);
        p.slot.read(at, &mut out[from..]);
    }

    /// Replaces the extended state with an image that [`Xstate::check`] made.
    pub fn set_xstate(&mut self, p: Place<'_>, image: Option<&[u8]>) {
        self.frame.fpstate = image.map(|image| {
            let below = (self.frame.at - image.len().next_multiple_of(8)) & !63;
            let at = self.frame.fpstate.unwrap_or(below);
            p.slot.write(at, image);
            at
        });
        self.frame_dirty = true;
    }

    /// Where the extended state is in the slot, for its first capture.
    pub fn fpstate(&self) -> Option<usize> {
        self.frame.fpstate
    }

    /// Notes the outcome of the pending call, if there is one.
    pub fn set_return(&mut self, value: i64) {
        if self.outcome != Outcome::None {
            self.outcome = Outcome::Value(value);
        }
    }

    /// Makes `call` the pending one, its outcome open.
    pub fn set_call(&mut self, call: Syscall) {
        self.call = Some(call);
        self.outcome = Outcome::Open;
    }

    /// Notes that the host is to make the pending call, when that is possible.
    pub fn pass_through(&mut self, user_max: u64) {
        let Some(c) = self.call else { return };
        if self.outcome == Outcome::None {
            return;
        }
        self.outcome = if !c.foreign_abi && crate::hostcall::may_pass(c.nr, &c.args, user_max) {
            Outcome::Pass
        } else {
            Outcome::Value(-(libc::EINVAL as i64))
        };
    }

    /// Whether the pending call is exit(2).
    pub fn exiting(&self) -> bool {
        self.call.is_some_and(|c| c.nr == libc::SYS_exit as u64 && !c.foreign_abi)
    }
}

/// What somebody else than its worker sees of a thread in the handler; `None` when it makes no sense.
pub fn glance(p: Place<'_>, xstate: usize) -> Option<crate::api::Stopped> {
    let frame = Frame::load(p.slot, p.addr, xstate)?;
    Some((&frame.regs(0, 0)).into())
}

/// Segment bases must be addresses of the user half.
pub fn check_bases(regs: &Regs) -> Result<()> {
    let user = |a: u64| a < 1 << 47;
    if user(regs.fs_base) && user(regs.gs_base) { Ok(()) } else { Err(errno::EINVAL) }
}
