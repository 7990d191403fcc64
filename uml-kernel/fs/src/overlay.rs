//! Overlay: directory trees of several filesystems joined to one (Linux's overlayfs).
//!
//! The *upper* layer takes all changes; *lower* layers are only read. A file of a lower layer is copied
//! up before its first change; removing a lower name puts a whiteout (character device 0:0) in its
//! place; an upper directory marked opaque hides lower ones. Renaming a directory that has a lower
//! part is `EXDEV`, which mv(1) and others answer by copying (redirect_dir=off).
//!
//! Inode numbers are those of the layer a file came from, with the layer in the top byte (xino), and stay when
//! it is copied up. A read-only descriptor follows a copy-up; a mapping made before does not.
//!
//! Lock order: the copy-up lock of an inode, then the change lock of its directory, then the layers.

mod copy_up;
mod file;
mod inode;
mod options;
mod rename;

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, pr_err};
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_core::vfs::walk::{self, DirFd};
use uml_core::vfs::{Caching, Dev, FsType, Inode, NewNode, NodeKind, Path, StatFs, SuperBlock};

use crate::tmpfs::TmpFs;
use inode::{Key, OvlInode};

/// OVERLAYFS_SUPER_MAGIC.
pub const MAGIC: u64 = 0x794c_7630;
/// Most lower layers.
const MAX_LAYERS: usize = 500;

/// What makes an overlay.
pub struct Layers {
    /// Directories, topmost first.
    pub lower: Vec<Arc<dyn Inode>>,
    /// Directory that takes the changes, and an empty directory of the same filesystem for work in
    /// progress. Without them the overlay is read-only.
    pub upper: Option<(Arc<dyn Inode>, Arc<dyn Inode>)>,
}

/// What the inodes of one overlay share.
pub(crate) struct Shared {
    pub dev: Dev,
    /// Where files are made before they get their place.
    pub work: Option<Arc<dyn Inode>>,
    /// Prefix of the marks in extended attributes; `None` when the upper layer keeps none.
    pub marks: Option<&'static str>,
    pub caching: Caching,
    pub inodes: Mutex<HashMap<Key, Weak<OvlInode>>>,
    /// Devices of the layers, numbered in order of appearance; the upper layer's is 0.
    devs: Mutex<Vec<Dev>>,
    next_temp: AtomicU64,
    me: Mutex<Weak<OverlayFs>>,
}

impl Shared {
    /// The inode number for number `ino` on the layer device `dev`.
    pub fn map_ino(&self, dev: Dev, ino: u64) -> u64 {
        let mut devs = self.devs.lock();
        let n = match devs.iter().position(|d| *d == dev) {
            Some(n) => n,
            None => {
                devs.push(dev);
                devs.len() - 1
            }
        };
        ino ^ (n as u64) << 56
    }

    /// A name in the work directory that is not in use.
    pub fn temp_name(&self) -> Vec<u8> {
        format!("#{:x}", self.next_temp.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }

    /// The full name of a mark.
    pub fn mark(&self, what: &str) -> Option<Vec<u8>> {
        self.marks.map(|p| format!("{p}{what}").into_bytes())
    }

    pub fn superblock(&self) -> Option<Arc<OverlayFs>> {
        self.me.lock().upgrade()
    }
}

/// An overlay.
pub struct OverlayFs {
    shared: Arc<Shared>,
    root: Arc<OvlInode>,
    upper_sb: Option<Arc<dyn SuperBlock>>,
    lower_sb: Arc<dyn SuperBlock>,
    shown: String,
    /// Keeps the mounts the layers were found in.
    _places: Vec<Path>,
}

/// Prefixes of extended attributes that mark things for us.
const PREFIXES: [&str; 2] = ["trusted.overlay.", "user.overlay."];

/// True for attributes that belong to the overlay and do not show.
pub(crate) fn is_private(name: &[u8]) -> bool {
    PREFIXES.iter().any(|p| name.starts_with(p.as_bytes()))
}

/// True for the mark that a name was removed.
pub(crate) fn is_whiteout(inode: &Arc<dyn Inode>) -> bool {
    inode.file_type() == libc::S_IFCHR && inode.metadata().is_ok_and(|m| m.rdev == Dev::default())
}

/// The subdirectory `name`, made when it is not there.
fn subdirectory(dir: &Arc<dyn Inode>, name: &[u8]) -> Result<Arc<dyn Inode>> {
    let ops = dir.dir().ok_or(ENOTDIR)?;
    match ops.lookup(name) {
        Err(ENOENT) => {
            let kind = NodeKind::Directory;
            ops.create(name, &NewNode { kind, mode: 0o755, uid: 0, gid: 0 })
        }
        other => other,
    }
}

impl OverlayFs {
    /// Joins `layers`; `shown` is what /proc/mounts says, with a leading comma.
    pub fn new(kernel: &Arc<Kernel>, layers: Layers, shown: String) -> Result<Arc<OverlayFs>> {
        OverlayFs::with_places(kernel, layers, shown, Vec::new())
    }

    /// The usual throw-away layer: everything written goes to `upper`, an empty tmpfs.
    pub fn over(
        kernel: &Arc<Kernel>,
        lower: &Arc<dyn SuperBlock>,
        upper: &Arc<TmpFs>,
    ) -> Result<Arc<OverlayFs>> {
        let top = upper.root();
        let up = subdirectory(&top, b"upper")?;
        // Like the lower root, which it stands in front of.
        let m = lower.root().metadata()?;
        up.set_attr(&uml_core::vfs::SetAttr {
            mode: Some(m.mode & 0o7777),
            uid: Some(m.uid),
            gid: Some(m.gid),
            ..Default::default()
        })?;
        let work = subdirectory(&top, b"work")?;
        let layers = Layers { lower: vec![lower.root()], upper: Some((up, work)) };
        OverlayFs::new(kernel, layers, ",lowerdir=/,upperdir=/upper,workdir=/work".into())
    }

