//! Every SysRq letter does what the Linux manual says of it.

use std::path::Path;
use std::process::Command;

use storage_tests::suite::{Verdict, program};
use uml_formats::mconsole::NotificationKind;
use uml_mconsole::notify::Listener;

use crate::machine::{Kernel, Machine, Start};

/// Things for the keys to work on, each saying what became of it.
const SCRIPT: &str = r#"
mount /dev/ubda /mnt
(trap 'echo terminated; exit' TERM; trap '' HUP; echo victim; while :; do sleep 0.05; done) &
setsid -f -c sh -c 'stty raw -echo; echo raw; exec sleep 100000' </dev/tty0 >/dev/tty0 2>&1
sleep 0.1; setsid sh -c 'exec chrt -f 10 sleep 100001' &
sleep 0.1
trap ':' TERM
echo up
while read -r word; do
    case $word in
        stty) stty -a </dev/tty0 | grep -o -- '-\?icanon' ;;
        write) (: > /mnt/file) 2>&1 | sed 's/.*: /write: /'; echo write ends ;;
        hog) (trap '' TERM HUP; exec python3 -c 'b = bytearray(40 << 20); print("hog", flush=True); import time; time.sleep(1000)') & ;;
    esac
done </dev/ttyS0
while :; do sleep 1000; done
"#;

struct Bench<'a> {
    m: Machine,
    word: std::fs::File,
    _dir: &'a Path,
}

impl Bench<'_> {
    /// What the key prints.
    fn press(&self, key: &str) -> Result<String, String> {
        self.m.ok(&format!("sysrq {key}"))
    }

    fn prints(&self, key: &str, wanted: &[&str]) -> Result<(), String> {
        let text = self.press(key)?;
        match wanted.iter().find(|w| !text.contains(**w)) {
            Some(w) => Err(format!("sysrq {key} does not print {w:?}: {text}")),
            None => Ok(()),
        }
    }

    /// Has the first program do something.
    fn tell(&mut self, word: &str) -> Result<(), String> {
        use std::io::Write;
        self.word.write_all(format!("{word}\n").as_bytes()).map_err(|e| format!("ttyS0: {e}"))
    }

    /// The pid of the process whose command line, as `ps` has it, is this.
    fn pid(&self, comm: &str) -> Result<Vec<String>, String> {
        let text = self.m.ok("ps")?;
        let of = |l: &str| {
            let w: Vec<&str> = l.split_whitespace().collect();
            (w.last() == Some(&comm)).then(|| w[0].to_owned())
        };
        Ok(text.lines().filter_map(of).collect())
    }
}

fn start(dir: &Path, umid: &str, options: &[String]) -> Result<Machine, String> {
    Machine::start(&Start { kernel: Kernel::Ours, dir, umid, memory: 128, script: SCRIPT, options })
}

