//! Threaded control groups (cgroups(7), "Thread mode"): types, who may go where, what their files say.

use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::mpsc;

cases! { types: root, populated: root, threads: root, processes: root, forks: root, removed: root }

/// A group of its own; gone, with those below it, when it is dropped.
struct Tree(String);

impl Tree {
    fn new(name: &str) -> Tree {
        Tree(super::clone::own_cgroup(name))
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    fn make(&self, name: &str) {
        say(&format!("mkdir {name}"), c!(libc::mkdir(cstr(&self.path(name)).as_ptr(), 0o755)));
    }

    fn remove(&self, name: &str) {
        say(&format!("rmdir {name}"), c!(libc::rmdir(cstr(&self.path(name)).as_ptr())));
    }

    fn put(&self, file: &str, s: &str) -> R {
        let fd = open(&self.path(file), libc::O_WRONLY);
        if !fd.is_ok() {
            return fd;
        }
        let r = write(fd.0 as i32, s.as_bytes());
        close(fd.0 as i32);
        if r.is_ok() { R(0) } else { r }
    }

    fn get(&self, file: &str) -> String {
        match std::fs::read_to_string(self.path(file)) {
            Ok(s) => s.trim_end().replace('\n', ","),
            Err(e) => errno_name(e.raw_os_error().unwrap()),
        }
    }

    fn types(&self, names: &[&str]) {
        let all: Vec<String> = names
            .iter()
            .map(|n| format!("{n}: {}", self.get(&format!("{n}/cgroup.type"))))
            .collect();
        say("types", all.join("; "));
    }

    fn set_type(&self, name: &str, kind: &str) {
        say(&format!("{name} to {kind:?}"), self.put(&format!("{name}/cgroup.type"), kind));
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Back to the root, and deepest first.
        let _ = std::fs::write("cg/cgroup.procs", getpid().to_string());
        fn down(dir: &str) {
            for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if e.file_type().is_ok_and(|t| t.is_dir()) {
                    down(&e.path().to_string_lossy());
                }
            }
            let _ = std::fs::remove_dir(dir);
        }
        down(&self.0);
    }
}

/// A process that sleeps, and as many threads.
fn sleeper() -> i32 {
    child(|| {
        loop {
            unsafe { libc::pause() };
        }
    })
}

fn end(pid: i32) {
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
}

fn types() {
    let t = Tree::new("types");
    for n in ["a", "a/b", "a/b/c", "a/d", "e"] {
        t.make(n);
    }
    let all = ["a", "a/b", "a/b/c", "a/d", "e"];
    t.types(&all);
    for kind in ["domain", "domain threaded", "threaded x", "", "Threaded", "domain invalid"] {
        t.set_type("a/b", kind);
    }
    t.set_type("a/b", "threaded");
    t.types(&all);
    t.set_type("a/b", "threaded");
    t.set_type("a/b", "domain");
    t.set_type("a/b/c", " threaded\n");
    t.types(&all);
    // A domain beside a threaded group is of no use.
    say("kill in a threaded group", t.put("a/b/cgroup.kill", "1"));
    say("kill in an invalid one", t.put("a/d/cgroup.kill", "1"));
    say("freeze", t.put("a/b/cgroup.freeze", "1"));
    say("frozen", t.get("a/b/cgroup.events"));
    say("thaw", t.put("a/b/cgroup.freeze", "0"));
    t.make("a/b/new");
    t.make("a/d/new");
    t.types(&["a/b/new", "a/d/new"]);
    t.set_type("a/d/new", "threaded");
    t.set_type("a/d", "threaded");
    t.set_type("a/d/new", "threaded");
    t.types(&["a", "a/b", "a/b/c", "a/b/new", "a/d", "a/d/new", "e"]);
    // The whole becomes part of a larger thread domain.
    t.set_type("a", "threaded");
    t.types(&["a", "a/b", "a/b/c", "a/b/new", "a/d", "a/d/new", "e"]);
    say("own type", t.get("cgroup.type"));
    for n in ["a/b/c", "a/b/new", "a/b", "a/d/new", "a/d", "a"] {
        t.remove(n);
    }
    say("own type", t.get("cgroup.type"));
    say("type of the root", std::fs::read_to_string("cg/cgroup.type").is_ok());
}

