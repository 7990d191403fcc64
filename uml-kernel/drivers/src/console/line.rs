//! A console or serial line: the host side of a [`Tty`].

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, pr_err};
use uml_host::reactor::{Interest, Reactor, Ready, Source};
use uml_host::stream::Direction;
use uml_tty::tty::{Line, Tty};

use crate::console::channel::Channel;
use crate::console::open::Opener;
use crate::console::port::Ports;
use crate::console::sizes::Sizes;
use crate::console::spec::{ChannelSpec, LineSpec};
use crate::console::xterm::XtermConfig;

/// Bytes moved at a time.
const CHUNK: usize = 4096;

/// The two families of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `conN`, guest `/dev/ttyN`.
    Console,
    /// `sslN`, guest `/dev/ttySN`.
    Serial,
}

impl Family {
    /// Lines of the family.
    pub fn count(self) -> usize {
        match self {
            Family::Console => 16,
            Family::Serial => 64,
        }
    }

    /// Option word.
    pub fn option(self) -> &'static str {
        match self {
            Family::Console => "con",
            Family::Serial => "ssl",
        }
    }

    /// Device name without the number.
    pub fn device(self) -> &'static str {
        match self {
            Family::Console => "tty",
            Family::Serial => "ttyS",
        }
    }

    /// Title of a terminal emulator's window.
    pub fn window(self, n: usize) -> String {
        match self {
            Family::Console => format!("Virtual Console #{n}"),
            Family::Serial => format!("Serial Line #{n}"),
        }
    }

    /// What messages call a line.
    pub fn title(self, n: usize) -> String {
        match self {
            Family::Console => format!("Virtual console {n}"),
            Family::Serial => format!("Serial line {n}"),
        }
    }
}

/// What lines share on the host's side.
pub struct HostSide {
    pub reactor: Arc<Reactor>,
    pub ports: Ports,
    pub xterm: XtermConfig,
    pub sizes: Arc<Sizes>,
}

/// The opened channels of a line.
struct Open {
    input: Option<Arc<Pump>>,
    output: Option<Arc<Pump>>,
}

struct Config {
    /// As it was given.
    text: String,
    spec: LineSpec,
    open: Option<Open>,
    /// The input came to its end; opening the line again brings no more.
    exhausted: bool,
    /// The connection is gone and nothing has made a new one: output has nowhere to go.
    lost: bool,
}

/// A line of the host.
pub struct HostLine {
    pub family: Family,
    pub index: usize,
    raw: bool,
    host: Arc<HostSide>,
    config: Mutex<Config>,
    tty: OnceLock<Weak<Tty>>,
    me: Weak<HostLine>,
    /// Kernel messages are printed here: the channels stay open when no program uses the line.
    is_log: AtomicBool,
    /// Where they go: set whenever the line is connected.
    log: Mutex<Option<Arc<Channel>>>,
    /// The pseudo-terminal of a line that closed before anything was said: the next opener's. A getty opens its line twice,
    /// and whoever has attached to the device in between shall not find it gone.
    resting: Mutex<Option<Arc<Pump>>>,
    /// Channels of closed lines that still have output to send.
    lingering: Mutex<Vec<Arc<Pump>>>,
}

/// Moves bytes between one channel and the terminal.
pub struct Pump {
    line: Weak<HostLine>,
    channel: Arc<Channel>,
    me: Weak<Pump>,
    /// Input that the terminal had no room for.
    held: Mutex<Vec<u8>>,
}

impl HostLine {
    /// A line that is configured as `spec`, whose text was `text`.
    pub fn new(
        family: Family,
        index: usize,
        raw: bool,
        host: &Arc<HostSide>,
        spec: LineSpec,
        text: String,
    ) -> Arc<HostLine> {
        let config = Config { text, spec, open: None, exhausted: false, lost: false };
        Arc::new_cyclic(|me| HostLine {
            me: me.clone(),
            family,
            index,
            raw,
            host: host.clone(),
            config: Mutex::new(Rank::TTY_LINE, config),
            tty: OnceLock::new(),
            is_log: AtomicBool::new(false),
            log: Mutex::new(Rank::LEAF, None),
            resting: Mutex::new(Rank::LEAF, None),
            lingering: Mutex::new(Rank::LEAF, Vec::new()),
        })
    }

    /// Ties the line to its terminal, once.
    pub fn attach(&self, tty: &Arc<Tty>) {
        let _ = self.tty.set(Arc::downgrade(tty));
    }

