//! Signal frames: the kernel's view of a guest thread's registers while it is in the
//! stub's handler (`struct ucontext`, `struct sigcontext` of `<asm/sigcontext.h>`).

use uml_abi::{Result, errno};
use uml_stub::slot;

use super::arena::Slot;
use crate::api::{Exception, Regs, Syscall};

/// Offset of `uc_mcontext` in the ucontext.
const MCONTEXT: usize = 40;
const UC_STACK: usize = 16;
const UC_SIGMASK: usize = 296;
/// Bytes of the host kernel's ucontext.
const UC_SIZE: usize = 304;

// Words of the sigcontext.
const RIP: usize = 16;
const EFLAGS: usize = 17;
const SELECTORS: usize = 18;
const ERR: usize = 19;
const TRAPNO: usize = 20;
const FPSTATE: usize = 23;

/// Offsets of the error code, followed by the trap number, and of the extended state's
/// address in a ucontext.
pub const ERR_IN_UCONTEXT: u64 = (MCONTEXT + ERR * 8) as u64;
pub const FPSTATE_IN_UCONTEXT: u64 = (MCONTEXT + FPSTATE * 8) as u64;

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;

pub const USER_CS: u64 = 0x33;
pub const USER_DS: u64 = 0x2b;
/// Flags a program may set: AC, OF, DF, TF, SF, ZF, AF, PF, CF, RF, ID.
pub const USER_FLAGS: u64 = 0x0025_4dd5;
pub const FLAGS_FIXED: u64 = 0x202;

/// Where a fresh ucontext goes: below the top, as the host would place it.
const FRESH: usize = slot::SIZE - 1024;

/// A ucontext in a slot, copied once.
#[derive(Clone, Copy)]
pub struct Frame {
    /// Offset of the ucontext in the slot.
    pub at: usize,
    /// The 24 named words of the sigcontext.
    words: [u64; 24],
    /// Offset of the extended state in the slot; None means the initial state.
    pub fpstate: Option<usize>,
}

impl Frame {
    /// A frame with nothing in it, for a new context.
    pub fn fresh() -> Frame {
        let mut words = [0; 24];
        words[EFLAGS] = FLAGS_FIXED;
        words[SELECTORS] = USER_CS | USER_DS << 48;
        Frame { at: FRESH, words, fpstate: None }
    }

    /// Copies the frame the handler reported. `base` is the slot's guest address. `None`
    /// when the report makes no sense, which only a hostile guest can cause.
    pub fn load(s: &Slot, base: u64, xstate: usize) -> Option<Frame> {
        let at = inside(s.get(slot::UCONTEXT), base, UC_SIZE)?;
        let mut words = [0; 24];
        for (i, w) in words.iter_mut().enumerate() {
            *w = s.get(at + MCONTEXT + i * 8);
        }
        let fpstate = match words[FPSTATE] {
            0 => None,
            p => Some(inside(p, base, xstate).filter(|p| p % 64 == 0)?),
        };
        Some(Frame { at, words, fpstate })
    }

    /// Writes the frame back, for the slot at guest address `base`.
    pub fn store(&self, s: &Slot, base: u64) {
        for (i, &w) in self.words.iter().enumerate() {
            s.put(self.at + MCONTEXT + i * 8, w);
        }
        s.put(self.at + MCONTEXT + FPSTATE * 8, self.fpstate.map_or(0, |p| base + p as u64));
        s.put(self.at, UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS);
        s.put(self.at + 8, 0);
        s.put(self.at + UC_STACK, base + slot::STACK as u64);
        s.put(self.at + UC_STACK + 8, 0);
        s.put(self.at + UC_STACK + 16, (slot::SIZE - slot::STACK) as u64);
        s.put(self.at + UC_SIGMASK, 0);
    }

    /// Registers, with bases from the slot header.
    pub fn regs(&self, fs_base: u64, gs_base: u64) -> Regs {
        let w = &self.words;
        Regs {
            r8: w[0],
            r9: w[1],
            r10: w[2],
            r11: w[3],
            r12: w[4],
            r13: w[5],
            r14: w[6],
            r15: w[7],
            rdi: w[8],
            rsi: w[9],
            rbp: w[10],
            rbx: w[11],
            rdx: w[12],
            rax: w[13],
            rcx: w[14],
            rsp: w[15],
            rip: w[RIP],
            eflags: w[EFLAGS],
            cs: w[SELECTORS] & 0xffff,
            gs: w[SELECTORS] >> 16 & 0xffff,
            fs: w[SELECTORS] >> 32 & 0xffff,
            ss: w[SELECTORS] >> 48,
            orig_rax: u64::MAX,
            fs_base,
            gs_base,
            ds: 0,
            es: 0,
        }
    }

