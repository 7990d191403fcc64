//! The running switch: one thread that waits for its sockets and moves frames.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use uml_formats::strerror;
use uml_formats::switch::{Address, MAX_FRAME, MAX_REQUEST, Parsed, RequestError, parse};
use uml_host::frames::Received;
use uml_host::tap::{self, TapError};

use crate::args::Options;
use crate::capture::Capture;
use crate::engine::{Engine, PortId};
use crate::listen::{self, Bound};
use crate::manage::{self, Answer, Command, PortStatus, Question, StationStatus, Status};
use crate::port::{self, Link, Outgoing, Port, Sent};
use crate::say::Say;
use crate::vlan::Membership;

/// Frames taken from one port before the next gets its turn.
const BATCH: usize = 32;
/// A tagged frame is longer than an untagged one by this.
const TAG_ALLOWANCE: usize = 4;
/// How often addresses that were not seen are dropped, and captures reach their files.
const SWEEP: Duration = Duration::from_secs(2);
/// Messages about single frames that are printed in a second.
const CHAT_PER_SECOND: u64 = 50;
/// Connections that have not asked for a port yet; further ones wait in the host's queue.
const MAX_PENDING: usize = 256;

/// Connections that are being asked about.
struct Pending {
    stream: UnixStream,
    request: Vec<u8>,
    membership: Membership,
    /// Refused without an answer, but left open, as the protocol has it for versions after 3.
    ignored: bool,
}

/// A control socket.
struct Control {
    listener: UnixListener,
    membership: Membership,
}

/// What a ready descriptor is.
#[derive(Clone, Copy)]
enum Source {
    Listener(usize),
    /// Control connection, with or without a port.
    Control,
    Data(PortId),
    Shared,
    Signals,
    Commands,
    Stdin,
}

/// Why the switch ends.
pub enum End {
    Signal(Signal),
    Eof,
}

/// Sockets that are open, before the loop runs.
pub struct Setup {
    controls: Vec<Control>,
    paths: Vec<Bound>,
    compat: Option<(UnixDatagram, Bound)>,
    management: Option<(UnixListener, Bound)>,
}

/// Opens the sockets. Errors are messages for the user. `passed` are listening sockets of a service manager, used
/// instead of the first control socket.
pub fn set_up(options: &Options, passed: Vec<(String, OwnedFd)>) -> Result<Setup, String> {
    let mut setup =
        Setup { controls: Vec::new(), paths: Vec::new(), compat: None, management: None };
    let activated = !passed.is_empty();
    for (_, fd) in passed {
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(true).map_err(|e| format!("passed socket: {}", strerror(&e)))?;
        setup.controls.push(Control { listener, membership: Membership::default() });
    }
    let first = (!activated).then(|| (options.control.clone(), Membership::default()));
    let further = options.listen.iter().map(|l| (l.path.clone(), l.membership.clone()));
    for (path, membership) in first.into_iter().chain(further) {
        let (listener, bound) = listen::stream(&path)?;
        setup.controls.push(Control { listener, membership });
        setup.paths.push(bound);
    }
    if let Some(path) = &options.compat_data {
        setup.compat = Some(listen::datagram(path)?);
    }
    match listen::stream(&manage::socket_path(&options.control)) {
        Ok((listener, bound)) => {
            listener.set_nonblocking(false).map_err(|e| strerror(&e))?;
            setup.management = Some((listener, bound));
        }
        // Switching needs no management: a directory that allows only the control socket will do.
        Err(reason) => eprintln!("{reason}\n--status will not work"),
    }
    Ok(setup)
}

