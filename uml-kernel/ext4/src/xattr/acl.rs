//! POSIX ACLs: the compact form on disk and the form of acl(5) programs.

use uml_abi::Result;
use uml_abi::errno::{EINVAL, EIO, EOPNOTSUPP};

use crate::bytes::{rd16, rd32};

const DISK_VERSION: u32 = 1;
const USER_VERSION: u32 = 2;
const TAG_USER: u16 = 2;
const TAG_GROUP: u16 = 8;
const NO_ID: u32 = u32::MAX;

fn has_id(tag: u16) -> bool {
    tag == TAG_USER || tag == TAG_GROUP
}

/// From disk to the form getxattr(2) returns. `EIO` when malformed.
pub(crate) fn to_user(disk: &[u8]) -> Result<Vec<u8>> {
    if disk.len() < 4 || rd32(disk, 0) != DISK_VERSION {
        return Err(EIO);
    }
    let mut out = USER_VERSION.to_le_bytes().to_vec();
    let mut at = 4;
    while at < disk.len() {
        let tag = rd16(disk, at);
        let len = if has_id(tag) { 8 } else { 4 };
        if at + len > disk.len() {
            return Err(EIO);
        }
        let id = if has_id(tag) { rd32(disk, at + 4) } else { NO_ID };
        out.extend_from_slice(&disk[at..at + 4]);
        out.extend_from_slice(&id.to_le_bytes());
        at += len;
    }
    Ok(out)
}

/// From the form of setxattr(2) to disk. `EOPNOTSUPP` for another version,
/// `EINVAL` when malformed.
pub(crate) fn to_disk(user: &[u8]) -> Result<Vec<u8>> {
    if user.len() < 4 {
        return Err(EINVAL);
    }
    if rd32(user, 0) != USER_VERSION {
        return Err(EOPNOTSUPP);
    }
    if (user.len() - 4) % 8 != 0 {
        return Err(EINVAL);
    }
    let mut out = DISK_VERSION.to_le_bytes().to_vec();
    for e in user[4..].chunks_exact(8) {
        let tag = rd16(e, 0);
        if !matches!(tag, 1 | 2 | 4 | 8 | 16 | 32) || rd16(e, 2) > 7 {
            return Err(EINVAL);
        }
        out.extend_from_slice(&e[..4]);
        if has_id(tag) {
            out.extend_from_slice(&e[4..8]);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acl_round_trip() {
        let mut user = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in [(1u16, 7u16, NO_ID), (2, 5, 1000), (4, 5, NO_ID), (32, 4, NO_ID)] {
            user.extend(tag.to_le_bytes());
            user.extend(perm.to_le_bytes());
            user.extend(id.to_le_bytes());
        }
        let disk = to_disk(&user).unwrap();
        assert_eq!(disk.len(), 4 + 3 * 4 + 8);
        assert_eq!(to_user(&disk).unwrap(), user);
        assert_eq!(to_disk(&user[..9]), Err(EINVAL));
        assert_eq!(to_user(&disk[..disk.len() - 1]), Err(EIO));
    }
}
