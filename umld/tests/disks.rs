//! Disks: snapshot, restore, clone, merge, export, import, and files on disks of stopped instances.

mod common;
use common::World;

/// An instance with a copy-on-write disk that is not its root.
fn defined() -> Option<World> {
    let w = World::new();
    let from = w.path("from");
    std::fs::create_dir_all(from.join("etc")).unwrap();
    std::fs::write(from.join("etc/motd"), "welcome\n").unwrap();
    w.image("base.img", "16M", Some(&from))?;
    w.write(
        "d.toml",
        "[[disk]]\nfile = \"base.img\"\ncow = \"d.cow\"\n[boot]\ninit = \"/bin/sh\"\n",
    );
    w.run(&["create", "d.toml"]).ok();
    Some(w)
}

fn read(w: &World, name: &str, path: &str) -> String {
    let to = w.path("read-back");
    let _ = std::fs::remove_file(&to);
    w.run(&["cp", &format!("{name}:{path}"), "read-back"]).ok();
    std::fs::read_to_string(to).unwrap()
}

#[test]
fn stopped_disks_are_reached_by_cp() {
    let Some(w) = defined() else { return };
    assert_eq!(read(&w, "d", "/etc/motd"), "welcome\n");
    w.write("new", "changed\n");
    w.run(&["cp", "new", "d:/etc/motd"]).ok();
    assert_eq!(read(&w, "d", "/etc/motd"), "changed\n");
    assert!(w.run(&["cp", "d:/none", "x"]).fails(1).contains("/none"));
    let ok = std::process::Command::new("e2fsck")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin")
        .args(["-fn"])
        .arg(w.path("base.img"))
        .output()
        .unwrap();
    assert!(ok.status.success());
}

#[test]
fn snapshots_bring_back_what_was() {
    let Some(w) = defined() else { return };
    w.write("one", "1");
    w.write("two", "2");
    w.run(&["cp", "one", "d:/state"]).ok();
    assert_eq!(w.run(&["snapshot", "d", "first"]).ok(), "first\n");
    w.run(&["cp", "two", "d:/state"]).ok();
    w.run(&["snapshot", "d", "first"]).fails(5);
    w.run(&["snapshot", "d", "second"]).ok();
    assert_eq!(w.run(&["snapshot", "d", "--list", "-q"]).ok(), "first\nsecond\n");
    w.run(&["restore", "d", "first"]).ok();
    assert_eq!(read(&w, "d", "/state"), "1");
    w.run(&["restore", "d", "second"]).ok();
    assert_eq!(read(&w, "d", "/state"), "2");
    w.run(&["restore", "d", "third"]).fails(4);
    assert!(w.run(&["merge", "d"]).fails(5).contains("snapshots"));
    // As it is left by a deletion that was killed, and by a removal.
    for left in ["d/snapshots/.first.removed/disk0.cow", ".removed.old.2147483647/vm.toml"] {
        let left = w.path(".uml/.umld").join(left);
        std::fs::create_dir_all(left.parent().unwrap()).unwrap();
        std::fs::write(left, "").unwrap();
    }
    w.run(&["snapshot", "d", "--delete", "first"]).ok();
    w.run(&["snapshot", "d", "--delete", "second"]).ok();
    w.run(&["merge", "d"]).ok();
    assert_eq!(read(&w, "d", "/state"), "2");
    assert_eq!(read(&w, "d", "/etc/motd"), "welcome\n");
    w.run(&["rm", "d"]).ok();
    assert!(!w.path(".uml/.umld/.removed.old.2147483647").exists());
}

#[test]
fn clones_have_their_own_disks() {
    let Some(w) = defined() else { return };
    w.write("one", "1");
    w.run(&["cp", "one", "d:/state"]).ok();
    assert_eq!(w.run(&["clone", "d", "c1", "c2"]).ok(), "c1\nc2\n");
    w.write("two", "2");
    w.run(&["cp", "two", "c1:/state"]).ok();
    assert_eq!(
        (
            read(&w, "d", "/state").as_str(),
            read(&w, "c1", "/state").as_str(),
            read(&w, "c2", "/state").as_str()
        ),
        ("1", "2", "1")
    );
    w.run(&["clone", "d", "c1"]).fails(5);
    let err = w.run(&["merge", "d"]).fails(5);
    assert!(err.contains("instance \"c1\""), "{err}");
    w.run(&["rename", "c1", "c3"]).ok();
    assert_eq!(read(&w, "c3", "/state"), "2");
}

/// A clone that is killed is none, and in nobody's way.
#[test]
fn clones_that_are_killed_leave_no_half_of_one() {
    let Some(w) = defined() else { return };
    // Enough to be caught at it.
    let big: Vec<u8> =
        (0..8_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(w.path("big"), &big).unwrap();
    w.run(&["cp", "big", "d:/big"]).ok();
    let (mut caught, mut complete) = (0, 0);
    for round in 0..30u64 {
        let mut clone = w.umld();
        clone.args(["clone", "d", "x", "y", "z"]).stdout(std::process::Stdio::null());
        let mut child = clone.spawn().unwrap();
        let begun = || {
            let names = std::fs::read_dir(w.path(".uml/.umld")).unwrap().flatten();
            names.map(|e| e.file_name()).any(|n| n.to_string_lossy().starts_with(".clone."))
        };
        while !begun() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(round * 3));
        child.kill().unwrap();
        child.wait().unwrap();
        let list = w.run(&["list", "-q"]).ok();
        let clones: Vec<&str> = list.lines().filter(|n| *n != "d").collect();
        caught += usize::from(clones.len() < 3);
        complete += clones.len();
        for name in clones {
            w.run(&["cp", &format!("{name}:/big"), "back"]).ok();
            assert!(std::fs::read(w.path("back")).unwrap() == big, "{name}, round {round}");
            w.run(&["rm", name]).ok();
        }
    }
    eprintln!("killed {caught} of 30 times before the end; {complete} of 90 clones were made");
    w.run(&["clone", "d", "x", "y", "z"]).ok();
    let left = std::fs::read_dir(w.path(".uml/.umld")).unwrap().flatten();
    let left = left.filter(|e| e.file_name().to_string_lossy().starts_with(".clone."));
    assert_eq!(left.count(), 0);
    // Of several, those that can be made are made.
    assert!(w.run(&["clone", "d", "p", "x", "p", "q"]).fails(5).contains("\"x\" already"));
    assert_eq!(w.run(&["list", "-q"]).ok(), "d\np\nq\nx\ny\nz\n");
}

