//! `/proc/<pid>` and `/proc/<pid>/task/<tid>` (proc_pid(5)).

mod auxv;
mod cgroup;
mod children;
mod clear_refs;
mod cmdline;
mod comm;
mod coredump;
mod environ;
mod fd;
mod idmap;
mod io;
mod limits;
mod links;
mod login;
mod map_files;
mod maps;
mod mem;
pub mod memory;
mod mounts;
mod ns;
mod oom;
mod pagemap;
mod personality;
mod sched;
mod smaps;
mod stack;
mod stat;
mod statm;
mod status;
mod syscall;
mod task;
mod timens;
mod timerslack;
mod wchan;

pub use status::mask as cpu_mask;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::File;
use uml_core::kernel::Kernel;
use uml_core::ns::user::IdKind;
use uml_core::task::access::{Ids, may_access, may_access_as};
use uml_core::task::process::Usage;
use uml_core::task::sleep::served_task;
use uml_core::task::{Cred, Process, Task, usage};
use uml_core::vfs::Perm;
use uml_mm::Mm;

use super::fs::Mnt;
use crate::synth::{Access, Body, Directory, Entry, Node, Row, Rows, Spec};

/// A process, or one thread of it, as a subject of files.
#[derive(Clone)]
pub struct Target {
    pub mnt: Arc<Mnt>,
    process: Weak<Process>,
    /// The thread that was named, here or below `task/`; `None` for the leader.
    thread: Option<Weak<Task>>,
    /// Below `task/`: sums are of the thread. Otherwise of the process as a whole, whichever thread named it.
    single: bool,
    pub pid: i32,
    pub tid: i32,
}

impl Target {
    /// The process `pid`, or the process of the thread `pid`.
    pub fn process(mnt: &Arc<Mnt>, pid: i32) -> Option<Target> {
        let kernel = mnt.kernel.upgrade()?;
        let tree = kernel.tree.read();
        let (process, thread) = match tree.get(pid) {
            Some(p) => (p.process.clone(), None),
            None => {
                let task = tree.task(pid)?;
                (task.process.clone(), Some(Arc::downgrade(&task)))
            }
        };
        Some(Target {
            mnt: mnt.clone(),
            pid: process.pid,
            tid: pid,
            process: Arc::downgrade(&process),
            thread,
            single: false,
        })
    }

    /// The thread `tid` of the same process.
    pub fn thread(&self, tid: i32) -> Option<Target> {
        let kernel = self.mnt.kernel.upgrade()?;
        let process = self.process.upgrade()?;
        let tree = kernel.tree.read();
        let entry = tree.get(process.pid)?;
        let task = entry.threads.get(&tid).or((entry.leader.tid == tid).then_some(&entry.leader))?;
        Arc::ptr_eq(&task.process, &process).then(|| Target {
            thread: Some(Arc::downgrade(task)),
            single: true,
            tid,
            ..self.clone()
        })
    }

    /// Inode number of the directory: differs between a process and a later one of the same pid.
    pub fn ino(task: &Task) -> u64 {
        let mut h = DefaultHasher::new();
        (task.tid, task.start_time).hash(&mut h);
        (h.finish() & 0xffff_ffff_ffff).max(2)
    }

    /// True when sums are of one thread.
    pub fn is_thread(&self) -> bool {
        self.single
    }

    /// True when a thread was named, not its process.
    pub fn names_thread(&self) -> bool {
        self.thread.is_some()
    }

    /// The machine; `ESRCH` when it is gone.
    pub fn kernel(&self) -> Result<Arc<Kernel>> {
        self.mnt.kernel.upgrade().ok_or(ESRCH)
    }

    /// The thread, or the leader of the process, alive or a zombie. `ESRCH` once the process has been waited for.
    pub fn task(&self) -> Result<Arc<Task>> {
        let kernel = self.kernel()?;
        let process = self.process.upgrade().ok_or(ESRCH)?;
        let tree = kernel.tree.read();
        let e = tree.get(process.pid).ok_or(ESRCH)?;
        if !Arc::ptr_eq(&e.process, &process) {
            return Err(ESRCH);
        }
        match &self.thread {
            Some(t) => {
                let t = t.upgrade().ok_or(ESRCH)?;
                let same = |o: &Arc<Task>| Arc::ptr_eq(o, &t);
                if same(&e.leader) || e.threads.get(&t.tid).is_some_and(same) {
                    Ok(t)
                } else {
                    Err(ESRCH)
                }
            }
            None => Ok(e.leader.clone()),
        }
    }

