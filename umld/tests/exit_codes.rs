//! The table of exit statuses in umld(1); those of running instances are asserted where they run (lifecycle, exec).

mod common;
use common::World;

#[test]
fn statuses_that_need_no_guest() {
    let w = World::new();
    w.run(&["no-such-command"]).fails(2);
    w.run(&["stop"]).fails(2);
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
