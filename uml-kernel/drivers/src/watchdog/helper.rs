//! The process behind /dev/watchdog, this program called for it. Its words, its standard input and output and what it does at the
//! end are those of `uml_watchdog` of uml-utilities, so that a stock kernel can use it under that name.
//!
//! Besides, `-timeout SECONDS` and a line with a number on its input set the time, which is 60 s in the other one.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uml_formats::mconsole::{Notification, NotificationKind};
use uml_formats::unix_path::SocketPath;
use uml_host::datagram::Announcer;
use uml_host::process::Doomed;

/// The word that makes this program the helper.
pub const WORD: &str = "-watchdog";
/// Seconds without a sign of life that are waited for, unless something else is said.
pub const TIMEOUT: u32 = 60;
/// Between the steps that end a process.
const MERCY: Duration = Duration::from_secs(1);

/// Whom to tell.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// The process is interrupted, and killed if that does not end it.
    Process(i32),
    /// A socket is sent a notification.
    Listener(PathBuf),
}

#[derive(Debug, PartialEq, Eq)]
struct Order {
    target: Target,
    seconds: u32,
}

fn parse(words: &[&str]) -> Option<Order> {
    let (mut target, mut seconds) = (None, TIMEOUT);
    for pair in words.chunks(2) {
        match *pair {
            ["-pid", n] => {
                target = Some(Target::Process(n.parse().ok().filter(|n| *n > 1)?));
            }
            ["-mconsole", path] => target = Some(Target::Listener(path.into())),
            ["-timeout", n] => seconds = n.parse().ok().filter(|n| *n > 0)?,
            _ => return None,
        }
    }
    Some(Order { target: target?, seconds })
}

/// Waits for signs of life with `words` as the command line; the exit status. As in the other one, wrong words are status 1 and
/// silence.
pub fn run(words: &[&str]) -> u8 {
    let Some(order) = parse(words) else { return 1 };
    let doomed = match order.target {
        Target::Process(pid) => match Doomed::new(pid) {
            Ok(d) => Some(d),
            Err(_) => return 1,
        },
        Target::Listener(_) => None,
    };
    if io::stdout().write_all(&[0]).and_then(|()| io::stdout().flush()).is_err() {
        return 1;
    }
    match watch(&mut io::stdin().lock(), order.seconds) {
        Ok(true) => {}
        Ok(false) => return 0,
        Err(_) => return 1,
    }
    match (&order.target, doomed) {
        (Target::Listener(path), _) => announce(path),
        (Target::Process(_), Some(d)) => d.end(MERCY),
        (Target::Process(_), None) => {}
    }
    1
}

/// True when nothing came for too long, false at the end of the input.
fn watch(input: &mut (impl Read + AsFd), mut seconds: u32) -> io::Result<bool> {
    let mut buf = [0; 64];
    loop {
        let limit = Duration::from_secs(seconds.into());
        if !uml_host::stream::wait_readable(input.as_fd(), limit) {
            return Ok(true);
        }
        match input.read(&mut buf) {
            Ok(0) => return Ok(false),
            Ok(n) => seconds = last_number(&buf[..n]).unwrap_or(seconds),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The last line that is a number; the kernel writes lines whole.
fn last_number(lines: &[u8]) -> Option<u32> {
    let number = |l: &[u8]| str::from_utf8(l).ok()?.parse().ok().filter(|n| *n > 0);
    lines.split(|b| *b == b'\n').rev().find_map(number)
}

fn announce(path: &Path) {
    let hang = Notification { kind: NotificationKind::Hang, payload: Vec::new() }.encode();
    // Nobody is left to be told that nobody listens.
    let _ = SocketPath::new(path).and_then(|p| Announcer::new()?.send(p.as_path(), &hang));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_stock_program_and_a_time() {
        let listener = |seconds| Order { target: Target::Listener("/e".into()), seconds };
        assert_eq!(parse(&["-mconsole", "/e"]), Some(listener(60)));
        assert_eq!(parse(&["-mconsole", "/e", "-timeout", "3"]), Some(listener(3)));
        let process = Order { target: Target::Process(77), seconds: 60 };
        assert_eq!(parse(&["-pid", "77"]), Some(process));
        for bad in [&[][..], &["-pid"], &["-pid", "x"], &["-pid", "1"], &["-timeout", "3"]] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(parse(&["-mconsole", "/e", "-timeout", "0"]), None);
    }

    #[test]
    fn signs_of_life_times_and_the_end_are_told_apart() {
        let (mut r, mut w) = io::pipe().expect("pipe");
        w.write_all(b"\n\n").expect("write");
        let waits = std::thread::spawn(move || watch(&mut r, 3600));
        // The time is set to a second; then nothing comes any more.
        w.write_all(b"1\n").expect("write");
        assert!(waits.join().expect("thread").expect("watch"));
        let (mut r, w) = io::pipe().expect("pipe");
        drop(w);
        assert!(!watch(&mut r, 3600).expect("watch"));
        assert_eq!(last_number(b"\n12\n\n"), Some(12));
        assert_eq!(
            (last_number(b"\n"), last_number(b"0\n"), last_number(b"x7\n")),
            (None, None, None)
        );
    }
}
