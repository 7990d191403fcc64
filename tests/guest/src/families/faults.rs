//! Signals made by the processor: codes, addresses, and the registers and vector state that handlers see and restore.

use super::signals::*;
use crate::cases;
use crate::sys::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

cases! {
    segv_unmapped, segv_permission, segv_kernel_address, bus_beyond_file, fpe, ill, trap, blocked_fault_kills, ignored_fault_kills, handler_changes_registers, handler_fixes_fault, vector_registers, vector_registers_from_async, red_zone, longjmp_from_handler,
}

extern "C" fn on_fault(s: i32, i: *mut libc::siginfo_t, _: *mut libc::c_void) {
    unsafe {
        let base = ADDR.load(SeqCst);
        let at = (*i).si_addr() as usize;
        let place = if base == usize::MAX {
            "n/a".to_string()
        } else if at >= base && at < base + 65536 {
            format!("base+{}", at - base)
        } else {
            format!("{at:#x}")
        };
        say("fault", format!("{} code {} at {place}", signal_name(s), (*i).si_code));
        libc::_exit(50);
    }
}

fn fault(name: &str, sig: i32, base: usize, f: impl FnOnce()) {
    let s = in_child(|| {
        ADDR.store(base, SeqCst);
        on_signal(sig, on_fault, 0);
        f();
        0
    });
    say(name, s);
}

fn segv_unmapped() {
    let p = map(8192, libc::PROT_READ | libc::PROT_WRITE);
    unsafe { libc::munmap(p.add(4096).cast(), 4096) };
    fault("read", libc::SIGSEGV, p as usize, || unsafe {
        std::hint::black_box(p.add(4096 + 123).read_volatile());
    });
    fault("write", libc::SIGSEGV, p as usize, || unsafe { p.add(4096).write_volatile(1) });
    fault("straddling read reports the second page", libc::SIGSEGV, p as usize, || unsafe {
        std::hint::black_box(p.add(4092).cast::<u64>().read_unaligned());
    });
    fault("null", libc::SIGSEGV, 1 << 40, || unsafe {
        std::hint::black_box((16 as *const u8).read_volatile());
    });
    fault("jump", libc::SIGSEGV, p as usize, || unsafe {
        let f: extern "C" fn() = std::mem::transmute(p.add(4096 + 8));
        f();
    });
}

fn segv_permission() {
    let p = map(4096, libc::PROT_READ);
    fault("write to read-only", libc::SIGSEGV, p as usize, || unsafe {
        p.add(5).write_volatile(1)
    });
    let n = map(4096, libc::PROT_NONE);
    fault("read of PROT_NONE", libc::SIGSEGV, n as usize, || unsafe {
        std::hint::black_box(n.read_volatile());
    });
    let x = map(4096, libc::PROT_READ | libc::PROT_WRITE);
    unsafe { x.write_volatile(0xc3) };
    fault("execute of not executable", libc::SIGSEGV, x as usize, || unsafe {
        let f: extern "C" fn() = std::mem::transmute(x);
        f();
    });
}

fn segv_kernel_address() {
    fault("kernel half", libc::SIGSEGV, 0xffff_8000_0000_0000, || unsafe {
        std::hint::black_box((0xffff_8000_0000_1000usize as *const u8).read_volatile());
    });
    // Not canonical: a general protection fault, no address.
    fault("not canonical", libc::SIGSEGV, 1 << 40, || unsafe {
        std::hint::black_box((0x8000_0000_0000_0000usize as *const u8).read_volatile());
    });
    fault("privileged instruction", libc::SIGSEGV, 1 << 40, || unsafe { std::arch::asm!("hlt") });
    fault("port", libc::SIGSEGV, 1 << 40, || unsafe {
        std::arch::asm!("in al, 0x80", out("al") _)
    });
    fault("int 0x99", libc::SIGSEGV, 1 << 40, || unsafe { std::arch::asm!("int 0x99") });
}

fn bus_beyond_file() {
    put("f", &[7u8; 100]);
    let fd = open("f", libc::O_RDWR).fd();
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            8192,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    let p: *mut u8 = p.cast();
    say("rest of the page reads zero", unsafe { p.add(100).read_volatile() });
    fault("page beyond the end", libc::SIGBUS, p as usize, || unsafe {
        std::hint::black_box(p.add(4096 + 10).read_volatile());
    });
    fault("write beyond the end", libc::SIGBUS, p as usize, || unsafe {
        p.add(4096).write_volatile(1)
    });
    unsafe { libc::ftruncate(fd, 8192) };
    say("after growth", unsafe { p.add(4096 + 10).read_volatile() });
    unsafe { libc::ftruncate(fd, 0) };
    fault("after truncation to nothing", libc::SIGBUS, p as usize, || unsafe {
        std::hint::black_box(p.add(3).read_volatile());
    });
}

