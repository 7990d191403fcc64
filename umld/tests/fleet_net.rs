//! Switches and links of fleets.

mod common;

use common::World;
use serde_json::Value;

/// Tells whoever connects the address that it came from.
const SERVER: &str = r#"
import socket
l = socket.create_server(("", 80))
while True:
    c, a = l.accept()
    c.sendall(a[0].encode())
    c.close()
"#;

fn python() -> bool {
    let there = std::path::Path::new("/usr/bin/python3").exists();
    if !there {
        eprintln!("skipped: no /usr/bin/python3 here");
    }
    there
}

/// A fleet of two and a third one, on one switch; a cable between the first and the third.
fn lab(w: &World) {
    w.write("server.py", SERVER);
    let server = w.path("server.py").display().to_string();
    w.machine("base", &format!("exec /usr/bin/python3 {server}"), "");
    w.write(
        "fleet.toml",
        "[fleet]\ntemplate = \"base.toml\"\nname = \"n{n}\"\ncount = 2\n[fleet.set]\nvm.mem = \"64M\"\nnet = [{ switch = \"lan\" }]\n\
         [[member]]\nname = \"edge\"\nset.guest.hostname = \"rim\"\n\
         [[switch]]\nname = \"lan\"\nnetwork = \"10.9.7.0/24\"\n\
         [[link]]\nname = \"wire\"\nbetween = [\"n1\", \"edge\"]\n",
    );
}

/// What the server of `to` says to `from`.
#[track_caller]
fn seen(w: &World, from: &str, to: &str) -> String {
    let ask = format!(
        "import socket; s = socket.create_connection(({to:?}, 80), 5); print(s.recv(99).decode(), end='')"
    );
    let once = || w.run(&["exec", from, "--", "/usr/bin/python3", "-c", &ask]);
    // The server may not listen yet.
    w.eventually(&format!("{from} reaches {to}"), || once().status == 0);
    once().ok()
}

fn switch(w: &World, name: &str) -> Value {
    let done = w.run(&["status", "--json", "-f", "fleet.toml"]);
    let all: Value = serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{e}: {done:?}"));
    let mut found = all.as_array().unwrap().iter().filter(|s| s["kind"] == "switch");
    found.find(|s| s["name"] == name).unwrap_or_else(|| panic!("{name} in {all}")).clone()
}

#[test]
fn members_reach_one_another_by_name() {
    if !python() {
        return;
    }
    let w = World::new();
    lab(&w);
    assert!(w.run(&["check", "fleet.toml"]).ok().contains("a fleet of 3"));
    w.run(&["up"]).ok();
    let text = w.run(&["status", "-f", "fleet.toml"]).ok();
    assert!(text.contains("3 of 3 are up") && text.contains("\nSWITCH"), "{text}");
    assert_eq!((&switch(&w, "lan")["ports"], &switch(&w, "wire")["ports"]), (&3.into(), &2.into()));
    // The address that a name leads to, and that of who asks.
    assert_eq!(seen(&w, "n1", "n2"), "10.9.7.1");
    assert_eq!(seen(&w, "n2", "rim"), "10.9.7.2");
    assert_eq!(seen(&w, "edge", "n1"), "10.9.7.3");
    // The cable is the guests' to configure.
    for (name, a) in [("n1", "10.9.8.1/30"), ("edge", "10.9.8.2/30")] {
        let set = format!("ip addr add {a} dev eth1 && ip link set eth1 up");
        w.run(&["exec", name, "--", "sh", "-c", &set]).ok();
    }
    assert_eq!(seen(&w, "n1", "10.9.8.2"), "10.9.8.1");
    assert!(!w.run(&["exec", "n2", "--", "ls", "/sys/class/net"]).ok().contains("eth1"));

    // A second `up` changes nothing; a member that goes leaves the switch to the others and finds it again.
    let pid = switch(&w, "lan")["pid"].clone();
    w.run(&["up"]).ok();
    w.run(&["down", "n2"]).ok();
    w.eventually("the port's end", || switch(&w, "lan")["ports"] == 2);
    w.run(&["start", "n2"]).ok();
    assert_eq!(seen(&w, "n1", "n2"), "10.9.7.1");
    assert_eq!(switch(&w, "lan")["pid"], pid);
    w.run(&["down"]).ok();
    w.run(&["status", "-f", "fleet.toml"]).fails(3);
    for name in ["lan", "wire"] {
        assert_eq!(switch(&w, name)["state"], "stopped");
    }
    let gone = || !std::path::Path::new(&format!("/proc/{pid}")).exists();
    w.eventually("the switch's end", gone);
}

