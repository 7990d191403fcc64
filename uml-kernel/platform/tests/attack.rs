//! Hostile guest programs. The worst each may achieve is the end of its own process; the
//! kernel and a second guest keep working.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use uml_platform::{Backend, Kick, Regs, Space};
use uml_stub::slot;

/// Where the slots are in the stub's region.
const SLOTS_OFF: u64 = 16 << 20;

guest!(
    victim,
    // Calls and counts for ever, with a value in a vector register that must not change.
    "mov ebx, 0x600d",
    "movd xmm9, ebx",
    "1:",
    "mov eax, 110",
    "syscall",
    "cmp eax, 4242",
    "jne 2f",
    "movd eax, xmm9",
    "cmp eax, ebx",
    "jne 2f",
    "cmp dword ptr [r15], 0",
    "jne 2f",
    "mov eax, 2000",
    "syscall",
    "jmp 1b",
    "2:",
    "mov edi, 1",
    "mov eax, 231",
    "syscall",
);

guest!(good, "mov eax, 110", "syscall", "mov edi, eax", "mov eax, 231", "syscall");

struct Stage {
    kernel: Arc<Kernel>,
    victim: usize,
    stub: u64,
}

struct Attacker {
    id: usize,
    space: Arc<dyn Space>,
    kick: Arc<dyn Kick>,
}

impl Stage {
    fn set(b: Backend) -> Stage {
        let kernel = Kernel::boot(b);
        let stub = kernel.platform.limits().user_max;
        let victim = kernel.start(victim());
        Stage { kernel, victim, stub }
    }

    fn start(&self, text: &[u8], set: impl FnOnce(&mut Regs), data: &[u8]) -> Attacker {
        let mut cx = self.kernel.load(text).expect("load");
        let mut regs = cx.regs().expect("registers");
        set(&mut regs);
        cx.set_regs(&regs).expect("registers");
        assert_eq!(cx.space().write(DATA, data), data.len());
        let task = self.kernel.task(&self.kernel.process());
        let (space, kick) = (cx.space().clone(), cx.kick_handle());
        self.kernel.platform.start(cx, task.clone()).expect("start");
        Attacker { id: task.id, space, kick }
    }

    /// Ends attackers that have not ended themselves.
    fn clear(&self, attackers: &[Attacker], grace: Duration) {
        let deadline = Instant::now() + grace;
        for a in attackers {
            while self.kernel.kick_of(a.id).is_some() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if let Some(t) = self.kernel.task_of(a.id) {
                t.process.exiting.store(true, Ordering::SeqCst);
                a.kick.kick();
            }
        }
        for a in attackers {
            let deadline = Instant::now() + Duration::from_millis(200);
            while self.kernel.kick_of(a.id).is_some() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            a.space.kill();
            self.kernel.wait(a.id);
        }
    }

    /// The kernel and the victim are as before, and new programs run.
    fn check(&self) {
        let count = self.kernel.count.load(Ordering::SeqCst);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.kernel.count.load(Ordering::SeqCst) < count + 50 {
            assert!(Instant::now() < deadline, "the victim does not run");
            assert!(self.kernel.kick_of(self.victim).is_some(), "the victim ended");
            std::thread::yield_now();
        }
        assert_eq!(self.kernel.run(good()), 4242);
        assert!(
            self.kernel.panics.lock().unwrap().is_empty(),
            "{:?}",
            self.kernel.panics.lock().unwrap()
        );
    }
}

guest!(jump, "jmp rbp");

type Preset = Box<dyn Fn(&mut Regs)>;

/// Registers as an attacker may choose them before jumping into the stub.
fn presets(stub: u64) -> Vec<Preset> {
    let me = std::process::id() as u64;
    let all = |v: u64| {
        move |r: &mut Regs| {
            for x in [&mut r.rax, &mut r.rbx, &mut r.rcx, &mut r.rdx, &mut r.rsi, &mut r.rdi] {
                *x = v;
            }
            for x in
                [&mut r.r8, &mut r.r9, &mut r.r10, &mut r.r12, &mut r.r13, &mut r.r14, &mut r.r15]
            {
                *x = v;
            }
        }
    };
    vec![
        Box::new(all(0)),
        // Everything points to memory that looks like a slot or a control page.
        Box::new(move |r| {
            all(DATA)(r);
            r.rsp = DATA + 0x8000;
        }),
        // A direct kill of the kernel.
        Box::new(move |r| (r.rax, r.rdi, r.rsi) = (62, me, 9)),
        // Away with the stub.
        Box::new(move |r| (r.rax, r.rdi, r.rsi, r.rdx) = (11, stub, 0x1000, 0)),
        // An operation list of one with the slot header in our memory.
        Box::new(move |r| {
            (r.rax, r.rbx, r.rsp, r.r12, r.r13) = (1, DATA, DATA + 0x7000, 1, DATA + 0x100)
        }),
    ]
}

