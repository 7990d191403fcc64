//! SysRq commands (Linux, Documentation/admin-guide/sysrq.rst): the table of keys.
//!
//! The keyboard of `r` is that of the terminals behind the lines, as the guest sets them. The screen of `v` is the host's
//! terminals that lines show up on. The trace buffer of `z` holds system calls, of what `strace` watches.

mod oom;
mod show;
mod signals;
mod storage;

use std::sync::Arc;

use uml_base::{klog, pr_err, pr_info, pr_warn};
use uml_core::kernel::{Kernel, PowerAction};
use uml_syscalls::trace;

/// Groups of keys that /proc/sys/kernel/sysrq switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
enum Group {
    Always = 1,
    Loglevel = 2,
    Keyboard = 4,
    Dump = 8,
    Sync = 16,
    Remount = 32,
    Signal = 64,
    Boot = 128,
    Nice = 256,
}

struct Key {
    keys: &'static [u8],
    /// For the list of keys.
    help: &'static str,
    /// Printed before the action.
    action: &'static str,
    group: Group,
    run: fn(&Arc<Kernel>, u8),
}

const fn key(
    keys: &'static [u8],
    help: &'static str,
    action: &'static str,
    group: Group,
    run: fn(&Arc<Kernel>, u8),
) -> Key {
    Key { keys, help, action, group, run }
}

static KEYS: &[Key] = &[
    key(b"0123456789", "loglevel(0-9)", "Changing Loglevel", Group::Loglevel, loglevel),
    key(b"b", "reboot(b)", "Resetting", Group::Boot, |k, _| end(k, PowerAction::Restart)),
    key(b"c", "crash(c)", "Trigger a crash", Group::Dump, crash),
    key(b"e", "terminate-all-tasks(e)", "Terminate All Tasks", Group::Signal, |k, _| {
        signals::all(k, libc::SIGTERM);
    }),
    key(b"f", "memory-full-oom-kill(f)", "Manual OOM execution", Group::Signal, |k, _| {
        oom::kill_one(k);
    }),
    key(b"i", "kill-all-tasks(i)", "Kill All Tasks", Group::Signal, |k, _| {
        signals::all(k, libc::SIGKILL);
    }),
    key(b"j", "thaw-filesystems(j)", THAW, Group::Always, |k, _| storage::thaw(k)),
    key(b"k", "sak(k)", "SAK", Group::Keyboard, |k, _| signals::secure_attention(k)),
    key(b"l", "show-backtrace-all-active-cpus(l)", BACKTRACE, Group::Dump, |k, _| {
        show::running(k);
    }),
    key(b"m", "show-memory-usage(m)", "Show Memory", Group::Dump, |k, _| show::memory(k)),
    key(b"n", "nice-all-RT-tasks(n)", "Nice All RT Tasks", Group::Nice, |k, _| signals::nice(k)),
    key(b"o", "poweroff(o)", "Power Off", Group::Boot, |k, _| end(k, PowerAction::PowerOff)),
    key(b"p", "show-registers(p)", "Show Regs", Group::Dump, |k, _| show::running(k)),
    key(b"q", "show-all-timers(q)", TIMERS, Group::Dump, |k, _| show::timers(k)),
    key(b"r", "unraw(r)", UNRAW, Group::Keyboard, |k, _| {
        if let Some(t) = k.terminals() {
            t.reset_lines();
        }
    }),
    key(b"R", "replay-kernel-logs(R)", REPLAY, Group::Dump, |_, _| klog::replay()),
    key(b"s", "sync(s)", "Emergency Sync", Group::Sync, |k, _| storage::sync(k)),
    key(b"t", "show-task-states(t)", "Show State", Group::Dump, |k, _| show::every_task(k)),
    key(b"u", "unmount(u)", "Emergency Remount R/O", Group::Remount, |k, _| storage::remount(k)),
    key(b"v", "restore-terminals(v)", "Restoring the terminals of lines", Group::Always, |_, _| {
        if let Err(e) = uml_host::terminal::reassert() {
            pr_err!("sysrq: a terminal cannot be put into raw mode: {e}");
        }
    }),
    key(b"w", "show-blocked-tasks(w)", "Show Blocked State", Group::Dump, |k, _| show::blocked(k)),
    key(b"z", "dump-trace-buffer(z)", "Dump trace buffer", Group::Dump, |_, _| dump_trace()),
];

const THAW: &str = "Emergency Thaw of all frozen filesystems";
const BACKTRACE: &str = "Show backtrace of all active CPUs";
const UNRAW: &str = "Keyboard mode set to system default";
const REPLAY: &str = "Replay kernel logs on consoles";
const TIMERS: &str = "Show clockevent devices & pending hrtimers (no others)";

