//! The command line: that of the classic `uml_switch`, and long options of our own.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::vlan::Membership;

/// Where the control socket is when nothing is said, as in the classic program.
pub const DEFAULT_CONTROL: &str = "/tmp/uml.ctl";
const DEFAULT_DATA: &str = "/tmp/uml.data";

/// A control socket, and the VLANs of the ports that are opened through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub path: PathBuf,
    pub membership: Membership,
}

/// A host interface that becomes a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    pub name: String,
    pub membership: Membership,
}

/// How to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The first control socket (`-unix`).
    pub control: PathBuf,
    /// The data socket of protocol version 0 (`-compat-v0`).
    pub compat_data: Option<PathBuf>,
    pub hub: bool,
    /// The classic option, which takes one interface.
    pub tap: Option<String>,
    pub daemon: bool,
    pub listen: Vec<Listen>,
    pub taps: Vec<Tap>,
}

/// What a running switch is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Status {
        json: bool,
    },
    /// `file` is `None` to end the capture; `port` is `None` for all ports.
    Capture {
        port: Option<i32>,
        file: Option<PathBuf>,
    },
    Vlan {
        port: i32,
        membership: Membership,
    },
}

/// A parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    Serve(Options),
    Ask {
        control: PathBuf,
        ask: Ask,
    },
    Help,
    Version,
    /// Wrong use, with the reason when there is more to say than the usage.
    Usage(Option<String>),
}

/// The usage text, as the classic program prints it.
pub fn usage(program: &str) -> String {
    format!(
        "Usage : {program} [ -unix control-socket ] [ -hub ] [ -tap tap-device ]\n\
         or : {program} -compat-v0 [ -unix control-socket data-socket ] [ -hub ] [ -tap tap-device ]\n"
    )
}

/// Every option.
pub fn help(program: &str) -> String {
    format!(
        "{}
Connects User Mode Linux machines (ethN=daemon) to each other and to the host.

  -unix CTL              control socket (default {DEFAULT_CONTROL})
  -compat-v0             serve protocol version 0 too; then -unix takes two paths, CTL DATA
  -hub                   send every frame to every port
  -tap DEV               make the host's TAP interface DEV a port
  -daemon                go to the background once set up
  --listen CTL[,VLAN]    a further control socket; ports opened through it have the VLANs given
  --tap DEV[,VLAN]       a TAP interface with its VLANs; may be repeated
  --help, --version

VLAN is access:N, trunk:LIST, trunk:LIST/NATIVE (LIST as 1+10-20) or transparent (the default: tags pass as they are).

To a running switch, found by -unix CTL:
  --status [--json]      ports, counters and addresses
  --capture PORT=FILE    write the frames of a port (or of `all`) to a pcap file; FILE `off` ends it
  --vlan PORT=VLAN       change the VLANs of a port
",
        usage(program)
    )
}

fn with_membership(value: &OsStr) -> Result<(OsString, Membership), String> {
    let Some(text) = value.to_str() else { return Ok((value.to_owned(), Membership::default())) };
    match text.split_once(',') {
        Some((name, vlan)) => Ok((name.into(), vlan.parse()?)),
        None => Ok((text.into(), Membership::default())),
    }
}

fn port_number(text: &str) -> Result<i32, String> {
    text.parse().map_err(|_| format!("port '{text}': give a number that --status lists"))
}

fn ask_with_value(option: &str, value: &OsStr) -> Result<Ask, String> {
    let text = value.to_str().ok_or_else(|| format!("{option}: the value is not UTF-8"))?;
    let (port, value) = text
        .split_once('=')
        .filter(|(port, value)| !port.is_empty() && !value.is_empty())
        .ok_or_else(|| format!("{option} {text}: give PORT=VALUE"))?;
    if option == "--vlan" {
        return Ok(Ask::Vlan { port: port_number(port)?, membership: value.parse()? });
    }
    let port = if port == "all" { None } else { Some(port_number(port)?) };
    let file = (value != "off").then(|| PathBuf::from(value));
    Ok(Ask::Capture { port, file })
}