fn fpe() {
    // Codes FPE_INTDIV 1 and FPE_FLTDIV 3.
    fault("division by zero", libc::SIGFPE, usize::MAX, || unsafe {
        std::arch::asm!("xor edx, edx", "mov eax, 1", "xor ecx, ecx", "div ecx", out("eax") _, out("edx") _, out("ecx") _);
    });
    fault("quotient overflow", libc::SIGFPE, usize::MAX, || unsafe {
        std::arch::asm!("mov edx, 5", "mov eax, 1", "mov ecx, 1", "div ecx", out("eax") _, out("edx") _, out("ecx") _);
    });
    fault("unmasked SSE division by zero", libc::SIGFPE, usize::MAX, || unsafe {
        let mxcsr = 0x1f80u32 & !(1 << 9);
        std::arch::asm!("ldmxcsr [{}]", "xorps xmm1, xmm1", "mov eax, 0x3f800000", "movd xmm0, eax", "divss xmm0, xmm1",
            in(reg) &mxcsr, out("eax") _, out("xmm0") _, out("xmm1") _);
    });
    fault("unmasked x87 division by zero", libc::SIGFPE, usize::MAX, || unsafe {
        let cw = 0x37fu16 & !(1 << 2);
        std::arch::asm!("fldcw [{}]", "fld1", "fldz", "fdivp", "fwait", in(reg) &cw);
    });
}

fn ill() {
    fault("ud2", libc::SIGILL, usize::MAX, || unsafe { std::arch::asm!("ud2") });
    fault("lock prefix on a register", libc::SIGILL, usize::MAX, || unsafe {
        std::arch::asm!(".byte 0xf0, 0x90, 0x90");
    });
}

fn trap() {
    fault("int3", libc::SIGTRAP, usize::MAX, || unsafe { std::arch::asm!("int3") });
    fault("icebp", libc::SIGTRAP, usize::MAX, || unsafe { std::arch::asm!(".byte 0xf1") });
    fault("single step flag", libc::SIGTRAP, usize::MAX, || unsafe {
        std::arch::asm!("pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop", "nop");
    });
}

fn blocked_fault_kills() {
    let s = in_child(|| {
        on_signal(libc::SIGSEGV, note, 0);
        mask(libc::SIG_BLOCK, &[libc::SIGSEGV]);
        unsafe { (8 as *mut u8).write_volatile(1) };
        0
    });
    say("fault while blocked", s);
    let s = in_child(|| {
        on_signal(libc::SIGSEGV, note, 0);
        mask(libc::SIG_BLOCK, &[libc::SIGSEGV]);
        unsafe { libc::raise(libc::SIGSEGV) };
        say("sent while blocked waits", COUNT.load(SeqCst));
        mask(libc::SIG_SETMASK, &[]);
        say("delivered", COUNT.load(SeqCst));
        0
    });
    say("raised", s);
}

fn ignored_fault_kills() {
    let s = in_child(|| {
        set_action(libc::SIGSEGV, libc::SIG_IGN);
        unsafe { libc::raise(libc::SIGSEGV) };
        say("sent and ignored", true);
        unsafe { (8 as *mut u8).write_volatile(1) };
        0
    });
    say("fault and ignored", s);
    let s = in_child(|| {
        extern "C" fn again(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
            unsafe { (16 as *mut u8).write_volatile(1) };
        }
        on_signal(libc::SIGSEGV, again, 0);
        unsafe { (8 as *mut u8).write_volatile(1) };
        0
    });
    say("fault inside its handler", s);
}

