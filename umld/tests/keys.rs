//! Every key of vm.toml(5): taken, refused with the place when it is wrong, and seen to do what it says.

mod common;
use std::collections::BTreeSet;
use std::path::Path;

use common::World;
use serde_json::Value;

/// Key, a right value, a wrong one, and words of the complaint. `{home}` is the test's directory.
const KEYS: &[(&str, &str, &str, &str)] = &[
    ("extends", "'base.toml'", "'nowhere.toml'", "there is no file"),
    ("vm.name", "'box'", "'a/b'", "cannot be a directory name"),
    ("vm.kernel", "'built-in'", "'nowhere'", "No such file"),
    ("vm.mem", "'64M'", "'3X'", "such as \"512M\""),
    ("vm.ncpus", "1", "0", "too few"),
    ("vm.cmdline", "'loglevel=7'", "3", "expected a string"),
    ("vm.seccomp", "'auto'", "'maybe'", "unknown value `maybe`"),
    ("vm.platform", "'ptrace'", "'kvm'", "unknown value `kvm`"),
    ("vm.hostfs", "'.'", "'nowhere'", "is not a directory"),
    ("disk.id", "'ubdc'", "'sda'", "ubda to ubdp"),
    ("disk.file", "'disk.img'", "'nowhere.img'", "there is no file"),
    ("disk.cow", "'c.cow'", "'nodir/c.cow'", "does not exist"),
    ("disk.readonly", "true", "'yes'", "expected a boolean"),
    ("disk.sync", "true", "1", "expected a boolean"),
    ("disk.trim", "false", "'off'", "expected a boolean"),
    ("disk.shared", "true", "'no'", "expected a boolean"),
    ("disk.serial", "'S-1'", "'a,b'", "without ',' and ':'"),
    ("net.id", "'vec3'", "'sda0'", "no such interface"),
    ("net.mode", "'none'", "'taps'", "did you mean \"tap\"?"),
    ("net.switch", "'lan'", "4", "expected a string"),
    ("net.mac", "'02:00:00:00:00:01'", "'zz'", "the address of a station"),
    ("net.ports", "['8080:80']", "['80']", "PORT:GUEST PORT"),
    ("net.address", "'10.0.2.20/24'", "'10.0.0.1'", "prefix length"),
    ("net.gateway", "'10.0.2.2'", "'x'", "without an `address`"),
    ("net.dns", "['10.0.2.3']", "['x']", "expected an address"),
    ("net.options", "{ mtu = '1400' }", "{ nett = '1' }", "did you mean \"net\"?"),
    ("console.id", "'con2'", "'con99'", "con0 to con15"),
    ("console.channel", "'null'", "'telepathy'", "expected held, null"),
    ("console.log", "false", "'no'", "expected a boolean"),
    ("console.log_max", "'4K'", "'big'", "such as \"512M\""),
    ("boot.root", "'host'", "'relative'", "expected /dev/ubda, \"host\""),
    ("boot.rootfstype", "'ext4'", "3", "expected a string"),
    ("boot.rootflags", "'noatime'", "3", "expected a string"),
    ("boot.readonly", "true", "'x'", "expected a boolean"),
    ("boot.overlay", "true", "'x'", "expected a boolean"),
    ("boot.init", "'/bin/sh'", "'sh'", "an absolute path in the guest"),
    ("boot.command", "['true']", "[]", "a program and its arguments"),
    ("boot.initrd", "'disk.img'", "'nowhere'", "there is no file"),
    ("boot.wait", "'port:80'", "'port:99999'", "none, boot, login, ready and port:N"),
    ("boot.timeout", "'5s'", "'soon'", "such as \"90s\""),
    ("stop.cad", "'1s'", "'soon'", "such as \"90s\""),
    ("stop.halt", "'1s'", "-1", "such as \"90s\""),
    ("stop.term", "'1s'", "'3 fortnights'", "such as \"90s\""),
    ("stop.kill", "'1s'", "'x'", "such as \"90s\""),
    ("resources.cpus", "'0'", "'0-'", "\"0-1,4\""),
    ("resources.cpu_weight", "50", "20000", "1 to 10000"),
    ("resources.cpu_max", "'150%'", "'150'", "\"150%\""),
    ("resources.memory_max", "'1G'", "'x'", "such as \"512M\""),
    ("resources.io_weight", "20", "0", "1 to 10000"),
    ("resources.tasks_max", "100", "0", "1 or more"),
    ("resources.numa", "0", "-1", "expected u32"),
    ("resources.tmpdir", "'.'", "'nowhere'", "is not a directory"),
    ("service.autostart", "true", "'yes'", "expected a boolean"),
    ("service.restart", "'always'", "'sometimes'", "unknown value `sometimes`"),
    ("service.restart_delay", "'1s'", "'x'", "such as \"90s\""),
    ("service.restart_delay_max", "'1s'", "'x'", "such as \"90s\""),
    ("service.restart_limit", "3", "-1", "expected u32"),
    ("service.restart_window", "'1s'", "'x'", "such as \"90s\""),
    ("service.after", "['other']", "['self']", "cannot wait for itself"),
    ("service.watchdog", "'30s'", "'0s'", "such as \"30s\""),
    ("guest.hostname", "'box'", "'a b'", "1 to 64 letters"),
    ("guest.env", "{ A = 'b' }", "{ 'A=B' = 'c' }", "cannot carry"),
    ("guest.files.path", "'/x'", "'x'", "an absolute path in the guest"),
    ("guest.files.content", "'x'", "3", "expected a string"),
    ("guest.files.source", "'base.toml'", "'nowhere'", "there is no file"),
    ("guest.files.mode", "'0600'", "'0999'", "octal permissions"),
];

