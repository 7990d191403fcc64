//! The end of the machine: halt, reboot, panic, signals to the kernel process.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use uml_base::pr_warn;
use uml_core::kernel::{Kernel, PowerAction};
use uml_net::stack::Stack;

use crate::cmdline::Options;

/// Why the machine ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Power(PowerAction),
    /// `Kernel panic - not syncing: ` and this.
    Panic(String),
    /// SIGINT or SIGTERM to the kernel process.
    Signal(i32),
}

/// Where the end of the machine is announced; the main thread receives it.
#[derive(Clone)]
pub struct Ender(Arc<Mutex<Sender<End>>>);

impl Ender {
    /// A connected pair.
    pub fn new() -> (Ender, Receiver<End>) {
        let (tx, rx) = channel();
        (Ender(Arc::new(Mutex::new(tx))), rx)
    }

    /// Announces the end. The first one counts.
    pub fn end(&self, e: End) {
        if let Ok(tx) = self.0.lock() {
            let _ = tx.send(e);
        }
    }

    /// Lets reboot(2) and the death of init end the machine.
    pub fn attach(&self, kernel: &Arc<Kernel>) {
        let ender = self.clone();
        let _ = kernel.hooks.on_power.set(Box::new(move |action| {
            ender.end(End::Power(action));
            // The calling task must not return to its program; the main thread takes everything down.
            loop {
                std::thread::park();
            }
        }));
        let ender = self.clone();
        let _ = kernel.hooks.on_panic.set(Box::new(move |text| {
            ender.end(End::Panic(text.to_owned()));
            loop {
                std::thread::park();
            }
        }));
        let ender = self.clone();
        let _ = kernel.hooks.on_init_exit.set(Box::new(move |status| {
            ender.end(End::Panic(format!("Attempted to kill init! exitcode=0x{status:08x}")));
        }));
    }
}

/// How often it is looked whether sent data has arrived.
const LOOK: Duration = Duration::from_millis(5);
/// How long peers may acknowledge nothing before they are given up.
const STANDSTILL: Duration = Duration::from_secs(3);

/// Waits until what programs sent before they closed their connections has arrived, as long as peers take it: a program that
/// has ended may leave data with the kernel (tcp(7)), which here ends with it. A signal to the kernel process ends the wait.
pub fn deliver(net: &Stack, ends: &Receiver<End>) {
    let mut last = (u64::MAX, Instant::now());
    loop {
        let left = net.undelivered();
        if left == 0 {
            return;
        }
        if left != last.0 {
            last = (left, Instant::now());
        } else if last.1.elapsed() >= STANDSTILL {
            pr_warn!("network: {left} bytes sent have not arrived; their peers do not answer");
            return;
        }
        if let Ok(End::Signal(_)) = ends.recv_timeout(LOOK) {
            return;
        }
    }
}

/// How long killed guest processes may take to be gone before a reboot.
const PATIENCE: Duration = Duration::from_secs(2);

/// Leaves the process as the end demands, after everything was stopped.
pub fn leave(end: &End, exit_code: i32, o: &Options, args: &[OsString]) -> ExitCode {
    // Exit statuses are bytes.
    let normal = ExitCode::from(exit_code as u8);
    match end {
        End::Power(PowerAction::Restart) if !o.noreboot => {
            uml_host::process::reap_children(PATIENCE);
            let failed = again(args);
            eprintln!("Failed to exec kernel: {}", uml_formats::strerror(&failed));
            normal
        }
        End::Power(action) => {
            if !o.quiet {
                eprintln!();
            }
            match o.reboot_status {
                Some(n) if *action == PowerAction::Restart => ExitCode::from(n),
                _ => normal,
            }
        }
        End::Signal(_) => ExitCode::FAILURE,
        End::Panic(_) => {
            uml_host::process::end_own_group();
            // The status a shell shows for it is 134.
            std::process::abort()
        }
    }
}

/// Runs this program again in this process, with the original arguments. By its own file rather than by
/// `argv[0]`, which need not be a path that leads to it (`umld run`) and may be relative to a directory
/// long left.
fn again(args: &[OsString]) -> std::io::Error {
    let link = PathBuf::from("/proc/self/exe");
    // A file that was replaced meanwhile (a new build) is still there behind the link.
    let program = std::env::current_exe().ok().filter(|p| p.exists()).unwrap_or(link);
    let mut command = Command::new(program);
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    command.exec()
}
