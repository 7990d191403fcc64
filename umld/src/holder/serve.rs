//! The holder's event loop.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use serde_json::{Value, json};
use uml_formats::mconsole::{Notification, NotificationKind};
use uml_formats::unix_path::{MAX_SOCKET_PATH, SocketPath};

use super::Adopt;
use super::client::{Await, Client, Mode};
use super::launch::{self, Kernel};
use super::leftovers;
use super::line::Line;
use super::policy::{Ended, Restarts, Verdict};
use crate::daemon::keep::{self, Kept};
use crate::failure::{Context, Failure, Result, code};
use crate::process::Process;
use crate::spec::VmFile;
use crate::spec::cmdline::held_lines;
use crate::spec::vm::StopTimes;
use crate::state::{Dir, Event, LogFile, State, Status, Store, now, process_started};
use crate::stop::{self, Step};
use crate::wire::{Call, Frame, Reply, decode, decode_frame, object};
use crate::{mconsole, notify};

mod answer;
mod end;
mod listen;

/// Largest kernel log before it is set aside.
const KERNEL_LOG_MAX: u64 = 16 << 20;
/// Lines of the kernel's log that are told when it fails.
const LAST_WORDS: usize = 12;

/// The kernel process.
enum Running {
    /// Our child.
    Child(Child),
    /// Started by a holder that is gone.
    Adopted(Process),
}

/// A holder at work.
pub struct Holder {
    store: Store,
    dir: Dir,
    vm: VmFile,
    status: Status,
    lines: Vec<Line>,
    kernel: Option<Running>,
    kernel_pipe: Option<OwnedFd>,
    kernel_log: LogFile,
    /// Where it tells what it does, when standard error is somebody else's.
    own_log: Option<RefCell<LogFile>>,
    log_tail: Vec<u8>,
    panic_text: Option<String>,
    listener: UnixListener,
    notifications: UnixDatagram,
    signals: SignalFd,
    clients: Vec<Client>,
    stopping: Option<Stopping>,
    restarts: Restarts,
    again_at: Option<Instant>,
    watchdog_at: Option<Instant>,
    supervisor: Option<notify::Supervisor>,
    done: Option<u8>,
    _lock: Flock<File>,
}

/// How long the thread of a stop may take to tell its last step once the kernel process is gone.
const LAST_STEP: Duration = Duration::from_secs(2);

/// A stop under way in its own thread.
struct Stopping {
    progress: BufReader<UnixStream>,
    last: Option<Step>,
    /// Nothing more will be told: the kernel process is gone, and its end about to be seen.
    over: bool,
}

/// What an event loop round found ready.
#[derive(Default)]
struct Ready {
    signal: bool,
    listener: bool,
    notification: bool,
    pipe: bool,
    progress: bool,
    adopted: bool,
    lines: Vec<(usize, bool, bool)>,
    clients: Vec<(usize, bool, bool)>,
}

