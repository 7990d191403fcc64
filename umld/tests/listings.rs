//! Every listing for people, for programs (`--json`) and for shells (`-q`).

mod common;

use common::World;

/// The names of a listing in its three forms: they are the same, and quiet output is nothing else.
#[track_caller]
fn names(w: &World, command: &[&str], key: &str) -> Vec<String> {
    let with = |more: &'static str| w.run(&[command, &[more]].concat());
    let done = with("--json");
    // Of events there is an object a line.
    let values: Vec<serde_json::Value> = match serde_json::from_str(&done.out) {
        Ok(serde_json::Value::Array(all)) => all,
        _ => done.out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect(),
    };
    let names: Vec<String> =
        values.iter().map(|v| v[key].as_str().expect("a name").to_owned()).collect();
    let quiet = with("-q");
    let first = |l: &str| l.split(' ').next().unwrap_or_default().to_owned();
    assert_eq!(quiet.out.lines().map(first).collect::<Vec<_>>(), names, "{command:?}");
    let people = w.run(command);
    assert_eq!((people.status, quiet.status), (done.status, done.status), "{command:?}");
    for n in &names {
        assert!(people.out.contains(n), "{n} in {}", people.out);
    }
    assert_eq!(w.run(&[command, &["--json", "-q"]].concat()).status, 2, "{command:?}");
    names
}

#[test]
fn listings_have_three_forms() {
    let w = World::new();
    for command in [&["list"][..], &["status"], &["top"], &["events"], &["image", "list"]] {
        assert!(names(&w, command, "name").is_empty(), "{command:?}");
    }
    for n in ["a", "b"] {
        w.machine(n, "exec sleep 1000", "");
        w.run(&["create", &format!("{n}.toml")]).ok();
    }
    w.run(&["start", "b"]).ok();
    for command in [&["list"][..], &["status"], &["status", "a", "b"]] {
        assert_eq!(names(&w, command, "name"), ["a", "b"], "{command:?}");
    }
    for command in [&["list", "--running"][..], &["top", "-n", "1"]] {
        assert_eq!(names(&w, command, "name"), ["b"], "{command:?}");
    }
    assert_eq!(names(&w, &["events", "-n", "2"], "name"), ["b", "b"]);
    w.run(&["stop", "b"]).ok();

    let Some(_) = w.image("d.img", "8M", None) else { return };
    std::fs::create_dir_all(w.path(".uml/.umld/.images")).unwrap();
    std::fs::rename(w.path("d.img"), w.path(".uml/.umld/.images/d.img")).unwrap();
    assert_eq!(names(&w, &["image", "list"], "name"), ["d"]);
    let disk = "[[disk]]\nfile = \"~/.uml/.umld/.images/d.img\"\ncow = \"a.cow\"\n";
    w.write(
        "a.toml",
        &format!("[vm]\nmem = \"64M\"\n{disk}[boot]\nroot = \"host\"\ncommand = [\"true\"]\n"),
    );
    let _ = w.run(&["start", "a.toml"]);
    w.eventually("its end", || w.pid("a") == 0);
    assert!(names(&w, &["snapshot", "--list", "a"], "tag").is_empty());
    w.run(&["snapshot", "a", "one"]).ok();
    w.run(&["snapshot", "a", "two"]).ok();
    assert_eq!(names(&w, &["snapshot", "--list", "a"], "tag"), ["one", "two"]);
}

/// What is amiss here is the host's affair; that each has a remedy is not.
#[test]
fn doctors_look_at_everything_and_know_remedies() {
    let w = World::new();
    let done = w.run(&["doctor", "--json"]);
    let all: Vec<serde_json::Value> = serde_json::from_str(&done.out).unwrap();
    let found: Vec<&str> = all.iter().map(|f| f["name"].as_str().unwrap()).collect();
    for name in [
        "ptrace",
        "seccomp",
        "register state",
        "memfd",
        "memory directory",
        "open files",
        "processes",
        "cgroup delegation",
        "/dev/net/tun",
        "passt",
        "socket paths",
        "image builder",
    ] {
        assert!(found.contains(&name), "{name} in {found:?}");
    }
    for f in &all {
        assert_eq!(f["grade"] == "ok", f["remedy"] == "", "{f}");
        assert!(!f["found"].as_str().unwrap().is_empty(), "{f}");
    }
    let bad = all
        .iter()
        .filter(|f| f["grade"] != "ok")
        .map(|f| format!("{}\n", f["name"].as_str().unwrap()));
    assert_eq!(w.run(&["doctor", "-q"]).out, bad.collect::<String>());
    let missing = all.iter().any(|f| f["grade"] == "missing");
    assert_eq!(done.status, if missing { 69 } else { 0 });

    let net: Vec<serde_json::Value> =
        serde_json::from_str(&w.run(&["net", "doctor", "--json"]).out).unwrap();
    let bad = net
        .iter()
        .filter(|f| f["grade"] != "ok")
        .map(|f| format!("{}\n", f["mode"].as_str().unwrap()));
    assert_eq!(w.run(&["net", "doctor", "-q"]).out, bad.collect::<String>());
}
