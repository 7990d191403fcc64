//! Much through lines: a paste of a megabyte in, a flood out, logins on several lines at once.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use storage_tests::suite::{Verdict, program};

use crate::machine::{Kernel, Machine, PATIENCE, Start};

/// A megabyte of lines that no two are alike; without bytes that a terminal or telnet means something by.
fn paste() -> String {
    let mut s = String::with_capacity((1 << 20) + 64);
    let mut n = 0u32;
    while s.len() < 1 << 20 {
        s.push_str(&format!(
            "{n:08} the quick brown fox jumps over the lazy dog {:08x}\n",
            n.wrapping_mul(0x9e37_79b9)
        ));
        n += 1;
    }
    s
}

/// tty1 takes a paste line by line, tty2 in raw mode; both say what arrived. ttyS1 and ttyS2 pour a flood out.
const SCRIPT: &str = "echo up
    paste() { tty=$1; shift; (exec 3<>$tty; stty \"$@\" <&3; echo ready >&3; head -c $SIZE <&3 | sha256sum | sed \"s,^,sum $tty ,\"; sleep 1000) & }
    paste /dev/tty1 -echo -icrnl -ixon
    paste /dev/tty2 raw -echo
    paste /dev/ttyS3 raw -echo
    flood() { (exec 3<>$1; stty raw -echo <&3; read -r -n 1 x <&3; yes flood | head -c 1200000 >&3; echo poured $1; sleep 1000) & }
    flood /dev/ttyS1; flood /dev/ttyS2
    wait; wait";

/// The host's side of a line.
enum Line {
    Terminal(File),
    Connection(TcpStream),
}

impl Line {
    /// The slave of a pts line, as a terminal program opens it: raw.
    fn pts(m: &Machine, line: &str) -> Result<Line, String> {
        let device = m.pts(line)?;
        let f = OpenOptions::new().read(true).write(true).open(&device);
        let f = f.map_err(|e| format!("{device}: {e}"))?;
        let mut t = tcgetattr(&f).map_err(|e| e.to_string())?;
        cfmakeraw(&mut t);
        tcsetattr(&f, SetArg::TCSANOW, &t).map_err(|e| e.to_string())?;
        Ok(Line::Terminal(f))
    }

    /// A client of a port, which listens once a program has opened a line there.
    fn port(port: u16) -> Result<Line, String> {
        let mut connected = None;
        let connect = || {
            connected = TcpStream::connect(("127.0.0.1", port)).ok();
            Ok(connected.is_some())
        };
        crate::keys::until(connect, "nobody listens on the port of a line")?;
        let c = connected.ok_or("no connection")?;
        c.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        c.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Line::Connection(c))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self {
            Line::Terminal(f) => f.write_all(bytes),
            Line::Connection(c) => c.write_all(bytes),
        }
        .map_err(|e| format!("write: {e}"))
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, String> {
        match self {
            Line::Terminal(f) => f.read(buf),
            Line::Connection(c) => c.read(buf),
        }
        .map_err(|e| format!("read: {e}"))
    }

    /// Reads up to and with `wanted`; what came before it is returned.
    fn until(&mut self, wanted: &str) -> Result<String, String> {
        let mut all = Vec::new();
        let mut byte = [0];
        while !all.ends_with(wanted.as_bytes()) {
            if self.read(&mut byte)? == 0 {
                return Err(format!(
                    "ended before {wanted:?}: {:?}",
                    String::from_utf8_lossy(&all)
                ));
            }
            all.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&all).into_owned())
    }
}

/// A port of the host that nobody has.
pub fn free_port() -> Result<u16, String> {
    let l = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    l.local_addr().map(|a| a.port()).map_err(|e| e.to_string())
}

fn sha256(bytes: &[u8]) -> Result<String, String> {
    use std::process::{Command, Stdio};
    let mut c = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("sha256sum: {e}"))?;
    c.stdin.take().ok_or("no pipe")?.write_all(bytes).map_err(|e| e.to_string())?;
    let out = c.wait_with_output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout);
    text.split(' ').next().map(str::to_owned).ok_or("no sum".into())
}

