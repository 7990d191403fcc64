//! The command line: words in, typed options out.
//!
//! Rules, removals and error texts follow the interface specification of the UML kernel's command line: words
//! are tested in order against the early options by prefix; what they do not consume is joined to the
//! guest's /proc/cmdline.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::help;
use crate::netconfig::IpOption;

/// Longest guest command line with its terminator.
const COMMAND_LINE_SIZE: usize = 4096;
/// `mem=` default.
const DEFAULT_MEM: u64 = 64 << 20;

/// `seccomp=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seccomp {
    On,
    Auto,
    Off,
}

/// Everything the boot needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Bytes, whole pages.
    pub mem: u64,
    pub umid: Option<String>,
    /// A second `umid=` was seen.
    pub umid_again: bool,
    pub uml_dir: Option<String>,
    pub uml_dir_empty: bool,
    /// Device or `/dev/root`; `98:0` when not given.
    pub root: String,
    pub rootfstype: Option<String>,
    /// Wait for the root's disk to be there.
    pub root_wait: bool,
    /// Seconds before the root is looked for.
    pub root_delay: u32,
    pub rootflags: String,
    /// Mount the root read-only; the default, as on Linux, unless `rw` is given.
    pub read_only: bool,
    /// Cover the root with a throw-away writable layer (`rootoverlay=tmpfs`).
    pub root_overlay: bool,
    pub init: Option<Vec<u8>>,
    pub init_args: Vec<Vec<u8>>,
    pub init_env: Vec<Vec<u8>>,
    pub initrd: Option<String>,
    /// First program of an initramfs (`rdinit=`).
    pub rdinit: Vec<u8>,
    pub hostfs_root: String,
    pub hostfs_append: bool,
    pub hostfs_unknown: Vec<String>,
    /// `con=`, `conN=` in order, without the `con`.
    pub consoles: Vec<String>,
    /// `ssl=`, `sslN=` in order, without the `ssl`.
    pub serial_lines: Vec<String>,
    pub ssl_non_raw: bool,
    /// `xterm=`; empty for the default.
    pub xterm: String,
    /// `console=`: which lines are kernel consoles.
    pub log_consoles: Vec<String>,
    /// `stderr=1` or `earlyprintk`.
    pub log_stderr: bool,
    /// Lines of the log begin with the time (`printk.time=`).
    pub log_stamps: bool,
    /// `ubd...` in order, without the `ubd`.
    pub disks: Vec<String>,
    /// `vec...` in order, without the `vec`.
    pub vectors: Vec<String>,
    /// `eth...` in order, without the `eth`.
    pub legacy_nets: Vec<String>,
    /// `ip=`: an interface configured before init runs.
    pub ip: Option<IpOption>,
    pub seccomp: Seccomp,
    /// `platform=`: a backend by name.
    pub platform: Option<String>,
    pub ncpus: Option<usize>,
    pub quiet: bool,
    /// Console log level (`loglevel=`, `quiet`, `debug`).
    pub loglevel: u8,
    pub noreboot: bool,
    /// Exit status when the guest asks for a reboot and `noreboot` is given (`rebootstatus=`); that of a halt when none.
    pub reboot_status: Option<u8>,
    /// Print every system call to the kernel log.
    pub strace: bool,
    /// Descriptors init gets directly instead of the console, as `0`, `1`, `2` in `stdio=`.
    pub stdio: [bool; 3],
    /// `initargs=fd:<n>`: init's arguments and environment come from this descriptor too.
    pub init_fd: Option<i32>,
    /// `mconsole=notify:<socket>`, the socket.
    pub notify: Option<String>,
    /// /proc/cmdline.
    pub command_line: String,
    /// Words to mention in the log as passed to user space.
    pub unknown: Vec<String>,
    /// Log lines about options that were wrong but not fatal.
    pub complaints: Vec<String>,
}

/// What to do after parsing.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Boot(Box<Options>),
    /// Print on stdout, exit 0.
    Print(String),
    /// Print on stderr, exit 1.
    Fail(String),
}

