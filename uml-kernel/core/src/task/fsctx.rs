//! Root directory, working directory and umask (shared with CLONE_FS).

use std::sync::Arc;

use uml_base::{Mutex, Rank};

use crate::vfs::{MountNs, Path};

/// Where path walks start.
pub struct FsContext {
    inner: Mutex<Inner>,
}

#[derive(Clone)]
struct Inner {
    root: Path,
    cwd: Path,
    umask: u32,
    mounts: Arc<MountNs>,
}

impl FsContext {
    /// A context with working directory and root at `root`, umask 022.
    pub fn new(root: Path, mounts: Arc<MountNs>) -> FsContext {
        let inner = Inner { cwd: root.clone(), root, umask: 0o022, mounts };
        FsContext { inner: Mutex::new(Rank::FSCONTEXT, inner) }
    }

    /// A copy for fork(2) without CLONE_FS.
    pub fn duplicate(&self) -> FsContext {
        FsContext { inner: Mutex::new(Rank::FSCONTEXT, self.inner.lock().clone()) }
    }

    /// Root directory (chroot(2)).
    pub fn root(&self) -> Path {
        self.inner.lock().root.clone()
    }

    /// Working directory.
    pub fn cwd(&self) -> Path {
        self.inner.lock().cwd.clone()
    }

    /// Sets the root directory and returns the old one.
    pub fn set_root(&self, p: Path) -> Path {
        std::mem::replace(&mut self.inner.lock().root, p)
    }

    /// Sets the working directory and returns the old one.
    pub fn set_cwd(&self, p: Path) -> Path {
        std::mem::replace(&mut self.inner.lock().cwd, p)
    }

    /// File creation mask.
    pub fn umask(&self) -> u32 {
        self.inner.lock().umask
    }

    /// Sets the mask and returns the old one (umask(2)).
    pub fn set_umask(&self, mask: u32) -> u32 {
        std::mem::replace(&mut self.inner.lock().umask, mask & 0o777)
    }

    /// Mount namespace.
    pub fn mounts(&self) -> Arc<MountNs> {
        self.inner.lock().mounts.clone()
    }

    /// Changes the mount namespace (unshare(2), setns(2)).
    pub fn set_mounts(&self, ns: Arc<MountNs>) {
        let old = std::mem::replace(&mut self.inner.lock().mounts, ns);
        drop(old);
    }
}
