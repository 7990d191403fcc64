//! Runs a command to its end, with a bound on its time.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How a command ended and what it wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Exit status; 128+n when a signal ended it.
    pub status: i32,
    pub timed_out: bool,
}

/// Runs `argv` with empty standard input. A command that takes longer than `limit` is killed with its process group.
pub fn run(argv: &[String], limit: Duration) -> Result<Outcome, String> {
    let (name, args) = argv.split_first().ok_or("no command")?;
    use std::os::unix::process::CommandExt;
    let mut child = Command::new(name)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| format!("cannot start {name}: {e}"))?;
    let pid = child.id();
    let reader = |mut r: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut b = Vec::new();
            // What came before an error is still worth comparing.
            let _ = r.read_to_end(&mut b);
            b
        })
    };
    let out = child.stdout.take().map(|r| reader(Box::new(r)));
    let err = child.stderr.take().map(|r| reader(Box::new(r)));
    let (tx, rx) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let s = child.wait();
        let _ = tx.send(());
        s
    });
    let timed_out = rx.recv_timeout(limit).is_err();
    if timed_out {
        let group = format!("-{pid}");
        let killed = Command::new("kill").args(["-KILL", "--", &group]).status();
        killed.map_err(|e| format!("cannot end {name} after its time: {e}"))?;
    }
    let status = waiter
        .join()
        .map_err(|_| "the waiting thread failed".to_string())?
        .map_err(|e| format!("cannot wait for {name}: {e}"))?;
    let join = |t: Option<std::thread::JoinHandle<Vec<u8>>>| {
        t.and_then(|t| t.join().ok()).unwrap_or_default()
    };
    Ok(Outcome {
        stdout: join(out),
        stderr: join(err),
        status: status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(-1),
        timed_out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Outcome {
        run(&["sh".into(), "-c".into(), script.into()], limit).unwrap()
    }

    #[test]
    fn collects_both_streams_and_the_status() {
        let o = sh("echo out; echo err >&2; exit 7", Duration::from_secs(20));
        assert_eq!((o.stdout, o.stderr, o.status), (b"out\n".to_vec(), b"err\n".to_vec(), 7));
    }

    #[test]
    fn a_signal_is_128_plus_its_number() {
        assert_eq!(sh("kill -TERM $$", Duration::from_secs(20)).status, 128 + 15);
    }

    #[test]
    fn takes_too_long() {
        let o = sh("echo started; sleep 1000", Duration::from_millis(300));
        assert!(o.timed_out);
        assert_eq!(o.stdout, b"started\n");
    }

    #[test]
    fn a_missing_program_is_named() {
        let e = run(&["/no/such/program".into()], Duration::from_secs(1)).unwrap_err();
        assert!(e.contains("/no/such/program"), "{e}");
    }
}