/// The switch with its sockets.
pub struct Switch {
    engine: Engine,
    ports: BTreeMap<PortId, Port>,
    pending: BTreeMap<i32, Pending>,
    controls: Vec<Control>,
    epoll: Epoll,
    sources: BTreeMap<i32, Source>,
    shared: Option<(Rc<UnixDatagram>, Address)>,
    shared_senders: BTreeMap<Vec<u8>, PortId>,
    signals: SignalFd,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    say: Say,
    started: Instant,
    accepting: bool,
    chat_since: Instant,
    chat_count: u64,
    control_paths: Vec<std::path::PathBuf>,
    /// Removed when the switch ends.
    paths: Vec<Bound>,
    program: String,
}

fn host_error(what: &str) -> impl Fn(Errno) -> String + '_ {
    move |e| format!("{what}: {}", e.desc())
}

impl Switch {
    /// Starts the threads and registers everything. Called after the process went to the background.
    pub fn start(program: &str, options: &Options, setup: Setup) -> Result<Switch, String> {
        raise_descriptor_limit();
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGTERM);
        mask.thread_block().map_err(host_error("sigprocmask"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(host_error("signalfd"))?;
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(host_error("eventfd"))?;
        let wake = Arc::new(wake);
        let (send_command, commands) = channel();
        let mut paths = setup.paths;
        let control_paths = paths.iter().map(|p| p.path().to_owned()).collect();
        if let Some((listener, bound)) = setup.management {
            paths.push(bound);
            let wake = wake.clone();
            std::thread::Builder::new()
                .name("management".into())
                .spawn(move || manage::serve(listener, send_command, wake))
                .map_err(|e| format!("thread: {}", strerror(&e)))?;
        }
        let shared = match setup.compat {
            None => None,
            Some((socket, bound)) => {
                let path = options.compat_data.as_deref().unwrap_or(bound.path());
                let address = Address::from_path(path).ok_or_else(|| {
                    format!("data socket '{}': the path is too long", path.display())
                })?;
                paths.push(bound);
                Some((Rc::new(socket), address))
            }
        };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(host_error("epoll"))?;
        let say = Say::start().map_err(|e| format!("thread: {}", strerror(&e)))?;
        let mut switch = Switch {
            engine: Engine::new(options.hub),
            ports: BTreeMap::new(),
            pending: BTreeMap::new(),
            controls: setup.controls,
            epoll,
            sources: BTreeMap::new(),
            shared,
            shared_senders: BTreeMap::new(),
            signals,
            commands,
            wake,
            say,
            started: Instant::now(),
            accepting: false,
            chat_since: Instant::now(),
            chat_count: 0,
            control_paths,
            paths,
            program: program.to_owned(),
        };
        switch.register(options).map_err(host_error("epoll"))?;
        Ok(switch)
    }

    fn register(&mut self, options: &Options) -> Result<(), Errno> {
        self.accept_more(true)?;
        watch(&self.epoll, &mut self.sources, self.signals.as_fd(), Source::Signals)?;
        watch(&self.epoll, &mut self.sources, self.wake.as_fd(), Source::Commands)?;
        if let Some((socket, _)) = &self.shared {
            watch(&self.epoll, &mut self.sources, socket.as_fd(), Source::Shared)?;
        }
        let stdin = io::stdin();
        if !options.daemon && nix::unistd::isatty(&stdin).unwrap_or(false) {
            watch(&self.epoll, &mut self.sources, stdin.as_fd(), Source::Stdin)?;
        }
        let classic = options.tap.iter().map(|name| (name.clone(), Membership::default()));
        let further = options.taps.iter().map(|t| (t.name.clone(), t.membership.clone()));
        for (name, membership) in classic.chain(further) {
            match tap::open(&name, 0) {
                Ok(file) => self.add_tap(file, name, membership)?,
                Err(TapError::Open(e)) => {
                    self.say.err(format!("Failed to open /dev/net/tun: {}", strerror(&e)));
                }
                Err(TapError::SetInterface(e)) => {
                    self.say.err(format!("TUNSETIFF failed: {} ({name})", strerror(&e)));
                }
                Err(TapError::Name) => {
                    self.say
                        .err(format!("TUNSETIFF failed: '{name}' is not a name of 1 to 15 bytes"));
                }
            }
        }
        Ok(())
    }

    fn accept_more(&mut self, on: bool) -> Result<(), Errno> {
        if self.accepting == on {
            return Ok(());
        }
        for (n, c) in self.controls.iter().enumerate() {
            if on {
                watch(&self.epoll, &mut self.sources, c.listener.as_fd(), Source::Listener(n))?;
            } else {
                self.epoll.delete(&c.listener)?;
                self.sources.remove(&c.listener.as_raw_fd());
            }
        }
        self.accepting = on;
        Ok(())
    }

    fn add_tap(&mut self, file: File, name: String, membership: Membership) -> Result<(), Errno> {
        let id = file.as_raw_fd();
        watch(&self.epoll, &mut self.sources, file.as_fd(), Source::Data(id))?;
        self.ports.insert(id, Port::new(Link::Tap { file, name }, 0, None, 0));
        self.engine.set_port(id, membership);
        Ok(())
    }

    /// Serves until a signal or the end of the terminal.
    pub fn run(&mut self) -> Result<End, String> {
        let mut batch = Received::new(BATCH, MAX_FRAME + TAG_ALLOWANCE);
        let mut events = [EpollEvent::empty(); 64];
        let mut next_sweep = Instant::now() + SWEEP;
        loop {
            // Nothing to age and nothing to write: no reason to wake up.
            let idle =
                self.engine.fdb.is_empty() && self.ports.values().all(|p| p.capture.is_none());
            let timeout = if idle {
                EpollTimeout::NONE
            } else {
                let left = next_sweep.saturating_duration_since(Instant::now());
                EpollTimeout::try_from(left + Duration::from_millis(1))
                    .unwrap_or(EpollTimeout::ZERO)
            };
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(Errno::EINTR) => 0,
                Err(e) => return Err(host_error("epoll_wait")(e)),
            };
            let now = Instant::now();
            for event in &events[..ready] {
                let fd = event.data() as i32;
                // A descriptor closed earlier in this round has no source any more.
                let Some(source) = self.sources.get(&fd).copied() else { continue };
                if let Some(end) = self.handle(fd, source, event.events(), now, &mut batch)? {
                    return Ok(end);
                }
            }
            if now >= next_sweep {
                self.engine.fdb.sweep(now);
                self.flush_captures();
                next_sweep = now + SWEEP;
            }
        }
    }