impl Holder {
    /// Takes the instance's lock and starts its kernel, or takes over a running one.
    pub fn start(
        store: Store,
        name: &str,
        adopt: Option<Adopt>,
        foreground: bool,
    ) -> Result<Holder> {
        store.owned()?;
        let dir = store.dir(name);
        let lock = dir.take_lock()?;
        let loaded = crate::spec::load(&dir.spec())?;
        let vm = loaded.vm;
        check_name(&store, name, &vm, adopt.is_some())?;
        let mut signals = SigSet::empty();
        for s in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGPWR, Signal::SIGHUP]
        {
            signals.add(s);
        }
        let fail =
            |what: &'static str| move |e: nix::errno::Errno| Failure::other(format!("{what}: {e}"));
        signals.thread_block().map_err(fail("cannot block signals"))?;
        let signals =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
                .map_err(fail("cannot receive signals"))?;
        leftovers::inherit().map_err(fail("cannot inherit orphans"))?;
        // A terminal's hang-up must not reach us. Started by systemd we are a leader already.
        let _ = nix::unistd::setsid();
        let resources = launch::limit(&dir, &vm)?;
        let listener = bind(&dir.control(), |p| UnixListener::bind(p))?;
        listener.set_nonblocking(true).at("cannot use", &dir.control())?;
        let notifications = bind(&dir.notify(), |p| UnixDatagram::bind(p))?;
        notifications.set_nonblocking(true).at("cannot use", &dir.notify())?;
        let mut holder = Holder {
            kernel_log: LogFile::open(dir.log("kernel"), KERNEL_LOG_MAX)?,
            own_log: match foreground {
                true => Some(LogFile::open(dir.log("supervisor"), KERNEL_LOG_MAX)?.into()),
                false => None,
            },
            lines: Vec::new(),
            kernel: None,
            kernel_pipe: None,
            log_tail: Vec::new(),
            panic_text: None,
            listener,
            notifications,
            signals,
            clients: Vec::new(),
            stopping: None,
            restarts: Restarts::new(vm.service.policy()),
            again_at: None,
            watchdog_at: None,
            supervisor: notify::Supervisor::from_environment(),
            done: None,
            status: Status {
                resources,
                holder: Some(std::process::id() as i32),
                kernel: vm.vm.kernel.clone().unwrap_or(crate::spec::vm::BUILT_IN.into()),
                ..Status::default()
            },
            store,
            dir,
            vm,
            _lock: lock,
        };
        match adopt {
            Some(a) => holder.adopt(a)?,
            None => {
                holder.make_lines(&mut Kept::new())?;
                holder.launch()?;
            }
        }
        Ok(holder)
    }

    /// Makes the lines, or takes them over as far as there are some.
    fn make_lines(&mut self, kept: &mut Kept) -> Result {
        for (family, n) in held_lines(&self.vm) {
            let name = format!("{family}{n}");
            let spec = self.vm.console.iter().find(|c| c.id.as_deref() == Some(&name));
            let wanted = spec.is_none_or(|c| c.log != Some(false));
            let max = spec.and_then(|c| c.log_max).map_or(16 << 20, |s| s.0);
            let log = if wanted { Some(LogFile::open(self.dir.log(&name), max)?) } else { None };
            let line = match kept.remove(&name) {
                Some(master) => Line::adopt(name.clone(), master, log),
                None => Line::new(name.clone(), log),
            };
            let line = line.map_err(|e| {
                Failure::new(code::UNAVAILABLE, format!("no pseudo-terminal for {name}: {e}"))
            })?;
            self.lines.push(line);
            self.status.lines.push(name);
        }
        Ok(())
    }

    fn adopt(&mut self, a: Adopt) -> Result {
        let Adopt { pid, mut kept } = a;
        let old = self.dir.status();
        let process = Process::open(pid)
            .map_err(|e| Failure::other(format!("cannot take over process {pid}: {e}")))?;
        if process_started(pid) != Some(old.pid_started) {
            return Err(Failure::new(
                code::STOPPED,
                format!("process {pid} is not the kernel any more"),
            ));
        }
        self.status.pid = Some(pid);
        self.status.pid_started = old.pid_started;
        (self.status.started, self.status.booted) = (old.started, old.booted);
        (self.status.login, self.status.ready) = (old.login, old.ready);
        self.status.restarts = old.restarts;
        self.status.state = match old.state {
            State::Starting | State::Paused => old.state,
            _ => State::Running,
        };
        self.kernel = Some(Running::Adopted(process));
        self.kernel_pipe = kept.remove(keep::LOG);
        super::recover::take(pid, &mut kept);
        let lost = if kept.is_empty() && !held_lines(&self.vm).is_empty() {
            "the holder was killed; its consoles are lost until the next start"
        } else {
            "the holder was killed"
        };
        // Those that are lost are made anew for the next start: this kernel does not have them.
        self.make_lines(&mut kept)?;
        self.record("adopt", lost);
        self.dir.save_status(&self.status)?;
        self.lend();
        Ok(())
    }

    /// Gives the daemon duplicates of what a next holder would need. Without one there is no next holder.
    pub(super) fn lend(&self) {
        let lines = self.lines.iter().map(|l| (l.name.as_str(), l.master.as_fd()));
        let log = self.kernel_pipe.iter().map(|p| (keep::LOG, p.as_fd()));
        if let Err(e) = keep::lend(&self.store, &self.dir.name, lines.chain(log))
            && !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        {
            eprintln!("the daemon does not take the consoles: {e}");
        }
    }

    fn launch(&mut self) -> Result {
        self.clear();
        let Kernel { child, log } = launch::launch(&self.dir, &self.vm, &self.lines)?;
        let pid = child.id() as i32;
        self.status.pid = Some(pid);
        self.status.pid_started = process_started(pid).unwrap_or_default();
        self.status.state = State::Starting;
        self.status.started = Some(now());
        (self.status.booted, self.status.login, self.status.ready) = (None, None, None);
        (self.status.ended, self.status.exit) = (None, None);
        self.status.reason.clear();
        self.status.last_messages.clear();
        self.kernel = Some(Running::Child(child));
        self.kernel_pipe = Some(log);
        self.panic_text = None;
        self.watchdog_at = None;
        self.dir.save_status(&self.status)?;
        self.lend();
        self.record("start", &format!("pid {pid}"));
        Ok(())
    }

    /// Removes the directory of a kernel that was killed. The next one would do so, unless it finds the process still
    /// there, as a zombie: then it would take a random name.
    fn clear(&self) {
        let left = self.store.uml.find(&self.dir.name);
        if let Some(i) = left.filter(|i| i.pid.is_some() && !crate::instance::is_alive(i)) {
            // What cannot be removed is the kernel's to complain of.
            let _ = std::fs::remove_dir_all(&i.directory);
        }
    }

    /// Host pid of the kernel.
    pub fn pid(&self) -> i32 {
        self.status.pid.unwrap_or_default()
    }

    fn record(&self, event: &str, detail: &str) {
        let text = format!("{event}{}{detail}", if detail.is_empty() { "" } else { ": " });
        let priority = if matches!(event, "panic" | "crash-loop" | "watchdog") { 3 } else { 6 };
        let in_journal = crate::journal::send(&self.dir.name, priority, &text);
        let line = format!("{} {text}", crate::cmd::events::stamp(now()));
        match &self.own_log {
            None => eprintln!("{line}"),
            Some(log) => {
                log.borrow_mut().append(format!("{line}\n").as_bytes());
                // The journal has it once, with its fields.
                if !in_journal {
                    eprintln!("{line}");
                }
            }
        }
        self.store.event(&Event {
            time: now(),
            name: self.dir.name.clone(),
            event: event.into(),
            detail: detail.into(),
        });
    }

    fn save(&self) {
        if let Err(e) = self.dir.save_status(&self.status) {
            eprintln!("{e}");
        }
    }

    /// Serves until the instance is down for good; the exit status.
    pub fn run(&mut self) -> u8 {
        while self.done.is_none() {
            let ready = match self.wait() {
                Ok(r) => r,
                Err(e) => {
                    eprintln!("poll: {e}");
                    break;
                }
            };
            self.round(ready);
        }
        for path in [self.dir.control(), self.dir.notify()] {
            let _ = std::fs::remove_file(path);
        }
        self.done.unwrap_or(code::FAILURE)
    }

    fn wait(&self) -> io::Result<Ready> {
        let input = PollFlags::POLLIN;
        let with = |out: bool| if out { input | PollFlags::POLLOUT } else { input };
        let mut list: Vec<(BorrowedFd<'_>, PollFlags, u8, usize)> = vec![
            (self.signals.as_fd(), input, 0, 0),
            (self.listener.as_fd(), input, 1, 0),
            (self.notifications.as_fd(), input, 2, 0),
        ];
        list.extend(self.kernel_pipe.as_ref().map(|p| (p.as_fd(), input, 3, 0)));
        let stopping = self.stopping.as_ref().filter(|s| !s.over);
        list.extend(stopping.map(|s| (s.progress.get_ref().as_fd(), input, 4, 0)));
        if let Some(Running::Adopted(p)) = &self.kernel {
            list.push((p.as_fd(), input, 5, 0));
        }
        let lines = self.lines.iter().enumerate();
        list.extend(lines.map(|(i, l)| (l.master.as_fd(), with(l.wants_write()), 6, i)));
        let clients = self.clients.iter().enumerate();
        list.extend(clients.map(|(i, c)| (c.stream.as_fd(), with(c.wants_write()), 7, i)));
        let mut fds: Vec<PollFd<'_>> = list.iter().map(|l| PollFd::new(l.0, l.1)).collect();
        let deadline = [self.again_at, self.watchdog_at].into_iter().flatten().min();
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(t) => {
                let left = t.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left.as_millis().min(1 << 30)).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut r = Ready::default();
        for (fd, (_, _, kind, index)) in fds.iter().zip(list.iter().copied()) {
            let events = fd.revents().unwrap_or(PollFlags::empty());
            if events.is_empty() {
                continue;
            }
            let readable = !(events - PollFlags::POLLOUT).is_empty();
            let writable = events.contains(PollFlags::POLLOUT);
            match kind {
                0 => r.signal = true,
                1 => r.listener = true,
                2 => r.notification = true,
                3 => r.pipe = true,
                4 => r.progress = true,
                5 => r.adopted = true,
                6 => r.lines.push((index, readable, writable)),
                _ => r.clients.push((index, readable, writable)),
            }
        }
        Ok(r)
    }

    fn round(&mut self, r: Ready) {
        for (i, readable, writable) in r.lines {
            if writable {
                self.lines[i].flush_input();
            }
            if readable {
                self.line_output(i);
            }
        }
        if r.pipe {
            self.kernel_output();
        }
        if r.notification {
            self.notification();
        }
        if r.progress {
            self.progress();
        }
        for (i, readable, writable) in r.clients {
            if writable {
                self.clients[i].flush();
            }
            if readable {
                self.clients[i].fill();
                self.serve(i);
            }
        }
        self.clients.retain(|c| !c.dead);
        if r.listener {
            self.accept();
        }
        if r.signal {
            self.signal();
        }
        if r.adopted {
            self.adopted_ended();
        }
        self.timers();
        // A peer that stopped reading is found out while others are served.
        self.clients.retain(|c| !c.dead);
    }

    fn timers(&mut self) {
        let now = Instant::now();
        if self.again_at.is_some_and(|t| t <= now) {
            self.again_at = None;
            self.status.restarts += 1;
            self.record("restart", &format!("number {}", self.status.restarts));
            if let Err(e) = self.launch() {
                self.status.reason = e.text.clone();
                self.finish(State::Failed, e.code);
            }
        }
        if self.watchdog_at.is_some_and(|t| t <= now) {
            self.watchdog_at = None;
            self.record("watchdog", "the guest did not report in time; it is killed");
            self.signal_kernel(rustix::process::Signal::KILL);
        }
    }

    fn signal_kernel(&self, s: rustix::process::Signal) {
        let sent = match self.status.pid.map(Process::open) {
            Some(Ok(p)) => p.signal(s),
            Some(Err(e)) => Err(e),
            None => return,
        };
        if let Err(e) = sent {
            eprintln!("signal to the kernel: {e}");
        }
    }

    fn console(&self) -> std::path::PathBuf {
        self.store.uml.path().join(&self.dir.name).join("mconsole")
    }

    fn signal(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(Signal::SIGHUP) | Err(_) => {}
                Ok(_) => {
                    if let Some(s) = &self.supervisor {
                        s.send("STOPPING=1");
                    }
                    self.begin_stop(None);
                }
            }
        }
    }
}

