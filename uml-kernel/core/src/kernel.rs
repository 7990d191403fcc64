//! The machine: one value that everything hangs off.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, RwLock};
use uml_platform::{Platform, Syscall};

use crate::cgroup::{Cgroup, Cgroups};
use crate::configure::Configurables;
use crate::ctx::Ctx;
use crate::device::DeviceTree;
use crate::file::File;
use crate::ns::{NsSet, TimeNs, nsfs::NsFs};
use crate::signal::Restart;
use crate::sysctl::Sysctl;
use crate::task::process::Usage;
use crate::task::{Process, Task, Terminals, Tree};
use crate::vfs::Vfs;

/// The image with the time functions that programs call without entering the kernel (vdso(7)).
pub trait Vdso: Send + Sync {
    /// Maps it with the clocks of `time`; returns the address of its ELF header.
    fn map(
        &self,
        hw: &mut dyn uml_platform::Context,
        mm: &uml_mm::Mm,
        time: &TimeNs,
    ) -> Result<u64>;
    /// Exchanges the clocks of a mapped one for those of `time`; nothing happens where it was unmapped.
    fn renew(
        &self,
        hw: &mut dyn uml_platform::Context,
        mm: &uml_mm::Mm,
        time: &TimeNs,
    ) -> Result<()>;
}

/// How the machine ends (reboot(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    Halt,
    PowerOff,
    Restart,
}

/// Memory of the machine in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    /// Programs' own memory.
    pub anon: u64,
    /// Part of what is used that holds file contents.
    pub cached: CachedMemory,
}

/// Memory that holds file contents, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct CachedMemory {
    /// Page caches, tmpfs included.
    pub cached: u64,
    /// tmpfs and shared memory: cannot be given up.
    pub shmem: u64,
    /// Not yet written to its device.
    pub dirty: u64,
}

/// Outcome of the system-call table.
pub struct CallResult {
    pub value: Result<u64>,
    /// Restart rule of the call.
    pub rule: Restart,
}

