//! The daemon: starts what has `autostart`, in order; takes over instances whose holder was killed ([`holders`]), with their
//! consoles ([`keep`]); answers on a control socket ([`varlink`]); stops everything on SIGPWR. The first command that
//! starts an instance starts it ([`demand`]). Instances do not need it: each has its holder, so SIGTERM or a crash
//! of the daemon leaves them running, and the next daemon finds them by their files.
//!
//! One thread waits for signals, callers, events and holders; each caller has a thread of its own. It wakes up only when
//! something happens, or for systemd's watchdog.

pub mod demand;
pub mod holders;
pub mod keep;
pub mod varlink;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use uml_formats::unix_path::SocketPath;

use crate::cli::{self, ProgressWhen};
use crate::cmd::start;
use crate::failure::{Context, Failure, Result, code};
use crate::fleet::{default_jobs, generator, stop_if_up, work};
use crate::notify::{Supervisor, watchdog_interval};
use crate::process::Process;
use crate::state::Store;
use crate::{instance, notify, spec};
use holders::Holders;

/// Runs until a signal.
pub fn run(a: &cli::Daemon) -> Result<u8> {
    let store = Store::open()?;
    store.create()?;
    // How long it stays when nothing is up; one that was asked for stays.
    let linger = a.on_demand.map(|t| t.0);
    let on_demand = linger.is_some();
    let mut held = Some(lock(&store, on_demand)?);
    let signals = signals()?;
    // Every holder has some descriptors here. What the user allows is enough, or some are not kept.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let listener = listener(&store)?;
    listener.set_nonblocking(true).at("cannot use", &store.control())?;
    let events = store.events();
    File::options().append(true).create(true).open(&events).at("cannot open", &events)?;
    let failed = |e: nix::errno::Errno| Failure::io("cannot watch", &events, &e.into());
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
    watch
        .add_watch(&store.base, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVED_TO)
        .map_err(failed)?;
    let supervisor = Supervisor::from_environment();
    let holders = Holders::new(&store, keep::Keeper::new(&store)?);
    let mut daemon = Daemon { store, signals, listener, watch, holders, linger };
    if on_demand {
        daemon.detach();
    } else if !a.no_autostart {
        let store = daemon.store.clone();
        let by_unit = supervisor.is_some();
        std::thread::spawn(move || autostart(&store, by_unit));
    }
    if let Some(s) = &supervisor {
        s.send("READY=1\nSTATUS=serving");
    }
    eprintln!("umld: serving on {}", daemon.store.control().display());
    let end = loop {
        match daemon.serve(supervisor.as_ref())? {
            Some(s) => break s,
            None => {
                // A command that starts an instance now finds either no lock, or us looking once more.
                drop(held.take());
                daemon.holders.look_at_all(&daemon.store);
                if daemon.holders.is_empty() {
                    eprintln!("umld: nothing is up");
                    // What others bind meanwhile is theirs.
                    return Ok(0);
                }
                match lock(&daemon.store, true) {
                    Ok(l) => held = Some(l),
                    Err(_) => return Ok(0),
                }
            }
        }
    };
    if let Some(s) = &supervisor {
        s.send("STOPPING=1");
    }
    let stopped = if end == Signal::SIGPWR { stop_all(&daemon.store)? } else { 0 };
    if notify::listen_fds() == 0 {
        let _ = std::fs::remove_file(daemon.store.control());
    }
    let _ = std::fs::remove_file(daemon.store.keep());
    drop(held);
    Ok(stopped)
}

fn lock_file(store: &Store) -> PathBuf {
    store.base.join(".daemon.lock")
}

