//! `mconsole`: starts kernels and reaches them from outside as operators do.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use mconsole_tests::{
    flow, helpers, homes, hostile, keys, names, pairs, pause, restored, sessions, watch, watchdog,
};
use storage_tests::suite::{Suite, Verdict};

const USAGE: &str = "\
usage: mconsole [--list] [TEST...]

Without names every test is run. What a test needs and does not find (stock kernels, tmux, a telnet client, xterm, Xvfb) it
says, and is skipped.
";

type Test = fn(&Path) -> Verdict;

const ALL: &[(&str, Test)] = &[
    ("pairs", pairs::clients_and_kernels),
    ("hostile", hostile::datagrams),
    ("names", names::concurrent),
    ("long-names", homes::long_paths),
    ("homes", homes::without_and_unusable),
    ("locks", homes::directories_without_locks),
    ("restored", restored::terminals),
    ("watchdog", watchdog::times_out),
    ("helpers", helpers::of_stock_kernels),
    ("pause", pause::stop_and_go),
    ("keys", keys::every_letter),
    ("watch", watch::tells),
    ("flow", flow::paste_and_flood),
    ("gettys", flow::gettys),
    ("repl", sessions::repl),
    ("session-fd", sessions::on_fd),
    ("session-pts", sessions::on_pts),
    ("session-pty", sessions::on_pty),
    ("session-tty", sessions::on_tty),
    ("session-port", sessions::on_port),
    ("session-xterm", sessions::in_xterm),
];

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    for n in &names {
        match n.as_str() {
            "--list" => {
                ALL.iter().for_each(|(name, _)| println!("{name}"));
                return ExitCode::SUCCESS;
            }
            "--help" | "-h" => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            n if ALL.iter().any(|(name, _)| *name == n) => {}
            n => {
                eprintln!("mconsole: no test '{n}'; --list names them");
                return ExitCode::from(2);
            }
        }
    }
    let mut suite = Suite::default();
    for (name, test) in ALL.iter().filter(|(n, _)| names.is_empty() || names.iter().any(|w| w == n))
    {
        // Short: the sockets' names must fit an address.
        match tempfile::Builder::new().prefix("mc").tempdir_in("/var/tmp") {
            Ok(dir) => suite.run(name, || test(dir.path())),
            Err(e) => suite.run(name, || Verdict::Failed(format!("/var/tmp: {e}"))),
        }
    }
    if suite.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
