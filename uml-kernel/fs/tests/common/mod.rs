//! A machine without a platform, its root a tmpfs, and short names for what tests do.
#![allow(dead_code)]

pub mod disk;

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use uml_abi::Result;
use uml_core::file::{DirEmit, File};
use uml_core::io::{BufSource, VecSink};
use uml_core::kernel::Kernel;
use uml_core::signal::SigHand;
use uml_core::task::process::Process;
use uml_core::task::rlimit::Rlimits;
use uml_core::task::{Cred, FsContext, Task, TaskInit};
use uml_core::vfs::{self, DirFd, Metadata, NodeKind, OpenHow, Path, SuperBlock, modify, walk};
use uml_fs::tmpfs::{Options, TmpFs};

pub fn kernel() -> Arc<Kernel> {
    let k = Kernel::new(64 << 20, 2);
    // Tasks hold their kernel weakly; a test machine lives as long as the test program.
    std::mem::forget(k.clone());
    k
}

pub fn tmpfs(k: &Arc<Kernel>) -> Arc<TmpFs> {
    TmpFs::new(&k.vfs, "tmpfs", Options { mode: Some(0o755), ..Options::default() })
}

/// A process of `cred` in a new mount namespace with `sb` as root.
pub fn task_on(k: &Arc<Kernel>, sb: Arc<dyn SuperBlock>, cred: Cred) -> Arc<Task> {
    let (_, fs) = k.vfs.first_namespace(sb, b"root", libc::MS_RELATIME);
    task_in(k, fs, cred)
}

pub fn task_in(k: &Arc<Kernel>, fs: FsContext, cred: Cred) -> Arc<Task> {
    static NEXT: AtomicI32 = AtomicI32::new(2);
    let pid = NEXT.fetch_add(1, Ordering::Relaxed);
    let task = Task::new(
        k,
        TaskInit {
            tid: pid,
            process: Process::new(pid, SigHand::default(), Rlimits::initial(1024), libc::SIGCHLD),
            comm: [0; 16],
            cred: Arc::new(cred),
            mm: None,
            files: Default::default(),
            fs: Arc::new(fs),
            blocked: 0,
        },
    );
    k.tree.write().add_process(&task, 0, pid, pid);
    task
}

pub fn root_task(k: &Arc<Kernel>) -> Arc<Task> {
    task_on(k, tmpfs(k), Cred::root())
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

/// The calls of a test, all relative to the working directory.
pub struct Sh<'a>(pub &'a Arc<Task>);