    fn with_places(
        kernel: &Arc<Kernel>,
        layers: Layers,
        shown: String,
        places: Vec<Path>,
    ) -> Result<Arc<OverlayFs>> {
        let Layers { lower, upper } = layers;
        let lower_sb = lower.first().ok_or(EINVAL)?.superblock();
        if lower.len() > MAX_LAYERS || lower.iter().any(|l| l.dir().is_none()) {
            return Err(EINVAL);
        }
        let mut marks = None;
        let mut work = None;
        if let Some((up, w)) = &upper {
            if up.dir().is_none() || w.dir().is_none() {
                return Err(ENOTDIR);
            }
            if up.superblock().read_only() {
                pr_err!("overlayfs: upper fs is r/o, try multi-lower layers mount");
                return Err(EINVAL);
            }
            let dir = subdirectory(w, b"work")?;
            marks = PREFIXES.into_iter().find(|p| {
                let name = format!("{p}opaque");
                dir.xattr().is_some_and(|x| x.set(name.as_bytes(), b"0", 0).is_ok())
            });
            if marks.is_none() {
                pr_err!(
                    "overlayfs: upper fs keeps no extended attributes: removed directories cannot be made anew"
                );
            }
            work = Some(dir);
        }
        let all = lower.iter().chain(upper.iter().map(|(u, _)| u));
        let trusted = all.clone().all(|i| i.caching() == Caching::Trusted);
        let caching = if trusted { Caching::Trusted } else { Caching::Revalidate };
        let shared = Arc::new(Shared {
            dev: kernel.vfs.anonymous_dev(),
            work,
            marks,
            caching,
            inodes: Mutex::new(Rank::LEAF, HashMap::new()),
            devs: Mutex::new(Rank::LEAF, Vec::new()),
            next_temp: AtomicU64::new(1),
            me: Mutex::new(Rank::LEAF, Weak::new()),
        });
        let upper_sb = upper.as_ref().map(|(u, _)| u.superblock());
        if let Some((u, _)) = &upper {
            shared.map_ino(u.dev().unwrap_or_else(|| u.superblock().dev()), 0);
        }
        let root = OvlInode::root(&shared, upper.map(|(u, _)| u), lower)?;
        let fs = Arc::new(OverlayFs {
            shared: shared.clone(),
            root,
            upper_sb,
            lower_sb,
            shown,
            _places: places,
        });
        *shared.me.lock() = Arc::downgrade(&fs);
        copy_up::clean_work(&shared);
        Ok(fs)
    }
}

impl SuperBlock for OverlayFs {
    fn fs_type(&self) -> &'static str {
        "overlay"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn statfs(&self) -> Result<StatFs> {
        let real = self.upper_sb.as_ref().unwrap_or(&self.lower_sb);
        Ok(StatFs { magic: MAGIC, fsid: self.shared.dev.encode(), ..real.statfs()? })
    }

    fn dev(&self) -> Dev {
        self.shared.dev
    }

    fn sync(&self) -> Result<()> {
        self.upper_sb.as_ref().map_or(Ok(()), |sb| sb.sync())
    }

    fn show_options(&self) -> String {
        self.shown.clone()
    }

    fn read_only(&self) -> bool {
        self.upper_sb.as_ref().is_none_or(|sb| sb.read_only())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The type overlay.
pub struct OverlayType;

impl FsType for OverlayType {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn user_mountable(&self) -> bool {
        true
    }

    fn mount(&self, task: &Task, _: &[u8], _: u64, data: &[u8]) -> Result<Arc<dyn SuperBlock>> {
        let o = options::parse(data)?;
        let find = |path: &[u8]| {
            walk::lookup(task, &DirFd::Cwd, path, walk::FOLLOW | walk::DIRECTORY).inspect_err(|e| {
                pr_err!("overlayfs: failed to resolve '{}': {e}", String::from_utf8_lossy(path));
            })
        };
        let mut places = Vec::new();
        let mut lower = Vec::new();
        for l in &o.lower {
            let p = find(l)?;
            lower.push(p.inode().clone());
            places.push(p);
        }
        let upper = match (&o.upper, &o.work) {
            (Some(u), Some(w)) => {
                let (u, w) = (find(u)?, find(w)?);
                let nested = u.dentry.is_within(&w.dentry) || w.dentry.is_within(&u.dentry);
                if !Arc::ptr_eq(&u.mnt, &w.mnt) || nested {
                    pr_err!(
                        "overlayfs: workdir and upperdir must be separate subtrees of one mount"
                    );
                    return Err(EINVAL);
                }
                u.mnt.want_write().map_err(|_| EINVAL)?;
                let pair = (u.inode().clone(), w.inode().clone());
                places.extend([u, w]);
                Some(pair)
            }
            (Some(_), None) => {
                pr_err!("overlayfs: missing 'workdir'");
                return Err(EINVAL);
            }
            _ => None,
        };
        if upper.is_none() && lower.len() < 2 {
            pr_err!("overlayfs: at least 2 lowerdir are needed while upperdir nonexistent");
            return Err(EINVAL);
        }
        let layers = Layers { lower, upper };
        Ok(OverlayFs::with_places(&task.kernel(), layers, o.shown, places)?)
    }
}
