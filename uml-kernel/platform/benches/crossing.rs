//! What the platform's operations cost, per backend: `cargo bench -p uml-platform`.
//!
//! Prints microseconds per operation, the median of several rounds. The kernel above is
//! the tests' miniature one, so these are the platform's own costs.

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::atomic::Ordering;
use std::time::Instant;

use common::*;
use uml_platform::Backend;

const LOOP: u64 = 20_000;
const SLOW: u64 = 500;

macro_rules! looped {
    ($name:ident, $($line:expr),+ $(,)?) => {
        guest!(
            $name,
            // The iteration count is in r14.
            "1:",
            $($line,)+
            "dec r14",
            "jnz 1b",
            "xor edi, edi",
            "mov eax, 231",
            "syscall",
        );
    };
}

looped!(null_call, "mov eax, 110", "syscall");
looped!(registers, "mov eax, 2004", "syscall");
looped!(
    sigreturn,
    "lea rax, [rip + 2f]",
    "mov [r15], rax",
    "mov rdi, r15",
    "mov eax, 15",
    "syscall",
    "2:"
);
looped!(pass, "mov edi, 0x1003", "mov rsi, r15", "mov eax, 158", "syscall");
looped!(
    map_unmap,
    "mov edi, 0x20000000",
    "mov esi, 0x1000",
    "mov edx, 3",
    "mov eax, 9",
    "syscall",
    "mov edi, 0x20000000",
    "mov esi, 0x1000",
    "mov eax, 11",
    "syscall",
);
looped!(fault, "mov rax, r14", "shl rax, 12", "mov [rax + 0x10000000], rax");
looped!(
    thread,
    "mov edi, 0x100",
    "lea rsi, [r15 + 0x8000]",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "mov rdi, rax",
    "mov eax, 61",
    "syscall",
    "jmp 3f",
    "2:",
    "mov eax, 60",
    "syscall",
    "3:",
);
looped!(
    fork,
    "xor edi, edi",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "mov rdi, rax",
    "mov eax, 61",
    "syscall",
    "jmp 3f",
    "2:",
    "mov eax, 231",
    "syscall",
    "3:",
);
looped!(
    fork_exec,
    "xor edi, edi",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "mov rdi, rax",
    "mov eax, 61",
    "syscall",
    "jmp 3f",
    "2:",
    "mov eax, 2006",
    "syscall",
    "3:",
);
guest!(quit, "mov eax, 231", "syscall");
// Two threads in one process; the second makes calls until the first is through.
guest!(
    two_threads,
    "mov edi, 0x100",
    "lea rsi, [r15 + 0x8000]",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "1:",
    "mov eax, 110",
    "syscall",
    "dec r14",
    "jnz 1b",
    "mov eax, 231",
    "syscall",
    "2:",
    "mov eax, 110",
    "syscall",
    "jmp 2b",
);

fn measure(k: &std::sync::Arc<Kernel>, text: &[u8], n: u64) -> f64 {
    let mut rounds: Vec<f64> = (0..5)
        .map(|_| {
            let mut cx = k.load(text).expect("load");
            let mut regs = cx.regs().expect("registers");
            regs.r14 = n;
            cx.set_regs(&regs).expect("registers");
            let task = k.task(&k.process());
            let start = Instant::now();
            k.platform.start(cx, task.clone()).expect("start");
            assert!(k.wait(task.id) >= 0);
            start.elapsed().as_secs_f64() * 1e6 / n as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn main() {
    let only = std::env::var("UML_TEST_PLATFORM").ok();
    let all = [Backend::Notify, Backend::Trap, Backend::Ptrace];
    for b in all.into_iter().filter(|b| only.as_ref().is_none_or(|o| *o == b.to_string())) {
        let Some(k) = Kernel::try_boot(b) else {
            println!("{b}: not available");
            continue;
        };
        *k.exec_text.lock().unwrap() = quit().to_vec();
        println!("backend {b}, us per operation");
        let cases: [(&str, &[u8], u64); 10] = [
            ("null system call", null_call(), LOOP),
            ("null call, two threads", two_threads(), LOOP),
            ("call passed to the host", pass(), LOOP),
            ("call that reads registers", registers(), LOOP),
            ("sigreturn", sigreturn(), LOOP),
            ("mmap + munmap of a page", map_unmap(), LOOP),
            ("fault + mmap of a page", fault(), LOOP),
            ("thread + exit + wait", thread(), SLOW),
            ("fork + exit + wait", fork(), SLOW),
            ("fork + exec + exit + wait", fork_exec(), SLOW),
        ];
        for (name, text, n) in cases {
            println!("  {name:28} {:9.2}", measure(&k, text, n));
        }
        println!(
            "  interrupted {}, died {}",
            k.interrupted.load(Ordering::SeqCst),
            k.died.load(Ordering::SeqCst)
        );
        k.platform.shutdown();
    }
}
