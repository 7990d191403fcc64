//! One small guest program per facility of the platform. Every program exits with 0, or
//! with the number of the check that failed.

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::*;
use uml_platform::{Backend, Context, Regs};

guest!(
    calls,
    "mov ebx, 1000",
    "1:",
    "mov eax, 110",
    "syscall",
    "cmp eax, 4242",
    "jne 2f",
    "dec ebx",
    "jnz 1b",
    "mov edi, 7",
    "mov eax, 60",
    "syscall",
    "2:",
    "mov edi, 1",
    "mov eax, 60",
    "syscall",
);

fn calls_and_exit(b: Backend) {
    let k = Kernel::boot(b);
    assert_eq!(k.run(calls()), 7);
    assert!(k.events.load(Ordering::Relaxed) >= 1001);
}

/// CPUs that the calling thread may use.
fn usable() -> Vec<usize> {
    // SAFETY: an all-zero set is valid, and the call fills it.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is live and as long as said.
    let r = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    assert_eq!(r, 0);
    // SAFETY: numbers below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|&c| unsafe { libc::CPU_ISSET(c, &set) }).collect()
}

fn booting_leaves_the_caller_its_cpus(b: Backend) {
    let before = usable();
    let k = Kernel::boot(b);
    assert_eq!(usable(), before);
    k.platform.shutdown();
}

guest!(
    memory,
    // mmap at a chosen place, use it, unmap it.
    "mov edi, 0x20000000",
    "mov esi, 0x3000",
    "mov edx, 3",
    "mov eax, 9",
    "syscall",
    "mov r12d, 1",
    "cmp rax, 0x20000000",
    "jne 9f",
    "mov dword ptr [rax + 0x2ff0], 99",
    "mov edi, 0x20000000",
    "mov esi, 0x2000",
    "mov eax, 11",
    "syscall",
    "mov r12d, 2",
    "test rax, rax",
    "jnz 9f",
    "mov r12d, 3",
    "cmp dword ptr [0x20002ff0], 99",
    "jne 9f",
    // Outside the user range: refused, the stub stays.
    "mov rdi, 0x7fff00000000",
    "mov rsi, 0xff000000",
    "mov eax, 11",
    "syscall",
    "mov r12d, 4",
    "cmp rax, -22",
    "jne 9f",
    // Lazily mapped memory: faults become mappings.
    "mov ecx, 50",
    "mov edi, 0x10000000",
    "1:",
    "mov [rdi], rcx",
    "add edi, 0x1000",
    "dec ecx",
    "jnz 1b",
    "mov r12d, 5",
    "cmp qword ptr [0x10001000], 49",
    "jne 9f",
    // The kernel reads what it can: 3 pages are there, the fourth is not.
    "mov rsi, 0x1002ff00",
    "mov edx, 0x3000",
    "mov eax, 1",
    "syscall",
    "mov r12d, 6",
    "cmp rax, 0x2100",
    "jne 9f",
    "xor r12d, r12d",
    "9:",
    "mov edi, r12d",
    "mov eax, 231",
    "syscall",
);

fn memory_calls_and_faults(b: Backend) {
    let k = Kernel::boot(b);
    assert_eq!(k.run(memory()), 0);
}

guest!(
    late,
    // Mapped on the way back.
    "mov edi, 0x20000000",
    "mov esi, 0x2000",
    "mov edx, 3",
    "mov r10d, 0x22",
    "mov eax, 12",
    "syscall",
    "mov r12d, 1",
    "cmp rax, 0x20000000",
    "jne 9f",
    "mov dword ptr [rax + 0x1ff0], 99",
    // Refused by the host: a file without a descriptor.
    "mov edi, 0x20000000",
    "mov esi, 0x1000",
    "mov r10d, 2",
    "mov eax, 12",
    "syscall",
    "mov r12d, 2",
    "cmp rax, -9",
    "jne 9f",
    "cmp dword ptr [0x20001ff0], 99",
    "jne 9f",
    // Anywhere, five times.
    "mov ebx, 5",
    "xor r13d, r13d",
    "1:",
    "xor edi, edi",
    "mov esi, 0x1800",
    "mov edx, 3",
    "mov r10d, 0x20022",
    "mov r8, -1",
    "xor r9d, r9d",
    "mov eax, 9",
    "syscall",
    "mov r12d, 3",
    "cmp rax, 0x30000000",
    "ja 9f",
    "mov [rax + 0x1ff0], ebx",
    "mov r12d, 4",
    "cmp dword ptr [rax], 0",
    "jne 9f",
    "dec ebx",
    "jnz 1b",
    "xor r12d, r12d",
    "9:",
    "mov edi, r12d",
    "mov eax, 231",
    "syscall",
);

