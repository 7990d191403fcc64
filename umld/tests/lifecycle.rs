//! One instance from start to removal, and the ways in which starting goes wrong.

mod common;
use common::World;

#[test]
fn start_look_pause_talk_stop() {
    let w = World::new();
    w.machine("m", "echo hello from the guest; read x; echo \"got $x\"; exec sleep 1000", "");
    assert_eq!(w.run(&["start", "m.toml"]).ok(), "m\n");
    assert_eq!(w.state("m"), "running");
    assert!(w.run(&["list"]).ok().contains("running"));
    assert_eq!(w.json(&["list", "--json"])[0]["name"], "m");
    w.eventually("greeting", || w.run(&["logs", "m"]).ok().contains("hello from the guest"));
    assert!(w.run(&["logs", "--kernel", "m"]).ok().contains("Linux version"));
    assert!(w.run(&["logs", "--supervisor", "m"]).ok().contains("start: pid"));
    // The scroll-back reaches a viewer that comes late, and what it types the guest.
    // A viewer without a terminal leaves with its input, be it before the holder had its say.
    w.eventually("scroll-back", || {
        w.run_with(&["console", "m"], "").ok().contains("hello from the guest")
    });
    w.run_with(&["console", "m"], "word\n").ok();
    w.eventually("answer", || w.run(&["logs", "-n", "1", "m"]).ok().contains("got word"));
    w.run(&["pause", "m"]).ok();
    assert_eq!(w.state("m"), "paused");
    // They would wait until it is resumed.
    assert!(w.run(&["exec", "m", "--", "true"]).fails(125).contains("umld resume m"));
    assert!(w.run(&["cp", "m:/etc/passwd", "here"]).fails(125).contains("umld resume m"));
    w.run(&["resume", "m"]).ok();
    assert_eq!(w.state("m"), "running");
    assert!(w.run(&["mconsole", "m", "version"]).ok().contains("Linux"));
    let again = w.run(&["start", "m.toml"]).fails(5);
    assert!(again.contains("running already (pid"), "{again}");
    assert!(w.run(&["rm", "m"]).fails(5).contains("--force"));
    assert_eq!(w.run(&["stop", "m"]).ok(), "m: halted by the kernel\n");
    assert_eq!(w.state("m"), "stopped");
    w.run(&["stop", "m"]).fails(3);
    w.run(&["status", "m"]).fails(3);
    w.run(&["console", "m"]).fails(3);
    w.run(&["start", "m"]).ok();
    assert_eq!(w.run(&["stop", "m", "--halt", "0", "--term", "30s"]).ok(), "m: ended by SIGTERM\n");
    w.run(&["start", "m"]).ok();
    w.run(&["restart", "m"]).ok();
    w.run(&["kill", "m"]).ok();
    w.eventually("end", || w.state("m") == "failed");
    assert!(w.status("m")["reason"].as_str().unwrap().contains("signal 9"));
    let events = w.run(&["events", "--json", "m"]).ok();
    for e in ["create", "start", "boot", "pause", "resume", "stop", "exit"] {
        assert!(events.contains(&format!("\"event\":\"{e}\"")), "{e} in {events}");
    }
    w.run(&["rm", "m"]).ok();
    w.run(&["status", "m"]).fails(4);
}

