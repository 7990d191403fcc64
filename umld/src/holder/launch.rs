//! Starting the kernel process of an instance.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::pipe2;
use uml_nat::config::Forward;

use super::line::Line;
use crate::failure::{Failure, Result, code};
use crate::spec::cmdline::{Inherited, own_init, words};
use crate::spec::vm::Net;
use crate::spec::{VmFile, net};
use crate::state::{Dir, Store};
use crate::{guest_files, guest_init, resources};

/// A kernel process that was started.
pub struct Kernel {
    /// The process.
    pub child: Child,
    /// What it prints about itself, and its log.
    pub log: OwnedFd,
}

/// Makes missing COW files, writes files for the guest, and starts the kernel.
pub fn launch(dir: &Dir, vm: &VmFile, lines: &[Line]) -> Result<Kernel> {
    check_disks(vm)?;
    check_ports(&vm.net)?;
    // A member of a fleet may be started by itself, and long after its switch went down.
    for name in vm.net.iter().filter_map(|n| n.switch.as_deref()) {
        crate::fleet::switch::up_again(&Store::open()?, name)?;
    }
    guest_files::prepare(vm)?;
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| {
        Failure::other(format!("cannot make a pipe for the kernel's messages: {e}"))
    })?;
    let _ = fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    let init_words = if own_init(vm) {
        let fd = guest_init::hand_over(&guest_init::Orders::of(vm)?, guest_env(vm))?;
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))
            .map_err(|e| Failure::other(format!("cannot hand over the command: {e}")))?;
        Some(fd)
    } else {
        None
    };
    let given = Inherited {
        lines: lines.iter().map(Line::kernel_fd).collect(),
        init_words: init_words.as_ref().map(AsRawFd::as_raw_fd),
        notify: Some(dir.notify()),
    };
    let args = words(vm, &dir.name, &given).map_err(|e| Failure::new(code::CONFIG, e))?;
    let mut command = program(vm)?;
    command.args(args).stdin(Stdio::null()).current_dir(&dir.path);
    if let Some(t) = &vm.resources.tmpdir {
        command.env("TMPDIR", t);
    }
    // Its guest must not take umld's own supervision for its own.
    command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
    // The kernel process keeps the terminals from being hung up, should all of umld be killed.
    let _masters: Vec<OwnedFd> = lines.iter().filter_map(|l| l.for_kernel().ok()).collect();
    let err = write.try_clone().map_err(|e| Failure::other(e.to_string()))?;
    command.stdout(Stdio::from(write)).stderr(Stdio::from(err));
    let child = command.spawn().map_err(|e| cannot_start(vm, &e))?;
    Ok(Kernel { child, log: read })
}

/// The environment of umld's own init: a plain one and what the file says.
fn guest_env(vm: &VmFile) -> impl Iterator<Item = (OsString, OsString)> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut env: BTreeMap<String, String> =
        [("PATH", path), ("HOME", "/root"), ("TERM", "linux"), ("SHELL", "/bin/sh")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
    env.extend(vm.guest.env.clone());
    env.into_iter().map(|(k, v)| (k.into(), v.into()))
}

/// The kernel's program, called `linux`.
pub fn program(vm: &VmFile) -> Result<Command> {
    let path = match &vm.vm.kernel {
        Some(k) if !vm.vm.is_built_in() => k.into(),
        _ => std::env::current_exe()
            .map_err(|e| Failure::other(format!("cannot find this program's own file: {e}")))?,
    };
    let mut c = Command::new(path);
    c.arg0("linux");
    Ok(c)
}

fn cannot_start(vm: &VmFile, e: &io::Error) -> Failure {
    let kernel = vm.vm.kernel.as_deref().unwrap_or("the built-in kernel");
    let text = format!("cannot start {kernel}: {}", uml_formats::strerror(e));
    Failure::new(crate::failure::status_of(e), text)
}

/// Refuses ports of the host that somebody has, naming the instance if it is one; the kernel would only log it, and its interface
/// stay down.
pub fn check_ports(list: &[Net]) -> Result {
    for f in net::forwards(list) {
        // Let go at once: the kernel takes it when the guest sets the interface up.
        let bound = match f.udp {
            true => UdpSocket::bind(f.host).map(drop),
            false => TcpListener::bind(f.host).map(drop),
        };
        let Err(e) = bound else { continue };
        let kind = if f.udp { "udp" } else { "tcp" };
        let status = match e.kind() {
            io::ErrorKind::AddrInUse => code::BUSY,
            io::ErrorKind::AddrNotAvailable => code::UNAVAILABLE,
            _ => crate::failure::status_of(&e),
        };
        let whose =
            port_of(&f).map_or(String::new(), |n| format!("; it leads to instance \"{n}\""));
        let text = format!(
            "the host's port {} ({kind}) cannot be had: {}{whose}",
            f.host,
            uml_formats::strerror(&e)
        );
        return Err(Failure::new(status, text));
    }
    Ok(())
}

/// The running instance that a port of the host leads to.
fn port_of(f: &Forward) -> Option<String> {
    let store = Store::open().ok()?;
    let has = |name: &str| {
        let vm = crate::spec::load::read::<VmFile>(&store.dir(name).spec());
        vm.is_ok_and(|(_, vm)| net::forwards(&vm.net).any(|o| (o.host, o.udp) == (f.host, f.udp)))
    };
    let up = store.names().ok()?.into_iter().filter(|n| store.dir(n).status().state.is_up());
    // The one that is started is not up yet.
    up.filter(|n| crate::instance::look_up(&store, n).is_some_and(|i| i.pid.is_some()))
        .find(|n| has(n))
}

/// Refuses what another process has locked, naming it; the kernel would only log it.
pub fn check_disks(vm: &VmFile) -> Result {
    for (_, d) in crate::spec::check::disk_units(vm) {
        if d.shared == Some(true) {
            continue;
        }
        let written = match &d.cow {
            Some(c) => c,
            None => match &d.file {
                Some(f) => f,
                None => continue,
            },
        };
        if let Some(holder) = locked_by(written, d.readonly == Some(true)) {
            return Err(Failure::new(
                code::BUSY,
                format!("disk {} is in use by {holder}", written.display()),
            ));
        }
    }
    Ok(())
}

/// Who has an image locked, in words.
pub fn locked_by(path: &Path, read_only: bool) -> Option<String> {
    use uml_formats::host_lock::{LockKind, lock_holder};
    let file = std::fs::File::open(path).ok()?;
    let kind = if read_only { LockKind::Shared } else { LockKind::Exclusive };
    let pid = lock_holder(&file, kind)?;
    let Some(instance) = instance_of(pid) else {
        return Some(match pid {
            0 => "a process that cannot be named".into(),
            pid => format!("process {pid}"),
        });
    };
    Some(format!("instance \"{instance}\" (pid {pid})"))
}

fn instance_of(pid: i32) -> Option<String> {
    let store = Store::open().ok()?;
    store.uml.list().ok()?.into_iter().find(|i| i.pid == Some(pid)).map(|i| i.umid)
}

/// Applies limits to this process, so that what it starts inherits them.
pub fn limit(dir: &Dir, vm: &VmFile) -> Result<String> {
    resources::apply(&dir.name, &vm.resources)
}
