//! All consoles and serial lines of a machine, and their configuration at run time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{pr_err, pr_info};
use uml_core::file::FileOps;
use uml_core::kernel::Kernel;
use uml_core::registry::{CharDriver, DeviceNode, NodeOpen, Opened};
use uml_core::vfs::Dev;
use uml_host::reactor::{Interest, Reactor, Ready, Source, Token};
use uml_tty::devices::TerminalLayer;
use uml_tty::devpts::acquires;
use uml_tty::file::TtyFile;
use uml_tty::termios::Termios;
use uml_tty::tty::Tty;

use crate::console::line::{Family, HostLine, HostSide};
use crate::console::log::LineConsole;
use crate::console::port::Ports;
use crate::console::sizes::Sizes;
use crate::console::spec::{LineOption, LineSpec, OptionError};
use crate::console::xterm::XtermConfig;
use crate::number;

/// Major number of consoles and serial lines.
const TTY_MAJOR: u32 = 4;
/// Minor number of ttyS0.
const SERIAL_MINOR: u32 = 64;
/// How long a stalled reader may delay the end of the machine.
const FINAL_FLUSH: Duration = Duration::from_secs(2);
/// Group `tty`.
const TTY_GID: u32 = 5;
/// Group `dialout`.
const DIALOUT_GID: u32 = 20;

/// What the command line says about lines.
#[derive(Clone, Debug, Default)]
pub struct ConsoleOptions {
    /// `con...` options in order, without the word `con`.
    pub con: Vec<String>,
    /// `ssl...` options, likewise.
    pub ssl: Vec<String>,
    /// `ssl-non-raw`.
    pub ssl_non_raw: bool,
    /// `xterm=`; empty for the default.
    pub xterm: String,
    /// Shown in the titles of terminal emulators.
    pub umid: String,
}

/// Refusal of a configuration request, as the management console replies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Positive 1 or a negative errno, as the stock driver has it.
    pub err: i32,
    pub text: String,
}

impl ConfigError {
    fn new(err: i32, text: impl Into<String>) -> ConfigError {
        ConfigError { err, text: text.into() }
    }

    fn invalid(text: impl Into<String>) -> ConfigError {
        ConfigError::new(EINVAL.to_ret() as i32, text)
    }
}

struct Slot {
    line: Arc<HostLine>,
    tty: Arc<Tty>,
}

/// Every line of one family.
struct Lines {
    family: Family,
    slots: Vec<Slot>,
}

/// The consoles and serial lines of a machine.
pub struct Consoles {
    kernel: Arc<Kernel>,
    layer: Arc<TerminalLayer>,
    reactor: Arc<Reactor>,
    con: Arc<Lines>,
    ssl: Arc<Lines>,
    resize: Option<Resize>,
    /// A line that shows the kernel log leads somewhere.
    log_shown: AtomicBool,
    /// Lines that are to show it once somebody is there to read.
    awaited: Vec<Arc<HostLine>>,
}

struct Resize {
    _source: Arc<dyn Source>,
    _token: Token,
}

