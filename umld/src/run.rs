//! `umld run`: a machine in the foreground, in place of this process, so that its exit status is ours.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::cli::Run;
use crate::failure::{Failure, Result, code};
use crate::guest_init::{self, Orders, inside};
use crate::holder::launch;
use crate::spec;
use crate::spec::cmdline::{Inherited, held_lines, own_init, words};

/// Starts the machine; returns only when that fails.
pub fn run(args: &Run) -> Result {
    let ready = match &args.file {
        Some(file) => from_file(args, file)?,
        None => from_host(args)?,
    };
    let (mut command, inherited) = ready;
    if args.file.is_none() || under_systemd() {
        // Nothing of a machine without a file is there after a reboot, and its command would run again and again. A
        // manager restarts the machine itself (RestartForceExitStatus=133).
        command.arg("noreboot").arg(format!("rebootstatus={}", code::REBOOT));
    }
    let e = command.exec();
    drop(inherited);
    let text = format!("cannot start {}: {e}", command.get_program().to_string_lossy());
    Err(Failure::new(code::CANNOT_RUN, text))
}

/// Whether a service manager runs this as a unit of its own.
fn under_systemd() -> bool {
    // Set for services, and inherited by everything they start: only the unit's main process has the manager as parent.
    std::env::var_os("INVOCATION_ID").is_some()
        && std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|p| p == std::process::id().to_string())
}

/// What `umld run` gives without `--net`: the network, but none of the services that the host's user keeps for
/// programs of the host alone.
const DEFAULT_NET: &str = "user,loopback=0";

type Ready = (Command, Option<std::os::fd::OwnedFd>);

fn from_file(args: &Run, file: &Path) -> Result<Ready> {
    let mut loaded = spec::load(file)?;
    let vm = &mut loaded.vm;
    if args.mem.is_some() {
        vm.vm.mem = args.mem;
    }
    if let Some(n) = args.ncpus {
        vm.vm.ncpus = u32::try_from(n).ok();
    }
    if !args.command.is_empty() {
        let words = args.command.iter().map(|w| w.to_string_lossy().into_owned()).collect();
        vm.boot.command = Some(words);
        spec::check::check(&loaded)?;
    }
    let vm = &loaded.vm;
    launch::check_disks(vm)?;
    launch::check_ports(&vm.net)?;
    crate::guest_files::prepare(vm)?;
    launch::limit(&crate::state::Store::open()?.dir(&loaded.name), vm)?;
    let init_words = if own_init(vm) {
        Some(inherit(guest_init::hand_over(&Orders::of(vm)?, std::env::vars_os())?)?)
    } else {
        None
    };
    let given = Inherited {
        init_words: init_words.as_ref().map(AsRawFd::as_raw_fd),
        lines: held_lines(vm).iter().map(|_| 0).collect(),
        notify: None,
    };
    let list = words(vm, args.umid.as_deref().unwrap_or(&loaded.name), &given)
        .map_err(|e| Failure::new(code::CONFIG, e))?;
    let mut command = launch::program(vm)?;
    // The first held line is this terminal; the others have nobody here. The log has no line of its own.
    let mut first = true;
    for word in list {
        let text = word.to_string_lossy();
        if text.ends_with("=fd:0") && (text.starts_with("con") || text.starts_with("ssl")) {
            let (line, _) = text.split_once('=').unwrap_or((&text, ""));
            command.arg(if first { format!("{line}=fd:0,fd:1") } else { format!("{line}=null") });
            first = false;
        } else if !text.starts_with("ssl63=") && text != "console=ttyS63" {
            command.arg(word);
        }
    }
    if !args.verbose && own_init(vm) {
        command.args(["quiet", "loglevel=0"]);
    }
    command.args(&args.append);
    Ok((command, init_words))
}

fn inherit(fd: std::os::fd::OwnedFd) -> Result<std::os::fd::OwnedFd> {
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| {
        Failure::new(code::CANNOT_RUN, format!("cannot hand over the command: {e}"))
    })?;
    Ok(fd)
}