/// The keys of the schema, as `table.key`.
fn keys(schema: &Value, of: &Value, prefix: &str, out: &mut BTreeSet<String>) {
    for (name, v) in of["properties"].as_object().unwrap() {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let refs =
            [&v["$ref"], &v["items"]["$ref"], &v["anyOf"][0]["$ref"], &v["allOf"][0]["$ref"]];
        let table = refs
            .iter()
            .find_map(|r| r.as_str())
            .and_then(|r| schema.pointer(r.trim_start_matches('#')))
            .filter(|d| d["properties"].is_object());
        match table {
            Some(t) => keys(schema, t, &path, out),
            None => drop(out.insert(path)),
        }
    }
}

/// A file with one key, and the line it is in.
fn file(key: &str, value: &str) -> (String, usize) {
    let Some((table, last)) = key.rsplit_once('.') else {
        return (format!("{key} = {value}\n"), 1);
    };
    let head = match (table, last) {
        ("disk", "file") => "[[disk]]\n",
        ("disk", _) => "[[disk]]\nfile = 'disk.img'\n",
        ("console", "id") => "[[console]]\n",
        ("console", _) => "[[console]]\nid = 'con1'\n",
        ("net", "gateway") if value != "'x'" => "[[net]]\naddress = '10.0.2.15/24'\n",
        ("net", _) => "[[net]]\n",
        ("resources", "tmpdir") => {
            "[vm]\nkernel = '/bin/sh'\n[[disk]]\nfile = 'disk.img'\n[resources]\n"
        }
        // Of a root on the host it would take the most part.
        ("vm", "hostfs") => "[[disk]]\nfile = 'disk.img'\n[vm]\n",
        ("guest.files", "path") => "[[guest.files]]\ncontent = 'x'\n",
        ("guest.files", "mode") => "[[guest.files]]\npath = '/x'\ncontent = 'x'\n",
        ("guest.files", _) => "[[guest.files]]\npath = '/x'\n",
        ("boot", "rootfstype" | "rootflags" | "readonly" | "initrd") => {
            "[[disk]]\nfile = 'disk.img'\n[boot]\n"
        }
        (t, _) => return (format!("[{t}]\n{last} = {value}\n"), 2),
    };
    (format!("{head}{last} = {value}\n"), head.lines().count() + 1)
}