fn populated() {
    let t = Tree::new("populated");
    for n in ["a", "a/b", "a/c"] {
        t.make(n);
    }
    let pid = sleeper();
    say("enter", t.put("a/b/cgroup.procs", &pid.to_string()));
    t.set_type("a/b", "threaded");
    t.set_type("a/c", "threaded");
    t.set_type("a", "threaded");
    say("out", t.put("a/cgroup.procs", &pid.to_string()));
    t.set_type("a", "threaded");
    t.set_type("a/c", "threaded");
    t.types(&["a", "a/b", "a/c"]);
    say("into the invalid one", t.put("a/b/cgroup.procs", &pid.to_string()));
    say("into the threaded one", t.put("a/c/cgroup.procs", &pid.to_string()));
    for n in ["a", "a/b", "a/c"] {
        say(&format!("{n} events"), t.get(&format!("{n}/cgroup.events")));
    }
    say("out of it", t.put("cgroup.procs", &pid.to_string()));
    for n in ["a", "a/b", "a/c"] {
        say(&format!("{n} events"), t.get(&format!("{n}/cgroup.events")));
    }
    end(pid);
}

/// Threads that wait for the end, with their numbers.
struct Pool {
    tids: Vec<i32>,
    go: Vec<mpsc::Sender<()>>,
    join: Vec<std::thread::JoinHandle<()>>,
}

impl Pool {
    fn new(n: usize) -> Pool {
        let mut p = Pool { tids: Vec::new(), go: Vec::new(), join: Vec::new() };
        for _ in 0..n {
            let (tid_tx, tid_rx) = mpsc::channel();
            let (tx, rx) = mpsc::channel::<()>();
            p.join.push(std::thread::spawn(move || {
                tid_tx.send(gettid()).unwrap();
                let _ = rx.recv();
            }));
            p.tids.push(tid_rx.recv().unwrap());
            p.go.push(tx);
        }
        p
    }

    fn end(&mut self) {
        self.go.clear();
        for j in self.join.drain(..) {
            j.join().unwrap();
        }
    }
}

/// Where a thread is, below the test's own group.
fn whereabouts(tid: i32) -> String {
    let s = std::fs::read_to_string(format!("/proc/self/task/{tid}/cgroup")).unwrap();
    let line = s.lines().find(|l| l.starts_with("0::")).unwrap();
    let below: Vec<&str> = line.split('/').skip_while(|p| !p.contains('-')).skip(1).collect();
    below.join("/")
}

fn threads() {
    let t = Tree::new("threads");
    for n in ["a", "a/b", "a/c", "o"] {
        t.make(n);
    }
    for n in ["a/b", "a/c"] {
        t.set_type(n, "threaded");
    }
    let mut pool = Pool::new(2);
    let (x, y) = (pool.tids[0], pool.tids[1]);
    let name = |tid: &str| match tid.parse::<i32>() {
        Ok(n) if n == getpid() => "leader".to_string(),
        Ok(n) if n == x => "x".into(),
        Ok(n) if n == y => "y".into(),
        _ => tid.to_string(),
    };
    let list = |file: &str| {
        let text = t.get(file);
        let mut names: Vec<String> = text.split(',').map(name).collect();
        names.sort();
        names.join(" ")
    };
    let show = |what: &str| {
        say("after", what);
        for g in ["a", "a/b", "a/c", "o"] {
            say(&format!("{g} procs"), list(&format!("{g}/cgroup.procs")));
            say(&format!("{g} threads"), list(&format!("{g}/cgroup.threads")));
            say(&format!("{g} events"), t.get(&format!("{g}/cgroup.events")));
        }
        say("where", format!("{} {} {}", whereabouts(getpid()), whereabouts(x), whereabouts(y)));
    };
    say("a thread from outside the domain", t.put("a/b/cgroup.threads", &x.to_string()));
    say("a thread to another domain", t.put("o/cgroup.threads", &x.to_string()));
    say("the process by a thread's number", t.put("a/cgroup.procs", &x.to_string()));
    show("entering");
    say("thread x", t.put("a/b/cgroup.threads", &x.to_string()));
    say("thread x again", t.put("a/b/cgroup.threads", &x.to_string()));
    say("itself", t.put("a/c/cgroup.threads", "0"));
    show("moving two threads");
    say("back", t.put("a/cgroup.threads", &x.to_string()));
    say("out of the domain", t.put("o/cgroup.threads", &x.to_string()));
    say("all threads", t.put("a/b/cgroup.procs", &getpid().to_string()));
    show("moving the process");
    say("remove", c!(libc::rmdir(cstr(&t.path("a/b")).as_ptr())));
    let mut inner = Pool::new(1);
    say("a new thread", whereabouts(inner.tids[0]));
    say("the new thread", t.put("a/c/cgroup.threads", &inner.tids[0].to_string()));
    say("populated", t.get("a/c/cgroup.events"));
    inner.end();
    await_gone(inner.tids[0]);
    say("when it ended", t.get("a/c/cgroup.events"));
    say(
        "a child",
        in_child(|| {
            say("its group", whereabouts(getpid()));
            0
        }),
    );
    for (what, text) in [
        ("nobody", "99999999"),
        ("words", "x"),
        ("negative", "-1"),
        ("two", "1 2"),
        ("nothing", "\n"),
    ] {
        say(what, t.put("a/b/cgroup.threads", text));
    }
    say("the process to another domain", t.put("o/cgroup.procs", &y.to_string()));
    show("leaving");
    t.set_type("o", "threaded");
    say("type with processes", t.get("o/cgroup.type"));
    pool.end();
}

