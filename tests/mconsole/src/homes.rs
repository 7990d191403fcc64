//! Instance directories where they are awkward: beyond the length of a socket's address, without HOME, where nothing can be made,
//! and on filesystems that do not lock directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use storage_tests::suite::{Verdict, program};

use crate::machine::{Kernel, Machine, Start, executable, library};
use crate::request;

const SCRIPT: &str = "echo up; sleep 100000";

/// A kernel that says `boots` and ends, with this environment changed and these options; what it printed.
fn boot(
    dir: &Path,
    change: impl FnOnce(&mut Command),
    options: &[String],
) -> Result<String, String> {
    let init = dir.join("boots");
    let text =
        "#!/bin/sh\nmount -t proc p /proc; echo boots; echo o >/proc/sysrq-trigger; sleep 1000\n";
    executable(&init, text)?;
    let mut c = Command::new(program("linux").ok_or("linux is not built")?);
    c.args(["mem=64M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/"])
        .args(["con=null", "ssl=null", "con0=null,fd:1"])
        .args(options)
        .arg(format!("init={}", init.display()))
        .current_dir(dir)
        .stdin(Stdio::null());
    change(&mut c);
    let out = c.output().map_err(|e| format!("{c:?}: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() && text.lines().any(|l| l == "boots") {
        Ok(text)
    } else {
        Err(format!("{out:?}"))
    }
}

fn client(home: &Path, args: &[&str]) -> Result<Output, String> {
    let client = program("uml_mconsole").ok_or("uml_mconsole is not built")?;
    let mut c = Command::new(client);
    c.env("HOME", home).args(args).output().map_err(|e| format!("{c:?}: {e}"))
}

fn answered(out: &Output) -> Result<String, String> {
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() && text.starts_with("OK") { Ok(text) } else { Err(format!("{out:?}")) }
}

/// Directories of more than the 108 bytes of a socket's address serve; more than 255 bytes are refused and said to be.
pub fn long_paths(dir: &Path) -> Verdict {
    let run = || -> Result<(), String> {
        let deep = dir.join("d".repeat(100));
        let m = Machine::start(&Start {
            kernel: Kernel::Ours,
            dir: &deep,
            umid: "long",
            memory: 64,
            script: SCRIPT,
            options: &[],
        })?;
        let console = m.console().ok_or("no console")?;
        if console != m.socket || console.as_os_str().len() <= 108 {
            return Err(format!("the console is {}", console.display()));
        }
        if !request::ask(&console, "version")?.text.starts_with("Linux ") {
            return Err("the console says something else".into());
        }
        // By name, by path and in the list.
        let socket = console.display().to_string();
        for name in ["long", socket.as_str()] {
            answered(&client(&m.home, &[name, "version"])?)?;
        }
        let list = client(&m.home, &["--json"])?;
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        if !list
            .lines()
            .any(|l| l.contains("\"umid\":\"long\"") && l.contains("\"state\":\"running\""))
        {
            return Err(format!("the list: {list}"));
        }
        answered(&client(&m.home, &["long", "halt"])?)?;
        drop(m);
        supervised(&deep)?;
        // Beyond what a kernel keeps of a path.
        let deeper = deep.join("e".repeat(150));
        fs::create_dir_all(&deeper).map_err(|e| e.to_string())?;
        let options = [format!("uml_dir={}/", deeper.display()), "umid=long".to_owned()];
        let text = boot(dir, |_| {}, &options)?;
        for wanted in [
            "is longer than 255 bytes; use a shorter uml_dir",
            "Failed to initialize management console",
        ] {
            if !text.contains(wanted) {
                return Err(format!("no {wanted:?} in {text}"));
            }
        }
        let name = deeper.join("e".repeat(100)).join("x").display().to_string();
        let out = client(dir, &[&name, "version"])?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if out.status.code() != Some(1) || !said.contains("no instance \"") {
            return Err(format!("{out:?}"));
        }
        Ok(())
    };
    run().into()
}

/// The supervisor's sockets are below the same directory.
fn supervised(home: &Path) -> Result<(), String> {
    let umld = program("umld").ok_or("umld is not built")?;
    let file = home.join("far.toml");
    let text = "[vm]\nmem = \"64M\"\n[boot]\nroot = \"host\"\ncommand = [\"sleep\", \"100000\"]\n";
    fs::write(&file, text).map_err(|e| e.to_string())?;
    let file = file.display().to_string();
    let run = |args: &[&str]| -> Result<String, String> {
        let out = Command::new(&umld).env("HOME", home).args(args).stdin(Stdio::null()).output();
        let out = out.map_err(|e| format!("umld: {e}"))?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if out.status.success() { Ok(text) } else { Err(format!("umld {args:?}: {out:?}")) }
    };
    run(&["start", &file])?;
    let version = run(&["mconsole", "far", "version"]);
    let said = run(&["exec", "far", "--", "echo", "from", "inside"]);
    run(&["kill", "far"])?;
    match (version?, said?) {
        (v, s) if v.contains("Linux ") && s == "from inside\n" => Ok(()),
        other => Err(format!("umld in a long directory: {other:?}")),
    }
}

/// No HOME, one that is not there, and ones where nothing can be made: said, and the machine runs without a directory.
pub fn without_and_unusable(dir: &Path) -> Verdict {
    let run = || -> Result<(), String> {
        let file = dir.join("file");
        fs::write(&file, "").map_err(|e| e.to_string())?;
        let cases: [(Option<PathBuf>, &str); 4] = [
            (None, "make_uml_dir: no value in environment for $HOME"),
            (Some(dir.join("nowhere")), "Failed to mkdir '"),
            (Some(file), "Failed to mkdir '"),
            // Nobody makes directories there, root neither: as on a filesystem that is mounted read-only.
            (Some("/proc".into()), "Failed to mkdir '"),
        ];
        for (home, wanted) in cases {
            let change = |c: &mut Command| {
                match &home {
                    Some(h) => c.env("HOME", h),
                    None => c.env_remove("HOME"),
                };
            };
            let text = boot(dir, change, &["umid=h".to_owned()])?;
            for w in [wanted, "Failed to initialize management console"] {
                if !text.contains(w) {
                    return Err(format!("HOME={home:?}: no {w:?} in {text}"));
                }
            }
        }
        // Another directory than HOME's needs none.
        let without = |c: &mut Command| {
            c.env_remove("HOME");
        };
        let options = [format!("uml_dir={}/uml", dir.display()), "umid=h".to_owned()];
        let text = boot(dir, without, &options)?;
        let wanted = format!("initialized on {}/uml/h/mconsole", dir.display());
        if !text.contains(&wanted) {
            return Err(format!("no {wanted:?} in {text}"));
        }
        let gone = program("uml_mconsole").ok_or("uml_mconsole is not built")?;
        let out = Command::new(gone).env_remove("HOME").args(["h", "version"]).output();
        let said = String::from_utf8_lossy(&out.map_err(|e| e.to_string())?.stderr).into_owned();
        if !said.contains("no instance \"h\"; looked for\n  /tmp/uml/h/mconsole: ") {
            return Err(format!("without HOME the client says {said:?}"));
        }
        Ok(())
    };
    run().into()
}

/// flock(2) as on NFS: of what is open for reading only it says EBADF.
const NO_LOCKS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
int flock(int fd, int op) {
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY) { errno = EBADF; return -1; }
    return real(fd, op);
}
"#;