#[test]
fn every_key_is_taken_and_refused_with_its_place() {
    let w = World::new();
    w.write("base.toml", "");
    std::fs::File::create(w.path("disk.img")).unwrap().set_len(1 << 20).unwrap();
    let schema = w.json(&["schema"]);
    let mut known = BTreeSet::new();
    keys(&schema, &schema, "", &mut known);
    let tried: BTreeSet<String> = KEYS.iter().map(|k| k.0.to_owned()).collect();
    assert_eq!(known, tried, "a key of the schema is not tried, or one is tried that there is not");
    let manual = w.run(&["manual", "vm.toml.5"]).ok();
    for (key, right, wrong, words) in KEYS {
        w.write("self.toml", &file(key, right).0);
        // Needs the fleet that has the switch.
        let done = w.run(&["check", "self.toml"]);
        match *key {
            "net.switch" => assert_ne!(done.status, 2, "{done:?}"),
            _ => drop(done.ok()),
        }
        let (text, line) = file(key, wrong);
        w.write("self.toml", &text);
        let err = w.run(&["check", "self.toml"]).fails(78);
        assert!(err.contains(&format!("self.toml:{line}:")), "{key}: {err}");
        assert!(err.contains(words), "{key}: {err}");
        // The line, and a caret below it.
        assert!(
            err.contains(&format!("{line} | {}", text.lines().nth(line - 1).unwrap())),
            "{err}"
        );
        assert!(err.lines().any(|l| l.trim_start().starts_with('|') && l.contains('^')), "{err}");
        let shown = key.split_once('.').map_or(*key, |k| k.1);
        assert!(manual.contains(&format!(".B {shown}\n")), "{key} is not in vm.toml(5)");
    }
}

#[test]
fn files_extend_each_other_over_levels_and_directories() {
    let w = World::new();
    for d in ["site", "site/hosts"] {
        std::fs::create_dir(w.path(d)).unwrap();
    }
    for f in ["site/common.img", "site/hosts/own.img"] {
        std::fs::File::create(w.path(f)).unwrap().set_len(1 << 20).unwrap();
    }
    w.write(
        "site/base.toml",
        "[vm]\nmem = '1G'\nncpus = 4\n[[disk]]\nid = 'ubda'\nfile = 'common.img'\nreadonly = true\n[[net]]\nid = 'vec0'\n\
         [boot]\ninit = '/bin/sh'\ntimeout = '7s'\n[guest.env]\nA = '1'\nB = '1'\n[service]\nafter = ['db']\n",
    );
    w.write(
        "site/hosts/kind.toml",
        "extends = '../base.toml'\n[vm]\nmem = '256M'\n[[disk]]\nid = 'ubda'\nserial = 'common'\n[[disk]]\nid = 'ubdb'\nfile = 'own.img'\n\
         [guest.env]\nB = '2'\n",
    );
    w.write(
        "web.toml",
        "extends = 'site/hosts/kind.toml'\n[vm]\nncpus = 1\n[[net]]\nid = 'vec0'\nmode = 'none'\n[guest.env]\nC = '3'\n\
         [service]\nafter = []\n",
    );
    let v = w.json(&["explain", "--json", "web.toml"]);
    let words: Vec<&str> =
        v["arguments"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let disk = |name: &str| w.path(name).display().to_string();
    for word in [
        "umid=web".to_owned(),
        "mem=256M".into(),
        "ncpus=1".into(),
        "A=1".into(),
        "B=2".into(),
        "C=3".into(),
        format!("ubd1={}", disk("site/hosts/own.img")),
    ] {
        assert!(words.contains(&word.as_str()), "{word} in {words:?}");
    }
    let first = words.iter().find(|x| x.starts_with("ubd0")).unwrap();
    assert!(first.starts_with("ubd0r") && first.contains(&disk("site/common.img")), "{first}");
    assert!(first.contains("common"), "{first}");
    assert!(!words.iter().any(|x| x.starts_with("vec0")), "{words:?}");
    // What is wrong two levels above is shown there.
    w.write("site/base.toml", "[vm]\nmem = '1G'\nncpu = 4\n");
    let err = w.run(&["check", "web.toml"]).fails(78);
    assert!(err.contains("base.toml:3:1: unknown key `ncpu`; did you mean `ncpus`?"), "{err}");
    w.write("site/base.toml", "extends = '../web.toml'\n");
    assert!(w.run(&["check", "web.toml"]).fails(78).contains("extend itself"));
}

/// Flags (octal, fdinfo) with which a process has a file open.
fn flags_of(pid: i32, file: &Path) -> Option<u64> {
    for e in std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        if std::fs::read_link(e.path()).is_ok_and(|l| l == file) {
            let info = format!("/proc/{pid}/fdinfo/{}", e.file_name().to_string_lossy());
            let text = std::fs::read_to_string(info).ok()?;
            let flags = text.lines().find_map(|l| l.strip_prefix("flags:"))?;
            return u64::from_str_radix(flags.trim(), 8).ok();
        }
    }
    None
}

