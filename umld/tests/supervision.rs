//! What keeps machines going: the daemon that commands start, restarts, order, the watchdog, and kills of every process of
//! umld.

mod common;
use common::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn signal(pid: i32, s: Signal) {
    kill(Pid::from_raw(pid), s).unwrap();
}

fn holder(w: &World, name: &str) -> i32 {
    w.status(name)["holder"].as_i64().unwrap_or(0) as i32
}

/// Times of an instance's events of one kind.
fn times(w: &World, name: &str, event: &str) -> Vec<f64> {
    let text = w.run(&["events", "--json", name]).ok();
    let all = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    all.filter(|e| e["event"] == event).map(|e| e["time"].as_f64().unwrap()).collect()
}

#[test]
fn the_first_start_brings_the_daemon_which_makes_way_for_one_that_is_asked_for() {
    let w = World::new();
    w.machine("m", "exec sleep 1000", "[service]\nautostart = true\n");
    w.run(&["create", "m.toml"]).ok();
    w.machine("n", "exec sleep 1000", "");
    let no: common::Done =
        w.umld().env("UMLD_DAEMON", "no").args(["start", "n.toml"]).output().unwrap().into();
    no.ok();
    assert_eq!(w.daemon(), None);
    w.run(&["stop", "n"]).ok();
    w.run(&["start", "n"]).ok();
    let first = w.daemon().expect("a daemon");
    // One is enough, and it starts nothing that was not asked for.
    w.run(&["restart", "n"]).ok();
    assert_eq!((w.daemon(), w.state("m").as_str()), (Some(first), "created"));
    let log = std::fs::File::create(w.path("daemon.log")).unwrap();
    let mut asked = w.umld().arg("daemon").stderr(log).spawn().unwrap();
    w.eventually("the other daemon", || w.daemon() == Some(asked.id() as i32));
    w.eventually("autostart", || w.state("m") == "running");
    assert!(w.run(&["daemon"]).fails(5).contains("runs already"));
    assert_eq!(w.state("n"), "running");
    signal(asked.id() as i32, Signal::SIGTERM);
    assert_eq!(asked.wait().unwrap().code(), Some(0));
    assert_eq!((w.state("m").as_str(), w.state("n").as_str()), ("running", "running"));
}

/// The time is short here and half a minute by default; the rest is what every daemon does that a command starts.
#[test]
fn the_daemon_on_demand_ends_when_nothing_is_up() {
    let w = World::new();
    w.machine("m", "exec sleep 1000", "");
    let daemon = |time: &str| {
        let log = std::fs::File::create(w.path("daemon.log")).unwrap();
        let arg = format!("--on-demand={time}");
        let child =
            w.umld().args(["daemon", &arg]).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        child.unwrap()
    };
    let mut idle = daemon("10ms");
    assert_eq!(idle.wait().unwrap().code(), Some(0));
    assert_eq!(
        std::fs::read_to_string(w.path("daemon.log")).unwrap().lines().last(),
        Some("umld: nothing is up")
    );

    // A caller keeps it, for as long as it is connected.
    let mut kept = daemon("200ms");
    let control = w.path(".uml/.umld/.control");
    w.eventually("its turn", || w.daemon() == Some(kept.id() as i32));
    let connect = || std::os::unix::net::UnixStream::connect(&control);
    w.eventually("its socket", || connect().is_ok());
    let caller = connect().unwrap();
    let call = |mut s: &std::os::unix::net::UnixStream| {
        use std::io::{Read, Write};
        s.write_all(b"{\"method\":\"org.varlink.service.GetInfo\"}\0").unwrap();
        let mut byte = [0];
        while s.read(&mut byte).unwrap() == 1 && byte[0] != 0 {}
    };
    let since = std::time::Instant::now();
    while since.elapsed() < std::time::Duration::from_millis(700) {
        call(&caller);
    }
    drop(caller);
    assert_eq!(kept.wait().unwrap().code(), Some(0));

    // So does an instance, until it ends.
    let mut busy = daemon("2s");
    w.eventually("its turn", || w.daemon() == Some(busy.id() as i32));
    w.run(&["start", "m.toml"]).ok();
    let since = std::time::Instant::now();
    while since.elapsed() < std::time::Duration::from_millis(2500) {
        assert_eq!(w.state("m"), "running");
        assert!(busy.try_wait().unwrap().is_none());
    }
    w.run(&["stop", "m"]).ok();
    assert_eq!(busy.wait().unwrap().code(), Some(0));
    assert_eq!(w.daemon(), None);
}