/// The SysRq commands of a machine.
pub struct Sysrq {
    kernel: Arc<Kernel>,
}

fn find(letter: u8) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.keys.contains(&letter))
}

impl Sysrq {
    /// For this machine.
    pub fn new(kernel: &Arc<Kernel>) -> Arc<Sysrq> {
        Arc::new(Sysrq { kernel: kernel.clone() })
    }

    /// Performs the command of a key from outside, where /proc/sys/kernel/sysrq has a say. Output goes to the
    /// kernel log. What ends the machine is under way when this returns.
    pub fn press(&self, letter: u8) {
        let Some(k) = find(letter) else { return help() };
        if !self.enabled(k.group) {
            pr_info!("sysrq: This sysrq operation is disabled.");
            return;
        }
        self.run(k, letter);
    }

    /// Performs the command of a key on behalf of root in the guest (/proc/sysrq-trigger), where nothing is
    /// disabled.
    pub fn trigger(&self, letter: u8) {
        match find(letter) {
            Some(k) => self.run(k, letter),
            None => help(),
        }
    }

    /// Whether [`Sysrq::press`] of this key leaves no machine that could tell of it.
    pub fn ends_the_machine(&self, letter: u8) -> bool {
        matches!(letter, b'b' | b'c' | b'o') && find(letter).is_some_and(|k| self.enabled(k.group))
    }

    fn enabled(&self, group: Group) -> bool {
        match self.kernel.sysctl.kernel_sysrq.get() {
            0 => false,
            1 => true,
            mask => group == Group::Always || mask & group as i64 != 0,
        }
    }

    fn run(&self, k: &Key, letter: u8) {
        pr_info!("sysrq: {}", k.action);
        (k.run)(&self.kernel, letter);
    }
}

fn help() {
    let all: Vec<&str> = KEYS.iter().map(|k| k.help).collect();
    pr_info!("sysrq: HELP : {} ", all.join(" "));
}

fn dump_trace() {
    pr_info!("Dumping trace buffer:");
    let calls = trace::take_latest();
    if calls.is_empty() {
        pr_info!("   (trace buffer empty)");
    }
    for call in calls {
        pr_info!("{call}");
    }
}

fn loglevel(kernel: &Arc<Kernel>, letter: u8) {
    let level = letter.saturating_sub(b'0');
    kernel.set_console_level(level);
    pr_warn!("sysrq: Loglevel set to {level}");
}

fn crash(kernel: &Arc<Kernel>, _: u8) {
    let kernel = kernel.clone();
    in_background("panic", move || kernel.panic("sysrq triggered crash"));
}

fn end(kernel: &Arc<Kernel>, action: PowerAction) {
    let kernel = kernel.clone();
    in_background("power", move || kernel.power(action));
}

/// Runs what may wait for storage or does not return, in a thread of its own.
pub fn in_background(what: &str, f: impl FnOnce() + Send + 'static) {
    if let Err(e) = std::thread::Builder::new().name(what.to_owned()).spawn(f) {
        pr_err!("{what}: the host refuses a thread: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::capture;

    fn text(f: impl FnOnce()) -> String {
        String::from_utf8(capture(f)).expect("text")
    }

    #[test]
    fn every_key_has_one_meaning() {
        let all: Vec<u8> = KEYS.iter().flat_map(|k| k.keys.iter().copied()).collect();
        let mut unique = all.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(all.len(), unique.len());
    }

    #[test]
    fn unknown_keys_list_the_known_ones() {
        let sysrq = Sysrq::new(&Kernel::new(64 << 20, 1));
        for key in [b'h', b'?', b'a', 0, 0xff] {
            let t = text(|| sysrq.press(key));
            assert!(t.contains("sysrq: HELP : loglevel(0-9) reboot(b) crash(c)"), "{t:?}");
        }
    }

    #[test]
    fn the_setting_disables_groups_but_not_for_root_inside() {
        let kernel = Kernel::new(64 << 20, 1);
        let sysrq = Sysrq::new(&kernel);
        kernel.sysctl.kernel_sysrq.set(Group::Loglevel as i64).expect("in range");
        assert!(text(|| sysrq.press(b'm')).contains("This sysrq operation is disabled."));
        assert!(text(|| sysrq.trigger(b'm')).contains("Mem-Info"));
        assert!(!sysrq.ends_the_machine(b'o'));
        sysrq.press(b'3');
        assert_eq!(kernel.console_level(), 3);
        kernel.sysctl.kernel_sysrq.set(1).expect("in range");
        assert!(text(|| sysrq.press(b'm')).contains("Mem-Info"));
        assert!(sysrq.ends_the_machine(b'o') && !sysrq.ends_the_machine(b't'));
    }
}