    /// Every live thread of the process.
    pub fn threads(&self) -> Result<Vec<Arc<Task>>> {
        let kernel = self.kernel()?;
        let tree = kernel.tree.read();
        let e = tree.get(self.pid).ok_or(ESRCH)?;
        Ok(e.threads.values().cloned().collect())
    }

    /// Every thread of the process, in order; its leader is one until the process has been waited for.
    pub fn members(&self) -> Result<Vec<Arc<Task>>> {
        let kernel = self.kernel()?;
        let tree = kernel.tree.read();
        let e = tree.get(self.pid).ok_or(ESRCH)?;
        Ok(e.members().cloned().collect())
    }

    /// The task, when `reader` may look into it; `EACCES` otherwise.
    pub fn inspect(&self, reader: &Task) -> Result<Arc<Task>> {
        let t = self.task()?;
        if may_access(reader, &t, Ids::Fs) { Ok(t) } else { Err(EACCES) }
    }

    /// The address space, `None` for zombies, when `reader` may look into it.
    pub fn inspect_mm(&self, reader: &Task) -> Result<Option<Arc<Mm>>> {
        Ok(self.inspect(reader)?.mm().ok())
    }

    /// CPU time and counters of the thread or of the whole process.
    pub fn usage(&self, task: &Task) -> Usage {
        if self.is_thread() { usage::of_task(task) } else { usage::of_process(task) }
    }
}

/// Who owns the files of a process: its effective ids while it is dumpable, root otherwise
/// (proc(5); PR_SET_DUMPABLE in prctl(2)).
struct FileAccess(Target);

/// As [`FileAccess`] for directories that everybody may list: always the effective ids; `hidepid` counts here.
struct DirAccess(Target);

fn effective(task: &Task) -> (u32, u32) {
    let c = task.cred();
    (c.euid, c.egid)
}

impl Access for FileAccess {
    fn owner(&self) -> (u32, u32) {
        match self.0.task() {
            Ok(t) if t.mm().is_ok() && t.process.dumpable.load(Ordering::Relaxed) == 1 => {
                effective(&t)
            }
            _ => (0, 0),
        }
    }

    fn alive(&self) -> bool {
        self.0.task().is_ok()
    }
}

/// As [`FileAccess`] for the directories of its open and mapped files, which a process may always look into, also when
/// it is not dumpable and root owns them.
struct OwnAccess(FileAccess);

impl OwnAccess {
    fn new(t: &Target) -> Arc<OwnAccess> {
        Arc::new(OwnAccess(FileAccess(t.clone())))
    }
}

impl Access for OwnAccess {
    fn owner(&self) -> (u32, u32) {
        self.0.owner()
    }

    fn alive(&self) -> bool {
        self.0.alive()
    }

    fn permission(&self, cred: &Cred, _: u32, _: &Perm) -> Option<Result<()>> {
        let Ok(t) = self.0.0.task() else { return None };
        let own = match served_task() {
            Some(reader) => reader.process.pid == t.process.pid,
            // The kernel itself.
            None => std::ptr::eq(&*t.cred(), cred),
        };
        own.then_some(Ok(()))
    }
}

impl Access for DirAccess {
    fn owner(&self) -> (u32, u32) {
        self.0.task().map_or((0, 0), |t| effective(&t))
    }

    fn alive(&self) -> bool {
        self.0.task().is_ok()
    }

    fn permission(&self, cred: &Cred, _: u32, _: &Perm) -> Option<Result<()>> {
        let t = match self.0.task() {
            Ok(t) => t,
            Err(e) => return Some(Err(e)),
        };
        let own = std::ptr::eq(&*t.cred(), cred);
        if own { None } else { self.0.mnt.hides(cred, &t).map(Err) }
    }
}

/// The directory of a process or thread.
pub struct PidDir(Rows<Target>);

impl PidDir {
    /// As an inode.
    pub fn spec(target: Target) -> Result<Spec> {
        let task = target.task()?;
        let ino = Target::ino(&task) ^ u64::from(target.is_thread());
        let rows = if target.is_thread() { THREAD_ROWS } else { ROWS };
        let files = Rows::owned(rows, target.clone(), Arc::new(FileAccess(target.clone())));
        let access = Arc::new(DirAccess(target));
        Ok(Spec::dir(PidDir(files)).ino(ino).access(access))
    }
}

impl Directory for PidDir {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        self.0.subject.task().map_err(|_| ENOENT)?;
        let mut spec = self.0.lookup(name)?;
        if spec.mode == 0o555 && matches!(spec.body, Body::Dir(_)) {
            spec.access = Some(Arc::new(DirAccess(self.0.subject.clone())));
        }
        Ok(spec)
    }

    fn list(&self, reader: &Task) -> Result<Vec<Entry>> {
        self.0.subject.task().map_err(|_| ENOENT)?;
        self.0.list(reader)
    }

    fn links(&self) -> u32 {
        self.0.links()
    }

    fn process(&self) -> Option<Result<Arc<Process>>> {
        let t = &self.0.subject;
        (!t.is_thread()).then(|| t.process.upgrade().ok_or(ESRCH))
    }
}