/// Machines of umld's own init shut down at Ctrl-Alt-Del, whatever their command makes of signals.
#[test]
fn the_own_init_shuts_down_when_asked() {
    let w = World::new();
    for (name, command) in [
        ("plain", "echo begun; exec sleep 1000"),
        ("shell", "echo begun; exec sh -i"),
        ("stubborn", "trap '' TERM HUP; echo begun; while :; do sleep 1; done"),
        ("orderly", "trap 'echo ended in order; exit 0' TERM; echo begun; sleep 1000 & wait"),
    ] {
        let file = w.machine(name, command, "");
        let text =
            std::fs::read_to_string(&file).unwrap().replace("cad = \"0s\"", "cad = \"100s\"");
        std::fs::write(&file, text).unwrap();
        w.run(&["start", &format!("{name}.toml")]).ok();
        // Before its init says otherwise, a kernel reboots at once.
        w.eventually("its command", || w.run(&["logs", name]).ok().contains("begun"));
        let stopped = w.run(&["stop", name]);
        assert_eq!(stopped.err, "");
        assert_eq!(stopped.ok(), format!("{name}: stopped by the guest after Ctrl-Alt-Del\n"));
    }
    assert!(w.run(&["logs", "orderly"]).ok().contains("ended in order"));

    // Ctrl-C and Ctrl-Z on the console are the command's affair.
    w.machine(
        "keys",
        "trap 'echo interrupted' INT; echo begun; while :; do read x && echo \"got $x\"; done",
        "",
    );
    w.run(&["start", "keys.toml"]).ok();
    let log = || w.run(&["logs", "keys"]).ok();
    w.eventually("its trap", || log().contains("begun"));
    w.run_with(&["console", "keys"], "\x03").ok();
    w.eventually("the interrupt", || log().contains("interrupted"));
    w.run_with(&["console", "keys"], "\x1a").ok();
    w.run_with(&["console", "keys"], "word\n").ok();
    w.eventually("an answer", || log().contains("got word"));
    w.run(&["stop", "keys"]).ok();
}

/// Which `start` has threads for that wait for what it has started.
#[test]
fn a_console_follows_the_size_of_its_terminal() {
    use nix::sys::signal::{Signal, kill};
    let w = World::new();
    w.machine("m", "exec sleep 1000", "");
    let size =
        |rows, cols| nix::pty::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(Some(&size(33, 99)), None).unwrap();
    let mut c = w.umld();
    c.args(["start", "m.toml", "--console"])
        .stdin(pty.slave.try_clone().unwrap())
        .stdout(pty.slave.try_clone().unwrap())
        .stderr(std::process::Stdio::null());
    let mut viewer = c.spawn().unwrap();
    let seen = || w.run(&["exec", "m", "--", "stty", "-F", "/dev/tty0", "size"]).out;
    w.eventually("the size", || seen() == "33 99\n");
    for (rows, cols) in [(40, 111), (41, 112)] {
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&pty.slave, size).unwrap();
        // It is not the viewer's controlling terminal, which would send this.
        kill(nix::unistd::Pid::from_raw(viewer.id() as i32), Signal::SIGWINCH).unwrap();
        w.eventually("the new size", || seen() == format!("{rows} {cols}\n"));
    }
    w.run(&["stop", "m"]).ok();
    assert_eq!(viewer.wait().unwrap().code(), Some(0));
}

#[test]
fn a_start_that_fails_names_the_cause() {
    let w = World::new();
    w.write(
        "p.toml",
        "[vm]\nmem = \"64M\"\n[boot]\nroot = \"/\"\noverlay = true\ninit = \"/no/such/init\"\n",
    );
    let err = w.run(&["start", "p.toml"]).fails(70);
    assert!(err.contains("kernel panic: Requested init /no/such/init failed"), "{err}");
    w.run(&["status", "p"]).fails(70);
    w.machine("slow", "exec sleep 1000", "");
    let err = w.run(&["start", "slow.toml", "--wait=ready", "--timeout", "3s"]).fails(75);
    assert!(err.contains("\"ready\" did not happen within 3 s"), "{err}");
    assert_eq!(w.state("slow"), "running");
    w.write("k.toml", "[vm]\nkernel = \"/bin/false\"\n[boot]\nroot = \"/\"\n");
    let err = w.run(&["start", "k.toml"]).fails(1);
    assert!(err.contains("status 1"), "{err}");
}

#[test]
fn waiting_for_a_login_and_for_the_guests_own_word() {
    let w = World::new();
    w.machine("l", "sleep 1; printf 'box login:'; exec sleep 1000", "");
    w.run(&["start", "l.toml", "--wait=login"]).ok();
    assert!(w.status("l")["login"].is_f64());
    w.machine("r", "sleep 1; echo ready >/proc/mconsole; exec sleep 1000", "");
    w.run(&["start", "r.toml", "--wait=ready"]).ok();
    assert!(w.status("r")["ready"].is_f64());
}

