//! Login sessions as people have them: the REPL, and shells on every channel, with resizing, Ctrl-C, job control, an editor
//! and reconnection.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use storage_tests::suite::{Verdict, program};

use crate::flow::free_port;
use crate::machine::{Kernel, Machine, Start};
use crate::tmux::Window;

/// Shells on tty1 and ttyS1, again and again as init has them.
const SCRIPT: &str = r#"
export PS1='guest> ' HOME=/tmp HISTFILE=
cat > /tmp/rc <<'END'
PS1='guest> '
END
cat > /tmp/winch <<'END'
trap 'echo size $(stty size) | tee $1' WINCH; echo waits | tee $1
while :; do sleep 0.05; done
END
session() { while :; do setsid -c -w bash --noprofile --rcfile /tmp/rc -i </dev/$1 >/dev/$1 2>&1; done; }
session tty1 & session ttyS1 &
echo up
wait
"#;

/// What is told apart on the screen: the prompt at the last line that has something.
fn prompt(s: &str) -> bool {
    s.trim_end().lines().last().is_some_and(|l| l.trim_end() == "guest>")
}

/// Everything a session must be good for.
fn session(w: &Window) -> Result<(), String> {
    w.see("the prompt", prompt)?;
    w.line("echo $((6 * 7)) on $(tty | cut -c 1-8)")?;
    w.see_line("42 on /dev/tty")?;
    // Ctrl-C ends what runs.
    w.line("clear; bash -c 'echo runs; exec sleep 1000'")?;
    w.see_line("runs")?;
    w.keys(&["C-c"])?;
    w.see("^C and the prompt", |s| s.contains("^C") && prompt(s))?;
    // Ctrl-Z stops it; bg, fg, and Ctrl-C again.
    w.line("clear; bash -c 'echo runs again; exec sleep 1001'")?;
    w.see_line("runs again")?;
    w.keys(&["C-z"])?;
    w.see("a stopped job", |s| s.contains("Stopped") && prompt(s))?;
    w.line("bg; jobs")?;
    w.see("a running job", |s| s.contains("Running") && prompt(s))?;
    w.line("fg")?;
    w.see("the job in front", |s| s.trim_end().ends_with("sleep 1001'"))?;
    w.keys(&["C-c"])?;
    w.see("^C and the prompt", |s| s.trim_end().contains("^C") && prompt(s))?;
    w.line("jobs; echo no more jobs")?;
    w.see_line("no more jobs")?;
    // A program in front is told of another size.
    w.line("clear; bash /tmp/winch")?;
    w.see_line("waits")?;
    w.resize(100, 30)?;
    w.see_line("size 30 100")?;
    w.resize(80, 24)?;
    w.see_line("size 24 80")?;
    w.keys(&["C-c"])?;
    w.see("the prompt", prompt)?;
    w.line("stty size")?;
    w.see_line("24 80")?;
    // An editor on the whole screen.
    w.line("stty rows 24 columns 80; clear; vim.tiny -u NONE /tmp/edited")?;
    w.see("the editor", |s| s.lines().filter(|l| l.trim_end() == "~").count() > 10)?;
    w.text("ione two three")?;
    w.keys(&["Escape"])?;
    w.text("bcwTWO")?;
    w.keys(&["Escape"])?;
    w.text(":wq")?;
    w.keys(&["Enter"])?;
    w.see("the prompt after the editor", prompt)?;
    w.line("clear; cat /tmp/edited; rm /tmp/edited")?;
    w.see_line("one two TWO").map(|_| ())
}

fn start(dir: &Path, umid: &str, options: &[String]) -> Result<Machine, String> {
    Machine::start(&Start { kernel: Kernel::Ours, dir, umid, memory: 128, script: SCRIPT, options })
}

fn missing(programs: &[&str]) -> Option<Verdict> {
    let absent = programs.iter().find(|p| program(p).is_none())?;
    Some(Verdict::Skipped(format!("{absent} is not installed")))
}

