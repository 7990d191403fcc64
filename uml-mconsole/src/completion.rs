//! Tab completion: commands, devices, /proc files, sysrq letters, umids.

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};
use uml_formats::mconsole::COMMANDS;

use crate::list::directories;
use crate::local;

/// The line editor's helper.
#[derive(Debug, Default)]
pub struct ConsoleHelper;

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
        Ok(candidates(line.get(..pos).unwrap_or(line)))
    }
}

const DEVICES: [&str; 5] = ["ubd", "con", "ssl", "vec", "mem"];
const SYSRQ: &str = "bcefhijklmnopqrstuvwz0123456789";
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

/// Start of the word to complete and what it may become.
fn candidates(line: &str) -> (usize, Vec<String>) {
    let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let word = line.get(start..).unwrap_or_default();
    let words: Vec<&str> = line.get(..start).unwrap_or_default().split_whitespace().collect();
    let all: Vec<String> = match words.as_slice() {
        [] => COMMANDS
            .iter()
            .filter(|command| command.is_stock())
            .map(|command| command.name())
            // `help` and `log` are in both tables.
            .chain(local::NAMES.into_iter().filter(|name| !["help", "log", "umlfs"].contains(name)))
            .map(|name| format!("{name} "))
            .collect(),
        ["config" | "remove"] => DEVICES.map(str::to_owned).to_vec(),
        ["proc"] => PROC.map(str::to_owned).to_vec(),
        ["sysrq"] => SYSRQ.chars().map(String::from).collect(),
        ["log"] => vec!["-f ".to_owned()],
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
    (start, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_completed_by_position() {
        assert_eq!(candidates("ver"), (0, vec!["version ".to_owned()]));
        assert_eq!(candidates("st").1, ["stack ", "stop "]);
        assert_eq!(candidates("config u"), (7, vec!["ubd".to_owned()]));
        assert_eq!(candidates("proc net/t").1, ["net/tcp"]);
        assert_eq!(candidates("sysrq t").1, ["t"]);
        assert!(candidates("version x").1.is_empty());
        assert_eq!(candidates("").1.len(), 13 + 4);
    }
}