/// Whether a daemon of this user runs.
pub fn is_running(store: &Store) -> bool {
    let Ok(file) = File::open(lock_file(store)) else { return false };
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

/// How long the daemon that a command started may take to make way.
const MAKE_WAY: Duration = Duration::from_secs(5);
/// How long to try for the lock: whoever looks whether it is held has it for an instant.
const TRY: Duration = Duration::from_millis(500);
/// The same for a daemon that is not needed when there is one.
const TRY_ON_DEMAND: Duration = Duration::from_millis(50);

/// Takes the daemon's lock and says in it who has it. One that was started on demand makes way for one that was not.
fn lock(store: &Store, on_demand: bool) -> Result<Flock<File>> {
    let path = lock_file(store);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .at("cannot open", &path)?;
    let mut deadline = Instant::now() + if on_demand { TRY_ON_DEMAND } else { TRY };
    let mut asked = false;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                let text = format!(
                    "{}{}\n",
                    std::process::id(),
                    if on_demand { " on-demand" } else { "" }
                );
                lock.set_len(0)
                    .and_then(|()| lock.write_all(text.as_bytes()))
                    .at("cannot write", &path)?;
                return Ok(lock);
            }
            Err((back, nix::errno::Errno::EWOULDBLOCK)) => file = back,
            Err((_, e)) => return Err(Failure::io("cannot lock", &path, &e.into())),
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(code::BUSY, "the daemon runs already"));
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let other = text.trim().strip_suffix(" on-demand").filter(|_| !on_demand && !asked);
        if let Some(Ok(p)) = other.and_then(|p| p.parse().ok()).map(Process::open) {
            let _ = p.signal(rustix::process::Signal::TERM);
            p.wait(MAKE_WAY);
            asked = true;
            deadline = Instant::now() + TRY;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for s in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGPWR, Signal::SIGHUP] {
        set.add(s);
    }
    let fail = |e: nix::errno::Errno| Failure::other(format!("cannot receive signals: {e}"));
    set.thread_block().map_err(fail)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(fail)
}

/// systemd's socket, or one of our own.
fn listener(store: &Store) -> Result<UnixListener> {
    if notify::listen_fds() > 0 {
        // sd_listen_fds(3): the sockets begin at 3.
        let fd = uml_host::stream::duplicate(3)
            .map_err(|e| Failure::other(format!("socket passed by the service manager: {e}")))?;
        return Ok(UnixListener::from(fd));
    }
    let path = store.control();
    let _ = std::fs::remove_file(&path);
    let short = SocketPath::new(&path).at("cannot bind", &path)?;
    UnixListener::bind(short.as_path()).at("cannot bind", &path)
}

/// A daemon at work.
struct Daemon {
    store: Store,
    signals: SignalFd,
    listener: UnixListener,
    watch: Inotify,
    holders: Holders,
    linger: Option<Duration>,
}