fn mappings_made_last(b: Backend) {
    let k = Kernel::boot(b);
    assert_eq!(k.run(late()), 0);
    let seen = [&k.proposals, &k.last, &k.undone].map(|n| n.load(Ordering::SeqCst));
    // Where nothing is left for last, failure shows at once.
    let want = if b == Backend::Notify { [4, 7, 1] } else { [0, 0, 0] };
    assert_eq!(seen, want);
}

guest!(
    exceptions,
    "mov eax, 57", // a call that the miniature kernel refuses
    "syscall",
    "cmp rax, -38",
    "jne 2f",
    "xor ecx, ecx",
    "mov eax, 1",
    "xor edx, edx",
    "div ecx",
    "2:",
);

fn exceptions_are_reported(b: Backend) {
    let k = Kernel::boot(b);
    assert_eq!(k.run(exceptions()), -i64::from(libc::SIGFPE));
    let e = k.exceptions.lock().unwrap()[0];
    assert_eq!((e.signo, e.code, e.trapno), (libc::SIGFPE, 1, 0));
    k.exceptions.lock().unwrap().clear();
    assert_eq!(k.run(null()), -i64::from(libc::SIGSEGV));
    let e = k.exceptions.lock().unwrap()[0];
    assert_eq!((e.addr, e.trapno, e.err & 7), (0x123, 14, 6));
}

guest!(null, "mov dword ptr [0x123], 5");

guest!(
    fork,
    "mov dword ptr [r15], 1",
    "mov ebx, 77",
    "xor edi, edi",
    "xor esi, esi",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 1f",
    // Parent: the child's write is not ours.
    "mov rdi, rax",
    "mov eax, 61",
    "syscall",
    "mov r12d, 10",
    "cmp rax, 5",
    "jne 9f",
    "mov r12d, 11",
    "cmp dword ptr [r15], 1",
    "jne 9f",
    "mov r12d, 12",
    "cmp ebx, 77",
    "jne 9f",
    "xor r12d, r12d",
    "9:",
    "mov edi, r12d",
    "mov eax, 231",
    "syscall",
    "1:",
    "cmp dword ptr [r15], 1",
    "jne 2f",
    "cmp ebx, 77",
    "jne 2f",
    "mov dword ptr [r15], 2",
    "mov edi, 5",
    "mov eax, 231",
    "syscall",
    "2:",
    "mov edi, 6",
    "mov eax, 231",
    "syscall",
);

fn fork_copies_memory_and_registers(b: Backend) {
    let k = Kernel::boot(b);
    for _ in 0..20 {
        assert_eq!(k.run(fork()), 0);
    }
}