/// Every line of a long output is in the log, whoever is killed while it is printed; and the console can be used after.
#[test]
fn no_output_is_lost_when_daemon_and_holder_are_killed() {
    let w = World::new();
    w.machine(
        "m",
        "echo begun; read x; i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; \
         while read x; do echo got $x; done",
        "",
    );
    w.run(&["start", "m.toml"]).ok();
    let pid = w.pid("m");
    let log = || w.run(&["logs", "m"]).ok();
    w.eventually("its first word", || log().contains("begun"));
    w.run_with(&["console", "m"], "go\n").ok();
    for n in 0..4 {
        let before = log().len();
        w.eventually("output", || log().len() > before || log().contains("line 19999"));
        let (daemon, keeper) = (w.daemon().expect("a daemon"), holder(&w, "m"));
        if n % 2 == 0 {
            // The holder alone: the daemon has what it needs for another one.
            signal(keeper, Signal::SIGKILL);
            w.eventually("adoption", || ![0, keeper].contains(&holder(&w, "m")));
        } else {
            // The daemon: it is missed by nobody, and comes back with the next command that needs it.
            signal(daemon, Signal::SIGKILL);
            w.eventually("its end", || w.daemon().is_none());
            let copy = w.path("other.toml");
            std::fs::write(
                &copy,
                format!("[vm]\nmem = \"64M\"\nname = \"o{n}\"\n[boot]\ncommand = [\"true\"]\n"),
            )
            .unwrap();
            let _ = w.run(&["start", "other.toml"]);
            assert!(w.daemon().is_some_and(|d| d != daemon));
        }
        assert_eq!(w.pid("m"), pid);
    }
    w.eventually("the end of the output", || log().contains("line 19999"));
    // A holder that is killed takes with it at most what it had read and not yet written; a daemon, nothing.
    let text = log();
    let numbers: Vec<u32> =
        text.lines().filter_map(|l| l.trim_end().strip_prefix("line ")?.parse().ok()).collect();
    let cuts = numbers.windows(2).filter(|p| p[1] != p[0] + 1).count();
    assert!(cuts <= 2, "{cuts} cuts for two holders");
    assert!(
        numbers.len() * "line 19999\r\n".len() + 2 * (16 << 10) >= 20000 * 11,
        "{}",
        numbers.len()
    );
    // A viewer sees what was before, and what it types arrives.
    w.eventually("scroll-back", || w.run_with(&["console", "m"], "").ok().contains("line 19999"));
    w.run_with(&["console", "m"], "word\n").ok();
    w.eventually("answer", || log().contains("got word"));
    assert!(w.run(&["logs", "--kernel", "m"]).ok().contains("Linux version"));
    assert!(w.run(&["events", "m"]).ok().contains("adopt the holder was killed\n"));
}