impl Sh<'_> {
    pub fn open(&self, path: &str, flags: i32) -> Result<Arc<File>> {
        vfs::open(self.0, &DirFd::Cwd, path.as_bytes(), &OpenHow::new(flags, 0o644))
    }
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let f = self.open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)?;
        let n = f.write(self.0, &mut BufSource::new(text.as_bytes()))?;
        assert_eq!(n, text.len());
        Ok(())
    }
    pub fn append(&self, path: &str, text: &str) -> Result<()> {
        let f = self.open(path, libc::O_WRONLY | libc::O_APPEND)?;
        f.write(self.0, &mut BufSource::new(text.as_bytes())).map(drop)
    }
    pub fn read_file(&self, f: &File) -> Result<String> {
        let mut sink = VecSink::new(1 << 20);
        f.read_at(self.0, 0, &mut sink)?;
        Ok(String::from_utf8_lossy(&sink.data).into_owned())
    }
    pub fn read(&self, path: &str) -> Result<String> {
        let f = self.open(path, libc::O_RDONLY)?;
        self.read_file(&f)
    }
    pub fn mkdir(&self, path: &str) -> Result<()> {
        self.make(path, NodeKind::Directory, 0o755)
    }
    pub fn make(&self, path: &str, kind: NodeKind, mode: u32) -> Result<()> {
        modify::create(self.0, &DirFd::Cwd, path.as_bytes(), kind, mode).map(drop)
    }
    pub fn symlink(&self, target: &str, path: &str) -> Result<()> {
        self.make(path, NodeKind::Symlink(target.into()), 0o777)
    }
    pub fn unlink(&self, path: &str) -> Result<()> {
        modify::unlink(self.0, &DirFd::Cwd, path.as_bytes())
    }
    pub fn rmdir(&self, path: &str) -> Result<()> {
        modify::rmdir(self.0, &DirFd::Cwd, path.as_bytes())
    }
    pub fn mv(&self, old: &str, new: &str) -> Result<()> {
        self.rename(old, new, 0)
    }
    pub fn rename(&self, old: &str, new: &str, flags: u32) -> Result<()> {
        let cwd = DirFd::Cwd;
        modify::rename(self.0, &cwd, old.as_bytes(), &cwd, new.as_bytes(), flags)
    }
    pub fn link(&self, old: &str, new: &str) -> Result<()> {
        let p = self.look(old, 0)?;
        modify::link(self.0, &p, &DirFd::Cwd, new.as_bytes())
    }
    pub fn look(&self, path: &str, flags: u32) -> Result<Path> {
        walk::lookup(self.0, &DirFd::Cwd, path.as_bytes(), flags)
    }
    pub fn stat(&self, path: &str) -> Result<Metadata> {
        self.look(path, walk::FOLLOW)?.metadata()
    }
    pub fn lstat(&self, path: &str) -> Result<Metadata> {
        self.look(path, 0)?.metadata()
    }
    pub fn chdir(&self, path: &str) -> Result<()> {
        let p = self.look(path, walk::FOLLOW | walk::DIRECTORY)?;
        drop(self.0.fs().set_cwd(p));
        Ok(())
    }
    pub fn cwd(&self) -> String {
        let fs = self.0.fs();
        let name = self.0.kernel().vfs.path_name(&fs.cwd(), &fs.root());
        String::from_utf8(name.bytes).unwrap()
    }
    pub fn chmod(&self, path: &str, mode: u32) -> Result<()> {
        vfs::attr::chmod(self.0, &self.look(path, walk::FOLLOW)?, mode)
    }
    /// Names with inode numbers, sorted, without the dot entries.
    pub fn ls_ino(&self, path: &str) -> Result<Vec<(String, u64)>> {
        struct Names(Vec<(String, u64)>);
        impl DirEmit for Names {
            fn emit(&mut self, name: &[u8], ino: u64, _: u8, _: u64) -> bool {
                self.0.push((String::from_utf8_lossy(name).into_owned(), ino));
                true
            }
        }
        let f = self.open(path, libc::O_RDONLY | libc::O_DIRECTORY)?;
        let mut n = Names(Vec::new());
        f.readdir(self.0, &mut n)?;
        n.0.retain(|(n, _)| n != "." && n != "..");
        n.0.sort();
        Ok(n.0)
    }
    pub fn ls(&self, path: &str) -> Result<Vec<String>> {
        Ok(self.ls_ino(path)?.into_iter().map(|(n, _)| n).collect())
    }
    pub fn mount(&self, sb: Arc<dyn SuperBlock>, at: &str) -> Result<Path> {
        let k = self.0.kernel();
        let m = k.vfs.new_mount(sb, b"none", libc::MS_RELATIME);
        let at = self.look(at, walk::FOLLOW)?;
        k.vfs.attach(&self.0.fs().mounts(), &m, &at)?;
        Ok(m.root_path())
    }
    pub fn umount(&self, at: &str, detach: bool) -> Result<()> {
        let at = self.look(at, walk::FOLLOW)?;
        self.0.kernel().vfs.unmount(&self.0.fs().mounts(), at, detach, false)
    }
    pub fn bind(&self, from: &str, to: &str, recursive: bool) -> Result<()> {
        let k = self.0.kernel();
        let ns = self.0.fs().mounts();
        let from = self.look(from, walk::FOLLOW)?;
        let m = k.vfs.bind(&ns, &from, recursive)?;
        let to = self.look(to, walk::FOLLOW)?;
        k.vfs.attach(&ns, &m, &to)
    }
}
