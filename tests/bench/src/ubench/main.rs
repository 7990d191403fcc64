//! `ubench`: measures one kernel from inside, the same program natively and in every guest.
//!
//! Each metric is a JSON line `{"metric", "unit", "median", "min", "max", "rounds"}` on standard output. A round repeats the operation until
//! it takes a measurable time; the median of the rounds counts.
//!
//! Neighbour: `bench` (the driver that starts it in each place and compares). Checks of correctness do not belong here.

mod cpu;
mod files;
mod init;
mod ipc;
mod measure;
mod procs;
mod syscalls;

use measure::Bench;
use std::process::ExitCode;

const USAGE: &str = "\
usage: ubench run [--rounds N] [--millis N] [--only NAME,...] [--dir DIR]
       ubench list                        names of the metrics
       ubench time NAME ROUNDS CMD ARG... wall time of a command
       ubench boot                        say that init runs, then end (boot time)
       ubench idle                        a shell that waits, for the memory of an idle guest
       ubench as-init WORDS...            as process 1: mount, run `ubench WORDS`, power off
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            for (name, _) in metrics() {
                println!("{name}");
            }
            ExitCode::SUCCESS
        }
        ["run", rest @ ..] => run(rest),
        ["time", name, rounds, cmd @ ..] if !cmd.is_empty() => match rounds.parse() {
            Ok(n) => measure::time_command(name, n, cmd),
            Err(_) => usage("ROUNDS must be a number"),
        },
        ["boot"] => {
            println!("UBENCH INIT RUNS");
            ExitCode::SUCCESS
        }
        ["idle"] => init::idle(),
        ["as-init", rest @ ..] => init::as_init(rest),
        ["--help" | "-h"] => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => usage("unknown words"),
    }
}

fn usage(why: &str) -> ExitCode {
    eprint!("ubench: {why}\n{USAGE}");
    ExitCode::from(2)
}

type Metric = (&'static str, fn(&Bench));

/// Every metric in the order of the table.
fn metrics() -> Vec<Metric> {
    vec![
        ("getppid", syscalls::getppid),
        ("clock_gettime", syscalls::clock_gettime),
        ("read_write_1", syscalls::read_write),
        ("stat", syscalls::stat),
        ("open_read_close", syscalls::open_read_close),
        ("pipe_pingpong", ipc::pipe_pingpong),
        ("futex_pingpong", ipc::futex_pingpong),
        ("fork_exit", procs::fork_exit),
        ("vfork_exec", procs::vfork_exec),
        ("thread_create_join", procs::thread_create_join),
        ("page_fault", procs::page_fault),
        ("mmap_munmap", procs::mmap_munmap),
        ("signal_self", syscalls::signal_self),
        ("unix_stream", ipc::unix_stream),
        ("file_write", files::write),
        ("file_write_fsync", files::write_fsync),
        ("file_read_hot", files::read_hot),
        ("create_write_unlink", files::create_write_unlink),
        ("write4k_fsync", files::write4k_fsync),
        ("compute_scalar", cpu::scalar),
        ("compute_vector", cpu::vector),
        ("compute_two_threads", cpu::two_threads),
        ("tasks_4096", procs::tasks_4096),
    ]
}

fn run(words: &[&str]) -> ExitCode {
    let mut b = Bench::default();
    let mut only: Option<Vec<String>> = None;
    let mut it = words.iter();
    while let Some(w) = it.next() {
        let value = it.next();
        let done = match (*w, value) {
            ("--rounds", Some(v)) => v.parse().map(|n| b.rounds = n).is_ok(),
            ("--millis", Some(v)) => v.parse().map(|n| b.millis = n).is_ok(),
            ("--dir", Some(v)) => {
                b.dir = v.to_string();
                true
            }
            ("--only", Some(v)) => {
                only = Some(v.split(',').map(String::from).collect());
                true
            }
            _ => false,
        };
        if !done {
            return usage(&format!("bad option '{w}'"));
        }
    }
    let known = metrics();
    if let Some(bad) = only.iter().flatten().find(|o| !known.iter().any(|(n, _)| n == o)) {
        return usage(&format!("no metric '{bad}'; `ubench list` names them"));
    }
    for (name, f) in known {
        if only.as_ref().is_none_or(|o| o.iter().any(|x| x == name)) {
            f(&b);
        }
    }
    ExitCode::SUCCESS
}
