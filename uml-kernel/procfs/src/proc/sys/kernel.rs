//! `/proc/sys/kernel` (proc_sys_kernel(5)).

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_core::task::cred::CAP_LAST;
use uml_core::version::{RELEASE, VERSION};

use super::super::fs::Subject;
use super::{Setting, both, dir, line, number, numbers, parse, random, show, uts};
use crate::synth::Text;

/// Longest host name (uname(2)).
const NAME_MAX: usize = 64;
/// Longest core_pattern (core(5)).
const CORE_PATTERN_MAX: usize = 127;

fn show_printk(_: &Subject, k: &Kernel, out: &mut Text) -> Result<()> {
    let [default, min, boot] = [0, 1, 2].map(|i| k.sysctl.kernel_printk[i].get());
    writeln!(out, "{}\t{default}\t{min}\t{boot}", k.console_level());
    Ok(())
}

fn store_printk(k: &Kernel, _: &Task, data: &[u8]) -> Result<()> {
    let v = parse(data, 4)?;
    let level = u8::try_from(v[0]).ok().filter(|l| *l <= 15).ok_or(EINVAL)?;
    k.set_console_level(level);
    for (n, v) in k.sysctl.kernel_printk.iter().zip(&v[1..]) {
        n.set(*v)?;
    }
    Ok(())
}

fn show_cad(_: &Subject, k: &Kernel, out: &mut Text) -> Result<()> {
    writeln!(out, "{}", u8::from(k.ctrl_alt_del.load(Ordering::Relaxed)));
    Ok(())
}

fn store_cad(k: &Kernel, _: &Task, data: &[u8]) -> Result<()> {
    k.ctrl_alt_del.store(parse(data, 1)?[0] > 0, Ordering::Relaxed);
    Ok(())
}

/// A constant line.
macro_rules! fixed {
    ($name:literal, $value:expr) => {
        show($name, |_, _, out| {
            writeln!(out, "{}", $value);
            Ok(())
        })
    };
}

pub static ROWS: &[Setting] = &[
    fixed!("arch", "x86_64"),
    fixed!("cap_last_cap", CAP_LAST),
    line("core_pattern", |k| &k.sysctl.kernel_core_pattern, CORE_PATTERN_MAX),
    number("core_pipe_limit", |s| &s.kernel_core_pipe_limit),
    number("core_uses_pid", |s| &s.kernel_core_uses_pid),
    both("ctrl-alt-del", show_cad, store_cad),
    number("dmesg_restrict", |s| &s.kernel_dmesg_restrict),
    uts("domainname", |n| &n.domainname, NAME_MAX),
    uts("hostname", |n| &n.hostname, NAME_MAX),
    number("kptr_restrict", |s| &s.kernel_kptr_restrict),
    number("msgmax", |s| &s.kernel_msgmax),
    number("msgmnb", |s| &s.kernel_msgmnb),
    number("msgmni", |s| &s.kernel_msgmni),
    fixed!("ngroups_max", 65536),
    fixed!("osrelease", RELEASE),
    fixed!("ostype", "Linux"),
    fixed!("overflowgid", 65534),
    fixed!("overflowuid", 65534),
    number("panic", |s| &s.kernel_panic),
    number("panic_on_oops", |s| &s.kernel_panic_on_oops),
    number("pid_max", |s| &s.kernel_pid_max),
    both("printk", show_printk, store_printk),
    number("printk_ratelimit", |s| &s.kernel_printk_ratelimit),
    number("printk_ratelimit_burst", |s| &s.kernel_printk_ratelimit_burst),
    dir("random", random::ROWS),
    number("randomize_va_space", |s| &s.kernel_randomize_va_space),
    numbers("sem", |s| &s.kernel_sem),
    number("shm_rmid_forced", |s| &s.kernel_shm_rmid_forced),
    number("shmall", |s| &s.kernel_shmall),
    number("shmmax", |s| &s.kernel_shmmax),
    number("shmmni", |s| &s.kernel_shmmni),
    number("sysrq", |s| &s.kernel_sysrq),
    fixed!("tainted", 0),
    number("threads-max", |s| &s.kernel_threads_max),
    fixed!("version", VERSION),
];
