//! execve(2): replacing a program.
//!
//! The new address space is built completely before the old one is given up, so every error is
//! reported to the caller, which then still exists.

pub mod elf;
mod stack;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::errno::*;
use uml_abi::{Errno, Result};
use uml_base::Events;
use uml_mm::vma::{PROT_EXEC, PROT_READ, PROT_WRITE, Purpose};
use uml_mm::{Layout, MapRequest, Mm, PAGE};
use uml_platform::{Context, Next, Regs};

use crate::ctx::{Ctx, Reply};
use crate::file::File;
use crate::io::BufSink;
use crate::ns::change;
use crate::ns::user::IdKind;
use crate::signal::{self, SIG_DFL, SIG_IGN, SigAltStack, SigHand};
use crate::task::cred::{CAP_FULL, SECBIT_KEEP_CAPS, SECBIT_NOROOT};
use crate::task::exit::{begin_group_exit, release_mm};
use crate::task::{Cred, Resource, Task, TaskInit, WaitKind};
use crate::vfs;
use crate::vfs::open::ExecGuard;

/// Longest single argument or environment string with its NUL (MAX_ARG_STRLEN).
pub const MAX_ARG_STRLEN: usize = 128 * 1024;
/// Nested `#!` interpreters before ELOOP.
const MAX_SCRIPTS: usize = 5;
/// Bytes of a `#!` line that count (BINPRM_BUF_SIZE).
const HEAD: usize = 256;

/// A program about to be executed.
pub struct Program {
    pub file: Arc<File>,
    /// The name it was called by (AT_EXECFN, and what an interpreter gets).
    pub filename: Vec<u8>,
    pub args: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    /// `filename` names a descriptor that is closed by then: no interpreter could open it (execveat(2)).
    pub inaccessible: bool,
}

/// Bytes that arguments and environment may take: a quarter of the stack limit, at least 128 KiB, at
/// most 6 MiB (execve(2), "Limits on size of arguments and environment").
pub fn args_limit(task: &Task) -> u64 {
    (task.rlimit(Resource::Stack) / 4).clamp(128 * 1024, 6 << 20)
}

/// A program resolved to the ELF image that will run.
struct Resolved {
    program: Program,
    image: elf::Image,
    /// Credentials come from the file first named, never from a script's (execve(2)).
    cred_file: Arc<File>,
    is_script: bool,
}

fn resolve(task: &Arc<Task>, mut program: Program) -> Result<Resolved> {
    let mut scripts = 0;
    loop {
        let mut head = [0u8; HEAD];
        let n = program.file.read_at(task, 0, &mut BufSink::new(&mut head))?;
        let head = &head[..n];
        if head.starts_with(b"#!") {
            if program.inaccessible {
                return Err(ENOENT);
            }
            scripts += 1;
            if scripts > MAX_SCRIPTS {
                return Err(ELOOP);
            }
            let (interp, arg) = shebang(head)?;
            // argv[0] gives way to the interpreter, its argument and the script's name.
            let mut args = vec![interp.clone()];
            args.extend(arg);
            args.push(program.filename.clone());
            args.extend(program.args.drain(..).skip(1));
            program.args = args;
            program.file = vfs::open_exec(task, &interp)?;
            program.filename = interp;
            continue;
        }
        let image = elf::parse(&program.file, task, head)?;
        let cred_file = program.file.clone();
        return Ok(Resolved { program, image, cred_file, is_script: scripts > 0 });
    }
}

/// Splits a `#!` line into interpreter and optional single argument.
fn shebang(head: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let line = match head.iter().position(|b| *b == b'\n') {
        Some(n) => &head[2..n],
        None if head.len() < HEAD => &head[2..],
        None => {
            // A cut line is usable only if the interpreter's name is whole; its last byte is lost.
            let start = head[2..].iter().position(|b| !blank(b)).ok_or(ENOEXEC)? + 2;
            if !head[start..].iter().any(blank) {
                return Err(ENOEXEC);
            }
            &head[2..HEAD - 1]
        }
    };
    let line = line.split(|b| *b == 0).next().unwrap_or_default();
    let line = line.trim_ascii();
    let end = line.iter().position(blank).unwrap_or(line.len());
    if end == 0 {
        return Err(ENOEXEC);
    }
    let arg = line[end..].trim_ascii();
    Ok((line[..end].to_vec(), (!arg.is_empty()).then(|| arg.to_vec())))
}