impl Daemon {
    /// Leaves the terminal, and tells the command that started us that all is taken over.
    fn detach(&self) {
        let _ = nix::unistd::setsid();
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "ready").and_then(|()| out.flush());
        // It waits for the end of this pipe.
        if let Ok(null) = File::options().write(true).open("/dev/null") {
            let _ = nix::unistd::dup2_stdout(&null);
        }
    }

    /// How long to wait for something to happen. None: for ever.
    fn patience(&self, watchdog: Option<Duration>) -> Option<Duration> {
        [watchdog, self.linger.filter(|_| self.holders.is_empty())].into_iter().flatten().min()
    }

    /// Serves until a signal, or, on demand, until nothing has been up for a while.
    fn serve(&mut self, supervisor: Option<&Supervisor>) -> Result<Option<Signal>> {
        let interval = watchdog_interval().filter(|_| supervisor.is_some());
        loop {
            if let (Some(s), Some(_)) = (supervisor, interval) {
                s.send("WATCHDOG=1");
            }
            let timeout = self.patience(interval).map_or(PollTimeout::NONE, |i| {
                PollTimeout::try_from(i.as_millis().clamp(1, 1 << 30)).unwrap_or(PollTimeout::MAX)
            });
            let input = PollFlags::POLLIN;
            let mut fds = vec![
                PollFd::new(self.signals.as_fd(), input),
                PollFd::new(self.listener.as_fd(), input),
                PollFd::new(self.watch.as_fd(), input),
                PollFd::new(self.holders.keeper.as_fd(), input),
            ];
            fds.extend(self.holders.processes().map(|p| PollFd::new(p, input)));
            let quiet = match poll(&mut fds, timeout) {
                Ok(n) => n == 0,
                Err(nix::errno::Errno::EINTR) => false,
                Err(e) => return Err(Failure::other(format!("poll: {e}"))),
            };
            let ready: Vec<bool> = fds.iter().map(|f| f.any().unwrap_or(false)).collect();
            drop(fds);
            // Nobody tells when a caller leaves, so we look again after as long.
            if quiet && interval.is_none() && varlink::callers() == 0 {
                return Ok(None);
            }
            if ready[0] {
                while let Ok(Some(s)) = self.signals.read_signal() {
                    match Signal::try_from(s.ssi_signo as i32) {
                        Ok(Signal::SIGHUP) | Err(_) => {}
                        Ok(s) => return Ok(Some(s)),
                    }
                }
            }
            if ready[1] {
                while let Ok((stream, _)) = self.listener.accept() {
                    varlink::admit(&self.store, stream);
                }
            }
            if ready[3] {
                self.holders.keeper.take_in();
            }
            let ended: Vec<usize> = (0..ready.len() - 4).filter(|k| ready[k + 4]).collect();
            self.holders.look_at_ended(&self.store, &ended);
            if ready[2] {
                while self.watch.read_events().is_ok() {}
                self.holders.look_at_news(&self.store);
            }
        }
    }
}

/// Starts what has `autostart`, in the order of `after`. Under a service manager (`by_unit`) the generator's units start
/// what is in its directories.
fn autostart(store: &Store, by_unit: bool) {
    let generated = if by_unit { generator::directories() } else { Vec::new() };
    let mut tasks = Vec::new();
    for name in store.names().unwrap_or_default() {
        let Ok((_, vm)) = spec::load::read::<spec::VmFile>(&store.dir(&name).spec()) else {
            continue;
        };
        let source = std::fs::read_to_string(store.dir(&name).source()).unwrap_or_default();
        let has_unit = Path::new(&source).parent().is_some_and(|d| generated.contains(&d.into()));
        if vm.service.autostart == Some(true) && !has_unit {
            tasks.push(work::Task { name, after: vm.service.after.into_iter().collect() });
        }
    }
    let names: BTreeSet<String> = tasks.iter().map(|t| t.name.clone()).collect();
    tasks.iter_mut().for_each(|t| t.after.retain(|a| names.contains(a)));
    work::each(&tasks, default_jobs(), ProgressWhen::Plain, "starting", |name| {
        match start::define(store, std::path::Path::new(name)) {
            Err(e) if e.code == code::BUSY => return Ok("was running already".into()),
            r => r?,
        };
        start::start(store, name, None, None).map(|()| "started".into())
    });
}

/// Stops every instance, those that come after others first.
pub fn stop_all(store: &Store) -> Result<u8> {
    let up: Vec<_> = instance::all(store)?.into_iter().filter(|i| i.pid.is_some()).collect();
    let after: Vec<(String, Vec<String>)> = up
        .iter()
        .map(|i| {
            let vm =
                spec::load::read::<spec::VmFile>(&i.dir.spec()).map(|v| v.1).unwrap_or_default();
            (i.name.clone(), vm.service.after)
        })
        .collect();
    let tasks: Vec<work::Task> = after
        .iter()
        .map(|(n, _)| work::Task {
            name: n.clone(),
            after: after.iter().filter(|(_, a)| a.contains(n)).map(|(o, _)| o.clone()).collect(),
        })
        .collect();
    Ok(work::each(&tasks, default_jobs(), ProgressWhen::Plain, "stopping", |n| {
        stop_if_up(store, n)
    }))
}