const STARTS: usize = 8;

/// Where directories cannot be locked, as on NFS, still only one of several starts has a name.
pub fn directories_without_locks(dir: &Path) -> Verdict {
    if program("gcc").is_none() {
        return Verdict::Skipped("gcc is not installed".into());
    }
    let run = || -> Result<(), String> {
        let shim = library(dir, "nolocks", NO_LOCKS)?.display().to_string();
        let shared = dir.join("shared");
        let options = [format!("uml_dir={}/", shared.display())];
        let start = |n: usize| {
            let dir = dir.join(format!("n{n}"));
            let s = Start {
                kernel: Kernel::Ours,
                dir: &dir,
                umid: "one",
                memory: 64,
                script: SCRIPT,
                options: &options,
            };
            Machine::start_with(&s, &[("LD_PRELOAD", &shim)])
        };
        let all: Vec<Result<Machine, String>> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..STARTS).map(|n| s.spawn(move || start(n))).collect();
            let joined = |t: std::thread::ScopedJoinHandle<'_, _>| {
                t.join().unwrap_or_else(|_| Err("a start panicked".into()))
            };
            threads.into_iter().map(joined).collect()
        });
        let all: Vec<Machine> = all.into_iter().collect::<Result<_, String>>()?;
        if !shared.join(".lock").exists() {
            return Err("the directory itself was locked: nothing was tried".into());
        }
        let consoles: Vec<PathBuf> = all.iter().filter_map(Machine::console).collect();
        let named = consoles.iter().filter(|c| **c == shared.join("one/mconsole")).count();
        let mut different = consoles.clone();
        different.sort();
        different.dedup();
        if named != 1 || different.len() != STARTS {
            return Err(format!("{named} have the name; consoles: {consoles:?}"));
        }
        for c in &consoles {
            request::ask(c, "halt")?;
        }
        Ok(())
    };
    run().into()
}
