//! The machine's memory runs out: what is refused, who is killed, and that the guest lives on.
//!
//! Runs `umld run` of whichever profile was built last; programs come from the host's userland.

use std::process::{Command, Output};
use std::time::SystemTime;

use uml_tests::plan;

/// The newest `umld` that was built.
fn umld() -> std::path::PathBuf {
    let built = ["release", "debug"].map(|p| plan::target().join(p).join("umld"));
    let age = |p: &std::path::PathBuf| p.metadata().and_then(|m| m.modified()).ok();
    let newest = built.into_iter().max_by_key(|p| age(p).unwrap_or(SystemTime::UNIX_EPOCH));
    newest
        .filter(|p| p.is_file())
        .expect("umld is not built; run `cargo build -p umld -p uml-kernel`")
}

/// Runs a shell script as root of a guest with 128 MiB; a guest that hangs is ended.
fn guest(script: &str) -> (String, Output) {
    let out = Command::new("timeout")
        .args(["-k", "5", "120"])
        .arg(umld())
        .args(["run", "--mem", "128M", "--", "sh", "-c", script])
        .output()
        .expect("timeout(1) runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    (text, out)
}

fn check(script: &str, want: &str) {
    let (text, out) = guest(script);
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(text, want, "status {}, stderr:\n{err}", out.status);
    assert!(out.status.success(), "status {}, stderr:\n{err}", out.status);
}

/// False, with a word about it, when the host lacks a program.
fn have(program: &str) -> bool {
    let there = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|o| o.status.success());
    if !there {
        eprintln!("skipped: no {program} on this host");
    }
    there
}

#[test]
fn a_program_that_allocates_without_bound_is_killed_and_the_shell_goes_on() {
    check(
        "tail /dev/zero 2>/dev/null; echo ended $?
         dmesg | grep -c 'tail invoked oom-killer'
         dmesg | grep -c 'Out of memory: Killed process [0-9]* (tail) total-vm:[0-9]*kB, anon-rss:[0-9]*kB'
         grep oom_kill /proc/vmstat
         head -c 20000000 /dev/zero | tail -c 3 | wc -c",
        "ended 137\n1\n1\noom_kill 1\n3\n",
    );
}

#[test]
fn python_without_bound_is_killed() {
    if !have("python3") {
        return;
    }
    check(
        "python3 -c '
a = []
while True: a.append(bytearray(1 << 20))'
         echo ended $?
         python3 -c 'print(\"again\")'",
        "ended 137\nagain\n",
    );
}

#[test]
fn the_adjustment_decides_who_is_killed() {
    // The sleeper is tiny, but asks to be the first; init and the shell that asked never to be are spared.
    check(
        "sh -c 'echo 1000 > /proc/self/oom_score_adj; exec sleep 1000' & volunteer=$!
         echo -1000 > /proc/self/oom_score_adj
         sh -c 'echo 0 > /proc/self/oom_score_adj; exec tail /dev/zero' 2>/dev/null; echo hog $?
         wait $volunteer; echo volunteer $?
         dmesg | sed -n 's/.*Killed process [0-9]* (\\([a-z]*\\)).*/\\1/p'",
        "hog 137\nvolunteer 137\nsleep\ntail\n",
    );
}

#[test]
fn pages_that_forks_share_count_once() {
    if !have("python3") {
        return;
    }
    // Eight processes see the same 40 MB: with all copies counted that would be more than there is.
    check(
        "python3 -c '
import os
a = bytearray(b\"x\" * (40 << 20))
kids = []
for i in range(7):
    p = os.fork()
    if p == 0:
        total = sum(a[j] == 120 for j in range(0, len(a), 65536))
        import time
        end = time.monotonic() + 0.3
        while time.monotonic() < end: pass
        os._exit(total != len(a) >> 16)
    kids.append(p)
print([os.waitpid(p, 0)[1] for p in kids])'
         grep oom_kill /proc/vmstat",
        "[0, 0, 0, 0, 0, 0, 0]\noom_kill 0\n",
    );
}

#[test]
fn overcommit_modes_and_figures() {
    if !have("python3") {
        return;
    }
    check(
        "cat > /tmp/try.py <<'END'
import mmap, sys
def get(n): return next(int(l.split()[1]) for l in open('/proc/meminfo') if l.startswith(n + ':'))
def attempt(mb, flags=0):
    try:
        m = mmap.mmap(-1, mb << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags)
        m.close()
        return 'ok'
    except OSError as e:
        return e.errno
    except MemoryError:
        return 12
print(*(attempt(mb) for mb in (60, 100, 200)), attempt(200, 0x4000))
END
         grep -w MemTotal /proc/meminfo | tr -s ' '
         for mode in 0 1 2; do echo $mode > /proc/sys/vm/overcommit_memory; python3 /tmp/try.py; done
         echo 80 > /proc/sys/vm/overcommit_ratio; grep CommitLimit /proc/meminfo | tr -s ' '
         echo 0 > /proc/sys/vm/overcommit_memory
         python3 -c '
def get(n): return next(int(l.split()[1]) for l in open(\"/proc/meminfo\") if l.startswith(n + \":\"))
free, promised = get(\"MemFree\"), get(\"Committed_AS\")
a = bytearray(b\"x\" * (40 << 20))
took, more = free - get(\"MemFree\"), get(\"Committed_AS\") - promised
print(38000 < took < 46000, 38000 < more < 46000)
del a
print(abs(free - get(\"MemFree\")) < 4000, abs(promised - get(\"Committed_AS\")) < 4000)'",
        "MemTotal: 131072 kB\nok ok 12 ok\nok ok ok ok\n12 12 12 12\nCommitLimit: 104857 kB\nTrue True\nTrue True\n",
    );
}

#[test]
fn a_fork_bomb_stops_at_the_limits() {
    check(
        "echo 150 > /proc/sys/kernel/threads-max
         sh -c 'while :; do sleep 1000 & done' 2>/dev/null; echo bomb $?
         set -- /proc/[0-9]*; test $# -le 150 && test $# -ge 100 && echo as many as allowed
         kill -9 -1; wait; echo still here",
        "bomb 2\nas many as allowed\nstill here\n",
    );
}

#[test]
fn a_user_is_stopped_by_the_limit_of_processes() {
    if !have("setpriv") {
        return;
    }
    check(
        "setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'ulimit -u 40; while :; do sleep 1000 & done' 2>/dev/null
         echo bomb $?
         echo root can fork $(echo yes)
         setpriv --reuid=65534 --regid=65534 --clear-groups kill -9 -1; echo done",
        "bomb 2\nroot can fork yes\ndone\n",
    );
}
