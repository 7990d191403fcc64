//! Choosing and starting a backend.

use std::fmt;
use std::sync::Arc;

use uml_abi::Errno;

use crate::api::Platform;
use crate::foundation::Setup;
use crate::notify;
use crate::pool::PanicHook;
use crate::probe;
use crate::ptrace;
use crate::sys;
use crate::trap;

/// Which backend to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The best that works.
    #[default]
    Auto,
    /// The better of [`Backend::Notify`] and [`Backend::Trap`].
    Seccomp,
    Notify,
    Trap,
    Ptrace,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Auto => "auto",
            Backend::Seccomp => "seccomp",
            Backend::Notify => "notify",
            Backend::Trap => "trap",
            Backend::Ptrace => "ptrace",
        })
    }
}

/// What the machine asks for.
#[derive(Clone, Default)]
pub struct Config {
    pub backend: Backend,
    /// Host CPUs to use: the first N of those the process may run on. All when `None`.
    pub ncpus: Option<usize>,
    /// Called with the message of a panic in kernel code, which ends only the guest
    /// process it happened for. Default: a line on standard error.
    pub on_panic: Option<PanicHook>,
}

/// What boot found out.
#[derive(Clone, Debug)]
pub struct Report {
    pub chosen: Backend,
    /// Backends that were tried and do not work here, and why.
    pub rejected: Vec<(Backend, String)>,
    /// Remarks on the chosen one, for the boot log.
    pub notes: Vec<String>,
    pub ncpus: usize,
    /// Limit on open files in force.
    pub nofile: u64,
}

/// No backend could be started.
#[derive(Debug)]
pub enum BootError {
    /// `ncpus` is zero or the host's CPUs cannot be told.
    Cpus {
        wanted: usize,
        usable: usize,
    },
    Host {
        what: &'static str,
        errno: Errno,
    },
    /// The wanted backend, or every one, does not work.
    NoBackend(Vec<(Backend, String)>),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootError::Cpus { wanted, usable } => {
                write!(
                    f,
                    "ncpus={wanted}: this process may use {usable} CPUs; give a number from 1 to {usable}"
                )
            }
            BootError::Host { what, errno } => write!(f, "{what}: {errno}"),
            BootError::NoBackend(tried) => {
                f.write_str("no way to run guest programs works on this host:")?;
                for (b, why) in tried {
                    write!(f, " {b}: {why};")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for BootError {}

/// `vm.mmap_min_addr`, below which the host refuses mappings.
fn mmap_min_addr() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/vm/mmap_min_addr").unwrap_or_default();
    text.trim().parse().unwrap_or(65536)
}

/// Starts the platform. Confines the calling thread, and with it everything started later,
/// to the wanted CPUs, so the kernel calls this before it makes threads.
pub fn boot(cfg: Config) -> Result<(Arc<dyn Platform>, Report), BootError> {
    let host = |what| move |errno| BootError::Host { what, errno };
    let cpus = sys::affinity().map_err(host("sched_getaffinity"))?;
    let wanted = cfg.ncpus.unwrap_or(cpus.len());
    if wanted == 0 || cpus.is_empty() {
        return Err(BootError::Cpus { wanted, usable: cpus.len() });
    }
    let ncpus = wanted.min(cpus.len());
    let mut notes = Vec::new();
    if wanted > cpus.len() {
        notes.push(format!("ncpus={wanted}: the host gives this process {ncpus} CPUs"));
    }
    if ncpus < cpus.len() {
        sys::set_affinity(&cpus[..ncpus]).map_err(host("sched_setaffinity"))?;
    }
    let nofile = sys::raise_nofile().map_err(host("RLIMIT_NOFILE"))?;
    let on_panic = cfg
        .on_panic
        .clone()
        .unwrap_or_else(|| Arc::new(|m: &str| eprintln!("kernel panic in a worker: {m}")));
    let mut rejected = Vec::new();
    let order: &[Backend] = match cfg.backend {
        Backend::Auto => &[Backend::Notify, Backend::Trap, Backend::Ptrace],
        Backend::Seccomp => &[Backend::Notify, Backend::Trap],
        Backend::Notify => &[Backend::Notify],
        Backend::Trap => &[Backend::Trap],
        Backend::Ptrace => &[Backend::Ptrace],
    };
    let outer = probe::outer_filter();
    for &b in order {
        match start(b, outer, &cpus[..ncpus], &on_panic, &mut notes) {
            Ok(p) => return Ok((p, Report { chosen: b, rejected, notes, ncpus, nofile })),
            Err(why) => rejected.push((b, why)),
        }
    }
    Err(BootError::NoBackend(rejected))
}

/// What a backend needs of the host, tried in throw-away processes: the calls an outer filter
/// keeps from notifying, or what stands in the way.
fn try_out(b: Backend, outer: bool) -> Result<Vec<u32>, String> {
    let hidden = match b {
        Backend::Notify if outer => probe::notify_under_filter(notify::FILTER_FLAGS)?,
        Backend::Notify => probe::notify(notify::FILTER_FLAGS, false)?,
        Backend::Trap => probe::trap().map(|()| Vec::new())?,
        _ => probe::ptrace().map(|()| Vec::new())?,
    };
    probe::memory()?;
    Ok(hidden)
}

/// Starts a backend. Under an outer filter, which may kill who asks, it is tried out first;
/// otherwise only when it does not start, to tell why.
fn start(
    b: Backend,
    outer: bool,
    cpus: &[usize],
    on_panic: &PanicHook,
    notes: &mut Vec<String>,
) -> Result<Arc<dyn Platform>, String> {
    let hidden = if outer { try_out(b, outer)? } else { Vec::new() };
    let setup = Setup {
        cpus: cpus.to_vec(),
        user_min: mmap_min_addr(),
        on_panic: on_panic.clone(),
        hidden,
    };
    let failed = |e: Errno| match try_out(b, outer) {
        Ok(_) => format!("its first guest process does not start: {e}"),
        Err(why) => why,
    };
    Ok(match b {
        Backend::Notify => {
            let m = notify::Machine::boot(&setup).map_err(failed)?;
            if !m.has_sync_wake_up() {
                notes.push(
                    "the host (before Linux 6.6) lacks same-CPU wake-ups for notifications".into(),
                );
            }
            if outer {
                notes.push(format!(
                    "an outer seccomp filter is in force: {} of {} call numbers trap instead of \
                     notifying",
                    setup.hidden.len(),
                    crate::seccomp::filter::NR_MAX
                ));
            }
            m
        }
        Backend::Trap => trap::Machine::boot(&setup).map_err(failed)?,
        _ => ptrace::Machine::boot(&setup).map_err(failed)?,
    })
}