/// Parses the words after the program's name.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Parsed {
    match parse_words(words) {
        Ok(parsed) => parsed,
        Err(reason) => Parsed::Usage(Some(reason)),
    }
}

fn parse_words(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
    let mut options = Options {
        control: DEFAULT_CONTROL.into(),
        compat_data: None,
        hub: false,
        tap: None,
        daemon: false,
        listen: Vec::new(),
        taps: Vec::new(),
    };
    let (mut status, mut json, mut ask) = (false, false, None);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some(option) = word.to_str() else { return Ok(Parsed::Usage(None)) };
        let mut value = || words.next().ok_or_else(|| format!("{option} needs a value"));
        match option {
            "-unix" => {
                options.control = value()?.into();
                if let Some(data) = &mut options.compat_data {
                    *data = value()?.into();
                }
            }
            "-compat-v0" => options.compat_data = Some(DEFAULT_DATA.into()),
            "-hub" => options.hub = true,
            "-tap" => {
                options.tap =
                    Some(value()?.into_string().map_err(|_| "-tap: not a name".to_owned())?);
            }
            "-daemon" => options.daemon = true,
            "--listen" => {
                let (path, membership) = with_membership(&value()?)?;
                options.listen.push(Listen { path: path.into(), membership });
            }
            "--tap" => {
                let (name, membership) = with_membership(&value()?)?;
                let name = name.into_string().map_err(|_| "--tap: not a name".to_owned())?;
                options.taps.push(Tap { name, membership });
            }
            "--status" => status = true,
            "--json" => json = true,
            "--capture" | "--vlan" => ask = Some(ask_with_value(option, &value()?)?),
            "--help" => return Ok(Parsed::Help),
            "--version" => return Ok(Parsed::Version),
            _ => return Ok(Parsed::Usage(None)),
        }
    }
    match (status, ask) {
        (true, Some(_)) => Err("--status, --capture and --vlan are asked for one at a time".into()),
        (true, None) => Ok(Parsed::Ask { control: options.control, ask: Ask::Status { json } }),
        (false, Some(ask)) if !json => Ok(Parsed::Ask { control: options.control, ask }),
        (false, None) if !json => Ok(Parsed::Serve(options)),
        _ => Err("--json goes with --status".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Parsed {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn classic_options() {
        let Parsed::Serve(o) = words("-compat-v0 -unix a b -hub -tap tap0 -daemon") else {
            panic!()
        };
        assert_eq!((o.control, o.compat_data), ("a".into(), Some("b".into())));
        assert!(o.hub && o.daemon && o.tap.as_deref() == Some("tap0"));
        // In the other order the second path is an unknown word.
        assert_eq!(words("-unix a b -compat-v0"), Parsed::Usage(None));
        assert_eq!(words("-x"), Parsed::Usage(None));
        assert!(matches!(words("-unix"), Parsed::Usage(Some(_))));
        let Parsed::Serve(o) = words("") else { panic!() };
        assert_eq!(o.control, PathBuf::from(DEFAULT_CONTROL));
    }

    #[test]
    fn long_options() {
        let Parsed::Serve(o) = words("--listen x,access:5 --listen y --tap t0,trunk:1+2/3") else {
            panic!()
        };
        assert_eq!(o.listen[0].membership.to_string(), "access:5");
        assert_eq!(o.listen[1].membership, Membership::default());
        assert_eq!(o.taps[0].membership.to_string(), "trunk:1-2/3");
        assert_eq!(
            words("-unix c --status --json"),
            Parsed::Ask { control: "c".into(), ask: Ask::Status { json: true } }
        );
        assert_eq!(
            words("--capture all=off"),
            Parsed::Ask {
                control: DEFAULT_CONTROL.into(),
                ask: Ask::Capture { port: None, file: None }
            }
        );
        for bad in [
            "--capture 5",
            "--capture x=f",
            "--vlan 5=hub",
            "--vlan all=access:1",
            "--json",
            "--listen x,vlan9",
        ] {
            assert!(matches!(words(bad), Parsed::Usage(Some(_))), "{bad}");
        }
    }
}