fn await_gone(tid: i32) {
    while std::fs::metadata(format!("/proc/self/task/{tid}")).is_ok() {
        pause_poll();
    }
}

fn processes() {
    let t = Tree::new("processes");
    for n in ["a", "a/b", "a/b/c", "a/d"] {
        t.make(n);
    }
    let pid = sleeper();
    say("enter", t.put("a/cgroup.procs", &pid.to_string()));
    // A group with processes may become a thread root.
    t.set_type("a/b", "threaded");
    t.types(&["a", "a/b", "a/b/c", "a/d"]);
    say("into the child", t.put("a/b/cgroup.procs", &pid.to_string()));
    say("read there", t.get("a/b/cgroup.procs"));
    say("listed at the root of the domain", t.get("a/cgroup.procs") == pid.to_string());
    say("into the grandchild, a domain", t.put("a/b/c/cgroup.procs", &pid.to_string()));
    say("threads of it", t.put("a/b/c/cgroup.threads", &pid.to_string()));
    t.set_type("a/b/c", "threaded");
    say("now", t.put("a/b/c/cgroup.threads", &pid.to_string()));
    say("empty parent", t.get("a/b/cgroup.threads"));
    say("populated", t.get("a/b/cgroup.events"));
    say("thread file of an invalid one", t.get("a/d/cgroup.threads"));
    say("process file of an invalid one", t.get("a/d/cgroup.procs"));
    say("freeze", t.put("a/b/cgroup.freeze", "1"));
    await_text(&t, "a/b/cgroup.events", "frozen 1");
    say("frozen below", t.get("a/b/c/cgroup.events"));
    say("not above", t.get("a/cgroup.events"));
    say("thaw", t.put("a/b/cgroup.freeze", "0"));
    await_text(&t, "a/b/cgroup.events", "frozen 0");
    say("kill at the root of the domain", t.put("a/cgroup.kill", "1"));
    say("killed", reap(pid));
    say("populated", t.get("a/b/c/cgroup.events"));
}

fn await_text(t: &Tree, file: &str, text: &str) {
    while !t.get(file).contains(text) {
        pause_poll();
    }
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2) CLONE_INTO_CGROUP and threaded groups.
fn forks() {
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let t = Tree::new("forks");
    for n in ["a", "a/b", "a/b/c", "o"] {
        t.make(n);
    }
    t.set_type("a/b", "threaded");
    let into = |name: &str| {
        let fd = open(&t.path(name), libc::O_PATH | libc::O_DIRECTORY).fd();
        let args = CloneArgs {
            flags: INTO_CGROUP,
            exit_signal: libc::SIGCHLD as u64,
            cgroup: fd as u64,
            ..Default::default()
        };
        let r = sc!(libc::SYS_clone3, &raw const args, 88);
        if r.0 == 0 {
            say("child in", whereabouts(getpid()));
            unsafe { libc::_exit(0) };
        }
        if r.is_ok() {
            reap(r.0 as i32);
        }
        say(&format!("into {name}"), r.ok());
        close(fd);
    };
    say("from outside", whereabouts(getpid()).is_empty());
    for n in ["a", "a/b", "a/b/c", "o"] {
        into(n);
    }
    say("inside the domain", t.put("a/b/cgroup.procs", "0"));
    for n in ["a", "a/b", "a/b/c", "o"] {
        into(n);
    }
}

fn removed() {
    let t = Tree::new("removed");
    for n in ["a", "a/b", "a/c"] {
        t.make(n);
    }
    t.set_type("a/b", "threaded");
    let fd = open(&t.path("a/b/cgroup.type"), libc::O_RDWR).fd();
    let threads = open(&t.path("a/b/cgroup.threads"), libc::O_RDWR).fd();
    t.types(&["a", "a/b", "a/c"]);
    t.remove("a/b");
    t.types(&["a", "a/c"]);
    say("write the type of what is gone", write(fd, b"threaded"));
    say("threads of what is gone", write(threads, b"0"));
    say("read it", read_text(fd, 100));
    let pid = sleeper();
    say("the other is good again", t.put("a/c/cgroup.procs", &pid.to_string()));
    end(pid);
}
