//! What is said and checked before the machine exists.

use uml_platform::{Backend, BootError, Report};

use crate::cmdline::{Options, Seccomp};

/// Memory below which the machine cannot do useful work.
pub const MIN_MEMORY: u64 = 8 << 20;

/// Checks that need no machine; the text goes to stderr and the exit status is 1.
pub fn check(o: &Options) -> Result<(), String> {
    if o.mem < MIN_MEMORY {
        return Err(format!(
            "Too few physical memory! Needed={MIN_MEMORY}, given={}\n\
             give at least mem={}M\n",
            o.mem,
            MIN_MEMORY >> 20
        ));
    }
    if let Some(most) = uml_host::limits::file_size().filter(|most| *most < o.mem) {
        return Err(format!(
            "the host's limit on the size of files is {} KiB (RLIMIT_FSIZE), and memory of the guest is kept in files of up to \
             mem={}K; ulimit -f raises it\n",
            most >> 10,
            o.mem >> 10
        ));
    }
    Ok(())
}

/// Messages about options, some before and some regardless of the rest of the boot.
pub fn remark(o: &Options) {
    if o.umid_again {
        eprintln!("umid already set");
    }
    if o.uml_dir_empty {
        eprintln!("uml_dir can't be an empty string");
    }
    for f in &o.hostfs_unknown {
        println!("hostfs_args - unsupported option - {f}");
    }
}

/// The informational lines on stderr, unless `quiet`.
pub fn announce(o: &Options) {
    if o.quiet {
        return;
    }
    let (soft, hard) = uml_host::limits::core();
    let show = |v: Option<u64>| v.map_or("NONE".to_owned(), |n| n.to_string());
    eprintln!("Core dump limits :\n\tsoft - {}\n\thard - {}", show(soft), show(hard));
}

/// Memory beyond what the host has cannot be given.
pub fn shrink(o: &mut Options) {
    let host = uml_host::procinfo::meminfo();
    let kb = |name: &str| host.get(name).copied().unwrap_or(0);
    let most = (kb("MemTotal") + kb("SwapTotal")) << 10;
    if most >= MIN_MEMORY && o.mem > most {
        eprintln!("Physical memory size shrunk to {most} bytes");
        o.mem = most;
    }
}

/// What the checks of the host found, unless `quiet`.
pub fn backend(o: &Options, report: &Report) {
    if o.quiet {
        return;
    }
    let refused = |b: Backend| report.rejected.iter().find(|r| r.0 == b).map(|r| r.1.as_str());
    if report.chosen != Backend::Ptrace {
        eprintln!("Checking that seccomp filters can be installed...OK");
    } else if let Some(why) = refused(Backend::Trap) {
        eprintln!("Checking that seccomp filters can be installed...{why}");
    }
    if report.chosen == Backend::Ptrace {
        eprintln!("Checking syscall emulation for ptrace...OK");
    }
}

/// No way to run guest programs works.
pub fn backend_failed(o: &Options, e: &BootError) {
    if o.seccomp == Seccomp::On && o.platform.is_none() {
        eprintln!("SECCOMP userspace requested but not functional!");
    }
    eprintln!("{e}");
    for s in uml_host::limits::short() {
        eprintln!("{s}");
    }
}