    fn handle(
        &mut self,
        fd: i32,
        source: Source,
        ready: EpollFlags,
        now: Instant,
        batch: &mut Received,
    ) -> Result<Option<End>, String> {
        match source {
            Source::Listener(n) => self.accept(n),
            Source::Control => self.control_ready(fd),
            Source::Data(port) => self.data_ready(port, ready, now, batch),
            Source::Shared => self.shared_ready(now, batch),
            Source::Commands => {
                // The count does not matter: all questions are answered.
                let _ = self.wake.read();
                while let Ok(command) = self.commands.try_recv() {
                    let answer = self.answer(command.question, now);
                    // The client may have left.
                    let _ = command.answer.send(answer);
                }
            }
            Source::Signals => {
                if let Ok(Some(info)) = self.signals.read_signal() {
                    let signal = Signal::try_from(info.ssi_signo as i32).unwrap_or(Signal::SIGTERM);
                    return Ok(Some(End::Signal(signal)));
                }
            }
            Source::Stdin => {
                let mut text = [0; 128];
                match io::stdin().read(&mut text) {
                    // What is typed has no meaning.
                    Ok(n) if n > 0 && !ready.contains(EpollFlags::EPOLLHUP) => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    _ => return Ok(Some(End::Eof)),
                }
            }
        }
        Ok(None)
    }