/// A number with C base prefixes and an optional size suffix; what follows is ignored (memparse()).
pub fn memparse(s: &str) -> u64 {
    let (radix, digits) = match s.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &s[2..]),
        [b'0', b'0'..=b'7', ..] => (8, &s[1..]),
        _ => (10, s),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let n =
        u64::from_str_radix(&digits[..end], radix).unwrap_or(if end == 0 { 0 } else { u64::MAX });
    let shift = match digits[end..].chars().next() {
        Some('k' | 'K') => 10,
        Some('m' | 'M') => 20,
        Some('g' | 'G') => 30,
        Some('t' | 'T') => 40,
        Some('p' | 'P') => 50,
        Some('e' | 'E') => 60,
        _ => 0,
    };
    n.checked_shl(shift).filter(|v| v >> shift == n).unwrap_or(u64::MAX)
}

/// Words the generic kernel knows: they are not passed to init.
pub const GENERIC: &[&str] = &[
    "root",
    "rootfstype",
    "rootflags",
    "rootwait",
    "rootdelay",
    "ro",
    "rw",
    "init",
    "rdinit",
    "console",
    "quiet",
    "debug",
    "loglevel",
    "panic",
    "noinitrd",
    "con",
    "ssl",
    "ubd",
    "udb",
    "fake_ide",
    "mconsole",
    "vec",
    "eth",
    "ip",
    "stderr",
    "earlyprintk",
    "printk.time",
    "nosmp",
    "maxcpus",
    "strace",
    "rootoverlay",
    "stdio",
    "ssl-non-raw",
];

/// Words that the UML binary itself interprets, by prefix.
#[cfg(test)]
pub const EARLY: &[&str] = &[
    "--version",
    "--help",
    "--showconfig",
    "mem",
    "umid",
    "uml_dir",
    "initrd",
    "hostfs",
    "seccomp",
    "platform",
    "ncpus",
    "initargs",
    "quiet",
    "rebootstatus",
    "noreboot",
    "xterm",
];

fn known_to_kernel(word: &str) -> bool {
    let name = word.split('=').next().unwrap_or(word);
    let base = name.trim_end_matches(|c: char| c.is_ascii_digit());
    GENERIC.contains(&name)
        || ["con", "ssl"].contains(&base)
        || word.starts_with("ubd")
        || word.starts_with("udb")
        || ["vec", "eth"].iter().any(|p| word.starts_with(p) && name.len() > 3)
        || name.contains('.')
}

/// Splits a joined command line again as the kernel's own parser does: at blanks, with double quotes
/// keeping them.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    let mut any = false;
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                any = true;
            }
            c if c.is_whitespace() && !quoted => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => {
                word.push(c);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    words
}

impl Default for Options {
    fn default() -> Self {
        Options {
            mem: DEFAULT_MEM,
            umid: None,
            umid_again: false,
            uml_dir: None,
            uml_dir_empty: false,
            root: "98:0".into(),
            rootfstype: None,
            root_wait: false,
            root_delay: 0,
            rootflags: String::new(),
            read_only: true,
            root_overlay: false,
            init: None,
            init_args: Vec::new(),
            init_env: vec![b"HOME=/".to_vec(), b"TERM=linux".to_vec()],
            initrd: None,
            rdinit: b"/init".to_vec(),
            hostfs_root: "/".into(),
            hostfs_append: false,
            hostfs_unknown: Vec::new(),
            consoles: Vec::new(),
            serial_lines: Vec::new(),
            ssl_non_raw: false,
            xterm: String::new(),
            log_consoles: Vec::new(),
            log_stderr: false,
            log_stamps: true,
            disks: Vec::new(),
            vectors: Vec::new(),
            legacy_nets: Vec::new(),
            ip: None,
            seccomp: Seccomp::Auto,
            platform: None,
            ncpus: None,
            quiet: false,
            loglevel: 7,
            noreboot: false,
            reboot_status: None,
            strace: false,
            stdio: [false; 3],
            init_fd: None,
            notify: None,
            command_line: String::new(),
            unknown: Vec::new(),
            complaints: Vec::new(),
        }
    }
}

impl Options {
    fn limit_cpus(&mut self, most: usize) {
        self.ncpus = Some(self.ncpus.map_or(most, |n| n.min(most)));
    }
}

