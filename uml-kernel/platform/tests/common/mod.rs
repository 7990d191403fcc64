//! A miniature kernel for platform tests: enough system calls to run small guest programs
//! written in assembly.
#![allow(dead_code)]

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use uml_abi::errno;
use uml_platform::{
    Backend, Config, Context, Event, Exception, Kick, MemOp, Next, Platform, Regs, Report, Runner,
    Syscall, boot,
};

pub const TEXT: u64 = 0x40_0000;
pub const DATA: u64 = 0x50_0000;
pub const DATA_LEN: u64 = 0x10_0000;
/// Mapped on first fault.
pub const LAZY: u64 = 0x1000_0000;
pub const LAZY_LEN: u64 = 0x1000_0000;

// Calls of the miniature kernel that Linux does not have.
pub const SYS_COUNT: u64 = 2000;
pub const SYS_KICK_ALL: u64 = 2001;
pub const SYS_CMPXCHG: u64 = 2002;
pub const SYS_SLEEP: u64 = 2003;
pub const SYS_REGS: u64 = 2004;
pub const SYS_PANIC: u64 = 2005;
pub const SYS_EXEC: u64 = 2006;

/// Assembles guest code: a block of 64-bit assembly between two symbols.
#[macro_export]
macro_rules! guest {
    ($name:ident, $($line:expr),+ $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata.guest, \"a\"",
            concat!(".globl guest_", stringify!($name)),
            concat!("guest_", stringify!($name), ":"),
            $($line,)+
            "ud2",
            concat!(".globl guest_", stringify!($name), "_end"),
            concat!("guest_", stringify!($name), "_end:"),
            ".popsection",
        );
        pub fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("guest_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("guest_", stringify!($name), "_end")]
                static END: u8;
            }
            // SAFETY: the symbols bound one initialised section piece.
            unsafe { std::slice::from_raw_parts(&raw const START, (&raw const END).offset_from(&raw const START) as usize) }
        }
    };
}

/// Makes one test per backend of each function taking a [`Backend`].
#[macro_export]
macro_rules! on_each_backend {
    ($($name:ident),+ $(,)?) => {
        on_each_backend!(@one notify Notify $($name)+);
        on_each_backend!(@one trap Trap $($name)+);
        on_each_backend!(@one ptrace Ptrace $($name)+);
    };
    (@one $module:ident $backend:ident $($name:ident)+) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$name(uml_platform::Backend::$backend);
                }
            )+
        }
    };
}

/// The backends under test.
pub const BACKENDS: [Backend; 3] = [Backend::Notify, Backend::Trap, Backend::Ptrace];

pub struct Kernel {
    pub platform: Arc<dyn Platform>,
    pub report: Report,
    pub panics: Arc<Mutex<Vec<String>>>,
    state: Mutex<State>,
    changed: Condvar,
    pub count: AtomicU64,
    pub events: AtomicU64,
    pub interrupted: AtomicU64,
    pub died: AtomicU64,
    pub exceptions: Mutex<Vec<Exception>>,
    /// Mappings that threads proposed, calls left for last, and those of them that failed.
    pub proposals: AtomicUsize,
    pub last: AtomicUsize,
    pub undone: AtomicUsize,
    /// Sleepers that the platform moved out of the way.
    pub parked: AtomicUsize,
    /// Stops guest loops that poll it with SYS_COUNT.
    next_id: AtomicUsize,
    /// Tasks that may live at once, and that may still be made.
    pub max_tasks: AtomicUsize,
    pub budget: AtomicI64,
    pub exec_text: Mutex<Vec<u8>>,
}

#[derive(Default)]
struct State {
    tasks: HashMap<usize, TaskState>,
    ended: HashMap<usize, i64>,
}

struct TaskState {
    kick: Arc<dyn Kick>,
    task: Arc<Task>,
}

/// A guest thread of the miniature kernel.
pub struct Task {
    pub kernel: Arc<Kernel>,
    pub id: usize,
    pub status: AtomicI64,
    pub process: Arc<Process>,
    pub sleeping: Mutex<bool>,
    pub woken: Condvar,
}

pub struct Process {
    pub threads: AtomicUsize,
    pub exiting: std::sync::atomic::AtomicBool,
    pub members: Mutex<Vec<std::sync::Weak<Task>>>,
}

pub const DIED: i64 = -1000;

impl Kernel {
    pub fn boot(backend: Backend) -> Arc<Kernel> {
        Self::try_boot(backend).unwrap_or_else(|| panic!("{backend} does not start"))
    }