    fn accept(&mut self, listener: usize) {
        let Some(control) = self.controls.get(listener) else { return };
        let membership = control.membership.clone();
        match control.listener.accept() {
            Ok((stream, _)) => {
                let fd = stream.as_raw_fd();
                let ok = stream.set_nonblocking(true).is_ok()
                    && watch(&self.epoll, &mut self.sources, stream.as_fd(), Source::Control)
                        .is_ok();
                if ok {
                    let p = Pending { stream, request: Vec::new(), membership, ignored: false };
                    self.pending.insert(fd, p);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => self.say.err(format!("accept: {}", strerror(&e))),
        }
        if self.pending.len() >= MAX_PENDING && self.accept_more(false).is_err() {
            self.say.err("too many connections without a port");
        }
    }

    fn control_ready(&mut self, fd: i32) {
        if self.pending.contains_key(&fd) {
            return self.pending_ready(fd);
        }
        let Some(port) = self.ports.get_mut(&fd) else { return };
        let control = match &port.link {
            Link::Client { control, .. } | Link::Shared { control, .. } => control,
            Link::Tap { .. } => return,
        };
        let mut bytes = [0; 4];
        match nix::unistd::read(control, &mut bytes) {
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Ok(n) if n > 0 && n <= port.padding => {
                port.padding -= n;
                return;
            }
            Ok(n) if n > 0 => self.say.out("Bad request"),
            _ => self.say.out("Disconnect"),
        }
        self.remove_port(fd);
    }

    fn drop_pending(&mut self, fd: i32) -> Option<Pending> {
        let p = self.pending.remove(&fd)?;
        if self.accept_more(true).is_err() {
            self.say.err("control sockets cannot be watched any more");
        }
        Some(p)
    }

    /// Closes a connection that never became a port.
    fn refuse(&mut self, fd: i32) {
        self.say.err(format!("No port associated with descriptor {fd}"));
        if let Some(p) = self.drop_pending(fd) {
            unwatch(&self.epoll, &mut self.sources, p.stream.as_fd());
        }
    }

    fn pending_ready(&mut self, fd: i32) {
        let Some(p) = self.pending.get_mut(&fd) else { return };
        let mut buf = [0; MAX_REQUEST];
        match (&p.stream).read(&mut buf) {
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                return;
            }
            Ok(n) if n > 0 && !p.ignored => p.request.extend_from_slice(&buf[..n]),
            Ok(n) if n > 0 => return,
            _ => {
                self.say.out("EOF from new port");
                return self.refuse(fd);
            }
        }
        match parse(&p.request) {
            Parsed::Incomplete => {}
            Parsed::Refused(RequestError::Version2) => {
                self.say.err("Version 2 is not supported");
                self.refuse(fd);
            }
            Parsed::Refused(RequestError::Future(n)) => {
                p.ignored = true;
                p.request = Vec::new();
                self.say.err(format!(
                    "Request for a version {n} port, which this uml_switch doesn't support"
                ));
            }
            Parsed::Refused(RequestError::Type(n)) => {
                self.say.out(format!("Bad request type : {n}"));
                self.refuse(fd);
            }
            Parsed::Refused(RequestError::Family) => {
                self.say.err("Request with an address that is not a Unix socket's");
                self.refuse(fd);
            }
            Parsed::Request(request, used) => {
                let extra = p.request.len() > used;
                // The padding of a version 3 request may come by itself.
                let padding = if request.version == 3 { MAX_REQUEST - used } else { 0 };
                self.open_port(fd, request.version, request.address, padding);
                if extra {
                    self.say.out("Bad request");
                    self.remove_port(fd);
                }
            }
        }
    }

    fn open_port(&mut self, fd: i32, version: u32, client: Address, padding: usize) {
        let Some(Pending { stream, membership, .. }) = self.drop_pending(fd) else { return };
        let data = match &self.shared {
            Some((socket, address)) => Ok((None, socket.clone(), *address)),
            None => port::data_socket(&client)
                .map(|(socket, own, connected)| (Some(connected), Rc::new(socket), own)),
        };
        let (connected, data, address) = match data {
            Ok(d) => d,
            Err(e) => {
                self.say.err(format!("data socket for descriptor {fd}: {}", strerror(&e)));
                return unwatch(&self.epoll, &mut self.sources, stream.as_fd());
            }
        };
        if version != 0
            && let Err(e) = (&stream).write_all(&address.encode())
        {
            self.say.err(format!("Sending data socket name: {}", strerror(&e)));
            return unwatch(&self.epoll, &mut self.sources, stream.as_fd());
        }
        let pid = getsockopt(&stream, PeerCredentials).ok().map(|c| c.pid());
        let control = OwnedFd::from(stream);
        let link = match connected {
            Some(connected) => {
                let watched = watch(&self.epoll, &mut self.sources, data.as_fd(), Source::Data(fd));
                if let Err(e) = watched {
                    self.say.err(host_error("epoll")(e));
                    return unwatch(&self.epoll, &mut self.sources, control.as_fd());
                }
                Link::Client { control, data, address: client, connected }
            }
            None => {
                self.shared_senders.insert(client.key().to_vec(), fd);
                Link::Shared { control, data, address: client }
            }
        };
        self.ports.insert(fd, Port::new(link, version, pid, padding));
        self.engine.set_port(fd, membership);
        self.say.out("New connection");
    }

    fn remove_port(&mut self, id: PortId) {
        self.engine.remove_port(id);
        let Some(port) = self.ports.remove(&id) else { return };
        match &port.link {
            Link::Client { control, data, .. } => {
                unwatch(&self.epoll, &mut self.sources, control.as_fd());
                unwatch(&self.epoll, &mut self.sources, data.as_fd());
            }
            Link::Shared { control, address, .. } => {
                unwatch(&self.epoll, &mut self.sources, control.as_fd());
                if self.shared_senders.get(address.key()) == Some(&id) {
                    self.shared_senders.remove(address.key());
                }
            }
            Link::Tap { file, .. } => unwatch(&self.epoll, &mut self.sources, file.as_fd()),
        }
    }

    fn data_ready(&mut self, id: PortId, ready: EpollFlags, now: Instant, batch: &mut Received) {
        let Some(port) = self.ports.get_mut(&id) else { return };
        if ready.contains(EpollFlags::EPOLLOUT) && port.is_blocked() {
            let result = port.resume();
            if result != Sent::Blocked {
                self.wait_for(id, EpollFlags::EPOLLIN);
            }
            self.tell_failure(id, result, now);
        }
        let Some(port) = self.ports.get_mut(&id) else { return };
        if matches!(port.link, Link::Tap { .. }) {
            let mut frames: Vec<Vec<u8>> = Vec::new();
            let mut buf = [0; MAX_FRAME + TAG_ALLOWANCE];
            while frames.len() < BATCH {
                match port.read_tap(&mut buf) {
                    Ok(Some(n)) => frames.push(buf[..n].to_vec()),
                    Ok(None) => break,
                    Err(e) => {
                        let text =
                            format!("{}: {}; the port closes", port.describe(), strerror(&e));
                        self.say.err(text);
                        return self.remove_port(id);
                    }
                }
            }
            let count = frames.len();
            self.forward(|n| frames.get(n).map_or(&[], |f| f), |_| Some(id), count, now);
            return;
        }
        // Errors are those of frames sent earlier, which are counted there.
        let Ok(count) = batch.fill(port.data_fd()) else { return };
        self.forward(|n| batch.frame(n), |_| Some(id), count, now);
    }

    fn shared_ready(&mut self, now: Instant, batch: &mut Received) {
        let Some((socket, _)) = &self.shared else { return };
        let Ok(count) = batch.fill(&**socket) else { return };
        let senders: Vec<Option<PortId>> =
            (0..count).map(|n| self.shared_senders.get(&batch.sender(n)).copied()).collect();
        for _ in senders.iter().filter(|s| s.is_none()) {
            self.chat(now, || "Unknown connection for packet, shouldn't happen.".into());
        }
        self.forward(|n| batch.frame(n), |n| senders.get(n).copied().flatten(), count, now);
    }

    /// Moves a batch of frames: queues each where it goes, then lets every port send its share at once.
    fn forward<'a>(
        &mut self,
        frame: impl Fn(usize) -> &'a [u8],
        ingress: impl Fn(usize) -> Option<PortId>,
        count: usize,
        now: Instant,
    ) {
        let frame = |n| clip(frame(n));
        let mut busy: Vec<PortId> = Vec::new();
        for n in 0..count {
            let (bytes, from) = (frame(n), ingress(n));
            if let Some(port) = from.and_then(|p| self.ports.get_mut(&p)) {
                port.received(bytes);
            }
            let decision = self.engine.forward(bytes, from, now);
            if let (Some((mac, old)), Some(port)) = (decision.learned, from) {
                self.chat(now, || match old {
                    Some(old) => format!(" Addr: {mac} New port {port} old port {old}"),
                    None => format!(" Addr: {mac} New port {port}"),
                });
            }
            if let Some(mac) = decision.unknown_from {
                self.chat(now, || match from {
                    Some(port) => format!("unknown Addr: {mac} from port {port}"),
                    None => format!("unknown Addr: {mac} from port UNKNOWN"),
                });
            }
            let ports = &mut self.ports;
            self.engine.each_target(&decision, |to, membership| {
                let Some(port) = ports.get_mut(&to) else { return };
                if !port.has_outgoing() {
                    busy.push(to);
                }
                port.queue(match membership.rewrite(bytes, decision.vid) {
                    None => Outgoing::Batch(n),
                    Some(changed) => Outgoing::Own(changed.into()),
                });
            });
        }
        for id in busy {
            let Some(port) = self.ports.get_mut(&id) else { continue };
            let result = port.send_batch(frame);
            if result == Sent::Blocked {
                self.wait_for(id, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT);
            }
            self.tell_failure(id, result, now);
        }
    }