/// An error reply.
fn error(name: &str, code: u8, text: &str) -> Reply {
    Reply {
        error: Some(format!("{}.{name}", super::INTERFACE)),
        parameters: object(json!({"code": code, "text": text})),
        continues: false,
    }
}

/// What the guest says, safe for terminals and logs.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(512).collect()
}

/// Binds a socket whose name a dead holder may have left; we have the lock.
fn bind<T>(path: &std::path::Path, f: impl FnOnce(&std::path::Path) -> io::Result<T>) -> Result<T> {
    let _ = std::fs::remove_file(path);
    let short = SocketPath::new(path).at("cannot bind", path)?;
    f(short.as_path()).at("cannot bind", path)
}

fn check_name(store: &Store, name: &str, vm: &VmFile, adopt: bool) -> Result {
    let socket = store.uml.path().join(name).join("mconsole");
    if !vm.vm.is_built_in() && socket.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(Failure::new(
            code::UNAVAILABLE,
            format!(
                "{} is longer than the {MAX_SOCKET_PATH} bytes a socket of this kernel may have; use a shorter \
                 name or a shorter HOME",
                socket.display()
            ),
        ));
    }
    let running = store.uml.find(name).filter(crate::instance::is_alive);
    match running {
        Some(i) if !adopt => Err(Failure::new(
            code::BUSY,
            format!("instance \"{name}\" is running already, as pid {}", i.pid.unwrap_or_default()),
        )),
        _ => Ok(()),
    }
}
