//! Our client against the stock kernel. Skipped, saying so, where no stock
//! kernel (Debian package user-mode-linux) or static busybox is installed.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::Home;
use uml_formats::mconsole::{HELP, NotificationKind};
use uml_mconsole::notify::Listener;

const KERNEL: &str = "/usr/bin/linux.uml";
const BUSYBOX: &str = "/usr/bin/busybox";
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc p /proc
echo user hello > /proc/mconsole
exec /bin/busybox sleep 1000
";

/// A file of a cpio archive in the `newc` format.
fn cpio(archive: &mut Vec<u8>, name: &str, mode: u32, contents: &[u8]) {
    let fields = [0, mode, 0, 0, 1, 0, contents.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    archive.extend(b"070701");
    fields.iter().for_each(|field| archive.extend(format!("{field:08x}").as_bytes()));
    archive.extend(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(contents);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// The kernel process, ended with the test. timeout(1) ends it if the test cannot.
struct Kernel(Child);

impl Drop for Kernel {
    fn drop(&mut self) {
        // timeout(1) passes SIGTERM on; SIGKILL would leave the kernel behind.
        if let Ok(None) = self.0.try_wait() {
            let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

fn boot(home: &Path) -> Kernel {
    let mut archive = Vec::new();
    for directory in ["bin", "proc"] {
        cpio(&mut archive, directory, 0o040755, b"");
    }
    cpio(&mut archive, "bin/busybox", 0o100755, &fs::read(BUSYBOX).expect("busybox"));
    cpio(&mut archive, "init", 0o100755, INIT.as_bytes());
    cpio(&mut archive, "TRAILER!!!", 0, b"");
    fs::write(home.join("initrd"), archive).expect("initramfs");
    fs::write(home.join("image"), [0; 65536]).expect("image");
    let child = Command::new("timeout")
        .args(["-k", "5", "60", KERNEL, "mem=64M", "con=null", "umid=stock"])
        .arg(format!("initrd={}", home.join("initrd").display()))
        .arg(format!("mconsole=notify:{}", home.join("events").display()))
        .current_dir(home)
        .env("HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("kernel starts");
    Kernel(child)
}

#[test]
fn our_client_drives_the_stock_kernel() {
    if [KERNEL, BUSYBOX].iter().any(|path| !Path::new(path).exists()) {
        eprintln!("SKIPPED: {KERNEL} or {BUSYBOX} is missing");
        return;
    }
    let home = Home::new();
    let listener = Listener::bind(&home.path().join("events")).expect("listener");
    let mut kernel = boot(home.path());
    let event = || listener.next_event().expect("event").expect("a notification");
    let ready = event();
    assert_eq!(ready.kind, NotificationKind::Socket);
    assert_eq!(ready.text(), home.path().join(".uml/stock/mconsole").display().to_string());
    let user = event();
    assert_eq!((user.kind, user.text().as_str()), (NotificationKind::User, "user hello"));

    let image = home.path().canonicalize().expect("home").join("image").display().to_string();
    let cases: [(&[&str], i32, &str); 14] = [
        (&["config", "ubd1"], 0, "OK \n"),
        (&["config", "ubd1=image"], 0, "OK \n"),
        (&["config", "ubd1"], 0, &format!("OK {image}\n")),
        (&["config", "ubd1=image"], 240, "ERR Device is already configured\n"),
        (&["remove", "ubd1"], 0, "OK \n"),
        (&["remove", "ubd1"], 237, "ERR Device doesn't exist\n"),
        (&["proc", "nothing"], 1, "ERR Failed to open file\n"),
        (&["stack", "99999"], 1, "ERR Couldn't find that pid\n"),
        (&["stop"], 0, "OK stopped\n"),
        (&["stop"], 1, "ERR Already stopped\n"),
        (&["go"], 0, "OK \n"),
        (&["log", "hi"], 0, "OK \nOK \n"),
        (&["nonsense"], 1, "ERR Unknown command\n"),
        (&["config", "con1"], 0, "OK null\n"),
    ];
    for (command, status, stdout) in cases {
        let run = home.ours(&[&["stock"], command].concat());
        assert_eq!((run.status, run.stdout.as_str()), (Some(status), stdout), "{command:?}");
    }
    let run = home.ours(&["stock", "version"]);
    assert!(run.status == Some(0) && run.stdout.starts_with("OK Linux "), "{run:?}");
    let run = home.ours(&["stock", "help"]);
    assert!(run.stdout.starts_with(&format!("OK {HELP}")), "{run:?}");
    // Several datagrams, chained in both ways the protocol has.
    let run = home.ours(&["stock", "proc", "vmstat"]);
    let lines: Vec<&str> = run.stdout.lines().skip(1).filter(|line| !line.is_empty()).collect();
    assert!(run.status == Some(0) && lines.len() > 50, "{run:?}");
    let whole =
        |line: &&str| line.split_once(' ').is_some_and(|(_, number)| number.parse::<u64>().is_ok());
    assert!(lines.iter().all(whole), "{run:?}");
    let run = home.ours(&["stock", "sysrq", "h"]);
    assert!(run.stdout.starts_with("OK sysrq: HELP : "), "{run:?}");
    let run = home.ours(&[]);
    assert!(run.stdout.contains("stock") && run.stdout.contains("running"), "{run:?}");
    assert_eq!(home.ours(&["stock", "halt"]).stdout, "OK \n");
    assert_eq!(kernel.0.wait().expect("ends").code(), Some(0));
    assert_eq!(home.ours(&["stock", "version"]).status, Some(1));
}
