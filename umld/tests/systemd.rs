//! The units, under a real systemd: that of a Debian guest, in which machines run as they do on a host.
//!
//! Needs the image that the `boot` tests make (tests/cache/systemd.img, or `UML_SYSTEMD_IMAGE`); a copy of it is used.

mod common;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::World;

const INNER: &str = "[vm]\nmem = \"64M\"\nncpus = 1\n[boot]\ntimeout = \"110s\"\n\
    command = [\"sh\", \"-c\", \"echo ready >/proc/mconsole; exec sleep 100000\"]\n\
    [resources]\nmemory_max = \"300M\"\ntasks_max = 60\ncpu_max = \"150%\"\ncpu_weight = 50\n\
    [service]\nautostart = true\n[stop]\ncad = \"0s\"\n";

fn image() -> Option<PathBuf> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cache/systemd.img");
    let path = std::env::var_os("UML_SYSTEMD_IMAGE").map_or(made, PathBuf::from);
    path.is_file().then_some(path)
}

/// A guest with systemd, and umld installed in it.
fn guest() -> Option<World> {
    let Some(image) = image() else {
        eprintln!("skipped: no image with systemd");
        return None;
    };
    let w = World::new();
    let copied =
        Command::new("cp").arg("--sparse=always").arg(image).arg(w.path("sd.img")).status();
    assert!(copied.is_ok_and(|s| s.success()));
    w.write(
        "sd.toml",
        "[vm]\nmem = \"1G\"\nncpus = 2\n[[disk]]\nfile = \"sd.img\"\n[boot]\nwait = \"login\"\ntimeout = \"110s\"\n\
         [[net]]\nmode = \"none\"\n",
    );
    w.run(&["start", "sd.toml"]).ok();
    let stripped = w.path("umld");
    let strip =
        Command::new("strip").arg("-o").arg(&stripped).arg(env!("CARGO_BIN_EXE_umld")).status();
    if !strip.is_ok_and(|s| s.success()) {
        std::fs::copy(env!("CARGO_BIN_EXE_umld"), &stripped).unwrap();
    }
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    std::fs::create_dir(w.path("uml")).unwrap();
    w.write("uml/inner.toml", INNER);
    for (from, to) in [
        (stripped, "/usr/bin/"),
        (w.path("uml"), "/etc/uml"),
        (units.join("uml.slice"), "/etc/systemd/system/"),
        (units.join("uml.target"), "/etc/systemd/system/"),
        (units.join("uml@.service"), "/etc/systemd/system/"),
        (units.join("umld.service"), "/etc/systemd/system/"),
        (units.join("umld.socket"), "/etc/systemd/system/"),
    ] {
        w.run(&["cp", from.to_str().unwrap(), &format!("sd:{to}")]).ok();
    }
    sh(
        &w,
        "mkdir -p /etc/systemd/system-generators && ln -s /usr/bin/umld /etc/systemd/system-generators/umld-generator",
    );
    sh(&w, "systemctl daemon-reload");
    Some(w)
}

#[track_caller]
fn sh(w: &World, script: &str) -> String {
    w.run(&["exec", "sd", "--", "bash", "-c", script]).ok()
}

fn property(w: &World, unit: &str, name: &str) -> String {
    sh(w, &format!("systemctl show -p {name} --value {unit}")).trim().to_owned()
}