/// A switch, a cable and the router of the machine's own process: umld's init gives each interface its address.
#[test]
fn every_interface_of_a_member_has_its_address() {
    if !python() {
        return;
    }
    let w = World::new();
    lab(&w);
    let text = std::fs::read_to_string(w.path("fleet.toml")).unwrap();
    let text = text
        .replace(
            "net = [{ switch = \"lan\" }]",
            "net = [{ mode = \"user\" }, { switch = \"lan\" }]",
        )
        .replace("name = \"wire\"\n", "name = \"wire\"\nnetwork = \"10.9.8.0/30\"\n");
    w.write("fleet.toml", &text);
    w.run(&["up"]).ok();
    assert_eq!(seen(&w, "n2", "rim"), "10.9.7.2");
    assert_eq!(seen(&w, "n1", "10.9.8.2"), "10.9.8.1");
    let show = |name: &str, what: &str| w.run(&["exec", name, "--", "ip", "-4", "-br", what]).ok();
    for a in ["vec0", "10.0.2.15/24", "10.9.7.1/24", "10.9.8.1/30"] {
        assert!(show("n1", "address").contains(a), "{a} in {}", show("n1", "address"));
    }
    let route = show("n1", "route");
    assert!(route.contains("default via 10.0.2.2 dev vec0"), "{route}");
    let resolver = w.run(&["exec", "n1", "--", "cat", "/etc/resolv.conf"]).ok();
    assert!(resolver.contains("nameserver 10.0.2.3"), "{resolver}");
    w.run(&["down"]).ok();
}

