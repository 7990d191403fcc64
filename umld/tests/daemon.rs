//! The daemon, fleets, and what happens when processes of umld are killed.

mod common;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use common::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

struct Daemon(Child);

impl Daemon {
    fn start(w: &World) -> Daemon {
        let log = std::fs::File::create(w.path("daemon.log")).unwrap();
        let child = w.umld().arg("daemon").stderr(log).spawn().expect("daemon");
        // The one that a command started may be there before.
        w.eventually("its turn", || w.daemon() == Some(child.id() as i32));
        w.eventually("socket", || UnixStream::connect(w.path(".uml/.umld/.control")).is_ok());
        Daemon(child)
    }

    fn end(mut self, s: Signal) -> i32 {
        kill(Pid::from_raw(self.0.id() as i32), s).unwrap();
        let status = self.0.wait().unwrap();
        status.code().unwrap_or(-1)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn call(w: &World, method: &str, parameters: Value) -> Value {
    let mut s = UnixStream::connect(w.path(".uml/.umld/.control")).unwrap();
    let mut bytes = json!({"method": method, "parameters": parameters}).to_string().into_bytes();
    bytes.push(0);
    s.write_all(&bytes).unwrap();
    let mut reply = Vec::new();
    let mut byte = [0];
    while s.read(&mut byte).unwrap() == 1 && byte[0] != 0 {
        reply.push(byte[0]);
    }
    serde_json::from_slice(&reply).unwrap()
}

fn signal(pid: i64, s: Signal) {
    kill(Pid::from_raw(pid as i32), s).unwrap();
}

#[test]
fn the_socket_speaks_varlink_and_instances_outlive_the_daemon() {
    let w = World::new();
    let file = w.machine("m", "exec sleep 1000", "[service]\nautostart = true\n");
    w.run(&["create", "m.toml"]).ok();
    w.machine("second", "exec sleep 1000", "");
    let d = Daemon::start(&w);
    assert!(w.run(&["daemon"]).fails(5).contains("runs already"));
    w.eventually("autostart", || w.state("m") == "running");
    let info = call(&w, "org.varlink.service.GetInfo", json!({}));
    assert_eq!(info["parameters"]["product"], "umld");
    let text = call(
        &w,
        "org.varlink.service.GetInterfaceDescription",
        json!({"interface": "org.usermodelinux.Machines"}),
    );
    assert!(text["parameters"]["description"].as_str().unwrap().contains("method List()"));
    let machines = |m: &str, p: Value| call(&w, &format!("org.usermodelinux.Machines.{m}"), p);
    assert_eq!(machines("List", json!({}))["parameters"]["machines"][0]["name"], "m");
    let started = machines("Start", json!({"what": w.path("second.toml")}));
    assert_eq!(started["parameters"]["name"], "second", "{started}");
    assert_eq!(machines("Start", json!({"what": "second"}))["parameters"]["code"], 5);
    assert_eq!(machines("Status", json!({"name": "zzz"}))["parameters"]["code"], 4);
    assert_eq!(machines("Nothing", json!({}))["error"], "org.varlink.service.MethodNotFound");
    machines("Pause", json!({"name": "second"}));
    assert_eq!(w.state("second"), "paused");
    machines("Resume", json!({"name": "second"}));
    let pid = w.pid("m");
    assert_eq!(d.end(Signal::SIGTERM), 0);
    assert_eq!(w.pid("m"), pid);
    let d = Daemon::start(&w);
    assert_eq!(
        machines("Stop", json!({"name": "second"}))["parameters"]["how"],
        "halted by the kernel"
    );
    // The power fails: everything is shut down.
    assert_eq!(d.end(Signal::SIGPWR), 0);
    assert_eq!(w.state("m"), "stopped");
    let _ = file;
}

/// systemd's client: one that is installed, or, with its own libraries, that of the root with the stock kernel (tests/run makes it).
fn varlinkctl() -> Option<Command> {
    let found = |c: &mut Command| c.arg("--version").output().is_ok_and(|o| o.status.success());
    if found(&mut Command::new("varlinkctl")) {
        return Some(Command::new("varlinkctl"));
    }
    let root = common::stock_root();
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let inside = || {
        let mut c = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        let path = [libraries.clone(), libraries.join("systemd")];
        c.arg("--library-path").arg(std::env::join_paths(path).ok()?);
        c.arg(root.join("usr/bin/varlinkctl"));
        Some(c)
    };
    if inside().is_some_and(|mut c| found(&mut c)) {
        return inside();
    }
    eprintln!("skipped: no varlinkctl here (systemd 255 or later)");
    None
}

#[test]
fn varlinkctl_speaks_to_the_control_socket() {
    let w = World::new();
    if varlinkctl().is_none() {
        return;
    }
    let socket = w.path(".uml/.umld/.control");
    let ctl = |verb: &str, args: &[&str]| -> common::Done {
        let mut c = varlinkctl().unwrap();
        c.args([verb, "--json=short"])
            .arg(&socket)
            .args(args)
            .env("PAGER", "cat")
            .output()
            .unwrap()
            .into()
    };
    let call = |method: &str, parameters: Value| {
        ctl("call", &[&format!("org.usermodelinux.Machines.{method}"), &parameters.to_string()])
    };
    let answer = |method: &str, parameters: Value| -> Value {
        serde_json::from_str(&call(method, parameters).ok()).unwrap()
    };
    w.machine("m", "exec sleep 1000", "");
    let d = Daemon::start(&w);
    let info: Value = serde_json::from_str(&ctl("info", &[]).ok()).unwrap();
    assert_eq!(info["product"], "umld");
    assert_eq!(info["interfaces"], json!(["org.varlink.service", "org.usermodelinux.Machines"]));
    // It parses what it prints.
    for interface in ["org.usermodelinux.Machines", "org.varlink.service"] {
        let mut c = varlinkctl().unwrap();
        let text =
            common::Done::from(c.arg("introspect").arg(&socket).arg(interface).output().unwrap())
                .ok();
        assert!(
            text.contains(&format!("interface {interface}")) && text.contains("method "),
            "{text}"
        );
        let file = w.write("idl", &text);
        let mut c = varlinkctl().unwrap();
        common::Done::from(c.arg("validate-idl").arg(file).output().unwrap()).ok();
    }
    assert_eq!(answer("List", json!({})), json!({"machines": []}));
    assert_eq!(answer("Start", json!({"what": w.path("m.toml")})), json!({"name": "m"}));
    let list = answer("List", json!({}));
    assert_eq!(
        (&list["machines"][0]["name"], &list["machines"][0]["state"]),
        (&json!("m"), &json!("running"))
    );
    assert_eq!(answer("Status", json!({"name": "m"}))["machine"]["pid"], w.pid("m"));
    answer("Pause", json!({"name": "m"}));
    assert_eq!(w.state("m"), "paused");
    answer("Resume", json!({"name": "m"}));
    let before = w.pid("m");
    assert_eq!(answer("Restart", json!({"name": "m", "now": true})), json!({"name": "m"}));
    assert!(![0, before].contains(&w.pid("m")));
    assert_eq!(
        answer("Stop", json!({"name": "m", "now": true})),
        json!({"how": "halted by the kernel"})
    );
    // What it says of errors, and what comes with them.
    for (method, parameters, name, with) in [
        ("Stop", json!({"name": "m"}), "org.usermodelinux.Machines.Failed", "\"code\":3"),
        ("Status", json!({"name": "zzz"}), "org.usermodelinux.Machines.Failed", "\"code\":4"),
        ("Stop", json!({}), "org.varlink.service.InvalidParameter", "\"parameter\":\"name\""),
        ("Nothing", json!({}), "org.varlink.service.MethodNotFound", "Machines.Nothing"),
    ] {
        let done = call(method, parameters);
        assert!(done.status != 0 && done.out.contains(with), "{done:?}");
        // Of errors of the protocol itself newer ones tell what errno they stand for.
        let protocol = name.starts_with("org.varlink.service.");
        let told = done.err.contains(name) || protocol && done.err.contains("Machines.");
        assert!(told, "{done:?}");
    }
    assert_eq!(d.end(Signal::SIGTERM), 0);
}

#[test]
fn an_instance_whose_holder_is_killed_is_adopted() {
    let w = World::new();
    w.machine(
        "m",
        "exec sleep 1000",
        "[service]\nrestart = \"always\"\nrestart_delay = \"100ms\"\n",
    );
    w.run(&["start", "m.toml"]).ok();
    let pid = w.pid("m");
    let d = Daemon::start(&w);
    let killed = w.status("m")["holder"].as_i64().unwrap();
    signal(killed, Signal::SIGKILL);
    w.eventually("adoption", || {
        w.status("m")["holder"].as_i64().is_some_and(|holder| holder != killed)
    });
    w.eventually("the same kernel", || w.pid("m") == pid);
    w.eventually("its event", || w.run(&["events", "m"]).ok().contains("adopt"));
    assert_eq!(w.run(&["exec", "m", "--", "echo", "alive"]).ok(), "alive\n");
    // It keeps to the policy, too.
    signal(i64::from(pid), Signal::SIGKILL);
    w.eventually("restart", || w.state("m") == "running" && ![0, pid].contains(&w.pid("m")));
    assert_eq!(d.end(Signal::SIGTERM), 0);
    w.run(&["stop", "m"]).ok();
    w.eventually("the end", || w.state("m") == "stopped");
}

#[test]
fn a_fleet_goes_up_and_down_in_order() {
    let w = World::new();
    w.machine("base", "exec sleep 1000", "");
    w.write(
        "fleet.toml",
        "[fleet]\ntemplate = \"base.toml\"\nname = \"n{n}\"\ncount = 3\n[fleet.set.vm]\nmem = \"64M\"\n\
         [[member]]\nname = \"n1\"\nafter = [\"n3\"]\nset.vm.mem = \"96M\"\n",
    );
    assert!(w.run(&["check", "fleet.toml"]).ok().contains("a fleet of 3"));
    w.run(&["status", "-f", "fleet.toml"]).fails(3);
    w.run(&["up"]).ok();
    let text = w.run(&["status", "-f", "fleet.toml"]).ok();
    assert!(text.contains("3 of 3 are up"), "{text}");
    assert!(w.run(&["show", "n1"]).ok().contains("mem = \"96M\""));
    assert!(w.run(&["show", "n2"]).ok().contains("mem = \"64M\""));
    let events = w.run(&["events"]).ok();
    let at = |what: &str| events.find(what).unwrap_or_else(|| panic!("{what} in {events}"));
    assert!(at("n3 boot") < at("n1 start"));
    assert!(w.run(&["up", "n1"]).ok().is_empty());
    assert!(w.run(&["up", "nx"]).fails(4).contains("no member"));
    w.run(&["down"]).ok();
    assert_eq!(w.run(&["list", "--running", "-q"]).ok(), "");
    w.write("bad.toml", "[fleet]\ntemplate = \"base.toml\"\ncount = 2\n[[member]]\nname = \"bad-1\"\nafter = [\"bad-1\"]\n");
    assert!(w.run(&["check", "bad.toml"]).fails(78).contains("after itself"));
}

/// As examples/fleet.toml: the template is a machine with a layer of its own.
#[test]
fn members_do_not_share_the_layer_of_their_template() {
    let w = World::new();
    let Some(_) = w.image("b.img", "8M", None) else { return };
    w.write("t.toml", "[vm]\nmem = \"64M\"\n[[disk]]\nid = \"ubda\"\nfile = \"b.img\"\ncow = \"t.cow\"\n[boot]\nroot = \"host\"\ncommand = [\"sleep\", \"1000\"]\n[stop]\ncad = \"0s\"\n");
    w.write(
        "fleet.toml",
        "[fleet]\ntemplate = \"t.toml\"\nname = \"n{n}\"\ncount = 2\n\
         [[member]]\nname = \"own\"\nset.disk = [{ id = \"ubda\", cow = \"own.cow\" }]\n",
    );
    w.run(&["start", "t.toml"]).ok();
    w.run(&["up"]).ok();
    let cow = |name: &str| {
        let shown = w.run(&["show", name]).ok();
        let line = shown.lines().find(|l| l.starts_with("cow =")).unwrap_or_default().to_owned();
        line.trim_start_matches("cow = ").trim_matches('"').to_owned()
    };
    let home = w.path("");
    let home = home.to_str().unwrap().trim_end_matches('/');
    assert_eq!(cow("n1"), format!("{home}/.uml/.umld/n1/disk0.cow"));
    assert_eq!(cow("n2"), format!("{home}/.uml/.umld/n2/disk0.cow"));
    assert_eq!(cow("own"), format!("{home}/own.cow"));
    w.run(&["down"]).ok();
}

#[test]
fn the_generator_writes_units() {
    let w = World::new();
    let etc = w.path("etc");
    let out = w.path("out");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(
        etc.join("web.toml"),
        "[boot]\ninit = \"/bin/sh\"\n[service]\nautostart = true\nafter = [\"db\"]\n[resources]\nmemory_max = \"1G\"\ncpu_max = \"150%\"\n",
    )
    .unwrap();
    std::fs::write(etc.join("broken.toml"), "[vm\n").unwrap();
    let done: common::Done =
        w.umld().env("UMLD_ETC", &etc).args(["generator"]).arg(&out).output().unwrap().into();
    assert!(done.err.contains("broken.toml"));
    done.ok();
    let conf = std::fs::read_to_string(out.join("uml@web.service.d/50-umld.conf")).unwrap();
    for line in
        ["After=uml@db.service", "MemoryMax=1073741824", "CPUQuota=150%", "TimeoutStopSec=95"]
    {
        assert!(conf.contains(line), "{line} in {conf}");
    }
    assert!(out.join("uml.target.wants/uml@web.service").is_symlink());
}

/// Commands are killed at random moments; whatever they were doing, every instance is either up or down afterwards, and
/// can be started and stopped.
#[test]
fn killed_commands_lose_nothing() {
    let w = World::new();
    let Some(_) = w.image("b.img", "8M", None) else { return };
    w.machine("m", "exec sleep 1000", "[[disk]]\nfile = \"b.img\"\ncow = \"m.cow\"\n");
    let p = w.path("m.toml");
    let t = std::fs::read_to_string(&p).unwrap().replace("[boot]\n", "[boot]\nroot = \"host\"\n");
    std::fs::write(&p, t).unwrap();
    w.run(&["create", "m.toml"]).ok();
    let commands: [&[&str]; 5] =
        [&["start", "m"], &["stop", "m"], &["snapshot", "m"], &["merge", "m"], &["restart", "m"]];
    let mut seed = 12345u64;
    for round in 0..20 {
        let mut child = w
            .umld()
            .args(commands[round % commands.len()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        std::thread::sleep(std::time::Duration::from_millis(seed >> 33 & 0xff));
        let _ = child.kill();
        let _ = child.wait();
        // Nothing but the command is gone.
        let s = w.status("m");
        assert!(s["state"].is_string(), "{s}");
    }
    // Whatever goes on is left to end.
    w.eventually("rest", || {
        ["running", "stopped", "failed", "created"].contains(&w.state("m").as_str())
    });
    let _ = w.run(&["stop", "m"]);
    for tag in w.run(&["snapshot", "m", "--list", "-q"]).ok().lines() {
        w.run(&["snapshot", "m", "--delete", tag]).ok();
    }
    let _ = w.run(&["merge", "m"]);
    w.run(&["start", "m"]).ok();
    assert_eq!(w.run(&["exec", "m", "--", "echo", "whole"]).ok(), "whole\n");
    w.run(&["stop", "m"]).ok();
    let fsck = std::process::Command::new("e2fsck")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin")
        .arg("-fn")
        .arg(w.path("b.img"))
        .output()
        .unwrap();
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
}
