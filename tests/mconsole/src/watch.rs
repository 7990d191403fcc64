//! What a machine tells: `strace`, `ps`, `net`, memory that is taken away, and notifications.

use std::path::Path;

use storage_tests::suite::Verdict;
use uml_formats::mconsole::NotificationKind;
use uml_mconsole::notify::Listener;

use crate::keys::until;
use crate::machine::{Kernel, Machine, Start};

const SCRIPT: &str = "(while :; do cd /nosuch 2>/dev/null; cd /; sleep 0.02; done) & echo looper $!
    sleep 100000 & echo sleeper $!
    echo -n 'user hello' > /proc/mconsole
    (exec 5</dev/ttyS0; read -r w <&5; exec 4>/dev/watchdog; echo ping >&4; echo dog open; read -r w <&5; exec 4>&-
        echo dog closed; sleep 1000) &
    echo up; wait";

fn strace(m: &mut Machine) -> Result<(), String> {
    let pid = m.said("looper ").ok_or("no looper")?;
    m.ok(&format!("strace {pid} on"))?;
    m.line(|l| l.contains(&format!("[{pid}] chdir(\"/nosuch\") = -1 ENOENT")))?;
    m.line(|l| l.contains(&format!("[{pid}] chdir(\"/\") = 0")))?;
    m.ok(&format!("strace {pid} -c"))?;
    // Counted while it is printed: at least three more rounds.
    for _ in 0..3 {
        m.line(|l| l.contains("chdir(\"/nosuch\")"))?;
    }
    let calls = |table: &str| -> Result<(u64, u64), String> {
        let row =
            table.lines().find(|l| l.ends_with(" chdir")).ok_or(format!("no chdir in {table}"))?;
        let n: Vec<&str> = row.split_whitespace().collect();
        let number = |s: &str| s.parse::<u64>().map_err(|_| format!("strange row {row:?}"));
        Ok((number(n[3])?, number(n[4])?))
    };
    let (some, failed) = calls(&m.ok(&format!("strace {pid} -c"))?)?;
    if some < 4 || failed < 2 || failed > some {
        return Err(format!("strace -c counted {some} calls, {failed} errors"));
    }
    let last = m.ok(&format!("strace {pid} off"))?;
    if calls(&last)?.0 < some || !last.lines().last().is_some_and(|l| l.ends_with(" total")) {
        return Err(format!("the last table: {last}"));
    }
    // The trace buffer has them still, once.
    let dump = m.ok("sysrq z")?;
    if !dump.contains(&format!("[{pid}] chdir(\"/nosuch\") = -1 ENOENT")) {
        return Err(format!("sysrq z after strace: {dump}"));
    }
    if !m.ok("sysrq z")?.contains("(trace buffer empty)") {
        return Err("sysrq z does not empty the trace buffer".into());
    }
    for (command, text) in [
        (format!("strace {pid} off"), "Not traced"),
        ("strace 99999 on".into(), "Couldn't find that pid"),
        ("strace 99999 -c".into(), "Couldn't find that pid"),
        ("strace".into(), "usage: strace <pid> on|off|-c"),
        (format!("strace {pid} maybe"), "usage: strace <pid> on|off|-c"),
    ] {
        let a = crate::request::ask(&m.socket, &command)?;
        if (a.err, a.text.as_str()) != (1, text) {
            return Err(format!("{command}: {a:?}"));
        }
    }
    Ok(())
}

fn memory(m: &Machine) -> Result<(), String> {
    let field = |name: &str| -> Result<u64, String> {
        let text = m.ok("proc meminfo")?;
        let line = text.lines().find(|l| l.starts_with(name)).ok_or(format!("no {name}"))?;
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).ok_or("no number".into())
    };
    let (total, before) = (field("MemTotal:")?, field("MemFree:")?);
    m.ok("config mem=-32M")?;
    let after = field("MemFree:")?;
    if field("MemTotal:")? != total || before.abs_diff(after + (32 << 10)) > 4096 {
        return Err(format!("{before} kB free became {after} kB without 32 MB"));
    }
    m.ok("config mem=+1G")?;
    if before.abs_diff(field("MemFree:")?) > 4096 {
        return Err("memory was not given back".into());
    }
    Ok(())
}

