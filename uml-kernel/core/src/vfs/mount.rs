//! Mounts and the locations inside them (mount_namespaces(7), mount(2)).
//!
//! A mount belongs to one namespace. It owns the mounts on top of it and knows its parent weakly, so a
//! tree of mounts lives as long as its root is attached or somebody uses it. Every change of a
//! tree's shape happens under the machine's mount lock ([`Vfs::mount_lock`]); walks read one
//! mount's map at a time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Rank, RwLock, WaitQueue};

use crate::ns::UserNs;
use crate::task::Task;
use crate::vfs::{Dentry, Dev, Inode, Metadata, SuperBlock, Vfs};

/// Per-mount flags, with the bits of mount(2).
pub const MNT_RDONLY: u64 = libc::MS_RDONLY;
pub const MNT_NOSUID: u64 = libc::MS_NOSUID;
pub const MNT_NODEV: u64 = libc::MS_NODEV;
pub const MNT_NOEXEC: u64 = libc::MS_NOEXEC;
pub const MNT_NOATIME: u64 = libc::MS_NOATIME;
pub const MNT_NODIRATIME: u64 = libc::MS_NODIRATIME;
pub const MNT_RELATIME: u64 = libc::MS_RELATIME;
pub const MNT_NOSYMFOLLOW: u64 = 256;
/// All of them.
pub const MNT_FLAGS: u64 = MNT_RDONLY
    | MNT_NOSUID
    | MNT_NODEV
    | MNT_NOEXEC
    | MNT_NOATIME
    | MNT_NODIRATIME
    | MNT_RELATIME
    | MNT_NOSYMFOLLOW;

/// Most mounts in one namespace (/proc/sys/fs/mount-max).
pub const MOUNT_MAX: usize = 100_000;

/// A filesystem instance in use: its root dentry is the top of everything cached of it. The superblock
/// is unmounted when the last mount of it goes.
pub struct SuperInstance {
    pub sb: Arc<dyn SuperBlock>,
    pub root: Arc<Dentry>,
    owner: OnceLock<Arc<UserNs>>,
    no_devices: AtomicBool,
}

impl SuperInstance {
    /// An instance of the initial user namespace until somebody else mounts it first.
    pub(crate) fn new(sb: Arc<dyn SuperBlock>, root: Arc<Dentry>) -> SuperInstance {
        SuperInstance { sb, root, owner: OnceLock::new(), no_devices: AtomicBool::new(false) }
    }

    /// From now on its device nodes cannot be opened, if `so`: somebody without privilege over devices made it.
    pub fn forbid_devices(&self, so: bool) {
        if so {
            self.no_devices.store(true, Ordering::Relaxed);
        }
    }

    /// Whether [`SuperInstance::forbid_devices`] was called.
    pub fn forbids_devices(&self) -> bool {
        self.no_devices.load(Ordering::Relaxed)
    }

    /// Whose administrator may change its options.
    pub fn owner(&self) -> Arc<UserNs> {
        self.owner.get().cloned().unwrap_or_else(UserNs::initial)
    }

    /// Gives it to a user namespace; the first one that mounts it has it.
    pub fn own(&self, ns: &Arc<UserNs>) {
        let _ = self.owner.set(ns.clone());
    }
}

impl Drop for SuperInstance {
    fn drop(&mut self) {
        self.root.shrink_all();
        if let Err(e) = self.sb.sync() {
            uml_base::pr_err!("VFS: {}: write-out at unmount failed: {e}", self.sb.fs_type());
        }
        self.sb.unmount();
    }
}

/// Propagation of a mount (mount_namespaces(7), "Shared subtrees"); 0 is "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Propagation {
    /// Peer group (`shared:N` in mountinfo).
    pub group: u64,
    /// Group whose events it receives (`master:N`).
    pub master: u64,
    pub unbindable: bool,
}

#[derive(Default)]
pub(crate) struct Link {
    pub parent: Weak<Mount>,
    /// Where on the parent.
    pub point: Option<Arc<Dentry>>,
    pub ns: Weak<MountNs>,
    pub propagation: Propagation,
}

/// A superblock attached to the tree.
pub struct Mount {
    /// Number in mountinfo; never reused.
    pub id: u64,
    pub sb: Arc<dyn SuperBlock>,
    pub instance: Arc<SuperInstance>,
    /// What of the superblock is visible (bind mounts show a part).
    pub root: Arc<Dentry>,
    /// Device or name given to mount(2).
    pub source: Vec<u8>,
    flags: AtomicU64,
    pub(crate) link: RwLock<Link>,
    pub(crate) children: RwLock<HashMap<usize, Arc<Mount>>>,
    /// Marked by umount2(2) MNT_EXPIRE.
    pub(crate) expired: AtomicBool,
    /// Came from a more privileged mount namespace: it stays where it is (mount_namespaces(7), "Restrictions on mount
    /// namespaces").
    pub(crate) locked: AtomicBool,
    /// It, or what it is a copy of, came from there: its flags are not lifted, and those of access times stay.
    pub(crate) flags_locked: AtomicBool,
}