guest!(
    threads,
    // 20 threads one after another, then 8 at once.
    "mov ebx, 20",
    "1:",
    "mov edi, 0x100", // CLONE_VM
    "lea rsi, [r15 + 0x8000]",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 5f",
    "mov rdi, rax",
    "mov eax, 61",
    "syscall",
    "mov r12d, 1",
    "cmp rax, 3",
    "jne 9f",
    "dec ebx",
    "jnz 1b",
    "mov r12d, 2",
    "cmp dword ptr [r15], 20",
    "jne 9f",
    "mov ebx, 8",
    "lea r14, [r15 + 0x10000]",
    "2:",
    "mov edi, 0x80100", // CLONE_VM | CLONE_SETTLS
    "mov rsi, r14",
    "lea r8, [r14 - 0x800]",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 6f",
    "mov [r15 + rbx * 8 + 0x100], rax",
    "add r14, 0x1000",
    "dec ebx",
    "jnz 2b",
    "mov ebx, 8",
    "3:",
    "mov rdi, [r15 + rbx * 8 + 0x100]",
    "mov eax, 61",
    "syscall",
    "mov r12d, 3",
    "cmp rax, 4",
    "jne 9f",
    "dec ebx",
    "jnz 3b",
    "mov r12d, 4",
    "cmp dword ptr [r15], 8020",
    "jne 9f",
    "xor r12d, r12d",
    "9:",
    "mov edi, r12d",
    "mov eax, 231",
    "syscall",
    // One increment.
    "5:",
    "lock inc dword ptr [r15]",
    "mov edi, 3",
    "mov eax, 60",
    "syscall",
    // A thousand, with a call each; fs must stay ours.
    "6:",
    "mov ebp, 1000",
    "lea r13, [rsp - 0x800]",
    "mov fs:[0], r13",
    "7:",
    "lock inc dword ptr [r15]",
    "mov eax, 110",
    "syscall",
    "cmp fs:[0], r13",
    "jne 8f",
    "cmp [r13], r13",
    "jne 8f",
    "dec ebp",
    "jnz 7b",
    "mov edi, 4",
    "mov eax, 60",
    "syscall",
    "8:",
    "mov edi, 99",
    "mov eax, 60",
    "syscall",
);

fn threads_share_memory(b: Backend) {
    let k = Kernel::boot(b);
    for _ in 0..5 {
        assert_eq!(k.run(threads()), 0);
    }
}

guest!(
    spin,
    "mov eax, 2000", // SYS_COUNT
    "syscall",
    "1:",
    "cmp dword ptr [r15], 0",
    "je 1b",
    "mov edi, 21",
    "mov eax, 231",
    "syscall",
);

fn kick_stops_running_code(b: Backend) {
    let k = Kernel::boot(b);
    let id = k.start(spin());
    let deadline = Instant::now() + Duration::from_secs(10);
    k.wait_count(deadline);
    let kick = k.kick_of(id).unwrap();
    assert!(kick.host_tid() > 0);
    for n in 1..=50 {
        kick.kick();
        while k.interrupted.load(Ordering::SeqCst) < n {
            assert!(Instant::now() < deadline, "kick {n} was lost");
            std::thread::yield_now();
        }
    }
    let task = k.task_of(id).unwrap();
    task.process.exiting.store(true, Ordering::SeqCst);
    kick.kick();
    assert_eq!(k.wait(id), 0);
    // The host thread ends after the runner has said so.
    while kick.host_tid() != 0 {
        assert!(Instant::now() < deadline, "the host thread stays");
        std::thread::yield_now();
    }
}

guest!(
    registers,
    // Registers are read in the middle of a call; the call's result and all registers survive.
    "mov ebx, 0x5555",
    "mov r13d, 200",
    "movq xmm7, r13",
    "1:",
    "mov eax, 2004", // SYS_REGS
    "mov edi, 11",
    "mov esi, 12",
    "syscall",
    "mov r12d, 1",
    "cmp eax, 0x5555 ^ 2004",
    "jne 9f",
    "mov r12d, 2",
    "cmp edi, 11",
    "jne 9f",
    "cmp esi, 12",
    "jne 9f",
    "movq rax, xmm7",
    "mov r12d, 3",
    "cmp rax, 200",
    "jne 9f",
    "dec r13d",
    "jnz 1b",
    // A return through a frame.
    "lea rax, [rip + 3f]",
    "mov [r15], rax",
    "mov dword ptr [r15 + 8], 1234",
    "mov dword ptr [r15 + 12], 0",
    "mov rdi, r15",
    "mov eax, 15",
    "syscall",
    "mov r12d, 4",
    "jmp 9f",
    "3:",
    "mov r12d, 5",
    "cmp rax, 1234",
    "jne 9f",
    // arch_prctl by pass-through.
    "mov edi, 0x1002",
    "lea rsi, [r15 + 0x100]",
    "mov eax, 158",
    "syscall",
    "mov r12d, 6",
    "test rax, rax",
    "jnz 9f",
    "mov dword ptr [r15 + 0x108], 4321",
    "mov eax, fs:[8]",
    "mov r12d, 7",
    "cmp eax, 4321",
    "jne 9f",
    // Registers again, now with fs set, and back.
    "mov eax, 2004",
    "syscall",
    "mov eax, fs:[8]",
    "mov r12d, 8",
    "cmp eax, 4321",
    "jne 9f",
    "xor r12d, r12d",
    "9:",
    "mov edi, r12d",
    "mov eax, 231",
    "syscall",
);

