//! hostfs: directories of the host.
//!
//! A file is named by a directory of the host, held as an O_PATH descriptor, and one component that is
//! never a link that gets followed: nothing in the tree, and no race on the host, leads out of it.
//! The mount's own root is resolved with openat2(2) RESOLVE_BENEATH below the confinement root.
//! An inode is identified by host device, inode number, type and birth time.
//!
//! Data is not cached: reads, writes and mappings go to the host's file, so guest and host see the same
//! bytes at once. Names and attributes are asked for again at every walk, except on a *trusted* mount (a
//! layer that nobody changes), where they are kept.

mod file;
mod handles;
mod inode;

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, pr_err};
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_core::vfs::{Dev, FsType, Inode, StatFs, SuperBlock};
use uml_host::fs as host;

use handles::HandleCache;
pub use inode::HostInode;
use inode::Identity;

/// Magic number of statfs(2).
pub const MAGIC: u64 = 0x00c0_ffee;

/// The boot option `hostfs=<root>[,append]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Host directory that no mount can leave.
    pub root: Vec<u8>,
    /// Files only grow: truncation is ignored and unlinking refused.
    pub append: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { root: b"/".to_vec(), append: false }
    }
}

/// What the inodes of one mount share.
pub(crate) struct Shared {
    pub append: bool,
    pub trusted: bool,
    pub dev: Dev,
    /// Inodes that somebody holds.
    pub inodes: Mutex<HashMap<Identity, Weak<HostInode>>>,
    pub handles: HandleCache,
    /// Host devices other than the root's, as the guest sees them.
    devs: Mutex<HashMap<(u32, u32), Dev>>,
    kernel: Weak<Kernel>,
    me: Mutex<Weak<HostFs>>,
    root_dev: (u32, u32),
}

impl Shared {
    /// `st_dev` for a file of host device `host`; `None` for the root's.
    pub fn guest_dev(&self, host: (u32, u32)) -> Option<Dev> {
        if host == self.root_dev {
            return None;
        }
        let mut devs = self.devs.lock();
        if let Some(d) = devs.get(&host) {
            return Some(*d);
        }
        let d = self.kernel.upgrade()?.vfs.anonymous_dev();
        devs.insert(host, d);
        Some(d)
    }

    pub fn superblock(&self) -> Option<Arc<HostFs>> {
        self.me.lock().upgrade()
    }
}

/// A mounted host directory.
pub struct HostFs {
    shared: Arc<Shared>,
    root: Arc<HostInode>,
    root_fd: Arc<OwnedFd>,
    /// As shown in /proc/mounts: the path below the confinement root.
    shown: String,
}

impl HostFs {
    /// Mounts `path`, which is resolved below `config.root`. A `trusted` mount keeps names and attributes.
    pub fn open(
        kernel: &Arc<Kernel>,
        config: &Config,
        path: &[u8],
        trusted: bool,
    ) -> Result<Arc<HostFs>> {
        let top = host::open_root(&config.root)?;
        let relative = path.trim_ascii_start();
        let start = relative.iter().position(|b| *b != b'/').unwrap_or(relative.len());
        let relative = if start == relative.len() { &b"."[..] } else { &relative[start..] };
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let fd = Arc::new(host::openat2(top.as_fd(), relative, flags, 0, host::BENEATH)?);
        let stat = host::statx(fd.as_fd(), b"")?;
        let shared = Arc::new(Shared {
            append: config.append,
            trusted,
            dev: kernel.vfs.anonymous_dev(),
            inodes: Mutex::new(Rank::LEAF, HashMap::new()),
            handles: HandleCache::new(),
            devs: Mutex::new(Rank::LEAF, HashMap::new()),
            kernel: Arc::downgrade(kernel),
            me: Mutex::new(Rank::LEAF, Weak::new()),
            root_dev: stat.dev,
        });
        let root = HostInode::root(&shared, fd.clone(), &stat);
        let shown = format!(",/{}", String::from_utf8_lossy(&path[path.len().min(start)..]));
        let fs = Arc::new(HostFs { shared: shared.clone(), root, root_fd: fd, shown });
        *shared.me.lock() = Arc::downgrade(&fs);
        Ok(fs)
    }
}

impl SuperBlock for HostFs {
    fn fs_type(&self) -> &'static str {
        "hostfs"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn statfs(&self) -> Result<StatFs> {
        let s = host::statfs(self.root_fd.as_fd())?;
        Ok(StatFs {
            magic: MAGIC,
            block_size: s.bsize,
            blocks: s.blocks,
            blocks_free: s.bfree,
            blocks_avail: s.bavail,
            files: s.files,
            files_free: s.ffree,
            fsid: self.shared.dev.encode(),
            name_max: s.namelen,
        })
    }

    fn dev(&self) -> Dev {
        self.shared.dev
    }

    fn show_options(&self) -> String {
        let append = if self.shared.append { ",append" } else { "" };
        let trusted = if self.shared.trusted { ",trusted" } else { "" };
        format!("{}{append}{trusted}", self.shown)
    }

    fn unmount(&self) {
        self.shared.handles.clear();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The type hostfs.
pub struct HostFsType {
    config: Config,
}

impl HostFsType {
    /// Mounts are confined by `config`.
    pub fn new(config: Config) -> HostFsType {
        HostFsType { config }
    }
}

impl FsType for HostFsType {
    fn name(&self) -> &'static str {
        "hostfs"
    }

    /// The path comes as the whole option text (`-o /home`) or as `hostfs=/home`; without one the
    /// confinement root itself is mounted. `,trusted` after it says that nobody changes the tree while it is
    /// mounted: names and attributes are then asked for once.
    fn mount(&self, task: &Task, _: &[u8], _: u64, data: &[u8]) -> Result<Arc<dyn SuperBlock>> {
        let path = data.strip_prefix(b"hostfs=").unwrap_or(data);
        let (path, trusted) = match path.strip_suffix(b",trusted") {
            Some(p) => (p, true),
            None => (path, false),
        };
        match HostFs::open(&task.kernel(), &self.config, path, trusted) {
            Ok(fs) => Ok(fs),
            Err(e) => {
                pr_err!(
                    "hostfs: cannot mount {} below {}: {e}",
                    String::from_utf8_lossy(path),
                    String::from_utf8_lossy(&self.config.root)
                );
                Err(if e == EXDEV { EACCES } else { e })
            }
        }
    }
}
