//! What other subsystems contribute to /proc: tables and files that only they can fill.

use std::sync::{Arc, OnceLock};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::task::Task;
use uml_core::vfs::Dev;

use super::sysvipc::SysvIpc;
use crate::synth::{Entry, Spec, Text, TextFn};

/// A line of /proc/interrupts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    pub number: u32,
    pub count: u64,
    /// Handler type: `SIGIO`, `SIGALRM`.
    pub handler: &'static str,
    /// Devices, comma separated (`console, winch`).
    pub names: String,
}

/// A line of /proc/consoles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleLine {
    /// With its number (`tty0`).
    pub name: String,
    pub dev: Dev,
    /// /dev/console is this one.
    pub preferred: bool,
}

/// A directory of /proc/PID/net with files that depend on the network namespace of that process.
pub trait NetDir: Send + Sync {
    /// Names of the files.
    fn names(&self, of: &Task) -> Vec<String>;

    /// Writes the file: `ENOENT` when there is none of the name any more.
    fn show(&self, of: &Task, name: &str, out: &mut Text) -> Result<()>;
}

type List<T> = Mutex<Vec<Arc<dyn Fn() -> Vec<T> + Send + Sync>>>;
type Sysrq = Box<dyn Fn(u8) -> Result<()> + Send + Sync>;
type Sysv = Box<dyn Fn(SysvIpc, &Task, &mut Text) + Send + Sync>;

/// Filled at boot by the binary.
pub struct Sources {
    interrupts: List<Interrupt>,
    consoles: List<ConsoleLine>,
    sysrq: OnceLock<Sysrq>,
    sysv: OnceLock<Sysv>,
    files: Mutex<Vec<Extra>>,
    net: Mutex<Vec<Extra>>,
    net_dirs: Mutex<Vec<(&'static str, Arc<dyn NetDir>)>>,
    sysctl: Mutex<Vec<Extra>>,
    boot_id: OnceLock<String>,
}

#[derive(Clone)]
struct Extra {
    name: &'static str,
    mode: u32,
    file: TextFn,
}

impl Default for Sources {
    fn default() -> Self {
        Sources {
            interrupts: Mutex::new(Rank::LEAF, Vec::new()),
            consoles: Mutex::new(Rank::LEAF, Vec::new()),
            sysrq: OnceLock::new(),
            sysv: OnceLock::new(),
            files: Mutex::new(Rank::LEAF, Vec::new()),
            net: Mutex::new(Rank::LEAF, Vec::new()),
            net_dirs: Mutex::new(Rank::LEAF, Vec::new()),
            sysctl: Mutex::new(Rank::LEAF, Vec::new()),
            boot_id: OnceLock::new(),
        }
    }
}

fn collect<T>(list: &List<T>) -> Vec<T> {
    let fns = list.lock().clone();
    fns.iter().flat_map(|f| f()).collect()
}

fn find(list: &Mutex<Vec<Extra>>, name: &[u8]) -> Result<Spec> {
    let found = list.lock().iter().find(|e| e.name.as_bytes() == name).cloned();
    let e = found.ok_or(ENOENT)?;
    Ok(Spec::file(e.mode, e.file))
}

fn names(list: &Mutex<Vec<Extra>>) -> Vec<Entry> {
    list.lock().iter().map(|e| Entry::new(e.name, libc::S_IFREG)).collect()
}

impl Sources {
    /// Adds lines of /proc/interrupts.
    pub fn add_interrupts(&self, f: impl Fn() -> Vec<Interrupt> + Send + Sync + 'static) {
        self.interrupts.lock().push(Arc::new(f));
    }

    /// Every interrupt, by number.
    pub fn interrupts(&self) -> Vec<Interrupt> {
        let mut v = collect(&self.interrupts);
        v.sort_by_key(|i| i.number);
        v
    }

    /// Adds lines of /proc/consoles.
    pub fn add_consoles(&self, f: impl Fn() -> Vec<ConsoleLine> + Send + Sync + 'static) {
        self.consoles.lock().push(Arc::new(f));
    }

    /// Every console.
    pub fn consoles(&self) -> Vec<ConsoleLine> {
        collect(&self.consoles)
    }

    /// Sets what performs the commands of /proc/sysrq-trigger, once.
    pub fn set_sysrq(&self, f: impl Fn(u8) -> Result<()> + Send + Sync + 'static) {
        let _ = self.sysrq.set(Box::new(f));
    }

    /// Performs the command `key`; `EIO` while nothing is there to do so.
    pub fn sysrq(&self, key: u8) -> Result<()> {
        self.sysrq.get().ok_or(EIO)?(key)
    }

    /// Sets what writes the rows of /proc/sysvipc, once.
    pub fn set_sysv(&self, f: impl Fn(SysvIpc, &Task, &mut Text) + Send + Sync + 'static) {
        let _ = self.sysv.set(Box::new(f));
    }

    pub(super) fn sysv(&self, which: SysvIpc, task: &Task, out: &mut Text) {
        if let Some(f) = self.sysv.get() {
            f(which, task, out);
        }
    }

    /// Adds the file `/proc/NAME` (`/proc/mconsole`).
    pub fn add_file(&self, name: &'static str, mode: u32, file: TextFn) {
        self.files.lock().push(Extra { name, mode, file });
    }

    /// Adds the file `/proc/net/NAME`, or replaces an empty one of that name.
    pub fn add_net(&self, name: &'static str, mode: u32, file: TextFn) {
        self.net.lock().push(Extra { name, mode, file });
    }

    /// Adds the directory `/proc/net/NAME`.
    pub fn add_net_dir(&self, name: &'static str, d: Arc<dyn NetDir>) {
        self.net_dirs.lock().push((name, d));
    }

    /// Adds `/proc/sys/PATH` (`net/ipv4/ip_forward`); directories come by themselves.
    pub fn add_sysctl(&self, path: &'static str, mode: u32, file: TextFn) {
        self.sysctl.lock().push(Extra { name: path, mode, file });
    }

    pub(super) fn sysctl(&self, path: &str) -> Option<Spec> {
        find(&self.sysctl, path.as_bytes()).ok()
    }

    pub(super) fn sysctl_paths(&self) -> Vec<&'static str> {
        self.sysctl.lock().iter().map(|e| e.name).collect()
    }

    /// The UUID of this boot (random(4)).
    pub fn boot_id(&self) -> &str {
        self.boot_id.get_or_init(super::sys::uuid)
    }

    pub(super) fn file(&self, name: &[u8]) -> Result<Spec> {
        find(&self.files, name)
    }

    pub(super) fn files(&self) -> Vec<Entry> {
        names(&self.files)
    }

    pub(super) fn net_file(&self, name: &[u8]) -> Result<Spec> {
        find(&self.net, name)
    }

    pub(super) fn net_dir(&self, name: &[u8]) -> Option<Arc<dyn NetDir>> {
        let dirs = self.net_dirs.lock();
        dirs.iter().find(|(n, _)| n.as_bytes() == name).map(|(_, d)| d.clone())
    }

    pub(super) fn net_files(&self) -> Vec<Entry> {
        let mut v = names(&self.net);
        v.extend(self.net_dirs.lock().iter().map(|(n, _)| Entry::new(*n, libc::S_IFDIR)));
        v
    }
}