fn registers_survive(b: Backend) {
    let k = Kernel::boot(b);
    assert_eq!(k.run(registers()), 0);
}

guest!(
    vector,
    // Vector state is inherited by threads and processes and survives faults.
    "mov eax, 0x1234567",
    "movd xmm5, eax",
    "mov dword ptr [0x10000000], 1",
    "mov edi, 0x100",
    "lea rsi, [r15 + 0x8000]",
    "mov eax, 56",
    "syscall",
    "movd ecx, xmm5",
    "mov r12d, 1",
    "cmp ecx, 0x1234567",
    "jne 9f",
    "test rax, rax",
    "jz 5f",
    "mov rdi, rax",
    "mov eax, 61",
    "syscall",
    "mov r12d, 2",
    "cmp rax, 3",
    "jne 9f",
    "xor edi, edi",
    "mov eax, 56",
    "syscall",
    "movd ecx, xmm5",
    "mov r12d, 3",
    "cmp ecx, 0x1234567",
    "jne 9f",
    "test rax, rax",
    "jz 5f",
    "mov rdi, rax",
    "mov eax, 61",
    "syscall",
    "mov r12d, 4",
    "cmp rax, 3",
    "jne 9f",
    "xor r12d, r12d",
    "9:",
    "mov edi, r12d",
    "mov eax, 231",
    "syscall",
    "5:",
    "xorps xmm5, xmm5",
    "mov edi, 3",
    "mov eax, 60",
    "syscall",
);

fn vector_state_is_inherited(b: Backend) {
    let k = Kernel::boot(b);
    assert_eq!(k.run(vector()), 0);
}

guest!(
    atomics,
    "mov dword ptr [r15], 5",
    "mov rdi, r15",
    "mov esi, 5",
    "mov edx, 6",
    "mov eax, 2002",
    "syscall",
    "mov r12d, 1",
    "cmp rax, 5",
    "jne 9f",
    "mov r12d, 2",
    "cmp dword ptr [r15], 6",
    "jne 9f",
    "mov eax, 2002",
    "mov rdi, r15",
    "syscall",
    "mov r12d, 3",
    "cmp rax, 6",
    "jne 9f",
    // Not mapped: an error, and the guest goes on.
    "mov edi, 0x30000000",
    "mov eax, 2002",
    "syscall",
    "mov r12d, 4",
    "cmp rax, -14",
    "jne 9f",
    // Not writable.
    "mov edi, 0x400000",
    "mov eax, 2002",
    "syscall",
    "mov r12d, 5",
    "cmp rax, -14",
    "jne 9f",
    "mov rdi, r15",
    "mov eax, 2002",
    "syscall",
    "mov r12d, 6",
    "cmp rax, 6",
    "jne 9f",
    "xor r12d, r12d",
    "9:",
    "mov edi, r12d",
    "mov eax, 231",
    "syscall",
);

fn compare_and_exchange(b: Backend) {
    let k = Kernel::boot(b);
    assert_eq!(k.run(atomics()), 0);
}

guest!(exec, "mov eax, 2006", "syscall", "mov edi, 50", "mov eax, 231", "syscall");

