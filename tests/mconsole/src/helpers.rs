//! This kernel's program as the helper programs that a stock kernel starts: `port-helper` and `uml_watchdog`.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use storage_tests::suite::{Verdict, program};
use uml_formats::mconsole::NotificationKind;
use uml_mconsole::notify::Listener;

use crate::flow::free_port;
use crate::keys::until;
use crate::machine::{Kernel, PATIENCE, executable, stock_61};

/// A terminal emulator, or a telnetd: runs the helper on a terminal of its own and shows what is written to that, in a file or on the
/// connection it was started with. The helper of this test takes the place of the one that the kernel names.
const EMULATOR: &str = r#"#!/usr/bin/python3
import os, pty, sys
helper, out = os.environ['TEST_HELPER'], os.environ.get('TEST_OUT')
words = sys.argv[sys.argv.index('-e') + 2:] if out else []
pid, master = pty.fork()
if pid == 0:
    # Descriptor 3, a telnetd's, is inherited.
    os.execv(helper, [helper] + words)
to = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if out else 1
while True:
    try: data = os.read(master, 65536)
    except OSError: break
    if not data: break
    os.write(to, data)
"#;

/// A stock kernel; killed at the end, with the emulator that it started and all its processes, of which one has a session of its own.
struct Stock {
    kernel: Child,
    /// The word of its command line that no other kernel has.
    word: String,
}

impl Drop for Stock {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill, killpg};
        use nix::unistd::Pid;
        let _ = killpg(Pid::from_raw(self.kernel.id() as i32), Signal::SIGKILL);
        let _ = self.kernel.wait();
        let own = format!("\0{}\0", self.word).into_bytes();
        let is_own = |words: &[u8]| words.windows(own.len()).any(|w| w == own);
        for pid in processes(is_own).unwrap_or_default() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn start(dir: &Path, options: &[String], environment: &[(&str, String)]) -> Result<Stock, String> {
    let word = format!("uml_dir={}/", dir.join("uml").display());
    let mut c = Command::new(stock_61().ok_or("no stock UML 6.1")?);
    c.args(["mem=64M", "con=null", "ssl=null", "console=tty0", "root=/dev/ubda", "rootwait"])
        .arg(&word)
        .args(options)
        .envs(environment.iter().map(|(k, v)| (*k, v)))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let kernel = c.spawn().map_err(|e| format!("{c:?}: {e}"))?;
    Ok(Stock { kernel, word })
}

/// What both consoles must show: the kernel's messages up to where this kernel waits for a disk.
const LAST: &str = "Waiting for root device";

fn in_a_terminal(dir: &Path, helper: &Path, emulator: &Path) -> Result<(), String> {
    let out = dir.join("screen");
    let options = [format!("xterm={}", emulator.display()), "con0=xterm".to_owned()];
    let environment = [
        ("DISPLAY", ":99".to_owned()),
        ("TEST_HELPER", helper.display().to_string()),
        ("TEST_OUT", out.display().to_string()),
    ];
    let kernel = start(dir, &options, &environment)?;
    let shown = || Ok(fs::read_to_string(&out).is_ok_and(|t| t.contains(LAST)));
    until(shown, "the stock kernel's messages do not arrive in its terminal")?;
    if !runs(helper)? {
        return Err("the helper is not seen to run".into());
    }
    drop(kernel);
    until(|| runs(helper).map(|r| !r), "the helper outlives its terminal")
}

/// Whether some process is the program `file` in its life as a helper.
fn runs(file: &Path) -> Result<bool, String> {
    use std::os::unix::ffi::OsStrExt;
    let start = [file.as_os_str().as_bytes(), b"\0-uml-socket\0"].concat();
    Ok(!processes(|words| words.starts_with(&start))?.is_empty())
}

/// Processes whose command line, words ended by zeros, is `wanted`. One that ends meanwhile does not count.
fn processes(wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<i32>, String> {
    let all = fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))?;
    Ok(all
        .flatten()
        .filter(|p| fs::read(p.path().join("cmdline")).is_ok_and(|words| wanted(&words)))
        .filter_map(|p| p.file_name().to_str()?.parse().ok())
        .collect())
}