    fn tty(&self) -> Option<Arc<Tty>> {
        self.tty.get()?.upgrade()
    }

    /// Present configuration.
    pub fn spec(&self) -> LineSpec {
        self.config.lock().spec.clone()
    }

    /// What the management console shows: `none`, the configured text, or while open the live channels.
    pub fn show(&self) -> String {
        let c = self.config.lock();
        if c.spec == LineSpec::None {
            return "none".to_owned();
        }
        let Some(open) = &c.open else { return c.text.clone() };
        let label = |p: &Option<Arc<Pump>>| {
            p.as_ref().map_or_else(|| "null".to_owned(), |p| p.channel.label().to_owned())
        };
        match c.spec {
            LineSpec::Pair(..) => format!("{},{}", label(&open.input), label(&open.output)),
            _ => label(&open.output),
        }
    }

    /// Changes the configuration of a line that nobody has open; `EBUSY` otherwise.
    pub fn reconfigure(&self, spec: LineSpec, text: &str) -> Result<()> {
        let tty = self.tty();
        let old = {
            let mut c = self.config.lock();
            if tty.is_some_and(|t| t.open_count() > 0) {
                return Err(EBUSY);
            }
            c.spec = spec;
            c.text = text.to_owned();
            c.exhausted = false;
            (c.open.take(), self.resting.lock().take())
        };
        drop(old);
        Ok(())
    }

    /// Opens the channels if they are not; kernel messages need them before any program does.
    pub fn connect(&self) -> Result<()> {
        let (spec, exhausted) = {
            let c = self.config.lock();
            if c.open.is_some() {
                return Ok(());
            }
            (c.spec.clone(), c.exhausted)
        };
        let opener = Opener {
            reactor: &self.host.reactor,
            ports: &self.host.ports,
            xterm: &self.host.xterm,
            line: &self.me,
            title: self.family.title(self.index),
            window: self.family.window(self.index),
            raw: self.raw,
        };
        let pump = |spec: &ChannelSpec, direction| -> Result<Option<Arc<Pump>>> {
            Ok(opener.open(spec, direction)?.map(|c| Pump::new(&self.me, c)))
        };
        let open = match &spec {
            LineSpec::None => return Err(ENODEV),
            LineSpec::Both(c) => {
                let rested = self.resting.lock().take();
                let p = match rested {
                    Some(p) => Some(p),
                    None => pump(c, Direction::Both)?,
                };
                Open { input: p.clone(), output: p }
            }
            LineSpec::Pair(i, o) => {
                Open { input: pump(i, Direction::Read)?, output: pump(o, Direction::Write)? }
            }
        };
        let input = open.input.clone().filter(|_| !exhausted);
        {
            let mut c = self.config.lock();
            if c.open.is_some() {
                // Somebody else was faster; ours are closed again.
                return Ok(());
            }
            if self.is_log.load(Ordering::Relaxed) {
                *self.log.lock() = open.output.as_ref().map(|p| p.channel.clone());
            }
            c.open = Some(open);
            c.lost = false;
        }
        self.follow_size();
        if let Some(i) = input {
            i.start_input();
        }
        Ok(())
    }

    /// Closes the channels if `allowed`, which is asked under the line's lock; output that the host has
    /// not taken yet is sent in the background. With `rest`, a pseudo-terminal that nothing went through is kept.
    fn disconnect(&self, rest: bool, allowed: impl FnOnce() -> bool) {
        let open = {
            let mut c = self.config.lock();
            let open = if allowed() { c.open.take() } else { None };
            let pty = matches!(c.spec, LineSpec::Both(ChannelSpec::Pts | ChannelSpec::Pty));
            match open {
                Some(Open { output: Some(p), .. }) if rest && pty && !p.channel.has_spoken() => {
                    p.watch(|i| *i = Interest::default());
                    *self.resting.lock() = Some(p);
                    return;
                }
                open => open,
            }
        };
        let Some(open) = open else { return };
        if let Some(p) = &open.output
            && !p.channel.flush()
        {
            self.lingering.lock().push(p.clone());
            p.linger();
        }
    }

    /// Passes the host's window size on.
    pub fn follow_size(&self) {
        let found = {
            let c = self.config.lock();
            let of = |p: &Option<Arc<Pump>>| {
                let channel = &p.as_ref()?.channel;
                Some((channel.size()?, channel.size_is_silent()))
            };
            c.open.as_ref().and_then(|o| of(&o.output).or_else(|| of(&o.input)))
        };
        let Some((size, silent)) = found else { return };
        if let Some(tty) = self.tty() {
            tty.set_winsize(size);
        }
        if silent {
            self.host.sizes.arm();
        }
    }

