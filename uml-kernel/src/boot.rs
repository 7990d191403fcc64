//! From options to a running machine.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_base::klog;
use uml_base::{pr_err, pr_info, pr_warn};
use uml_core::exec::{self, Program};
use uml_core::file::fdtable::FdTable;
use uml_core::kernel::Kernel;
use uml_core::signal::SigHand;
use uml_core::task::{Cred, FsContext, Process, Task, TaskInit, rlimit};
use uml_core::vfs::{self, DirFd, OpenHow};
use uml_drivers::console::Consoles;
use uml_platform::{Backend, Config};

use crate::cmdline::{Options, Seccomp};
use crate::outside::{self, Outside};
use crate::power::{self, End, Ender};
use crate::{init, initrd, root, startup};

/// Builds the machine, runs it to its end and returns the exit status.
pub fn boot(options: &Options, args: &[OsString]) -> ExitCode {
    let mut o = options.clone();
    if let Err(text) = startup::check(&o) {
        eprint!("{text}");
        return ExitCode::FAILURE;
    }
    outside::block_signals();
    outside::settle(&o);
    startup::remark(&o);
    startup::announce(&o);
    startup::shrink(&mut o);
    let o = &o;
    klog::boot_instant();
    klog::show_stamps(o.log_stamps);
    let (platform, report) = match uml_platform::boot(config(o)) {
        Ok(p) => p,
        Err(e) => {
            startup::backend_failed(o, &e);
            return ExitCode::FAILURE;
        }
    };
    startup::backend(o, &report);
    let kernel = Kernel::new(o.mem, report.ncpus);
    kernel.set_platform(platform.clone());
    kernel.set_console_level(o.loglevel);
    let (ender, ends) = Ender::new();
    ender.attach(&kernel);
    outside::watch_signals(&ender);
    greet(o, &kernel, &report);
    let mut outside = Outside::claim(&kernel, o);
    if o.strace {
        uml_syscalls::trace::enable(true);
    }
    let devices = match init::register(&kernel, o, &mut outside) {
        Ok(d) => Some(d),
        Err(text) => {
            ender.end(End::Panic(text));
            None
        }
    };
    if let Some(d) = &devices {
        begin(o, &kernel, d.consoles.clone(), &ender);
    }
    let end = ends.recv().unwrap_or(End::Panic("the machine lost its main thread".into()));
    if let End::Panic(text) = &end {
        let quiet = kernel.console_level() == 0;
        // What the machine could not have may be the reason.
        for s in uml_host::limits::short() {
            pr_err!("{s}");
            if quiet {
                eprintln!("{s}");
            }
        }
        klog::log(klog::Level::Emerg, format_args!("Kernel panic - not syncing: {text}"));
        let shown = o.log_stderr || devices.as_ref().is_some_and(|d| d.consoles.shows_log());
        if quiet {
            // No console prints anything at this level; the user must hear of it all the same.
            eprintln!("Kernel panic - not syncing: {text}");
        } else if !shown {
            // Standard output is full, or both are closed: nobody is left to tell.
            let _ = if uml_host::standard::was_closed(1) {
                uml_drivers::console::dump_log(&mut std::io::stderr().lock())
            } else {
                uml_drivers::console::dump_log(&mut std::io::stdout().lock())
            };
        }
        outside.panicked(text);
    }
    if let (End::Power(_), Some(d)) = (&end, &devices) {
        power::deliver(&d.net, &ends);
    }
    platform.shutdown();
    let orderly = !matches!(end, End::Panic(_));
    init::stop(&kernel, devices.as_ref(), orderly);
    if orderly {
        outside.remove();
    }
    power::leave(&end, kernel.exit_code.load(Ordering::SeqCst), o, args)
}

fn config(o: &Options) -> Config {
    let backend = match (o.platform.as_deref(), o.seccomp) {
        (Some("notify"), _) => Backend::Notify,
        (Some("trap"), _) => Backend::Trap,
        (Some("ptrace"), _) => Backend::Ptrace,
        (_, Seccomp::Off) => Backend::Ptrace,
        (_, Seccomp::On) => Backend::Seccomp,
        (_, Seccomp::Auto) => Backend::Auto,
    };
    Config { backend, ncpus: o.ncpus, ..Config::default() }
}