    /// Sets the general registers; selectors and privileged flags keep safe values.
    pub fn set_regs(&mut self, r: &Regs) {
        self.words[..18].copy_from_slice(&[
            r.r8,
            r.r9,
            r.r10,
            r.r11,
            r.r12,
            r.r13,
            r.r14,
            r.r15,
            r.rdi,
            r.rsi,
            r.rbp,
            r.rbx,
            r.rdx,
            r.rax,
            r.rcx,
            r.rsp,
            r.rip,
            r.eflags & USER_FLAGS | FLAGS_FIXED,
        ]);
        self.words[SELECTORS] = USER_CS | USER_DS << 48;
    }

    pub fn set_rax(&mut self, v: u64) {
        self.words[13] = v;
    }

    /// The system call of a SIGSYS frame. `arch` is `si_arch`.
    pub fn syscall(&self, arch: u32) -> Syscall {
        let w = &self.words;
        let ip = w[RIP];
        if arch != super::filter::ARCH {
            let low = |i: usize| w[i] & 0xffff_ffff;
            // i386: ebx, ecx, edx, esi, edi, ebp.
            let args = [low(11), low(14), low(12), low(9), low(8), low(10)];
            return Syscall { nr: low(13), args, ip, foreign_abi: true };
        }
        let nr = w[13] & 0xffff_ffff;
        let x32 = nr & u64::from(super::filter::X32_BIT) != 0 && nr >> 31 == 0;
        let nr = if x32 { nr & !u64::from(super::filter::X32_BIT) } else { nr };
        Syscall { nr, args: [w[8], w[9], w[12], w[2], w[0], w[1]], ip, foreign_abi: x32 }
    }

    /// The exception of a fault frame; `code` and `addr` come from the siginfo.
    pub fn exception(&self, signo: i32, code: i32, addr: u64) -> Exception {
        Exception { signo, code, addr, trapno: self.words[TRAPNO], err: self.words[ERR] }
    }
}

/// Offset of `addr..addr+len` in the stack part of the slot at `base`.
pub fn inside(addr: u64, base: u64, len: usize) -> Option<usize> {
    let off = usize::try_from(addr.checked_sub(base)?).ok()?;
    (off % 8 == 0 && off >= slot::STACK && off.checked_add(len)? <= slot::SIZE).then_some(off)
}

/// The extended-state area of signal frames on this host.
#[derive(Clone, Debug)]
pub struct Xstate {
    /// Image of the initial state, as the host wrote it into a frame.
    initial: Vec<u8>,
}

/// Offset of `struct _fpx_sw_bytes` in the FXSAVE image.
const SW: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
const FXSAVE: usize = 512;
const HEADER: usize = 64;