    /// Opens the line for kernel messages, for good.
    pub fn connect_log(&self) -> Result<()> {
        self.is_log.store(true, Ordering::Relaxed);
        self.connect()?;
        *self.log.lock() = self.output_channel();
        Ok(())
    }

    /// Waits until somebody is there to read the line.
    pub fn wait_for_peer(&self) {
        if let Some(c) = self.output_channel() {
            c.wait_for_peer();
        }
    }

    /// The channel for kernel messages. Takes only leaf locks: messages come from anywhere.
    pub fn log_channel(&self) -> Option<Arc<Channel>> {
        self.log.lock().clone()
    }

    fn output_channel(&self) -> Option<Arc<Channel>> {
        let c = self.config.lock();
        c.open.as_ref().and_then(|o| o.output.as_ref()).map(|p| p.channel.clone())
    }

    fn pump_output(&self, tty: &Tty) {
        let c = self.config.lock();
        let Some(open) = &c.open else {
            // Who has /dev/console open outlives the connection and shall not wait for it.
            while c.lost && !tty.take_output(CHUNK).is_empty() {}
            return;
        };
        let Some(pump) = &open.output else {
            // The null channel takes everything.
            while !tty.take_output(CHUNK).is_empty() {}
            return;
        };
        while pump.channel.flush() {
            let data = tty.take_output(CHUNK);
            if data.is_empty() {
                break;
            }
            pump.channel.send(&data);
        }
        pump.want_write();
    }

    /// Sends what is left, waiting for a slow reader until `deadline` at most: the machine ends.
    pub fn finish_output(&self, deadline: Instant) {
        let mut channels: Vec<Arc<Channel>> =
            self.lingering.lock().iter().map(|p| p.channel.clone()).collect();
        if let Some(channel) = self.output_channel() {
            if let Some(tty) = self.tty() {
                channel.send(&tty.drain_output());
            }
            channels.push(channel);
        }
        for c in channels {
            while !c.flush() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() || !c.wait_writable(left) {
                    break;
                }
            }
        }
    }
}

impl Line for HostLine {
    fn open(&self, tty: &Arc<Tty>) -> Result<()> {
        let _ = tty;
        self.connect()
    }

    fn close(&self, tty: &Tty) {
        let rest = tty.drain_output();
        if let Some(c) = self.output_channel() {
            c.send(&rest);
        }
        if self.is_log.load(Ordering::Relaxed) {
            let c = self.config.lock();
            if let Some(p) = c.open.as_ref().and_then(|o| o.output.as_ref()) {
                p.want_write();
            }
        } else {
            // Whoever opens the terminal counts first and connects then: either the count tells of
            // him here, or he finds no channels and makes new ones.
            self.disconnect(true, || tty.open_count() == 0);
        }
    }

    fn output_ready(&self, tty: &Tty) {
        self.pump_output(tty);
    }

    fn input_room(&self, _tty: &Tty) {
        let input = self.config.lock().open.as_ref().and_then(|o| o.input.clone());
        if let Some(p) = input {
            p.resume();
        }
    }

    fn unsent(&self) -> usize {
        self.output_channel().map_or(0, |c| c.unsent())
    }
}

impl Pump {
    fn new(line: &Weak<HostLine>, channel: Arc<Channel>) -> Arc<Pump> {
        Arc::new_cyclic(|me| Pump {
            line: line.clone(),
            channel,
            me: me.clone(),
            held: Mutex::new(Rank::TTY_INPUT, Vec::new()),
        })
    }

    fn watch(&self, change: impl FnOnce(&mut Interest)) {
        let Some(me) = self.me.upgrade() else { return };
        let mut interest = self.channel.interest();
        change(&mut interest);
        let source: Arc<dyn Source> = me;
        if let Err(e) = self.channel.watch(&source, interest) {
            let label = self.channel.label();
            pr_err!(
                "epollctl add err {}, {}",
                label.replacen(':', " ", 1),
                uml_formats::strerror(&e)
            );
        }
    }

    fn start_input(&self) {
        if self.channel.is_regular() {
            self.read_regular();
        } else {
            self.watch(|i| i.read = true);
        }
    }

    fn want_write(&self) {
        let blocked = self.channel.unsent() > 0;
        if blocked != self.channel.interest().write {
            self.watch(|i| i.write = blocked);
        }
    }

    /// Keeps only the wish to get rid of the output.
    fn linger(&self) {
        self.watch(|i| *i = Interest { read: false, write: true });
    }