impl Consoles {
    /// Configures every line as `options` say (wrong options are logged and leave a line without a device), and
    /// enters the devices in the machine.
    pub fn install(
        kernel: &Arc<Kernel>,
        layer: &Arc<TerminalLayer>,
        reactor: &Arc<Reactor>,
        options: &ConsoleOptions,
    ) -> Result<Consoles> {
        let sizes = Sizes::new(reactor)?;
        let host = Arc::new(HostSide {
            sizes: sizes.clone(),
            reactor: reactor.clone(),
            ports: Ports::new(reactor),
            xterm: XtermConfig::new(&options.xterm, &options.umid),
        });
        let con = Lines::new(Family::Console, &options.con, true, layer, &host);
        let ssl = Lines::new(Family::Serial, &options.ssl, !options.ssl_non_raw, layer, &host);
        let lines = con.slots.iter().chain(&ssl.slots);
        sizes.follow(lines.map(|s| Arc::downgrade(&s.line)).collect());
        let registry = &kernel.vfs.registry;
        registry.add_char("tty", TTY_MAJOR, 0, 15, con.clone())?;
        registry.add_char("ttyS", TTY_MAJOR, SERIAL_MINOR, SERIAL_MINOR + 63, ssl.clone())?;
        let consoles = Consoles {
            kernel: kernel.clone(),
            layer: layer.clone(),
            reactor: reactor.clone(),
            con,
            ssl,
            resize: None,
            log_shown: AtomicBool::new(false),
            awaited: Vec::new(),
        };
        for lines in [&consoles.con, &consoles.ssl] {
            for slot in lines.slots.iter().filter(|s| s.line.spec() != LineSpec::None) {
                consoles.announce(&slot.line);
            }
        }
        pr_info!("Initialized stdio console driver");
        pr_info!("Initializing software serial port version 1");
        Ok(consoles)
    }

    /// Makes the lines named in `names` (`tty0`, `ttyS1`, perhaps with options after a comma) kernel consoles. The
    /// last one that works is /dev/console; without any, con0 is, if it exists.
    pub fn start_log(&mut self, names: &[String]) {
        let mut chosen = None;
        let mut awaited = Vec::new();
        for name in names {
            let name = name.split(',').next().unwrap_or_default();
            let Some(slot) = self.by_device(name) else {
                pr_err!("console={name}: no such line; lines are tty0..tty15 and ttyS0..ttyS63");
                continue;
            };
            // Listens from now on.
            let waits = slot.line.spec().waits() && slot.line.connect_log().is_ok();
            if waits {
                awaited.push(slot.line.clone());
            } else {
                self.show_log(&slot.line);
            }
            if slot.line.spec() != LineSpec::None {
                chosen = Some(slot.tty.clone());
            }
        }
        let first = self.con.slots.first().filter(|s| s.line.spec() != LineSpec::None);
        if let Some(tty) = chosen.or_else(|| first.map(|s| s.tty.clone())) {
            self.layer.set_console(tty);
        }
        self.awaited = awaited;
    }

    fn show_log(&self, line: &Arc<HostLine>) {
        let name = format!("{}{}", line.family.device(), line.index);
        match LineConsole::register(line, &self.kernel) {
            Ok(()) => {
                pr_info!("Console initialized on /dev/{name}");
                self.log_shown.fetch_or(line.spec().shows_output(), Ordering::Relaxed);
            }
            Err(e) => pr_err!("console={name}: cannot be opened: {e}"),
        }
    }

    /// Waits for a client of each kernel console that was configured to have one first (`port:N:wait`), and shows it the log
    /// from the beginning.
    pub fn await_clients(&self) {
        for line in &self.awaited {
            line.wait_for_peer();
            self.show_log(line);
        }
    }

    /// Whether a kernel console leads to somebody who can read it.
    pub fn shows_log(&self) -> bool {
        self.log_shown.load(Ordering::Relaxed)
    }

    /// Follows the window size of our own controlling terminal. Without one, sizes are read
    /// when lines are opened and whenever input arrives.
    pub fn follow_resizes(&mut self) {
        let source: Arc<dyn Source> =
            Arc::new(OnResize { con: self.con.clone(), ssl: self.ssl.clone() });
        let watched = uml_host::winch::events()
            .and_then(|fd| self.reactor.add(fd, Interest { read: true, write: false }, &source));
        match watched {
            Ok(token) => self.resize = Some(Resize { _source: source, _token: token }),
            Err(e) => pr_err!("winch : window sizes are not followed: {e}"),
        }
    }

    /// Sends what lines still have to send, for a bounded time, and gives the host's terminals their
    /// settings back. For every orderly end of the machine.
    pub fn shutdown(&self) {
        let deadline = Instant::now() + FINAL_FLUSH;
        for s in self.con.slots.iter().chain(&self.ssl.slots) {
            s.line.finish_output(deadline);
        }
        uml_host::terminal::restore_all();
    }