fn u32_at(b: &[u8], o: usize) -> u32 {
    b.get(o..o + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn u64_at(b: &[u8], o: usize) -> u64 {
    b.get(o..o + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

impl Xstate {
    /// Bytes a frame's area takes, read from the area itself. `max` is what may be read.
    fn size_of(head: &[u8], max: usize) -> Option<usize> {
        if u32_at(head, SW) != MAGIC1 {
            return Some(FXSAVE);
        }
        let size = u32_at(head, SW + 4) as usize;
        (size >= FXSAVE + HEADER + 4 && size <= max).then_some(size)
    }

    /// Reads the area at `at` of a slot, whatever its size.
    pub fn capture(slot: &Slot, at: usize) -> Option<Vec<u8>> {
        Xstate::read_frame(slot::SIZE.checked_sub(at)?, |buf| {
            slot.read(at, buf);
            true
        })
    }

    /// Reads an area with `read`, which fills a buffer from the area's start; at most `room`
    /// bytes.
    pub fn read_frame(room: usize, read: impl Fn(&mut [u8]) -> bool) -> Option<Vec<u8>> {
        let mut head = vec![0; FXSAVE.min(room)];
        if !read(&mut head) {
            return None;
        }
        let mut image = vec![0; Xstate::size_of(&head, room)?];
        read(&mut image).then_some(image)
    }

    /// Bytes of state proper in a frame's area: all but the magic number at its end.
    fn state_len(&self) -> usize {
        if u32_at(&self.initial, SW) == MAGIC1 { self.size() - 4 } else { FXSAVE }
    }

    /// The frame's area for a register set of ptrace(2) (NT_X86_XSTATE, or NT_PRFPREG on a
    /// CPU without XSAVE). Features that have no room in frames are left out: the host lets
    /// no guest use them.
    pub fn frame_image(&self, set: &[u8]) -> Vec<u8> {
        let mut out = self.initial.clone();
        let n = self.state_len().min(set.len());
        out[..n].copy_from_slice(&set[..n]);
        out[SW..FXSAVE].copy_from_slice(&self.initial[SW..FXSAVE]);
        if self.state_len() > FXSAVE {
            let kept = u64_at(&out, FXSAVE) & u64_at(&self.initial, SW + 8);
            out[FXSAVE..FXSAVE + 8].copy_from_slice(&kept.to_ne_bytes());
        }
        out
    }

    /// The register set, of `len` bytes, for an area that [`Xstate::check`] made.
    pub fn register_set(&self, image: &[u8], len: usize) -> Vec<u8> {
        let mut set = vec![0; len];
        let n = self.state_len().min(len).min(image.len());
        set[..n].copy_from_slice(&image[..n]);
        set
    }

    /// A register set of `len` bytes for the initial state: x87 control word and MXCSR as after
    /// execve(2), everything else zero.
    pub fn initial_regset(len: usize) -> Vec<u8> {
        let mut set = vec![0; len];
        set[..2].copy_from_slice(&0x37fu16.to_ne_bytes());
        set[24..28].copy_from_slice(&0x1f80u32.to_ne_bytes());
        if len >= FXSAVE + HEADER {
            // The two are taken from a set that says it has x87 and SSE state.
            set[FXSAVE] = 3;
        }
        set
    }

    /// Takes an image that the host wrote for a thread in the initial state.
    pub fn from_host(initial: Vec<u8>) -> Xstate {
        Xstate { initial }
    }

    pub fn size(&self) -> usize {
        self.initial.len()
    }

    pub fn initial(&self) -> &[u8] {
        &self.initial
    }

    /// Turns what a program supplied into an area that the host will accept, or `EINVAL`.
    pub fn check(&self, state: &[u8]) -> Result<Vec<u8>> {
        if state.len() < FXSAVE {
            return Err(errno::EINVAL);
        }
        let mxcsr_mask = match u32_at(&self.initial, 28) {
            0 => 0xffbf,
            m => m,
        };
        if u32_at(state, 24) & !mxcsr_mask != 0 {
            return Err(errno::EINVAL);
        }
        if state.len() == FXSAVE
            || u32_at(state, SW) != MAGIC1
            || u32_at(&self.initial, SW) != MAGIC1
        {
            // Legacy image: x87 and SSE from it, the rest initial.
            let mut out = self.initial.clone();
            out[..SW].copy_from_slice(&state[..SW]);
            if let Some(bv) = out.get_mut(FXSAVE..FXSAVE + 8) {
                bv.copy_from_slice(&3u64.to_ne_bytes());
            }
            return Ok(out);
        }
        let xfeatures = u64_at(&self.initial, SW + 8);
        let good = state.len() == self.size()
            && u32_at(state, SW + 4) as usize == self.size()
            && u64_at(state, SW + 8) & !xfeatures == 0
            && u32_at(state, SW + 16) == u32_at(&self.initial, SW + 16)
            && u64_at(state, FXSAVE) & !xfeatures == 0
            && state[FXSAVE + 8..FXSAVE + HEADER].iter().all(|&b| b == 0)
            && u32_at(state, self.size() - 4) == MAGIC2;
        if !good {
            return Err(errno::EINVAL);
        }
        let mut out = state.to_vec();
        out[SW..FXSAVE].copy_from_slice(&self.initial[SW..FXSAVE]);
        Ok(out)
    }
}