    /// Gives `data` to the terminal; false when it did not take all, and the rest is held.
    fn deliver(&self, tty: &Tty, held: &mut Vec<u8>, data: &[u8]) -> bool {
        let n = tty.receive(data);
        if n < data.len() {
            held.extend_from_slice(&data[n..]);
        }
        n == data.len()
    }

    /// The terminal has room again.
    fn resume(&self) {
        let Some(line) = self.line.upgrade() else { return };
        let Some(tty) = line.tty() else { return };
        {
            let mut held = self.held.lock();
            if held.is_empty() {
                return;
            }
            let data = std::mem::take(&mut *held);
            if !self.deliver(&tty, &mut held, &data) {
                return;
            }
        }
        self.start_input();
    }

    /// An ordinary file is read as the terminal takes it.
    fn read_regular(&self) {
        let Some(line) = self.line.upgrade() else { return };
        let Some(tty) = line.tty() else { return };
        let mut buf = [0; CHUNK];
        loop {
            let mut held = self.held.lock();
            if !held.is_empty() {
                return;
            }
            match self.channel.read(&mut buf) {
                Ok(n) if n > 0 => {
                    if !self.deliver(&tty, &mut held, &buf[..n]) {
                        return;
                    }
                }
                _ => break,
            }
        }
        line.input_over(&tty);
    }

    fn read_ready(&self) {
        let Some(line) = self.line.upgrade() else { return };
        let Some(tty) = line.tty() else { return };
        line.follow_size();
        let mut buf = [0; CHUNK];
        // A bounded number of rounds, so that one busy line does not starve the others.
        for _ in 0..16 {
            let mut held = self.held.lock();
            if !held.is_empty() {
                return;
            }
            match self.channel.read(&mut buf) {
                Ok(0) => {
                    drop(held);
                    self.watch(|i| *i = Interest::default());
                    return line.input_over(&tty);
                }
                Ok(n) => {
                    if !self.deliver(&tty, &mut held, &buf[..n]) {
                        self.watch(|i| i.read = false);
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    // The other side of a pty went away, a connection broke.
                    drop(held);
                    self.watch(|i| *i = Interest::default());
                    return line.lost(&tty);
                }
            }
        }
    }
}

impl HostLine {
    fn input_over(&self, tty: &Tty) {
        let lasting = {
            let mut c = self.config.lock();
            // A descriptor or file that came to its end stays there; a pty or connection is made anew.
            let input = match &c.spec {
                LineSpec::Both(i) | LineSpec::Pair(i, _) => i.clone(),
                LineSpec::None => return,
            };
            c.exhausted = matches!(input, ChannelSpec::Fd(_));
            c.exhausted
        };
        if lasting { tty.end_of_input() } else { self.lost(tty) }
    }

    /// The connection is gone: hang-up; the next open makes a new one. Files of /dev/console stay open through it, so for
    /// them it is made at once where that needs nobody on the host.
    fn lost(&self, tty: &Tty) {
        self.disconnect(false, || true);
        let quiet = {
            let mut c = self.config.lock();
            c.lost = true;
            let quiet = |s: &ChannelSpec| {
                matches!(s, ChannelSpec::Port { .. } | ChannelSpec::Pts | ChannelSpec::Pty)
            };
            match &c.spec {
                LineSpec::Both(s) => quiet(s),
                LineSpec::Pair(i, o) => quiet(i) && quiet(o),
                LineSpec::None => false,
            }
        };
        tty.hangup(false);
        if tty.open_count() > 0 && quiet {
            // Said in the log when it fails.
            let _ = self.connect();
        }
        self.pump_output(tty);
    }
}

impl Source for Pump {
    fn ready(&self, ready: Ready) {
        let Some(line) = self.line.upgrade() else { return };
        if ready.writable || (ready.hangup && self.channel.interest().write) {
            let drained = self.channel.flush();
            let lingering = {
                let mut l = line.lingering.lock();
                let at = l.iter().position(|p| std::ptr::eq(&**p, self));
                match (at, drained) {
                    (Some(i), true) => Some(l.swap_remove(i)),
                    _ => None,
                }
            };
            if drained {
                self.watch(|i| i.write = false);
            }
            if lingering.is_none()
                && let Some(tty) = line.tty()
            {
                line.pump_output(&tty);
                tty.output_sent();
            }
        }
        let reading = self.channel.interest().read;
        if reading && (ready.readable || ready.hangup) {
            self.read_ready();
        }
    }
}
