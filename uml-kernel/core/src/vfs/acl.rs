//! POSIX access control lists (acl(5)), in the form of `system.posix_acl_access` and `_default` values.
//!
//! A filesystem stores the values; what they mean is here: validity, access checks, chmod(2) and inheritance.

use uml_abi::Result;
use uml_abi::errno::*;

use crate::task::Cred;

/// Names of the attributes (xattr(7)).
pub const ACCESS: &[u8] = b"system.posix_acl_access";
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;
const NO_ID: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    /// User or group; [`NO_ID`] for tags without.
    id: u32,
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// Reads an attribute's value; `EOPNOTSUPP` for another version, `EINVAL` for what is no valid list: each of owner,
    /// group and others once, users and groups by ascending number, a mask when there are such.
    pub fn parse(value: &[u8]) -> Result<Acl> {
        let (head, rest) = value.split_at_checked(4).ok_or(EINVAL)?;
        if head != VERSION.to_le_bytes() {
            return Err(EOPNOTSUPP);
        }
        if rest.len() % 8 != 0 {
            return Err(EINVAL);
        }
        let entries: Vec<Entry> = rest
            .chunks_exact(8)
            .map(|e| Entry {
                tag: u16::from_le_bytes([e[0], e[1]]),
                perm: u16::from_le_bytes([e[2], e[3]]),
                id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
            })
            .collect();
        let acl = Acl { entries };
        if acl.is_valid() { Ok(acl) } else { Err(EINVAL) }
    }

    fn is_valid(&self) -> bool {
        let order =
            |t: u16| [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].iter().position(|x| *x == t);
        let sorted = self.entries.windows(2).all(|w| {
            let (a, b) = (order(w[0].tag), order(w[1].tag));
            a < b || (a == b && matches!(w[0].tag, USER | GROUP) && w[0].id != w[1].id)
        });
        let known = self.entries.iter().all(|e| {
            let named = matches!(e.tag, USER | GROUP);
            order(e.tag).is_some() && e.perm & !7 == 0 && (!named || e.id != NO_ID)
        });
        let has = |t: u16| self.entries.iter().any(|e| e.tag == t);
        let named = has(USER) || has(GROUP);
        known && sorted && has(USER_OBJ) && has(GROUP_OBJ) && has(OTHER) && (!named || has(MASK))
    }

    /// The attribute's value.
    pub fn to_value(&self) -> Vec<u8> {
        let mut v = VERSION.to_le_bytes().to_vec();
        for e in &self.entries {
            v.extend_from_slice(&e.tag.to_le_bytes());
            v.extend_from_slice(&e.perm.to_le_bytes());
            let id = if matches!(e.tag, USER | GROUP) { e.id } else { NO_ID };
            v.extend_from_slice(&id.to_le_bytes());
        }
        v
    }

    fn perm(&self, tag: u16) -> Option<u32> {
        self.entries.iter().find(|e| e.tag == tag).map(|e| u32::from(e.perm))
    }

    fn set(&mut self, tag: u16, perm: u32) {
        for e in self.entries.iter_mut().filter(|e| e.tag == tag) {
            e.perm = perm as u16 & 7;
        }
    }

    /// The permission bits (0777) that stand for the list: the group's are the mask.
    pub fn mode(&self) -> u32 {
        let get = |t| self.perm(t).unwrap_or(0);
        let group = self.perm(MASK).unwrap_or_else(|| get(GROUP_OBJ));
        get(USER_OBJ) << 6 | group << 3 | get(OTHER)
    }

    /// True when permission bits say the same: no users, groups or mask.
    pub fn is_minimal(&self) -> bool {
        self.entries.len() == 3
    }

    /// Whether `cred` may access a file of this owner and group in the ways of `mask` (bits of access(2)), not
    /// looking at capabilities (acl(5), "Access check algorithm").
    pub fn allows(&self, cred: &Cred, uid: u32, gid: u32, mask: u32) -> bool {
        let want = mask & 7;
        let covers = |perm: u32| perm & want == want;
        let limit = self.perm(MASK).unwrap_or(7);
        if cred.fsuid == uid {
            return covers(self.perm(USER_OBJ).unwrap_or(0));
        }
        let user = self.entries.iter().find(|e| e.tag == USER && e.id == cred.fsuid);
        if let Some(e) = user {
            return covers(u32::from(e.perm) & limit);
        }
        let mut member = false;
        for e in &self.entries {
            let group = match e.tag {
                GROUP_OBJ => gid,
                GROUP => e.id,
                _ => continue,
            };
            if cred.in_group(group) {
                member = true;
                if covers(u32::from(e.perm)) {
                    return covers(u32::from(e.perm) & limit);
                }
            }
        }
        !member && covers(self.perm(OTHER).unwrap_or(0))
    }

    /// chmod(2) of the file.
    pub fn chmod(&mut self, mode: u32) {
        self.set(USER_OBJ, mode >> 6);
        let group = if self.perm(MASK).is_some() { MASK } else { GROUP_OBJ };
        self.set(group, mode >> 3);
        self.set(OTHER, mode);
    }

    /// What an object created with `mode` in a directory with this default list gets: its permission bits (0777),
    /// and its access list if the bits do not say everything.
    pub fn inherit(&self, mode: u32) -> (u32, Option<Acl>) {
        let mut a = self.clone();
        a.chmod(mode & self.mode());
        (a.mode(), (!a.is_minimal()).then_some(a))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(e: &[(u16, u16, u32)]) -> Acl {
        Acl { entries: e.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect() }
    }

    fn cred(uid: u32, gid: u32) -> Cred {
        let mut c = Cred::root();
        (c.fsuid, c.fsgid) = (uid, gid);
        c
    }

    fn list() -> Acl {
        acl(&[
            (1, 6, NO_ID),
            (2, 7, 1000),
            (4, 4, NO_ID),
            (8, 2, 50),
            (16, 5, NO_ID),
            (32, 0, NO_ID),
        ])
    }

    #[test]
    fn the_first_entry_that_applies_decides() {
        let a = list();
        assert!(a.allows(&cred(0, 0), 0, 0, 6));
        assert!(!a.allows(&cred(0, 0), 0, 0, 1), "the owner is not looked up further");
        assert!(a.allows(&cred(1000, 9), 0, 0, 5));
        assert!(!a.allows(&cred(1000, 9), 0, 0, 2), "the mask limits named users");
        assert!(a.allows(&cred(7, 33), 0, 33, 4));
        assert!(!a.allows(&cred(7, 50), 0, 33, 2), "the mask limits groups");
        assert!(!a.allows(&cred(7, 7), 0, 33, 4));
    }

    #[test]
    fn values_that_are_no_lists_are_refused() {
        let good = list().to_value();
        assert_eq!(Acl::parse(&good), Ok(list()));
        assert_eq!(Acl::parse(&good[..7]), Err(EINVAL));
        assert_eq!(Acl::parse(&[1, 0, 0, 0]), Err(EOPNOTSUPP));
        let no_mask = acl(&[(1, 6, NO_ID), (2, 7, 1000), (4, 4, NO_ID), (32, 0, NO_ID)]);
        assert_eq!(Acl::parse(&no_mask.to_value()), Err(EINVAL));
        let twice = acl(&[(1, 6, NO_ID), (1, 6, NO_ID), (4, 4, NO_ID), (32, 0, NO_ID)]);
        assert_eq!(Acl::parse(&twice.to_value()), Err(EINVAL));
    }

    #[test]
    fn chmod_and_inheritance_change_the_mask() {
        let mut a = list();
        assert_eq!(a.mode(), 0o650);
        a.chmod(0o741);
        assert_eq!((a.perm(GROUP_OBJ), a.perm(MASK), a.mode()), (Some(4), Some(4), 0o741));
        let (mode, access) = list().inherit(0o666);
        assert_eq!(mode, 0o640);
        assert_eq!(access.map(|a| a.perm(USER)), Some(Some(7)));
        let plain = acl(&[(1, 7, NO_ID), (4, 5, NO_ID), (32, 5, NO_ID)]);
        assert_eq!(plain.inherit(0o777), (0o755, None));
    }
}