#[test]
fn a_machine_that_lost_everybody_is_found_by_the_next_command() {
    let w = World::new();
    w.machine(
        "m",
        "echo here; while read x; do echo got $x; done",
        "[service]\nrestart = \"always\"\nrestart_delay = \"100ms\"\n",
    );
    w.run(&["start", "m.toml"]).ok();
    w.eventually("its first word", || w.run(&["logs", "m"]).ok().contains("here"));
    let (pid, daemon, keeper) = (w.pid("m"), w.daemon().unwrap(), holder(&w, "m"));
    signal(daemon, Signal::SIGKILL);
    w.eventually("its end", || w.daemon().is_none());
    signal(keeper, Signal::SIGKILL);
    w.eventually("its end", || !w.is_locked(".uml/.umld/m/lock"));
    let v = w.json(&["list", "--json"]);
    assert_eq!((v[0]["state"].as_str(), v[0]["pid"].as_i64()), (Some("running"), Some(pid.into())));
    assert!(w.daemon().is_some());
    let s = w.status("m");
    assert!(s["holder"].is_i64(), "{s}");
    // Root may take the console out of the kernel process.
    if nix::unistd::geteuid().is_root() {
        w.eventually("scroll-back", || w.run_with(&["console", "m"], "").ok().contains("here"));
        w.run_with(&["console", "m"], "word\n").ok();
        w.eventually("answer", || w.run(&["logs", "m"]).ok().contains("got word"));
    }
    assert_eq!(w.run(&["exec", "m", "--", "echo", "alive"]).ok(), "alive\n");
    // With a holder again, it keeps to its policy, and then has a console again.
    signal(pid, Signal::SIGKILL);
    w.eventually("restart", || {
        let s = w.status("m");
        s["state"] == "running" && s["pid"].as_i64().is_some_and(|p| p != i64::from(pid))
    });
    w.run_with(&["console", "m"], "").ok();
    assert_eq!(w.run(&["stop", "m"]).ok(), "m: halted by the kernel\n");
    assert_eq!(w.state("m"), "stopped");
}

/// The holder that takes over is not the kernel's parent, which alone has its status by wait(2).
#[test]
fn how_an_adopted_kernel_ends_is_known_where_the_host_tells() {
    let w = World::new();
    let file = "read x; exit $x";
    w.machine("m", file, "");
    w.machine("k", file, "");
    for (name, last, exit, reason) in [
        ("m", "7", 7, "ended with status 7"),
        ("m", "0", 0, "powered off by the guest"),
        ("k", "", 137, "ended by signal 9"),
    ] {
        w.run(&["start", &format!("{name}.toml")]).ok();
        let before = holder(&w, name);
        signal(before, Signal::SIGKILL);
        w.eventually("adoption", || ![0, before].contains(&holder(&w, name)));
        match last {
            "" => signal(w.pid(name), Signal::SIGKILL),
            word => drop(w.run_with(&["console", name], &format!("{word}\n"))),
        }
        w.eventually("its end", || w.pid(name) == 0 && holder(&w, name) == 0);
        let s = w.status(name);
        let said = s["reason"].as_str().unwrap();
        if s["exit"].is_null() {
            // Linux before 6.15. A command's status is not guessed.
            assert!(said.contains("nobody knows"), "{s}");
            assert!(w.run(&["status", name]).out.contains("a status that nobody knows"));
            eprintln!("this host does not tell");
        } else {
            assert_eq!((s["exit"].as_i64(), said), (Some(exit), reason));
        }
    }
}

/// Holder and daemon are killed at random moments of starts, stops and restarts. Afterwards every kernel process is in the
/// list, and everything can be stopped and started.
#[test]
fn kills_at_random_moments_leave_no_orphans() {
    let w = World::new();
    for n in ["a", "b"] {
        w.machine(n, "exec sleep 1000", "");
        w.run(&["create", &format!("{n}.toml")]).ok();
    }
    let mut seed = 0x5eed_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    for round in 0..24 {
        let name = ["a", "b"][round % 2];
        let command = ["start", "restart", "stop", "start"][random(4) as usize];
        let mut child = w
            .umld()
            .args([command, name])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(random(120)));
        let victim = match random(3) {
            0 => w.daemon(),
            1 => Some(holder(&w, name)).filter(|h| *h > 0),
            _ => Some(child.id() as i32),
        };
        if let Some(v) = victim {
            // It may be gone by now.
            let _ = kill(Pid::from_raw(v), Signal::SIGKILL);
        }
        let _ = child.wait();
    }
    for name in ["a", "b"] {
        let settled =
            || ["running", "stopped", "failed", "created"].contains(&w.state(name).as_str());
        w.eventually("rest", settled);
        let _ = w.run(&["stop", name]);
        w.eventually("the end", || w.pid(name) == 0);
    }
    // Whatever ran for this home is gone.
    let home = w.path("");
    let home = home.to_str().unwrap().trim_end_matches('/');
    w.eventually("no kernel without a name", || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|e| std::fs::read_to_string(e.path().join("cmdline")).ok());
        !lines.into_iter().any(|l| l.starts_with("linux\0") && l.contains(home))
    });
    for name in ["a", "b"] {
        w.run(&["start", name]).ok();
        assert_eq!(w.run(&["exec", name, "--", "echo", "whole"]).ok(), "whole\n");
        w.run(&["stop", name]).ok();
    }
}