fn switch_to_a_new_space(b: Backend) {
    let k = Kernel::boot(b);
    *k.exec_text.lock().unwrap() = calls().to_vec();
    for _ in 0..20 {
        assert_eq!(k.run(exec()), 7);
    }
}

guest!(
    spawner,
    // vfork(2) and execve(2), fifty times; then nothing is left but this thread.
    "mov r13d, 50",
    "1:",
    "mov edi, 0x100", // CLONE_VM
    "lea rsi, [r15 + 0x8000]",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 5f",
    "js 8f",
    "mov rdi, rax",
    "mov eax, 61",
    "syscall",
    "cmp rax, 7",
    "jne 8f",
    "dec r13d",
    "jnz 1b",
    "mov eax, 2000", // SYS_COUNT
    "syscall",
    "2:",
    "cmp dword ptr [r15], 0",
    "je 2b",
    "8:",
    "mov edi, 99",
    "mov eax, 231",
    "syscall",
    "5:",
    "mov eax, 2006", // SYS_EXEC
    "syscall",
    "mov edi, 98",
    "mov eax, 60",
    "syscall",
);

fn threads_that_leave_a_space_end(b: Backend) {
    let k = Kernel::boot(b);
    *k.exec_text.lock().unwrap() = calls().to_vec();
    let id = k.start(spawner());
    let deadline = Instant::now() + Duration::from_secs(20);
    k.wait_count(deadline);
    let kick = k.kick_of(id).unwrap();
    let threads = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", kick.host_tid())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("Threads:")).unwrap();
        line.trim().parse::<usize>().unwrap()
    };
    // The trap backend has a thread for memory calls, and those told to end take a moment.
    while threads() > 2 {
        assert!(Instant::now() < deadline, "{} threads stay", threads());
        std::thread::yield_now();
    }
    k.task_of(id).unwrap().process.exiting.store(true, Ordering::SeqCst);
    kick.kick();
    assert_eq!(k.wait(id), 0);
}

guest!(panics, "mov eax, 2005", "syscall", "mov edi, 0", "mov eax, 231", "syscall");

fn a_panic_ends_one_process(b: Backend) {
    let k = Kernel::boot(b);
    assert_eq!(k.run(panics()), DIED);
    assert_eq!(k.panics.lock().unwrap().as_slice(), ["asked to"]);
    assert_eq!(k.run(calls()), 7);
}

fn death_is_reported(b: Backend) {
    let k = Kernel::boot(b);
    let id = k.start(spin());
    while k.count.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let pid = k.kick_of(id).unwrap().host_tid();
    // SAFETY: a signal to our own child.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    assert_eq!(k.wait(id), DIED);
    // A context that is never started leaves nothing behind.
    let mut cx = k.load(calls()).unwrap();
    let pid = cx.space().host_pid();
    let regs = cx.regs().unwrap();
    assert_eq!(regs.rip, TEXT);
    let space = cx.space().clone();
    drop(cx);
    let deadline = Instant::now() + Duration::from_secs(10);
    while space.host_pid() != 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert!(pid > 0);
}

fn extended_state_can_be_replaced(b: Backend) {
    let k = Kernel::boot(b);
    let mut cx = k.load(xmm()).unwrap();
    let size = k.platform.limits().xstate_size;
    let mut x = cx.xstate().unwrap();
    assert_eq!(x.len(), size);
    assert!(x[160..416].iter().all(|&b| b == 0));
    // XMM1 = 42, as a full image and as a legacy one.
    x[176] = 42;
    if size > 576 {
        x[512] |= 2;
    }
    cx.set_xstate(Some(&x)).unwrap();
    let status = |cx: Box<dyn Context>| {
        let t = k.task(&k.process());
        k.platform.start(cx, t.clone()).unwrap();
        k.wait(t.id)
    };
    assert_eq!(status(cx), 42);
    let mut cx = k.load(xmm()).unwrap();
    x[176] = 43;
    cx.set_xstate(Some(&x[..512])).unwrap();
    assert_eq!(status(cx), 43);
    let mut cx = k.load(xmm()).unwrap();
    cx.set_xstate(Some(&x)).unwrap();
    cx.set_xstate(None).unwrap();
    assert_eq!(status(cx), 0);
    let mut cx = k.load(xmm()).unwrap();
    if size > 576 {
        for (i, v) in [(512 + 7, 0x80), (512 + 20, 1), (size - 1, 0), (468, 1), (27, 0xff)] {
            let mut bad = x.clone();
            bad[i] = v;
            assert!(cx.set_xstate(Some(&bad)).is_err(), "byte {i}");
        }
    }
    assert!(cx.set_xstate(Some(&x[..100])).is_err());
    assert!(cx.set_regs(&Regs { fs_base: 1 << 63, ..Regs::default() }).is_err());
}