    pub fn try_boot(backend: Backend) -> Option<Arc<Kernel>> {
        let panics: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = panics.clone();
        let on_panic: Arc<dyn Fn(&str) + Send + Sync> =
            Arc::new(move |m: &str| sink.lock().unwrap().push(m.into()));
        let cfg = Config { backend, ncpus: None, on_panic: Some(on_panic) };
        // A process has one machine; that tests make several at once must not matter to how one starts.
        static BOOTS: Mutex<()> = Mutex::new(());
        let _one = BOOTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (platform, report) = boot(cfg).inspect_err(|e| eprintln!("{e}")).ok()?;
        Some(Arc::new(Kernel {
            platform,
            report,
            panics,
            state: Mutex::default(),
            changed: Condvar::new(),
            count: AtomicU64::new(0),
            events: AtomicU64::new(0),
            interrupted: AtomicU64::new(0),
            died: AtomicU64::new(0),
            exceptions: Mutex::default(),
            proposals: AtomicUsize::new(0),
            last: AtomicUsize::new(0),
            undone: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            next_id: AtomicUsize::new(1),
            max_tasks: AtomicUsize::new(usize::MAX),
            budget: AtomicI64::new(i64::MAX),
            exec_text: Mutex::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn task(self: &Arc<Kernel>, process: &Arc<Process>) -> Arc<Task> {
        process.threads.fetch_add(1, Ordering::SeqCst);
        let task = Arc::new(Task {
            kernel: self.clone(),
            id: self.next_id.fetch_add(1, Ordering::SeqCst),
            status: AtomicI64::new(0),
            process: process.clone(),
            sleeping: Mutex::new(false),
            woken: Condvar::new(),
        });
        process.members.lock().unwrap().push(Arc::downgrade(&task));
        task
    }

    pub fn process(&self) -> Arc<Process> {
        Arc::new(Process {
            threads: AtomicUsize::new(0),
            exiting: false.into(),
            members: Mutex::default(),
        })
    }

    /// Loads a program into a new space, ready to start at its first byte.
    pub fn load(&self, text: &[u8]) -> uml_abi::Result<Box<dyn Context>> {
        let mut cx = self.platform.new_space()?;
        let file = tempfile(text);
        let len = (text.len() as u64).next_multiple_of(4096);
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let anon = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        cx.mem_ops(&[
            MemOp::Map {
                addr: TEXT,
                len,
                prot: libc::PROT_READ | libc::PROT_EXEC,
                flags: libc::MAP_PRIVATE,
                fd: file.as_raw_fd(),
                off: 0,
            },
            MemOp::Map { addr: DATA, len: DATA_LEN, prot: rw, flags: anon, fd: -1, off: 0 },
        ])
        .map_err(|(_, e)| e)?;
        let regs = Regs { rip: TEXT, rsp: DATA + DATA_LEN, r15: DATA, ..Regs::default() };
        cx.set_regs(&regs)?;
        Ok(cx)
    }

    /// Starts a program; returns the id of its task.
    pub fn start(self: &Arc<Kernel>, text: &[u8]) -> usize {
        let cx = self.load(text).expect("load");
        let task = self.task(&self.process());
        self.platform.start(cx, task.clone()).expect("start");
        task.id
    }

    /// Waits for a task to end; its exit status, or [`DIED`].
    pub fn wait(&self, id: usize) -> i64 {
        let mut st = self.lock();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(s) = st.ended.get(&id) {
                return *s;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "task {id} did not end");
            st = self.changed.wait_timeout(st, left).unwrap().0;
        }
    }

    /// Waits until no task is left.
    pub fn wait_all(&self, limit: Duration) {
        let mut st = self.lock();
        let deadline = Instant::now() + limit;
        while !st.tasks.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} tasks did not end: {:?}", st.tasks.len(), st.tasks.keys());
            st = self.changed.wait_timeout(st, left).unwrap().0;
        }
    }

    /// Waits until a program has said with SYS_COUNT that it is where the test wants it.
    pub fn wait_count(&self, deadline: Instant) {
        while self.count.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline, "nobody has counted");
            std::thread::yield_now();
        }
    }

    pub fn run(self: &Arc<Kernel>, text: &[u8]) -> i64 {
        let id = self.start(text);
        self.wait(id)
    }

    pub fn live(&self) -> usize {
        self.lock().tasks.len()
    }

    /// Exit statuses of all tasks that ended.
    pub fn statuses(&self) -> Vec<i64> {
        self.lock().ended.values().copied().collect()
    }

    /// Kick handles of all tasks.
    pub fn kicks(&self) -> Vec<Arc<dyn Kick>> {
        self.lock().tasks.values().map(|t| t.kick.clone()).collect()
    }

    pub fn kick_of(&self, id: usize) -> Option<Arc<dyn Kick>> {
        self.lock().tasks.get(&id).map(|t| t.kick.clone())
    }

    pub fn task_of(&self, id: usize) -> Option<Arc<Task>> {
        self.lock().tasks.get(&id).map(|t| t.task.clone())
    }

    pub fn kick_all(&self) {
        let kicks: Vec<_> = self.lock().tasks.values().map(|t| t.kick.clone()).collect();
        for k in kicks {
            k.kick();
        }
    }
}