#[test]
fn restarts_wait_longer_each_time() {
    let w = World::new();
    w.machine(
        "c",
        "exit 3",
        "[service]\nrestart = \"on-failure\"\nrestart_delay = \"200ms\"\nrestart_delay_max = \"600ms\"\nrestart_limit = 3\n",
    );
    let _ = w.run(&["start", "c.toml"]);
    w.eventually("crash loop", || !times(&w, "c", "crash-loop").is_empty());
    let (ends, again) = (times(&w, "c", "exit"), times(&w, "c", "restart"));
    assert_eq!((ends.len(), again.len()), (4, 3));
    let waits: Vec<f64> = ends.iter().zip(&again).map(|(e, a)| a - e).collect();
    for (wait, least) in waits.iter().zip([0.2, 0.4, 0.6]) {
        assert!(*wait >= least - 0.005, "{waits:?}");
    }
    // `start` begins anew, and says what it comes to.
    w.run(&["status", "c"]).fails(3);
    let events = w.run(&["events", "c"]).ok();
    assert!(events.contains("crash-loop crash loop, given up: ended with status 3"), "{events}");
}

/// A guest that reboots stays the process it is; what it said before is of the past.
#[test]
fn a_reboot_is_told_and_begins_anew() {
    let w = World::new();
    w.machine(
        "m",
        "echo watchdog >/proc/mconsole; echo ready >/proc/mconsole; exec sleep 1000",
        "[service]\nwatchdog = \"100s\"\n",
    );
    w.run(&["start", "m.toml", "--wait=ready"]).ok();
    let ready = || w.status("m")["ready"].as_f64().unwrap_or(0.0);
    let (first, pid) = (ready(), w.pid("m"));
    // The door goes with the kernel it belongs to.
    w.run(&["exec", "m", "--", "sh", "-c", "echo b >/proc/sysrq-trigger"]);
    w.eventually("reboot", || times(&w, "m", "reboot").len() == 1);
    w.eventually("readiness", || ready() > first);
    assert_eq!((w.pid("m"), w.state("m")), (pid, "running".into()));
    assert_eq!(w.run(&["exec", "m", "--", "echo", "again"]).ok(), "again\n");
    w.run(&["stop", "m"]).ok();
}

#[test]
fn an_orderly_end_is_not_restarted_on_failure() {
    let w = World::new();
    w.machine("m", "exit 0", "[service]\nrestart = \"on-failure\"\nrestart_delay = \"1ms\"\n");
    let _ = w.run(&["start", "m.toml"]);
    w.eventually("the end", || w.state("m") == "stopped");
    assert!(times(&w, "m", "restart").is_empty());
    // One that was asked for is not, either, whatever the policy.
    w.machine("n", "exec sleep 1000", "[service]\nrestart = \"always\"\nrestart_delay = \"1ms\"\n");
    w.run(&["start", "n.toml"]).ok();
    w.run(&["stop", "n"]).ok();
    assert_eq!(w.state("n"), "stopped");
    assert!(times(&w, "n", "restart").is_empty());
}

