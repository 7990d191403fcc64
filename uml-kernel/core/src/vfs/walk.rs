//! Path walks (path_resolution(7), openat2(2)).

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;

use crate::kernel::Kernel;
use crate::task::{Cred, Task};
use crate::vfs::mount::{MNT_NOATIME, MNT_NOSYMFOLLOW};
use crate::vfs::perm::{MAY_EXEC, inode_permission};
use crate::vfs::{Dentry, Path};

/// Follow a symbolic link that is the last component.
pub const FOLLOW: u32 = 1 << 0;
/// The result must be a directory (O_DIRECTORY, a trailing slash).
pub const DIRECTORY: u32 = 1 << 1;
/// An empty path means the starting place itself (AT_EMPTY_PATH).
pub const EMPTY: u32 = 1 << 2;
/// RESOLVE_NO_XDEV: do not cross mount points.
pub const NO_XDEV: u32 = 1 << 3;
/// RESOLVE_NO_MAGICLINKS.
pub const NO_MAGICLINKS: u32 = 1 << 4;
/// RESOLVE_NO_SYMLINKS.
pub const NO_SYMLINKS: u32 = 1 << 5;
/// RESOLVE_BENEATH: leaving the starting directory is `EXDEV`.
pub const BENEATH: u32 = 1 << 6;
/// RESOLVE_IN_ROOT: the starting directory is the root.
pub const IN_ROOT: u32 = 1 << 7;

/// Most symbolic links one walk follows (path_resolution(7)).
pub const MAX_LINKS: u32 = 40;

/// Where relative paths start.
#[derive(Clone)]
pub enum DirFd {
    /// AT_FDCWD.
    Cwd,
    /// A descriptor.
    Fd(i32),
    /// A place the kernel already has.
    At(Path),
}

impl DirFd {
    /// From a system call's argument.
    pub fn from_raw(fd: i32) -> DirFd {
        if fd == libc::AT_FDCWD { DirFd::Cwd } else { DirFd::Fd(fd) }
    }

    /// The place it stands for.
    pub fn place(&self, task: &Task) -> Result<Path> {
        match self {
            DirFd::Cwd => Ok(task.fs().cwd()),
            DirFd::Fd(fd) => Ok(task.file_any(*fd)?.path.clone()),
            DirFd::At(p) => Ok(p.clone()),
        }
    }
}

/// The last component of a path, before it is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    Name(Vec<u8>),
    Dot,
    DotDot,
    /// The path was `/` (or only slashes).
    Root,
}

/// Text still to be walked.
struct Fragment<'p> {
    text: Cow<'p, [u8]>,
    pos: usize,
}

/// A path walk in progress.
pub struct Walker<'p> {
    task: &'p Task,
    kernel: Arc<Kernel>,
    pub cred: Arc<Cred>,
    root: Path,
    /// Where the walk is: the directory of the last component after [`Walker::to_parent`].
    pub at: Path,
    stack: Vec<Fragment<'p>>,
    links: u32,
    flags: u32,
    /// A slash followed the last component.
    pub trailing: bool,
}