#[test]
fn one_disk_for_two_machines_names_the_holder() {
    let w = World::new();
    let Some(_) = w.image("d.img", "8M", None) else { return };
    w.machine("one", "exec sleep 1000", "[[disk]]\nfile = \"d.img\"\n");
    w.machine("two", "exec sleep 1000", "[[disk]]\nfile = \"d.img\"\n");
    for n in ["one", "two"] {
        let p = w.path(&format!("{n}.toml"));
        let t =
            std::fs::read_to_string(&p).unwrap().replace("[boot]\n", "[boot]\nroot = \"host\"\n");
        std::fs::write(p, t).unwrap();
    }
    w.run(&["start", "one.toml"]).ok();
    let err = w.run(&["start", "two.toml"]).fails(5);
    assert!(err.contains("d.img is in use by instance \"one\" (pid"), "{err}");
}

#[test]
fn restarts_follow_the_policy_until_it_is_a_loop() {
    let w = World::new();
    let policy =
        "[service]\nrestart = \"on-failure\"\nrestart_delay = \"100ms\"\nrestart_limit = 2\n";
    w.machine("c", "exit 3", policy);
    // It may have ended before the wait began.
    let _ = w.run(&["start", "c.toml"]);
    w.eventually("crash loop", || {
        w.status("c")["reason"].as_str().unwrap_or("").contains("crash loop")
    });
    let s = w.status("c");
    assert_eq!((s["restarts"].as_i64(), s["state"].as_str()), (Some(2), Some("failed")));
    assert_eq!(s["exit"], 3);
}

#[test]
fn machines_started_by_hand_are_listed_and_obey() {
    use std::os::unix::process::CommandExt;
    let w = World::new();
    let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_umld"));
    c.arg0("linux")
        .env("HOME", w.path(""))
        .args([
            "umid=hand",
            "mem=64M",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootoverlay=tmpfs",
            "con=null",
            "ssl=null",
        ])
        // Said before `--`, or the kernel adds it after, for init.
        .args(["console=tty0", "init=/bin/sleep", "--", "1000"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut child = c.spawn().expect("linux");
    w.eventually("listing", || w.run(&["list"]).ok().contains("running (by hand)"));
    w.eventually("console", || w.path(".uml/hand/mconsole").exists());
    w.run(&["pause", "hand"]).ok();
    assert!(w.run(&["list"]).ok().contains("paused (by hand)"));
    w.run(&["resume", "hand"]).ok();
    assert_eq!(w.run(&["exec", "hand", "--", "/bin/echo", "hi"]).ok(), "hi\n");
    // What runs is not removed from under itself.
    assert!(w.run(&["rm", "hand"]).fails(5).contains("--force"));
    assert!(w.path(".uml/hand/mconsole").exists());
    let done = w.run(&["stop", "hand", "--cad", "0"]).ok();
    assert!(done.contains("hand: halted by the kernel"), "{done}");
    child.wait().expect("end");
    w.run(&["status", "hand"]).fails(4);
    let mut child = c.spawn().expect("linux");
    w.eventually("console", || w.path(".uml/hand/mconsole").exists());
    w.run(&["rm", "--force", "hand"]).ok();
    assert!(!w.path(".uml/hand").exists());
    child.wait().expect("end");
}

#[test]
fn a_long_home_is_no_obstacle_for_the_built_in_kernel() {
    let w = World::new();
    let home = w.path(&"d".repeat(120));
    std::fs::create_dir(&home).unwrap();
    let file = w.machine("m", "exec sleep 1000", "");
    let run = |args: &[&str]| -> common::Done {
        w.umld().env("HOME", &home).args(args).output().unwrap().into()
    };
    run(&["start", file.to_str().unwrap()]).ok();
    assert_eq!(run(&["exec", "m", "--", "echo", "x"]).ok(), "x\n");
    run(&["rm", "--force", "m"]).ok();
}
