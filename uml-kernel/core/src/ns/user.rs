//! User namespaces (user_namespaces(7)).
//!
//! Ids inside the kernel are those of the initial namespace. A map holds its ranges already translated to
//! them, so that each id is looked up once whatever the depth.

use std::sync::{Arc, LazyLock};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use crate::task::{Cap, Cred};

/// Depth of nesting.
pub const MAX_LEVEL: u32 = 32;
/// Ranges in one map.
const MAX_RANGES: usize = 340;
/// What an id is shown as that has no mapping (/proc/sys/kernel/overflowuid).
pub const OVERFLOW: u32 = 65534;

/// The three maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    User,
    Group,
    Project,
}

/// A range of ids: `count` from `first` inside are those from `lower` in the initial namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub first: u32,
    pub lower: u32,
    pub count: u32,
}

#[derive(Debug)]
struct Maps {
    /// By [`IdKind`]; empty until written.
    ranges: [Vec<Range>; 3],
    /// setgroups(2) is allowed.
    setgroups: bool,
}

/// A user namespace.
pub struct UserNs {
    pub id: u64,
    pub parent: Option<Arc<UserNs>>,
    pub level: u32,
    /// Who made it, as kernel ids.
    pub owner: u32,
    pub group: u32,
    /// Its maker could give capabilities to files: needed to map user 0 of the parent.
    setfcap: bool,
    maps: Mutex<Maps>,
}

impl std::fmt::Debug for UserNs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "user:[{}]", self.id)
    }
}

impl UserNs {
    /// The namespace everything starts in: every id is itself.
    pub fn initial() -> Arc<UserNs> {
        static INITIAL: LazyLock<Arc<UserNs>> = LazyLock::new(|| {
            let all = vec![Range { first: 0, lower: 0, count: u32::MAX }];
            Arc::new(UserNs {
                id: 0xefff_fffd,
                parent: None,
                level: 0,
                owner: 0,
                group: 0,
                setfcap: true,
                maps: Mutex::new(
                    Rank::LEAF,
                    Maps { ranges: [all.clone(), all.clone(), all], setgroups: true },
                ),
            })
        });
        INITIAL.clone()
    }

    /// True for the first one.
    pub fn is_initial(&self) -> bool {
        self.level == 0
    }

    /// A child of the namespace of `cred`, made by its effective ids. `ENOSPC` below too many others, `EPERM`
    /// when those ids have no mapping.
    pub fn create(cred: &Cred) -> Result<Arc<UserNs>> {
        let parent = cred.user_ns.clone();
        if parent.level >= MAX_LEVEL {
            return Err(ENOSPC);
        }
        if parent.show(IdKind::User, cred.euid).is_none()
            || parent.show(IdKind::Group, cred.egid).is_none()
        {
            return Err(EPERM);
        }
        let setgroups = parent.setgroups_allowed();
        Ok(Arc::new(UserNs {
            id: super::next_id(),
            level: parent.level + 1,
            owner: cred.euid,
            group: cred.egid,
            setfcap: cred.cap_effective & 1 << Cap::Setfcap as u8 != 0,
            parent: Some(parent),
            maps: Mutex::new(
                Rank::LEAF,
                Maps { ranges: [Vec::new(), Vec::new(), Vec::new()], setgroups },
            ),
        }))
    }

    /// True when `self` is `other` or below it.
    pub fn is_within(self: &Arc<UserNs>, other: &Arc<UserNs>) -> bool {
        std::iter::successors(Some(self), |n| n.parent.as_ref()).any(|n| Arc::ptr_eq(n, other))
    }

    /// The kernel id of `id` as a program of this namespace says it; `None` without a mapping.
    pub fn kernel_id(&self, kind: IdKind, id: u32) -> Option<u32> {
        if self.is_initial() {
            return (id != u32::MAX).then_some(id);
        }
        let maps = self.maps.lock();
        let r = maps.ranges[kind as usize].iter().find(|r| id.wrapping_sub(r.first) < r.count)?;
        Some(r.lower + (id - r.first))
    }

