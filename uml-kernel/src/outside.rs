//! The instance as the host sees it: its directory, its management console, its notifications, and signals
//! to its process.

use std::ffi::OsStr;
use std::sync::Arc;

use uml_base::{pr_err, pr_info, pr_warn};
use uml_core::kernel::Kernel;
use uml_formats::umid::{Claim, Umid, UmlDir, claim_or_random};
use uml_mconsole_kernel::{Notifier, Parts, Server, Sysrq};
use uml_net::stack::Stack;
use uml_procfs::ProcFs;
use uml_procfs::synth::TextFn;

use crate::cmdline::Options;
use crate::power::{End, Ender};

/// What the instance has on the host.
pub struct Outside {
    claim: Option<Claim>,
    notifier: Option<Arc<Notifier>>,
    console: Option<Arc<Server>>,
}

impl Outside {
    /// Takes the instance's name and directory. No failure stops the boot.
    pub fn claim(kernel: &Kernel, o: &Options) -> Outside {
        let claim = claim(o);
        if let Some(c) = &claim {
            let _ = kernel.umid.set(c.umid().as_str().to_owned());
        }
        let notifier = o.notify.as_ref().map(|path| Arc::new(Notifier::new(path)));
        Outside { claim, notifier, console: None }
    }

    /// Starts the management console, and enters in `proc` what belongs to it.
    pub fn open(&mut self, kernel: &Arc<Kernel>, proc: &Arc<ProcFs>, net: &Arc<Stack>) {
        let sysrq = Sysrq::new(kernel);
        let triggered = sysrq.clone();
        proc.sources.set_sysrq(move |key| {
            triggered.trigger(key);
            Ok(())
        });
        if let Some(n) = self.notifier.clone() {
            let file = TextFn::command(move |_, bytes| {
                n.user(bytes);
                Ok(())
            });
            proc.sources.add_file("mconsole", 0o200, file);
        }
        let Some(claim) = &self.claim else {
            return pr_err!("Failed to initialize management console");
        };
        let door = claim.path().join(uml_formats::door::NAME);
        if let Err(e) = uml_drivers::door::Door::open(kernel, &door) {
            pr_err!("door: {}: {}", door.display(), uml_formats::strerror(&e));
        }
        let path = claim.socket_path();
        let parts = Parts { kernel: kernel.clone(), proc: proc.clone(), sysrq, net: net.clone() };
        match Server::start(&path, parts) {
            Ok(server) => {
                pr_info!("mconsole (version 2) initialized on {}", path.display());
                if let Some(n) = &self.notifier {
                    n.ready(&path);
                }
                self.console = Some(server);
            }
            Err(e) => {
                let why = uml_formats::strerror(&e);
                pr_err!("Failed to initialize management console: {}: {why}", path.display());
            }
        }
    }

    /// Tells the listener of a panic. The directory stays, as a sign of it.
    pub fn panicked(&self, text: &str) {
        if let Some(n) = &self.notifier {
            n.panic(text);
        }
    }

    /// Ends captures and removes the directory: an orderly end.
    pub fn remove(&mut self) {
        if let Some(c) = &self.console {
            c.captures.stop_all();
        }
        if let Some(Err(e)) = self.claim.take().map(Claim::remove) {
            let err = e.raw_os_error().unwrap_or(0);
            pr_err!("remove_umid_dir - remove_files_and_dir failed with err = {err} ({e})");
        }
    }
}

fn claim(o: &Options) -> Option<Claim> {
    let home = std::env::var_os("HOME");
    let given = o.uml_dir.as_deref().map(OsStr::new);
    let dir = match UmlDir::resolve(given, home.as_deref()).and_then(|d| d.create().map(|()| d)) {
        Ok(d) => d,
        Err(e) => {
            pr_err!("{e}");
            return None;
        }
    };
    let wanted = o.umid.as_deref().and_then(|name| match Umid::new(name) {
        Ok(u) => Some(u),
        Err(e) => {
            pr_warn!("{e}; a random umid is used");
            None
        }
    });
    match claim_or_random(&dir, wanted.as_ref(), &mut |line| pr_warn!("{line}")) {
        Ok(c) => Some(c),
        Err(e) => {
            pr_err!("{e}");
            None
        }
    }
}

/// Makes SIGINT and SIGTERM end the machine in an orderly way, and a second one kill the process; SIGXFSZ does not. Called
/// before there are other threads.
pub fn block_signals() {
    if let Err(e) = uml_host::termination::block() {
        eprintln!("SIGINT and SIGTERM will kill without cleaning up: {e}");
    }
    if let Err(e) = uml_host::termination::refuse_large_files() {
        eprintln!("a file beyond the host's limit (ulimit -f) will kill: {e}");
    }
}

/// Starts the thread that [`block_signals`] leaves the signals to.
pub fn watch_signals(ender: &Ender) {
    let ender = ender.clone();
    let watch = move || match uml_host::termination::wait() {
        Ok(signo) => {
            ender.end(End::Signal(signo));
            // From here on the signals have their default action, in this thread.
            let _ = uml_host::termination::release();
            loop {
                std::thread::park();
            }
        }
        Err(e) => pr_err!("SIGINT and SIGTERM are not heard: {e}"),
    };
    if let Err(e) = std::thread::Builder::new().name("signals".into()).spawn(watch) {
        pr_err!("SIGINT and SIGTERM are not heard: {e}");
    }
}

/// Leaves the caller's session, so that a terminal's hang-up and job control do not reach the machine. Not
/// when a standard stream is a terminal or the guest's own (`stdio=`): then the machine runs in the
/// foreground for somebody, whose Ctrl-C must end it. The leader of a process group (a shell's job) stays
/// where it is, as the host has it.
pub fn settle(o: &Options) {
    use std::io::IsTerminal;
    let interactive = std::io::stdin().is_terminal()
        || std::io::stdout().is_terminal()
        || std::io::stderr().is_terminal();
    if !interactive && !o.stdio.contains(&true) {
        let _ = uml_host::process::new_session();
    }
}
