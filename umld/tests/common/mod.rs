//! A home directory of its own for each test, and umld in it. What a test leaves running is killed.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    home: tempfile::TempDir,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(o: Output) -> Done {
        use std::os::unix::process::ExitStatusExt;
        Done {
            status: o.status.code().unwrap_or_else(|| 128 + o.status.signal().unwrap_or(0)),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

impl Done {
    /// The output of a command that must succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{}\n{}", self.out, self.err);
        self.out
    }

    /// The messages of a command that must fail with this status.
    #[track_caller]
    pub fn fails(self, status: i32) -> String {
        assert_eq!(self.status, status, "{}\n{}", self.out, self.err);
        self.err
    }
}

impl World {
    pub fn new() -> World {
        World { home: tempfile::tempdir().expect("a directory") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let p = self.path(name);
        std::fs::write(&p, text).expect("write");
        p
    }

    /// A machine on the host's userland that runs a shell command.
    pub fn machine(&self, name: &str, command: &str, more: &str) -> PathBuf {
        self.write(
            &format!("{name}.toml"),
            &format!(
                "[vm]\nmem = \"128M\"\n[boot]\ntimeout = \"110s\"\ncommand = [\"sh\", \"-c\", '''{command}''']\n[stop]\ncad = \"0s\"\n{more}"
            ),
        )
    }

    pub fn umld(&self) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_umld"));
        c.env("HOME", self.home.path()).current_dir(self.home.path()).stdin(Stdio::null());
        for v in [
            "XDG_CONFIG_HOME",
            "XDG_RUNTIME_DIR",
            "NOTIFY_SOCKET",
            "JOURNAL_STREAM",
            "INVOCATION_ID",
            // The shell of `run`: /bin/sh, whoever runs the tests.
            "SHELL",
        ] {
            c.env_remove(v);
        }
        c
    }

    /// The program as `umld` in the home, for other users: its own place may be closed to them. Copied by a process of its
    /// own, because nobody can run what a child of another test has open for writing.
    pub fn copy_of_umld(&self) {
        let mut c = Command::new("cp");
        let done = c.arg(env!("CARGO_BIN_EXE_umld")).arg(self.path("umld")).status();
        assert!(done.is_ok_and(|s| s.success()));
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(self.path("umld"), all).expect("mode");
    }

    pub fn run(&self, args: &[&str]) -> Done {
        self.umld().args(args).output().expect("umld").into()
    }

    /// With text on standard input.
    pub fn run_with(&self, args: &[&str], input: &str) -> Done {
        let mut c = self.umld();
        c.args(args);
        Self::feed(c, input)
    }

