//! Tab completion: commands, devices and channels, /proc files, pids, sysrq letters, file names, umids.
//!
//! What only some kernels have (commands beyond the stock ones, pids) is asked of the addressed kernel itself, briefly: one that does
//! not answer completes what every kernel has.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustyline::completion::{Completer, FilenameCompleter};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};
use uml_formats::mconsole::COMMANDS;

use crate::connection::exchange;
use crate::list::directories;
use crate::local;

/// How long a key may wait for the kernel.
const PATIENCE: Duration = Duration::from_millis(300);

/// The console of the addressed kernel; `switch` changes it.
pub type Addressed = Arc<Mutex<PathBuf>>;

/// The line editor's helper.
#[derive(Default)]
pub struct ConsoleHelper {
    addressed: Addressed,
    files: FilenameCompleter,
}

impl ConsoleHelper {
    /// Asks the kernel that `addressed` names at the time.
    pub fn new(addressed: Addressed) -> Self {
        Self { addressed, files: FilenameCompleter::new() }
    }
}

impl Helper for ConsoleHelper {}
impl Hinter for ConsoleHelper {
    type Hint = String;
}
impl Highlighter for ConsoleHelper {}
impl Validator for ConsoleHelper {}

impl Completer for ConsoleHelper {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let line = line.get(..pos).unwrap_or(line);
        if let Some(at) = file_name(line) {
            let (start, found) = self.files.complete_path(&line[at..], pos - at)?;
            return Ok((at + start, found.into_iter().map(|pair| pair.replacement).collect()));
        }
        let socket = self.addressed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(candidates(line, &|command| ask(&socket, command)))
    }
}

/// The kernel's answer to a command that changes nothing; empty when there is none.
fn ask(socket: &Path, command: &str) -> String {
    match exchange(socket, command.as_bytes(), None, Some(PATIENCE)) {
        Ok(reply) if reply.err == 0 => String::from_utf8_lossy(&reply.text).into_owned(),
        _ => String::new(),
    }
}

const DEVICES: [&str; 6] = ["ubd", "con", "ssl", "vec", "eth", "mem"];
/// Families with numbers, and how many of each there are.
const NUMBERED: [(&str, usize); 3] = [("ubd", 16), ("con", 16), ("ssl", 64)];
const CHANNELS: [&str; 8] = ["null", "none", "fd:", "tty:/dev/", "pty", "pts", "port:", "xterm"];
const SYSRQ: &str = "bcefhijklmnopqrRstuvwz0123456789";
/// Files every kernel has; the protocol cannot list a directory.
const PROC: [&str; 33] = [
    "buddyinfo",
    "cgroups",
    "cmdline",
    "consoles",
    "cpuinfo",
    "devices",
    "diskstats",
    "exitcode",
    "filesystems",
    "interrupts",
    "iomem",
    "kallsyms",
    "loadavg",
    "locks",
    "meminfo",
    "misc",
    "modules",
    "mounts",
    "net/arp",
    "net/dev",
    "net/route",
    "net/tcp",
    "net/udp",
    "net/unix",
    "partitions",
    "self/mounts",
    "slabinfo",
    "softirqs",
    "stat",
    "swaps",
    "uptime",
    "version",
    "vmstat",
];
/// Files of a process.
const PROC_PID: [&str; 10] =
    ["cmdline", "environ", "io", "limits", "maps", "mounts", "stat", "statm", "status", "wchan"];

/// Where the file name starts that the line ends with, if it does.
fn file_name(line: &str) -> Option<usize> {
    if let Some(rest) = line.strip_prefix("log -f ") {
        return Some(line.len() - rest.len());
    }
    let rest = line.strip_prefix("config ubd")?;
    let value = rest.find('=')? + 1;
    // The second file comes after a separator.
    let last = rest[value..].rfind([',', ':']).map_or(value, |at| value + at + 1);
    Some(line.len() - rest.len() + last)
}