/// A mount and its copy.
pub(crate) type MountPair = (Arc<Mount>, Arc<Mount>);

pub(crate) fn dentry_key(d: &Arc<Dentry>) -> usize {
    Arc::as_ptr(d) as usize
}

impl Mount {
    /// A mount of `root` that is not attached anywhere.
    pub fn detached(
        id: u64,
        instance: Arc<SuperInstance>,
        root: Arc<Dentry>,
        source: &[u8],
        flags: u64,
    ) -> Arc<Mount> {
        Arc::new(Mount {
            id,
            sb: instance.sb.clone(),
            instance,
            root,
            source: source.to_vec(),
            flags: AtomicU64::new(flags & MNT_FLAGS),
            link: RwLock::new(Rank::LEAF, Link::default()),
            children: RwLock::new(Rank::LEAF, HashMap::new()),
            expired: AtomicBool::new(false),
            locked: AtomicBool::new(false),
            flags_locked: AtomicBool::new(false),
        })
    }

    /// The MNT_* flags.
    pub fn flags(&self) -> u64 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Replaces the MNT_* flags (remount with MS_BIND, mount_setattr(2)).
    pub fn set_flags(&self, flags: u64) {
        self.flags.store(flags & MNT_FLAGS, Ordering::Relaxed);
    }

    /// Checks a change of flags against what a more privileged namespace set: `EPERM`.
    pub fn may_set_flags(&self, new: u64) -> Result<()> {
        let kept = MNT_RDONLY | MNT_NOSUID | MNT_NODEV | MNT_NOEXEC;
        let fixed = MNT_NOATIME | MNT_NODIRATIME | MNT_RELATIME;
        let old = self.flags();
        let lifts = old & kept & !new != 0 || (old ^ new) & fixed != 0;
        if lifts && self.flags_locked.load(Ordering::Relaxed) { Err(EPERM) } else { Ok(()) }
    }

    /// True when nothing may be written through it, by its own flag or the superblock's.
    pub fn read_only(&self) -> bool {
        self.flags() & MNT_RDONLY != 0 || self.sb.read_only()
    }

    /// `EROFS` when nothing may be written through it.
    pub fn want_write(&self) -> Result<()> {
        if self.read_only() { Err(EROFS) } else { Ok(()) }
    }

    /// The mount and place it is attached to.
    pub fn parent(&self) -> Option<Path> {
        let l = self.link.read();
        Some(Path { mnt: l.parent.upgrade()?, dentry: l.point.clone()? })
    }

    /// The namespace it belongs to; none when detached or internal.
    pub fn ns(&self) -> Option<Arc<MountNs>> {
        self.link.read().ns.upgrade()
    }

    /// How mount events spread from and to it.
    pub fn propagation(&self) -> Propagation {
        self.link.read().propagation
    }

    /// The mount on top of `dentry`, if any.
    pub fn child_at(&self, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        if !dentry.is_mountpoint() {
            return None;
        }
        self.children.read().get(&dentry_key(dentry)).cloned()
    }

    /// Mounts directly on this one.
    pub fn children(&self) -> Vec<Arc<Mount>> {
        self.children.read().values().cloned().collect()
    }

    /// This mount and everything below, parents first.
    pub fn subtree(self: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let mut out = vec![self.clone()];
        let mut i = 0;
        while i < out.len() {
            let mut c = out[i].children();
            c.sort_by_key(|m| m.id);
            out.extend(c);
            i += 1;
        }
        out
    }

    /// Its root as a location.
    pub fn root_path(self: &Arc<Mount>) -> Path {
        Path { mnt: self.clone(), dentry: self.root.clone() }
    }

    /// Hangs `self` on `at`; the mount lock is held.
    pub(crate) fn hang(self: &Arc<Mount>, at: &Path, ns: &Weak<MountNs>) {
        at.dentry.mounted.fetch_add(1, Ordering::AcqRel);
        {
            let mut l = self.link.write();
            l.parent = Arc::downgrade(&at.mnt);
            l.point = Some(at.dentry.clone());
        }
        for m in self.subtree() {
            m.link.write().ns = ns.clone();
        }
        at.mnt.children.write().insert(dentry_key(&at.dentry), self.clone());
    }