/// The console on descriptors of a terminal: the kernel runs in the window, its shell is the first program.
pub fn on_fd(dir: &Path) -> Verdict {
    if let Some(v) = missing(&["tmux", "vim.tiny", "setsid"]) {
        return v;
    }
    let run = || -> Result<(), String> {
        let linux = program("linux").ok_or("linux is not built")?;
        let init = dir.join("init");
        std::fs::write(&init, format!("#!/bin/bash\nexport PATH=/usr/sbin:/sbin:/usr/bin:/bin LC_ALL=C TERM=screen\nmount -t proc proc /proc; mount -t tmpfs tmp /tmp\n{}",
            SCRIPT.replace("session tty1 & session ttyS1 &\necho up\nwait", "while :; do setsid -c -w bash --noprofile --rcfile /tmp/rc -i </dev/tty0 >/dev/tty0 2>&1 && break; done; echo o > /proc/sysrq-trigger; sleep 100")))
            .map_err(|e| e.to_string())?;
        let command = format!(
            "stty -a > {d}/before; {} mem=128M quiet root=/dev/root rootfstype=hostfs rootflags=/ rw rootoverlay=tmpfs con=null con0=fd:0,fd:1 \
             uml_dir={d}/uml/ umid=fd init=/bin/bash -- {}; stty -a > {d}/after; echo ended",
            linux.display(),
            init.display(),
            d = dir.display()
        );
        let w = Window::open(dir, "fd", &command)?;
        session(&w)?;
        w.line("exit")?;
        w.see_line("ended")?;
        // The terminal is as it was.
        let of = |f: &str| std::fs::read_to_string(dir.join(f)).map_err(|e| format!("{f}: {e}"));
        if of("before")? == of("after")? {
            Ok(())
        } else {
            Err("the terminal was left in another mode".into())
        }
    };
    run().into()
}

/// A serial line on a pts, with the simplest terminal program there is: tmux's own window, raw, copying both ways.
pub fn on_pts(dir: &Path) -> Verdict {
    if let Some(v) = missing(&["tmux", "vim.tiny", "setsid", "python3"]) {
        return v;
    }
    let run = || -> Result<(), String> {
        let m = start(dir, "pts", &["con1=pts".to_owned()])?;
        let device = m.pts("con1")?;
        let relay = dir.join("relay.py");
        std::fs::write(&relay, RELAY).map_err(|e| e.to_string())?;
        let command = format!("python3 {} {device}; echo relay ended", relay.display());
        let w = Window::open(dir, "pts", &command)?;
        w.see("the terminal program", |s| s.contains("connected"))?;
        w.keys(&["Enter"])?;
        session(&w)?;
        // The session ends with the last program of it: the pts is gone, and the next shell has another one.
        w.line("exit")?;
        w.see("the end of the terminal program", |s| s.contains("relay ended"))?;
        let next = m.pts("con1")?;
        drop(w);
        let w = Window::open(dir, "pts2", &format!("python3 {} {next}", relay.display()))?;
        w.see("the terminal program", |s| s.contains("connected"))?;
        w.keys(&["Enter"])?;
        w.see("a prompt again", prompt).map(|_| ())
    };
    run().into()
}

/// A console on a BSD pseudo-terminal. Hosts have those only with CONFIG_LEGACY_PTYS; on others a library between the kernel and its
/// C library gives a Unix98 pair the name /dev/ptyp0, and its slave the name ttyp0 in `$PTY_DIR`.
pub fn on_pty(dir: &Path) -> Verdict {
    if let Some(v) = missing(&["tmux", "vim.tiny", "setsid", "python3", "gcc"]) {
        return v;
    }
    let run = || -> Result<(), String> {
        let bsd = Path::new("/dev/ptyp0").exists();
        let shim = crate::machine::library(dir, "bsdpty", BSD_PTY)?;
        let ptys = dir.display().to_string();
        let shim = shim.display().to_string();
        let with = [("LD_PRELOAD", shim.as_str()), ("PTY_DIR", ptys.as_str())];
        let start = Start {
            kernel: Kernel::Ours,
            dir,
            umid: "pty",
            memory: 128,
            script: SCRIPT,
            options: &["con1=pty".to_owned()],
        };
        let m = Machine::start_with(&start, if bsd { &[] } else { &with })?;
        let connected = |name: &str| -> Result<Window, String> {
            let open = || Ok(m.ok("config con1")?.starts_with("pty:/dev/tty"));
            crate::keys::until(open, "con1 has no pty")?;
            let shown = m.ok("config con1")?;
            let device = match shown.strip_prefix("pty:").unwrap_or_default() {
                d if bsd => d.to_owned(),
                d => d.replacen("/dev", &ptys, 1),
            };
            let relay = dir.join("relay.py");
            std::fs::write(&relay, RELAY).map_err(|e| e.to_string())?;
            let command = format!("python3 {} {device}; echo relay ended", relay.display());
            let w = Window::open(dir, name, &command)?;
            w.see("the terminal program", |s| s.contains("connected"))?;
            w.keys(&["Enter"])?;
            Ok(w)
        };
        let w = connected("pty")?;
        session(&w)?;
        w.line("exit")?;
        w.see("the end of the terminal program", |s| s.contains("relay ended"))?;
        drop(w);
        let w = connected("pty2")?;
        w.see("a prompt again", prompt)?;
        // The terminal program leaves: hang-up, and a shell for the next one.
        w.line("echo $$ > /tmp/last")?;
        w.see("the prompt", prompt)?;
        drop(w);
        let w = connected("pty3")?;
        w.see("a prompt again", prompt)?;
        w.line("clear; read -r p < /tmp/last; kill -0 $p 2>/dev/null || echo the other is gone")?;
        w.see_line("the other is gone").map(|_| ())
    };
    run().into()
}