fn try_it(dir: &Path) -> Result<(), String> {
    let image = dir.join("disk");
    std::fs::write(&image, vec![0; 8 << 20]).map_err(|e| e.to_string())?;
    let mkfs = program("mke2fs").ok_or("mke2fs is not installed")?;
    let made =
        Command::new(mkfs).args(["-q", "-F"]).arg(&image).status().map_err(|e| e.to_string())?;
    if !made.success() {
        return Err("mke2fs failed".into());
    }
    let events = dir.join("events");
    let listener = Listener::bind(&events)?;
    let options = [
        format!("ubd0={}", image.display()),
        format!("mconsole=notify:{}", events.display()),
        "ssl0=pts".to_owned(),
    ];
    let m = start(dir, "keys", &options)?;
    let device = m.pts("ssl0")?;
    let word = std::fs::OpenOptions::new()
        .write(true)
        .open(&device)
        .map_err(|e| format!("{device}: {e}"))?;
    let mut b = Bench { m, word, _dir: dir };

    for level in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] {
        b.press(level)?;
        let printk = b.m.ok("proc sys/kernel/printk")?;
        if printk.split_whitespace().next() != Some(level) {
            return Err(format!("sysrq {level} made the log levels {printk:?}"));
        }
    }
    b.prints("h", &["sysrq: HELP : loglevel(0-9) reboot(b) crash(c)", "unraw(r)", "sak(k)"])?;
    b.prints("v", &["sysrq: Restoring the terminals of lines"])?;
    b.prints("z", &["sysrq: Dump trace buffer", "(trace buffer empty)"])?;
    b.prints("j", &["Emergency Thaw"])?;
    b.prints("l", &["sysrq: Show backtrace of all active CPUs"])?;
    b.prints("m", &["Mem-Info:", "total:131072kB"])?;
    b.prints("p", &["sysrq: Show Regs"])?;
    b.prints("q", &["sysrq: Show clockevent devices", "armed"])?;
    b.prints("t", &["sysrq: Show State", "task:sleep", "pid:1 "])?;
    b.prints("w", &["sysrq: Show Blocked State"])?;
    b.prints("R", &["Linux version", "sysrq: Show Blocked State"])?;

    // n: the real-time sleeper becomes an ordinary one (field 41 of its stat is the policy).
    let policies = |b: &Bench<'_>| -> Result<Vec<String>, String> {
        let stat = |p: String| b.m.ok(&format!("proc {p}/stat"));
        let all: Result<Vec<String>, String> = b.pid("sleep")?.into_iter().map(stat).collect();
        let field = |s: &String| s.split_whitespace().nth(40).map(str::to_owned);
        Ok(all?.iter().filter_map(field).collect())
    };
    if !policies(&b)?.iter().any(|p| p == "1") {
        return Err(format!("nobody has SCHED_FIFO: {:?}", policies(&b)?));
    }
    b.prints("n", &["sysrq: Nice All RT Tasks"])?;
    if policies(&b)?.iter().any(|p| p != "0") {
        return Err(format!("sysrq n left policies {:?}", policies(&b)?));
    }

    // r: the console that a program left in raw mode is usable again.
    b.tell("stty")?;
    b.m.line(|l| l == "-icanon")?;
    b.prints("r", &["sysrq: Keyboard mode set to system default"])?;
    b.tell("stty")?;
    b.m.line(|l| l == "icanon")?;

    // k: what is on the console dies.
    let before = b.pid("sleep")?.len();
    b.prints("k", &["SAK: killed process"])?;
    until(|| Ok(b.pid("sleep")?.len() < before), "the program on the console outlives SAK")?;

    // f: the hog dies, and only it.
    b.tell("hog")?;
    b.m.line(|l| l == "hog")?;
    b.press("f")?;
    b.m.line(|l| l.contains("Killed process") && l.contains("python3"))?;

    // s, u: written out, then read-only.
    b.press("s")?;
    b.m.line(|l| l.ends_with("Emergency Sync complete"))?;
    b.tell("write")?;
    b.m.line(|l| l == "write ends")?;
    b.press("u")?;
    b.m.line(|l| l.ends_with("Emergency Remount complete"))?;
    b.tell("write")?;
    b.m.line(|l| l == "write: Read-only file system")?;

    // e, i: everybody but init.
    b.prints("e", &["sysrq: Terminate All Tasks"])?;
    b.m.line(|l| l == "terminated")?;
    b.prints("i", &["sysrq: Kill All Tasks"])?;
    until(
        || Ok(b.m.ok("ps")?.lines().skip(1).all(|l| l.split_whitespace().next() == Some("1"))),
        "somebody outlives SIGKILL",
    )?;

    // b: the same process comes up anew.
    let pid = b.m.pid();
    b.press("b")?;
    b.m.line(|l| l == "up")?;
    if b.m.pid() != pid {
        return Err("another process after sysrq b".into());
    }
    // o: off. c: a panic, which the listener hears of.
    b.press("o")?;
    match b.m.wait()? {
        0 => {}
        n => return Err(format!("status {n} after sysrq o")),
    }
    let mut m = start(dir, "crash", &options)?;
    m.ok("sysrq c")?;
    match m.wait()? {
        134 => {}
        n => return Err(format!("status {n} after sysrq c")),
    }
    loop {
        let event = listener.next_event().map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        if event.kind == NotificationKind::Panic {
            break match event.text().contains("sysrq triggered crash") {
                true => Ok(()),
                false => Err(format!("the panic's notification says {:?}", event.text())),
            };
        }
    }
}

/// Asks until it is so; the machine gets a moment between two questions by the question itself.
pub fn until(mut so: impl FnMut() -> Result<bool, String>, otherwise: &str) -> Result<(), String> {
    let deadline = std::time::Instant::now() + crate::machine::PATIENCE;
    while !so()? {
        if std::time::Instant::now() > deadline {
            return Err(otherwise.into());
        }
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    Ok(())
}

/// All letters, on one machine and its second life.
pub fn every_letter(dir: &Path) -> Verdict {
    for needed in ["mke2fs", "python3", "chrt", "setsid"] {
        if program(needed).is_none() {
            return Verdict::Skipped(format!("{needed} is not installed"));
        }
    }
    try_it(dir).into()
}
