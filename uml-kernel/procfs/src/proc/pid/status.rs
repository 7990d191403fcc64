//! `/proc/<pid>/status` (proc_pid_status(5)).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;
use uml_core::task::rlimit::Resource;
use uml_mm::Mm;
use uml_mm::vma::{PROT_EXEC, PROT_WRITE, Purpose};

use super::{Target, stat};
use crate::synth::Text;

/// Sizes of an address space by use, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    pub total: u64,
    pub locked: u64,
    pub data: u64,
    pub stack: u64,
    pub exe: u64,
    pub lib: u64,
}

impl Sizes {
    /// Those of `mm`.
    pub fn of(mm: &Mm) -> Sizes {
        let map = mm.map();
        let l = &map.layout;
        let page = |a: u64| a & !4095;
        let exe = page(l.end_code.saturating_add(4095)).saturating_sub(page(l.start_code));
        let code = map
            .vmas
            .total(|v| v.backing.is_some() && v.flags.prot & (PROT_EXEC | PROT_WRITE) == PROT_EXEC);
        let stack = |v: &uml_mm::vma::Vma| v.flags.purpose == Purpose::Stack;
        Sizes {
            total: map.vmas.total(|_| true),
            locked: map.vmas.total(|v| v.flags.locked),
            data: map
                .vmas
                .total(|v| !v.flags.shared && v.flags.prot & PROT_WRITE != 0 && !stack(v)),
            stack: map.vmas.total(stack),
            exe: exe.min(code),
            lib: code.saturating_sub(exe),
        }
    }
}

/// The command name with what would break a line escaped.
pub fn escaped_name(task: &Task, out: &mut Text) {
    for b in task.comm() {
        match b {
            b'\n' => out.raw(b"\\n"),
            b'\\' => out.raw(b"\\\\"),
            _ => out.raw(&[b]),
        }
    }
}

fn state_name(letter: char) -> &'static str {
    match letter {
        'R' => "running",
        'S' => "sleeping",
        'D' => "disk sleep",
        'T' => "stopped",
        't' => "tracing stop",
        'Z' => "zombie",
        _ => "dead",
    }
}

/// A CPU or node mask as 32-bit groups, highest first, and as a list of ranges.
pub fn mask(words: &[u64], bits: usize) -> (String, String) {
    let groups = bits.div_ceil(32).max(1);
    let group = |i: usize| words.get(i / 2).copied().unwrap_or(0) >> (i % 2 * 32) & 0xffff_ffff;
    let top_bits = match bits % 32 {
        0 => 32,
        n => n,
    };
    let top = group(groups - 1) & (u64::MAX >> (64 - top_bits));
    let mut text = format!("{top:0width$x}", width = top_bits.div_ceil(4));
    for i in (0..groups - 1).rev() {
        text.push_str(&format!(",{:08x}", group(i)));
    }
    let set = |c: usize| words.get(c / 64).is_some_and(|w| w >> (c % 64) & 1 != 0);
    let mut ranges: Vec<String> = Vec::new();
    let mut c = 0;
    while c < bits {
        if !set(c) {
            c += 1;
            continue;
        }
        let first = c;
        while c + 1 < bits && set(c + 1) {
            c += 1;
        }
        ranges.push(if first == c { c.to_string() } else { format!("{first}-{c}") });
        c += 1;
    }
    (text, ranges.join(","))
}

