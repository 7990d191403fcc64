//! Changing the mount tree: attach, bind, move, unmount, pivot, copies of namespaces, and how these
//! events spread over peer groups (mount_namespaces(7), "Shared subtrees").

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;

use crate::kernel::Kernel;
use crate::ns::UserNs;
use crate::task::{FsContext, Task};
use crate::vfs::mount::{MOUNT_MAX, Mount, MountNs, Path, Propagation};
use crate::vfs::{SuperBlock, Vfs};

/// Propagation types of mount(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropagationType {
    Shared,
    Slave,
    Private,
    Unbindable,
}

/// One mount that receives what happens on another: where, and how its copies propagate.
struct Receiver {
    mnt: Arc<Mount>,
    /// Class of the group it received through: 0 for the origin's own peers, else its index in the
    /// order of discovery.
    class: usize,
}

impl Vfs {
    /// Makes a namespace whose root is a mount of `sb`, with the context of its first process.
    pub fn first_namespace(
        &self,
        sb: Arc<dyn SuperBlock>,
        source: &[u8],
        flags: u64,
    ) -> (Arc<MountNs>, FsContext) {
        let m = self.new_mount(sb, source, flags);
        let ns = MountNs::new(crate::ns::next_id(), m.clone());
        let fs = FsContext::new(m.root_path(), ns.clone());
        (ns, fs)
    }

    /// Tells those who watch /proc/<pid>/mounts that something about the mounts changed.
    pub fn announce(&self, ns: &Arc<MountNs>) {
        ns.announce();
    }