    /// A prepared command with text on standard input.
    pub fn feed(mut c: Command, input: &str) -> Done {
        use std::io::Write;
        c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = c.spawn().expect("umld");
        child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("write");
        child.wait_with_output().expect("umld").into()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(args).ok()).expect("JSON")
    }

    /// What `status --json` says of one instance.
    pub fn status(&self, name: &str) -> Value {
        let done = self.run(&["status", "--json", name]);
        let v: Value = serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{e}: {done:?}"));
        v[0].clone()
    }

    pub fn state(&self, name: &str) -> String {
        self.status(name)["state"].as_str().unwrap_or_default().to_owned()
    }

    pub fn pid(&self, name: &str) -> i32 {
        self.status(name)["pid"].as_i64().unwrap_or(0) as i32
    }

    /// Whether somebody holds a lock file.
    pub fn is_locked(&self, name: &str) -> bool {
        let Ok(file) = std::fs::File::open(self.path(name)) else { return false };
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockSharedNonblock).is_err()
    }

    /// The daemon that the last command started, or that was started since.
    pub fn daemon(&self) -> Option<i32> {
        let path = self.path(".uml/.umld/.daemon.lock");
        if !self.is_locked(".uml/.umld/.daemon.lock") {
            return None;
        }
        std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
    }

    /// Waits until `f` holds; there is no event for everything a test looks at.
    #[track_caller]
    pub fn eventually(&self, what: &str, f: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !f() {
            assert!(Instant::now() < end, "{what} did not happen");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// An ext4 image with these files of the host in it; none when mke2fs is not installed.
    pub fn image(&self, name: &str, size: &str, from: Option<&Path>) -> Option<PathBuf> {
        let path = self.path(name);
        let mut c = Command::new("mke2fs");
        c.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096"]);
        if let Some(d) = from {
            c.arg("-d").arg(d);
        }
        match c.arg(&path).arg(size).status() {
            Ok(s) => {
                assert!(s.success());
                Some(path)
            }
            Err(_) => {
                eprintln!("skipped: mke2fs is not installed");
                None
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The daemon and then the holders first, so that nothing is taken over or started again.
        if let Some(pid) = self.daemon() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        for e in
            std::fs::read_dir(self.path(".uml/.umld/.switches")).into_iter().flatten().flatten()
        {
            if let Ok(s) = uml_switch::manage::status(&e.path().join("ctl")) {
                let pid = nix::unistd::Pid::from_raw(s.pid as i32);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
            }
        }
        for name in ["holder", "pid"] {
            for e in std::fs::read_dir(self.path(".uml/.umld")).into_iter().flatten().flatten() {
                let Ok(text) = std::fs::read_to_string(e.path().join("status.json")) else {
                    continue;
                };
                let v: Value = serde_json::from_str(&text).unwrap_or_default();
                if let Some(pid) = v[name].as_i64() {
                    let _ = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid as i32),
                        nix::sys::signal::SIGKILL,
                    );
                }
            }
        }
    }
}

/// The root with Debian's stock kernel of sid and its libraries, which may not be there: `UML_STOCK_ROOT`, or where tests/run puts it.
pub fn stock_root() -> PathBuf {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cache/stock-sid");
    std::env::var_os("UML_STOCK_ROOT").map_or(cache, Into::into)
}

/// The switch beside umld if it was built, else an installed one.
pub fn switch() -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_BIN_EXE_umld")).with_file_name("uml_switch");
    [ours, "/usr/bin/uml_switch".into()].into_iter().find(|p| p.exists())
}

/// Runs the script `name` of this directory with umld's path, and the world's if it is wanted, as root of a network namespace
/// of its own; what it printed on standard output and error. `None`, said on standard error, where that cannot be.
pub fn in_own_network(w: &World, name: &str, with_path: bool) -> Option<(String, String)> {
    let path = w.path("");
    in_own_network_with(w, name, if with_path { std::slice::from_ref(&path) } else { &[] })
}

/// The same with these arguments after umld's path.
pub fn in_own_network_with(w: &World, name: &str, more: &[PathBuf]) -> Option<(String, String)> {
    let probe = Command::new("unshare").args(["-rn", "python3", "-c", "import subprocess; subprocess.run(['ip', 'link', 'add', 'dev', 'x', 'type', 'veth', 'peer', 'name', 'y'], check=True)"]).output();
    if !probe.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no user namespace with veth interfaces, python3 and ip here");
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let mut c = Command::new("unshare");
    c.args(["-rn", "python3"]).arg(script).arg(w.umld().get_program()).args(more);
    let out = c.env("HOME", w.path("")).output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let (out_text, err) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{out_text}\n{err}");
    Some((out_text, err))
}

/// What a script of this directory prints on the host and in a guest, each time in a network namespace of its own; none where
/// that cannot be.
pub fn both(script: &str) -> Option<String> {
    let here = ["-rnm", "sh", "-c", "ip link set lo up && ss -V && python3 -V"];
    if !Command::new("unshare").args(here).output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no namespaces, or no iproute2 or python3 here");
        return None;
    }
    let script = format!("{}/tests/{script}", env!("CARGO_MANIFEST_DIR"));
    let w = World::new();
    let host = Command::new("unshare").args(["-rnm", "python3", &script]).output().unwrap();
    let host = Done::from(host).ok();
    let mut c = w.umld();
    c.args(["run", "--mem", "256M", "--net", "none", "--", "unshare", "-nm", "python3", &script]);
    let guest = Done::from(c.output().unwrap()).ok();
    if host != guest {
        let lines = host.lines().zip(guest.lines()).filter(|(h, g)| h != g);
        let shown: Vec<String> = lines.take(20).map(|(h, g)| format!("- {h}\n+ {g}")).collect();
        panic!("{}\n== guest\n{guest}", shown.join("\n"));
    }
    Some(host)
}