/// Credentials after executing `file` (capabilities(7), "Transformation of capabilities during
/// execve()"), and whether the program must distrust its environment (AT_SECURE).
fn new_cred(task: &Task, file: &File) -> Result<(Cred, bool)> {
    let old = task.cred();
    let mut c = (*old).clone();
    let meta = file.path.metadata()?;
    let nosuid = file.path.nosuid() || old.no_new_privs;
    if !nosuid {
        // Ids without a mapping here are nobody's to take.
        let ns = &old.user_ns;
        let mapped =
            ns.show(IdKind::User, meta.uid).is_some() && ns.show(IdKind::Group, meta.gid).is_some();
        let mode = if mapped { meta.mode } else { 0 };
        if mode & libc::S_ISUID != 0 {
            c.euid = meta.uid;
        }
        if mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP {
            c.egid = meta.gid;
        }
    }
    let privileged = c.euid != old.uid || c.egid != old.gid;
    c.suid = c.euid;
    c.fsuid = c.euid;
    c.sgid = c.egid;
    c.fsgid = c.egid;
    let mut file_permitted = 0;
    let mut file_inheritable = 0;
    let mut file_effective = false;
    let root = c.user_ns.kernel_id(IdKind::User, 0);
    if c.securebits & SECBIT_NOROOT == 0 && (Some(c.uid) == root || Some(c.euid) == root) {
        file_permitted = CAP_FULL;
        file_inheritable = CAP_FULL;
        file_effective = Some(c.euid) == root;
    }
    let ambient = if privileged { 0 } else { c.cap_ambient };
    c.cap_ambient = ambient;
    c.cap_permitted =
        (c.cap_inheritable & file_inheritable) | (file_permitted & c.cap_bounding) | ambient;
    c.cap_effective = if file_effective { c.cap_permitted } else { ambient };
    c.securebits &= !SECBIT_KEEP_CAPS;
    let secure = c.euid != c.uid || c.egid != c.gid;
    Ok((c, secure))
}

/// Entries of the auxiliary vector.
mod at {
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const HWCAP2: u64 = 26;
    pub const SYSINFO_EHDR: u64 = 33;
    pub const MINSIGSTKSZ: u64 = 51;
}

/// Why a program was not started.
struct Failure {
    errno: Errno,
    /// Found out beyond the point of no return: there is no old program any more to tell, it gets SIGSEGV
    /// (execve(2), ERRORS: "the kernel kills the process").
    fatal: bool,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure { errno, fatal: false }
    }
}

fn fatal(errno: Errno) -> Failure {
    Failure { errno, fatal: true }
}

/// A finished new program image.
struct Prepared {
    hw: Box<dyn Context>,
    mm: Arc<Mm>,
    cred: Cred,
    comm: Vec<u8>,
    file: Arc<File>,
    running: ExecGuard,
    dumpable: bool,
}

/// Gap kept above the mmap area for the stack: its limit, within Linux's bounds.
fn stack_gap(task: &Task) -> u64 {
    task.rlimit(Resource::Stack).clamp(128 << 20, 64 << 30)
}

/// Largest stack that is set up; a program with an unlimited stack gets this much.
const MAX_STACK: u64 = 64 << 20;

fn random_pages(bits: u32) -> u64 {
    (uml_host::random::u64() & ((1 << bits) - 1)) * PAGE
}

