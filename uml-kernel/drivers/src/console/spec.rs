//! The option syntax of consoles and serial lines, typed: shared by the command line, the management
//! console and configuration files.

use std::fmt;

use crate::number;

/// One direction of a line, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelSpec {
    /// Input never comes, output is discarded.
    Null,
    /// An inherited descriptor.
    Fd(i32),
    /// A TCP port of the host, with the address to listen on when it is not the loopback address.
    Port {
        address: Option<std::net::IpAddr>,
        port: u16,
        /// The boot waits for a client when the kernel's log goes there.
        wait: bool,
    },
    /// A BSD pseudo-terminal.
    Pty,
    /// A Unix98 pseudo-terminal.
    Pts,
    /// A device of the host.
    Tty(String),
    /// A terminal emulator.
    Xterm,
}

impl ChannelSpec {
    /// Parses one channel; the types are recognised by prefix, in this order. The error is the
    /// driver's log line for the type, or `None` when the type is unknown.
    pub fn parse(text: &str) -> Result<ChannelSpec, Option<String>> {
        let after = |prefix: &str| text.strip_prefix(prefix);
        if let Some(rest) = after("fd") {
            let Some(number) = rest.strip_prefix(':') else {
                let why = "channel type 'fd' must specify a file descriptor";
                return Err(Some(format!("fd_init : {why}")));
            };
            return match number::whole(number).and_then(|n| i32::try_from(n).ok()) {
                Some(n) => Ok(ChannelSpec::Fd(n)),
                None => Err(Some(format!("fd_init : couldn't parse file descriptor '{number}'"))),
            };
        }
        if after("null").is_some() {
            return Ok(ChannelSpec::Null);
        }
        if let Some(rest) = after("port") {
            let Some(place) = rest.strip_prefix(':') else {
                let why = "channel type 'port' must specify a port number";
                return Err(Some(format!("port_init : {why}")));
            };
            return parse_port(place)
                .ok_or_else(|| Some(format!("port_init : couldn't parse port '{place}'")));
        }
        if after("pty").is_some() {
            return Ok(ChannelSpec::Pty);
        }
        if after("pts").is_some() {
            return Ok(ChannelSpec::Pts);
        }
        if let Some(rest) = after("tty") {
            return match rest.strip_prefix(':') {
                Some(path) if !path.is_empty() => Ok(ChannelSpec::Tty(path.to_owned())),
                _ => {
                    let why = "channel type 'tty' must specify a device";
                    Err(Some(format!("tty_init : {why}")))
                }
            };
        }
        if after("xterm").is_some() {
            return Ok(ChannelSpec::Xterm);
        }
        Err(None)
    }
}

/// `9000`, `127.0.0.1:9000`, `[::]:9000`, each perhaps with `:wait`.
fn parse_port(place: &str) -> Option<ChannelSpec> {
    let (place, wait) = match place.strip_suffix(":wait") {
        Some(rest) => (rest, true),
        None => (place, false),
    };
    if let Some(n) = number::whole(place) {
        let port = u16::try_from(n).ok().filter(|p| *p != 0)?;
        return Some(ChannelSpec::Port { address: None, port, wait });
    }
    let at: std::net::SocketAddr = place.parse().ok()?;
    (at.port() != 0).then(|| ChannelSpec::Port { address: Some(at.ip()), port: at.port(), wait })
}

impl fmt::Display for ChannelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelSpec::Null => f.write_str("null"),
            ChannelSpec::Fd(n) => write!(f, "fd:{n}"),
            ChannelSpec::Port { address, port, wait } => {
                f.write_str("port:")?;
                match address {
                    None => write!(f, "{port}")?,
                    Some(a) => write!(f, "{}", std::net::SocketAddr::new(*a, *port))?,
                }
                f.write_str(if *wait { ":wait" } else { "" })
            }
            ChannelSpec::Pty => f.write_str("pty"),
            ChannelSpec::Pts => f.write_str("pts"),
            ChannelSpec::Tty(path) => write!(f, "tty:{path}"),
            ChannelSpec::Xterm => f.write_str("xterm"),
        }
    }
}

/// What a line is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineSpec {
    /// The line does not exist in the guest.
    None,
    /// One channel for both directions.
    Both(ChannelSpec),
    /// Input and output apart.
    Pair(ChannelSpec, ChannelSpec),
}

impl LineSpec {
    /// Parses `<spec>`, `<in-spec>,<out-spec>` or `none`. As [`ChannelSpec::parse`].
    pub fn parse(text: &str) -> Result<LineSpec, Option<String>> {
        if text == "none" {
            return Ok(LineSpec::None);
        }
        match text.split_once(',') {
            None => ChannelSpec::parse(text).map(LineSpec::Both),
            Some((i, o)) => Ok(LineSpec::Pair(ChannelSpec::parse(i)?, ChannelSpec::parse(o)?)),
        }
    }

    /// Whether the boot is to wait until somebody is there to read the line.
    pub fn waits(&self) -> bool {
        match self {
            LineSpec::None => false,
            LineSpec::Both(c) | LineSpec::Pair(_, c) => {
                matches!(c, ChannelSpec::Port { wait: true, .. })
            }
        }
    }

