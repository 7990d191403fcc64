//! `stop` and `go` under load: programs notice nothing but that time went on elsewhere.

use std::path::Path;
use std::time::{Duration, Instant};

use storage_tests::suite::{Verdict, program};

use crate::machine::{Kernel, Machine, Start};

/// Watches its own clocks and timers every 100 ms and says each second: the longest gap of the monotonic clock, the most
/// expirations of a 50 ms timer beyond what the gap explains, how often a clock went back, signals of an interval timer, the clock.
const WATCHER: &str = r#"
import ctypes, os, signal, struct, time
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.timerfd_create(1, 0o4000)
spec = struct.pack('qqqq', 0, 50000000, 0, 50000000)
libc.timerfd_settime(fd, 0, spec, None)
ticks = 0
def tick(*_):
    global ticks
    ticks += 1
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
last, real, gap, burst, back, rounds = time.monotonic(), time.time(), 0.0, 0.0, 0, 0
while True:
    time.sleep(0.1)
    try:
        expired = struct.unpack('Q', os.read(fd, 8))[0]
    except BlockingIOError:
        expired = 0
    now, r = time.monotonic(), time.time()
    gap = max(gap, now - last)
    burst = max(burst, expired - (now - last) / 0.05)
    back += (r < real) + (now < last)
    last, real, rounds = now, r, rounds + 1
    if rounds % 10 == 0:
        print('watch', rounds, round(gap, 3), round(burst, 1), back, ticks, round(now, 3), flush=True)
"#;

/// What the watcher saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    gap: f64,
    burst: f64,
    back: f64,
    ticks: f64,
    now: f64,
}

fn watched(m: &mut Machine) -> Result<Seen, String> {
    let line = m.line(|l| l.starts_with("watch "))?;
    let n: Vec<f64> = line.split(' ').skip(1).filter_map(|w| w.parse().ok()).collect();
    match n[..] {
        [_, gap, burst, back, ticks, now] => Ok(Seen { gap, burst, back, ticks, now }),
        _ => Err(format!("strange line {line:?}")),
    }
}

/// `$UML_STOP_SECONDS`, or 3.
fn length() -> Duration {
    let given = std::env::var("UML_STOP_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(given.unwrap_or(3))
}

fn try_it(dir: &Path) -> Result<(), String> {
    let script = format!(
        "(while :; do :; done) & echo busy $!\n(while :; do (:); done) & (yes | tr y n > /dev/null) & echo up\n\
         cat > /tmp/w.py <<'END'\n{WATCHER}\nEND\npython3 /tmp/w.py & wait"
    );
    let start = Start {
        kernel: Kernel::Ours,
        dir,
        umid: "pause",
        memory: 192,
        script: &script,
        options: &[],
    };
    let mut m = Machine::start(&start)?;
    let busy = m.said("busy ").ok_or("no busy process")?;
    let before = watched(&mut m)?;
    let stopped = Instant::now();
    if m.ok("stop")? != "stopped" {
        return Err("stop has another text".into());
    }
    // Everything answers, twice the same: nobody runs and no clock goes on.
    let look = |m: &Machine| -> Result<Vec<String>, String> {
        ["proc uptime", &format!("proc {busy}/stat"), "proc interrupts", "version"]
            .iter()
            .map(|c| match m.ok(c) {
                Err(e) if c.ends_with("interrupts") && e.contains("Failed to open") => {
                    Ok(String::new())
                }
                other => other,
            })
            .collect()
    };
    let first = look(&m)?;
    for (command, wanted) in [
        (format!("stack {busy}"), "Call Trace:"),
        ("sysrq t".into(), "task:bash"),
        ("sysrq p".into(), "sysrq: Show Regs"),
        ("ps".into(), " bash"),
        ("mem".into(), "kernel process"),
        ("config con1".into(), "null"),
        ("proc meminfo".into(), "MemTotal"),
    ] {
        let text = m.ok(&command)?;
        if !text.contains(wanted) {
            return Err(format!("{command} while stopped: {text}"));
        }
    }
    let left = length().saturating_sub(stopped.elapsed());
    std::thread::park_timeout(left);
    // park_timeout(3) may return early.
    while stopped.elapsed() < length() {
        std::thread::park_timeout(length().saturating_sub(stopped.elapsed()));
    }
    let second = look(&m)?;
    if first != second {
        return Err(format!("something went on while stopped: {first:?} became {second:?}"));
    }
    m.ok("go")?;
    let went = stopped.elapsed().as_secs_f64();
    // What was said before the stop may still be in the pipe: the third line is surely younger.
    let after = (0..3).try_fold(before, |_, _| watched(&mut m))?;
    let passed = after.now - before.now;
    let wrong = [
        (after.gap > went / 2.0, "the monotonic clock jumped"),
        (after.burst > 3.0, "timers came in a burst"),
        (after.back > 0.0, "a clock went back"),
        (after.ticks <= before.ticks, "the interval timer ended"),
    ];
    match wrong.iter().find(|w| w.0) {
        Some((_, what)) => Err(format!("{what}: {before:?} before, {after:?} after {went:.1} s")),
        None => {
            println!(
                "        stopped for {went:.1} s, {passed:.1} s of the guest's: longest gap {} s, beyond a steady timer {}",
                after.gap, after.burst
            );
            Ok(())
        }
    }
}

/// Stop for some seconds under load, look at everything, go on.
pub fn stop_and_go(dir: &Path) -> Verdict {
    if program("python3").is_none() {
        return Verdict::Skipped("python3 is not installed".into());
    }
    try_it(dir).into()
}