const BSD_PTY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
static const char *slave(const char *path, char *buf) {
    if (strcmp(path, "/dev/ttyp0")) return path;
    snprintf(buf, PATH_MAX, "%s/ttyp0", getenv("PTY_DIR"));
    return buf;
}
int open64(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    va_list ap; va_start(ap, flags); int mode = va_arg(ap, int); va_end(ap);
    char buf[PATH_MAX], name[64];
    if (strcmp(path, "/dev/ptyp0")) return real(slave(path, buf), flags, mode);
    int master = real("/dev/ptmx", flags, mode), no = 0;
    if (master < 0 || ioctl(master, TIOCSPTLCK, &no) || ptsname_r(master, name, sizeof name)) return -1;
    slave("/dev/ttyp0", buf);
    unlink(buf);
    return symlink(name, buf) ? -1 : master;
}
int access(const char *path, int mode) {
    int (*real)(const char *, int) = dlsym(RTLD_NEXT, "access");
    char buf[PATH_MAX];
    return real(slave(path, buf), mode);
}
"#;

/// A terminal program: copies between its terminal and a device, and passes its size on.
const RELAY: &str = r#"
import fcntl, os, select, signal, sys, termios, tty
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
tty.setraw(fd); tty.setraw(0)
def size(*_):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b'\0' * 8))
signal.signal(signal.SIGWINCH, size); size()
os.write(1, b'connected\r\n')
while True:
    for f in select.select([0, fd], [], [])[0]:
        try: data = os.read(f, 65536)
        except OSError: sys.exit()
        if not data: sys.exit()
        os.write(1 if f == fd else fd, data)
"#;

/// A console on a terminal of the host that somebody else's program has open, by its name: all of a session, and the terminal
/// as it was afterwards.
pub fn on_tty(dir: &Path) -> Verdict {
    if let Some(v) = missing(&["tmux", "vim.tiny", "setsid"]) {
        return v;
    }
    let run = || -> Result<(), String> {
        let named = dir.join("device");
        let w = Window::open(dir, "tty", &format!("tty > {}; exec sleep 100000", named.display()))?;
        let mut device = String::new();
        let there = || {
            device = std::fs::read_to_string(&named).unwrap_or_default().trim().to_owned();
            Ok(!device.is_empty())
        };
        crate::keys::until(there, "the window has no terminal")?;
        let modes = || -> Result<String, String> {
            let out = Command::new("stty").args(["-a", "-F", &device]).output();
            let out = out.map_err(|e| format!("stty: {e}"))?;
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        };
        let before = modes()?;
        let mut m = start(dir, "tty", &[format!("con1=tty:{device}")])?;
        session(&w)?;
        if m.ok("config con1")? != format!("tty:{device}") {
            return Err(format!("con1 is {}", m.ok("config con1")?));
        }
        m.ok("halt")?;
        m.wait()?;
        if modes()? == before {
            Ok(())
        } else {
            Err("the terminal was left in another mode".into())
        }
    };
    run().into()
}

/// A telnet client, leaving and coming back.
pub fn on_port(dir: &Path) -> Verdict {
    if let Some(v) = missing(&["tmux", "vim.tiny", "setsid", "telnet"]) {
        return v;
    }
    let run = || -> Result<(), String> {
        let port = free_port()?;
        let m = start(dir, "port", &[format!("con1=port:{port}")])?;
        crate::keys::until(|| Ok(m.ok("config con1")?.starts_with("port")), "con1 is not there")?;
        let command = format!("telnet -E 127.0.0.1 {port}; echo telnet ended");
        let w = Window::open(dir, "port", &command)?;
        session(&w)?;
        w.line("echo first $$ > /tmp/last; clear")?;
        w.see("the prompt", prompt)?;
        drop(w);
        // The old shell is told (SIGHUP) and gone; a new one is there for the next client.
        let w = Window::open(dir, "port2", &command)?;
        w.see("a prompt again", prompt)?;
        w.line("clear; read -r _ p < /tmp/last; kill -0 $p 2>/dev/null || echo the first is gone")?;
        w.see_line("the first is gone")?;
        w.line("exit")?;
        w.see_line("telnet ended")?;
        let w = Window::open(dir, "port3", &command)?;
        w.see("a prompt of the next shell", prompt).map(|_| ())
    };
    run().into()
}