impl<'p> Walker<'p> {
    /// Starts a walk of `path` from `start` with the task's own credentials.
    pub fn new(task: &'p Task, start: &DirFd, path: &'p [u8], flags: u32) -> Result<Walker<'p>> {
        Walker::with_cred(task, task.cred(), start, path, flags)
    }

    /// As [`Walker::new`] for access(2) and others that act with other credentials.
    pub fn with_cred(
        task: &'p Task,
        cred: Arc<Cred>,
        start: &DirFd,
        path: &'p [u8],
        flags: u32,
    ) -> Result<Walker<'p>> {
        if path.is_empty() && flags & EMPTY == 0 {
            return Err(ENOENT);
        }
        if path.len() >= libc::PATH_MAX as usize {
            return Err(ENAMETOOLONG);
        }
        let scoped = flags & (BENEATH | IN_ROOT) != 0;
        let absolute = path.first() == Some(&b'/');
        if absolute && flags & BENEATH != 0 {
            return Err(EXDEV);
        }
        let (root, at) = if scoped {
            let p = start.place(task)?;
            (p.clone(), p)
        } else {
            let fs = task.fs();
            let root = fs.root();
            let at = if absolute { root.clone() } else { start.place(task)? };
            (root, at)
        };
        if !path.is_empty() && at.inode().dir().is_none() {
            return Err(ENOTDIR);
        }
        Ok(Walker {
            task,
            kernel: task.kernel(),
            cred,
            root,
            at,
            stack: vec![Fragment { text: Cow::Borrowed(path), pos: 0 }],
            links: 0,
            flags,
            trailing: false,
        })
    }

    /// Takes the next component; the flag says whether it is the last one.
    fn next(&mut self) -> Option<(Last, bool)> {
        loop {
            let f = self.stack.last_mut()?;
            let text = &f.text[..];
            let start = text[f.pos..].iter().position(|b| *b != b'/').map(|n| f.pos + n);
            let Some(start) = start else {
                self.stack.pop();
                continue;
            };
            let end =
                text[start..].iter().position(|b| *b == b'/').map_or(text.len(), |n| start + n);
            let name = &text[start..end];
            let comp = match name {
                b"." => Last::Dot,
                b".." => Last::DotDot,
                _ => Last::Name(name.to_vec()),
            };
            let more = text[end..].iter().position(|b| *b != b'/').map(|n| end + n);
            let slash = end < text.len();
            match more {
                Some(p) => f.pos = p,
                None => {
                    self.stack.pop();
                }
            }
            // What is left below consists of components: slashes alone were dropped when a link was pushed.
            let last = self.stack.is_empty();
            if last && slash {
                self.trailing = true;
            }
            return Some((comp, last));
        }
    }

    /// Walks everything but the last component.
    pub fn to_parent(&mut self) -> Result<Last> {
        while let Some((comp, last)) = self.next() {
            self.may_search()?;
            if last {
                return Ok(comp);
            }
            match comp {
                Last::Name(name) => {
                    let child = self.child(&name)?.ok_or(ENOENT)?;
                    self.enter(child, true)?;
                }
                Last::DotDot => self.up()?,
                Last::Dot | Last::Root => {}
            }
        }
        Ok(Last::Root)
    }

    /// Walks to the end.
    pub fn to_end(&mut self) -> Result<Path> {
        loop {
            match self.to_parent()? {
                Last::Root | Last::Dot => break,
                Last::DotDot => {
                    self.up()?;
                    break;
                }
                Last::Name(name) => {
                    let child = self.child(&name)?.ok_or(ENOENT)?;
                    let follow = self.flags & FOLLOW != 0 || self.trailing;
                    if !self.enter(child, follow)? {
                        break;
                    }
                }
            }
        }
        if (self.trailing || self.flags & DIRECTORY != 0) && self.at.inode().dir().is_none() {
            return Err(ENOTDIR);
        }
        Ok(self.at.clone())
    }

    fn may_search(&self) -> Result<()> {
        if self.at.inode().dir().is_none() {
            return Err(ENOTDIR);
        }
        inode_permission(self.at.inode(), &self.cred, MAY_EXEC)
    }

    /// The dentry `name` in the present directory; `None` when it does not exist.
    pub fn child(&self, name: &[u8]) -> Result<Option<Arc<Dentry>>> {
        self.kernel.vfs.dcache.lookup(&self.at.dentry, name)
    }

    /// Goes to `child` of the present directory, across mounts and, when `follow`, through a symbolic
    /// link; true when it was a link whose text is still to be walked.
    pub fn enter(&mut self, child: Arc<Dentry>, follow: bool) -> Result<bool> {
        let mut p = Path { mnt: self.at.mnt.clone(), dentry: child };
        if p.dentry.is_mountpoint() && p.enter_mounts() && self.flags & NO_XDEV != 0 {
            return Err(EXDEV);
        }
        if follow && p.inode().symlink().is_some() {
            return self.follow(p);
        }
        self.at = p;
        Ok(false)
    }

    /// Takes the link at `link`, which lies in the present directory.
    fn follow(&mut self, link: Path) -> Result<bool> {
        let inode = link.inode().clone();
        let ops = inode.symlink().ok_or(EINVAL)?;
        self.links += 1;
        if self.links > MAX_LINKS
            || self.flags & NO_SYMLINKS != 0
            || link.mnt.flags() & MNT_NOSYMFOLLOW != 0
        {
            return Err(ELOOP);
        }
        self.check_sticky_link(&link)?;
        if let Some(target) = ops.follow(self.task) {
            if self.flags & NO_MAGICLINKS != 0 {
                return Err(ELOOP);
            }
            let target = target?;
            if self.flags & (BENEATH | IN_ROOT) != 0 {
                return Err(EXDEV);
            }
            if self.flags & NO_XDEV != 0 && !Arc::ptr_eq(&target.mnt, &self.at.mnt) {
                return Err(EXDEV);
            }
            self.at = target;
            return Ok(false);
        }
        let text = ops.readlink(self.task)?;
        if link.mnt.flags() & MNT_NOATIME == 0 {
            inode.touch_atime(true);
        }
        if text.is_empty() {
            return Err(ENOENT);
        }
        if text[0] == b'/' {
            if self.flags & BENEATH != 0 {
                return Err(EXDEV);
            }
            if self.flags & NO_XDEV != 0 && !Arc::ptr_eq(&self.root.mnt, &self.at.mnt) {
                return Err(EXDEV);
            }
            self.at = self.root.clone();
        }
        if text.iter().all(|b| *b == b'/') {
            return Ok(false);
        }
        self.stack.push(Fragment { text: Cow::Owned(text), pos: 0 });
        Ok(true)
    }

    /// /proc/sys/fs/protected_symlinks (proc(5)).
    fn check_sticky_link(&self, link: &Path) -> Result<()> {
        if self.kernel.vfs.protection.symlinks.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let Some(dir) = link.dentry.parent() else { return Ok(()) };
        let d = dir.inode.perm()?;
        let l = link.inode().perm()?;
        let sticky = d.mode & (libc::S_ISVTX | libc::S_IWOTH) == libc::S_ISVTX | libc::S_IWOTH;
        if sticky && l.uid != self.cred.fsuid && l.uid != d.uid { Err(EACCES) } else { Ok(()) }
    }

    /// `..`.
    fn up(&mut self) -> Result<()> {
        let mut p = self.at.clone();
        loop {
            if p.same(&self.root) {
                if self.flags & BENEATH != 0 {
                    return Err(EXDEV);
                }
                break;
            }
            if !p.is_mount_root() {
                match p.dentry.parent() {
                    Some(d) => p.dentry = d,
                    None => break,
                }
                break;
            }
            if !p.leave_mount() {
                break;
            }
            if self.flags & NO_XDEV != 0 {
                return Err(EXDEV);
            }
        }
        if p.dentry.is_mountpoint() && !p.same(&self.root) {
            p.enter_mounts();
        }
        self.at = p;
        Ok(())
    }

    /// The kernel the walk happens in.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }
}

/// The place `path` leads to.
pub fn lookup(task: &Task, start: &DirFd, path: &[u8], flags: u32) -> Result<Path> {
    Walker::new(task, start, path, flags)?.to_end()
}

/// The directory and last component of `path`; the flag says whether a slash followed.
pub fn lookup_parent(task: &Task, start: &DirFd, path: &[u8]) -> Result<(Path, Last, bool)> {
    let mut w = Walker::new(task, start, path, 0)?;
    let last = w.to_parent()?;
    Ok((w.at, last, w.trailing))
}
