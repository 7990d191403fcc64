//! Signal-handler frames of x86-64: building them and undoing them (rt_sigreturn(2)).
//!
//! The layout is the kernel's `struct rt_sigframe`: return address, `ucontext_t`, `siginfo_t`, with the
//! extended state above it, 64-byte aligned. What the bytes mean is documented in <asm/sigcontext.h> and
//! <asm/ucontext.h>.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_platform::Regs;

use super::*;
use crate::ctx::Ctx;

/// Offsets in the frame.
const UC: usize = 8;
const UC_STACK: usize = UC + 16;
const MCTX: usize = UC + 40;
const SIGMASK: usize = MCTX + 256;
const INFO: usize = SIGMASK + 8;
const FRAME_SIZE: usize = INFO + SIGINFO_SIZE;
/// The ABI's red zone below the stack pointer.
const RED_ZONE: u64 = 128;

/// uc_flags: extended state present, SS valid and to be restored strictly.
const UC_FLAGS: u64 = 1 | 2 | 4;

fn put(frame: &mut [u8; FRAME_SIZE], at: usize, v: u64) {
    frame[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

fn get(frame: &[u8; FRAME_SIZE], at: usize) -> u64 {
    let mut b = [0; 8];
    b.copy_from_slice(&frame[at..at + 8]);
    u64::from_le_bytes(b)
}

/// General registers in the order of `struct sigcontext`.
fn to_context(r: &Regs) -> [u64; 18] {
    [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx,
        r.rax, r.rcx, r.rsp, r.rip, r.eflags,
    ]
}

/// Facts about the fault that raised a signal, for the frame's `err`, `trapno` and `cr2`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trap {
    pub trapno: u64,
    pub err: u64,
    pub cr2: u64,
}

/// Builds the frame for handler `action` and points the registers at it. `mask` is what the
/// frame restores.
pub(super) fn push(
    cx: &mut Ctx<'_>,
    mut regs: Regs,
    action: &SigAction,
    info: &SigInfo,
    mask: u64,
) -> Result<()> {
    let xstate_size = xstate_size(cx)?;
    let alt = *cx.task.altstack.lock();
    let on_alt = alt.contains(regs.rsp);
    let mut sp = regs.rsp.wrapping_sub(RED_ZONE);
    let mut entered_alt = false;
    if action.flags & SA_ONSTACK != 0 && alt.flags & libc::SS_DISABLE == 0 && !on_alt {
        sp = alt.sp.wrapping_add(alt.size);
        entered_alt = true;
    }
    let fp = sp.wrapping_sub(xstate_size as u64) & !63;
    let at = (fp.wrapping_sub(FRAME_SIZE as u64) & !15).wrapping_sub(8);
    if (entered_alt || on_alt) && !alt.contains(at) {
        return Err(EFAULT);
    }
    let mut frame = [0u8; FRAME_SIZE];
    put(&mut frame, 0, action.restorer);
    put(&mut frame, UC, UC_FLAGS);
    put(&mut frame, UC_STACK, alt.sp);
    let flags = if alt.flags & libc::SS_DISABLE != 0 {
        libc::SS_DISABLE
    } else if on_alt {
        libc::SS_ONSTACK
    } else {
        alt.flags & SS_AUTODISARM
    };
    put(&mut frame, UC_STACK + 8, u64::from(flags as u32));
    put(&mut frame, UC_STACK + 16, alt.size);
    for (i, v) in to_context(&regs).into_iter().enumerate() {
        put(&mut frame, MCTX + 8 * i, v);
    }
    // cs, gs, fs, ss as 16-bit fields.
    let segments = (regs.cs & 0xffff) | (regs.ss & 0xffff) << 48;
    put(&mut frame, MCTX + 144, segments);
    let trap = std::mem::take(&mut *cx.task.trap.lock());
    put(&mut frame, MCTX + 152, trap.err);
    put(&mut frame, MCTX + 160, trap.trapno);
    put(&mut frame, MCTX + 168, mask);
    put(&mut frame, MCTX + 176, trap.cr2);
    put(&mut frame, MCTX + 184, fp);
    put(&mut frame, SIGMASK, mask);
    frame[INFO..].copy_from_slice(&info.to_bytes());

    let mm = cx.task.mm()?;
    // Frame, alignment and extended state go in one copy.
    let mut image = Vec::with_capacity(FRAME_SIZE + 64 + xstate_size);
    image.extend_from_slice(&frame);
    image.resize(fp.wrapping_sub(at) as usize, 0);
    cx.hw.append_xstate(&mut image)?;
    mm.write(at, &image)?;
    if entered_alt && alt.flags & SS_AUTODISARM != 0 {
        *cx.task.altstack.lock() = SigAltStack::default();
    }
    regs.rdi = info.signo as u64;
    regs.rsi = at + INFO as u64;
    regs.rdx = at + UC as u64;
    regs.rax = 0;
    regs.rsp = at;
    regs.rip = action.handler;
    // Direction, trap and resume flags are off in a handler.
    regs.eflags &= !(0x400 | 0x100 | 0x1_0000);
    regs.orig_rax = u64::MAX;
    cx.hw.set_regs(&regs)
}

/// SS_AUTODISARM of sigaltstack(2).
pub const SS_AUTODISARM: i32 = i32::MIN;

/// rt_sigreturn(2): restores what a frame saved. A bad frame is SIGSEGV.
pub fn sigreturn(cx: &mut Ctx<'_>) -> Result<()> {
    let mut regs = cx.hw.regs()?;
    let at = regs.rsp.wrapping_sub(8);
    let mm = cx.task.mm()?;
    // The extended state is usually where `push` puts it: one copy for both.
    let size = xstate_size(cx)?;
    let usual = (at.wrapping_add(8 + FRAME_SIZE as u64)).wrapping_add(63) & !63;
    let state_at = usual.wrapping_sub(at) as usize;
    let mut image = vec![0u8; state_at + size];
    let got = mm.read_partial(at, &mut image);
    if got < INFO {
        return Err(EFAULT);
    }
    let frame: &[u8; FRAME_SIZE] = image.first_chunk().ok_or(EFAULT)?;
    let c: [u64; 18] = std::array::from_fn(|i| get(frame, MCTX + 8 * i));
    regs.r8 = c[0];
    regs.r9 = c[1];
    regs.r10 = c[2];
    regs.r11 = c[3];
    regs.r12 = c[4];
    regs.r13 = c[5];
    regs.r14 = c[6];
    regs.r15 = c[7];
    regs.rdi = c[8];
    regs.rsi = c[9];
    regs.rbp = c[10];
    regs.rbx = c[11];
    regs.rdx = c[12];
    regs.rax = c[13];
    regs.rcx = c[14];
    regs.rsp = c[15];
    regs.rip = c[16];
    regs.eflags = c[17];
    regs.orig_rax = u64::MAX;
    cx.task.set_blocked(get(frame, SIGMASK));
    let fp = get(frame, MCTX + 184);
    let restored = if fp == 0 {
        cx.hw.set_xstate(None)
    } else if fp == usual && got == image.len() && xstate_len(&image[state_at..]) == size {
        cx.hw.set_xstate(Some(&image[state_at..]))
    } else {
        read_xstate(&mm, fp).and_then(|state| cx.hw.set_xstate(Some(&state)))
    };
    if let Err(e) = restored {
        // SIGSEGV then finds the program where the frame says, with fresh extended state, as on Linux: a handler can return.
        cx.hw.set_xstate(None)?;
        cx.hw.set_regs(&regs)?;
        return Err(e);
    }
    let alt = SigAltStack {
        sp: get(frame, UC_STACK),
        flags: get(frame, UC_STACK + 8) as u32 as i32,
        size: get(frame, UC_STACK + 16),
    };
    // The frame's alternate stack comes back as with sigaltstack(2); errors are ignored there too.
    let flags = alt.flags & !libc::SS_ONSTACK;
    if flags & libc::SS_DISABLE != 0 {
        *cx.task.altstack.lock() = SigAltStack::default();
    } else if flags & !SS_AUTODISARM == 0 && alt.size >= libc::MINSIGSTKSZ as u64 {
        *cx.task.altstack.lock() = SigAltStack { flags, ..alt };
    }
    cx.hw.set_regs(&regs)
}

/// Magic numbers of `struct _fpx_sw_bytes` (<asm/sigcontext.h>).
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;

/// Reads extended state from a frame: the legacy image says whether more follows.
fn read_xstate(mm: &uml_mm::Mm, fp: u64) -> Result<Vec<u8>> {
    let mut legacy = vec![0u8; LEGACY];
    mm.read(fp, &mut legacy)?;
    let size = xstate_len(&legacy);
    if size == LEGACY {
        return Ok(legacy);
    }
    let mut all = vec![0u8; size];
    mm.read(fp, &mut all)?;
    Ok(all)
}

/// Bytes of the legacy FXSAVE image.
const LEGACY: usize = 512;

/// How long extended state says it is; just the legacy image when it says nothing sensible.
fn xstate_len(state: &[u8]) -> usize {
    let word =
        |at: usize| state.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    match (word(464), word(468)) {
        (Some(FP_XSTATE_MAGIC1), Some(size)) if (512..=64 * 1024).contains(&size) => size as usize,
        _ => LEGACY,
    }
}

/// Bytes of extended state in a frame.
fn xstate_size(cx: &Ctx<'_>) -> Result<usize> {
    let kernel = cx.task.kernel();
    Ok(kernel.platform().ok_or(EIO)?.limits().xstate_size)
}