    /// The kernel id `id` as this namespace names it; `None` without a mapping.
    pub fn show(&self, kind: IdKind, id: u32) -> Option<u32> {
        if self.is_initial() {
            return Some(id);
        }
        let maps = self.maps.lock();
        let r = maps.ranges[kind as usize].iter().find(|r| id.wrapping_sub(r.lower) < r.count)?;
        Some(r.first + (id - r.lower))
    }

    /// A user as programs here see it: the overflow id without a mapping.
    pub fn uid(&self, kuid: u32) -> u32 {
        self.show(IdKind::User, kuid).unwrap_or(OVERFLOW)
    }

    /// A group as programs here see it: the overflow id without a mapping.
    pub fn gid(&self, kgid: u32) -> u32 {
        self.show(IdKind::Group, kgid).unwrap_or(OVERFLOW)
    }

    /// The kernel id of user `uid`; `EINVAL` without a mapping.
    pub fn kuid(&self, uid: u32) -> Result<u32> {
        self.kernel_id(IdKind::User, uid).ok_or(EINVAL)
    }

    /// The kernel id of group `gid`; `EINVAL` without a mapping.
    pub fn kgid(&self, gid: u32) -> Result<u32> {
        self.kernel_id(IdKind::Group, gid).ok_or(EINVAL)
    }

    /// The map as /proc/<pid>/{uid,gid,projid}_map shows it to `reader`: the second number is in the reader's
    /// namespace, or in the parent when it is this one.
    pub fn rows(self: &Arc<UserNs>, kind: IdKind, reader: &Arc<UserNs>) -> Vec<(u32, u32, u32)> {
        let lower_ns = match &self.parent {
            Some(p) if Arc::ptr_eq(reader, self) => p.clone(),
            _ => reader.clone(),
        };
        let ranges = self.maps.lock().ranges[kind as usize].clone();
        let lower = |r: &Range| lower_ns.show(kind, r.lower).unwrap_or(u32::MAX);
        ranges.iter().map(|r| (r.first, lower(r), r.count)).collect()
    }

    /// Whether setgroups(2) is allowed (/proc/<pid>/setgroups, and a group map is there).
    pub fn may_setgroups(&self) -> bool {
        let m = self.maps.lock();
        m.setgroups && !m.ranges[IdKind::Group as usize].is_empty()
    }

    /// /proc/<pid>/setgroups.
    pub fn setgroups_allowed(&self) -> bool {
        self.maps.lock().setgroups
    }

    /// Writes /proc/<pid>/setgroups: `EPERM` once the group map is there or what was denied is to be allowed.
    pub fn set_setgroups(&self, allow: bool) -> Result<()> {
        let mut m = self.maps.lock();
        if allow {
            return if m.setgroups { Ok(()) } else { Err(EPERM) };
        }
        if !m.ranges[IdKind::Group as usize].is_empty() {
            return Err(EPERM);
        }
        m.setgroups = false;
        Ok(())
    }