#[test]
fn switches_come_back() {
    if !python() {
        return;
    }
    let w = World::new();
    lab(&w);
    w.run(&["up", "n1", "n2"]).ok();
    w.run(&["down"]).ok();
    assert_eq!(switch(&w, "lan")["state"], "stopped");
    // A member that is started by itself brings up what it is on.
    w.run(&["start", "n1"]).ok();
    assert_eq!(switch(&w, "lan")["ports"], 1);
    // Somebody else on it: it stays.
    w.write("other.toml", &std::fs::read_to_string(w.path("base.toml")).unwrap());
    w.write(
        "second.toml",
        "[fleet]\ntemplate = \"other.toml\"\nname = \"m{n}\"\ncount = 1\nset.net = [{ mode = \"switch\", address = \"10.9.7.77/24\" }]\n\
         [[switch]]\nname = \"lan\"\n",
    );
    w.run(&["up", "-f", "second.toml"]).ok();
    assert_eq!(seen(&w, "m1", "10.9.7.1"), "10.9.7.77");
    let said = w.run(&["down"]);
    assert!(said.err.contains("lan: stays: 1 ports are in use"), "{said:?}");
    w.run(&["down", "-f", "second.toml"]).ok();
    assert_eq!(switch(&w, "lan")["state"], "stopped");
    // One that was killed leaves its socket behind, which is in nobody's way.
    w.run(&["up", "n2"]).ok();
    let pid = switch(&w, "lan")["pid"].as_i64().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    w.eventually("its end is seen", || switch(&w, "lan")["state"] == "stopped");
    w.run(&["up", "n2"]).ok();
    assert_eq!(switch(&w, "lan")["state"], "running");
    // Who was on it is on it again, without a word from anybody, and more than once.
    w.eventually("the port", || switch(&w, "lan")["ports"] == 1);
    w.run(&["up", "n1", "n2"]).ok();
    let pids = (w.pid("n1"), w.pid("n2"));
    for _ in 0..2 {
        let pid = switch(&w, "lan")["pid"].as_i64().unwrap();
        let pid = nix::unistd::Pid::from_raw(pid as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        w.eventually("its end is seen", || switch(&w, "lan")["state"] == "stopped");
        // What is sent meanwhile is lost, and no reason to give up the interface.
        let shout = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                     s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n\
                     for _ in range(5): s.sendto(b'x', ('10.9.7.255', 9))";
        w.run(&["exec", "n2", "--", "/usr/bin/python3", "-c", shout]).ok();
        w.run(&["up", "n1", "n2"]).ok();
        assert_eq!(seen(&w, "n1", "n2"), "10.9.7.1");
        assert_eq!(seen(&w, "n2", "n1"), "10.9.7.2");
    }
    assert_eq!((w.pid("n1"), w.pid("n2")), pids);
    assert!(w.run(&["logs", "--kernel", "n1"]).ok().contains("ctl again"));
    w.run(&["down"]).ok();
}

#[test]
fn what_is_wrong_is_said_where_it_is() {
    let w = World::new();
    w.machine("base", "exec sleep 1000", "");
    let fleet = "[fleet]\ntemplate = \"base.toml\"\nname = \"n{n}\"\ncount = 2\n";
    for (text, line, said) in [
        ("[[switch]]\n", 5, "name"),
        ("[[switch]]\nname = \"n1\"\n", 6, "a member's name already"),
        (
            "[[switch]]\nname = \"a\"\n[[switch]]\nname = \"a\"\n",
            8,
            "a second switch or link \"a\"",
        ),
        ("[[switch]]\nname = \"a\"\nnetwork = \"10.0.0.0\"\n", 7, "expected an IPv4 network"),
        ("[[switch]]\nname = \"a\"\ncolour = 1\n", 7, "unknown key `colour`"),
        ("[[link]]\nbetween = [\"n1\"]\n", 6, "two different members"),
        ("[[link]]\nbetween = [\"n1\", \"n1\"]\n", 6, "two different members"),
        ("[[link]]\nbetween = [\"n1\", \"n7\"]\n", 6, "there is no member \"n7\""),
        ("set.net = [{ switch = \"b\" }]\n[[switch]]\nname = \"a\"\n", 1, "no [[switch]] \"b\""),
        (
            "set.net = [{ mode = \"tap\", switch = \"a\" }]\n[[switch]]\nname = \"a\"\n",
            1,
            "mode \"tap\"",
        ),
        (
            "set.net = [{ switch = \"a\" }]\n[[switch]]\nname = \"a\"\nnetwork = \"10.0.0.0/30\"\n[[member]]\nname = \"x\"\n",
            8,
            "no address left for member \"x\"",
        ),
    ] {
        w.write("fleet.toml", &format!("{fleet}{text}"));
        let err = w.run(&["check", "fleet.toml"]).fails(78);
        assert!(
            err.contains(said) && err.contains(&format!("fleet.toml:{line}:")),
            "{text}\n{err}"
        );
    }
    w.write("single.toml", "[[net]]\nswitch = \"a\"\n");
    assert!(w.run(&["check", "single.toml"]).fails(78).contains("only members of a fleet"));
}

/// A host name in the template of many is nobody's; one that is asked for in the fleet.toml is.
#[test]
fn members_are_not_all_called_like_their_template() {
    let w = World::new();
    w.machine("base", "exec sleep 1000", "[guest]\nhostname = \"box\"\n");
    w.write(
        "fleet.toml",
        "[fleet]\ntemplate = \"base.toml\"\nname = \"n{n}\"\ncount = 2\nset.vm.mem = \"64M\"\n\
         [[member]]\nname = \"edge\"\nset.guest.hostname = \"rim\"\n",
    );
    w.write("one.toml", "[fleet]\ntemplate = \"base.toml\"\nname = \"single\"\ncount = 1\n");
    w.run(&["up"]).ok();
    w.run(&["up", "-f", "one.toml"]).ok();
    for (member, name) in [("n1", "n1"), ("n2", "n2"), ("edge", "rim"), ("single", "box")] {
        let told = w.run(&["exec", member, "--", "cat", "/proc/sys/kernel/hostname"]).ok();
        assert_eq!(told.trim(), name, "{member}");
    }
}