/// The first lines of the log.
fn greet(o: &Options, kernel: &Kernel, report: &uml_platform::Report) {
    use uml_core::version::{RELEASE, VERSION};
    pr_info!("Linux version {RELEASE} {VERSION}");
    pr_info!("Kernel command line: {}", o.command_line);
    for w in &o.unknown {
        pr_info!("Unknown kernel command line parameters \"{w}\", will be passed to user space.");
    }
    for c in &o.complaints {
        pr_warn!("{c}");
    }
    pr_info!("Memory: {}K/{}K available", kernel.mem_bytes >> 10, kernel.mem_bytes >> 10);
    pr_info!("platform: {}: {} CPUs", report.chosen, report.ncpus);
    for (b, why) in &report.rejected {
        pr_info!("platform: {b} not used: {why}");
    }
    for n in &report.notes {
        pr_info!("platform: {n}");
    }
    *kernel.command_line.lock() = o.command_line.clone();
}

/// Starts init from a thread of its own: this one must hear of a signal or a command of the management console however
/// long the root takes (a slow host, `rootwait`).
fn begin(o: &Options, kernel: &Arc<Kernel>, consoles: Arc<Consoles>, ender: &Ender) {
    let (options, machine, end) = (o.clone(), kernel.clone(), ender.clone());
    let starter = std::thread::Builder::new().name("init".into()).spawn(move || {
        consoles.await_clients();
        if let Err(text) = start(&options, &machine) {
            end.end(End::Panic(text));
        }
    });
    if let Err(e) = starter {
        ender.end(End::Panic(format!("no thread for init: {e}")));
    }
}

/// Everything between the platform and the first instruction of init; the error is the panic's
/// text.
fn start(o: &Options, kernel: &Arc<Kernel>) -> Result<(), String> {
    let text = |what: &'static str| move |e: uml_abi::Errno| format!("{what}: {e}");
    init::vdso(kernel).map_err(text("vDSO"))?;
    // The kernel's own task lives on an empty in-memory root until the real one is mounted.
    let rootfs = kernel.vfs.registry.fs(b"tmpfs").map_err(text("no tmpfs"))?;
    let bare = kernel_task(kernel, None);
    let sb = rootfs.mount(&bare, b"rootfs", 0, b"").map_err(text("rootfs"))?;
    let (_, fs) = kernel.vfs.first_namespace(sb.clone(), b"rootfs", 0);
    let builder = kernel_task(kernel, Some(fs.duplicate()));

    if initrd::unpack(&builder, &sb, o) {
        let task = init_task(kernel, fs);
        open_console(&task, o);
        return run_init(&task, o, std::slice::from_ref(&o.rdinit), true);
    }
    let root = root::prepare(&builder, o)?;
    let task = init_task(kernel, root);
    if let Err(e) = root::mount_at(&task, "devtmpfs", "/dev") {
        pr_info!("devtmpfs: not mounted on /dev: {e}");
    }
    open_console(&task, o);
    match &o.init {
        Some(path) => run_init(&task, o, std::slice::from_ref(path), true),
        None => {
            let usual = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];
            run_init(&task, o, &usual.map(|p| p.as_bytes().to_vec()), false)
        }
    }
}

/// A task of the kernel itself: root's credentials, no memory.
fn kernel_task(kernel: &Arc<Kernel>, fs: Option<FsContext>) -> Arc<Task> {
    let fs = fs.unwrap_or_else(|| {
        let empty = vfs::anon::path(vfs::AnonKind::Other("[nowhere]"), &Cred::root());
        FsContext::new(empty.clone(), vfs::MountNs::new(0, empty.mnt))
    });
    Task::of_kernel(kernel, "swapper", fs)
}

fn new_task(
    kernel: &Arc<Kernel>,
    tid: i32,
    process: Arc<Process>,
    fs: FsContext,
    comm: [u8; 16],
) -> Arc<Task> {
    let init = TaskInit {
        tid,
        process,
        comm,
        cred: Arc::new(Cred::root()),
        mm: None,
        files: Arc::new(FdTable::new()),
        fs: Arc::new(fs),
        blocked: 0,
    };
    Task::new(kernel, init)
}