    fn live_mounts(&self) -> Vec<Arc<Mount>> {
        self.mounts.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Mounts that receive events of `origin`, breadth first, with the master class of each class.
    fn receivers(&self, origin: &Arc<Mount>) -> (Vec<Receiver>, Vec<(usize, u64)>) {
        let group = origin.propagation().group;
        // classes[i] = (class it is slave of, group id)
        let mut classes = vec![(0, group)];
        let mut out = Vec::new();
        if group == 0 {
            return (out, classes);
        }
        let all = self.live_mounts();
        for m in &all {
            if m.propagation().group == group && !Arc::ptr_eq(m, origin) {
                out.push(Receiver { mnt: m.clone(), class: 0 });
            }
        }
        let mut i = 0;
        while i < classes.len() {
            let g = classes[i].1;
            if g == 0 {
                i += 1;
                continue;
            }
            for m in all.iter().filter(|m| m.propagation().master == g) {
                let sub = m.propagation().group;
                if sub != 0 && classes.iter().any(|c| c.1 == sub) {
                    continue;
                }
                classes.push((i, sub));
                let class = classes.len() - 1;
                if sub == 0 {
                    out.push(Receiver { mnt: m.clone(), class });
                } else {
                    for peer in all.iter().filter(|p| p.propagation().group == sub) {
                        out.push(Receiver { mnt: peer.clone(), class });
                    }
                }
            }
            i += 1;
        }
        (out, classes)
    }

    /// Hangs the detached tree `top` on `at` and on everything that receives `at`'s events. The mount
    /// lock is held.
    fn graft(&self, top: &Arc<Mount>, at: &Path) -> Result<()> {
        let ns = at.mnt.ns().ok_or(EINVAL)?;
        let tree = top.subtree();
        if ns.root().subtree().len() + tree.len() > MOUNT_MAX {
            return Err(ENOSPC);
        }
        if at.mnt.propagation().group != 0 {
            for m in &tree {
                let mut l = m.link.write();
                if l.propagation.group == 0 {
                    l.propagation.group = self.next_group();
                    l.propagation.unbindable = false;
                }
            }
            let (receivers, classes) = self.receivers(&at.mnt);
            // (class, group of the original) -> group of the copies in that class.
            let mut groups: HashMap<(usize, u64), u64> = HashMap::new();
            for r in receivers {
                if !at.dentry.is_within(&r.mnt.root) {
                    continue;
                }
                let Some(r_ns) = r.mnt.ns() else { continue };
                let (copy, pairs) = self.clone_tree(&top.root_path(), true, false);
                for (old, new) in &pairs {
                    let orig = old.propagation();
                    new.link.write().propagation =
                        class_propagation(self, &classes, &mut groups, r.class, orig);
                }
                let mut place = Path { mnt: r.mnt.clone(), dentry: at.dentry.clone() };
                place.enter_mounts();
                copy.hang(&place, &Arc::downgrade(&r_ns));
                r_ns.announce();
            }
        }
        top.hang(at, &Arc::downgrade(&ns));
        ns.announce();
        Ok(())
    }

    /// Attaches the detached tree `top` at `at` of `ns` (mount(2), move_mount(2)): directories on
    /// directories, others on others (`ENOTDIR`).
    pub fn attach(&self, ns: &Arc<MountNs>, top: &Arc<Mount>, at: &Path) -> Result<()> {
        let _lock = self.mount_lock.lock();
        let mut at = at.clone();
        at.enter_mounts();
        check_point(ns, &at, top)?;
        self.graft(top, &at)
    }

    /// A detached copy of the mount at `from` (mount(2) MS_BIND, open_tree(2) OPEN_TREE_CLONE).
    pub fn bind(&self, ns: &Arc<MountNs>, from: &Path, recursive: bool) -> Result<Arc<Mount>> {
        let _lock = self.mount_lock.lock();
        if from.mnt.propagation().unbindable {
            return Err(EINVAL);
        }
        // Objects of /proc/<pid>/ns may be bound from anywhere; all else from the caller's mounts.
        let local = from.mnt.ns().is_some_and(|n| Arc::ptr_eq(&n, ns));
        if !local && !from.dentry.is_anonymous() {
            return Err(EINVAL);
        }
        // Without its locked submounts a copy would show what they hide.
        let hidden = |c: &Arc<Mount>| {
            c.locked.load(Ordering::Relaxed)
                && c.link.read().point.as_ref().is_some_and(|p| p.is_within(&from.dentry))
        };
        if !recursive && from.mnt.children().iter().any(hidden) {
            return Err(EINVAL);
        }
        let copy = self.clone_tree(from, recursive, false).0;
        // The copy itself may go away again; its flags stay as far as the original's were locked.
        copy.locked.store(false, Ordering::Relaxed);
        Ok(copy)
    }

    /// Moves the mount at `from` to `to` (mount(2) MS_MOVE).
    pub fn move_mount(&self, ns: &Arc<MountNs>, from: &Path, to: &Path) -> Result<()> {
        let _lock = self.mount_lock.lock();
        let mut to = to.clone();
        to.enter_mounts();
        let top = &from.mnt;
        if !from.is_mount_root() || !top.ns().is_some_and(|n| Arc::ptr_eq(&n, ns)) {
            return Err(EINVAL);
        }
        if top.locked.load(Ordering::Relaxed) {
            return Err(EINVAL);
        }
        let parent = top.parent().ok_or(EINVAL)?;
        check_point(ns, &to, top)?;
        // Nothing is moved out of a shared place, nothing unbindable into one.
        if parent.mnt.propagation().group != 0 {
            return Err(EINVAL);
        }
        let tree = top.subtree();
        if to.mnt.propagation().group != 0 && tree.iter().any(|m| m.propagation().unbindable) {
            return Err(EINVAL);
        }
        if tree.iter().any(|m| Arc::ptr_eq(m, &to.mnt)) {
            return Err(ELOOP);
        }
        let kept = top.unhang();
        let r = self.graft(top, &to);
        if r.is_err() {
            top.hang(&parent, &Arc::downgrade(ns));
        }
        drop(kept);
        r
    }

    /// Unmounts `at`, the root of a mount of `ns` (umount2(2)). With `detach` the tree is taken away at
    /// once and freed when nobody uses it any more; otherwise use is `EBUSY`. With `expire` the first
    /// call marks an unused mount (`EAGAIN`) and the second unmounts it.
    pub fn unmount(&self, ns: &Arc<MountNs>, at: Path, detach: bool, expire: bool) -> Result<()> {
        let mut dropped = Vec::new();
        let lock = self.mount_lock.lock();
        if !at.is_mount_root() || !at.mnt.ns().is_some_and(|n| Arc::ptr_eq(&n, ns)) {
            return Err(EINVAL);
        }
        if at.mnt.locked.load(Ordering::Relaxed) {
            return Err(EINVAL);
        }
        let Path { mnt, dentry } = at;
        drop(dentry);
        let parent = mnt.parent().ok_or(EINVAL)?;
        // References of a mount nobody uses: its parent's map and this function's.
        let unused = |m: &Arc<Mount>, own: usize| {
            m.children.read().is_empty() && Arc::strong_count(m) <= 1 + own
        };
        // Copies that propagation made on other mounts go too, if nothing was mounted on them.
        let mut copies = Vec::new();
        for r in self.receivers(&parent.mnt).0 {
            if let Some(c) = r.mnt.child_at(&parent.dentry)
                && c.children.read().is_empty()
                && Arc::ptr_eq(&c.root, &mnt.root)
            {
                copies.push(c);
            }
        }
        if !detach {
            if !unused(&mnt, 1) || !copies.iter().all(|c| unused(c, 1)) {
                return Err(EBUSY);
            }
            if expire && !mnt.expired.swap(true, Ordering::SeqCst) {
                return Err(EAGAIN);
            }
        }
        for m in copies.into_iter().chain([mnt]) {
            if let Some(n) = m.ns() {
                n.announce();
            }
            for sub in m.subtree() {
                self.leave_group(&sub);
            }
            dropped.extend(m.unhang());
            dropped.push(m);
        }
        drop(lock);
        drop(dropped);
        Ok(())
    }

    /// Dissolves a detached tree that was never attached, or dissolves every mount on `dentry` because
    /// its directory was removed in another namespace.
    pub fn detach_mounts_on(&self, dentry: &Arc<crate::vfs::Dentry>) {
        if !dentry.is_mountpoint() {
            return;
        }
        let mut dropped = Vec::new();
        {
            let _lock = self.mount_lock.lock();
            for m in self.live_mounts() {
                if let Some(c) = m.child_at(dentry) {
                    for sub in c.subtree() {
                        self.leave_group(&sub);
                    }
                    if let Some(n) = c.ns() {
                        n.announce();
                    }
                    dropped.extend(c.unhang());
                }
            }
        }
        drop(dropped);
    }

    /// Takes `m` out of its peer group; slaves of a group that ends go to its master.
    fn leave_group(&self, m: &Arc<Mount>) {
        let p = std::mem::take(&mut m.link.write().propagation);
        if p.group != 0 {
            self.end_group(m, p);
        }
    }

    fn end_group(&self, left: &Arc<Mount>, p: Propagation) {
        let all = self.live_mounts();
        if all.iter().any(|x| !Arc::ptr_eq(x, left) && x.propagation().group == p.group) {
            return;
        }
        for x in all {
            let mut l = x.link.write();
            if l.propagation.master == p.group {
                l.propagation.master = p.master;
            }
        }
    }

    /// Changes the propagation type of the mount (mount(2) MS_SHARED and others).
    pub fn set_propagation(&self, top: &Arc<Mount>, kind: PropagationType, recursive: bool) {
        let _lock = self.mount_lock.lock();
        let list = if recursive { top.subtree() } else { vec![top.clone()] };
        for m in list {
            let old = m.propagation();
            let new = match kind {
                PropagationType::Shared => Propagation {
                    group: if old.group != 0 { old.group } else { self.next_group() },
                    master: old.master,
                    unbindable: false,
                },
                PropagationType::Slave => {
                    let has_peers = old.group != 0
                        && self
                            .live_mounts()
                            .iter()
                            .any(|x| !Arc::ptr_eq(x, &m) && x.propagation().group == old.group);
                    let master = if has_peers { old.group } else { old.master };
                    Propagation { group: 0, master, unbindable: false }
                }
                PropagationType::Private => Propagation::default(),
                PropagationType::Unbindable => {
                    Propagation { unbindable: true, ..Propagation::default() }
                }
            };
            m.link.write().propagation = new;
            if old.group != 0 && new.group == 0 {
                self.end_group(&m, old);
            }
        }
    }

    /// A copy of the namespace for unshare(2)/clone(2) CLONE_NEWNS; root and working directory in `fs`
    /// become the same places in the copy.
    ///
    /// Under another user namespace, `owner`, the copies only receive what happens on the originals.
    pub fn copy_namespace(
        &self,
        ns: &Arc<MountNs>,
        fs: &FsContext,
        owner: &Arc<UserNs>,
    ) -> Result<Arc<MountNs>> {
        let _lock = self.mount_lock.lock();
        let old_root = ns.root();
        if old_root.subtree().len() > MOUNT_MAX {
            return Err(ENOSPC);
        }
        let (top, pairs) = self.clone_tree(&old_root.root_path(), true, true);
        if !Arc::ptr_eq(owner, &ns.owner()) {
            for (old, new) in &pairs {
                let p = old.propagation();
                let master = if p.group != 0 { p.group } else { p.master };
                new.link.write().propagation = Propagation { group: 0, master, ..p };
                new.locked.store(true, Ordering::Relaxed);
                new.flags_locked.store(true, Ordering::Relaxed);
            }
        }
        let copy = MountNs::owned(crate::ns::next_id(), top, owner.clone());
        let map = |p: Path| match pairs.iter().find(|(o, _)| Arc::ptr_eq(o, &p.mnt)) {
            Some((_, n)) => Path { mnt: n.clone(), dentry: p.dentry },
            None => p,
        };
        fs.set_root(map(fs.root()));
        fs.set_cwd(map(fs.cwd()));
        fs.set_mounts(copy.clone());
        Ok(copy)
    }

    /// pivot_root(2): `new_root` becomes the root mount and the old one appears at `put_old`.
    pub fn pivot_root(&self, task: &Task, new_root: &Path, put_old: &Path) -> Result<()> {
        let fs = task.fs();
        let ns = fs.mounts();
        let root = fs.root();
        let _lock = self.mount_lock.lock();
        let (mut new, mut old) = (new_root.clone(), put_old.clone());
        new.enter_mounts();
        old.enter_mounts();
        let in_ns = |m: &Arc<Mount>| m.ns().is_some_and(|n| Arc::ptr_eq(&n, &ns));
        if !in_ns(&root.mnt) || !in_ns(&new.mnt) || !in_ns(&old.mnt) {
            return Err(EINVAL);
        }
        if new.dentry.is_deleted() {
            return Err(ENOENT);
        }
        if Arc::ptr_eq(&new.mnt, &root.mnt) || Arc::ptr_eq(&old.mnt, &root.mnt) {
            return Err(EBUSY);
        }
        let shared = |p: Option<Path>| p.is_some_and(|p| p.mnt.propagation().group != 0);
        if !root.is_mount_root()
            || !new.is_mount_root()
            || new.mnt.parent().is_none()
            || shared(new.mnt.parent())
            || shared(root.mnt.parent())
            || old.mnt.propagation().group != 0
            || !old.is_under(&new)
            || !new.is_under(&root)
        {
            return Err(EINVAL);
        }
        let place = root.mnt.parent();
        let keep_new = new.mnt.unhang();
        let keep_root = root.mnt.unhang();
        let weak = Arc::downgrade(&ns);
        match place {
            Some(p) => new.mnt.hang(&p, &weak),
            None => {
                for m in new.mnt.subtree() {
                    m.link.write().ns = weak.clone();
                }
                drop(ns.set_root(new.mnt.clone()));
            }
        }
        root.mnt.hang(&old, &weak);
        ns.announce();
        drop((keep_new, keep_root));
        move_references(&task.kernel(), &root, &new);
        Ok(())
    }
}

/// Processes whose root or working directory was the old root go to the new one.
fn move_references(kernel: &Arc<Kernel>, from: &Path, to: &Path) {
    let contexts: Vec<_> = kernel.tree.read().tasks().map(|t| t.fs()).collect();
    for fs in contexts {
        if fs.root().same(from) {
            fs.set_root(to.clone());
        }
        if fs.cwd().same(from) {
            fs.set_cwd(to.clone());
        }
    }
}

/// Whether `top` may be hung on `at`.
fn check_point(ns: &Arc<MountNs>, at: &Path, top: &Arc<Mount>) -> Result<()> {
    if !at.mnt.ns().is_some_and(|n| Arc::ptr_eq(&n, ns)) {
        return Err(EINVAL);
    }
    if at.dentry.is_deleted() {
        return Err(ENOENT);
    }
    if at.inode().dir().is_some() != top.root.inode.dir().is_some() {
        return Err(ENOTDIR);
    }
    Ok(())
}

/// Propagation of the copy of a mount with `orig` in the class `class` of receivers.
fn class_propagation(
    vfs: &Vfs,
    classes: &[(usize, u64)],
    groups: &mut HashMap<(usize, u64), u64>,
    class: usize,
    orig: Propagation,
) -> Propagation {
    if class == 0 {
        return orig;
    }
    let (up, own) = classes[class];
    let master = class_propagation(vfs, classes, groups, up, orig).group;
    // A master that is itself private in the copy passes on what it receives from above.
    let master = if master != 0 { master } else { orig.group };
    let group = if own == 0 {
        0
    } else {
        *groups.entry((class, orig.group)).or_insert_with(|| vfs.next_group())
    };
    Propagation { group, master, unbindable: false }
}
