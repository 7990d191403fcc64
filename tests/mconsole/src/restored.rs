//! The settings of the terminal that a machine's console is on come back, however the machine ends.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use storage_tests::suite::{Verdict, program};

use crate::keys::until;
use crate::machine::executable;
use crate::request;
use crate::tmux::Window;

/// Ways out of a machine.
#[derive(Clone, Copy, Debug)]
enum End {
    Halt,
    Reboot,
    Panic,
    Signal(Signal),
}

const ENDS: [End; 6] = [
    End::Halt,
    End::Reboot,
    End::Panic,
    End::Signal(Signal::SIGTERM),
    End::Signal(Signal::SIGINT),
    End::Signal(Signal::SIGKILL),
];

fn one(dir: &Path, n: usize, end: End) -> Result<(), String> {
    let dir = dir.join(format!("e{n}"));
    fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    let linux = program("linux").ok_or("linux is not built")?;
    let d = dir.display();
    executable(&dir.join("init"), "#!/bin/sh\necho up; exec sleep 100000\n")?;
    // Of a SIGKILL the shell may know before the settings are back.
    let command = format!(
        "stty -a > {d}/before; {} mem=64M quiet root=/dev/root rootfstype=hostfs rootflags=/ con=null ssl=null con0=fd:0,fd:1 \
         uml_dir={d}/uml/ umid=r init={d}/init; echo status $?; \
         for i in $(seq 400); do stty -a > {d}/after; cmp -s {d}/before {d}/after && break; sleep 0.05; done; echo ended",
        linux.display()
    );
    let w = Window::open(&dir, "r", &command)?;
    w.see_line("up")?;
    let raw = || -> Result<bool, String> {
        let device = w.tty()?;
        let out = std::process::Command::new("stty").args(["-a", "-F", &device]).output();
        Ok(String::from_utf8_lossy(&out.map_err(|e| e.to_string())?.stdout).contains("-icanon"))
    };
    if !raw()? {
        return Err("the console's terminal is not in raw mode".into());
    }
    let uml = dir.join("uml/r");
    let ask = |command: &str| request::ask(&uml.join("mconsole"), command).map(|_| ());
    // Somebody else's settings, and back.
    let sane = std::process::Command::new("stty").args(["-F", &w.tty()?, "sane"]).status();
    if !sane.map_err(|e| e.to_string())?.success() || raw()? {
        return Err("stty(1) does not end raw mode".into());
    }
    ask("sysrq v")?;
    if !raw()? {
        return Err("no raw mode after sysrq v".into());
    }
    let pid = fs::read_to_string(uml.join("pid")).map_err(|e| e.to_string())?;
    let pid: i32 = pid.trim().parse().map_err(|_| format!("pid {pid:?}"))?;
    match end {
        End::Halt => ask("halt")?,
        End::Panic => ask("sysrq c")?,
        End::Reboot => {
            w.clear()?;
            ask("reboot")?;
            w.see_line("up")?;
            until(raw, "no raw mode after a reboot")?;
            ask("halt")?;
        }
        End::Signal(s) => kill(Pid::from_raw(pid), s).map_err(|e| e.to_string())?,
    }
    // In raw mode a line does not begin at the left.
    w.see("the end", |s| s.lines().any(|l| l.trim() == "ended"))?;
    let of = |f: &str| fs::read_to_string(dir.join(f)).map_err(|e| format!("{f}: {e}"));
    if of("before")? == of("after")? { Ok(()) } else { Err("left in another mode".into()) }
}

/// Every way out, SIGKILL among them.
pub fn terminals(dir: &Path) -> Verdict {
    if program("tmux").is_none() {
        return Verdict::Skipped("tmux is not installed".into());
    }
    for (n, end) in ENDS.into_iter().enumerate() {
        if let Err(e) = one(dir, n, end) {
            return Verdict::Failed(format!("{end:?}: {e}"));
        }
    }
    Verdict::Passed
}
