//! COW files shared with the stock kernel. Skipped, saying so, where no stock
//! kernel (Debian package user-mode-linux) or static busybox is installed.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Bench, OUR_MKCOW, OUR_MOO, stock};
use uml_formats::cow::{BitmapPolicy, Device, DeviceSpec, open_device};

const KERNEL: &str = "/usr/bin/linux.uml";
const BUSYBOX: &str = "/usr/bin/busybox";
const SECTORS: usize = 8192;

/// Writes sectors 100..108 and 2000..2040, checks sector 5000, powers off.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs d /dev
/bin/busybox dd if=/dev/zero of=/dev/ubda bs=512 seek=100 count=8 conv=notrunc
/bin/busybox yes stock | /bin/busybox dd of=/dev/ubda bs=512 seek=2000 count=40 iflag=fullblock conv=notrunc
echo found: $(/bin/busybox dd if=/dev/ubda bs=512 skip=5000 count=1 | /bin/busybox head -c 5)
/bin/busybox sync
/bin/busybox poweroff -f
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

fn initramfs(path: &Path) {
    let mut archive = Vec::new();
    for directory in ["bin", "dev"] {
        cpio(&mut archive, directory, 0o040755, b"");
    }
    cpio(&mut archive, "bin/busybox", 0o100755, &fs::read(BUSYBOX).expect("busybox"));
    cpio(&mut archive, "init", 0o100755, INIT.as_bytes());
    cpio(&mut archive, "TRAILER!!!", 0, b"");
    fs::write(path, archive).expect("initramfs");
}

#[test]
fn a_cow_file_wanders_between_our_tools_and_the_stock_kernel() {
    if [KERNEL, BUSYBOX].iter().any(|path| !Path::new(path).exists()) {
        eprintln!("SKIPPED: {KERNEL} or {BUSYBOX} is missing");
        return;
    }
    let below: Vec<u8> = (0..SECTORS * 512).map(|at| (at / 512 % 251) as u8).collect();
    let bench = Bench::new(&below);
    initramfs(&bench.path("initrd"));
    bench.run(OUR_MKCOW, &["c", "b"]).ok();
    // Our engine, as the kernel's driver uses it, writes first.
    let spec = DeviceSpec {
        file: bench.path("c"),
        backing: None,
        read_only: false,
        sync: false,
        shared: false,
        plain: false,
        policy: BitmapPolicy::OnFlush,
    };
    let mut sector = [b'.'; 512];
    sector[..5].copy_from_slice(b"ours!");
    match open_device(&spec, &mut |note| panic!("{note:?}")).expect("our own COW file") {
        Device::Cow { image, .. } => {
            image.write_at(&sector, 5000 * 512).expect("write");
            image.flush().expect("flush");
        }
        Device::Plain { .. } => panic!("not recognised as a COW file"),
    }
    let output = Command::new("timeout")
        .args(["-k", "5", "60", KERNEL, "mem=64M", "con=null", "con0=null,fd:1"])
        .arg(format!("uml_dir={}/", bench.text("")))
        .arg(format!("initrd={}", bench.text("initrd")))
        .arg(format!("ubd0={}", bench.text("c")))
        .stdin(Stdio::null())
        .output()
        .expect("kernel starts");
    let console = String::from_utf8_lossy(&output.stdout);
    assert!(console.contains("found: ours!"), "{console}");
    // What it wrote is seen by our tools, and by the classic one alike.
    bench.run(OUR_MOO, &["--check", "c"]).ok();
    bench.run(OUR_MOO, &["--verify", "c", "ours"]).ok();
    let merged = bench.read("ours");
    let mut expected = below;
    expected[100 * 512..108 * 512].fill(0);
    let text: Vec<u8> = b"stock\n".iter().copied().cycle().take(40 * 512).collect();
    expected[2000 * 512..2040 * 512].copy_from_slice(&text);
    expected[5000 * 512..5001 * 512].copy_from_slice(&sector);
    assert!(merged == expected);
    if let Some(stock_moo) = stock("uml_moo") {
        bench.run(&stock_moo, &["c", "theirs"]).ok();
        assert!(bench.read("theirs") == expected);
    }
}
