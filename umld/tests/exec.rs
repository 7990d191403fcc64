//! Programs and files in running guests.

mod common;
use common::World;

fn started() -> World {
    let w = World::new();
    w.machine("m", "exec sleep 1000", "[guest]\nhostname = \"inner\"\n");
    w.run(&["start", "m.toml"]).ok();
    w
}

#[test]
fn status_streams_and_environment() {
    let w = started();
    w.run(&["exec", "m", "--", "sh", "-c", "exit 7"]).fails(7);
    w.run(&["exec", "m", "--", "sh", "-c", "kill -9 $$"]).fails(137);
    assert!(w.run(&["exec", "m", "--", "/no/such"]).fails(127).contains("No such file"));
    assert!(w.run(&["exec", "m", "--", "/etc/passwd"]).fails(126).contains("ermission denied"));
    let both = w.run(&["exec", "m", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.out.as_str(), both.err.as_str()), ("out\n", "err\n"));
    assert_eq!(w.run_with(&["exec", "m", "--", "cat"], "typed\n").ok(), "typed\n");
    assert_eq!(w.run(&["exec", "m", "--", "hostname"]).ok(), "inner\n");
    let out = w
        .run(&["exec", "-e", "A=b c", "-w", "/tmp", "m", "--", "sh", "-c", "echo $A $PWD $PPID"])
        .ok();
    assert_eq!(out, "b c /tmp 0\n");
    assert_eq!(
        w.run(&["exec", "-u", "1000:100", "m", "--", "sh", "-c", "id -u; id -g"]).ok(),
        "1000\n100\n"
    );
    let err = w.run(&["exec", "-w", "/none", "m", "--", "true"]).fails(127);
    assert!(err.contains("/none"), "{err}");
    // It is the running guest, not another one.
    assert!(w.run(&["exec", "m", "--", "ps", "-e", "-o", "args"]).ok().contains("sleep 1000"));
    w.run(&["stop", "m"]).ok();
    w.run(&["exec", "m", "--", "true"]).fails(3);
}

#[test]
fn a_terminal_when_asked_for() {
    let w = started();
    // A start is over when init begins; the terminals of the machine come a moment later.
    let mounted = "until grep -q devpts /proc/mounts; do :; done";
    w.run(&["exec", "m", "--", "sh", "-c", mounted]).ok();
    let done = w.run(&[
        "exec",
        "-t",
        "m",
        "--",
        "sh",
        "-c",
        "tty; stty size; test -t 0 && test -t 2 && exit 5",
    ]);
    assert_eq!(done.status, 5, "{done:?}");
    assert!(done.out.starts_with("/dev/pts/"), "{done:?}");
    // Keys go to the guest's line discipline: Ctrl-C ends the program.
    let done = w.run_with(&["exec", "-t", "m", "--", "sh", "-c", "echo begun; cat"], "line\n\x04");
    // Echoed, perhaps before the program began, and written.
    assert_eq!(done.out.matches("line\r\n").count(), 2, "{done:?}");
    let done = w.run_with(&["exec", "-t", "m", "--", "sleep", "100"], "\x03");
    assert_eq!(done.status, 130, "{done:?}");
}

#[test]
fn many_at_once() {
    let w = started();
    std::thread::scope(|s| {
        for n in 0..8 {
            let w = &w;
            s.spawn(move || {
                let n = n.to_string();
                assert_eq!(w.run(&["exec", "m", "--", "echo", &n]).ok(), format!("{n}\n"));
            });
        }
    });
}

#[test]
fn files_go_in_and_out() {
    let w = started();
    let tree = w.path("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("sub/file"), "contents").unwrap();
    std::os::unix::fs::symlink("file", tree.join("sub/link")).unwrap();
    w.run(&["cp", "tree", "m:/tmp/copied"]).ok();
    assert_eq!(w.run(&["exec", "m", "--", "cat", "/tmp/copied/sub/link"]).ok(), "contents");
    w.run(&["cp", "tree/sub/file", "m:/tmp/"]).ok();
    assert_eq!(w.run(&["exec", "m", "--", "cat", "/tmp/file"]).ok(), "contents");
    w.run(&["cp", "m:/tmp/copied", "back"]).ok();
    assert_eq!(std::fs::read_to_string(w.path("back/sub/file")).unwrap(), "contents");
    assert!(w.path("back/sub/link").is_symlink());
    w.run(&["cp", "m:/tmp/copied/sub/file", "one"]).ok();
    assert_eq!(std::fs::read_to_string(w.path("one")).unwrap(), "contents");
    let err = w.run(&["cp", "m:/none", "x"]).fails(1);
    assert!(err.contains("tar in instance \"m\" failed"), "{err}");
    assert!(!w.path("x").exists());
    w.run(&["cp", "nowhere", "m:/tmp/x"]).fails(1);
    w.run(&["cp", "a", "b"]).fails(2);
}