    /// Whether somebody on the host can see what is written to the line.
    pub fn shows_output(&self) -> bool {
        match self {
            LineSpec::None => false,
            LineSpec::Both(channel) | LineSpec::Pair(_, channel) => *channel != ChannelSpec::Null,
        }
    }
}

/// A `con` or `ssl` option, after the word `con` or `ssl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineOption {
    /// `=<chan>`: for every line without an option of its own.
    Default(String),
    /// `N=<chan>`.
    One(usize, String),
}

/// Why an option was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    Number,
    Range,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OptionError::Number => "Couldn't parse device number",
            OptionError::Range => "Device number out of range",
        })
    }
}

impl LineOption {
    /// Parses what follows `con` or `ssl`, for a driver with `count` lines.
    pub fn parse(text: &str, count: usize) -> Result<LineOption, OptionError> {
        if let Some(channel) = text.strip_prefix('=') {
            return Ok(LineOption::Default(channel.to_owned()));
        }
        let (n, rest) = number::leading(text);
        let channel = rest.strip_prefix('=').ok_or(OptionError::Number)?;
        match usize::try_from(n).ok().filter(|n| *n < count) {
            Some(n) => Ok(LineOption::One(n, channel.to_owned())),
            None => Err(OptionError::Range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(t: &str) -> Result<ChannelSpec, Option<String>> {
        ChannelSpec::parse(t)
    }

    #[test]
    fn channels() {
        assert_eq!(parse("null"), Ok(ChannelSpec::Null));
        assert_eq!(parse("nullxyz"), Ok(ChannelSpec::Null));
        assert_eq!(parse("ptyfoo"), Ok(ChannelSpec::Pty));
        assert_eq!(parse("fd:0x10"), Ok(ChannelSpec::Fd(16)));
        assert_eq!(parse("tty:/dev/tty8"), Ok(ChannelSpec::Tty("/dev/tty8".into())));
        let waiting = ChannelSpec::Port { address: None, port: 9000, wait: true };
        assert_eq!(
            (parse("port:9000:wait"), waiting.to_string()),
            (Ok(waiting), "port:9000:wait".into())
        );
        assert!(LineSpec::parse("null,port:[::1]:9000:wait").is_ok_and(|l| l.waits()));
        assert!(LineSpec::parse("port:9000,null").is_ok_and(|l| !l.waits()));
        assert!(parse("port:9000:weit").is_err() && parse("port::wait").is_err());
        assert_eq!(
            parse("port:9000"),
            Ok(ChannelSpec::Port { address: None, port: 9000, wait: false })
        );
        assert_eq!(
            parse("port:0.0.0.0:9000").map(|c| c.to_string()),
            Ok("port:0.0.0.0:9000".into())
        );
        assert_eq!(parse("xterm"), Ok(ChannelSpec::Xterm));
        assert_eq!(parse("x-terminal-emulator"), Err(None));
        assert_eq!(parse("/dev/tty8"), Err(None));
        let text = |t| parse(t).err().flatten().unwrap_or_default();
        assert_eq!(text("fd"), "fd_init : channel type 'fd' must specify a file descriptor");
        assert_eq!(text("fd:x"), "fd_init : couldn't parse file descriptor 'x'");
        assert_eq!(text("port"), "port_init : channel type 'port' must specify a port number");
        assert_eq!(text("port:0"), "port_init : couldn't parse port '0'");
        assert_eq!(text("port:65536"), "port_init : couldn't parse port '65536'");
        assert_eq!(text("tty"), "tty_init : channel type 'tty' must specify a device");
    }

    #[test]
    fn lines() {
        use ChannelSpec::*;
        assert_eq!(LineSpec::parse("none"), Ok(LineSpec::None));
        assert_eq!(LineSpec::parse("fd:0,fd:1"), Ok(LineSpec::Pair(Fd(0), Fd(1))));
        // Split at the first comma only.
        assert_eq!(LineSpec::parse("null,tty:/a,b"), Ok(LineSpec::Pair(Null, Tty("/a,b".into()))));
        assert_eq!(LineSpec::parse("none,null"), Err(None));
    }

    #[test]
    fn options() {
        assert_eq!(LineOption::parse("=pts", 16), Ok(LineOption::Default("pts".into())));
        assert_eq!(
            LineOption::parse("0=fd:0,fd:1", 16),
            Ok(LineOption::One(0, "fd:0,fd:1".into()))
        );
        assert_eq!(LineOption::parse("0xf=null", 16), Ok(LineOption::One(15, "null".into())));
        assert_eq!(LineOption::parse("16=null", 16), Err(OptionError::Range));
        assert_eq!(LineOption::parse("1x=null", 16), Err(OptionError::Number));
        assert_eq!(LineOption::parse("1", 16), Err(OptionError::Number));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_shown_parses_again(text in ".{0,40}") {
            let _ = LineOption::parse(&text, 16);
            if let Ok(c) = ChannelSpec::parse(&text) {
                prop_assert_eq!(ChannelSpec::parse(&c.to_string()), Ok(c));
            }
        }
    }
}