    /// Writes a map, once. `rows` are (inside, in the parent namespace, count); `opener` is who opened the file,
    /// `writer` who writes. `EPERM` when it is written already or they may not, `EINVAL` for wrong rows.
    pub fn set_map(
        self: &Arc<UserNs>,
        kind: IdKind,
        rows: &[(u32, u32, u32)],
        writer: &Cred,
        opener: &Cred,
    ) -> Result<()> {
        let parent = self.parent.as_ref().ok_or(EPERM)?;
        let mut ranges = Vec::new();
        if rows.is_empty() || rows.len() > MAX_RANGES {
            return Err(EINVAL);
        }
        let overlap =
            |a: u32, b: u32, n: u32, m: u32| a < b.saturating_add(m) && b < a.saturating_add(n);
        for (i, &(first, lower, count)) in rows.iter().enumerate() {
            let fits = |v: u32| v != u32::MAX && v.checked_add(count).is_some();
            if count == 0 || !fits(first) || !fits(lower) {
                return Err(EINVAL);
            }
            if rows[..i]
                .iter()
                .any(|&(f, l, c)| overlap(first, f, count, c) || overlap(lower, l, count, c))
            {
                return Err(EINVAL);
            }
        }
        let cap = match kind {
            IdKind::User => Some(Cap::Setuid),
            IdKind::Group => Some(Cap::Setgid),
            IdKind::Project => None,
        };
        // Who opened it must be an administrator of the namespace, and inside it or its parent.
        let place = Arc::ptr_eq(&opener.user_ns, self) || Arc::ptr_eq(&opener.user_ns, parent);
        if !place || !opener.capable_in(self, Cap::SysAdmin) {
            return Err(EPERM);
        }
        if !self.may_map(kind, rows, writer, opener, parent, cap) {
            return Err(EPERM);
        }
        for &(first, lower, count) in rows {
            // The whole range lies in one range of the parent.
            let k = parent.kernel_id(kind, lower).ok_or(EPERM)?;
            let last = parent.kernel_id(kind, lower + (count - 1)).ok_or(EPERM)?;
            if last != k.wrapping_add(count - 1) {
                return Err(EPERM);
            }
            ranges.push(Range { first, lower: k, count });
        }
        let mut m = self.maps.lock();
        let slot = &mut m.ranges[kind as usize];
        if !slot.is_empty() {
            return Err(EPERM);
        }
        *slot = ranges;
        Ok(())
    }

    fn may_map(
        self: &Arc<UserNs>,
        kind: IdKind,
        rows: &[(u32, u32, u32)],
        writer: &Cred,
        opener: &Cred,
        parent: &Arc<UserNs>,
        cap: Option<Cap>,
    ) -> bool {
        // Files that belong to the parent's root must not gain capabilities by a detour.
        let maps_root = kind == IdKind::User && rows.iter().any(|r| r.1 == 0);
        if maps_root {
            let inside = Arc::ptr_eq(&opener.user_ns, self);
            let ok = if inside { self.setfcap } else { opener.capable_in(parent, Cap::Setfcap) };
            if !ok {
                return false;
            }
        }
        // The opener's own id may be mapped without privilege; a group only when setgroups is denied.
        if let [(_, id, 1)] = rows
            && opener.euid == self.owner
        {
            let own = match kind {
                IdKind::User => parent.kernel_id(kind, *id) == Some(opener.euid),
                IdKind::Group => {
                    !self.setgroups_allowed() && parent.kernel_id(kind, *id) == Some(opener.egid)
                }
                IdKind::Project => false,
            };
            if own {
                return true;
            }
        }
        match cap {
            None => true,
            Some(c) => writer.capable_in(parent, c) && opener.capable_in(parent, c),
        }
    }
}

impl Cred {
    /// True when the capability counts in `ns`: it is effective there, or the caller made `ns` (or an ancestor of it)
    /// from its parent (user_namespaces(7), "Capabilities").
    pub fn capable_in(&self, ns: &Arc<UserNs>, cap: Cap) -> bool {
        let mut at = ns;
        loop {
            if Arc::ptr_eq(at, &self.user_ns) {
                return self.cap_effective & 1 << cap as u8 != 0;
            }
            if at.level <= self.user_ns.level {
                return false;
            }
            let Some(parent) = &at.parent else { return false };
            if Arc::ptr_eq(parent, &self.user_ns) && at.owner == self.euid {
                return true;
            }
            at = parent;
        }
    }

    /// True when the capability is effective in the caller's own namespace.
    pub fn capable_here(&self, cap: Cap) -> bool {
        self.cap_effective & 1 << cap as u8 != 0
    }