/// Parses the arguments (without the program name).
pub fn parse(args: impl Iterator<Item = OsString>) -> Action {
    let mut o = Options::default();
    let mut kept: Vec<String> = Vec::new();
    for (i, raw) in args.enumerate() {
        let word = String::from_utf8_lossy(&raw.into_vec()).into_owned();
        // A first word that starts with a blank is skipped entirely.
        if i == 0 && word.starts_with(' ') {
            continue;
        }
        match early(&mut o, &word) {
            Early::Removed => {}
            Early::Kept => kept.push(word),
            Early::Done(action) => return action,
        }
    }
    if !kept.iter().any(|w| w.starts_with("root=")) {
        kept.push("root=98:0".into());
    }
    if !kept.iter().any(|w| w.starts_with("console=")) {
        kept.push("console=tty0".into());
    }
    let line = kept.join(" ");
    if line.len() + 1 > COMMAND_LINE_SIZE {
        return Action::Fail("add_arg: Too many command line arguments!\n".into());
    }
    late(&mut o, &line);
    o.command_line = line;
    Action::Boot(Box::new(o))
}

enum Early {
    Removed,
    Kept,
    Done(Action),
}

/// The options the UML binary itself interprets.
fn early(o: &mut Options, word: &str) -> Early {
    let value = |prefix: &str| word.strip_prefix(prefix).map(str::to_owned);
    if word.starts_with("--version") {
        return Early::Done(Action::Print(format!("{}\n", uml_core::version::RELEASE)));
    }
    if word.starts_with("--help") {
        return Early::Done(Action::Print(help::text()));
    }
    if word.starts_with("--showconfig") {
        return Early::Done(Action::Print(help::config()));
    }
    if let Some(v) = value("mem=") {
        o.mem = memparse(&v).checked_next_multiple_of(4096).unwrap_or(!4095);
        return Early::Removed;
    }
    if let Some(v) = value("umid=") {
        if o.umid.is_some() {
            o.umid_again = true;
            return Early::Kept;
        }
        o.umid = Some(v);
        return Early::Removed;
    }
    if let Some(v) = value("uml_dir=") {
        if v.is_empty() {
            o.uml_dir_empty = true;
        } else {
            o.uml_dir = Some(v);
        }
        return Early::Removed;
    }
    if let Some(v) = value("initrd=") {
        o.initrd = Some(v);
        return Early::Removed;
    }
    if let Some(v) = value("hostfs=") {
        let mut parts = v.split(',');
        if let Some(root) = parts.next().filter(|r| !r.is_empty()) {
            o.hostfs_root = root.into();
        }
        for flag in parts {
            if flag == "append" {
                o.hostfs_append = true;
            } else {
                o.hostfs_unknown.push(flag.into());
            }
        }
        return Early::Removed;
    }
    if let Some(v) = value("seccomp=") {
        o.seccomp = match v.as_str() {
            "on" => Seccomp::On,
            "auto" => Seccomp::Auto,
            "off" => Seccomp::Off,
            _ => {
                let m = format!("Invalid seccomp option '{v}', expected on/auto/off\n");
                return Early::Done(Action::Fail(m));
            }
        };
        return Early::Removed;
    }
    if let Some(v) = value("platform=") {
        if !["notify", "trap", "ptrace"].contains(&v.as_str()) {
            let m = format!("Invalid platform option '{v}', expected notify/trap/ptrace\n");
            return Early::Done(Action::Fail(m));
        }
        o.platform = Some(v);
        return Early::Removed;
    }
    if let Some(v) = value("ncpus=") {
        match v.parse::<usize>() {
            Ok(n) => o.ncpus = Some(n.max(1)),
            Err(_) => o.complaints.push(format!("uml_ncpus_setup: Couldn't parse '{v}'")),
        }
        return Early::Removed;
    }
    if let Some(v) = value("initargs=") {
        match v.strip_prefix("fd:").and_then(|n| n.parse::<i32>().ok()) {
            Some(n) if n >= 0 => o.init_fd = Some(n),
            _ => {
                let m = format!("Invalid initargs option '{v}', expected fd:<number>\n");
                return Early::Done(Action::Fail(m));
            }
        }
        return Early::Removed;
    }
    if word.starts_with("quiet") {
        o.quiet = true;
        o.loglevel = 4;
        return Early::Kept;
    }
    if let Some(v) = value("rebootstatus=") {
        o.reboot_status = v.parse().ok();
        if o.reboot_status.is_none() {
            o.complaints.push(format!("rebootstatus={v}: expected 0 to 255"));
        }
        return Early::Removed;
    }
    if word.starts_with("noreboot") {
        o.noreboot = true;
        return Early::Removed;
    }
    if let Some(v) = word.strip_prefix("xterm=") {
        o.xterm = v.into();
        return Early::Removed;
    }
    Early::Kept
}