/// Process 1, before its program.
fn init_task(kernel: &Arc<Kernel>, fs: FsContext) -> Arc<Task> {
    let max_threads = kernel.max_tasks() as u64;
    let process = Process::new(1, SigHand::default(), rlimit::Rlimits::initial(max_threads), 0);
    let task = new_task(kernel, 1, process, fs, *b"init\0\0\0\0\0\0\0\0\0\0\0\0");
    let mut tree = kernel.tree.write();
    // Pid 1 is the first one handed out.
    let _ = tree.alloc_pid(uml_core::task::tree::PID_MAX);
    tree.add_process(&task, 0, 0, 0);
    drop(tree);
    task
}

/// Standard input, output and error of init: the console, or the kernel's own descriptors.
fn open_console(task: &Arc<Task>, o: &Options) {
    let console = vfs::open(task, &DirFd::Cwd, b"/dev/console", &OpenHow::new(libc::O_RDWR, 0));
    for (fd, direct) in o.stdio.iter().enumerate() {
        let file = if *direct { init::host_stdio(task, fd) } else { console.clone() };
        match file {
            Ok(f) => {
                let _ = task.install_fd(f, false);
            }
            Err(e) => {
                let why = match e {
                    uml_abi::errno::EBADF => {
                        "; con0=fd: needs a descriptor that is open where linux is started"
                    }
                    _ => "",
                };
                pr_warn!("Warning: unable to open an initial console for descriptor {fd}: {e}{why}")
            }
        }
    }
}

/// Starts the first program: the one `requested`, or the first of the usual places that works.
fn run_init(
    task: &Arc<Task>,
    o: &Options,
    candidates: &[Vec<u8>],
    requested: bool,
) -> Result<(), String> {
    let (more_args, more_env) = match o.init_fd {
        Some(fd) => words_from(fd).map_err(|e| format!("initargs=fd:{fd}: {e}"))?,
        None => (Vec::new(), Vec::new()),
    };
    let mut env = o.init_env.clone();
    for word in more_env {
        let name_len = word.iter().position(|b| *b == b'=').map_or(word.len(), |n| n + 1);
        env.retain(|e| !e.starts_with(&word[..name_len]));
        env.push(word);
    }
    for path in candidates {
        let shown = String::from_utf8_lossy(path).into_owned();
        let mut args = vec![path.clone()];
        args.extend(o.init_args.iter().chain(&more_args).cloned());
        let program = |file| Program {
            file,
            filename: path.clone(),
            args,
            env: env.clone(),
            inaccessible: false,
        };
        let started = vfs::open_exec(task, path).and_then(|f| {
            pr_info!("Run {shown} as init process");
            exec::exec_first(task, program(f))
        });
        match started {
            Ok(()) => return Ok(()),
            Err(e) if requested => {
                return Err(format!("Requested init {shown} failed (error {}: {e}).", -e.raw()));
            }
            Err(uml_abi::errno::ENOENT) => {}
            Err(e) => pr_warn!(
                "Starting init: {shown} exists but couldn't execute it (error {})",
                -e.raw()
            ),
        }
    }
    Err("No working init found.  Try passing init= option to kernel.".into())
}

type Words = Vec<Vec<u8>>;

/// Reads init's words from an inherited descriptor (`initargs=`), at most 8 MiB.
fn words_from(fd: i32) -> Result<(Words, Words), String> {
    use std::io::{Read, Seek};
    let owned = uml_host::stream::duplicate(fd).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(owned);
    // After a reboot in the same process the words have been read once. A pipe's are gone then.
    let _ = file.rewind();
    file.take(8 << 20).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let mut words: Words = bytes.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
    // What follows the last NUL is nothing.
    words.pop();
    if words.is_empty() {
        return Err("expected a count and words, each ended by a NUL".into());
    }
    let count = words.remove(0);
    let n = std::str::from_utf8(&count)
        .ok()
        .and_then(|s| s.parse::<usize>().ok())
        .filter(|n| *n <= words.len())
        .ok_or_else(|| format!("count {:?} does not fit", String::from_utf8_lossy(&count)))?;
    let env = words.split_off(n);
    Ok((words, env))
}