/// Builds the address space for `program`.
fn prepare(task: &Arc<Task>, program: Program) -> Result<Prepared, Failure> {
    let kernel = task.kernel();
    let platform = kernel.platform().ok_or(ENOSYS)?.clone();
    let r = resolve(task, program)?;
    let running = ExecGuard::new(r.program.file.path.inode());
    let (cred, secure) = new_cred(task, &r.cred_file)?;
    let _ = r.is_script;
    let interp = match &r.image.interp {
        Some(path) => {
            let file = vfs::open_exec(task, path)?;
            let mut head = [0u8; HEAD];
            let n = file.read_at(task, 0, &mut BufSink::new(&mut head))?;
            let image = elf::parse(&file, task, &head[..n]).map_err(|_| ELIBBAD)?;
            Some((file, image))
        }
        None => None,
    };
    let limits = platform.limits();
    let mut hw = platform.new_space()?;
    let mm = Arc::new(Mm::new(hw.space().clone(), limits.user_min, limits.user_max));
    let randomize =
        task.process.personality.load(Ordering::Relaxed) & libc::ADDR_NO_RANDOMIZE as u64 == 0;
    let shift = |bits| if randomize { random_pages(bits) } else { 0 };

    // The stack's place first: everything is reckoned from it.
    let stack_top = (limits.user_max - PAGE - shift(22)) & !(PAGE - 1);
    let stack_size =
        task.rlimit(Resource::Stack).clamp(PAGE * 32, MAX_STACK).next_multiple_of(PAGE);
    mm.map().layout.mmap_base = (stack_top - stack_gap(task) - shift(28)) & !(PAGE - 1);
    let mut prot = PROT_READ | PROT_WRITE;
    if r.image.exec_stack() {
        prot |= PROT_EXEC;
    }
    let mut stack = MapRequest::anonymous(stack_size, prot).at(stack_top - stack_size);
    stack.purpose = Purpose::Stack;
    stack.noreserve = true;
    mm.mmap(&mut *hw, &stack)?;

    // A position-independent program with an interpreter goes low, as Linux places it; one without
    // (static-pie, or the dynamic linker itself) goes to the mmap area.
    let hint = if r.image.dynamic && interp.is_some() {
        ((limits.user_max / 3 * 2) & !(PAGE - 1)) + shift(28)
    } else {
        0
    };
    let main = elf::load(&mut *hw, &mm, &r.image, &r.program.file, hint).map_err(fatal)?;
    let linker = match &interp {
        Some((file, image)) => Some(elf::load(&mut *hw, &mm, image, file, 0).map_err(fatal)?),
        None => None,
    };
    let vdso = kernel.map_vdso(&mut *hw, &mm, &task.ns().time_for_children)?;

    let mut random = [0; 16];
    uml_host::random::fill(&mut random);
    let mut auxv = Vec::with_capacity(20);
    if vdso != 0 {
        auxv.push((at::SYSINFO_EHDR, vdso));
    }
    auxv.extend_from_slice(&[
        (at::HWCAP, kernel.hwcap().0),
        (at::PAGESZ, PAGE),
        (at::CLKTCK, 100),
        (at::PHDR, main.phdr),
        (at::PHENT, 56),
        (at::PHNUM, u64::from(r.image.phnum)),
        (at::BASE, linker.map_or(0, |l| l.bias)),
        (at::FLAGS, 0),
        (at::ENTRY, main.entry),
        (at::UID, u64::from(cred.user_ns.uid(cred.uid))),
        (at::EUID, u64::from(cred.user_ns.uid(cred.euid))),
        (at::GID, u64::from(cred.user_ns.gid(cred.gid))),
        (at::EGID, u64::from(cred.user_ns.gid(cred.egid))),
        (at::SECURE, u64::from(secure)),
        (at::HWCAP2, kernel.hwcap().1),
        (at::MINSIGSTKSZ, (limits.xstate_size + 1024) as u64),
    ]);
    let contents = stack::Contents {
        filename: &r.program.filename,
        args: &r.program.args,
        env: &r.program.env,
        auxv: &auxv,
        random,
    };
    let placed = stack::build(&mm, stack_top, stack_size - PAGE, &contents).map_err(fatal)?;

    let brk = main.end.next_multiple_of(PAGE) + shift(13);
    {
        let mut map = mm.map();
        map.brk = brk;
        map.auxv = placed.auxv;
        let mmap_base = map.layout.mmap_base;
        map.layout = Layout {
            start_code: main.start_code,
            end_code: main.end_code,
            start_data: main.start_data,
            end_data: main.end_data,
            start_stack: placed.sp,
            start_brk: brk,
            arg_start: placed.arg_start,
            arg_end: placed.arg_end,
            env_start: placed.env_start,
            env_end: placed.env_end,
            mmap_base,
            vdso,
        };
    }
    let regs = Regs {
        rip: linker.map_or(main.entry, |l| l.entry),
        rsp: placed.sp,
        eflags: 0x200,
        orig_rax: u64::MAX,
        ..Regs::default()
    };
    hw.set_xstate(None)?;
    hw.set_regs(&regs)?;
    let name = r.program.filename.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
    // A program its user may not read keeps its memory to itself.
    let dumpable = !secure && r.program.file.path.metadata()?.mode & 0o444 != 0;
    Ok(Prepared { hw, mm, cred, comm: name, file: r.program.file, running, dumpable })
}

/// execve(2) of the calling task. On success the context is switched and nothing is returned to the old
/// program.
pub fn exec(cx: &mut Ctx<'_>, program: Program) -> Result<u64> {
    let task = cx.task.clone();
    let p = match prepare(&task, program) {
        Ok(p) => p,
        Err(f) if f.fatal => {
            begin_group_exit(&task, libc::SIGSEGV);
            return Err(f.errno);
        }
        Err(f) => return Err(f.errno),
    };
    kill_siblings(&task)?;
    cx.reply = Reply::Registers;
    if task.is_leader() {
        let hw = commit(&task, p);
        cx.next = Some(Next::Switch(hw));
        return Ok(0);
    }
    // The thread that executes takes over the process id (execve(2), "Effect on process attributes"): a
    // task with that id continues in its place.
    let leader = become_leader(&task);
    let hw = commit(&leader, p);
    cx.next = Some(Next::Exit);
    let kernel = task.kernel();
    kernel.platform().ok_or(ENOSYS)?.start(hw, leader.clone())?;
    Ok(0)
}