#[test]
fn a_guest_that_falls_silent_is_restarted_by_the_watchdog() {
    let w = World::new();
    let service = "[service]\nrestart = \"always\"\nrestart_delay = \"10ms\"\nwatchdog = \"1s\"\n";
    w.machine("silent", "echo watchdog >/proc/mconsole; exec sleep 1000", service);
    // Reports for as long as it is asked to.
    w.machine(
        "alive",
        "while ! [ -e /stop ]; do echo WATCHDOG=1 >/proc/mconsole; sleep 0.2; done; exec sleep 1000",
        service,
    );
    // Has a watchdog, and never said that it would report.
    w.machine("quiet", "exec sleep 1000", service);
    for n in ["quiet", "alive", "silent"] {
        w.run(&["start", &format!("{n}.toml")]).ok();
    }
    let pids = (w.pid("quiet"), w.pid("alive"));
    w.eventually("two restarts", || times(&w, "silent", "restart").len() >= 2);
    let gap = times(&w, "silent", "watchdog")[0] - times(&w, "silent", "start")[0];
    assert!(gap >= 1.0, "killed after {gap} s");
    assert!(w.run(&["events", "silent"]).ok().contains("did not report in time"));
    assert_eq!((w.pid("quiet"), w.pid("alive")), pids);
    w.run(&["exec", "alive", "--", "touch", "/stop"]).ok();
    w.eventually("the watchdog", || !times(&w, "alive", "watchdog").is_empty());
}

#[test]
fn the_daemon_starts_and_stops_in_order() {
    let w = World::new();
    // Made in the wrong order, by name and by time.
    for (name, after) in [("a", "[\"b\"]"), ("b", "[\"c\"]"), ("c", "[]")] {
        w.machine(
            name,
            "exec sleep 1000",
            &format!("[service]\nautostart = true\nafter = {after}\n"),
        );
        w.run(&["create", &format!("{name}.toml")]).ok();
    }
    let log = std::fs::File::create(w.path("daemon.log")).unwrap();
    let mut daemon = w.umld().arg("daemon").stderr(log).spawn().unwrap();
    w.eventually("the last", || w.state("a") == "running");
    let at = |name: &str, event: &str| times(&w, name, event)[0];
    assert!(at("c", "boot") <= at("b", "start") && at("b", "boot") <= at("a", "start"));
    signal(daemon.id() as i32, Signal::SIGPWR);
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(at("a", "exit") <= at("b", "stop") && at("b", "exit") <= at("c", "stop"));
}

/// What a stock kernel that is killed leaves behind stands still for a tracer that is gone: the holder ends it.
#[test]
fn a_killed_kernel_leaves_nothing_that_stands_still() {
    use std::os::unix::fs::PermissionsExt;
    let w = World::new();
    let script = w.write(
        "kernel",
        "#!/bin/sh\nsleep 1000 &\nkill -STOP $!\necho $! >\"$HOME/left.new\"\nmv \"$HOME/left.new\" \"$HOME/left\"\nexec sleep 1000\n",
    );
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!("[vm]\nkernel = \"{}\"\n[boot]\nroot = \"/\"\n", script.display());
    w.write("k.toml", &text);
    // It waits for a boot that does not come.
    let log = std::fs::File::create(w.path("start.log")).unwrap();
    let mut start = w.umld().args(["start", "k.toml"]).stderr(log).spawn().unwrap();
    w.eventually("the kernel's child", || w.path("left").exists());
    let left: i32 = std::fs::read_to_string(w.path("left")).unwrap().trim().parse().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{left}")).exists());
    signal(w.status("k")["pid"].as_i64().unwrap() as i32, Signal::SIGKILL);
    // Collected, too: the number is nobody's.
    w.eventually("the end of what it left", || {
        !std::path::Path::new(&format!("/proc/{left}")).exists()
    });
    assert_ne!(start.wait().unwrap().code(), Some(0));
    assert_ne!(w.state("k"), "running");
}