/// Pastes and floods on pts and port at the same time.
pub fn paste_and_flood(dir: &Path) -> Verdict {
    let run = || -> Result<(), String> {
        let text = paste();
        let port = free_port()?;
        let (port2, script) = (free_port()?, format!("SIZE={}\n{SCRIPT}", text.len()));
        let options = [
            "con1=pts".to_owned(),
            "con2=pts".to_owned(),
            format!("ssl3=port:{port}"),
            "ssl1=pts".to_owned(),
            format!("ssl2=port:{port2}"),
        ];
        let mut m = Machine::start(&Start {
            kernel: Kernel::Ours,
            dir,
            umid: "flow",
            memory: 128,
            script: &script,
            options: &options,
        })?;
        // The lines are there once a program has opened them.
        let mut open = Vec::new();
        for line in ["con1", "con2", "ssl1"] {
            crate::keys::until(
                || Ok(m.ok(&format!("config {line}"))?.contains("/dev/pts/")),
                "no pts for a line",
            )?;
            open.push(Line::pts(&m, line)?);
        }
        let flood = open.pop().ok_or("no line")?;
        open.push(Line::port(port)?);
        let floods = [flood, Line::port(port2)?];
        std::thread::scope(|s| -> Result<(), String> {
            let mut work = Vec::new();
            for mut line in open {
                let text = &text;
                work.push(s.spawn(move || -> Result<(), String> {
                    line.until("ready")?;
                    line.write(text.as_bytes())?;
                    // Kept open until all is through: the test ends with the sums.
                    std::mem::forget(line);
                    Ok(())
                }));
            }
            for mut line in floods {
                work.push(s.spawn(move || -> Result<(), String> {
                    line.write(b"g")?;
                    let (mut got, mut buf) = (Vec::new(), [0; 4096]);
                    // Telnet's options, and an echo of before the line was raw, come first.
                    line.until("flood\n")?;
                    got.extend_from_slice(b"flood\n");
                    while got.len() < 1_200_000 {
                        let n = line.read(&mut buf)?;
                        if n == 0 {
                            return Err(format!("the flood ended after {} bytes", got.len()));
                        }
                        got.extend_from_slice(&buf[..n]);
                        // A slow reader, now and then.
                        if got.len() % 64 == 0 {
                            std::thread::park_timeout(Duration::from_micros(300));
                        }
                    }
                    let wrong = got.chunks(6).position(|c| c != b"flood\n");
                    match wrong {
                        None => Ok(()),
                        Some(n) => Err(format!("the flood is broken at byte {}", n * 6)),
                    }
                }));
            }
            for w in work {
                w.join().map_err(|_| "a thread panicked".to_owned())??;
            }
            Ok(())
        })?;
        let sum = sha256(text.as_bytes())?;
        for _ in 0..3 {
            let line = m.line(|l| l.starts_with("sum "))?;
            if line.split(' ').nth(2) != Some(&sum) {
                return Err(format!("{line} instead of {sum}"));
            }
        }
        Ok(())
    };
    run().into()
}

/// A getty on each of six lines, logins on all at once.
pub fn gettys(dir: &Path) -> Verdict {
    if program("agetty").is_none() {
        return Verdict::Skipped("agetty is not installed".into());
    }
    let run = || -> Result<(), String> {
        let port = free_port()?;
        let script = "echo up
            cat > /tmp/login <<'END'
#!/bin/bash
read -r -p 'word: ' word; echo \"$(tty) heard $word\"; exec sleep 1000
END
            chmod +x /tmp/login
            for t in tty1 tty2 tty3 ttyS0 ttyS1 ttyS2; do
                setsid agetty -n -i -l /tmp/login $t xterm &
            done; wait; echo gettys end; sleep 1000";
        let options: Vec<String> = ["con1=pts", "con2=pts", "con3=pts"]
            .map(str::to_owned)
            .into_iter()
            .chain((0..3).map(|n| format!("ssl{n}=port:{port}")))
            .collect();
        let m = Machine::start(&Start {
            kernel: Kernel::Ours,
            dir,
            umid: "gettys",
            memory: 128,
            script,
            options: &options,
        })?;
        let mut lines = Vec::new();
        for line in ["con1", "con2", "con3"] {
            crate::keys::until(
                || Ok(m.ok(&format!("config {line}"))?.contains("/dev/pts/")),
                "no pts for a getty",
            )?;
            lines.push(Line::pts(&m, line)?);
        }
        for _ in 0..3 {
            lines.push(Line::port(port)?);
        }
        // All prompts first, then all answers: they wait for each other nowhere.
        for l in &mut lines {
            l.until("word: ")?;
        }
        let mut heard = Vec::new();
        for (n, l) in lines.iter_mut().enumerate() {
            l.write(format!("w{n}\r").as_bytes())?;
        }
        for (n, l) in lines.iter_mut().enumerate() {
            let text = l.until(&format!("heard w{n}"))?;
            let name = text.lines().last().and_then(|t| t.split(' ').next()).unwrap_or_default();
            heard.push(name.to_owned());
        }
        heard.sort();
        let all = ["/dev/tty1", "/dev/tty2", "/dev/tty3", "/dev/ttyS0", "/dev/ttyS1", "/dev/ttyS2"];
        if heard == all { Ok(()) } else { Err(format!("answers came from {heard:?}")) }
    };
    run().into()
}
