//! /sys with a fake disk and terminals.

mod common;

use std::any::Any;
use std::sync::Arc;

use common::*;
use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::device::{Attribute, DeviceSpec, Uevent, UeventListener};
use uml_core::kernel::Kernel;
use uml_core::registry::{
    BlockDevice, BlockDriver, BlockStats, DeviceNode, NodeOpen, Opened, RequestStats,
};
use uml_core::task::{Cred, Task};
use uml_core::vfs::walk::{DirFd, FOLLOW, lookup};
use uml_core::vfs::{Dev, FsType};

struct FakeDisk {
    dev: Dev,
    size: u64,
}

impl BlockDevice for FakeDisk {
    fn dev(&self) -> Dev {
        self.dev
    }
    fn name(&self) -> String {
        if self.dev.minor == 0 { "ubda".into() } else { format!("ubda{}", self.dev.minor) }
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn block_size(&self) -> u32 {
        512
    }
    fn read_only(&self) -> bool {
        true
    }
    fn read(&self, _: u64, _: &mut [u8]) -> Result<()> {
        Err(EIO)
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(EIO)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn partition(&self) -> Option<(u32, u64)> {
        (self.dev.minor != 0).then_some((self.dev.minor, 1 << 20))
    }
    fn serial(&self) -> Option<String> {
        Some("S123".into())
    }
    fn can_discard(&self) -> bool {
        true
    }
    fn stats(&self) -> BlockStats {
        let reads = RequestStats { requests: 3, bytes: 4096, nanos: 5_000_000 };
        BlockStats { reads, ..BlockStats::default() }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Driver;

impl Driver {
    fn make(minor: u32) -> Arc<dyn BlockDevice> {
        let size = if minor == 0 { 8 << 20 } else { 4 << 20 };
        Arc::new(FakeDisk { dev: Dev::new(98, minor), size })
    }
}

impl BlockDriver for Driver {
    fn device(&self, dev: Dev) -> Result<Arc<dyn BlockDevice>> {
        if dev.minor <= 1 { Ok(Driver::make(dev.minor)) } else { Err(ENXIO) }
    }
    fn open(&self, _: &NodeOpen<'_>) -> Result<Opened> {
        Err(ENXIO)
    }
    fn list(&self) -> Vec<Arc<dyn BlockDevice>> {
        vec![Driver::make(0), Driver::make(1)]
    }
}

struct Log(Mutex<Vec<Uevent>>);

impl UeventListener for Log {
    fn uevent(&self, e: &Uevent) {
        self.0.lock().push(e.clone());
    }
}

fn node(name: &str, kind: u32, dev: Dev) -> DeviceNode {
    DeviceNode { name: name.into(), kind, dev, mode: 0o660, uid: 0, gid: 6 }
}

fn machine() -> (Arc<Kernel>, Arc<Task>, Arc<Log>) {
    let k = kernel();
    let log = Arc::new(Log(Mutex::new(Rank::LEAF, Vec::new())));
    k.devices.add_listener(log.clone());
    let reg = &k.vfs.registry;
    // Some nodes are there before sysfs, some come later.
    reg.add_node(node("tty0", libc::S_IFCHR, Dev::new(4, 0)));
    let proc = uml_procfs::register(&k);
    proc.sources.add_consoles(|| {
        let line = |name: &str, preferred| uml_procfs::proc::sources::ConsoleLine {
            name: name.into(),
            dev: Dev::new(4, 0),
            preferred,
        };
        vec![line("tty0", true), line("ttyS0", false)]
    });
    reg.add_node(node("console", libc::S_IFCHR, Dev::new(5, 1)));
    reg.add_node(node("null", libc::S_IFCHR, Dev::new(1, 3)));
    reg.add_node(node("pts/0", libc::S_IFCHR, Dev::new(136, 0)));
    reg.add_node(node("ubda", libc::S_IFBLK, Dev::new(98, 0)));
    reg.add_node(node("ubd0", libc::S_IFBLK, Dev::new(98, 0)));
    reg.add_node(node("ubda1", libc::S_IFBLK, Dev::new(98, 1)));
    reg.add_block("ubd", 98, Arc::new(Driver)).unwrap();
    let scratch = namespace(&k, proc.instance(&k, b"").unwrap());
    let boot = process(&k, &scratch, 2, 0, Cred::root());
    let sys = k.vfs.registry.fs(b"sysfs").unwrap();
    let sb = sys.mount(&boot, b"sysfs", 0, b"").unwrap();
    assert_eq!(sb.dev(), FsType::mount(&*sys, &boot, b"sysfs", 0, b"").unwrap().dev());
    let ns = namespace(&k, sb);
    let t = process(&k, &ns, 3, 0, Cred::root());
    (k, t, log)
}

#[test]
fn disks_are_described_as_lsblk_reads_them() {
    let (_k, t, _) = machine();
    assert_eq!(list(&t, "/block").unwrap(), ["ubda"]);
    assert_eq!(read(&t, "/block/ubda/size").unwrap(), "16384\n");
    assert_eq!(read(&t, "/block/ubda/ro").unwrap(), "1\n");
    assert_eq!(read(&t, "/block/ubda/serial").unwrap(), "S123\n");
    assert_eq!(read(&t, "/block/ubda/ubda1/start").unwrap(), "2048\n");
    assert_eq!(read(&t, "/dev/block/98:1/partition").unwrap(), "1\n");
    assert_eq!(read(&t, "/dev/block/98:0/queue/logical_block_size").unwrap(), "512\n");
    assert_eq!(read(&t, "/dev/block/98:0/queue/discard_max_bytes").unwrap(), "32768\n");
    assert_eq!(read(&t, "/class/block/ubda1/dev").unwrap(), "98:1\n");
    let theirs = std::fs::read_dir("/sys/block").unwrap().flatten().next().unwrap().path();
    let shape = |s: &str| s.split_whitespace().count();
    let host_stat = std::fs::read_to_string(theirs.join("stat")).unwrap();
    assert_eq!(shape(&read(&t, "/block/ubda/stat").unwrap()), shape(&host_stat));
    assert_eq!(
        read(&t, "/block/ubda/ubda1/uevent").unwrap(),
        "MAJOR=98\nMINOR=1\nDEVNAME=ubda1\nDEVMODE=0660\nDEVTYPE=partition\nPARTN=1\n"
    );
    assert_eq!(readlink(&t, "/block/ubda/device").unwrap(), "../../../uml-blkdev.0");
    assert_eq!(list(&t, "/bus/platform/devices").unwrap(), ["uml-blkdev.0"]);
    assert_eq!(list(&t, "/bus/platform/drivers/uml-blkdev").unwrap(), ["uml-blkdev.0"]);
}

#[test]
fn every_link_leads_somewhere_and_every_file_can_be_read() {
    let (_k, t, _) = machine();
    let mut todo = vec![String::new()];
    let (mut links, mut files) = (0, 0);
    while let Some(dir) = todo.pop() {
        for (name, ino, kind) in list_in(&t, &format!("{dir}/"), 3).unwrap() {
            if name == "." || name == ".." {
                continue;
            }
            let path = format!("{dir}/{name}");
            let p = lookup(&t, &DirFd::Cwd, path.as_bytes(), 0).unwrap();
            assert_eq!(p.metadata().unwrap().ino, ino, "{path}");
            match kind {
                4 => todo.push(path),
                8 => {
                    let text = read(&t, &path).unwrap_or_else(|e| panic!("{path}: {e}"));
                    assert!(text.is_empty() || text.ends_with('\n'), "{path}");
                    assert_eq!(p.metadata().unwrap().size, 4096);
                    files += 1;
                }
                _ => {
                    let to = lookup(&t, &DirFd::Cwd, path.as_bytes(), FOLLOW);
                    let to = to.unwrap_or_else(|e| panic!("{path}: {e}"));
                    assert_eq!(to.inode().file_type(), libc::S_IFDIR, "{path}");
                    links += 1;
                }
            }
        }
    }
    assert!(links > 20 && files > 80, "{links} links, {files} files");
}

#[test]
fn processors_and_memory_are_described_as_lscpu_reads_them() {
    let (_k, t, _) = machine();
    let cpu = "/devices/system/cpu";
    assert_eq!(read(&t, &format!("{cpu}/online")).unwrap(), "0-1\n");
    assert_eq!(list(&t, "/bus/cpu/devices").unwrap(), ["cpu0", "cpu1"]);
    assert_eq!(read(&t, &format!("{cpu}/cpu1/topology/core_id")).unwrap(), "1\n");
    assert_eq!(read(&t, &format!("{cpu}/cpu1/topology/thread_siblings")).unwrap(), "2\n");
    assert_eq!(read(&t, &format!("{cpu}/cpu1/topology/core_siblings_list")).unwrap(), "0-1\n");
    assert_eq!(read(&t, "/devices/system/node/node0/cpumap").unwrap(), "3\n");
    let mem = read(&t, "/devices/system/node/node0/meminfo").unwrap();
    assert!(mem.starts_with("Node 0 MemTotal:         262144 kB\n"), "{mem}");
}

#[test]
fn terminals_and_the_console_are_found() {
    let (_k, t, _) = machine();
    assert_eq!(list(&t, "/class/tty").unwrap(), ["console", "tty0"]);
    assert_eq!(read(&t, "/class/tty/console/active").unwrap(), "ttyS0 tty0\n");
    assert_eq!(read(&t, "/dev/char/1:3/dev").unwrap(), "1:3\n");
    assert_eq!(list(&t, "/class/mem").unwrap(), ["null"]);
}

#[test]
fn changes_send_uevents() {
    let (k, t, log) = machine();
    let seen = log.0.lock().len();
    assert_eq!(write(&t, "/block/ubda/uevent", "change\n"), Ok(7));
    let e = log.0.lock().last().cloned().unwrap();
    assert_eq!((e.action, &*e.devpath), ("change", "/devices/platform/uml-blkdev.0/block/ubda"));
    assert!(e.env.contains(&("SYNTH_UUID".into(), "0".into())));
    let uuid = "12345678-1234-1234-1234-123456789abc";
    let text = format!("add {uuid} A=1");
    assert_eq!(write(&t, "/block/ubda/uevent", &text), Ok(text.len()));
    let e = log.0.lock().last().cloned().unwrap();
    assert!(e.env.contains(&("SYNTH_ARG_A".into(), "1".into())));
    for bad in ["explode", "add short", "", "add 12345678-1234-1234-1234-123456789abc A"] {
        let r = write(&t, "/block/ubda/uevent", bad);
        assert!(bad.is_empty() && r == Ok(0) || r == Err(EINVAL), "{bad}: {r:?}");
    }
    assert_eq!(log.0.lock().len(), seen + 2);
    assert_eq!(read(&t, "/kernel/uevent_seqnum").unwrap(), format!("{}\n", seen + 2));
    k.vfs.registry.remove_node("ubda1");
    assert_eq!(log.0.lock().last().unwrap().action, "remove");
    assert_eq!(read(&t, "/block/ubda/ubda1/start"), Err(ENOENT));
    k.vfs.registry.remove_node("ubda");
    assert!(list(&t, "/block").unwrap().is_empty());
    assert!(list(&t, "/bus/platform/devices").unwrap().is_empty());
}

#[test]
fn drivers_register_devices_with_attributes() {
    let (k, t, _) = machine();
    let value = Arc::new(Mutex::new(Rank::LEAF, 1u64));
    let (r, w) = (value.clone(), value.clone());
    let a = Attribute::new("level", move |out| {
        out.extend_from_slice(format!("{}\n", *r.lock()).as_bytes());
        Ok(())
    })
    .writable(move |data| {
        let v = std::str::from_utf8(data).map_err(|_| EINVAL)?.trim().parse();
        *w.lock() = v.map_err(|_| EINVAL)?;
        Ok(())
    });
    let spec = DeviceSpec::class("misc", "hwrng")
        .node(libc::S_IFCHR, Dev::new(10, 183), 0o600)
        .attribute(a);
    let d = k.devices.add(&k.vfs.registry, spec).unwrap();
    assert_eq!(d.path, "virtual/misc/hwrng");
    assert_eq!(write(&t, "/class/misc/hwrng/level", "7"), Ok(1));
    assert_eq!(*value.lock(), 7);
    assert_eq!(read(&t, "/class/misc/hwrng/level").unwrap(), "7\n");
    assert_eq!(write(&t, "/class/misc/hwrng/level", "x"), Err(EINVAL));
    assert_eq!(write(&t, "/class/misc/hwrng/dev", "x"), Err(EIO));
    assert!(k.vfs.registry.nodes().iter().any(|n| n.name == "hwrng"));
}