/// The guest kernel's own parser: words before `--`, then init's arguments.
fn late(o: &mut Options, line: &str) {
    let mut words = split(line).into_iter();
    for word in words.by_ref() {
        if word == "--" {
            break;
        }
        let (name, value) = match word.split_once('=') {
            Some((n, v)) => (n, Some(v)),
            None => (word.as_str(), None),
        };
        match (name, value) {
            ("root", Some(v)) => o.root = v.into(),
            ("rootfstype", Some(v)) => o.rootfstype = Some(v.into()),
            ("rootflags", Some(v)) => o.rootflags = v.into(),
            ("rootwait", None) => o.root_wait = true,
            ("rootdelay", Some(v)) => match v.parse() {
                Ok(n) => o.root_delay = n,
                Err(_) => o.complaints.push(format!("rootdelay={v}: expected a number of seconds")),
            },
            ("ro", None) => o.read_only = true,
            ("rw", None) => o.read_only = false,
            ("rdinit", Some(v)) => o.rdinit = v.as_bytes().to_vec(),
            ("init", Some(v)) => o.init = Some(v.as_bytes().to_vec()),
            ("loglevel", Some(v)) => match v.parse() {
                Ok(n) if n <= 8 => o.loglevel = n,
                _ => o.complaints.push(format!("loglevel={v}: expected a number from 0 to 8")),
            },
            ("ip", Some(v)) => match IpOption::parse(v) {
                Ok(ip) => o.ip = ip,
                Err(e) => o.complaints.push(e),
            },
            // Linux' own words for fewer processors; none at all is one.
            ("nosmp", None) => o.limit_cpus(1),
            ("maxcpus", Some(v)) => match v.parse::<usize>() {
                Ok(n) => o.limit_cpus(n.max(1)),
                Err(_) => o.complaints.push(format!("maxcpus={v}: expected a number")),
            },
            ("noinitrd", None) => o.initrd = None,
            ("printk.time", v) => match v.map_or(Some(true), boolean) {
                Some(on) => o.log_stamps = on,
                None => o.complaints.push(format!("{word}: expected 0 or 1")),
            },
            ("debug", None) => o.loglevel = 8,
            ("strace", None) => o.strace = true,
            ("rootoverlay", Some("tmpfs")) => o.root_overlay = true,
            ("rootoverlay", Some(v)) => {
                o.complaints.push(format!("rootoverlay={v}: expected tmpfs"));
            }
            ("stdio", Some(v)) => {
                for fd in v.split(',') {
                    match fd.parse::<usize>() {
                        Ok(n) if n < 3 => o.stdio[n] = true,
                        _ => o.complaints.push(format!("stdio={v}: expected a list of 0, 1 and 2")),
                    }
                }
            }
            ("mconsole", Some(v)) => match v.strip_prefix("notify:") {
                Some(path) => o.notify = Some(path.into()),
                None => o.complaints.push(format!("mconsole_setup : Unknown option - '{v}'")),
            },
            ("ssl-non-raw", None) => o.ssl_non_raw = true,
            ("fake_ide", _) => o.complaints.push("The fake_ide option has been removed".into()),
            _ if word.starts_with("udb") => o.complaints.push(format!(
                "udb{} specified on command line is almost certainly a ubd -> udb TYPO",
                &word[3..]
            )),
            _ if word.starts_with("ubd") => o.disks.push(word[3..].into()),
            _ if word
                .strip_prefix("vec")
                .is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit())) =>
            {
                o.vectors.push(word[3..].into());
            }
            _ if word
                .strip_prefix("eth")
                .is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit())) =>
            {
                o.legacy_nets.push(word[3..].into());
            }
            ("console", Some(v)) => o.log_consoles.push(v.into()),
            ("stderr", Some("1")) | ("earlyprintk", _) => o.log_stderr = true,
            _ if name == "console" => {}
            _ if name.starts_with("con") && is_line(&name[3..]) && value.is_some() => {
                o.consoles.push(word[3..].into());
            }
            _ if name.starts_with("ssl") && is_line(&name[3..]) && value.is_some() => {
                o.serial_lines.push(word[3..].into());
            }
            _ if known_to_kernel(&word) => {}
            (_, Some(_)) => {
                o.unknown.push(word.clone());
                let key = format!("{name}=");
                o.init_env.retain(|e| !e.starts_with(key.as_bytes()));
                o.init_env.push(word.into_bytes());
            }
            (_, None) => {
                o.unknown.push(word.clone());
                o.init_args.push(word.into_bytes());
            }
        }
    }
    o.init_args.extend(words.map(String::into_bytes));
}