/// An X server of its own, and the number it chose.
struct Display {
    server: Child,
    name: String,
}

impl Display {
    fn start() -> Result<Display, String> {
        use std::io::{BufRead, BufReader};
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "1024x768x24", "-nolisten", "tcp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("Xvfb: {e}"))?;
        let mut number = String::new();
        let out = server.stdout.take().ok_or("no pipe")?;
        BufReader::new(out).read_line(&mut number).map_err(|e| e.to_string())?;
        let d = Display { server, name: format!(":{}", number.trim()) };
        if number.trim().is_empty() { Err("Xvfb did not start".into()) } else { Ok(d) }
    }

    fn xdotool(&self, args: &[&str]) -> Result<String, String> {
        let out = Command::new("xdotool")
            .args(args)
            .env("DISPLAY", &self.name)
            .output()
            .map_err(|e| format!("xdotool: {e}"))?;
        if out.status.success() {
            Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
        } else {
            Err(format!("xdotool {args:?}: {}", String::from_utf8_lossy(&out.stderr)))
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The title of the window.
const NAME: &str = "Virtual Console #1 .xterm.";

/// xterm on an X server in memory; what its shell does is seen on the console.
pub fn in_xterm(dir: &Path) -> Verdict {
    if let Some(v) = missing(&["Xvfb", "xterm", "xdotool", "setsid"]) {
        return v;
    }
    let run = || -> Result<(), String> {
        let d = Display::start()?;
        let script = SCRIPT.replace("session ttyS1 &", "");
        let start = Start {
            kernel: Kernel::Ours,
            dir,
            umid: "xterm",
            memory: 128,
            script: &script,
            options: &["con1=xterm".to_owned()],
        };
        let mut m = Machine::start_with(&start, &[("DISPLAY", &d.name)])?;
        let window = d.xdotool(&["search", "--sync", "--onlyvisible", "--name", NAME])?;
        let window = window.lines().next().ok_or("no window")?.to_owned();
        let kind = |text: &str| -> Result<(), String> {
            d.xdotool(&["type", "--window", &window, "--delay", "2", text])?;
            d.xdotool(&["key", "--window", &window, "Return"]).map(|_| ())
        };
        d.xdotool(&["windowfocus", &window])?;
        kind("echo hello from $(tty) > /dev/console")?;
        m.line(|l| l == "hello from /dev/tty1")?;
        kind("bash -c 'echo runs > /dev/console; exec sleep 1000'")?;
        m.line(|l| l == "runs")?;
        d.xdotool(&["key", "--window", &window, "ctrl+c"])?;
        kind("echo after $? > /dev/console")?;
        m.line(|l| l == "after 130")?;
        kind("bash -c 'echo runs > /dev/console; exec sleep 1002'")?;
        m.line(|l| l == "runs")?;
        d.xdotool(&["key", "--window", &window, "ctrl+z"])?;
        kind("jobs > /dev/console; kill %1")?;
        m.line(|l| l.contains("Stopped") && l.contains("sleep 1002"))?;
        kind("bash /tmp/winch /dev/console")?;
        m.line(|l| l == "waits")?;
        d.xdotool(&["windowsize", &window, "700", "500"])?;
        let size = m.line(|l| l.starts_with("size "))?;
        if size == "size 24 80" {
            return Err("the size did not change".into());
        }
        d.xdotool(&["key", "--window", &window, "ctrl+c"])?;
        // The window is closed: hang-up; the next shell has a new one.
        kind("echo $$ > /tmp/last; echo shell $$ > /dev/console")?;
        let shell = m.line(|l| l.starts_with("shell "))?;
        let shell = shell.trim_start_matches("shell ").to_owned();
        d.xdotool(&["windowkill", &window])?;
        let ended = || Ok(m.ok("ps")?.lines().all(|l| l.split_whitespace().next() != Some(&shell)));
        crate::keys::until(ended, "the shell outlives its window")?;
        // The new window may well have the old one's number.
        let again = d.xdotool(&["search", "--sync", "--onlyvisible", "--name", NAME])?;
        let again = again.lines().next().ok_or("no second window")?.to_owned();
        d.xdotool(&["windowfocus", &again])?;
        let gone = "read -r p < /tmp/last; kill -0 $p || echo the first is gone > /dev/console";
        d.xdotool(&["type", "--window", &again, "--delay", "2", gone])?;
        d.xdotool(&["key", "--window", &again, "Return"])?;
        m.line(|l| l == "the first is gone").map(|_| ())
    };
    run().into()
}

/// The interactive client in a window: prompt, completion, history, an answer of several pages, Ctrl-C, the end.
pub fn repl(dir: &Path) -> Verdict {
    if let Some(v) = missing(&["tmux"]) {
        return v;
    }
    let run = || -> Result<(), String> {
        let events = dir.join("events");
        let options = [format!("mconsole=notify:{}", events.display())];
        // Without a listener yet the first notifications are lost, and said to be.
        let script = "echo up; while read -r w; do echo \"$w\" > /proc/mconsole; done < /dev/ttyS0; sleep 100000";
        let m = Machine::start(&Start {
            kernel: Kernel::Ours,
            dir,
            umid: "repl",
            memory: 64,
            script,
            options: &[options[0].clone(), "ssl0=pts".to_owned()],
        })?;
        let client = program("uml_mconsole").ok_or("uml_mconsole is not built")?;
        let command = format!(
            "HOME={} XDG_STATE_HOME={}/state {} --notify {} repl; echo status $?",
            m.home.display(),
            dir.display(),
            client.display(),
            events.display()
        );
        let w = Window::open(dir, "repl", &command)?;
        let at_prompt =
            |s: &str| s.trim_end().lines().last().is_some_and(|l| l.trim_end() == "(repl)");
        w.see("the prompt", at_prompt)?;
        w.text("vers")?;
        w.keys(&["Tab", "Enter"])?;
        w.see("the version", |s| s.contains("OK Linux ") && at_prompt(s))?;
        w.clear()?;
        w.text("proc upt")?;
        w.keys(&["Tab", "Enter"])?;
        w.see("a completed /proc file", |s| {
            s.contains("proc uptime") && s.contains("OK") && at_prompt(s)
        })?;
        for (typed, completed) in [("switch rep", "switch repl"), ("config ss", "config ssl")] {
            w.clear()?;
            w.text(typed)?;
            w.keys(&["Tab"])?;
            let line = format!("(repl) {completed}");
            w.see(completed, |s| {
                s.trim_end().lines().last().is_some_and(|l| l.trim_end() == line)
            })?;
            w.keys(&["C-c"])?;
            w.see("a prompt after Ctrl-C", at_prompt)?;
        }
        w.clear()?;
        w.line("config con1=pts")?;
        w.line("config con1")?;
        w.see("the new line", |s| s.contains("OK pts"))?;
        // In the middle of a line somebody in the guest speaks up: the line stays.
        w.text("config co")?;
        w.see("half a line", |s| s.contains("(repl) config co"))?;
        let device = m.pts("ssl0")?;
        let mut line = std::fs::OpenOptions::new().write(true).open(&device);
        let news = |l: &mut std::fs::File| std::io::Write::write_all(l, b"news from inside\n");
        line.as_mut()
            .map_err(|e| e.to_string())
            .and_then(|l| news(l).map_err(|e| e.to_string()))?;
        w.see("the notification and the line", |s| {
            s.contains("[user] news from inside")
                && s.trim_end().lines().last().is_some_and(|l| l.trim_end() == "(repl) config co")
        })?;
        w.text("n1")?;
        w.keys(&["Enter"])?;
        w.see("the finished line's answer", |s| s.matches("OK pts").count() >= 2)?;
        // Resizing and Ctrl-C hurt nothing; history brings a line back.
        w.resize(60, 20)?;
        w.text("half")?;
        w.keys(&["C-c"])?;
        w.see("a prompt after Ctrl-C", at_prompt)?;
        w.clear()?;
        w.keys(&["Enter"])?;
        w.see("an empty prompt", at_prompt)?;
        w.keys(&["Up", "Up", "Enter"])?;
        w.see("a line from history", |s| s.contains("OK"))?;
        w.line("help")?;
        w.see("the client's own help", |s| {
            s.contains("int  - Interrupt UML session") && at_prompt(s)
        })?;
        w.line("nonsense")?;
        w.see("an error", |s| s.contains("ERR Unknown command") && at_prompt(s))?;
        w.keys(&["C-d"])?;
        w.see_line("status 0")?;
        Ok(())
    };
    run().into()
}