/// Start of the word to complete and what it may become; `ask` asks the kernel.
fn candidates(line: &str, ask: &dyn Fn(&str) -> String) -> (usize, Vec<String>) {
    let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let word = line.get(start..).unwrap_or_default();
    let words: Vec<&str> = line.get(..start).unwrap_or_default().split_whitespace().collect();
    let all: Vec<String> = match words.as_slice() {
        [] => commands(&ask("help")),
        ["config"] if word.starts_with("con") && word.contains('=') => channels(word),
        ["config"] if word.starts_with("ssl") && word.contains('=') => channels(word),
        ["config" | "remove"] => devices(word),
        ["proc"] => match word.split_once('/') {
            Some((pid, _)) if pid.parse::<u32>().is_ok() => {
                PROC_PID.iter().map(|file| format!("{pid}/{file}")).collect()
            }
            _ => {
                let pids = pids(&ask("ps")).into_iter().map(|pid| pid + "/");
                // A list of everything is short enough to be read without the pids.
                let pids = pids.filter(|_| !word.is_empty());
                PROC.map(str::to_owned).into_iter().chain(pids).collect()
            }
        },
        ["sysrq"] => SYSRQ.chars().map(String::from).collect(),
        ["log"] => vec!["-f ".to_owned()],
        ["stack"] => pids(&ask("ps")),
        ["strace"] => pids(&ask("ps")).into_iter().map(|pid| pid + " ").collect(),
        ["strace", _] => ["on", "off", "-c"].map(str::to_owned).to_vec(),
        ["capture"] => ["start ", "stop "].map(str::to_owned).to_vec(),
        ["capture", "start"] => interfaces(&ask("net")),
        ["capture", "start", _, ..] => ["snaplen=", "count=", "size="].map(str::to_owned).to_vec(),
        ["capture", "stop"] => first_words(&ask("capture")),
        ["switch"] => directories()
            .iter()
            .filter_map(|dir| dir.list().ok())
            .flatten()
            .filter(|instance| instance.alive)
            .map(|instance| instance.umid)
            .collect(),
        _ => Vec::new(),
    };
    let mut found: Vec<String> = all.into_iter().filter(|name| name.starts_with(word)).collect();
    found.sort();
    found.dedup();
    (start, found)
}

/// Everything a line may start with, given the kernel's `help`.
fn commands(help: &str) -> Vec<String> {
    let stock = COMMANDS.iter().filter(|command| command.is_stock()).map(|command| command.name());
    // `    name ... - what it does`
    let listed =
        help.lines().filter_map(|line| line.strip_prefix("    ")?.split_whitespace().next());
    stock
        .chain(listed)
        .chain(local::NAMES.into_iter().filter(|name| *name != "umlfs"))
        .map(|name| format!("{name} "))
        .collect()
}

/// Families, and the numbers of the one that is typed.
fn devices(word: &str) -> Vec<String> {
    let numbered = |(family, count): (&str, usize)| {
        let typed = word.starts_with(family);
        (0..count).filter(move |_| typed).map(move |n| format!("{family}{n}")).collect::<Vec<_>>()
    };
    DEVICES.map(str::to_owned).into_iter().chain(NUMBERED.into_iter().flat_map(numbered)).collect()
}

/// `con1=`, and for a pair `con1=IN,`, followed by each kind of channel.
fn channels(word: &str) -> Vec<String> {
    let at = word.rfind(['=', ',']).map_or(0, |at| at + 1);
    CHANNELS.iter().map(|kind| format!("{}{kind}", &word[..at])).collect()
}

/// The second column of `ps`: threads, and so processes.
fn pids(ps: &str) -> Vec<String> {
    let tid = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    ps.lines().skip(1).filter_map(tid).collect()
}

