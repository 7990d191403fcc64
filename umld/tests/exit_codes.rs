//! The table of exit statuses in umld(1); those of running instances are asserted where they run (lifecycle, exec).

mod common;
use common::World;

#[test]
fn statuses_that_need_no_guest() {
    let w = World::new();
    w.run(&["no-such-command"]).fails(2);
    w.run(&["stop"]).fails(2);
    for mem in ["3X", "much"] {
        assert!(w.run(&["run", "--mem", mem, "--", "true"]).fails(2).contains("such as \"512M\""));
    }
    w.run(&["kill", "-s", "NONE", "x"]).fails(2);
    w.run(&["start", "nothing"]).fails(4);
    w.run(&["console", "nothing"]).fails(4);
    w.run(&["restore", "nothing", "tag"]).fails(4);
    w.machine("m", "true", "");
    w.run(&["create", "m.toml"]).ok();
    w.run(&["status", "m"]).fails(3);
    w.run(&["exec", "m", "--", "true"]).fails(3);
    w.write("bad.toml", "nonsense");
    w.run(&["start", "bad.toml"]).fails(78);
    let done: common::Done = w.umld().env_remove("HOME").arg("list").output().unwrap().into();
    assert!(done.fails(69).contains("HOME"));
    let table = w.run(&["manual", "umld.1"]).ok();
    for code in [0, 1, 2, 3, 4, 5, 69, 70, 75, 77, 78, 125, 126, 127, 133] {
        assert!(table.contains(&format!(".B {code}\n")), "{code}");
    }
}

/// Each status of the table that a running guest is needed for, in one place.
#[test]
fn statuses_of_machines_that_run() {
    let w = World::new();
    w.machine("m", "exec sleep 1000", "");
    assert_eq!(w.run(&["start", "m.toml"]).status, 0);
    assert!(w.run(&["start", "m.toml"]).fails(5).contains("running already"));
    assert!(w.run(&["rm", "m"]).fails(5).contains("running"));
    assert!(w.run(&["console", "m", "con9"]).fails(1).contains("con9"));
    let late = w.run(&["start", "slow.toml"]);
    assert!(late.fails(78).contains("slow.toml"));
    w.machine("slow", "exec sleep 1000", "");
    let late = w.run(&["start", "slow.toml", "--wait=login", "--timeout", "1s"]).fails(75);
    assert!(late.contains("\"login\" did not happen within 1 s"), "{late}");
    // Of the guest's command, of one that cannot be executed, of none.
    for (command, status) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["/etc/passwd"], 126),
        (&["/no/such"], 127),
    ] {
        let exec = [&["exec", "m", "--"], command].concat();
        assert_eq!(w.run(&exec).status, status, "{exec:?}");
        let run = [&["run", "--net", "none", "--mem", "64M", "--"], command].concat();
        assert_eq!(w.run(&run).status, status, "{run:?}");
    }
    // A shell whose script comes through a pipe: all of it, and nothing but its output goes out.
    // Line 1 is a command and not read(1)'s: dash has the whole script in its buffer by then, bash not a byte too many.
    let script = "x=taken\necho $x\nexit 3\n";
    for shell in ["/bin/sh", "/bin/bash"] {
        let mut run = w.umld();
        run.args(["run", "--net", "none", "--mem", "64M"]).env("SHELL", shell);
        let done = World::feed(run, script);
        assert_eq!((done.status, &*done.out, &*done.err), (3, "taken\n", ""), "{shell}");
    }
    let elsewhere = w.path("");
    let run = ["run", "--net", "none", "--root", elsewhere.to_str().unwrap(), "--", "true"];
    assert!(w.run(&run).fails(125).contains("not below the root"));
    w.write(
        "p.toml",
        "[vm]\nmem = \"64M\"\n[boot]\nroot = \"/\"\noverlay = true\ninit = \"/no/such/init\"\n",
    );
    assert!(w.run(&["start", "p.toml"]).fails(70).contains("kernel panic"));
    w.write("numa.toml", "[boot]\nroot = \"host\"\n[resources]\nnuma = 999\n");
    assert!(w.run(&["start", "numa.toml"]).fails(69).contains("no NUMA node 999"));
    w.run(&["stop", "m"]).ok();
    w.run(&["stop", "m"]).fails(3);
    w.run(&["pause", "m"]).fails(3);
}

/// What goes wrong below a command is seen above it.
#[test]
fn nothing_is_swallowed() {
    let w = World::new();
    // A kernel that says on its standard error why it does not start.
    let program = w.write("kernel", "#!/bin/sh\necho the flux is out of order >&2\nexit 9\n");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    w.write("k.toml", "[vm]\nkernel = \"kernel\"\n[boot]\nroot = \"/\"\n");
    let err = w.run(&["start", "k.toml"]).fails(1);
    assert!(err.contains("status 9") && err.contains("the flux is out of order"), "{err}");
    assert!(w.run(&["logs", "--kernel", "k"]).ok().contains("the flux is out of order"));
    // Names whose sockets another kernel could not bind are refused before it is started.
    let name = "n".repeat(60);
    let home = w.path(&"d".repeat(60));
    std::fs::create_dir(&home).unwrap();
    std::fs::copy(w.path("k.toml"), w.path(&format!("{name}.toml"))).unwrap();
    let done: common::Done = w
        .umld()
        .env("HOME", &home)
        .args(["start", &format!("{name}.toml")])
        .output()
        .unwrap()
        .into();
    let err = done.fails(69);
    assert!(err.contains("longer than the 107 bytes"), "{err}");
}

#[test]
fn a_reboot_ends_a_machine_without_a_file() {
    let w = World::new();
    let restart = "echo again >&2; echo b > /proc/sysrq-trigger; sleep 1000";
    let said = w.run(&["run", "--net", "none", "--", "sh", "-c", restart]).fails(133);
    assert_eq!(said.matches("again").count(), 1, "{said}");
}

#[test]
fn what_is_not_allowed_is_77() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let w = World::new();
    let file = w.write("m.toml", "");
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, owner_only).unwrap();
    let done = w.umld().current_dir("/").uid(65534).gid(65534).arg("check").arg(file).output();
    // The program itself may be out of the other user's reach.
    let Ok(done) = done else { return eprintln!("skipped: the program is not for everybody") };
    common::Done::from(done).fails(77);
}

#[test]
fn a_held_lock_is_5() {
    let w = World::new();
    w.machine("m", "true", "");
    w.run(&["create", "m.toml"]).ok();
    let lock = std::fs::File::create(w.path(".uml/.umld/m/lock")).unwrap();
    let _held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    w.run(&["rename", "m", "n"]).fails(5);
    w.run(&["rm", "m"]).fails(5);
}