    fn wait_for(&mut self, id: PortId, events: EpollFlags) {
        let Some(port) = self.ports.get(&id) else { return };
        let fd = port.data_fd();
        let mut event = EpollEvent::new(events, fd.as_raw_fd() as u64);
        if let Err(e) = self.epoll.modify(fd, &mut event) {
            self.say.err(host_error("epoll")(e));
        }
    }

    fn tell_failure(&mut self, id: PortId, result: Sent, now: Instant) {
        if let Sent::Failed(e) = result {
            // On standard output with the rest of what frames can make the switch say.
            self.chat(now, || format!("send_sock sending to fd {id} : {}", e.desc()));
        }
    }

    /// Says something that frames cause, so that no flood of frames becomes a flood of messages.
    fn chat(&mut self, now: Instant, text: impl FnOnce() -> String) {
        if now.saturating_duration_since(self.chat_since) >= Duration::from_secs(1) {
            let skipped = self.chat_count.saturating_sub(CHAT_PER_SECOND);
            if skipped > 0 {
                self.say.out(format!("({skipped} messages about frames left out)"));
            }
            (self.chat_since, self.chat_count) = (now, 0);
        }
        self.chat_count += 1;
        if self.chat_count <= CHAT_PER_SECOND {
            self.say.out(text());
        }
    }