pub fn tempfile(text: &[u8]) -> std::fs::File {
    use std::io::Write;
    use std::os::fd::FromRawFd;
    // SAFETY: a new descriptor, owned by the file.
    let mut f = unsafe {
        std::fs::File::from_raw_fd(libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC))
    };
    f.write_all(text).unwrap();
    f
}

impl Task {
    fn end(&self, status: i64) {
        let mut st = self.kernel.lock();
        st.tasks.remove(&self.id);
        st.ended.insert(self.id, status);
        self.kernel.changed.notify_all();
    }

    fn exit(&self, status: i64) -> Next {
        self.end(status);
        self.process.threads.fetch_sub(1, Ordering::SeqCst);
        Next::Exit
    }

    pub fn wake(&self) {
        *self.sleeping.lock().unwrap() = false;
        self.woken.notify_all();
    }

    fn exit_group(&self) {
        self.process.exiting.store(true, Ordering::SeqCst);
        let members: Vec<_> =
            self.process.members.lock().unwrap().iter().filter_map(|t| t.upgrade()).collect();
        for t in members {
            if t.id != self.id {
                if let Some(k) = self.kernel.kick_of(t.id) {
                    k.kick();
                }
                t.wake();
            }
        }
    }

    fn map_last(&self, cx: &mut dyn Context, addr: u64, c: &Syscall) -> i64 {
        let op = MemOp::Map {
            addr,
            len: c.args[1],
            prot: c.args[2] as i32,
            flags: c.args[3] as i32 | libc::MAP_NORESERVE,
            fd: -1,
            off: 0,
        };
        match cx.mem_op_last(&op) {
            Ok(last) => {
                self.kernel.last.fetch_add(last.into(), Ordering::SeqCst);
                addr as i64
            }
            Err(e) => e.to_ret(),
        }
    }

