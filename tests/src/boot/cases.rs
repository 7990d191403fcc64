//! The cases.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::{Command, Stdio};

use crate::Outcome;
use crate::images::{self, Image};
use crate::machine::{Bench, End};
use crate::packages;

type Case = fn(&Bench) -> Result<Outcome, String>;

/// Every case by name, in the order they run.
pub const ALL: &[(&str, Case)] = &[
    ("information", information),
    ("bad-options", bad_options),
    ("hostfs-root", hostfs_root),
    ("exit-code", exit_code),
    ("init-dies", init_dies),
    ("reboot", reboot),
    ("noreboot", noreboot),
    ("termination", termination),
    ("root-wait", root_wait),
    ("umid", umid),
    ("bad-images", bad_images),
    ("bad-programs", bad_programs),
    ("bad-consoles", bad_consoles),
    ("host-limits", host_limits),
    ("clock-set", clock_set),
    ("initrd", initrd),
    ("bad-initrd", bad_initrd),
    ("debian-raw", debian_raw),
    ("debian-cow", debian_cow),
    ("debian-hostfs", debian_hostfs),
    ("busybox-init", busybox_init),
    ("installation-killed", packages::installation_killed),
    ("sysvinit-login", sysvinit_login),
    ("systemd-login", systemd_login),
    ("systemd-reboot", systemd_reboot),
];

/// Arguments of a machine whose root is the host's own, read-only, with a shell as init.
const SHELL: [&str; 8] = [
    "mem=128M",
    "con=null",
    "con0=fd:0,fd:1",
    "root=/dev/root",
    "rootfstype=hostfs",
    "rootflags=/",
    "ro",
    "init=/bin/sh",
];

/// A machine that runs one script with the host's shell.
fn script(b: &Bench, more: &[&str], text: &str) -> Result<End, String> {
    let quoted = format!("\"{text}\"");
    let mut args = SHELL.to_vec();
    args.extend_from_slice(more);
    args.extend(["--", "-c", &quoted]);
    b.run(&args)
}

/// Ends the machine from a shell without any helper program.
const OFF: &str = "mount -t proc proc /proc; echo o > /proc/sysrq-trigger; sleep 60";

fn passed(_: ()) -> Outcome {
    Outcome::Passed
}

fn information(b: &Bench) -> Result<Outcome, String> {
    for (arg, wanted) in [
        ("--version", "."),
        ("--versionfoo", "."),
        ("--help", "mem=<"),
        ("--help=1", "User Mode Linux v"),
        ("--showconfig", "CONFIG_UML=y"),
    ] {
        b.run(&[arg])?.expect(0, &[wanted])?;
        b.run(&["x", arg])?.expect(0, &[wanted])?;
    }
    Ok(Outcome::Passed)
}

fn bad_options(b: &Bench) -> Result<Outcome, String> {
    b.run(&["mem=abc"])?.expect(1, &["Too few physical memory!"])?;
    b.run(&["mem=1M"])?.expect(1, &["Too few physical memory!", "given=1048576"])?;
    b.run(&["seccomp=foo"])?.expect(1, &["Invalid seccomp option 'foo', expected on/auto/off"])?;
    let long = "x".repeat(5000);
    b.run(&[&long])?.expect(1, &["add_arg: Too many command line arguments!"])?;
    let e = script(b, &["mem=9999999999G", "udbx=1", "fake_ide", "hostfs=/,loud"], OFF)?;
    e.expect(
        0,
        &[
            "Physical memory size shrunk to",
            "almost certainly a ubd -> udb TYPO",
            "The fake_ide option has been removed",
            "hostfs_args - unsupported option - loud",
        ],
    )?;
    script(b, &["quiet"], OFF)?.expect(0, &[]).map(passed)
}

fn hostfs_root(b: &Bench) -> Result<Outcome, String> {
    let text = "mount -t proc proc /proc; cat /proc/cpuinfo; systemd-detect-virt; dmesg | tail -n 3; \
                echo o > /proc/sysrq-trigger; sleep 60";
    let e = script(b, &[], text)?;
    e.expect(
        0,
        &[
            "Linux version",
            "Kernel command line:",
            "Initialized stdio console driver",
            "VFS: Mounted root (hostfs filesystem) readonly",
            "Run /bin/sh as init process",
            "User Mode Linux",
        ],
    )
    .map(passed)
}

