//! The daemon: starts what has `autostart`, in order; takes over instances whose holder was killed; answers on a control
//! socket ([`varlink`]); stops everything on SIGPWR. Instances do not need it: each has its holder, so SIGTERM or a crash
//! of the daemon leaves them running, and the next daemon finds them by their files.
//!
//! One thread waits for signals, callers, events and holders; each caller has a thread of its own. It wakes up only when
//! something happens, or for systemd's watchdog.

pub mod varlink;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use uml_formats::unix_path::SocketPath;

use crate::cli::{self, ProgressWhen};
use crate::cmd::start;
use crate::failure::{Context, Failure, Result, code};
use crate::fleet::{default_jobs, stop_if_up, work};
use crate::notify::{Supervisor, watchdog_interval};
use crate::process::Process;
use crate::state::Store;
use crate::{holder, instance, notify, spec};

/// Runs until a signal.
pub fn run(a: &cli::Daemon) -> Result<u8> {
    let store = Store::open()?;
    std::fs::create_dir_all(&store.base).at("cannot make", &store.base)?;
    let _lock = lock(&store)?;
    let signals = signals()?;
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
    let mut holders = Holders::default();
    holders.look(&store);
    if !a.no_autostart {
        let store = store.clone();
        std::thread::spawn(move || autostart(&store));
    }
    if let Some(s) = &supervisor {
        s.send("READY=1\nSTATUS=serving");
    }
    eprintln!("umld: serving on {}", store.control().display());
    let end = serve(&store, &signals, &listener, &watch, &mut holders, supervisor.as_ref())?;
    if let Some(s) = &supervisor {
        s.send("STOPPING=1");
    }
    if notify::listen_fds() == 0 {
        let _ = std::fs::remove_file(store.control());
    }
    Ok(if end == Signal::SIGPWR { stop_all(&store)? } else { 0 })
}

fn lock(store: &Store) -> Result<Flock<File>> {
    let path = store.base.join(".daemon.lock");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .at("cannot open", &path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        nix::errno::Errno::EWOULDBLOCK => Failure::new(code::BUSY, "the daemon runs already"),
        e => Failure::io("cannot lock", &path, &e.into()),
    })
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

fn serve(
    store: &Store,
    signals: &SignalFd,
    listener: &UnixListener,
    watch: &Inotify,
    holders: &mut Holders,
    supervisor: Option<&Supervisor>,
) -> Result<Signal> {
    let interval = watchdog_interval();
    let timeout = interval.map_or(PollTimeout::NONE, |i| {
        PollTimeout::try_from(i.as_millis().clamp(1, 1 << 30)).unwrap_or(PollTimeout::MAX)
    });
    loop {
        if let (Some(s), Some(_)) = (supervisor, interval) {
            s.send("WATCHDOG=1");
        }
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(watch.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(holders.known.values().map(|p| PollFd::new(p.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(Failure::other(format!("poll: {e}"))),
        }
        let ready: Vec<bool> = fds.iter().map(|f| f.any().unwrap_or(false)).collect();
        drop(fds);
        if ready[0] {
            while let Ok(Some(s)) = signals.read_signal() {
                match Signal::try_from(s.ssi_signo as i32) {
                    Ok(Signal::SIGHUP) | Err(_) => {}
                    Ok(s) => return Ok(s),
                }
            }
        }
        if ready[1] {
            while let Ok((stream, _)) = listener.accept() {
                varlink::admit(store, stream);
            }
        }
        let mut look = ready[3..].iter().any(|r| *r);
        if ready[2] {
            while watch.read_events().is_ok() {}
            look = true;
        }
        if look {
            holders.look(store);
        }
    }
}

/// The holders that live, by instance.
#[derive(Default)]
struct Holders {
    known: BTreeMap<String, Process>,
    /// Instances that could not be taken over: told once.
    given_up: BTreeSet<(String, i32)>,
}

impl Holders {
    /// Finds new holders, and takes over the instances of those that were killed.
    fn look(&mut self, store: &Store) {
        let list = match instance::all(store) {
            Ok(l) => l,
            Err(e) => return eprintln!("umld: {e}"),
        };
        self.known.retain(|n, p| {
            let now = list.iter().find(|i| i.name == *n).and_then(|i| i.status.holder);
            now == Some(p.pid) && !p.wait(std::time::Duration::ZERO)
        });
        for i in list.iter().filter(|i| i.managed) {
            match (i.status.holder, i.pid) {
                (Some(h), _) if i.status.state.is_up() => {
                    if !self.known.contains_key(&i.name)
                        && let Ok(p) = Process::open(h)
                    {
                        self.known.insert(i.name.clone(), p);
                    }
                }
                (None, Some(pid)) if i.status.state.is_up() => {
                    let key = (i.name.clone(), pid);
                    if self.given_up.contains(&key) {
                        continue;
                    }
                    match holder::spawn(store, &i.name, Some(pid)) {
                        Ok(()) => eprintln!("umld: took over \"{}\", kernel pid {pid}", i.name),
                        Err(e) => {
                            eprintln!("umld: cannot take over \"{}\": {e}", i.name);
                            self.given_up.insert(key);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// Starts what has `autostart`, in the order of `after`.
fn autostart(store: &Store) {
    let mut tasks = Vec::new();
    for name in store.names().unwrap_or_default() {
        let Ok((_, vm)) = spec::load::read::<spec::VmFile>(&store.dir(&name).spec()) else {
            continue;
        };
        if vm.service.autostart == Some(true) {
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