guest!(
    sleepers,
    "mov ebx, 100",
    "1:",
    "mov edi, 0x100", // CLONE_VM for every other one
    "test ebx, 1",
    "jz 2f",
    "xor edi, edi",
    "2:",
    "xor esi, esi",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 3f",
    "dec ebx",
    "jnz 1b",
    "mov eax, 2003", // SYS_SLEEP
    "syscall",
    "mov edi, 55",
    "mov eax, 231",
    "syscall",
    "3:",
    "mov r12d, ebx",
    "movd xmm1, ebx",
    "mov eax, 2003",
    "syscall",
    "mov edi, 1",
    "test rax, rax",
    "jnz 9f",
    "cmp r12d, ebx",
    "jne 9f",
    "movd ecx, xmm1",
    "cmp ecx, ebx",
    "jne 9f",
    "mov eax, 2000", // SYS_COUNT
    "syscall",
    "xor edi, edi",
    "9:",
    "mov eax, 60",
    "syscall",
);

/// Starts [`sleepers`] and waits until all sleep; the ids.
fn all_asleep(k: &std::sync::Arc<Kernel>) -> std::ops::Range<usize> {
    let first = k.start(sleepers());
    let ids = first..first + 101;
    let asleep = |id| k.task_of(id).is_some_and(|t| *t.sleeping.lock().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ids.clone().all(asleep) {
        assert!(Instant::now() < deadline, "not all sleep");
        std::thread::sleep(Duration::from_millis(1));
    }
    ids
}

fn many_sleepers(b: Backend) {
    let k = Kernel::boot(b);
    let ids = all_asleep(&k);
    let parked = k.parked.load(Ordering::SeqCst);
    // All of them are under one filter.
    let want = if b == Backend::Notify { 101 - 65..=101 - 63 } else { 0..=0 };
    assert!(want.contains(&parked), "{parked}");
    ids.clone().skip(1).for_each(|id| k.task_of(id).unwrap().wake());
    ids.clone().skip(1).for_each(|id| assert_eq!(k.wait(id), 0));
    assert_eq!(k.count.load(Ordering::SeqCst), 100);
    k.task_of(ids.start).unwrap().wake();
    assert_eq!(k.wait(ids.start), 55);
}

fn sleepers_die(b: Backend) {
    let k = Kernel::boot(b);
    let ids = all_asleep(&k);
    // Kicked while they sleep, then ended with the machine's processes.
    k.kick_all();
    k.platform.shutdown();
    ids.clone().for_each(|id| k.task_of(id).unwrap().wake());
    ids.for_each(|id| assert_eq!(k.wait(id), DIED));
}

guest!(xmm, "movd edi, xmm1", "mov eax, 231", "syscall");

on_each_backend!(
    calls_and_exit,
    booting_leaves_the_caller_its_cpus,
    memory_calls_and_faults,
    mappings_made_last,
    exceptions_are_reported,
    fork_copies_memory_and_registers,
    threads_share_memory,
    kick_stops_running_code,
    registers_survive,
    vector_state_is_inherited,
    compare_and_exchange,
    switch_to_a_new_space,
    threads_that_leave_a_space_end,
    a_panic_ends_one_process,
    death_is_reported,
    extended_state_can_be_replaced,
    many_sleepers,
    sleepers_die,
);