#[test]
fn machines_and_the_daemon_are_services() {
    let Some(w) = guest() else { return };
    // The generator has made a unit of the file.
    assert_eq!(property(&w, "uml@inner", "UnitFileState"), "enabled-runtime");
    // Nothing is wrong with the units but that the guest has no manual pages.
    let verified = w.run(&[
        "exec",
        "sd",
        "--",
        "systemd-analyze",
        "verify",
        "uml@inner.service",
        "umld.service",
        "umld.socket",
        "uml.target",
    ]);
    let bad = verified.err.lines().find(|l| !l.is_empty() && !l.contains("Command 'man "));
    assert_eq!(bad, None, "{}", verified.err);

    // Start: the unit is active when the machine is up, and says so.
    sh(&w, "systemctl start uml@inner");
    assert_eq!(property(&w, "uml@inner", "ActiveState"), "active");
    assert!(property(&w, "uml@inner", "StatusText").starts_with("running, kernel pid "));
    assert_eq!(property(&w, "uml@inner", "Slice"), "uml.slice");
    assert_eq!(sh(&w, "umld exec inner -- echo from $((6*7))"), "from 42\n");
    let journal = sh(&w, "journalctl --sync; journalctl UMID=inner -o cat --no-pager");
    assert_eq!(journal.matches("start: pid").count(), 1, "{journal}");
    assert!(journal.contains("boot: after"), "{journal}");
    let unit = sh(&w, "journalctl -u uml@inner -o cat --no-pager");
    assert_eq!(unit.matches("start: pid").count(), 1, "said twice:\n{unit}");

    // Its limits are properties of the unit, which umld does not make again.
    let limits =
        [("MemoryMax", "314572800"), ("TasksMax", "60"), ("CPUQuotaPerSecUSec", "1.500000s")];
    for (name, value) in limits.into_iter().chain([("CPUWeight", "50")]) {
        assert_eq!(property(&w, "uml@inner", name), value, "{name}");
    }
    let status = sh(&w, "umld status inner");
    assert!(
        status.contains("properties of uml@inner.service: CPUQuota MemoryMax TasksMax"),
        "{status}"
    );
    // The guest's kernel has no weights, and that is said.
    assert!(status.contains("not enforced: cpu.weight"), "{status}");

    // A reboot is no end of anything, and is told.
    sh(&w, "umld exec inner -- sh -c 'echo b >/proc/sysrq-trigger'; true");
    let told = || sh(&w, "journalctl --sync; journalctl UMID=inner -o cat --no-pager");
    w.eventually("reboot", || told().contains("reboot"));
    assert_eq!(property(&w, "uml@inner", "NRestarts"), "0");

    // A crash is started again.
    let pid = || sh(&w, "umld status --json inner | grep '\"pid\":' | tr -dc 0-9");
    let first = pid();
    sh(&w, &format!("kill -9 {first}"));
    w.eventually("restart", || property(&w, "uml@inner", "NRestarts") == "1");
    w.eventually("activity", || property(&w, "uml@inner", "ActiveState") == "active");
    assert_ne!(pid(), first);

    // Stop and restart are orderly.
    sh(&w, "systemctl restart uml@inner && systemctl stop uml@inner");
    assert_eq!(property(&w, "uml@inner", "Result"), "success");
    assert!(sh(&w, "umld list").contains("stopped"));
    let journal = sh(&w, "journalctl --sync; journalctl UMID=inner -o cat --no-pager");
    assert_eq!(journal.matches("exit: halted by the kernel").count(), 2, "{journal}");

    // A switch that a member's unit brought up outlives that unit.
    sh(
        &w,
        "cd /root && printf '[fleet]\\ntemplate = \"/etc/uml/inner.toml\"\\nname = \"n{n}\"\\ncount = 2\\n\
         set.net = [{ switch = \"lan\" }]\\n[[switch]]\\nname = \"lan\"\\n' >fleet.toml && umld up && umld down",
    );
    let lan = |key: &str| {
        let text = sh(&w, "umld status --json -f /root/fleet.toml; true");
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        all.as_array().unwrap().iter().find(|s| s["kind"] == "switch").unwrap()[key].as_i64()
    };
    let ports = || lan("ports");
    for name in ["n1", "n2"] {
        sh(
            &w,
            &format!(
                "systemd-run --quiet --unit=member-{name} -p Type=notify -p NotifyAccess=main -p KillMode=mixed \
                 -p Environment=HOME=/root umld start --foreground {name}"
            ),
        );
    }
    w.eventually("both members", || ports() == Some(2));
    sh(&w, "systemctl stop member-n1");
    w.eventually("the other one", || ports() == Some(1));
    let scope = sh(&w, &format!("cat /proc/{}/cgroup", lan("pid").unwrap()));
    assert!(scope.contains("/uml.slice/") && scope.trim_end().ends_with(".scope"), "{scope}");
    sh(&w, "systemctl stop member-n2 && umld down -f /root/fleet.toml");
    assert_eq!(ports(), None);

    // The first caller starts the daemon, and what it starts outlives it.
    sh(&w, "systemctl start umld.socket");
    let call = "perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(Peer => \"/run/umld.sock\") or die $!; \
        print $s \"{\\\"method\\\":\\\"org.usermodelinux.Machines.List\\\"}\\0\"; $/ = \"\\0\"; print scalar <$s>'";
    assert!(sh(&w, call).contains("\"name\":\"inner\""));
    assert_eq!(property(&w, "umld.service", "StatusText"), "serving");
    // What has a unit is the unit's to start.
    assert!(sh(&w, "umld list").contains("stopped"));
    sh(&w, "umld start inner && systemctl stop umld.socket umld.service");
    assert!(sh(&w, "umld list").contains("running"));
    // A daemon that hangs is replaced.
    sh(
        &w,
        "mkdir -p /run/systemd/system/umld.service.d && printf '[Service]\\nWatchdogSec=2\\n' \
         >/run/systemd/system/umld.service.d/w.conf && systemctl daemon-reload && systemctl start umld.service",
    );
    let daemon = property(&w, "umld.service", "MainPID");
    sh(&w, &format!("kill -STOP {daemon}"));
    w.eventually("the watchdog", || property(&w, "umld.service", "NRestarts") == "1");
    w.eventually("activity", || property(&w, "umld.service", "ActiveState") == "active");
    assert!(sh(&w, "umld list").contains("running"));
    // SIGPWR stops all.
    sh(&w, "systemctl kill -s PWR --kill-whom=main umld.service");
    w.eventually("the end", || property(&w, "umld.service", "ActiveState") == "inactive");
    assert!(sh(&w, "umld list").contains("stopped"));
    w.run(&["rm", "--force", "sd"]).ok();
}