fn handler_changes_registers() {
    // Skips the faulting instruction and sets its result.
    extern "C" fn skip(_: i32, _: *mut libc::siginfo_t, u: *mut libc::c_void) {
        let u = unsafe { &mut *u.cast::<libc::ucontext_t>() };
        let g = &mut u.uc_mcontext.gregs;
        g[libc::REG_RIP as usize] += 2;
        g[libc::REG_RAX as usize] = 0x1122_3344_5566_7788;
        g[libc::REG_R12 as usize] += 1;
    }
    on_signal(libc::SIGILL, skip, 0);
    let (a, b): (u64, u64);
    unsafe {
        std::arch::asm!("xor eax, eax", "ud2", out("rax") a, inout("r12") 41u64 => b);
    }
    say("rax", format!("{a:x}"));
    say("r12", b);
    // Flags and all general registers come back as they were after an ordinary handler.
    extern "C" fn clobber(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        unsafe {
            std::arch::asm!("mov rax, -1", "mov rcx, rax", "mov rdx, rax", "mov rsi, rax", "mov rdi, rax", "mov r8, rax",
                "mov r9, rax", "mov r10, rax", "mov r11, rax", "std", "cld", "stc",
                out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
    }
    on_signal(libc::SIGTRAP, clobber, 0);
    let mut ok = true;
    let (r1, r2, r3, r4, fl): (u64, u64, u64, u64, u64);
    unsafe {
        std::arch::asm!("clc", "int3", "pushfq", "pop {f}", f = out(reg) fl,
            inout("rcx") 1u64 => r1, inout("r8") 2u64 => r2, inout("r11") 3u64 => r3, inout("rsi") 4u64 => r4);
    }
    ok &= (r1, r2, r3, r4) == (1, 2, 3, 4) && fl & 1 == 0;
    say("all others preserved", ok);
}

fn handler_fixes_fault() {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn fix(_: i32, i: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let a = unsafe { (*i).si_addr() } as usize & !4095;
        COUNT.fetch_add((a == PAGE.load(SeqCst)) as i32, SeqCst);
        unsafe { libc::mprotect(a as *mut _, 4096, libc::PROT_READ | libc::PROT_WRITE) };
    }
    let p = map(4096, libc::PROT_NONE);
    PAGE.store(p as usize, SeqCst);
    on_signal(libc::SIGSEGV, fix, 0);
    unsafe { p.add(9).write_volatile(77) };
    say("write repeated", unsafe { p.add(9).read_volatile() });
    say("one fault", COUNT.load(SeqCst));
    for _ in 0..1000 {
        unsafe {
            libc::mprotect(p.cast(), 4096, libc::PROT_READ);
            p.write_volatile(1);
        }
    }
    say("and a thousand more", COUNT.load(SeqCst));
}

/// Fills vector registers, triggers a handler by `ud2` that destroys them, and compares.
fn vector_registers() {
    extern "C" fn destroy(s: i32, _: *mut libc::siginfo_t, u: *mut libc::c_void) {
        if s == libc::SIGILL {
            unsafe {
                (&mut *u.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += 2
            };
        }
        unsafe {
            if std::is_x86_feature_detected!("avx") {
                std::arch::asm!("vzeroall", out("ymm0") _, out("ymm1") _, out("ymm7") _, out("ymm15") _);
            } else {
                std::arch::asm!("xorps xmm0, xmm0", "xorps xmm1, xmm1", "xorps xmm7, xmm7", "xorps xmm15, xmm15",
                    out("xmm0") _, out("xmm1") _, out("xmm7") _, out("xmm15") _);
            }
            std::arch::asm!("fninit");
            let mxcsr = 0x1f80u32 | 0x6000;
            std::arch::asm!("ldmxcsr [{}]", in(reg) &mxcsr);
        }
        COUNT.fetch_add(1, SeqCst);
    }
    on_signal(libc::SIGILL, destroy, 0);
    let (a, b) = ([0x1111u64, 0x2222, 0x3333, 0x4444], [0x5555u64, 0x6666, 0x7777, 0x8888]);
    let (mut x, mut y) = ([0u64; 4], [0u64; 4]);
    unsafe {
        std::arch::asm!("movups xmm0, [{a}]", "movups xmm15, [{b}]", "ud2", "movups [{x}], xmm0", "movups [{y}], xmm15",
            a = in(reg) &a, b = in(reg) &b, x = in(reg) &mut x, y = in(reg) &mut y, out("xmm0") _, out("xmm15") _);
    }
    say("xmm", x[..2] == a[..2] && y[..2] == b[..2]);
    let mut ok = true;
    if std::is_x86_feature_detected!("avx") {
        unsafe {
            std::arch::asm!("vmovups ymm0, [{a}]", "vmovups ymm15, [{b}]", "ud2", "vmovups [{x}], ymm0", "vmovups [{y}], ymm15",
                a = in(reg) &a, b = in(reg) &b, x = in(reg) &mut x, y = in(reg) &mut y, out("ymm0") _, out("ymm15") _);
        }
        ok = x == a && y == b;
    }
    say("ymm where there is AVX", ok);
    let mut ok = true;
    if std::is_x86_feature_detected!("avx512f") {
        let big: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
        let (mut z, mut k) = ([0u64; 8], 0u64);
        unsafe {
            std::arch::asm!("vmovups zmm31, [{a}]", "mov {t:e}, 0x5a5a", "kmovw k3, {t:e}", "ud2", "vmovups [{x}], zmm31",
                "kmovw {k:e}, k3", a = in(reg) &big, x = in(reg) &mut z, t = out(reg) _, k = out(reg) k, out("zmm31") _, out("k3") _);
        }
        ok = z == big && k == 0x5a5a;
    }
    say("zmm and masks where there is AVX-512", ok);
    let (mut m, mut cw) = (0u32, 0u16);
    unsafe {
        std::arch::asm!("ud2", "stmxcsr [{m}]", "fnstcw [{c}]", m = in(reg) &mut m, c = in(reg) &mut cw);
    }
    say("mxcsr rounding and x87 control word", format!("{:x} {cw:x}", m & 0x6000));
    say("handlers ran", COUNT.load(SeqCst) >= 2);
}

/// A timer interrupts a loop that keeps values in vector registers.
fn vector_registers_from_async() {
    extern "C" fn destroy(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        unsafe {
            std::arch::asm!("xorps xmm6, xmm6", "xorps xmm9, xmm9", out("xmm6") _, out("xmm9") _)
        };
        COUNT.fetch_add(1, SeqCst);
    }
    on_signal(libc::SIGALRM, destroy, 0);
    let it = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 1000 },
        it_value: libc::timeval { tv_sec: 0, tv_usec: 1000 },
    };
    unsafe { libc::setitimer(libc::ITIMER_REAL, &it, std::ptr::null_mut()) };
    let mut bad = 0;
    let a = [0xabcdu64, 0xef01];
    while COUNT.load(SeqCst) < 50 {
        let mut x = [0u64; 2];
        let mut y = [0u64; 2];
        unsafe {
            std::arch::asm!("movups xmm6, [{a}]", "movups xmm9, [{a}]", "mov {n:e}, 20000", "2:", "dec {n:e}", "jnz 2b",
                "movups [{x}], xmm6", "movups [{y}], xmm9", a = in(reg) &a, x = in(reg) &mut x, y = in(reg) &mut y,
                n = out(reg) _, out("xmm6") _, out("xmm9") _);
        }
        bad += (x != a || y != a) as i32;
    }
    say("changed", bad);
    say("interrupted at least 50 times", COUNT.load(SeqCst) >= 50);
}

fn red_zone() {
    on_signal(
        libc::SIGILL,
        {
            extern "C" fn skip(_: i32, _: *mut libc::siginfo_t, u: *mut libc::c_void) {
                unsafe {
                    (&mut *u.cast::<libc::ucontext_t>()).uc_mcontext.gregs
                        [libc::REG_RIP as usize] += 2
                };
            }
            skip
        },
        0,
    );
    let (a, b): (u64, u64);
    unsafe {
        std::arch::asm!("mov qword ptr [rsp-8], 77", "mov qword ptr [rsp-128], 78", "ud2", "mov {a}, [rsp-8]", "mov {b}, [rsp-128]",
            a = out(reg) a, b = out(reg) b);
    }
    say("the 128 bytes below the stack pointer", format!("{a} {b}"));
}

unsafe extern "C" {
    #[link_name = "__sigsetjmp"]
    fn sigsetjmp(env: *mut [u64; 64], save: i32) -> i32;
    fn siglongjmp(env: *mut [u64; 64], val: i32) -> !;
}

static mut JUMP: [u64; 64] = [0; 64];

fn longjmp_from_handler() {
    extern "C" fn out(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        unsafe { siglongjmp(&raw mut JUMP, 5) }
    }
    on_signal(libc::SIGSEGV, out, 0);
    for save in [1, 0] {
        let r = unsafe { sigsetjmp(&raw mut JUMP, save) };
        if r == 0 {
            unsafe { (8 as *mut u8).write_volatile(1) };
        }
        let mut m = sigset(&[]);
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut m) };
        say("arrived with", r);
        say("SIGSEGV still blocked", unsafe { libc::sigismember(&m, libc::SIGSEGV) });
        mask(libc::SIG_SETMASK, &[]);
    }
    let t = std::cell::Cell::new(0);
    for _ in 0..1000 {
        if unsafe { sigsetjmp(&raw mut JUMP, 1) } == 0 {
            unsafe { (8 as *mut u8).write_volatile(1) };
        }
        t.set(t.get() + 1);
    }
    say("a thousand times", t.get());
}