#[test]
fn an_export_is_imported_elsewhere() {
    let Some(w) = defined() else { return };
    w.write("one", "1");
    w.run(&["cp", "one", "d:/state"]).ok();
    w.run(&["export", "d", "d.tar.gz"]).ok();
    w.run(&["import", "d.tar.gz"]).fails(5);
    // As an import that was killed leaves it; one that goes on has the lock.
    let rest = w.path(".uml/.umld/e");
    std::fs::create_dir(&rest).unwrap();
    std::fs::write(rest.join("disk0.img"), "").unwrap();
    let lock = std::fs::File::create(rest.join("lock")).unwrap();
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    w.run(&["import", "d.tar.gz", "--name", "e"]).fails(5);
    drop(lock);
    assert_eq!(w.run(&["import", "d.tar.gz", "--name", "e"]).ok(), "e\n");
    assert_eq!(read(&w, "e", "/state"), "1");
    assert_eq!(read(&w, "e", "/etc/motd"), "welcome\n");
    // Its disk is in its directory, and moves with it.
    w.run(&["rename", "e", "f"]).ok();
    assert_eq!(read(&w, "f", "/state"), "1");
    w.run(&["explain", "f"]).ok();
    // Others that are made on that disk keep it where it is.
    w.run(&["clone", "f", "g"]).ok();
    for command in [&["rename", "f", "e"][..], &["rm", "f"], &["rm", "--force", "f"]] {
        assert!(
            w.run(command).fails(5).contains("is also the disk of instance \"g\""),
            "{command:?}"
        );
    }
    assert_eq!(read(&w, "g", "/state"), "1");
    w.run(&["rm", "g"]).ok();
    w.run(&["rename", "f", "e"]).ok();
    w.write("bad.tar", "nonsense");
    w.run(&["import", "bad.tar"]).fails(1);
    assert_eq!(w.run(&["list", "-q"]).ok(), "d\ne\n");
}

#[test]
fn images_from_directories_and_archives() {
    let w = World::new();
    let Some(_) = w.image("unused.img", "8M", None) else { return };
    let from = w.path("root");
    std::fs::create_dir_all(from.join("etc")).unwrap();
    std::fs::create_dir_all(from.join("usr/bin")).unwrap();
    std::fs::write(from.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    std::fs::write(from.join("usr/bin/prog"), vec![7; 100_000]).unwrap();
    std::os::unix::fs::symlink("usr/bin", from.join("bin")).unwrap();
    std::fs::hard_link(from.join("usr/bin/prog"), from.join("usr/bin/same")).unwrap();
    let path = w
        .run(&["image", "build", "--from", "root", "--size", "32M", "--hostname", "box", "one"])
        .ok();
    assert!(path.ends_with(".images/one.img\n"), "{path}");
    w.run(&["image", "build", "--from", "root", "one"]).fails(5);
    assert_eq!(w.run(&["image", "list", "-q"]).ok(), "one\n");
    assert_eq!(w.json(&["image", "info", "one", "--json"])["block_size"], 4096);
    w.run(&["image", "check", "one"]).ok();
    w.run(&["image", "resize", "one", "48M"]).ok();
    w.run(&["image", "check", "one"]).ok();
    assert_eq!(w.json(&["image", "info", "one", "--json"])["size"], 48 << 20);
    let tar = std::process::Command::new("tar")
        .args(["-C"])
        .arg(&from)
        .args(["-czf"])
        .arg(w.path("root.tgz"))
        .arg(".")
        .status();
    assert!(tar.unwrap().success());
    w.run(&["image", "build", "--from", "root.tgz", "--size", "32M", "./two.img"]).ok();
    w.run(&["image", "check", "./two.img"]).ok();
    w.write("i.toml", &format!("[[disk]]\nfile = \"{}\"\nreadonly = true\n", path.trim()));
    w.run(&["create", "i.toml"]).ok();
    {
        let name = "i";
        assert_eq!(read(&w, name, "/etc/hostname"), "box\n");
        assert!(read(&w, name, "/etc/fstab").contains("/dev/ubda / ext4"));
        assert!(read(&w, name, "/etc/passwd").starts_with("root::0:0:"));
    }
    w.run(&["cp", "i:/bin/same", "same"]).ok();
    assert_eq!(std::fs::read(w.path("same")).unwrap(), vec![7; 100_000]);
    assert!(w.run(&["image", "rm", "one"]).fails(5).contains("instance \"i\""));
    w.run(&["rm", "i"]).ok();
    w.run(&["image", "rm", "one"]).ok();
    w.run(&["image", "info", "one"]).fails(4);
    let full = w.run(&["image", "build", "--from", "root", "--size", "10K", "tiny"]);
    assert_ne!(full.status, 0);
    assert_eq!(w.run(&["image", "list", "-q"]).ok(), "");
}
