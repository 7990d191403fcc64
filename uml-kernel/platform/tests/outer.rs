//! Under somebody else's seccomp filter: what works still works, nothing the filter would answer
//! is answered by it, and what does not work is named.
//!
//! The test runs itself in a process that installs a filter first and then boots.

mod common;

use std::os::unix::process::CommandExt;
use std::process::Command;

use common::*;
use uml_platform::{Backend, Config, boot};

const ROLE: &str = "UML_TEST_OUTER";

const LD: u16 = 0x20;
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const RET: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const NOTIF: u32 = 0x7fc0_0000;
const KILL: u32 = 0x8000_0000;

fn fail(e: i32) -> u32 {
    0x0005_0000 | e as u32
}

fn insn(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn answer(calls: &[i64], action: u32) -> Vec<libc::sock_filter> {
    let mut p = vec![insn(LD, 0, 0, 0)];
    for &nr in calls {
        p.push(insn(JEQ, 0, 1, nr as u32));
        p.push(insn(RET, 0, 0, action));
    }
    p
}

fn allow_rest(mut p: Vec<libc::sock_filter>) -> Vec<libc::sock_filter> {
    p.push(insn(RET, 0, 0, ALLOW));
    p
}

/// What the default profile of container runtimes refuses, by number; clone with namespaces
/// and odd personalities by argument; clone3 and calls it does not know with ENOSYS.
fn container() -> Vec<libc::sock_filter> {
    const REFUSED: [i64; 30] = [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_bpf,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_pivot_root,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_reboot,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_acct,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_iopl,
        libc::SYS_ioperm,
        libc::SYS_quotactl,
        libc::SYS_open_by_handle_at,
        libc::SYS_move_pages,
        libc::SYS_mbind,
        libc::SYS_set_mempolicy,
        libc::SYS_get_mempolicy,
        libc::SYS_vhangup,
    ];
    let mut p = answer(&REFUSED, fail(libc::EPERM));
    p.extend(answer(&[libc::SYS_clone3], fail(libc::ENOSYS)));
    // clone: CLONE_NEW* in the first argument.
    p.extend([
        insn(LD, 0, 0, 0),
        insn(JEQ, 0, 4, libc::SYS_clone as u32),
        insn(LD, 0, 0, 16),
        insn(JSET, 0, 1, 0x7e02_0000),
        insn(RET, 0, 0, fail(libc::EPERM)),
        insn(RET, 0, 0, ALLOW),
        // personality: 0 and -1 only.
        insn(JEQ, 0, 5, libc::SYS_personality as u32),
        insn(LD, 0, 0, 16),
        insn(JEQ, 2, 0, 0),
        insn(JEQ, 1, 0, u32::MAX),
        insn(RET, 0, 0, fail(libc::EPERM)),
        insn(RET, 0, 0, ALLOW),
        insn(JGE, 0, 1, 460),
        insn(RET, 0, 0, fail(libc::ENOSYS)),
    ]);
    allow_rest(p)
}

fn install(p: &[libc::sock_filter], flags: u64) -> i64 {
    let prog = libc::sock_fprog { len: p.len() as u16, filter: p.as_ptr().cast_mut() };
    // SAFETY: affects this process only; the program is live for the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        libc::syscall(libc::SYS_seccomp, 1, flags, &raw const prog)
    }
}

guest!(
    asks,
    // Every call that the container's filter would answer: the miniature kernel knows none
    // of them and says ENOSYS. r12 = number of the first that somebody else answered.
    "lea rbx, [rip + 9f]",
    "1:",
    "mov r12d, [rbx]",
    "cmp r12d, -1",
    "je 2f",
    "mov eax, r12d",
    "mov edi, [rbx + 4]",
    "mov esi, 0",
    "syscall",
    "cmp rax, -38",
    "jne 3f",
    "add rbx, 8",
    "jmp 1b",
    // And one that only the miniature kernel has.
    "2:",
    "mov eax, 2000",
    "syscall",
    "mov r12d, 2000",
    "cmp rax, 0",
    "jl 3f",
    "xor r12d, r12d",
    "3:",
    "mov edi, r12d",
    "mov eax, 231",
    "syscall",
    "9:",
    ".long 165, 0, 166, 0, 272, 0x10000000, 308, 0, 250, 0, 248, 0, 321, 0, 323, 0",
    ".long 298, 0, 155, 0, 169, 0, 164, 0, 227, 0, 135, 0x40000, 435, 0, 461, 0, 511, 0",
    ".long -1, 0",
);

guest!(
    works,
    // A page, a thread and a process.
    "mov dword ptr [0x10000000], 1",
    "mov edi, 0x100",
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
    "xor edi, edi",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 5f",
    "mov rdi, rax",
    "mov eax, 61",
    "syscall",
    "mov r12d, 2",
    "cmp rax, 3",
    "jne 9f",
    "xor r12d, r12d",
    "9:",
    "mov edi, r12d",
    "mov eax, 231",
    "syscall",
    "5:",
    "mov edi, 3",
    "mov eax, 60",
    "syscall",
);

