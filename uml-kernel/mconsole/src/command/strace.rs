//! `strace PID on|off|-c`: system calls of a process in the kernel log, or counted.

use uml_formats::mconsole::argument;
use uml_syscalls::trace;

use super::stack::leading_number;
use crate::server::Client;

const USAGE: &str = "usage: strace <pid> on|off|-c";
const NO_PROCESS: &str = "Couldn't find that pid";

pub fn run(rest: &[u8], client: &Client<'_>) {
    let words: Vec<&[u8]> =
        argument(rest).split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()).collect();
    let [pid, what] = words[..] else { return client.fail(USAGE) };
    let Some(pid) = leading_number(pid) else { return client.fail(USAGE) };
    let exists = || client.kernel().tree.read().get(pid).is_some();
    match what {
        b"on" if !exists() => client.fail(NO_PROCESS),
        b"on" if !trace::print_process(pid) => client.fail("Already traced"),
        b"on" => client.ok(""),
        b"off" => match trace::forget_process(pid) {
            Some(table) => client.ok(table),
            None => client.fail("Not traced"),
        },
        // The first one starts to count, later ones show the table so far; it outlives the process.
        b"-c" => match trace::counted(pid) {
            Some(table) => client.ok(table),
            None if !exists() => client.fail(NO_PROCESS),
            None => {
                trace::count_process(pid);
                client.ok("");
            }
        },
        _ => client.fail(USAGE),
    }
}
