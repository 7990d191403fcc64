//! The holder's event loop.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
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

use super::client::{Await, Client, Mode};
use super::launch::{self, Kernel};
use super::line::Line;
use super::policy::{Ended, Restarts, Verdict};
use crate::failure::{Context, Failure, Result, code};
use crate::process::Process;
use crate::spec::VmFile;
use crate::spec::cmdline::held_lines;
use crate::spec::vm::StopTimes;
use crate::state::{Dir, Event, LogFile, State, Status, Store, now, process_started};
use crate::stop::{self, Step};
use crate::wire::{Call, Frame, Reply, decode, decode_frame, object};
use crate::{mconsole, notify};

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
    pub fn start(store: Store, name: &str, adopt: Option<i32>) -> Result<Holder> {
        let dir = store.dir(name);
        let lock = dir.take_lock()?;
        let loaded = crate::spec::load(&dir.spec())?;
        let vm = loaded.vm;
        check_name(&store, name, &vm, adopt)?;
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
        // A terminal's hang-up must not reach us. Started by systemd we are a leader already.
        let _ = nix::unistd::setsid();
        let resources = launch::limit(&dir, &vm)?;
        let listener = bind(&dir.control(), |p| UnixListener::bind(p))?;
        listener.set_nonblocking(true).at("cannot use", &dir.control())?;
        let notifications = bind(&dir.notify(), |p| UnixDatagram::bind(p))?;
        notifications.set_nonblocking(true).at("cannot use", &dir.notify())?;
        let mut holder = Holder {
            kernel_log: LogFile::open(dir.log("kernel"), KERNEL_LOG_MAX)?,
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
            Some(pid) => holder.adopt(pid)?,
            None => {
                holder.make_lines()?;
                holder.launch()?;
            }
        }
        Ok(holder)
    }

    fn make_lines(&mut self) -> Result {
        for (family, n) in held_lines(&self.vm) {
            let name = format!("{family}{n}");
            let spec = self.vm.console.iter().find(|c| c.id.as_deref() == Some(&name));
            let wanted = spec.is_none_or(|c| c.log != Some(false));
            let max = spec.and_then(|c| c.log_max).map_or(16 << 20, |s| s.0);
            let log = if wanted { Some(LogFile::open(self.dir.log(&name), max)?) } else { None };
            let line = Line::new(name.clone(), log).map_err(|e| {
                Failure::new(code::UNAVAILABLE, format!("no pseudo-terminal for {name}: {e}"))
            })?;
            self.lines.push(line);
            self.status.lines.push(name);
        }
        Ok(())
    }

    fn adopt(&mut self, pid: i32) -> Result {
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
        self.status.state = State::Running;
        self.kernel = Some(Running::Adopted(process));
        self.record("adopt", "the holder was killed; its consoles are lost until the next start");
        self.dir.save_status(&self.status)
    }

    fn launch(&mut self) -> Result {
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
        self.record("start", &format!("pid {pid}"));
        self.dir.save_status(&self.status)
    }

    /// Host pid of the kernel.
    pub fn pid(&self) -> i32 {
        self.status.pid.unwrap_or_default()
    }

    fn record(&self, event: &str, detail: &str) {
        let text = format!("{event}{}{detail}", if detail.is_empty() { "" } else { ": " });
        eprintln!("{} {text}", crate::cmd::events::stamp(now()));
        let priority = if matches!(event, "panic" | "crash-loop" | "watchdog") { 3 } else { 6 };
        crate::journal::send(&self.dir.name, priority, &text);
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
            self.kernel = None;
            self.ended(Ended::Unseen);
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

    fn line_output(&mut self, i: usize) {
        // A guest that prints without end must not keep others waiting.
        for _ in 0..16 {
            let Some((bytes, login)) = self.lines[i].read() else { return };
            for c in &mut self.clients {
                if matches!(c.mode, Mode::Viewer { line, .. } if line == i) {
                    c.frame(&Frame::Data(bytes.clone()));
                }
            }
            if login && self.status.login.is_none() {
                self.status.login = Some(now());
                self.record("login", &self.lines[i].name.clone());
                self.booted();
                self.save();
                self.tell(Await::Login);
            }
        }
    }

    fn kernel_output(&mut self) {
        let mut chunk = [0; 16 << 10];
        for _ in 0..16 {
            let Some(pipe) = &self.kernel_pipe else { return };
            let n = match nix::unistd::read(pipe, &mut chunk) {
                Ok(0) => {
                    self.kernel_pipe = None;
                    return;
                }
                Ok(n) => n,
                Err(_) => return,
            };
            self.kernel_log.append(&chunk[..n]);
            self.log_tail.extend_from_slice(&chunk[..n]);
            let started = self.log_tail.windows(15).any(|w| w == b"as init process")
                && self.status.booted.is_none();
            let excess = self.log_tail.len().saturating_sub(16 << 10);
            self.log_tail.drain(..excess);
            if started {
                self.booted();
            }
        }
    }

    /// The guest's init runs.
    fn booted(&mut self) {
        if self.status.booted.is_some() {
            return;
        }
        self.status.booted = Some(now());
        if self.status.state == State::Starting {
            self.status.state = State::Running;
        }
        let took = self.status.booted.unwrap_or(0.0) - self.status.started.unwrap_or(0.0);
        self.record("boot", &format!("after {took:.3} s"));
        self.save();
        if let Some(s) = &self.supervisor {
            s.send(&format!("READY=1\nSTATUS=running, kernel pid {}", self.pid()));
        }
        self.tell(Await::Boot);
    }

    /// Whether the kernel's log shows when init is started; otherwise its readiness must do.
    fn log_is_quiet(&self) -> bool {
        let words = self.vm.vm.cmdline.as_deref().unwrap_or_default();
        words.split_whitespace().any(|w| w == "quiet" || w.starts_with("loglevel="))
    }

    fn notification(&mut self) {
        let mut buf = [0; 4096];
        while let Ok(n) = self.notifications.recv(&mut buf) {
            let Ok(m) = Notification::decode(&buf[..n]) else { continue };
            let text = printable(&m.text());
            match m.kind {
                NotificationKind::Socket if self.log_is_quiet() => self.booted(),
                NotificationKind::Panic => {
                    self.record("panic", &text);
                    self.panic_text = Some(text);
                }
                NotificationKind::User => self.user_message(&text),
                _ => {}
            }
        }
    }

    fn user_message(&mut self, text: &str) {
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.iter().any(|w| *w == "READY=1" || *w == "ready") {
            if self.status.ready.is_none() {
                self.status.ready = Some(now());
                self.record("ready", "");
                self.booted();
                self.save();
                self.tell(Await::Ready);
            }
        } else if words.iter().any(|w| *w == "WATCHDOG=1" || *w == "watchdog") {
            self.watchdog_at = self.vm.service.watchdog.map(|t| Instant::now() + t.0);
        } else {
            self.record("message", text);
        }
    }

    /// Answers those who wait for `what`.
    fn tell(&mut self, what: Await) {
        let reply = Reply { parameters: object(json!(self.status)), ..Reply::default() };
        for c in self.clients.iter_mut().filter(|c| c.mode == Mode::Waits(what)) {
            c.mode = Mode::Calls;
            c.reply(&reply);
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let peer = getsockopt(&stream, PeerCredentials);
            let me = nix::unistd::geteuid().as_raw();
            let allowed = peer.is_ok_and(|p| p.uid() == me || p.uid() == 0);
            let Ok(mut c) = Client::new(stream) else { continue };
            if !allowed {
                c.reply(&error("PermissionDenied", code::PERMISSION, "only the owner may connect"));
                continue;
            }
            self.clients.push(c);
        }
    }

    fn serve(&mut self, i: usize) {
        loop {
            let c = &mut self.clients[i];
            if let Mode::Viewer { line, watch } = c.mode {
                match decode_frame(&mut c.input) {
                    Ok(Some(f)) => self.typed(i, line, watch, f),
                    Ok(None) => return,
                    Err(_) => return c.dead = true,
                }
                continue;
            }
            match decode::<Call>(&mut c.input) {
                Ok(Some(call)) => self.call(i, &call),
                Ok(None) => return,
                Err(e) => {
                    c.reply(&error("InvalidMessage", code::USAGE, &e));
                    c.closing = true;
                    return c.flush();
                }
            }
        }
    }

    fn typed(&mut self, i: usize, line: usize, watch: bool, f: Frame) {
        match f {
            Frame::Data(d) if !watch && !self.lines[line].type_in(&d) => {
                let text = "\r\n[the guest does not read; input dropped]\r\n";
                self.clients[i].frame(&Frame::Data(text.into()));
            }
            Frame::Resize(rows, cols)
                if !watch
                    && rows > 0
                    && cols > 0
                    && self.lines[line].resize(rows, cols).is_ok() =>
            {
                // The kernel reads the sizes of all its lines then.
                self.signal_kernel(rustix::process::Signal::WINCH);
            }
            _ => {}
        }
    }

    fn call(&mut self, i: usize, call: &Call) {
        let method = call.method.rsplit('.').next().unwrap_or_default();
        let text =
            |k: &str| call.parameters.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
        let ok = Reply { parameters: object(json!(self.status)), ..Reply::default() };
        let answer = match method {
            "Status" => ok,
            "Wait" => match self.waiting(&text("for")) {
                Some(None) => ok,
                Some(Some(what)) => return self.clients[i].mode = Mode::Waits(what),
                None => error(
                    "InvalidParameter",
                    code::USAGE,
                    "for: expected boot, login, ready or exit",
                ),
            },
            "Stop" => {
                let times = call.parameters.get("times").cloned();
                let times = times.and_then(|t| serde_json::from_value(t).ok());
                self.clients[i].mode = Mode::Stops;
                return self.begin_stop(times);
            }
            "Pause" | "Resume" => self.pause(method == "Pause"),
            "Attach" => {
                let number =
                    |k: &str| call.parameters.get(k).and_then(Value::as_u64).unwrap_or(0) as u16;
                let watch = call.parameters.get("watch").and_then(Value::as_bool).unwrap_or(false);
                return self.attach(i, &text("line"), watch, number("rows"), number("cols"));
            }
            m => error("MethodNotFound", code::USAGE, &format!("no method {m}")),
        };
        self.clients[i].reply(&answer);
    }

    /// None: no such thing. Some(None): it has happened.
    fn waiting(&self, what: &str) -> Option<Option<Await>> {
        let (what, at) = match what {
            "boot" => (Await::Boot, self.status.booted),
            "login" => (Await::Login, self.status.login),
            "ready" => (Await::Ready, self.status.ready),
            "exit" => (Await::Exit, None),
            _ => return None,
        };
        Some(if at.is_some() { None } else { Some(what) })
    }

    fn attach(&mut self, i: usize, name: &str, watch: bool, rows: u16, cols: u16) {
        let name =
            if name.is_empty() { self.lines.first().map_or("con0", |l| &l.name) } else { name };
        let Some(line) = self.lines.iter().position(|l| l.name == name) else {
            let held: Vec<&str> = self.lines.iter().map(|l| l.name.as_str()).collect();
            let known = if held.is_empty() { "none".into() } else { held.join(", ") };
            let text = format!("line {name} is not held by umld; held are: {known}");
            return self.clients[i].reply(&error("NoSuchLine", code::FAILURE, &text));
        };
        let scroll = self.lines[line].scroll_back();
        let c = &mut self.clients[i];
        c.reply(&Reply { parameters: object(json!({"line": name})), ..Reply::default() });
        for part in scroll.chunks(crate::wire::MAX_FRAME) {
            c.frame(&Frame::Data(part.to_vec()));
        }
        c.mode = Mode::Viewer { line, watch };
        self.typed(i, line, watch, Frame::Resize(rows, cols));
    }

    fn pause(&mut self, pause: bool) -> Reply {
        let socket = self.console();
        let command = if pause { "stop" } else { "go" };
        match mconsole::request(&socket, command) {
            Ok(_) => {
                self.status.state = if pause { State::Paused } else { State::Running };
                self.record(if pause { "pause" } else { "resume" }, "");
                self.save();
                Reply { parameters: object(json!(self.status)), ..Reply::default() }
            }
            Err(e) => error("Refused", e.code, &e.text),
        }
    }

    fn console(&self) -> std::path::PathBuf {
        self.store.uml.path().join(&self.dir.name).join("mconsole")
    }

    fn begin_stop(&mut self, times: Option<StopTimes>) {
        if self.stopping.is_some() {
            return;
        }
        let Some(pid) = self.status.pid else {
            // Between two restarts there is nothing to stop.
            self.again_at = None;
            self.status.reason = "stopped while waiting for a restart".into();
            return self.finish(State::Stopped, 0);
        };
        self.status.state = State::Stopping;
        self.save();
        let times = times.unwrap_or(self.vm.stop.times());
        let socket = self.console();
        let begun = UnixStream::pair().and_then(|(ours, theirs)| {
            ours.set_nonblocking(true)?;
            let process = Process::open(pid)?;
            std::thread::Builder::new().name("stop".into()).spawn(move || {
                let mut theirs = theirs;
                let mut say = |v: Value| {
                    // In one piece: the reader does not put lines together.
                    let _ = theirs.write_all(format!("{v}\n").as_bytes());
                };
                let worked = stop::stop(&process, Some(&socket), &times, &mut |step, problem| {
                    say(json!({"step": step, "problem": problem}));
                });
                if worked.is_none() {
                    say(json!({"gave_up": true}));
                }
            })?;
            Ok(ours)
        });
        match begun {
            Ok(ours) => {
                self.stopping =
                    Some(Stopping { progress: BufReader::new(ours), last: None, over: false });
            }
            // It ended just now; its SIGCHLD is on the way.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                let reply = error("CannotStop", code::FAILURE, &e.to_string());
                self.stopped_clients(&reply);
            }
        }
    }

    fn stopped_clients(&mut self, reply: &Reply) {
        for c in self.clients.iter_mut().filter(|c| c.mode == Mode::Stops) {
            c.mode = Mode::Calls;
            c.reply(reply);
        }
    }

    fn progress(&mut self) {
        loop {
            let Some(s) = &mut self.stopping else { return };
            let mut text = String::new();
            match s.progress.read_line(&mut text) {
                Ok(0) => return s.over = true,
                Ok(_) => {}
                Err(_) => return,
            }
            let Ok(v) = serde_json::from_str::<Value>(&text) else { continue };
            if v.get("gave_up").is_some() {
                self.stopping = None;
                self.status.state = State::Running;
                self.save();
                let text = "not even SIGKILL ended the kernel process in time";
                return self.stopped_clients(&error("CannotStop", code::TIMEOUT, text));
            }
            let step: Option<Step> =
                v.get("step").and_then(|s| serde_json::from_value(s.clone()).ok());
            let problem = v.get("problem").and_then(Value::as_str).map(str::to_owned);
            if let Some(step) = step {
                if problem.is_none() {
                    s.last = Some(step);
                }
                self.record(
                    "stop",
                    &format!(
                        "{}{}",
                        step.name(),
                        problem.map_or(String::new(), |p| format!(": {p}"))
                    ),
                );
            }
            let reply = Reply { parameters: object(v), continues: true, error: None };
            for c in self.clients.iter_mut().filter(|c| c.mode == Mode::Stops) {
                c.reply(&reply);
            }
        }
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

    fn reap(&mut self) {
        let Some(Running::Child(child)) = &mut self.kernel else { return };
        match child.try_wait() {
            Ok(Some(status)) => {
                self.kernel = None;
                let ended = match (status.code(), status.signal()) {
                    (Some(n), _) => Ended::Exit(n),
                    (None, Some(n)) => Ended::Signal(n),
                    (None, None) => Ended::Unseen,
                };
                self.ended(ended);
            }
            Ok(None) => {}
            Err(e) => eprintln!("wait for the kernel: {e}"),
        }
    }

    /// The kernel process is gone.
    fn ended(&mut self, ended: Ended) {
        self.kernel_output();
        self.notification();
        for i in 0..self.lines.len() {
            self.line_output(i);
        }
        if let Some(s) = &self.stopping {
            // The kernel may be gone before the stop's thread has said by which step; it says so at once.
            let socket = s.progress.get_ref();
            let _ = socket
                .set_nonblocking(false)
                .and_then(|()| socket.set_read_timeout(Some(LAST_STEP)));
        }
        self.progress();
        self.kernel_pipe = None;
        self.watchdog_at = None;
        let asked = self.stopping.take();
        let asked_for = asked.is_some() || self.status.state == State::Stopping;
        let step = asked.and_then(|s| s.last);
        self.status.pid = None;
        self.status.ended = Some(now());
        self.status.exit = ended.status();
        let panicked = self.panic_text.is_some() || ended == Ended::Signal(libc::SIGABRT);
        self.status.reason = match (step, ended) {
            _ if panicked => {
                let text = self.panic_text.clone().or_else(|| self.panic_in_log());
                format!("kernel panic: {}", text.unwrap_or("no message".into()))
            }
            (Some(s), _) => s.worked(),
            (None, Ended::Exit(0)) => "powered off by the guest".into(),
            (None, Ended::Exit(n)) => format!("ended with status {n}"),
            (None, Ended::Signal(n)) => format!("ended by signal {n}"),
            (None, Ended::Unseen) => "ended unobserved".into(),
        };
        let never_up = self.status.booted.is_none() && !asked_for;
        let failed = (panicked || ended.is_failure() || never_up) && !asked_for;
        if failed {
            self.status.last_messages = self.last_words();
        }
        self.record("exit", &self.status.reason.clone());
        let verdict = if asked_for || never_up && self.status.restarts == 0 {
            Verdict::Stay
        } else {
            self.restarts.decide(ended, Instant::now())
        };
        match verdict {
            Verdict::Again(after) => {
                self.status.state = State::Restarting;
                self.again_at = Some(Instant::now() + after);
                self.save();
            }
            Verdict::Stay | Verdict::CrashLoop => {
                if verdict == Verdict::CrashLoop {
                    let text = format!("crash loop, given up: {}", self.status.reason);
                    self.record("crash-loop", &text);
                    self.status.reason = text;
                }
                let status = match ended.status() {
                    _ if asked_for => 0,
                    _ if panicked => code::PANIC,
                    _ if never_up => code::FAILURE,
                    Some(n) => u8::try_from(n).unwrap_or(code::FAILURE),
                    None => code::FAILURE,
                };
                self.finish(if failed { State::Failed } else { State::Stopped }, status);
            }
        }
    }

    /// The last messages; around the panic's own when there is one, because a stack dump follows it.
    fn last_words(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.log_tail);
        let lines: Vec<String> =
            text.lines().filter(|l| !l.trim().is_empty()).map(printable).collect();
        let panic = lines.iter().rposition(|l| l.contains("Kernel panic"));
        let end = panic.map_or(lines.len(), |p| p + 1);
        lines[end.saturating_sub(LAST_WORDS)..end].to_vec()
    }

    fn panic_in_log(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.log_tail);
        let line = text.lines().rev().find_map(|l| l.split_once("Kernel panic - not syncing: "));
        line.map(|(_, t)| printable(t))
    }

    /// It is down for good.
    fn finish(&mut self, state: State, status: u8) {
        self.status.state = state;
        self.status.holder = None;
        self.save();
        let parameters = object(json!(self.status));
        let ok = Reply { parameters: parameters.clone(), ..Reply::default() };
        let mut bad = Reply { parameters, ..error("Ended", 0, "") };
        bad.parameters
            .insert("code".into(), json!(if status == 0 { code::STOPPED } else { status }));
        let mut text = format!("instance \"{}\" {}", self.dir.name, self.status.reason);
        for l in &self.status.last_messages {
            text += &format!("\n  {l}");
        }
        bad.parameters.insert("text".into(), json!(text));
        let reason = self.status.reason.clone();
        for c in &mut self.clients {
            match c.mode {
                Mode::Stops | Mode::Waits(Await::Exit) => c.reply(&ok),
                Mode::Waits(_) => c.reply(&bad),
                Mode::Viewer { .. } => c.frame(&Frame::End(reason.clone())),
                Mode::Calls => {}
            }
            // The last words reach even those who are slow, for a moment.
            let _ = c.stream.set_nonblocking(false);
            let _ = c.stream.set_write_timeout(Some(Duration::from_millis(500)));
            c.flush();
        }
        self.done = Some(status);
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

fn check_name(store: &Store, name: &str, vm: &VmFile, adopt: Option<i32>) -> Result {
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
    let running =
        store.uml.list().unwrap_or_default().into_iter().find(|i| i.umid == name && i.alive);
    match running {
        Some(i) if adopt.is_none() => Err(Failure::new(
            code::BUSY,
            format!("instance \"{name}\" is running already, as pid {}", i.pid.unwrap_or_default()),
        )),
        _ => Ok(()),
    }
}