/// The names that lines of `net` begin with, and `any`.
fn interfaces(net: &str) -> Vec<String> {
    let heads = net.lines().filter(|l| !l.starts_with(' ')).filter_map(|l| l.split_once(':'));
    heads.map(|(name, _)| name).chain(["any"]).map(|name| format!("{name} ")).collect()
}

fn first_words(text: &str) -> Vec<String> {
    text.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel with a command of its own and two tasks.
    fn kernel(command: &str) -> String {
        match command {
            "help" => "Commands: \n    version - Get kernel version \n    ps - List tasks\n".into(),
            "net" => "lo: up mtu 65536 address 00:00:00:00:00:00\n    127.0.0.1/8\n".into(),
            "capture" => "7 lo /tmp/x: 1 packets\n".into(),
            "ps" => {
                "  PID   TID  PPID S\n    1     1     0 S init\n   12    12     1 R cc1\n".into()
            }
            other => panic!("{other} was asked"),
        }
    }

    fn found(line: &str) -> Vec<String> {
        candidates(line, &kernel).1
    }

    #[test]
    fn words_are_completed_by_position() {
        assert_eq!(candidates("ver", &kernel), (0, vec!["version ".to_owned()]));
        assert_eq!(found("st"), ["stack ", "stop "]);
        assert_eq!(candidates("config u", &kernel), (7, vec!["ubd".to_owned()]));
        assert_eq!(found("proc net/t"), ["net/tcp"]);
        assert_eq!(found("sysrq t"), ["t"]);
        assert_eq!(found("sysrq R"), ["R"]);
        assert!(found("version x").is_empty());
    }

    #[test]
    fn what_the_kernel_has_beyond_the_stock_ones_is_asked() {
        assert_eq!(found("p"), ["proc ", "ps "]);
        let silent = |_: &str| String::new();
        assert_eq!(candidates("p", &silent).1, ["proc "]);
        // The stock commands, ours but `umlfs`; `help` and `log` are in both tables.
        assert_eq!(candidates("", &silent).1.len(), 13 + 4);
        assert_eq!(found("stack 1"), ["1", "12"]);
        assert_eq!(found("strace 12"), ["12 "]);
        assert_eq!(found("capture st"), ["start ", "stop "]);
        assert_eq!(found("capture start "), ["any ", "lo "]);
        assert_eq!(found("capture start lo co"), ["count="]);
        assert_eq!(found("capture stop "), ["7"]);
        assert_eq!(found("strace 12 o"), ["off", "on"]);
        assert_eq!(found("proc 1"), ["1/", "12/"]);
        assert_eq!(found("proc 12/st"), ["12/stat", "12/statm", "12/status"]);
    }

    #[test]
    fn devices_have_numbers_and_lines_have_channels() {
        assert_eq!(
            found("remove con1"),
            ["con1", "con10", "con11", "con12", "con13", "con14", "con15"]
        );
        assert_eq!(found("config con").len(), 1 + 16);
        assert_eq!(found("config ssl3=pt"), ["ssl3=pts", "ssl3=pty"]);
        assert_eq!(found("config con2=null,po"), ["con2=null,port:"]);
    }

    #[test]
    fn file_names_follow_where_the_command_has_one() {
        assert_eq!(file_name("log -f /et"), Some(7));
        assert_eq!(file_name("log x"), None);
        assert_eq!(file_name("config ubd0=/im"), Some(12));
        assert_eq!(file_name("config ubdar=cow,ba"), Some(17));
        assert_eq!(file_name("config con0=pts"), None);
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("image"), "").expect("file");
        let line = format!("config ubd0={}/im", dir.path().display());
        let history = rustyline::history::DefaultHistory::new();
        let helper = ConsoleHelper::default();
        let (start, found) =
            helper.complete(&line, line.len(), &Context::new(&history)).expect("completed");
        let whole = format!("{}{}", &line[..start], found[0]);
        assert_eq!((whole, found.len()), (line.clone() + "age", 1));
    }
}