fn exit_code(b: &Bench) -> Result<Outcome, String> {
    let text = "mount -t proc proc /proc; echo 7 > /proc/exitcode; cat /proc/exitcode; \
                echo o > /proc/sysrq-trigger; sleep 60";
    script(b, &[], text)?.expect(7, &[]).map(passed)
}

fn init_dies(b: &Bench) -> Result<Outcome, String> {
    script(b, &["umid=dies", "panic=1"], "exit 3")?.expect(
        134,
        &["Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300"],
    )?;
    b.expect_panic_directory("dies")?;
    let mut args = SHELL.to_vec();
    args[5] = "rootflags=/no/such/directory";
    args.push("umid=root");
    b.run(&args)?.expect(134, &["Kernel panic - not syncing: VFS: Unable to mount root fs"])?;
    b.expect_panic_directory("root").map(passed)
}

/// `echo b` of SysRq reboots; the second life finds a file that the first one made and powers off.
fn twice(b: &Bench) -> String {
    let mark = b.dir.join("mark");
    format!(
        "mount -t proc proc /proc; if [ -e {m} ]; then echo o; else : > {m}; echo b; fi > /proc/sysrq-trigger; sleep 60",
        m = mark.display()
    )
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

fn writable(more: &[&'static str]) -> Vec<&'static str> {
    let mut v = vec!["rw"];
    v.extend_from_slice(more);
    v
}

fn reboot(b: &Bench) -> Result<Outcome, String> {
    let e = script(b, &writable(&[]), &twice(b))?;
    e.expect(0, &[])?;
    match count(&e.text, "Run /bin/sh as init process") {
        2 => Ok(Outcome::Passed),
        n => Err(format!("the machine came up {n} times instead of twice:\n{}", e.text)),
    }
}

fn noreboot(b: &Bench) -> Result<Outcome, String> {
    let e = script(b, &writable(&["noreboot"]), &twice(b))?;
    e.expect(0, &[])?;
    match count(&e.text, "Run /bin/sh as init process") {
        1 => Ok(Outcome::Passed),
        n => Err(format!("the machine came up {n} times instead of once")),
    }
}

fn termination(b: &Bench) -> Result<Outcome, String> {
    for signal in ["-TERM", "-INT"] {
        let (r, w) = std::io::pipe().map_err(|e| e.to_string())?;
        let mut args = SHELL.to_vec();
        args.extend(["umid=t", "--", "-c", "\"echo up; sleep 1000\""]);
        let mut c = b.command(&args);
        c.stdin(Stdio::null()).stdout(w).stderr(Stdio::null());
        let mut child = c.spawn().map_err(|e| e.to_string())?;
        drop(c);
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(r));
        if !lines.by_ref().map_while(Result::ok).any(|l| l.trim_end() == "up") {
            return Err("the machine did not come up".into());
        }
        let pid = child.id().to_string();
        Command::new("kill").args([signal, &pid]).status().map_err(|e| e.to_string())?;
        let status = b.wait(&mut child)?;
        if status != 1 {
            return Err(format!("{signal}: status {status} instead of 1"));
        }
    }
    Ok(Outcome::Passed)
}

/// A machine whose root is still to come hears signals and its management console, and goes on when the disk is there.
fn root_wait(b: &Bench) -> Result<Outcome, String> {
    fs::write(b.dir.join("garbage.img"), [0x5a; 300_000]).map_err(|e| e.to_string())?;
    let begin = |umid: &str| -> Result<_, String> {
        let (r, w) = std::io::pipe().map_err(|e| e.to_string())?;
        let args = ["mem=64M", umid, "con=null", "con0=null,fd:1", "root=/dev/ubdb", "rootwait"];
        let mut c = b.command(&args);
        c.stdin(Stdio::null()).stdout(w).stderr(Stdio::null());
        let child = c.spawn().map_err(|e| e.to_string())?;
        drop(c);
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(r)).map_while(Result::ok);
        if !lines.by_ref().any(|l| l.contains("Waiting for root device 98:16")) {
            return Err("the machine did not wait for its root".into());
        }
        Ok((child, lines))
    };
    let (mut child, lines) = begin("umid=late")?;
    let client = std::env::current_exe().map_err(|e| e.to_string())?.with_file_name("uml_mconsole");
    let config = format!("ubd1={}", b.dir.join("garbage.img").display());
    for words in [&["version"][..], &["config", &config]] {
        let mut c = Command::new(&client);
        c.arg("late").args(words).current_dir(&b.dir).env("HOME", b.dir.join("home"));
        let out = c.output().map_err(|e| format!("{}: {e}", client.display()))?;
        if !out.status.success() {
            return Err(format!("{words:?}: {}", String::from_utf8_lossy(&out.stderr)));
        }
    }
    // No filesystem is on it: the way it ends shows that it was tried.
    let all: Vec<String> = lines.collect();
    if !all.iter().any(|l| l.contains("Unable to mount root fs on unknown-block(98,16)")) {
        return Err(format!("the root was not tried: {all:?}"));
    }
    let status = b.wait(&mut child)?;
    if status != 134 {
        return Err(format!("status {status} instead of 134"));
    }
    b.expect_panic_directory("late")?;
    let (mut child, _lines) = begin("umid=never")?;
    let pid = child.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().map_err(|e| e.to_string())?;
    match b.wait(&mut child)? {
        1 => Ok(Outcome::Passed),
        n => Err(format!("-TERM: status {n} instead of 1")),
    }
}

fn umid(b: &Bench) -> Result<Outcome, String> {
    let long = format!("umid={}", "u".repeat(64));
    script(b, &[&long], OFF)?.expect(0, &["a random umid is used"])?;
    script(b, &["umid=a", "umid=b"], OFF)?.expect(0, &["umid already set"])?;
    script(b, &["uml_dir="], OFF)?.expect(0, &["uml_dir can't be an empty string"])?;
    script(b, &["uml_dir=/no/such/place/"], OFF)?.expect(0, &["/no/such/place"]).map(passed)
}

fn bad_images(b: &Bench) -> Result<Outcome, String> {
    let put =
        |name: &str, bytes: &[u8]| fs::write(b.dir.join(name), bytes).map_err(|e| e.to_string());
    put("garbage.img", &[0x5a; 300_000])?;
    put("short.img", b"x")?;
    put("empty.img", b"")?;
    // The magic number of a COW file and nothing that belongs to it.
    put("cow.img", b"OOOM\0\0\0\x02")?;
    for (n, disk) in
        ["none.img", "garbage.img", "short.img", "empty.img", "cow.img"].iter().enumerate()
    {
        let umid = format!("i{n}");
        let (d, u) = (format!("ubd0={disk}"), format!("umid={umid}"));
        let e = b.run(&["mem=64M", "con=null", "con0=fd:0,fd:1", &d, &u, "root=/dev/ubda"])?;
        e.expect(134, &["Kernel panic - not syncing: VFS:"])?;
        b.expect_panic_directory(&umid)?;
    }
    Ok(Outcome::Passed)
}

fn bad_programs(b: &Bench) -> Result<Outcome, String> {
    let put = |name: &str, bytes: &[u8]| {
        use std::os::unix::fs::PermissionsExt;
        let p = b.dir.join(name);
        fs::write(&p, bytes).map_err(|e| e.to_string())?;
        fs::set_permissions(&p, fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())
    };
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(4096, 0xff);
    put("elf", &elf)?;
    put("cut", b"\x7fELF\x02\x01\x01\0\0\0")?;
    put("script", b"#!/no/such/interpreter\n")?;
    put("bytes", &[0x80; 64])?;
    for (n, (file, wanted)) in [
        ("elf", "failed (error -8"),
        ("cut", "failed (error -8"),
        ("script", "failed (error -2"),
        ("bytes", "failed (error -8"),
        ("missing", "failed (error -2"),
    ]
    .iter()
    .enumerate()
    {
        let umid = format!("p{n}");
        let (i, u) = (format!("init={}", b.dir.join(file).display()), format!("umid={umid}"));
        let mut args = SHELL.to_vec();
        args.pop();
        args.extend([i.as_str(), u.as_str()]);
        b.run(&args)?
            .expect(134, &["Requested init", wanted])
            .map_err(|e| format!("{file}: {e}"))?;
        b.expect_panic_directory(&umid)?;
    }
    Ok(Outcome::Passed)
}

fn bad_consoles(b: &Bench) -> Result<Outcome, String> {
    for (option, wanted) in [
        ("con1=fd:99", "99"),
        ("con1=fd", "must specify a file descriptor"),
        ("con1=nonsense", "failed to parse channel pair"),
        ("con99=null", "Device number out of range"),
        ("ssl1=port", "must specify a port number"),
    ] {
        let text = format!("(: < /dev/tty1); {OFF}");
        script(b, &[option], &text)?.expect(0, &[wanted]).map_err(|e| format!("{option}: {e}"))?;
    }
    // Closed before the kernel began: neither silence nor another file under that number.
    let mut c = Command::new("sh");
    c.args(["-c", "exec \"$@\" <&- >&-", "sh"]).arg(b.dir.join("linux"));
    c.args(["con=null", "con0=fd:0,fd:1", "mem=64M"])
        .current_dir(&b.dir)
        .env("HOME", b.dir.join("home"));
    let said = [
        "Virtual console 0: cannot open descriptor 0: Bad file number",
        "kmsg_dump:",
        "Cannot open root device",
    ];
    let end = b.finish(c)?;
    let _ = fs::remove_dir_all(b.dir.join("home/.uml"));
    end.expect(134, &said)?;
    Ok(Outcome::Passed)
}

/// Maps pages that cannot be joined until it is refused, gives them back and goes on: what is left says `alive`.
const MAPS: &str = "import mmap, sys
held = []
try:
    for i in range(100000):
        held.append(mmap.mmap(-1, 4096, flags=FLAGS, prot=mmap.PROT_READ | (i % 2) * mmap.PROT_WRITE))
except OSError as e:
    n = len(held)
    held = held[:10]
    print('errno', e.errno, 'alive', len(open('/proc/self/maps').readlines()) > 10, 'many', n > 60000)
";

/// A machine that cannot have what it needs says which limit of the host that is and what raises it, and ends; one that cannot have
/// more says so and goes on. None hangs, dies of a signal or leaves a process behind.
fn host_limits(b: &Bench) -> Result<Outcome, String> {
    let run = |wrapper: &[&str], text: &str| -> Result<End, String> {
        let mut c = Command::new(wrapper[0]);
        let quoted = format!("\"{text}\"");
        c.args(&wrapper[1..]).arg(b.dir.join("linux")).args(SHELL).args(["--", "-c", &quoted]);
        c.current_dir(&b.dir).env("HOME", b.dir.join("home"));
        let e = b.finish(c)?;
        let _ = fs::remove_dir_all(b.dir.join("home/.uml"));
        Ok(e)
    };
    run(&["prlimit", "--nofile=8"], OFF)?
        .expect(134, &["limit on open descriptors", "ulimit -n"])?;
    run(&["prlimit", "--nofile=64"], OFF)?.expect(0, &[])?;
    run(&["prlimit", "--fsize=10000"], OFF)?
        .expect(1, &["limit on the size of files is 9 KiB", "ulimit -f"])?;
    // With more than this the ptrace backend may find room.
    run(&["prlimit", "--as=15000000"], OFF)?
        .expect(1, &["limit on address space in MiB", "of 14", "ulimit -v"])?;
    // Shared memory takes a descriptor each; what programs see is a shortage of memory.
    for (limit, flags, said) in [
        ("--nofile=200", "mmap.MAP_SHARED", "errno 12 alive True many False"),
        ("--nofile=4096", "mmap.MAP_PRIVATE", "errno 12 alive True many True"),
    ] {
        let script = MAPS.replace("FLAGS", flags);
        fs::write(b.dir.join("maps.py"), script).map_err(|e| e.to_string())?;
        let text = format!(
            "mount -t proc proc /proc; /usr/bin/python3 {}; {OFF}",
            b.dir.join("maps.py").display()
        );
        run(&["prlimit", limit], &text)?.expect(0, &[said])?;
    }
    // The limit on processes is not one on root.
    if fs::metadata("/proc/self").map_or(1, |m| m.uid()) != 0 {
        return Ok(Outcome::Skipped("not root: no user of its own to limit".into()));
    }
    let uid = "61234";
    for d in ["", "home"] {
        chown(b.dir.join(d), Some(61234), None).map_err(|e| e.to_string())?;
    }
    let as_user = |limit: &str, text: &str| {
        let limit = format!("--nproc={limit}");
        run(&["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "prlimit", &limit], text)
    };
    as_user("1", OFF)?.expect(1, &["processes and threads is used up", "ulimit -u"])?;
    // Enough to boot, and not for sixty more.
    let bomb = format!(
        "mount -t proc proc /proc; (for i in $(seq 60); do sleep 1000 & done); echo alive; {}",
        "echo o > /proc/sysrq-trigger; while :; do :; done"
    );
    let told = "no new task: the host's limit on the user's processes and threads";
    as_user("60", &bomb)?.expect(0, &["alive", told])?;
    Ok(Outcome::Passed)
}

/// Files have the time of the guest's own clock.
fn clock_set(b: &Bench) -> Result<Outcome, String> {
    let text = format!(
        "mount -t tmpfs t /tmp; date -u -s @1000000000 +%Y; echo > /tmp/file; stat -c 'stamp %.9Y' /tmp/file; {OFF}"
    );
    script(b, &[], &text)?.expect(0, &["2001", "stamp 100000000"]).map(passed)
}

/// A cpio archive of format newc.
fn cpio(members: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let end = [("TRAILER!!!", 0, &b""[..])];
    for (n, (name, mode, data)) in members.iter().chain(&end).enumerate() {
        let fields = [
            n as u32 + 1,
            *mode,
            0,
            0,
            1,
            0,
            data.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        out.extend_from_slice(b"070701");
        for f in fields {
            out.extend_from_slice(format!("{f:08X}").as_bytes());
        }
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

fn initrd(b: &Bench) -> Result<Outcome, String> {
    let (dir, _) = match images::get(Image::Minbase) {
        Ok(i) => i,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let Ok(busybox) = fs::read(dir.join("bin/busybox")) else {
        return Ok(Outcome::Skipped("the minbase image has no busybox".into()));
    };
    let init = b"#!/bin/busybox sh\n/bin/busybox echo from the archive $0\n/bin/busybox mount -t proc proc /proc\n\
                 /bin/busybox poweroff -f\n";
    let members: [(&str, u32, &[u8]); 4] = [
        ("bin", 0o40755, b""),
        ("proc", 0o40755, b""),
        ("bin/busybox", 0o100755, &busybox),
        ("init", 0o100755, init),
    ];
    let plain = b.dir.join("plain.cpio");
    fs::write(&plain, cpio(&members)).map_err(|e| e.to_string())?;
    let packed =
        Command::new("gzip").arg("-k").arg(&plain).status().map_err(|e| format!("gzip: {e}"))?;
    if !packed.success() {
        return Err("gzip failed".into());
    }
    for file in ["plain.cpio", "plain.cpio.gz"] {
        let arg = format!("initrd={file}");
        let e = b.run(&["mem=128M", "con=null", "con0=fd:0,fd:1", &arg])?;
        e.expect(0, &["Run /init as init process", "from the archive /init"])
            .map_err(|e| format!("{file}: {e}"))?;
    }
    Ok(Outcome::Passed)
}

fn bad_initrd(b: &Bench) -> Result<Outcome, String> {
    fs::write(b.dir.join("empty"), b"").map_err(|e| e.to_string())?;
    fs::write(b.dir.join("garbage"), [7; 1000]).map_err(|e| e.to_string())?;
    for (file, wanted) in [
        ("missing", "Couldn't stat \"missing\" : err = 2"),
        ("empty", "\"empty\" is empty"),
        ("garbage", "Initramfs unpacking failed"),
    ] {
        // The boot goes on with the usual root.
        let arg = format!("initrd={file}");
        script(b, &[&arg], OFF)?.expect(0, &[wanted, "Run /bin/sh"])?;
    }
    Ok(Outcome::Passed)
}

const CON: [&str; 3] = ["mem=512M", "con=null", "con0=fd:0,fd:1"];

/// Work in a shell on a Debian image, and the way out.
const WORK: &[(&str, &str)] = &[
    ("# ", "mount -t proc proc /proc; dpkg -l | tail -n 1; echo $((6 * 7)) | tee /root/answer"),
    (
        "42",
        "cat /root/answer; echo done $((1 + 1)); mount -o remount,ro /; echo o > /proc/sysrq-trigger; sleep 60",
    ),
    ("done 2", ""),
];

fn on_minbase(
    b: &Bench,
    run: impl FnOnce(&str, &str) -> Result<(), String>,
) -> Result<Outcome, String> {
    match images::get(Image::Minbase) {
        Ok((dir, image)) => {
            let own = b.dir.join("fs.img");
            images::copy(&image, &own)?;
            run(&dir.to_string_lossy(), &own.to_string_lossy()).map(passed)
        }
        Err(why) => Ok(Outcome::Skipped(why)),
    }
}

fn debian_raw(b: &Bench) -> Result<Outcome, String> {
    on_minbase(b, |_, image| {
        let disk = format!("ubd0={image}");
        let mut args = CON.to_vec();
        args.extend([disk.as_str(), "root=/dev/ubda", "rw", "init=/bin/bash"]);
        b.talk(&args, WORK)?.expect(0, &["VFS: Mounted root (ext4 filesystem) on device 98:0."])?;
        let check = Command::new("e2fsck")
            .args(["-fn", image])
            .output()
            .map_err(|e| format!("e2fsck: {e}"))?;
        if check.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&check.stdout).into_owned())
        }
    })
}

fn debian_cow(b: &Bench) -> Result<Outcome, String> {
    on_minbase(b, |_, image| {
        let before = fs::metadata(image).and_then(|m| m.modified()).map_err(|e| e.to_string())?;
        let disk = format!("ubd0=own.cow,{image}");
        let mut args = CON.to_vec();
        args.extend([disk.as_str(), "root=/dev/ubda", "rw", "init=/bin/bash"]);
        b.talk(&args, WORK)?.expect(0, &["Creating \"own.cow\" as COW file for"])?;
        // What was written is in the COW file, and found again through it alone.
        let mut args = CON.to_vec();
        args.extend(["ubd0=own.cow", "root=/dev/ubda", "rw", "init=/bin/bash"]);
        let look = [
            (
                "# ",
                "cat /root/answer; mount -t proc proc /proc; mount -o remount,ro /; echo o > /proc/sysrq-trigger; sleep 60",
            ),
            ("42", ""),
        ];
        b.talk(&args, &look)?.expect(0, &[])?;
        let after = fs::metadata(image).and_then(|m| m.modified()).map_err(|e| e.to_string())?;
        if before == after { Ok(()) } else { Err("the backing file was written to".into()) }
    })
}

fn debian_hostfs(b: &Bench) -> Result<Outcome, String> {
    on_minbase(b, |dir, _| {
        let flags = format!("rootflags={dir}");
        let mut args = CON.to_vec();
        args.extend(["root=/dev/root", "rootfstype=hostfs", &flags, "ro", "init=/bin/bash"]);
        let script = [
            (
                "# ",
                "mount -t proc proc /proc; cat /etc/debian_version; echo done $((1 + 1)); echo o > /proc/sysrq-trigger; sleep 60",
            ),
            ("done 2", ""),
        ];
        b.talk(&args, &script)?.expect(0, &["VFS: Mounted root (hostfs filesystem)"])
    })
}

fn busybox_init(b: &Bench) -> Result<Outcome, String> {
    let has = |i: &(std::path::PathBuf, std::path::PathBuf)| i.0.join("bin/busybox").exists();
    if images::get(Image::Minbase).as_ref().is_ok_and(|i| !has(i)) {
        return Ok(Outcome::Skipped("the cached minbase image has no busybox".into()));
    }
    on_minbase(b, |_, image| {
        let disk = format!("ubd0={image}");
        let link = [(
            "# ",
            "ln -s /bin/busybox /sbin/init; mount -t proc proc /proc; mount -o remount,ro /; echo o > /proc/sysrq-trigger; sleep 60",
        )];
        let mut args = CON.to_vec();
        args.extend([disk.as_str(), "root=/dev/ubda", "rw", "init=/bin/bash"]);
        b.talk(&args, &link)?.expect(0, &[])?;
        let mut args = CON.to_vec();
        args.extend([disk.as_str(), "root=/dev/ubda", "rw"]);
        let script = [
            ("activate this console", ""),
            ("# ", "echo pid $PPID; busybox poweroff"),
            ("pid 1", ""),
        ];
        b.talk(&args, &script)?.expect(0, &["Run /sbin/init as init process"])
    })
}

/// Logs in on the console of an image and runs `commands`, of which the last ends the machine.
fn login(b: &Bench, image: Image, script: &[(&str, &str)]) -> Result<Result<End, String>, String> {
    let (_, master) = match images::get(image) {
        Ok(i) => i,
        Err(why) => return Ok(Err(why)),
    };
    images::copy(&master, &b.dir.join("fs.img"))?;
    let mut args = CON.to_vec();
    args.extend(["ubd0=fs.img", "root=/dev/ubda", "rw"]);
    let mut all = vec![("login: ", "root"), ("assword: ", "root")];
    all.extend_from_slice(script);
    b.talk(&args, &all).map(Ok)
}

fn sysvinit_login(b: &Bench) -> Result<Outcome, String> {
    let script = [("# ", "runlevel; id -u; echo done $((40 + 2))"), ("done 42", "poweroff")];
    match login(b, Image::Sysvinit, &script)? {
        Ok(e) => e.expect(0, &["N 2"]).map(passed),
        Err(why) => Ok(Outcome::Skipped(why)),
    }
}

fn systemd_login(b: &Bench) -> Result<Outcome, String> {
    let script = [
        (
            "# ",
            "systemctl is-system-running --wait; systemctl --failed --no-legend --no-pager; systemd-detect-virt; echo done $((40 + 2))",
        ),
        // A limit of a unit's memory kills what exceeds it, and systemd is told.
        (
            "done 42",
            "mkdir -p /run/systemd/system; printf '[Service]\\nType=oneshot\\nMemoryMax=40M\\nExecStart=tail /dev/zero\\n' >/run/systemd/system/eater.service; systemctl daemon-reload; \
             systemctl start eater; systemctl show -p Result --value eater | cat; echo done $((50 + 2))",
        ),
        // A quota of CPU time is in the unit's group and holds it.
        (
            "done 52",
            "printf '[Service]\\nCPUQuota=20%%\\nExecStart=sh -c \"while :; do :; done\"\\n' >/run/systemd/system/spinner.service; systemctl daemon-reload; \
             systemctl start spinner; cd /sys/fs/cgroup/system.slice/spinner.service; cat cpu.max; \
             until awk '/^nr_throttled/ { exit !($2 > 3) }' cpu.stat; do sleep 0.1; done; cd /; systemctl stop spinner; echo done $((60 + 2))",
        ),
        (
            "done 62",
            "journalctl -b --no-pager -n 1 >/dev/null && systemctl is-active systemd-journald systemd-udevd; systemctl poweroff",
        ),
    ];
    match login(b, Image::Systemd, &script)? {
        Ok(e) => e
            .expect(
                0,
                &["running\r", "uml\r", "oom-kill\r", "20000 100000\r", "active\r", "Power down"],
            )
            .map(passed),
        Err(why) => Ok(Outcome::Skipped(why)),
    }
}

fn systemd_reboot(b: &Bench) -> Result<Outcome, String> {
    let script = [
        ("# ", "systemctl reboot"),
        ("login: ", "root"),
        ("assword: ", "root"),
        ("# ", "systemctl poweroff"),
    ];
    match login(b, Image::Systemd, &script)? {
        Ok(e) if count(&e.text, "Linux version") == 2 => e.expect(0, &[]).map(passed),
        Ok(e) => Err(format!("came up {} times", count(&e.text, "Linux version"))),
        Err(why) => Ok(Outcome::Skipped(why)),
    }
}