    /// Takes `self` off its place; the mount lock is held. The subtree keeps its shape and loses its
    /// namespace. The returned reference is dropped after the lock.
    pub(crate) fn unhang(self: &Arc<Mount>) -> Option<Arc<Mount>> {
        let (parent, point) = {
            let mut l = self.link.write();
            (std::mem::take(&mut l.parent), l.point.take())
        };
        for m in self.subtree() {
            m.link.write().ns = Weak::new();
        }
        let point = point?;
        point.mounted.fetch_sub(1, Ordering::AcqRel);
        let parent = parent.upgrade()?;
        let mut c = parent.children.write();
        match c.get(&dentry_key(&point)) {
            Some(m) if Arc::ptr_eq(m, self) => c.remove(&dentry_key(&point)),
            _ => None,
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(point) = self.link.write().point.take() {
            point.mounted.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The mounts a group of processes sees (mount_namespaces(7)).
pub struct MountNs {
    /// Inode number of /proc/<pid>/ns/mnt.
    pub id: u64,
    root: RwLock<Arc<Mount>>,
    owner: Arc<UserNs>,
    /// Woken and counted up when the set of mounts changes (poll(2) of /proc/<pid>/mounts).
    pub changed: Arc<WaitQueue>,
    pub generation: AtomicU64,
}

impl MountNs {
    /// A namespace whose root mount is `root` (with what is mounted on it).
    pub fn new(id: u64, root: Arc<Mount>) -> Arc<MountNs> {
        MountNs::owned(id, root, UserNs::initial())
    }

    /// As [`MountNs::new`] for somebody of the user namespace `owner`.
    pub fn owned(id: u64, root: Arc<Mount>, owner: Arc<UserNs>) -> Arc<MountNs> {
        let ns = Arc::new(MountNs {
            id,
            owner,
            root: RwLock::new(Rank::LEAF, root.clone()),
            changed: WaitQueue::shared(),
            generation: AtomicU64::new(0),
        });
        for m in root.subtree() {
            m.link.write().ns = Arc::downgrade(&ns);
        }
        ns
    }

    /// Whose capabilities count in it.
    pub fn owner(&self) -> Arc<UserNs> {
        self.owner.clone()
    }

    /// The root mount.
    pub fn root(&self) -> Arc<Mount> {
        self.root.read().clone()
    }

    pub(crate) fn set_root(&self, m: Arc<Mount>) -> Arc<Mount> {
        std::mem::replace(&mut *self.root.write(), m)
    }

    /// Every mount, in the order of /proc/mounts.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        let mut v = self.root().subtree();
        v.sort_by_key(|m| m.id);
        v
    }

    /// True when a mount of this namespace sits on `dentry`.
    pub fn has_mount_on(&self, dentry: &Arc<Dentry>) -> bool {
        dentry.is_mountpoint() && self.root().subtree().iter().any(|m| m.child_at(dentry).is_some())
    }

    pub(crate) fn announce(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.changed.wake_all(Events::ERR | Events::PRI);
    }
}

impl Drop for MountNs {
    fn drop(&mut self) {
        // Users of single mounts may remain; the tree as such is dissolved.
        for m in self.root().subtree() {
            m.link.write().ns = Weak::new();
        }
    }
}

/// A location: a dentry seen through a mount.
#[derive(Clone)]
pub struct Path {
    pub mnt: Arc<Mount>,
    pub dentry: Arc<Dentry>,
}

impl Path {
    /// The file there.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.dentry.inode
    }

    /// Its attributes.
    pub fn metadata(&self) -> Result<Metadata> {
        self.dentry.inode.metadata()
    }

    /// `st_dev`.
    pub fn dev(&self) -> Dev {
        self.dentry.inode.dev().unwrap_or_else(|| self.mnt.sb.dev())
    }

    /// Set-user-ID bits and file capabilities have no effect (MS_NOSUID).
    pub fn nosuid(&self) -> bool {
        self.mnt.flags() & MNT_NOSUID != 0
    }

    /// Nothing may be executed (MS_NOEXEC).
    pub fn noexec(&self) -> bool {
        self.mnt.flags() & MNT_NOEXEC != 0
    }

    /// True when both are the same place.
    pub fn same(&self, o: &Path) -> bool {
        Arc::ptr_eq(&self.mnt, &o.mnt) && Arc::ptr_eq(&self.dentry, &o.dentry)
    }

    /// True at the root of its mount.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.mnt.root, &self.dentry)
    }

    /// Goes up to the topmost mount on this place; true when it moved.
    pub fn enter_mounts(&mut self) -> bool {
        let mut moved = false;
        while let Some(m) = self.mnt.child_at(&self.dentry) {
            self.dentry = m.root.clone();
            self.mnt = m;
            moved = true;
        }
        moved
    }

    /// From the root of a mount to where it is attached; false when it is attached nowhere.
    pub fn leave_mount(&mut self) -> bool {
        match self.mnt.parent() {
            Some(p) => {
                *self = p;
                true
            }
            None => false,
        }
    }

    /// True when `self` lies below (or at) `top`, through mounts.
    pub fn is_under(&self, top: &Path) -> bool {
        let mut p = self.clone();
        loop {
            if Arc::ptr_eq(&p.mnt, &top.mnt) {
                return p.dentry.is_within(&top.dentry);
            }
            match p.mnt.parent() {
                Some(up) => p = up,
                None => return false,
            }
        }
    }
}

impl Vfs {
    /// The instance of `sb`, shared with its other mounts.
    pub fn instance(&self, sb: Arc<dyn SuperBlock>) -> Arc<SuperInstance> {
        let key = Arc::as_ptr(&sb) as *const () as usize;
        let mut v = self.supers.lock();
        v.retain(|(_, w)| w.strong_count() != 0);
        if let Some(i) = v.iter().find(|(k, _)| *k == key).and_then(|(_, w)| w.upgrade()) {
            return i;
        }
        let root = Dentry::root(sb.root());
        let i = Arc::new(SuperInstance::new(sb, root));
        v.push((key, Arc::downgrade(&i)));
        i
    }