/// The helper of /dev/watchdog is there as long as a program has the device open, and knows whom to tell.
fn watchdog(m: &mut Machine, events: &Path) -> Result<(), String> {
    let wanted = format!("linux -watchdog -mconsole {}", events.display());
    let helpers = || -> usize {
        let of = |e: std::fs::DirEntry| std::fs::read(e.path().join("cmdline")).ok();
        let words =
            |c: Vec<u8>| String::from_utf8_lossy(&c).replace('\0', " ").trim_end().to_owned();
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(of);
        all.filter(|c| words(c.clone()) == wanted).count()
    };
    let device = m.pts("ssl0")?;
    let line = std::fs::OpenOptions::new().write(true).open(&device);
    let mut line = line.map_err(|e| format!("{device}: {e}"))?;
    let mut say = || std::io::Write::write_all(&mut line, b"next\n").map_err(|e| e.to_string());
    say()?;
    m.line(|l| l == "dog open")?;
    if helpers() != 1 {
        return Err(format!("{} helpers while the watchdog is open", helpers()));
    }
    say()?;
    m.line(|l| l == "dog closed")?;
    if helpers() != 0 {
        return Err("the watchdog's helper outlives it".into());
    }
    Ok(())
}

fn notifications(m: &mut Machine, listener: &Listener) -> Result<(), String> {
    let next = |kind, text: &str| -> Result<(), String> {
        let e = listener.next_event().map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        if (e.kind, e.text().as_str()) == (kind, text) { Ok(()) } else { Err(format!("{e:?}")) }
    };
    let socket = m.socket.display().to_string();
    next(NotificationKind::Socket, &socket)?;
    next(NotificationKind::User, "user hello")?;
    m.ok("reboot")?;
    m.line(|l| l == "up")?;
    next(NotificationKind::Socket, &socket)?;
    next(NotificationKind::User, "user hello")?;
    m.ok("sysrq c")?;
    next(NotificationKind::Panic, "sysrq triggered crash")?;
    m.wait()?;
    Ok(())
}

fn try_it(dir: &Path) -> Result<(), String> {
    let events = dir.join("events");
    let listener = Listener::bind(&events)?;
    let options = [format!("mconsole=notify:{}", events.display()), "ssl0=pts".to_owned()];
    let start = Start {
        kernel: Kernel::Ours,
        dir,
        umid: "watch",
        memory: 192,
        script: SCRIPT,
        options: &options,
    };
    let mut m = Machine::start(&start)?;
    strace(&mut m)?;
    let sleeper = m.said("sleeper ").ok_or("no sleeper")?;
    until(
        || {
            let ps = m.ok("ps")?;
            let row = ps.lines().find(|l| l.split_whitespace().next() == Some(&sleeper));
            Ok(row.is_some_and(|r| r.contains(" S hrtimer_nanosleep ") && r.ends_with(" sleep")))
        },
        "ps does not show the sleeper",
    )?;
    let net = m.ok("net")?;
    if !net.starts_with("lo: up mtu 65536") || !net.contains("127.0.0.1/8") {
        return Err(format!("net says {net}"));
    }
    let all = m.ok("help")?;
    for name in ["ps", "mem", "net", "strace <pid> on|off", "strace <pid> -c"] {
        if !all.contains(&format!("\n    {name} - ")) {
            return Err(format!("help does not list {name}"));
        }
    }
    memory(&m)?;
    watchdog(&mut m, &events)?;
    notifications(&mut m, &listener)
}

/// Everything but what stock kernels tell too.
pub fn tells(dir: &Path) -> Verdict {
    try_it(dir).into()
}