fn on_a_port(dir: &Path, helper: &Path) -> Result<(), String> {
    let port = free_port()?;
    let options = [format!("con0=port:{port}")];
    let path = format!("{}:/usr/bin:/bin", dir.display());
    let helper = helper.display().to_string();
    let environment =
        [("PATH", path), ("UML_PORT_HELPER", helper.clone()), ("TEST_HELPER", helper)];
    let _kernel = start(dir, &options, &environment)?;
    let mut connection = None;
    let connect = || {
        connection = std::net::TcpStream::connect(("127.0.0.1", port)).ok();
        Ok(connection.is_some())
    };
    until(connect, "the stock kernel does not listen")?;
    let mut connection = connection.ok_or("no connection")?;
    connection.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    let (mut all, mut buf) = (Vec::new(), [0; 4096]);
    let deadline = Instant::now() + PATIENCE;
    while !String::from_utf8_lossy(&all).contains(LAST) {
        let n = connection.read(&mut buf).map_err(|e| format!("port: {e}"))?;
        if n == 0 || Instant::now() > deadline {
            let text = String::from_utf8_lossy(&all).into_owned();
            return Err(format!("the stock kernel's port ends with {text:?}"));
        }
        all.extend_from_slice(&buf[..n]);
    }
    Ok(())
}

/// As `uml_watchdog`: ready, then a hang after the time, or the end with its input.
fn watchdog(dir: &Path, helper: &Path) -> Result<(), String> {
    let events = dir.join("events");
    let listener = Listener::bind(&events)?;
    let spawn = |args: &[&str]| {
        Command::new(helper)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", helper.display()))
    };
    let socket = events.display().to_string();
    let mut dog = spawn(&["-mconsole", &socket, "-timeout", "1"])?;
    let mut ready = [7];
    dog.stdout.take().ok_or("no pipe")?.read_exact(&mut ready).map_err(|e| e.to_string())?;
    let event = listener.next_event().map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    if event.kind != NotificationKind::Hang
        || dog.wait().map_err(|e| e.to_string())?.code() != Some(1)
    {
        return Err(format!("{event:?} and no status 1 after a second of silence"));
    }
    let mut dog = spawn(&["-pid", &std::process::id().to_string()])?;
    drop(dog.stdin.take());
    match dog.wait().map_err(|e| e.to_string())?.code() {
        Some(0) => {}
        s => return Err(format!("status {s:?} at the end of its input")),
    }
    // Wrong words and a pid of nobody: status 1 and silence.
    for bad in [&[][..], &["-pid"], &["-pid", "4194305"], &["-what", "1"]] {
        let out = spawn(bad)?.wait_with_output().map_err(|e| e.to_string())?;
        if out.status.code() != Some(1) || !out.stdout.is_empty() {
            return Err(format!("{bad:?}: {out:?}"));
        }
    }
    Ok(())
}

fn try_it(dir: &Path) -> Result<(), String> {
    let linux = program("linux").ok_or("linux is not built")?;
    let named = |name: &str| -> Result<PathBuf, String> {
        let link = dir.join(name);
        std::os::unix::fs::symlink(&linux, &link).map_err(|e| e.to_string())?;
        Ok(link)
    };
    watchdog(dir, &named("uml_watchdog")?)?;
    if Kernel::Stock61.missing().is_some() {
        println!("        without a stock kernel: no stock UML 6.1 in tests/cache/stock-6.1");
        return Ok(());
    }
    let helper = named("port-helper")?;
    for name in ["emulator", "in.telnetd"] {
        executable(&dir.join(name), EMULATOR)?;
    }
    in_a_terminal(dir, &helper, &dir.join("emulator"))?;
    on_a_port(dir, &helper)
}

/// Under their names, in a terminal emulator and behind a telnetd of a stock kernel, and by itself.
pub fn of_stock_kernels(dir: &Path) -> Verdict {
    if program("python3").is_none() {
        return Verdict::Skipped("python3 is not installed".into());
    }
    try_it(dir).into()
}