/// Memory for the second preset: hostile operations and clone arguments.
fn hostile_page() -> Vec<u8> {
    let mut page = vec![0u8; 0x8000];
    let me = std::process::id() as u64;
    let mut put = |off: usize, v: u64| page[off..off + 8].copy_from_slice(&v.to_ne_bytes());
    put(slot::CLONE_FLAGS, 0x0000_4400);
    put(slot::CHILD_SLOT, DATA + 0x10000);
    put(slot::RESUME_SP, DATA + 0x4000);
    for (i, nr) in [62u64, 11, 59, 101, 310, 57].into_iter().enumerate() {
        let at = slot::OPS + i * slot::OP_SIZE;
        for (k, v) in [nr, me, 9, 0, 0, 0, 0].into_iter().enumerate() {
            put(at + k * 8, v);
        }
    }
    page
}

fn jump_to_every_offset_of_the_stub(b: Backend) {
    let s = Stage::set(b);
    let page = hostile_page();
    for (n, preset) in presets(s.stub).iter().enumerate() {
        let mut batch = Vec::new();
        for off in 0..uml_stub::code().len() as u64 {
            let set = |r: &mut Regs| {
                preset(r);
                r.rbp = s.stub + off;
            };
            batch.push(s.start(jump(), set, &page));
            if batch.len() == 32 {
                s.clear(&batch, Duration::from_millis(50));
                batch.clear();
            }
        }
        s.clear(&batch, Duration::from_millis(50));
        s.check();
        eprintln!("preset {n} done");
    }
    s.kernel.platform.shutdown();
}

guest!(exit_after, "call rbp", "ud2");

/// Calls made directly from the stub's own `syscall` instruction.
fn calls_from_the_stub(b: Backend) {
    let s = Stage::set(b);
    let code = uml_stub::code();
    let me = std::process::id() as u64;
    let end = s.stub;
    let calls: Vec<[u64; 7]> = vec![
        [11, end, 0x1000, 0, 0, 0, 0],
        [11, end + SLOTS_OFF, 0x8000, 0, 0, 0, 0],
        [10, end, 0x1000, 7, 0, 0, 0],
        [9, end, 0x1000, 7, 0x32, u64::MAX, 0],
        [9, 0x2000_0000, 0x1000, 3, 0x32, u64::MAX, 0],
        [9, 0x2000_0000, 0x1000, 3, 0x11, 3, 0],
        [25, end, 0x1000, 0x1000, 3, 0x3000_0000, 0],
        [28, end, 0x1000, 4, 0, 0, 0],
        [62, me, 9, 0, 0, 0, 0],
        [200, me, 9, 0, 0, 0, 0],
        [234, me, me, 9, 0, 0, 0],
        [101, 16, me, 0, 0, 0, 0],
        [310, me, DATA, 1, DATA, 1, 0],
        [311, me, DATA, 1, DATA, 1, 0],
        [56, 0x4100, 0, 0, 0, 0, 0],
        [57, 0, 0, 0, 0, 0, 0],
        [59, DATA, 0, 0, 0, 0, 0],
        [257, 0xffff_ff9c, DATA, 2, 0, 0, 0],
        [1, 1, DATA, 10, 0, 0, 0],
        [1, 2, DATA, 10, 0, 0, 0],
        [3, 3, 0, 0, 0, 0, 0],
        [41, 2, 1, 0, 0, 0, 0],
        [157, 1, 0, 0, 0, 0, 0],
        [157, 4, 0, 0, 0, 0, 0],
        [202, DATA, 0, 0, 0, 0, 0],
        [317, 1, 8, DATA, 0, 0, 0],
        [425, 8, DATA, 0, 0, 0, 0],
        [434, me, 0, 0, 0, 0, 0],
        [13, 11, 0, 0, 8, 0, 0],
        [131, DATA, 0, 0, 0, 0, 0],
        [158, 0x1012, 0, 0, 0, 0, 0],
    ];
    let sites: Vec<u64> = code
        .windows(2)
        .enumerate()
        .filter(|(_, w)| *w == [0x0f, 5])
        .map(|(i, _)| i as u64)
        .collect();
    assert!(sites.len() > 10);
    for &site in [sites[0], sites[sites.len() / 2], sites[sites.len() - 1]].iter() {
        for c in &calls {
            if b == Backend::Ptrace && c[0] == libc::SYS_clone as u64 {
                continue; // An ordinary call there, which the miniature kernel carries out.
            }
            let set = |r: &mut Regs| {
                (r.rax, r.rdi, r.rsi, r.rdx) = (c[0], c[1], c[2], c[3]);
                (r.r10, r.r8, r.r9, r.rbp) = (c[4], c[5], c[6], end + site);
                // What follows the instruction finds no slot.
                (r.rbx, r.rsp) = (0, DATA + 0x8000);
            };
            let a = s.start(exit_after(), set, b"/etc/passwd\0");
            s.clear(std::slice::from_ref(&a), Duration::from_secs(2));
            assert!(s.kernel.wait(a.id) < 0, "call {c:?} was let through");
        }
    }
    s.check();
    s.kernel.platform.shutdown();
}

