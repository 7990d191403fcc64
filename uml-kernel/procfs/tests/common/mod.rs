//! A machine without a platform whose root directory is the filesystem under test.
#![allow(dead_code)]

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::{DirEmit, File};
use uml_core::io::{BufSource, VecSink};
use uml_core::kernel::Kernel;
use uml_core::signal::SigHand;
use uml_core::task::process::Process;
use uml_core::task::rlimit::Rlimits;
use uml_core::task::{Cred, FsContext, Task, TaskInit};
use uml_core::vfs::walk::{DirFd, FOLLOW, lookup};
use uml_core::vfs::{MountNs, OpenHow, SuperBlock, open};
use uml_mm::Mm;
use uml_platform::Space;

pub const MEM: u64 = 256 << 20;

pub fn kernel() -> Arc<Kernel> {
    let k = Kernel::new(MEM, 2);
    // Tasks hold their kernel weakly; a test machine lives as long as the test program.
    std::mem::forget(k.clone());
    k
}

/// A namespace with `sb` at its root.
pub fn namespace(k: &Arc<Kernel>, sb: Arc<dyn SuperBlock>) -> Arc<MountNs> {
    k.vfs.first_namespace(sb, b"test", 0).0
}

/// A process `pid`, child of `parent`, in the tree.
pub fn process(k: &Arc<Kernel>, ns: &Arc<MountNs>, pid: i32, parent: i32, cred: Cred) -> Arc<Task> {
    let p = Process::new(pid, SigHand::default(), Rlimits::initial(1024), libc::SIGCHLD);
    let fs = FsContext::new(ns.root().root_path(), ns.clone());
    let init = TaskInit {
        tid: pid,
        process: p,
        comm: *b"test prog\0\0\0\0\0\0\0",
        cred: Arc::new(cred),
        mm: None,
        files: Default::default(),
        fs: Arc::new(fs),
        blocked: 0,
    };
    let t = Task::new(k, init);
    k.tree.write().add_process(&t, parent, pid, pid);
    t
}

/// An unprivileged user.
pub fn user(uid: u32) -> Cred {
    Cred {
        uid,
        euid: uid,
        suid: uid,
        fsuid: uid,
        gid: uid,
        egid: uid,
        sgid: uid,
        fsgid: uid,
        cap_effective: 0,
        cap_permitted: 0,
        ..Cred::root()
    }
}

pub fn open_file(task: &Arc<Task>, path: &str, flags: i32) -> Result<Arc<File>> {
    open(task, &DirFd::Cwd, path.as_bytes(), &OpenHow::new(flags, 0))
}

/// Reads a file from the start in pieces of `step` bytes.
pub fn read_in(task: &Arc<Task>, path: &str, step: usize) -> Result<Vec<u8>> {
    let f = open_file(task, path, libc::O_RDONLY)?;
    let mut out = Vec::new();
    loop {
        let mut sink = VecSink::new(step);
        if f.read(task, &mut sink)? == 0 {
            return Ok(out);
        }
        out.extend(sink.data);
    }
}

pub fn read(task: &Arc<Task>, path: &str) -> Result<String> {
    let b = read_in(task, path, 4096)?;
    String::from_utf8(b).map_err(|_| EILSEQ)
}

pub fn write(task: &Arc<Task>, path: &str, data: &str) -> Result<usize> {
    let f = open_file(task, path, libc::O_WRONLY)?;
    f.write(task, &mut BufSource::new(data.as_bytes()))
}

pub fn readlink(task: &Arc<Task>, path: &str) -> Result<String> {
    let p = lookup(task, &DirFd::Cwd, path.as_bytes(), 0)?;
    let b = p.inode().symlink().ok_or(EINVAL)?.readlink(task)?;
    String::from_utf8(b).map_err(|_| EILSEQ)
}

pub fn stat(task: &Arc<Task>, path: &str) -> Result<uml_core::vfs::Metadata> {
    lookup(task, &DirFd::Cwd, path.as_bytes(), FOLLOW)?.metadata()
}

struct Names(Vec<(String, u64, u8)>, usize);

impl DirEmit for Names {
    fn emit(&mut self, name: &[u8], ino: u64, kind: u8, _: u64) -> bool {
        if self.1 == 0 {
            return false;
        }
        self.1 -= 1;
        self.0.push((String::from_utf8_lossy(name).into_owned(), ino, kind));
        true
    }
}

/// Name, inode number and type of every entry, read `at_once` entries at a time.
pub fn list_in(task: &Arc<Task>, path: &str, at_once: usize) -> Result<Vec<(String, u64, u8)>> {
    let f = open_file(task, path, libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut all = Vec::new();
    loop {
        let mut n = Names(Vec::new(), at_once);
        f.readdir(task, &mut n)?;
        if n.0.is_empty() {
            return Ok(all);
        }
        all.extend(n.0);
    }
}

pub fn list(task: &Arc<Task>, path: &str) -> Result<Vec<String>> {
    let mut v: Vec<_> = list_in(task, path, 1000)?
        .into_iter()
        .map(|e| e.0)
        .filter(|n| n != "." && n != "..")
        .collect();
    v.sort();
    Ok(v)
}

/// An address space whose host process is this test and whose memory is a vector.
pub struct FakeSpace {
    pub base: u64,
    pub bytes: uml_base::Mutex<Vec<u8>>,
}

impl Space for FakeSpace {
    fn write_view(&self, _: u64, _: &uml_platform::view::FileView, _: u64, _: usize) -> usize {
        0
    }
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        let b = self.bytes.lock();
        let Some(at) = addr.checked_sub(self.base).and_then(|a| usize::try_from(a).ok()) else {
            return 0;
        };
        let Some(rest) = b.get(at..) else { return 0 };
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        n
    }

    fn poke(&self, addr: u64, buf: &[u8]) -> usize {
        self.write(addr, buf)
    }

    fn write(&self, addr: u64, data: &[u8]) -> usize {
        let mut b = self.bytes.lock();
        let Some(at) = addr.checked_sub(self.base).and_then(|a| usize::try_from(a).ok()) else {
            return 0;
        };
        let Some(rest) = b.get_mut(at..) else { return 0 };
        let n = rest.len().min(data.len());
        rest[..n].copy_from_slice(&data[..n]);
        n
    }

    fn read_vectored(&self, _: &[(u64, usize)], _: &mut [u8]) -> usize {
        0
    }

    fn write_vectored(&self, _: &[(u64, usize)], _: &[u8]) -> usize {
        0
    }

    fn kill(&self) {}

    fn host_pid(&self) -> i32 {
        std::process::id() as i32
    }
}

/// Gives `task` an address space with `bytes` at `base`.
pub fn give_memory(task: &Arc<Task>, base: u64, bytes: Vec<u8>) -> Arc<Mm> {
    let bytes = uml_base::Mutex::new(uml_base::Rank::LEAF, bytes);
    let mm = Arc::new(Mm::new(Arc::new(FakeSpace { base, bytes }), 0x1_0000, 0x7fff_ffff_f000));
    task.set_mm(Some(mm.clone()));
    mm
}