/// The process whose directory an open file is.
pub fn process_of(file: &File) -> Option<Result<Arc<Process>>> {
    match file.inode().as_any().downcast_ref::<Node>()?.body() {
        Body::Dir(d) => d.process(),
        _ => None,
    }
}

/// As [`FileAccess`] for files that show or change memory: opening them needs the right to trace.
struct AttachAccess(FileAccess);

impl AttachAccess {
    fn new(t: &Target) -> AttachAccess {
        AttachAccess(FileAccess(t.clone()))
    }
}

impl Access for AttachAccess {
    fn owner(&self) -> (u32, u32) {
        self.0.owner()
    }

    fn alive(&self) -> bool {
        self.0.alive()
    }

    fn permission(&self, cred: &Cred, _: u32, _: &Perm) -> Option<Result<()>> {
        match self.0.0.task() {
            Ok(t) if std::ptr::eq(&*t.cred(), cred) || may_access_as(cred, &t, Ids::Fs) => None,
            Ok(_) => Some(Err(EACCES)),
            Err(e) => Some(Err(e)),
        }
    }
}

macro_rules! common_rows {
    ($($extra:expr),* $(,)?) => {
        &[
            $($extra,)*
            Row::text("auxv", 0o400, auxv::show),
            Row::text("cgroup", 0o444, cgroup::show),
            Row::command("clear_refs", 0o200, clear_refs::store),
            Row::text("cmdline", 0o444, cmdline::show),
            Row::setting("comm", 0o644, comm::show, comm::store),
            Row::setting("coredump_filter", 0o644, coredump::show, coredump::store),
            Row::link("cwd", links::cwd),
            Row::text("environ", 0o400, environ::show),
            Row::link("exe", links::exe),
            Row::dir("fd", 0o500, fd::dir),
            Row::dir("fdinfo", 0o555, fd::info_dir),
            Row::file("gid_map", 0o644, |t| idmap::file(t, IdKind::Group)),
            Row::text("io", 0o400, io::show),
            Row::text("limits", 0o444, limits::show),
            Row::setting("loginuid", 0o644, login::show_uid, login::store_uid),
            Row::text("maps", 0o444, maps::show),
            Row::file("mem", 0o600, mem::file),
            Row::file("mountinfo", 0o444, mounts::mountinfo),
            Row::file("mounts", 0o444, mounts::mounts),
            Row::dir("net", 0o555, |t| Spec::dir(super::net::Net(t.clone()))),
            Row::dir("ns", 0o511, ns::dir),
            Row::setting("oom_adj", 0o644, oom::show_adj, oom::store_adj),
            Row::text("oom_score", 0o444, oom::show_score),
            Row::setting("oom_score_adj", 0o644, oom::show_score_adj, oom::store_score_adj),
            Row::file("pagemap", 0o400, pagemap::file),
            Row::text("personality", 0o400, personality::show),
            Row::file("projid_map", 0o644, |t| idmap::file(t, IdKind::Project)),
            Row::link("root", links::root),
            Row::text("sched", 0o444, sched::show),
            Row::text("schedstat", 0o444, sched::stat),
            Row::text("sessionid", 0o444, login::show_session),
            Row::file("setgroups", 0o644, idmap::setgroups),
            Row::text("smaps", 0o444, smaps::show),
            Row::text("smaps_rollup", 0o444, smaps::rollup),
            Row::text("stack", 0o400, stack::show),
            Row::text("stat", 0o444, stat::show),
            Row::text("statm", 0o444, statm::show),
            Row::text("status", 0o444, status::show),
            Row::text("syscall", 0o400, syscall::show),
            Row::file("uid_map", 0o644, |t| idmap::file(t, IdKind::User)),
            Row::text("wchan", 0o444, wchan::show),
        ]
    };
}

/// `/proc/<pid>`.
static ROWS: &[Row<Target>] = common_rows![
    Row::dir("map_files", 0o500, map_files::dir),
    Row::file("mountstats", 0o400, mounts::mountstats),
    Row::dir("task", 0o555, task::dir),
    Row::file("timens_offsets", 0o644, timens::file),
    Row::setting("timerslack_ns", 0o666, timerslack::show, timerslack::store),
];

/// `/proc/<pid>/task/<tid>`.
static THREAD_ROWS: &[Row<Target>] = common_rows![Row::text("children", 0o444, children::show)];