fn memory(mm: &Mm, out: &mut Text) {
    let s = Sizes::of(mm);
    let host = uml_host::procinfo::status(mm.space().host_pid());
    let get = |name: &str| host.get(name).copied().unwrap_or(0);
    let size = s.total >> 10;
    // The host's process has the stub besides; what it ever had more than now counts for the guest.
    let peak = size + get("VmPeak").saturating_sub(get("VmSize"));
    let lines = [
        ("VmPeak", peak),
        ("VmSize", size),
        ("VmLck", s.locked >> 10),
        ("VmPin", 0),
        ("VmHWM", get("VmHWM")),
        ("VmRSS", get("VmRSS")),
        ("RssAnon", get("RssAnon")),
        ("RssFile", get("RssFile")),
        ("RssShmem", get("RssShmem")),
        ("VmData", s.data >> 10),
        ("VmStk", s.stack >> 10),
        ("VmExe", s.exe >> 10),
        ("VmLib", s.lib >> 10),
        ("VmPTE", get("VmPTE")),
        ("VmSwap", get("VmSwap")),
        ("HugetlbPages", 0),
    ];
    for (name, kb) in lines {
        writeln!(out, "{name}:\t{kb:8} kB");
    }
    writeln!(out, "CoreDumping:\t0\nTHP_enabled:\t0");
}

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    let task = t.task()?;
    let kernel = t.kernel()?;
    let process = &task.process;
    let cred = task.cred();
    let letter = stat::state(t, &task)?.letter();
    let (ppid, pgrp, session, threads) = {
        let tree = kernel.tree.read();
        let e = tree.get(t.pid).ok_or(ESRCH)?;
        (e.parent, e.pgrp, e.session, e.members().count())
    };
    let pid = stat::task_id(t, &task);
    let ns = &t.mnt.pid_ns;
    let users = reader.cred().user_ns.clone();
    let uid = |id| users.uid(id);
    let gid = |id| users.gid(id);
    // The numbers in the mount's namespace and in those below that the process is in.
    let numbers = |pid: i32| {
        let mut all: Vec<String> = process
            .pid_ns
            .chain()
            .take_while(|n| !Arc::ptr_eq(n, ns))
            .map(|n| n.show(pid).to_string())
            .collect();
        all.push(ns.show(pid).to_string());
        all.reverse();
        all.join("\t")
    };

    out.raw(b"Name:\t");
    escaped_name(&task, out);
    let mm = task.mm().ok();
    if mm.is_some() {
        write!(out, "\nUmask:\t{:04o}", task.fs().umask());
    }
    writeln!(out, "\nState:\t{letter} ({})", state_name(letter));
    let tracer = ns.show(task.ptrace.tracer_process());
    let (tgid, ppid) = (ns.show(t.pid), ns.show(ppid));
    writeln!(out, "Tgid:\t{tgid}\nNgid:\t0\nPid:\t{pid}\nPPid:\t{ppid}\nTracerPid:\t{tracer}");
    let [r, e, s, f] = [cred.uid, cred.euid, cred.suid, cred.fsuid].map(uid);
    writeln!(out, "Uid:\t{r}\t{e}\t{s}\t{f}");
    let [r, e, s, f] = [cred.gid, cred.egid, cred.sgid, cred.fsgid].map(gid);
    writeln!(out, "Gid:\t{r}\t{e}\t{s}\t{f}");
    let fds = if mm.is_some() { task.files().size() } else { 0 };
    write!(out, "FDSize:\t{fds}\nGroups:\t");
    for g in cred.groups.iter() {
        write!(out, "{} ", gid(*g));
    }
    out.raw(b" \n");
    let thread = if t.is_thread() { task.tid } else { t.tid };
    writeln!(out, "NStgid:\t{}\nNSpid:\t{}", numbers(t.pid), numbers(thread));
    writeln!(out, "NSpgid:\t{}\nNSsid:\t{}", numbers(pgrp), numbers(session));
    writeln!(out, "Kthread:\t0");
    if let Some(mm) = &mm {
        memory(mm, out);
    }
    let shared_pending = process.sighand.lock().pending.set;
    let own_pending = task.pending.lock().set;
    let queued = process.sighand.lock().pending.queue.len() + task.pending.lock().queue.len();
    let (ignored, caught) = stat::dispositions(&task);
    writeln!(out, "Threads:\t{threads}\nSigQ:\t{queued}/{}", task.rlimit(Resource::Sigpending));
    let sets = [
        ("SigPnd", own_pending),
        ("ShdPnd", shared_pending),
        ("SigBlk", task.blocked()),
        ("SigIgn", ignored),
        ("SigCgt", caught),
        ("CapInh", cred.cap_inheritable),
        ("CapPrm", cred.cap_permitted),
        ("CapEff", cred.cap_effective),
        ("CapBnd", cred.cap_bounding),
        ("CapAmb", cred.cap_ambient),
    ];
    for (name, set) in sets {
        writeln!(out, "{name}:\t{set:016x}");
    }
    writeln!(
        out,
        "NoNewPrivs:\t{}\nSeccomp:\t{}\nSeccomp_filters:\t{}",
        u8::from(cred.no_new_privs),
        task.seccomp.mode(),
        task.seccomp.count()
    );
    let (cpus, list) = mask(&task.affinity(kernel.ncpus), kernel.ncpus);
    writeln!(out, "Cpus_allowed:\t{cpus}\nCpus_allowed_list:\t{list}");
    writeln!(out, "Mems_allowed:\t1\nMems_allowed_list:\t0");
    writeln!(out, "voluntary_ctxt_switches:\t{}", task.nvcsw.load(Ordering::Relaxed));
    writeln!(out, "nonvoluntary_ctxt_switches:\t{}", task.nivcsw.load(Ordering::Relaxed));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn masks_read_as_on_linux() {
        assert_eq!(mask(&[0b11], 2), ("3".into(), "0-1".into()));
        assert_eq!(mask(&[0b1011_0001], 8), ("b1".into(), "0,4-5,7".into()));
        assert_eq!(mask(&[u64::MAX], 40), ("ff,ffffffff".into(), "0-39".into()));
        assert_eq!(mask(&[0], 4), ("0".into(), String::new()));
    }
}