    fn syscall(self: &Arc<Task>, cx: &mut dyn Context, c: Syscall) -> Option<Next> {
        let k = &self.kernel;
        let ret = match c.nr as i64 {
            libc::SYS_getppid => 4242,
            libc::SYS_gettid => self.id as i64,
            libc::SYS_exit => return Some(self.exit(c.args[0] as i64)),
            libc::SYS_exit_group => {
                self.exit_group();
                return Some(self.exit(c.args[0] as i64));
            }
            // Anywhere: where the thread proposes, and what follows below that.
            libc::SYS_mmap if c.args[0] == 0 => {
                let proposed = cx.proposed_mapping();
                k.proposals.fetch_add(proposed.is_some().into(), Ordering::SeqCst);
                let addr = proposed.unwrap_or(0x3000_0000);
                cx.suggest_mappings_below(addr);
                self.map_last(cx, addr, &c)
            }
            // As the last thing, with the flags given.
            libc::SYS_brk => self.map_last(cx, c.args[0], &c),
            libc::SYS_mmap => {
                let op = MemOp::Map {
                    addr: c.args[0],
                    len: c.args[1],
                    prot: c.args[2] as i32,
                    flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    fd: -1,
                    off: 0,
                };
                match cx.mem_ops(&[op]) {
                    Ok(()) => c.args[0] as i64,
                    Err((_, e)) => e.to_ret(),
                }
            }
            libc::SYS_munmap | libc::SYS_mprotect | libc::SYS_arch_prctl => {
                cx.pass_through();
                return None;
            }
            libc::SYS_clone
                if k.live() >= k.max_tasks.load(Ordering::SeqCst)
                    || k.budget.fetch_sub(1, Ordering::SeqCst) <= 0 =>
            {
                errno::EAGAIN.to_ret()
            }
            libc::SYS_clone => {
                let mut regs = match cx.regs() {
                    Ok(r) => r,
                    Err(_) => return None,
                };
                regs.rax = 0;
                let new = if c.args[0] & libc::CLONE_VM as u64 != 0 {
                    if c.args[1] != 0 {
                        regs.rsp = c.args[1];
                    }
                    if c.args[0] & libc::CLONE_SETTLS as u64 != 0 {
                        regs.fs_base = c.args[4];
                    }
                    let t = k.task(&self.process);
                    cx.spawn_thread(t.clone(), &regs).map(|()| t).inspect_err(|_| {
                        self.process.threads.fetch_sub(1, Ordering::SeqCst);
                    })
                } else {
                    let t = k.task(&k.process());
                    cx.fork(&regs, &mut |_| t.clone()).map(|()| t.clone())
                };
                match new {
                    Ok(t) => t.id as i64,
                    Err(e) => e.to_ret(),
                }
            }
            libc::SYS_rt_sigreturn => {
                // The test's signal frame: rip and rax in memory at rdi.
                let mut words = [0u8; 16];
                let Ok(mut regs) = cx.regs() else { return None };
                if cx.space().read(c.args[0], &mut words) != 16 {
                    self.exit_group();
                    return Some(self.exit(-i64::from(libc::SIGSEGV)));
                }
                regs.rip = u64::from_ne_bytes(words[..8].try_into().unwrap());
                regs.rax = u64::from_ne_bytes(words[8..].try_into().unwrap());
                cx.set_regs(&regs).ok();
                return None;
            }
            libc::SYS_write => {
                let mut buf = vec![0; c.args[2] as usize];
                cx.space().read(c.args[1], &mut buf) as i64
            }
            libc::SYS_wait4 => {
                let mut status = 0;
                k.platform.blocking(&mut || status = k.wait(c.args[0] as usize));
                status
            }
            _ => match c.nr {
                SYS_COUNT => k.count.fetch_add(1, Ordering::SeqCst) as i64,
                SYS_KICK_ALL => {
                    k.kick_all();
                    0
                }
                SYS_CMPXCHG => match cx.cmpxchg32(c.args[0], c.args[1] as u32, c.args[2] as u32) {
                    Ok(v) => v.into(),
                    Err(e) => e.to_ret(),
                },
                SYS_SLEEP => {
                    k.parked.fetch_add(k.platform.about_to_sleep().into(), Ordering::SeqCst);
                    let mut s = self.sleeping.lock().unwrap();
                    *s = true;
                    if self.process.exiting.load(Ordering::SeqCst) {
                        *s = false;
                    }
                    let mut s = Some(s);
                    k.platform.blocking(&mut || {
                        let mut g = s.take().unwrap();
                        while *g {
                            g = self.woken.wait(g).unwrap();
                        }
                    });
                    0
                }
                SYS_REGS => match cx.regs() {
                    Ok(r) => (r.rbx ^ r.orig_rax) as i64,
                    Err(e) => e.to_ret(),
                },
                SYS_PANIC => panic!("asked to"),
                SYS_EXEC if k.budget.fetch_sub(1, Ordering::SeqCst) <= 0 => errno::EAGAIN.to_ret(),
                SYS_EXEC => {
                    let text = k.exec_text.lock().unwrap().clone();
                    match k.load(&text) {
                        Ok(new) => return Some(Next::Switch(new)),
                        Err(e) => e.to_ret(),
                    }
                }
                _ => errno::ENOSYS.to_ret(),
            },
        };
        cx.set_return(ret);
        None
    }
}

impl Runner for Task {
    fn attached(&self, kick: Arc<dyn Kick>) {
        let members = self.process.members.lock().unwrap();
        let task = members.iter().filter_map(|t| t.upgrade()).find(|t| t.id == self.id);
        drop(members);
        if let Some(task) = task {
            self.kernel.lock().tasks.insert(self.id, TaskState { kick, task });
        }
    }

    fn on_event(self: Arc<Self>, cx: &mut dyn Context, event: Event) -> Next {
        self.kernel.events.fetch_add(1, Ordering::Relaxed);
        let next = match event {
            Event::Died => {
                self.kernel.died.fetch_add(1, Ordering::SeqCst);
                return self.exit(DIED);
            }
            Event::Interrupted => {
                self.kernel.interrupted.fetch_add(1, Ordering::SeqCst);
                None
            }
            Event::Exception(e) => {
                let page = e.addr & !4095;
                if (e.signo == libc::SIGSEGV || e.signo == libc::SIGBUS)
                    && (LAZY..LAZY + LAZY_LEN).contains(&page)
                {
                    let op = MemOp::Map {
                        addr: page,
                        len: 4096,
                        prot: libc::PROT_READ | libc::PROT_WRITE,
                        flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                        fd: -1,
                        off: 0,
                    };
                    cx.mem_ops(&[op]).ok();
                    None
                } else {
                    let mut list = self.kernel.exceptions.lock().unwrap();
                    list.push(e);
                    drop(list);
                    self.exit_group();
                    Some(self.exit(-i64::from(e.signo)))
                }
            }
            Event::Undone(e) => {
                self.kernel.undone.fetch_add(1, Ordering::SeqCst);
                cx.set_return(e.to_ret());
                None
            }
            Event::Syscall(c) => self.syscall(cx, c),
        };
        match next {
            Some(n) => n,
            None if self.process.exiting.load(Ordering::SeqCst) => self.exit(0),
            None => Next::Resume,
        }
    }
}
