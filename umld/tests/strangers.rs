//! Another user of the host at the machines of one: refused with status 77 at every door. Root may.
//!
//! Needs root, to become others.

mod common;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Done, World};

/// Whose machines they are. No such user need exist.
const OWNER: u32 = 54_321;
/// Who has no business there.
const STRANGER: u32 = 65_534;

/// The home of the owner with a machine that runs in it.
struct Host {
    w: World,
}

impl Host {
    fn new() -> Option<Host> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can become somebody else");
            return None;
        }
        let w = World::new();
        w.copy_of_umld();
        w.machine("m", "exec sleep 1000", "");
        for p in [w.path(""), w.path("m.toml")] {
            chown(&p, Some(OWNER), Some(OWNER)).unwrap();
        }
        let host = Host { w };
        host.by(OWNER, "", &["start", "m.toml"]).ok();
        Some(host)
    }

    /// A command of a user whose home is `home` below that of the owner.
    fn by(&self, uid: u32, home: &str, args: &[&str]) -> Done {
        // As `World::umld`, by the program that everybody may run.
        let mut c = Command::new(self.w.path("umld"));
        for (k, v) in self.w.umld().get_envs() {
            match v {
                Some(v) => c.env(k, v),
                None => c.env_remove(k),
            };
        }
        let dir = if uid == STRANGER { "/".into() } else { self.w.path("") };
        c.env("HOME", self.w.path(home)).current_dir(dir).uid(uid).gid(uid);
        c.stdin(Stdio::null()).args(args).output().unwrap().into()
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Lets everybody do everything with a directory and what is in it.
fn throw_open(dir: &Path) {
    mode(dir, 0o777);
    for e in std::fs::read_dir(dir).unwrap().flatten() {
        let kind = e.file_type().unwrap();
        if kind.is_dir() {
            throw_open(&e.path());
        } else if !kind.is_symlink() {
            mode(&e.path(), 0o777);
        }
    }
}

const COMMANDS: &[&[&str]] = &[
    &["stop", "m"],
    &["exec", "m", "--", "true"],
    &["exec", "--tty=always", "m", "--", "true"],
    &["console", "m"],
    &["mconsole", "m", "version"],
    &["pause", "m"],
    &["kill", "m"],
    &["cp", "m:/etc/passwd", "/tmp/never"],
];

#[test]
fn strangers_are_refused_and_root_is_not() {
    let Some(host) = Host::new() else { return };
    let w = &host.w;
    let alive = || assert_eq!(host.by(OWNER, "", &["exec", "m", "--", "echo", "ok"]).ok(), "ok\n");
    let more: &[&[&str]] =
        &[&["list"], &["status", "m"], &["logs", "m"], &["start", "m"], &["rm", "--force", "m"]];

    // A home that is closed, one that everybody may read, one that everybody may do everything with.
    for step in ["closed", "readable", "open"] {
        match step {
            "closed" => mode(&w.path(""), 0o711),
            "readable" => mode(&w.path(""), 0o755),
            _ => throw_open(&w.path(".uml")),
        }
        for c in COMMANDS.iter().chain(more) {
            let err = host.by(STRANGER, "", c).fails(77);
            assert!(err.contains("belongs to uid 54321"), "{step} {c:?}: {err}");
        }
    }
    alive();

    // Around that check, by a home of the stranger's own that leads to the sockets: they refuse.
    let theirs = w.path("stranger");
    for (dir, to) in [(".uml", ".uml/m"), (".uml/.umld", ".uml/.umld/m")] {
        std::fs::create_dir_all(theirs.join(dir)).unwrap();
        symlink(w.path(to), theirs.join(dir).join("m")).unwrap();
    }
    for p in ["", ".uml", ".uml/.umld"] {
        chown(theirs.join(p), Some(STRANGER), Some(STRANGER)).unwrap();
    }
    for c in COMMANDS {
        let err = host.by(STRANGER, "stranger", c).fails(77);
        assert!(!err.contains("belongs to"), "{c:?}: {err}");
    }
    alive();

    // The daemon's socket, by hand: told so, once, and no thread stays for it.
    let call = "use IO::Socket::UNIX; $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!; \
        print $s qq({\"method\":\"org.usermodelinux.Machines.Stop\",\"parameters\":{\"name\":\"m\"}}\\0); \
        $s->flush; local $/; print <$s>";
    let control = w.path(".uml/.umld/.control");
    let mut perl = Command::new("perl");
    perl.args(["-e", call]).arg(&control).uid(STRANGER).gid(STRANGER).current_dir("/");
    match perl.output() {
        Err(_) => eprintln!("skipped: the daemon's socket by hand: perl is not installed"),
        Ok(out) => assert_eq!(
            Done::from(out).ok(),
            "{\"parameters\":{},\"error\":\"org.varlink.service.PermissionDenied\"}\0"
        ),
    }
    alive();

    // Root reaches what runs there, but does not make or start there what the owner could not use.
    let root = |args: &[&str]| host.by(0, "", args);
    assert!(root(&["list"]).ok().contains("running"));
    assert_eq!(root(&["exec", "m", "--", "echo", "ok"]).ok(), "ok\n");
    assert!(root(&["mconsole", "m", "version"]).ok().contains("Linux"));
    root(&["console", "m"]).ok();
    root(&["pause", "m"]).ok();
    root(&["resume", "m"]).ok();
    assert_eq!(root(&["stop", "m"]).ok(), "m: halted by the kernel\n");
    for c in [
        &["start", "m"][..],
        &["clone", "m", "n"],
        &["create", "m.toml", "--name", "n"],
        &["daemon"],
    ] {
        let err = root(c).fails(77);
        assert!(err.contains("belongs to uid 54321"), "{c:?}: {err}");
    }
    // Nothing is left there that the owner cannot write to.
    let theirs = |p: &Path| {
        use std::os::unix::fs::MetadataExt;
        p.symlink_metadata().unwrap().uid() == OWNER
    };
    for e in std::fs::read_dir(w.path(".uml/.umld")).unwrap().flatten() {
        assert!(theirs(&e.path()), "{:?}", e.path());
    }
    host.by(OWNER, "", &["start", "m"]).ok();
    host.by(OWNER, "", &["stop", "m"]).ok();
}