    /// Every filesystem instance in use (sync(2)).
    pub fn instances(&self) -> Vec<Arc<SuperInstance>> {
        self.supers.lock().iter().filter_map(|(_, w)| w.upgrade()).collect()
    }

    /// A mount of the whole of `sb` that is not attached anywhere.
    pub fn new_mount(&self, sb: Arc<dyn SuperBlock>, source: &[u8], flags: u64) -> Arc<Mount> {
        let instance = self.instance(sb);
        let root = instance.root.clone();
        let m = Mount::detached(self.next_mount_id(), instance, root, source, flags);
        self.remember_mount(&m);
        m
    }

    /// As [`Vfs::new_mount`], of what `task` may see of `sb`. `ENOENT` when that was removed.
    pub fn new_mount_for(
        &self,
        task: &Task,
        sb: Arc<dyn SuperBlock>,
        source: &[u8],
        flags: u64,
    ) -> Result<Arc<Mount>> {
        let Some(names) = sb.shown_to(task) else { return Ok(self.new_mount(sb, source, flags)) };
        let instance = self.instance(sb);
        let mut root = instance.root.clone();
        for name in &names {
            root = self.dcache.lookup(&root, name)?.ok_or(ENOENT)?;
        }
        let m = Mount::detached(self.next_mount_id(), instance, root, source, flags);
        self.remember_mount(&m);
        Ok(m)
    }

    /// A copy of `m` that shows `root`, with the same flags and propagation (bind mounts, namespaces).
    pub(crate) fn clone_mount(&self, m: &Arc<Mount>, root: &Arc<Dentry>) -> Arc<Mount> {
        let id = self.next_mount_id();
        let c = Mount::detached(id, m.instance.clone(), root.clone(), &m.source, m.flags());
        let mut p = m.propagation();
        p.unbindable = false;
        c.link.write().propagation = p;
        c.locked.store(m.locked.load(Ordering::Relaxed), Ordering::Relaxed);
        c.flags_locked.store(m.flags_locked.load(Ordering::Relaxed), Ordering::Relaxed);
        self.remember_mount(&c);
        c
    }

    /// A copy of the tree of mounts at `at`. Without `recursive` only the mount itself. Unbindable
    /// mounts are left out unless `all`. Returns the copy's root and the pairs (old, new).
    pub(crate) fn clone_tree(
        &self,
        at: &Path,
        recursive: bool,
        all: bool,
    ) -> (Arc<Mount>, Vec<MountPair>) {
        let top = self.clone_mount(&at.mnt, &at.dentry);
        let mut pairs = vec![(at.mnt.clone(), top.clone())];
        let mut i = 0;
        while recursive && i < pairs.len() {
            let (old, new) = pairs[i].clone();
            i += 1;
            for child in old.children() {
                let Some(point) = child.link.read().point.clone() else { continue };
                if !point.is_within(&new.root) || (!all && child.propagation().unbindable) {
                    continue;
                }
                let copy = self.clone_mount(&child, &child.root);
                if all {
                    copy.link.write().propagation = child.propagation();
                }
                copy.hang(&Path { mnt: new.clone(), dentry: point }, &Weak::new());
                pairs.push((child, copy));
            }
        }
        (top, pairs)
    }
}
