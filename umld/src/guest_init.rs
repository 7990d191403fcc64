//! Process 1 of a machine started by `umld run`: makes the usual mounts, runs the command, gives its exit
//! status to the kernel, ends the machine.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use uml_host::process::in_foreground;

use crate::failure::{Failure, Result, code};
use crate::guest_files;
use crate::guest_net;
use crate::spec::VmFile;
use crate::spec::cmdline::Root;

/// The name that makes this program process 1; also its first argument, because the kernel calls init by
/// its path.
pub const NAME: &str = "umld-guest-init";

/// True when the arguments are those of process 1. The kernel's own words may come first.
pub fn wanted(args: &[OsString]) -> bool {
    std::process::id() == 1 && args.iter().any(|a| a == NAME)
}

/// What the host orders process 1 to do; its first argument after the name, as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Orders {
    /// Working directory.
    pub cwd: PathBuf,
    /// Host name; the host's own when none is given.
    pub hostname: Option<String>,
    /// Files to write first: path, permissions, contents.
    pub files: Vec<(String, u32, Vec<u8>)>,
    /// Addresses beside the one that the kernel has set.
    pub addresses: Vec<guest_net::Address>,
    /// Contents of /etc/resolv.conf; nothing is changed when none are given.
    pub resolv_conf: Option<String>,
    /// The command; a shell when empty. Handed over as words of its own: it need not be text.
    #[serde(skip)]
    pub command: Vec<OsString>,
}

/// Bytes of files that the orders may carry.
const FILES_MAX: usize = 1 << 20;

impl Orders {
    /// Those of a machine.
    pub fn of(vm: &VmFile) -> Result<Orders> {
        let mut files = Vec::new();
        for f in &vm.guest.files {
            let path = f.path.clone().unwrap_or_default();
            files.push((path, u32::from(guest_files::mode(f)), guest_files::contents(f)?));
        }
        if files.iter().map(|f| f.2.len()).sum::<usize>() > FILES_MAX {
            let text = "guest.files: more than 1 MiB; put large files into a directory of the root";
            return Err(Failure::new(code::CONFIG, text));
        }
        Ok(Orders {
            cwd: "/".into(),
            hostname: vm.guest.hostname.clone(),
            files,
            addresses: crate::spec::net::given(&vm.net, true)
                .into_iter()
                .skip(1)
                .map(|g| guest_net::Address {
                    device: g.device,
                    address: g.address,
                    prefix: g.prefix,
                    gateway: g.gateway,
                })
                .collect(),
            resolv_conf: crate::spec::net::resolv_conf(vm),
            command: vm.boot.command.iter().flatten().map(OsString::from).collect(),
        })
    }
}

/// A path on the host as seen below the guest's root.
pub fn inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let root = root.canonicalize().ok()?;
    let rest = path.canonicalize().ok()?;
    rest.strip_prefix(&root).ok().map(|p| Path::new("/").join(p))
}

/// This program's own file as the guest sees it.
pub fn path_below(root: &Root) -> std::result::Result<String, String> {
    let exe =
        std::env::current_exe().map_err(|e| format!("cannot find this program's own file: {e}"))?;
    let Root::Host(dir) = root else { return Err("the root is a disk".into()) };
    let path = inside(dir, &exe)
        .ok_or_else(|| format!("{} is not below the root {}", exe.display(), dir.display()))?;
    match path.to_str().filter(|p| !p.contains(char::is_whitespace)) {
        Some(p) => Ok(p.to_owned()),
        None => Err(format!("{} has characters a command line cannot carry", path.display())),
    }
}