    fn flush_captures(&mut self) {
        for port in self.ports.values_mut() {
            if let Some(c) = &mut port.capture
                && let Err(e) = c.flush()
            {
                let text = format!("capture {}: {}; it ends", c.path().display(), strerror(&e));
                self.say.err(text);
                port.capture = None;
            }
        }
    }

    fn answer(&mut self, question: Question, now: Instant) -> Answer {
        match question {
            Question::Status => Answer::Status(self.status(now)),
            Question::Vlan { port, membership } => match membership.parse() {
                Err(e) => Answer::Error(e),
                Ok(_) if !self.ports.contains_key(&port) => no_port(port),
                Ok(m) => {
                    self.engine.set_port(port, m);
                    Answer::Ok
                }
            },
            Question::Capture { port, file } => self.capture(port, file),
        }
    }

    fn capture(&mut self, port: Option<PortId>, file: Option<std::path::PathBuf>) -> Answer {
        if let Some(id) = port
            && !self.ports.contains_key(&id)
        {
            return no_port(id);
        }
        self.flush_captures();
        let one = |id: &PortId| port.is_none_or(|p| p == *id);
        for (id, p) in self.ports.iter_mut().filter(|(id, _)| one(id)) {
            p.capture = None;
            let Some(path) = &file else { continue };
            // Of all ports, each has a file of its own: FILE.PORT.
            let path = if port.is_some() {
                path.clone()
            } else {
                let mut name = path.clone().into_os_string();
                name.push(format!(".{id}"));
                name.into()
            };
            match Capture::create(&path) {
                Ok(c) => p.capture = Some(c),
                Err(e) => return Answer::Error(format!("'{}': {}", path.display(), strerror(&e))),
            }
        }
        Answer::Ok
    }