    /// True when the capability counts for a file of these ids: it is effective and both are mapped.
    pub fn capable_over(&self, cap: Cap, uid: u32, gid: u32) -> bool {
        self.capable_here(cap)
            && self.user_ns.show(IdKind::User, uid).is_some()
            && self.user_ns.show(IdKind::Group, gid).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Cred {
        Cred {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid: uid,
            egid: uid,
            cap_effective: 0,
            ..Cred::root()
        }
    }

    #[test]
    fn an_unprivileged_user_maps_only_itself() {
        let me = user(1000);
        let ns = UserNs::create(&me).unwrap();
        let inside = Cred { user_ns: ns.clone(), cap_effective: u64::MAX, ..me.clone() };
        assert!(inside.capable_in(&ns, Cap::SysAdmin));
        assert!(!inside.capable_in(&UserNs::initial(), Cap::SysAdmin));
        assert!(me.capable_in(&ns, Cap::SysAdmin), "its maker is privileged in it");
        assert!(!user(1001).capable_in(&ns, Cap::SysAdmin));
        let map = |rows: &[_]| ns.set_map(IdKind::User, rows, &inside, &inside);
        assert_eq!(map(&[(0, 1001, 1)]), Err(EPERM));
        assert_eq!(map(&[(0, 1000, 2)]), Err(EPERM));
        assert_eq!(map(&[]), Err(EINVAL));
        let by = |opener: &Cred| ns.set_map(IdKind::User, &[(0, 1000, 1)], &inside, opener);
        assert_eq!(by(&user(1001)), Err(EPERM), "opened by somebody else");
        assert_eq!(map(&[(0, 1000, 1)]), Ok(()));
        assert_eq!(map(&[(0, 1000, 1)]), Err(EPERM), "a map is written once");
        assert_eq!(
            (ns.uid(1000), ns.uid(0), ns.kuid(0), ns.kuid(1)),
            (0, OVERFLOW, Ok(1000), Err(EINVAL))
        );
        let group = |rows: &[_]| ns.set_map(IdKind::Group, rows, &inside, &inside);
        assert_eq!(group(&[(0, 1000, 1)]), Err(EPERM), "setgroups must be denied first");
        ns.set_setgroups(false).unwrap();
        assert_eq!(group(&[(0, 1000, 1)]), Ok(()));
        assert!(!ns.may_setgroups());
        assert_eq!(ns.rows(IdKind::User, &ns), [(0, 1000, 1)]);
    }

    #[test]
    fn nested_maps_translate_to_kernel_ids() {
        let root = Cred::root();
        let a = UserNs::create(&root).unwrap();
        a.set_map(IdKind::User, &[(0, 100_000, 65536)], &root, &root).unwrap();
        a.set_map(IdKind::Group, &[(0, 100_000, 65536)], &root, &root).unwrap();
        let in_a = Cred { user_ns: a.clone(), euid: 100_000, egid: 100_000, ..Cred::root() };
        let b = UserNs::create(&in_a).unwrap();
        assert_eq!(b.set_map(IdKind::User, &[(5, 65535, 2)], &in_a, &in_a), Err(EPERM));
        b.set_map(IdKind::User, &[(5, 10, 3), (0, 1, 1)], &in_a, &in_a).unwrap();
        assert_eq!((b.kuid(6), b.uid(100_001), b.kuid(8)), (Ok(100_011), 0, Err(EINVAL)));
        assert_eq!(b.rows(IdKind::User, &UserNs::initial()), [(5, 100_010, 3), (0, 100_001, 1)]);
        assert_eq!(b.rows(IdKind::User, &b), [(5, 10, 3), (0, 1, 1)]);
    }

    #[test]
    fn overlapping_and_impossible_rows_are_refused() {
        let root = Cred::root();
        let ns = UserNs::create(&root).unwrap();
        for bad in [
            &[(0, 0, 10), (5, 100, 1)][..],
            &[(0, 0, 10), (100, 9, 1)],
            &[(0, 0, 0)],
            &[(u32::MAX, 0, 1)],
            &[(10, 0, u32::MAX)],
        ] {
            assert_eq!(ns.set_map(IdKind::User, bad, &root, &root), Err(EINVAL), "{bad:?}");
        }
    }
}