/// Puts process 1's arguments and environment into a memory file that the kernel inherits.
pub fn hand_over(
    orders: &Orders,
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Result<OwnedFd> {
    let json = serde_json::to_string(orders).map_err(|e| Failure::other(e.to_string()))?;
    let count = 2 + orders.command.len();
    let mut bytes = format!("{count}\0{NAME}\0{json}\0").into_bytes();
    for word in &orders.command {
        bytes.extend_from_slice(word.as_bytes());
        bytes.push(0);
    }
    for (name, value) in env {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
    }
    let failed = |e: std::io::Error| {
        Failure::new(code::UNAVAILABLE, format!("cannot make a memory file for the command: {e}"))
    };
    let fd = memfd_create(c"umld-orders", MFdFlags::empty()).map_err(|e| failed(e.into()))?;
    let mut file = File::from(fd);
    file.write_all(&bytes).and_then(|()| file.rewind()).map_err(failed)?;
    Ok(file.into())
}

/// Runs as process 1.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let start = args.iter().position(|a| a == NAME).map_or(args.len(), |i| i + 1);
    let json = args.get(start);
    let mut orders: Orders = match json.map(|j| serde_json::from_slice(j.as_bytes())) {
        Some(Ok(o)) => o,
        None => Orders::default(),
        Some(Err(e)) => {
            eprintln!("umld: orders of process 1: {e}");
            Orders::default()
        }
    };
    orders.command = args.get(start + 1..).unwrap_or_default().to_vec();
    // As every init: a session and a process group of its own.
    let _ = nix::unistd::setsid();
    mounts(&orders);
    for a in &orders.addresses {
        if let Err(e) = guest_net::set(a) {
            eprintln!("umld: {}: address {}/{}: {e}", a.device, a.address, a.prefix);
        }
    }
    if let Some(text) = &orders.resolv_conf
        && let Err(e) = replace(Path::new("/etc/resolv.conf"), text)
    {
        eprintln!("umld: /etc/resolv.conf: {e}");
    }
    for (path, mode, contents) in &orders.files {
        let put = || -> std::io::Result<()> {
            if let Some(dir) = Path::new(path).parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::write(path, contents)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode))
        };
        if let Err(e) = put() {
            eprintln!("umld: {path}: {e}");
        }
    }
    let status = run(&orders);
    if let Err(e) = std::fs::write("/proc/exitcode", format!("{status}\n")) {
        eprintln!("umld: cannot hand over the exit status: {e}");
    }
    nix::unistd::sync();
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => match never {},
        Err(e) => {
            eprintln!("umld: cannot power off: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Puts a file in the place of what is there, a link for instance, which may lead to nowhere in the guest.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::write(path, text)
}

fn mounts(orders: &Orders) {
    let list: [(&str, &str, &str, MsFlags); 6] = [
        ("proc", "/proc", "", MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC),
        ("sysfs", "/sys", "", MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC),
        (
            "devpts",
            "/dev/pts",
            "gid=5,mode=620,ptmxmode=666",
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        ),
        ("tmpfs", "/dev/shm", "mode=1777", MsFlags::MS_NOSUID | MsFlags::MS_NODEV),
        ("tmpfs", "/run", "mode=755", MsFlags::MS_NOSUID | MsFlags::MS_NODEV),
        ("tmpfs", "/tmp", "mode=1777", MsFlags::MS_NOSUID | MsFlags::MS_NODEV),
    ];
    for (kind, at, data, flags) in list {
        // The host's files below /tmp and /run stay visible there only if nothing covers them.
        if at == "/tmp" || at == "/run" {
            continue;
        }
        if at.starts_with("/dev/") {
            // Made fresh in devtmpfs.
            let _ = std::fs::create_dir(at);
        }
        if let Err(e) = mount(Some(kind), at, Some(kind), flags, Some(data)) {
            eprintln!("umld: {kind} on {at}: {e}");
        }
    }
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = match &orders.hostname {
        Some(name) => name,
        None if host.trim().is_empty() => "uml",
        None => host.trim(),
    };
    if let Err(e) = nix::unistd::sethostname(name) {
        eprintln!("umld: hostname: {e}");
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
}

/// Runs the command and reaps everything until it ends; its exit status, or 128 and the signal.
fn run(orders: &Orders) -> i32 {
    let command = &orders.command;
    let shell = std::env::var_os("SHELL").filter(|s| !s.is_empty()).unwrap_or("/bin/sh".into());
    let mut c = match command.split_first() {
        Some((program, rest)) => {
            let mut c = Command::new(program);
            c.args(rest);
            c
        }
        None => {
            let mut c = Command::new(&shell);
            // A shell that reads a script from a pipe has nobody to prompt.
            if std::io::stdin().is_terminal() {
                c.arg("-i");
            }
            c
        }
    };
    if std::env::set_current_dir(&orders.cwd).is_err() {
        c.current_dir("/");
    }
    // The command is in this process's session: a terminal on standard input becomes its controlling one; other streams
    // refuse. It is in a process group of its own, so that Ctrl-C is not taken for Ctrl-Alt-Del.
    let _ = rustix::process::ioctl_tiocsctty(std::io::stdin());
    let signals = match signals() {
        Ok(fd) => fd,
        Err(e) => {
            eprintln!("umld: signals of process 1: {e}");
            return 125;
        }
    };
    let child = match in_foreground(&mut c).spawn() {
        Ok(child) => Pid::from_raw(child.id() as i32),
        Err(e) => {
            let name = command.first().unwrap_or(&shell).to_string_lossy().into_owned();
            eprintln!("umld: cannot run {name}: {e}");
            return if e.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
        }
    };
    match attend(child, &signals) {
        Ok(status) => status,
        Err(e) => {
            eprintln!("umld: waiting for the command: {e}");
            125
        }
    }
}

/// The signals of process 1, as a descriptor: of ended children, and SIGINT, which Ctrl-Alt-Del is when it does not reboot at once
/// (reboot(2), RB_DISABLE_CAD). Blocked here, and not in what is started ([`in_foreground`]).
fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    set_cad_enabled(false)?;
    Ok(fd)
}

/// What is done after Ctrl-Alt-Del, and when: interactive shells ignore SIGTERM and end with a hang-up, what is stopped ends only
/// when it goes on.
const STEPS: [(Duration, Signal); 4] = [
    (Duration::ZERO, Signal::SIGTERM),
    (Duration::ZERO, Signal::SIGCONT),
    (Duration::from_millis(500), Signal::SIGHUP),
    (Duration::from_secs(5), Signal::SIGKILL),
];

/// Reaps everything until the command ends; its status. Ctrl-Alt-Del ends all processes.
fn attend(child: Pid, signals: &SignalFd) -> nix::Result<i32> {
    let mut asked: Option<Instant> = None;
    let mut steps = STEPS.into_iter().peekable();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
            // Nobody is there to take a job up again that the terminal stopped: Ctrl-Z does nothing.
            Ok(WaitStatus::Stopped(p, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU))
                if p == child =>
            {
                let _ = nix::sys::signal::killpg(child, Signal::SIGCONT);
            }
            Ok(WaitStatus::Exited(p, code)) if p == child => return Ok(code),
            Ok(WaitStatus::Signaled(p, signal, _)) if p == child => return Ok(128 + signal as i32),
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(e) => return Err(e),
        }
        let next = asked.zip(steps.peek()).map(|(at, s)| at + s.0);
        let timeout = next.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
        while let Ok(Some(s)) = signals.read_signal() {
            if s.ssi_signo == Signal::SIGINT as u32 {
                asked.get_or_insert_with(Instant::now);
            }
        }
        let Some(at) = asked else { continue };
        while let Some((_, s)) = steps.next_if(|(after, _)| at + *after <= Instant::now()) {
            // Every process but this one (kill(2)).
            let _ = nix::sys::signal::kill(Pid::from_raw(-1), s);
        }
    }
}