/// Runs a system call; the table above core provides it.
pub type SystemCall = fn(&mut Ctx<'_>, Syscall) -> CallResult;

/// Ends the machine for a reason that the text gives.
pub type PanicHook = Box<dyn Fn(&str) + Send + Sync>;

/// Makes a pidfd for a process.
pub type MakePidfd = fn(&Arc<Task>, &Arc<Process>) -> Result<Arc<File>>;
/// The process behind a pidfd and whether it is nonblocking.
pub type PidfdOf = fn(&Arc<File>) -> Result<(i32, bool)>;
/// The process whose directory in /proc an open file is.
pub type ProcDirOf = fn(&File) -> Option<Result<Arc<Process>>>;

/// The control group whose directory an open file is.
pub type CgroupOfDir = fn(&Task, &File) -> Result<Arc<Cgroup>>;

/// What crates above core want to be told or asked.
#[derive(Default)]
pub struct Hooks {
    /// The task is about to give up its memory at exit: robust futexes, clear_child_tid.
    pub on_exit_memory: OnceLock<fn(&mut Ctx<'_>)>,
    /// A thread exited.
    pub on_exit_task: Mutexed<fn(&Arc<Task>)>,
    /// The last thread of a process exited; session leaders give up their terminal.
    pub on_exit_process: Mutexed<fn(&Arc<Task>)>,
    /// The task goes to another ipc namespace, or parts with shared semaphore adjustments.
    pub on_leave_ipc: Mutexed<fn(&Arc<Task>)>,
    /// A program was executed.
    pub on_exec: Mutexed<fn(&Arc<Task>)>,
    /// Makes a pidfd for a process (clone(2) CLONE_PIDFD).
    pub make_pidfd: OnceLock<MakePidfd>,
    /// The process behind a pidfd and whether it is nonblocking; `EBADF`/`EINVAL` for other files
    /// (waitid(2) P_PIDFD).
    pub pidfd_of: OnceLock<PidfdOf>,
    /// The process whose directory in /proc an open file is (pidfd_send_signal(2)).
    pub proc_dir_of: OnceLock<ProcDirOf>,
    /// The control group whose directory an open file is, when the task may start a process there (clone3(2)
    /// CLONE_INTO_CGROUP); `EBADF` for other files.
    pub cgroup_of_dir: OnceLock<CgroupOfDir>,
    /// /proc/sys/vm/drop_caches: give up clean page caches, unused names and inodes.
    pub on_drop_caches: Mutexed<fn(&Kernel, pages: bool, names: bool)>,
    /// Ends the machine; the binary stops devices and leaves the process.
    pub on_power: OnceLock<Box<dyn Fn(PowerAction) + Send + Sync>>,
    /// The machine cannot go on for the reason given: the binary says so and aborts.
    pub on_panic: OnceLock<PanicHook>,
    /// Init exited with this wait status: the machine panics.
    pub on_init_exit: OnceLock<Box<dyn Fn(i32) + Send + Sync>>,
}

/// A list of hooks of one kind.
pub struct Mutexed<T>(Mutex<Vec<T>>);

impl<T> Default for Mutexed<T> {
    fn default() -> Self {
        Mutexed(Mutex::new(Rank::LEAF, Vec::new()))
    }
}

impl<T: Copy> Mutexed<T> {
    /// Adds a hook.
    pub fn add(&self, f: T) {
        self.0.lock().push(f);
    }

    fn each(&self, f: impl Fn(T)) {
        let list = self.0.lock().clone();
        for h in list {
            f(h);
        }
    }
}

impl Hooks {
    pub(crate) fn exit_memory(&self, cx: &mut Ctx<'_>) {
        if let Some(f) = self.on_exit_memory.get() {
            f(cx);
        }
    }

    pub(crate) fn exit_task(&self, task: &Arc<Task>) {
        self.on_exit_task.each(|f| f(task));
    }

    pub(crate) fn leave_ipc(&self, task: &Arc<Task>) {
        self.on_leave_ipc.each(|f| f(task));
    }

    pub(crate) fn exec(&self, task: &Arc<Task>) {
        self.on_exec.each(|f| f(task));
    }

    pub(crate) fn exit_process(&self, task: &Arc<Task>) {
        self.on_exit_process.each(|f| f(task));
    }

    /// Makes every cache give up what it can.
    pub fn drop_caches(&self, kernel: &Kernel, pages: bool, names: bool) {
        self.on_drop_caches.each(|f| f(kernel, pages, names));
    }

    /// The process behind a pidfd.
    pub fn pidfd_target(&self, file: &Arc<File>) -> Result<(i32, bool)> {
        self.pidfd_of.get().ok_or(EINVAL)?(file)
    }

    pub(crate) fn cgroup_to_join(&self, task: &Task, dir: &File) -> Result<Arc<Cgroup>> {
        self.cgroup_of_dir.get().ok_or(EBADF)?(task, dir)
    }

    pub(crate) fn pidfd(&self, task: &Arc<Task>, process: &Arc<Process>) -> Result<Arc<File>> {
        self.make_pidfd.get().ok_or(EINVAL)?(task, process)
    }
}

/// An eighth of memory at 16 KiB a task, as Linux reckons, within the pid space.
fn default_max_tasks(mem_bytes: u64) -> u64 {
    (mem_bytes / 8 / 16384).clamp(128, crate::task::tree::PID_MAX as u64)
}

/// The running machine.
pub struct Kernel {
    platform: OnceLock<Arc<dyn Platform>>,
    system_call: OnceLock<SystemCall>,
    pub hooks: Hooks,
    /// Processes and their relations.
    pub tree: RwLock<Tree>,
    terminals: OnceLock<Arc<dyn Terminals>>,
    /// What /proc/sys changes.
    pub sysctl: Sysctl,
    /// Devices that the management console can change.
    pub configurables: Configurables,
    /// Name of the instance on the host; unset when it has none.
    pub umid: OnceLock<String>,
    /// Use and shortage of memory.
    pub memory: crate::memory::Control,
    /// Load averages.
    pub load: crate::task::load::Load,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Devices as sysfs shows them.
    pub devices: DeviceTree,
    /// CPU time of threads that are gone, in nanoseconds: guest code, kernel code.
    dead_user_ns: AtomicU64,
    dead_system_ns: AtomicU64,
    /// Context switches of threads that are gone.
    dead_switches: AtomicU64,
    /// Mounts, cached names, filesystem types and drivers.
    pub vfs: Vfs,
    /// Clocks and timers.
    pub time: crate::time::Time,
    /// Where tasks wait while the machine is stopped.
    pub gate: crate::gate::Gate,
    /// When the machine came up, by its own clock.
    pub boot: Instant,
    /// `mem=` in bytes.
    pub mem_bytes: u64,
    pub ncpus: usize,
    forks: AtomicU64,
    /// /proc/exitcode: what the kernel process exits with.
    pub exit_code: AtomicI32,
    /// Next record that SYSLOG_ACTION_READ returns.
    pub syslog_seq: AtomicU64,
    /// reboot(2) CAD_ON: Ctrl-Alt-Del reboots instead of signalling init.
    pub ctrl_alt_del: AtomicBool,
    /// CPU n of the machine is CPU n of the host.
    pub same_cpu_numbers: AtomicBool,
    /// Severities below this are printed on consoles (syslog(2) action 8).
    console_level: AtomicU8,
    /// The vDSO mapped into every program.
    pub vdso: OnceLock<Box<dyn Vdso>>,
    /// The namespaces that init is in.
    pub namespaces: Arc<NsSet>,
    nsfs: OnceLock<Arc<NsFs>>,
    /// Kernel command line (/proc/cmdline).
    pub command_line: Mutex<String>,
}

impl Kernel {
    /// A machine without tasks; the platform is attached by [`Kernel::set_platform`]. Without one
    /// (unit tests) tasks can use files and sleep, but run no guest code.
    pub fn new(mem_bytes: u64, ncpus: usize) -> Arc<Kernel> {
        let cgroups = Cgroups::default();
        let namespaces = Arc::new(NsSet::initial(cgroups.root()));
        Arc::new(Kernel {
            platform: OnceLock::new(),
            system_call: OnceLock::new(),
            hooks: Hooks::default(),
            tree: RwLock::new(Rank::TASKS, Tree::default()),
            terminals: OnceLock::new(),
            sysctl: Sysctl::new(mem_bytes, default_max_tasks(mem_bytes)),
            memory: crate::memory::Control::default(),
            load: crate::task::load::Load::new(uml_base::clock::now()),
            configurables: Configurables::default(),
            umid: OnceLock::new(),
            cgroups,
            devices: DeviceTree::default(),
            dead_user_ns: AtomicU64::new(0),
            dead_system_ns: AtomicU64::new(0),
            dead_switches: AtomicU64::new(0),
            vfs: Vfs::new(mem_bytes),
            time: crate::time::Time::new(),
            gate: crate::gate::Gate::default(),
            boot: uml_base::clock::now(),
            mem_bytes,
            ncpus,
            forks: AtomicU64::new(0),
            exit_code: AtomicI32::new(0),
            syslog_seq: AtomicU64::new(0),
            ctrl_alt_del: AtomicBool::new(true),
            same_cpu_numbers: AtomicBool::new(false),
            console_level: AtomicU8::new(7),
            vdso: OnceLock::new(),
            namespaces,
            nsfs: OnceLock::new(),
            command_line: Mutex::new(Rank::LEAF, String::new()),
        })
    }

    /// The filesystem of namespace files.
    pub fn nsfs(&self) -> &Arc<NsFs> {
        self.nsfs.get_or_init(|| NsFs::new(self))
    }

    /// Attaches the platform, once.
    pub fn set_platform(&self, p: Arc<dyn Platform>) {
        let _ = self.platform.set(p);
    }

    /// Attaches the system-call table, once.
    pub fn set_system_call(&self, f: SystemCall) {
        let _ = self.system_call.set(f);
    }

    pub(crate) fn system_call(cx: &mut Ctx<'_>, call: Syscall) -> CallResult {
        match cx.kernel.system_call.get().copied() {
            Some(f) => f(cx, call),
            None => CallResult { value: Err(ENOSYS), rule: Restart::Never },
        }
    }

    /// The platform that runs guest code; `None` only in unit tests.
    pub fn platform(&self) -> Option<&Arc<dyn Platform>> {
        self.platform.get()
    }

    /// Attaches the terminal layer, once.
    pub fn set_terminals(&self, t: Arc<dyn Terminals>) {
        let _ = self.terminals.set(t);
    }

    /// The terminal layer, when there is one.
    pub fn terminals(&self) -> Option<&Arc<dyn Terminals>> {
        self.terminals.get()
    }

    /// Time since boot, stops not counted.
    pub fn uptime(&self) -> std::time::Duration {
        uml_base::clock::since(self.boot)
    }

    /// Runs `f`, which may sleep (see [`Platform::blocking`]).
    pub fn blocking(&self, f: &mut dyn FnMut()) {
        let _waiting = crate::task::usage::Waiting::host();
        match self.platform.get() {
            Some(p) => p.blocking(f),
            None => f(),
        }
    }

    /// AT_HWCAP and AT_HWCAP2: what the processor says, which the guest runs on directly.
    pub fn hwcap(&self) -> (u64, u64) {
        uml_host::auxv::hwcap()
    }

    /// Maps the vDSO into a new address space; 0 when there is none.
    pub fn map_vdso(
        &self,
        hw: &mut dyn uml_platform::Context,
        mm: &uml_mm::Mm,
        time: &TimeNs,
    ) -> Result<u64> {
        match self.vdso.get() {
            Some(v) => v.map(hw, mm, time),
            None => Ok(0),
        }
    }

    /// Ends the machine. Returns only when nothing was installed to do so (unit tests).
    pub fn power(&self, action: PowerAction) {
        if let Some(f) = self.hooks.on_power.get() {
            f(action);
        }
    }

    /// Ends the machine with `Kernel panic - not syncing: ` and `text`. Returns only when nothing was installed
    /// to do so (unit tests).
    pub fn panic(&self, text: &str) {
        if let Some(f) = self.hooks.on_panic.get() {
            f(text);
        }
    }

    /// Ctrl-Alt-Del (reboot(2) LINUX_REBOOT_CMD_CAD_ON): reboots at once, or sends SIGINT to init.
    pub fn ctrl_alt_del(&self) {
        if self.ctrl_alt_del.load(Ordering::SeqCst) {
            return self.power(PowerAction::Restart);
        }
        let init = self.tree.read().get(1).map(|p| p.process.clone());
        if let Some(init) = init {
            let info = crate::signal::SigInfo::kernel(libc::SIGINT);
            // Init without a handler ignores it.
            crate::signal::send_to_process(self, &init, info, false);
        }
    }

    /// Console log level (1..=8): records of lower number are printed.
    pub fn console_level(&self) -> u8 {
        self.console_level.load(Ordering::Relaxed)
    }

    /// Sets the console log level.
    pub fn set_console_level(&self, level: u8) {
        self.console_level.store(level, Ordering::Relaxed);
    }

    /// Memory of the machine. What guest programs and caches use is charged against `mem=`.
    pub fn memory_info(&self) -> Memory {
        let cached = self.memory.cached();
        let total = self.mem_bytes;
        // The exact figure where it is cheap.
        let few = self.tree.read().task_count() <= 64;
        let anon = if few {
            crate::memory::anonymous_exact(self)
        } else {
            crate::memory::anonymous_bound(self)
        };
        let anon = anon.min(total.saturating_sub(cached.cached));
        let held = anon.saturating_add(cached.cached).saturating_add(self.memory.taken());
        let free = total.saturating_sub(held);
        Memory { total, free, anon, cached }
    }

    /// Number of the guest CPU the calling worker runs on.
    pub fn current_cpu(&self) -> u32 {
        let host = uml_host::sched::current_cpu();
        let cpus = uml_host::sched::machine_cpus();
        cpus.iter().position(|c| *c == host).unwrap_or(0) as u32
    }

    /// Most tasks the machine may have at once (/proc/sys/kernel/threads-max).
    pub fn max_tasks(&self) -> usize {
        self.sysctl.kernel_threads_max.unsigned().min(self.sysctl.kernel_pid_max.unsigned())
            as usize
    }

    /// A thread is gone: its CPU time stays in the machine's total.
    pub(crate) fn count_dead(&self, u: &Usage) {
        self.dead_user_ns.fetch_add(u.user_ns, Ordering::Relaxed);
        self.dead_system_ns.fetch_add(u.system_ns, Ordering::Relaxed);
        self.dead_switches.fetch_add(u.nvcsw + u.nivcsw, Ordering::Relaxed);
    }

    /// CPU time and context switches of every task since boot (/proc/stat).
    pub fn total_usage(&self) -> Usage {
        let mut u = Usage {
            user_ns: self.dead_user_ns.load(Ordering::Relaxed),
            system_ns: self.dead_system_ns.load(Ordering::Relaxed),
            nvcsw: self.dead_switches.load(Ordering::Relaxed),
            ..Usage::default()
        };
        let tasks: Vec<_> = self.tree.read().tasks().cloned().collect();
        for t in tasks {
            u.add(&crate::task::usage::of_task(&t));
        }
        u
    }

    pub(crate) fn count_fork(&self) {
        self.forks.fetch_add(1, Ordering::Relaxed);
    }

    /// Tasks created since boot (`processes` in /proc/stat).
    pub fn forks(&self) -> u64 {
        self.forks.load(Ordering::Relaxed)
    }

    pub(crate) fn init_exited(&self, status: i32) {
        if let Some(f) = self.hooks.on_init_exit.get() {
            f(status);
        }
    }
}