#[test]
fn a_machine_with_many_keys_has_what_they_say() {
    let w = World::new();
    for n in ["plain.img", "sync.img", "ro.img", "keep.img"] {
        std::fs::File::create(w.path(n)).unwrap().set_len(4 << 20).unwrap();
    }
    w.write("note", "from a file");
    w.write(
        "box.toml",
        "[vm]\nmem = '64M'\nncpus = 2\n\
         [[disk]]\nfile = 'plain.img'\nserial = 'S-1'\n[[disk]]\nfile = 'sync.img'\nsync = true\n\
         [[disk]]\nid = 'ubdg'\nfile = 'ro.img'\nreadonly = true\n[[disk]]\nid = 'ubdh'\nfile = 'keep.img'\ntrim = false\nshared = true\n\
         [[console]]\nid = 'con1'\nlog = false\n[[console]]\nid = 'con2'\nlog_max = '4K'\n\
         [boot]\nroot = 'host'\ntimeout = '110s'\ncommand = ['sh', '-c', 'echo quiet >/dev/tty1; i=0; while [ $i -lt 300 ]; do i=$((i + 1)); echo \"line $i of many\" >/dev/tty2; done; echo ready >/proc/mconsole; exec sleep 1000']\nwait = 'ready'\n\
         [stop]\ncad = '0'\nhalt = '0'\nterm = '0'\nkill = '20s'\n\
         [resources]\ncpus = '0'\nnuma = 0\ncpu_weight = 50\nio_weight = 20\nmemory_max = '1G'\ntasks_max = 5000\ncpu_max = '900%'\n\
         [guest]\nhostname = 'named'\nenv = { COLOUR = 'blue' }\n\
         [[guest.files]]\npath = '/etc/note'\nsource = 'note'\nmode = '0604'\n[[guest.files]]\npath = '/etc/other'\ncontent = 'text'\n",
    );
    let done = w.run(&["start", "box.toml"]);
    if done.err.contains("no NUMA node 0") {
        return eprintln!("skipped: this host tells nothing of NUMA nodes");
    }
    done.ok();
    let sh = |script: &str| w.run(&["exec", "box", "--", "sh", "-c", script]).ok();
    assert_eq!(
        sh("hostname; tr '\\0' '\\n' </proc/1/environ | grep COLOUR"),
        "named\nCOLOUR=blue\n"
    );
    assert_eq!(
        sh("cat /etc/note /etc/other; stat -c ' %a' /etc/note /etc/other"),
        "from a filetext 604\n 644\n"
    );
    assert_eq!(
        sh("cat /sys/block/ubda/serial 2>/dev/null || cat /sys/block/ubda/device/serial").trim(),
        "S-1"
    );
    assert_eq!(sh("cat /sys/block/ubdg/ro /sys/block/ubda/ro"), "1\n0\n");
    assert_eq!(
        sh(
            "for d in a h; do [ $(cat /sys/block/ubd$d/queue/discard_max_bytes) -gt 0 ] && echo yes || echo no; done"
        ),
        "yes\nno\n"
    );
    let pid = w.pid("box");
    const O_SYNC: u64 = 0o4_010_000;
    let flags = |n: &str| flags_of(pid, &w.path(n).canonicalize().unwrap()).unwrap();
    assert_eq!((flags("sync.img") & O_SYNC, flags("plain.img") & O_SYNC), (O_SYNC, 0));
    assert_eq!((flags("ro.img") & 3, flags("plain.img") & 3), (0, 2));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    // Each limit is enforced by something that is named, or said not to be.
    let limits = w.status("box")["resources"].as_str().unwrap().to_owned();
    assert!(limits.contains("affinity"), "{limits}");
    assert!(limits.contains("cgroup"), "{limits}");

    let logs = w.path(".uml/.umld/box");
    assert!(!logs.join("con1.log").exists() && logs.join("con2.log.1").exists());
    assert!(std::fs::metadata(logs.join("con2.log")).unwrap().len() <= 4096);
    assert_eq!(w.run(&["stop", "box"]).ok(), "box: ended by SIGKILL\n");
}