guest!(
    busy,
    // Thread 0 does everything that goes through its slot; thread 1 writes random words
    // to that slot. ebp = which part, r14 = slot.
    "mov edi, 0x100",
    "lea rsi, [r15 + 0x8000]",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 5f",
    "1:",
    "mov eax, 110",
    "syscall",
    "mov eax, 2004",
    "syscall",
    "mov edi, 0x20000000",
    "mov esi, 0x1000",
    "mov edx, 3",
    "mov eax, 9",
    "syscall",
    "mov rdi, r15",
    "mov eax, 2002",
    "syscall",
    "mov edi, 0x20000000",
    "mov esi, 0x1000",
    "mov eax, 11",
    "syscall",
    "xor edi, edi",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 4f",
    "mov edi, 0x100",
    "lea rsi, [r15 + 0x10000]",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 4f",
    "jmp 1b",
    "4:",
    "mov eax, 60",
    "syscall",
    "5:",
    "rdtsc",
    "mov r13d, eax",
    "or r13, 1",
    "6:",
    "mov rax, r13",
    "shl rax, 13",
    "xor r13, rax",
    "mov rax, r13",
    "shr rax, 7",
    "xor r13, rax",
    "mov rax, r13",
    "shl rax, 17",
    "xor r13, rax",
    // Offset: header, operations, frame or all of the slot.
    "mov rcx, r13",
    "shr rcx, 20",
    "and ecx, [r15 + 0x3000]",
    "add ecx, [r15 + 0x3008]",
    "and ecx, -8",
    // Value: random, small, or an address in the slot.
    "mov rax, r13",
    "shr rax, 40",
    "and eax, 3",
    "mov rdx, r13",
    "cmp eax, 1",
    "jb 7f",
    "ja 8f",
    "and edx, 0xff",
    "jmp 7f",
    "8:",
    "cmp eax, 3",
    "je 7f",
    "and edx, 0x7ff8",
    "add rdx, r14",
    "7:",
    "mov [r14 + rcx], rdx",
    "mov ecx, [r15 + 0x3010]",
    "9:",
    "dec ecx",
    "jns 9b",
    "jmp 6b",
);

fn a_sibling_scribbles_on_the_slot(b: Backend) {
    let s = Stage::set(b);
    let before = s.kernel.events.load(Ordering::SeqCst);
    // (mask, base) of the offset, and the pause between writes.
    let parts: [(u64, u64); 5] =
        [(0xff, 0), (0x3ff, 0x100), (0x7ff, 0x7800), (0xfff, 0x7000), (0x7fff, 0)];
    for round in 0..4 {
        for (mask, base) in parts {
            for pause in [0u64, 200, 5000] {
                let mut page = vec![0u8; 0x3018];
                page[0x3000..0x3008].copy_from_slice(&mask.to_ne_bytes());
                page[0x3008..0x3010].copy_from_slice(&base.to_ne_bytes());
                page[0x3010..0x3018].copy_from_slice(&pause.to_ne_bytes());
                let set = |r: &mut Regs| r.r14 = s.stub + SLOTS_OFF;
                let a = s.start(busy(), set, &page);
                s.clear(&[a], Duration::from_millis(20));
            }
        }
        // Children of the attackers end by themselves or are killed with their machine.
        s.check();
        eprintln!("round {round}: {} events", s.kernel.events.load(Ordering::SeqCst) - before);
    }
    s.kernel.platform.shutdown();
}