    fn by_device(&self, name: &str) -> Option<&Slot> {
        let (lines, rest) = match name.strip_prefix("ttyS") {
            Some(rest) => (&self.ssl, rest),
            None => (&self.con, name.strip_prefix("tty")?),
        };
        lines.slots.get(rest.parse::<usize>().ok()?)
    }

    /// The terminal of a line, for tests and the management console.
    pub fn tty(&self, family: Family, n: usize) -> Option<Arc<Tty>> {
        self.lines(family).slots.get(n).map(|s| s.tty.clone())
    }

    fn lines(&self, family: Family) -> &Lines {
        match family {
            Family::Console => &self.con,
            Family::Serial => &self.ssl,
        }
    }

    fn announce(&self, line: &HostLine) {
        let gid = if line.family == Family::Console { TTY_GID } else { DIALOUT_GID };
        let mode = if line.family == Family::Console { 0o620 } else { 0o660 };
        self.kernel.vfs.registry.add_node(DeviceNode {
            name: format!("{}{}", line.family.device(), line.index),
            kind: libc::S_IFCHR,
            dev: line_dev(line.family, line.index),
            mode,
            uid: 0,
            gid,
        });
    }

    fn withdraw(&self, line: &HostLine) {
        let name = format!("{}{}", line.family.device(), line.index);
        self.kernel.vfs.registry.remove_node(&name);
    }

    /// `config conN`: `text` is what follows `con` or `ssl`.
    pub fn query(&self, family: Family, text: &str) -> std::result::Result<String, ConfigError> {
        let n = number::whole(text)
            .ok_or_else(|| ConfigError::new(1, "line_get_config failed to parse device number"))?;
        let slot = usize::try_from(n).ok().and_then(|n| self.lines(family).slots.get(n));
        let slot = slot.ok_or_else(|| ConfigError::new(1, "device number out of range"))?;
        Ok(slot.line.show())
    }

    /// `config conN=...`: `text` is what follows `con` or `ssl`. The text of a success is `configured as
    /// 'none'` or empty.
    pub fn config(&self, family: Family, text: &str) -> std::result::Result<String, ConfigError> {
        let lines = self.lines(family);
        let (n, channel) = match LineOption::parse(text, lines.slots.len()) {
            Ok(LineOption::One(n, channel)) => (n, channel),
            Ok(LineOption::Default(_)) => {
                return Err(ConfigError::invalid("Can't configure all devices from mconsole"));
            }
            Err(e) => return Err(ConfigError::invalid(e.to_string())),
        };
        let slot = &lines.slots[n];
        let busy = |_| ConfigError::invalid("Device is already open");
        match LineSpec::parse(&channel) {
            Ok(LineSpec::None) => {
                slot.line.reconfigure(LineSpec::None, "none").map_err(busy)?;
                self.withdraw(&slot.line);
                Ok("configured as 'none'".to_owned())
            }
            Ok(spec) => {
                slot.line.reconfigure(spec, &channel).map_err(busy)?;
                self.announce(&slot.line);
                Ok(String::new())
            }
            Err(why) => {
                slot.line.reconfigure(LineSpec::None, "none").map_err(busy)?;
                self.withdraw(&slot.line);
                if let Some(why) = why {
                    pr_err!("{why}");
                }
                Err(ConfigError::new(-1, "failed to parse channel pair"))
            }
        }
    }