    fn status(&self, now: Instant) -> Status {
        let ports = self.ports.iter().map(|(id, p)| {
            let tap = matches!(p.link, Link::Tap { .. });
            PortStatus {
                port: *id,
                kind: if tap { "tap" } else { "client" }.into(),
                peer: p.describe(),
                pid: p.pid,
                version: (!tap).then_some(p.version),
                vlan: self.engine.membership(*id).map(Membership::to_string).unwrap_or_default(),
                queued: p.queued(),
                counters: p.counters,
                capture: p.capture.as_ref().map(|c| c.path().to_owned()),
            }
        });
        let stations = self.engine.fdb.list(now).into_iter().map(|(vlan, mac, port, age)| {
            StationStatus { mac: mac.to_string(), vlan, port, age: age.as_secs() }
        });
        Status {
            program: self.program.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            mode: if self.engine.hub { "hub" } else { "switch" }.into(),
            control: self.control_paths.clone(),
            uptime_seconds: now.saturating_duration_since(self.started).as_secs(),
            ports: ports.collect(),
            stations: stations.collect(),
        }
    }

    /// Says why the switch ends, and removes its sockets.
    pub fn finish(mut self, end: &End) {
        self.flush_captures();
        match end {
            End::Signal(s) => {
                let text = format!("Caught signal {}, cleaning up and exiting", *s as i32);
                self.say.out(text);
            }
            End::Eof => self.say.out("EOF on stdin, cleaning up and exiting"),
        }
        self.paths.clear();
        self.say.finish();
    }
}

fn no_port(port: PortId) -> Answer {
    Answer::Error(format!("there is no port {port}; --status lists them"))
}

/// A frame longer than Ethernet's largest is cut, as the classic switch does; a VLAN tag comes on top.
fn clip(frame: &[u8]) -> &[u8] {
    let tagged = frame.get(12..14) == Some(&[0x81, 0x00]);
    let max = if tagged { MAX_FRAME + TAG_ALLOWANCE } else { MAX_FRAME };
    &frame[..frame.len().min(max)]
}

/// Every port has two descriptors; the usual limit of 1024 is for programs that use select(2).
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // A limit that cannot be raised shows when it is reached.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn watch(
    epoll: &Epoll,
    sources: &mut BTreeMap<i32, Source>,
    fd: BorrowedFd<'_>,
    source: Source,
) -> Result<(), Errno> {
    let number = fd.as_raw_fd();
    epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
    sources.insert(number, source);
    Ok(())
}

fn unwatch(epoll: &Epoll, sources: &mut BTreeMap<i32, Source>, fd: BorrowedFd<'_>) {
    sources.remove(&fd.as_raw_fd());
    // One that is not watched any more is fine.
    let _ = epoll.delete(fd);
}