guest!(
    block_signals,
    // A signal frame of our own with everything blocked, loaded by the stub's rt_sigreturn;
    // then computing for ever. rsp = frame, rbp = the stub's syscall instruction.
    "lea rax, [rip + 1f]",
    "mov [rsp + 40 + 16 * 8], rax",
    "mov [rsp + 40 + 15 * 8], rsp",
    "mov [rsp + 40 + 7 * 8], r15",
    "mov qword ptr [rsp + 40 + 17 * 8], 0x202",
    "mov rax, 0x2b000000000033",
    "mov [rsp + 40 + 18 * 8], rax",
    "mov qword ptr [rsp + 40 + 23 * 8], 0",
    "mov qword ptr [rsp], 6",
    "mov qword ptr [rsp + 296], -1",
    "mov eax, 15",
    "jmp rbp",
    "1:",
    "mov dword ptr [r15 + 0x100], 1",
    "2:",
    "jmp 2b",
);

fn a_thread_that_blocks_interruption_is_ended(b: Backend) {
    if b == Backend::Ptrace {
        return; // There is no stub to misuse.
    }
    let s = Stage::set(b);
    let site = uml_stub::code().windows(2).position(|w| w == [0x0f, 5]).unwrap() as u64;
    let set = |r: &mut Regs| {
        r.rsp = DATA + 0x4000;
        r.rbp = s.stub + site;
    };
    let a = s.start(block_signals(), set, &[]);
    // Wait until it computes with signals blocked, then interrupt it.
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut flag = [0];
    while a.space.read(DATA + 0x100, &mut flag) != 1 || flag[0] == 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    a.kick.kick();
    assert_eq!(s.kernel.wait(a.id), DIED);
    s.check();
    s.kernel.platform.shutdown();
}

guest!(
    secret,
    "mov rax, 0x5ec2e75ec2e75ec2",
    "movq xmm0, rax",
    "movddup xmm1, xmm0",
    "movddup xmm15, xmm0",
    "mov rbx, rax",
    "mov ebp, 20",
    "1:",
    "mov eax, 2004",
    "syscall",
    "dec ebp",
    "jnz 1b",
    "xor edi, edi",
    "mov eax, 231",
    "syscall",
);

guest!(
    search,
    // rdi = slot: looks for the secret in it.
    "mov rax, 0x5ec2e75ec2e75ec2",
    "mov ecx, 0x1000",
    "repne scasq",
    "mov edi, 0",
    "jne 1f",
    "mov edi, 1",
    "1:",
    "mov eax, 231",
    "syscall",
);

fn slots_keep_no_secrets(b: Backend) {
    if b == Backend::Ptrace {
        return;
    }
    let s = Stage::set(b);
    for _ in 0..30 {
        assert_eq!(s.kernel.run(secret()), 0);
        let a = s.start(search(), |r| r.rdi = s.stub + SLOTS_OFF, &[]);
        assert_eq!(s.kernel.wait(a.id), 0, "a slot was handed on with its contents");
    }
    s.kernel.platform.shutdown();
}

/// The host's vDSO functions work inside a guest and cannot be unmapped.
fn the_host_vdso_stays(b: Backend) {
    let s = Stage::set(b);
    let at = s.kernel.platform.limits().host_clock_gettime;
    if at == 0 {
        return;
    }
    let seen = AtomicU64::new(0);
    let set = |r: &mut Regs| {
        r.rbp = at;
        r.rdi = 1;
        r.rsi = DATA;
        r.rbx = at & !0xfff;
    };
    let a = s.start(clock(), set, &[]);
    seen.store(s.kernel.wait(a.id) as u64, Ordering::SeqCst);
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    s.kernel.platform.shutdown();
}

guest!(
    clock,
    "call rbp",
    "mov edi, 1",
    "test eax, eax",
    "jnz 9f",
    "cmp qword ptr [r15], 0",
    "je 9f",
    "mov rdi, rbx",
    "mov esi, 0x1000",
    "mov eax, 11",
    "syscall",
    "mov edi, 2",
    "cmp rax, -22",
    "jne 9f",
    "call rbp_again",
    "xor edi, edi",
    "9:",
    "mov eax, 231",
    "syscall",
    "rbp_again:",
    "mov edi, 1",
    "mov rsi, r15",
    "jmp rbp",
);

on_each_backend!(
    jump_to_every_offset_of_the_stub,
    calls_from_the_stub,
    a_sibling_scribbles_on_the_slot,
    a_thread_that_blocks_interruption_is_ended,
    slots_keep_no_secrets,
    the_host_vdso_stays,
);