/// A task with the process's id that has everything of `task`, which leaves the tree.
fn become_leader(task: &Arc<Task>) -> Arc<Task> {
    let kernel = task.kernel();
    release_mm(task);
    let init = TaskInit {
        tid: task.process.pid,
        process: task.process.clone(),
        comm: task.comm_raw(),
        cred: task.cred(),
        mm: None,
        files: task.files(),
        fs: task.fs(),
        blocked: task.blocked(),
    };
    let leader = Task::new(&kernel, init);
    leader.set_ns(task.ns());
    leader.seccomp.inherit(&task.seccomp);
    *leader.personal.lock() = task.personal.lock().clone();
    *leader.pending.lock() = std::mem::take(&mut *task.pending.lock());
    crate::ptrace::exec_renames(task, &leader);
    if leader.ptrace.traced() && !leader.ptrace.seized() {
        leader.pending.lock().add(signal::SigInfo::user(libc::SIGTRAP, &leader), u64::MAX);
    }
    kernel.cgroups.renamed(task, &leader);
    kernel.tree.write().rename_task(task.tid, &leader);
    task.set_files(None);
    task.set_mm(None);
    leader.recheck_signals();
    leader
}

/// Starts the first program of the machine in `task`, which has no context yet.
pub fn exec_first(task: &Arc<Task>, program: Program) -> Result<()> {
    let p = prepare(task, program).map_err(|f| f.errno)?;
    let hw = commit(task, p);
    let kernel = task.kernel();
    let platform = kernel.platform().ok_or(ENOSYS)?;
    platform.start(hw, task.clone())
}

/// Everything of the old program that does not survive (execve(2), "Effect on process attributes").
fn commit(task: &Arc<Task>, p: Prepared) -> Box<dyn Context> {
    release_mm(task);
    drop(task.set_mm(Some(p.mm.clone())));
    if let Some(set) = change::enter_time(&task.ns()) {
        task.set_ns(set);
    }
    task.set_cred(Arc::new(p.cred.clone()));
    task.set_comm(&p.comm);
    *task.process.exe.lock() = Some(p.file.path.clone());
    *task.process.running.lock() = Some(p.running);
    task.process.dumpable.store(i32::from(p.dumpable), Ordering::Relaxed);
    task.process.did_exec.store(true, Ordering::Relaxed);
    *task.altstack.lock() = SigAltStack::default();
    {
        let mut personal = task.personal.lock();
        personal.clear_child_tid = 0;
        personal.robust_list = 0;
        personal.rseq = None;
        personal.user_dispatch = None;
    }
    task.user_dispatch.store(false, Ordering::Relaxed);
    task.ptrace.clear_debug();
    reset_actions(task);
    task.process.timers.clear_posix();
    // Descriptors: a table shared with others is copied first.
    let files = task.files();
    if Arc::strong_count(&files) > 2 {
        task.set_files(Some(Arc::new(files.duplicate())));
    }
    drop(files);
    for f in task.files().take_cloexec() {
        f.ops.flush(task);
    }
    task.kernel().hooks.exec(task);
    p.hw
}

/// Handlers go back to the default; ignored signals stay ignored.
fn reset_actions(task: &Task) {
    let mut hand = task.process.sighand.lock();
    if Arc::strong_count(&hand.actions) > 1 {
        // Shared with another process by CLONE_SIGHAND: unshare.
        hand.actions = SigHand::fork_actions(&hand);
    }
    for a in hand.actions.lock().iter_mut() {
        let keep = a.handler == SIG_IGN;
        *a = signal::SigAction {
            handler: if keep { SIG_IGN } else { SIG_DFL },
            ..Default::default()
        };
    }
}

/// Ends the other threads of the process and waits until they are gone.
fn kill_siblings(task: &Arc<Task>) -> Result<()> {
    let kernel = task.kernel();
    let others = |k: &crate::kernel::Kernel| {
        let tree = k.tree.read();
        tree.get(task.process.pid)
            .map(|p| p.threads.values().filter(|t| t.tid != task.tid).cloned().collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let siblings = others(&kernel);
    if siblings.is_empty() {
        return Ok(());
    }
    if task.process.group_exit.lock().is_some() {
        return Err(EAGAIN);
    }
    for t in &siblings {
        t.dying.store(true, Ordering::SeqCst);
        t.notice();
    }
    let queue = task.process.thread_wait.clone();
    let gone = || others(&kernel).is_empty().then_some(());
    task.wait(&queue, Events::ALL, WaitKind::Killable, None, "de_thread", gone)?.ok_or(EAGAIN)
}
