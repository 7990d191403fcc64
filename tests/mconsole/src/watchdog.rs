//! /dev/watchdog: a machine that gives signs of life lives, one that stops to is told of, or ended.

use std::path::Path;
use std::time::{Duration, Instant};

use storage_tests::suite::{Verdict, program};
use uml_formats::mconsole::NotificationKind;
use uml_mconsole::notify::Listener;

use crate::machine::{Kernel, Machine, Start};

/// Sets the time, gives signs of life by both ways for longer than that, and then none.
const DOG: &str = r#"
import fcntl, os, struct, time
GET, SET, ALIVE = 0x80045707, 0xc0045706, 0x80045705
fd = os.open('/dev/watchdog', os.O_WRONLY)
def number(call, n=0):
    return struct.unpack('I', fcntl.ioctl(fd, call, struct.pack('I', n)))[0]
print('at first', number(GET), flush=True)
for bad in 0, 65536:
    try: number(SET, bad)
    except OSError as e: print('refused', e.errno, flush=True)
print('set', number(SET, SECONDS), number(GET), flush=True)
began = time.monotonic()
while time.monotonic() < began + SECONDS + 3:
    fcntl.ioctl(fd, ALIVE)
    time.sleep(0.2)
    os.write(fd, b'x')
    time.sleep(0.2)
try: os.open('/dev/watchdog', os.O_WRONLY)
except OSError as e: print('twice', e.errno, flush=True)
print('last sign', flush=True)
time.sleep(1000)
"#;

/// Seconds. Loaded hosts may hold a sign of life up for most of that.
const SECONDS: u32 = 4;

fn start(dir: &Path, umid: &str, options: &[String]) -> Result<Machine, String> {
    let dog = DOG.replace("SECONDS", &SECONDS.to_string());
    let script = format!(
        "cat > /tmp/dog.py <<'END'\n{dog}\nEND\n(exec 3>/dev/watchdog); echo up; python3 /tmp/dog.py & wait; sleep 1000"
    );
    let start = Start { kernel: Kernel::Ours, dir, umid, memory: 128, script: &script, options };
    let mut m = Machine::start(&start)?;
    for wanted in ["at first 60", "refused 22", "refused 22", "set 4 4", "twice 16", "last sign"] {
        // What came before, a hang would have kept from coming.
        let line = m.line(|l| l == wanted || l.starts_with("Traceback"))?;
        if line != wanted {
            return Err(format!("{line:?} instead of {wanted:?}"));
        }
    }
    Ok(m)
}

fn try_it(dir: &Path) -> Result<(), String> {
    // Somebody listens: told, and the machine goes on.
    let events = dir.join("events");
    let listener = Listener::bind(&events)?;
    let mut m = start(dir, "told", &[format!("mconsole=notify:{}", events.display())])?;
    let last = Instant::now();
    let next = || listener.next_event().map_err(|e| e.to_string())?.map_err(|e| e.to_string());
    let first = next()?;
    if first.kind != NotificationKind::Socket {
        return Err(format!("{first:?} before the machine hangs"));
    }
    let hang = next()?;
    let after = last.elapsed();
    if hang.kind != NotificationKind::Hang || !hang.payload.is_empty() {
        return Err(format!("{hang:?} instead of a hang"));
    }
    // The last sign is a moment older than the line that tells of it.
    if after + Duration::from_secs(1) < Duration::from_secs(SECONDS.into()) {
        return Err(format!("a hang {after:?} after the last sign of life"));
    }
    m.ok("version")?;
    m.ok("halt")?;
    m.wait()?;
    // Nobody listens: the machine is interrupted, which ends it in order.
    let mut m = start(dir, "ended", &[])?;
    match m.wait()? {
        1 => {}
        n => return Err(format!("status {n} after the watchdog")),
    }
    if m.socket.exists() {
        return Err("the interrupted machine left its directory".into());
    }
    println!(
        "        told {:.1} s after the last sign of life, of {SECONDS} s",
        after.as_secs_f64()
    );
    Ok(())
}

/// The time is set, kept while there are signs of life, and over without.
pub fn times_out(dir: &Path) -> Verdict {
    if program("python3").is_none() {
        return Verdict::Skipped("python3 is not installed".into());
    }
    try_it(dir).into()
}