fn from_host(args: &Run) -> Result<Ready> {
    let text = args.net.as_deref().unwrap_or(DEFAULT_NET);
    let nets = spec::net::parse(text, &args.publish).map_err(|e| Failure::new(code::USAGE, e))?;
    launch::check_ports(&nets)?;
    let words = kernel_arguments(args, &nets).map_err(|e| Failure::new(code::CANNOT_RUN, e))?;
    let cwd = match &args.cwd {
        Some(c) => c.clone(),
        None => std::env::current_dir()
            .ok()
            .and_then(|c| inside(&args.root, &c))
            .unwrap_or_else(|| "/".into()),
    };
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let resolv_conf = spec::net::given(&nets, true).iter().find_map(|g| g.resolv_conf(&host));
    let orders = Orders { cwd, command: args.command.clone(), resolv_conf, ..Orders::default() };
    let fd = inherit(guest_init::hand_over(&orders, std::env::vars_os())?)?;
    let program = std::env::current_exe().map_err(|e| {
        Failure::new(code::CANNOT_RUN, format!("cannot find this program's own file: {e}"))
    })?;
    let mut command = Command::new(program);
    command.arg0("linux").args(words).arg(format!("initargs=fd:{}", fd.as_raw_fd()));
    Ok((command, Some(fd)))
}

/// Half of the host's memory, in MiB.
fn default_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total_kb: u64 = text
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|v| v.split_whitespace().next())
        .and_then(|v| v.parse().ok())
        .unwrap_or(1 << 20);
    (total_kb / 2048).max(256)
}

/// The console: on those of the standard streams that are terminals. The others are the command's alone, so that the
/// console neither takes its input nor adds to its output; the last words of a kernel go to the error stream.
fn console(terminals: [bool; 3]) -> String {
    let input = if terminals[0] { "fd:0" } else { "null" };
    let output = [1, 2, 0].into_iter().find(|fd| terminals[*fd]).unwrap_or(2);
    format!("con0={input},fd:{output}")
}

fn kernel_arguments(
    args: &Run,
    nets: &[spec::vm::Net],
) -> std::result::Result<Vec<OsString>, String> {
    let exe =
        std::env::current_exe().map_err(|e| format!("cannot find this program's own file: {e}"))?;
    let init = inside(&args.root, &exe).ok_or_else(|| {
        format!("{} is not below the root {}", exe.display(), args.root.display())
    })?;
    let streams = [
        std::io::stdin().is_terminal(),
        std::io::stdout().is_terminal(),
        std::io::stderr().is_terminal(),
    ];
    let mut words: Vec<OsString> = vec![
        format!(
            "mem={}",
            args.mem.map_or_else(|| format!("{}M", default_memory()), |m| m.notation())
        )
        .into(),
        "root=/dev/root".into(),
        "rootfstype=hostfs".into(),
        "rootoverlay=tmpfs".into(),
        "rw".into(),
        "con=null".into(),
        console(streams).into(),
        "ssl=null".into(),
    ];
    let root = args.root.canonicalize().map_err(|e| format!("{}: {e}", args.root.display()))?;
    let mut flags = OsString::from("rootflags=");
    flags.push(&root);
    words.push(flags);
    if !args.verbose {
        words.push("quiet".into());
        // Nothing but the command writes to these streams.
        words.push("loglevel=0".into());
    }
    if let Some(n) = args.ncpus {
        words.push(format!("ncpus={n}").into());
    }
    if let Some(p) = &args.platform {
        words.push(format!("platform={p}").into());
    }
    if let Some(u) = &args.umid {
        words.push(format!("umid={u}").into());
    }
    let name = args.umid.as_deref().unwrap_or("run");
    words.extend(spec::net::words(nets, name, true).into_iter().map(OsString::from));
    words.extend(args.append.iter().map(OsString::from));
    // Streams that are not terminals go to the guest as they are.
    let direct: Vec<String> = (0..3).filter(|i| !streams[*i]).map(|i| i.to_string()).collect();
    if !direct.is_empty() {
        words.push(format!("stdio={}", direct.join(",")).into());
    }
    let mut w = OsString::from("init=");
    w.push(init);
    words.push(w);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::console;

    #[test]
    fn the_console_is_on_terminals() {
        assert_eq!(console([true, true, true]), "con0=fd:0,fd:1");
        assert_eq!(console([true, false, true]), "con0=fd:0,fd:2");
        assert_eq!(console([true, false, false]), "con0=fd:0,fd:0");
        assert_eq!(console([false, true, true]), "con0=null,fd:1");
        assert_eq!(console([false, false, false]), "con0=null,fd:2");
    }
}