    /// `remove conN`: `text` is what follows `con` or `ssl`.
    pub fn remove(&self, family: Family, text: &str) -> std::result::Result<(), ConfigError> {
        let n = number::whole(text)
            .ok_or_else(|| ConfigError::new(1, OptionError::Number.to_string()))?;
        let slot = usize::try_from(n).ok().and_then(|n| self.lines(family).slots.get(n));
        let slot = slot.ok_or_else(|| ConfigError::invalid(OptionError::Range.to_string()))?;
        if slot.line.spec() == LineSpec::None {
            return Err(ConfigError::invalid("configured as 'none'"));
        }
        slot.line
            .reconfigure(LineSpec::None, "none")
            .map_err(|_| ConfigError::invalid("Device is already open"))?;
        self.withdraw(&slot.line);
        Ok(())
    }
}

fn line_dev(family: Family, n: usize) -> Dev {
    let first = if family == Family::Console { 0 } else { SERIAL_MINOR };
    Dev::new(TTY_MAJOR, first + n as u32)
}

/// What a line is connected to without any option.
fn built_in(family: Family, n: usize) -> &'static str {
    match (family, n) {
        (Family::Console, 0) => "fd:0,fd:1",
        (Family::Console, _) => "xterm",
        (Family::Serial, _) => "pty",
    }
}

impl Lines {
    fn new(
        family: Family,
        options: &[String],
        raw: bool,
        layer: &Arc<TerminalLayer>,
        host: &Arc<HostSide>,
    ) -> Arc<Lines> {
        let mut texts: Vec<Option<String>> = vec![None; family.count()];
        let mut default = None;
        for o in options {
            match LineOption::parse(o, family.count()) {
                Ok(LineOption::Default(channel)) => default = Some(channel),
                Ok(LineOption::One(n, channel)) => texts[n] = Some(channel),
                Err(e) => {
                    let what = match family {
                        Family::Console => "console",
                        Family::Serial => "serial line",
                    };
                    pr_err!("Failed to set up {what} with configuration string \"{o}\" : {e}");
                }
            }
        }
        let slots = texts
            .into_iter()
            .enumerate()
            .map(|(n, text)| {
                let text =
                    text.or(default.clone()).unwrap_or_else(|| built_in(family, n).to_owned());
                let spec = boot_spec(n, &text);
                let line = HostLine::new(family, n, raw, host, spec, text);
                let name = format!("{}{n}", family.device());
                let dev = line_dev(family, n);
                let tty = Tty::new(&name, dev, line.clone(), Termios::standard(), &layer.sessions);
                line.attach(&tty);
                Slot { line, tty }
            })
            .collect();
        Arc::new(Lines { family, slots })
    }
}

/// The configuration a boot option gives; `none`, with the driver's complaint, when it is wrong.
fn boot_spec(n: usize, text: &str) -> LineSpec {
    let complain = |why: &str| pr_err!("setup_one_line failed for device {n} : {why}");
    match LineSpec::parse(text) {
        Ok(LineSpec::None) => {
            complain("configured as 'none'");
            LineSpec::None
        }
        Ok(spec) => spec,
        Err(why) => {
            if let Some(why) = why {
                pr_err!("{why}");
            }
            complain("failed to parse channel pair");
            LineSpec::None
        }
    }
}

impl CharDriver for Lines {
    fn open(&self, req: &NodeOpen<'_>) -> Result<Opened> {
        let first = line_dev(self.family, 0).minor;
        let n = req.dev.minor.checked_sub(first).ok_or(ENXIO)?;
        let slot = self.slots.get(n as usize).ok_or(ENXIO)?;
        if slot.line.spec() == LineSpec::None {
            return Err(ENXIO);
        }
        let opening = slot.tty.open(req.task, false, acquires(req.flags))?;
        let ops: Box<dyn FileOps> = Box::new(TtyFile::new(slot.tty.clone(), opening));
        Ok(ops.into())
    }
}

/// Passes the new size of our terminal on.
struct OnResize {
    con: Arc<Lines>,
    ssl: Arc<Lines>,
}

impl Source for OnResize {
    fn ready(&self, _ready: Ready) {
        uml_host::winch::clear();
        for s in self.con.slots.iter().chain(&self.ssl.slots) {
            s.line.follow_size();
        }
    }
}