/// A boolean parameter, as modules of Linux take it (kernel-parameters: kstrtobool()).
fn boolean(t: &str) -> Option<bool> {
    match t.as_bytes() {
        [b'1' | b'y' | b'Y' | b't' | b'T', ..] | [b'o' | b'O', b'n' | b'N', ..] => Some(true),
        [b'0' | b'n' | b'N' | b'f' | b'F', ..] | [b'o' | b'O', b'f' | b'F', ..] => Some(false),
        _ => None,
    }
}

fn is_line(n: &str) -> bool {
    n.is_empty() || n.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(words: &[&str]) -> Options {
        match parse(words.iter().map(OsString::from)) {
            Action::Boot(o) => *o,
            other => panic!("expected a boot, got {other:?}"),
        }
    }

    #[test]
    fn sizes_take_prefixes_and_suffixes() {
        assert_eq!(memparse("2048M"), 2 << 30);
        assert_eq!(memparse("0x10k"), 16384);
        assert_eq!(memparse("010"), 8);
        assert_eq!(memparse("abc"), 0);
        assert_eq!(memparse("99999999999999999999"), u64::MAX);
    }

    #[test]
    fn removed_words_do_not_reach_the_guest() {
        let o = boot(&["mem=128M", "umid=a", "seccomp=on", "ubd0=x.cow,x", "quiet"]);
        assert_eq!(o.command_line, "ubd0=x.cow,x quiet root=98:0 console=tty0");
        assert_eq!(o.mem, 128 << 20);
        assert_eq!(o.disks, ["0=x.cow,x"]);
        assert!(o.quiet);
    }

    #[test]
    fn words_after_the_dashes_go_to_init() {
        let o = boot(&["root=/dev/ubda", "FOO=1", "single", "--", "-c", "\"a; b\""]);
        assert_eq!(
            o.init_args,
            [b"single".to_vec(), b"-c".to_vec(), b"a; b".to_vec(), b"console=tty0".to_vec()]
        );
        assert!(o.init_env.contains(&b"FOO=1".to_vec()));
    }

    #[test]
    fn information_options_match_by_prefix() {
        let p = parse(["x".into(), "--versionfoo".into()].into_iter());
        assert!(matches!(p, Action::Print(v) if v.ends_with('\n')));
        assert!(matches!(parse(["seccomp=foo".into()].into_iter()), Action::Fail(_)));
    }

    #[test]
    fn linux_words_have_their_effect() {
        assert_eq!(boot(&["nosmp"]).ncpus, Some(1));
        assert_eq!(boot(&["ncpus=4", "maxcpus=2"]).ncpus, Some(2));
        assert_eq!(boot(&["ncpus=2", "maxcpus=4"]).ncpus, Some(2));
        assert_eq!(boot(&["maxcpus=0"]).ncpus, Some(1));
        assert_eq!(boot(&["initrd=x", "noinitrd"]).initrd, None);
        for (word, on) in
            [("printk.time", true), ("printk.time=0", false), ("printk.time=off", false)]
        {
            assert_eq!(boot(&[word]).log_stamps, on, "{word}");
        }
        for word in ["maxcpus=x", "printk.time=2"] {
            let complaints = boot(&[word]).complaints;
            assert!(complaints.len() == 1 && complaints[0].starts_with(word), "{complaints:?}");
        }
    }

    #[test]
    fn a_second_umid_stays() {
        let o = boot(&["umid=a", "umid=b"]);
        assert_eq!(o.umid.as_deref(), Some("a"));
        assert!(o.umid_again && o.command_line.starts_with("umid=b"));
    }
}