/// Boots, runs guests and tells which backend it was.
fn run(backend: Backend) -> (Backend, Vec<(Backend, String)>) {
    let k = Kernel::boot(backend);
    for _ in 0..3 {
        assert_eq!(k.run(asks()), 0, "{backend}: a call was answered by the outer filter");
        assert_eq!(k.run(works()), 0, "{backend}");
    }
    k.platform.shutdown();
    (k.report.chosen, k.report.rejected.clone())
}

/// Why a backend does not start.
fn refusal(backend: Backend) -> String {
    match boot(Config { backend, ..Config::default() }) {
        Ok(_) => panic!("{backend} should not start"),
        Err(e) => e.to_string(),
    }
}

fn assert_reason(text: &str, words: &[&str]) {
    for w in words {
        assert!(text.contains(w), "{w:?} is not in {text:?}");
    }
}

fn play(role: &str) {
    let refuse = |calls: &[i64], action| {
        assert!(install(&allow_rest(answer(calls, action)), 0) >= 0);
    };
    let eperm = fail(libc::EPERM);
    match role {
        "container" => {
            assert!(install(&container(), 0) >= 0);
            assert_eq!(run(Backend::Auto).0, Backend::Notify);
            assert_eq!(run(Backend::Trap).0, Backend::Trap);
            assert_eq!(run(Backend::Ptrace).0, Backend::Ptrace);
        }
        "no-seccomp" => {
            refuse(&[libc::SYS_seccomp], eperm);
            let (chosen, rejected) = run(Backend::Auto);
            assert_eq!(chosen, Backend::Ptrace);
            assert_eq!(rejected.len(), 2, "{rejected:?}");
            for (_, why) in rejected {
                assert_reason(&why, &["seccomp(", "outer seccomp filter"]);
            }
            assert_reason(&refusal(Backend::Seccomp), &["notify:", "trap:", "seccomp("]);
        }
        "no-ptrace" => {
            refuse(&[libc::SYS_ptrace], eperm);
            assert_eq!(run(Backend::Auto).0, Backend::Notify);
            assert_reason(&refusal(Backend::Ptrace), &["ptrace(PTRACE_SEIZE)", "ptrace_scope"]);
        }
        "neither" => {
            refuse(&[libc::SYS_ptrace, libc::SYS_seccomp], eperm);
            let why = refusal(Backend::Auto);
            assert_reason(&why, &["notify: seccomp(", "trap: seccomp(", "ptrace: ptrace("]);
        }
        "deadly" => {
            // Both are answered by the death of who asks.
            refuse(&[libc::SYS_ptrace, libc::SYS_seccomp], KILL);
            assert_reason(&refusal(Backend::Auto), &["notify:", "trap:", "ptrace:", "death"]);
        }
        "no-memory" => {
            refuse(&[libc::SYS_process_vm_readv], eperm);
            assert_reason(&refusal(Backend::Auto), &["process_vm_readv(2)"]);
        }
        "listener" => {
            // Supervised already: the descriptor stays open, so nothing is answered by it.
            let p = allow_rest(answer(&[libc::SYS_mount], NOTIF));
            assert!(install(&p, 8) >= 0);
            let (chosen, rejected) = run(Backend::Auto);
            assert_eq!(chosen, Backend::Trap);
            assert_reason(&rejected[0].1, &["listener"]);
            assert_eq!(run(Backend::Ptrace).0, Backend::Ptrace);
        }
        "nobody" => {
            // An ordinary user, without any filter.
            for b in BACKENDS {
                assert_eq!(run(b).0, b);
            }
        }
        _ => panic!("no such role: {role}"),
    }
}

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return play(&role);
    }
    let me = std::env::current_exe().expect("own path");
    let mut failed = 0;
    let roles =
        ["container", "no-seccomp", "no-ptrace", "neither", "deadly", "no-memory", "listener"];
    for role in roles {
        let status = Command::new(&me).env(ROLE, role).status().expect("start");
        println!("under the filter {role:?}: {status}");
        failed += usize::from(!status.success());
    }
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } == 0 {
        // The file may be where only root can read: run a copy.
        let copy = std::env::temp_dir().join(format!("uml-outer-{}", std::process::id()));
        std::fs::copy(&me, &copy).expect("copy");
        let status = Command::new(&copy).env(ROLE, "nobody").uid(65534).gid(65534).status();
        std::fs::remove_file(&copy).ok();
        let status = status.expect("start");
        println!("as an unprivileged user: {status}");
        failed += usize::from(!status.success());
    }
    assert_eq!(failed, 0, "{failed} failed");
}
