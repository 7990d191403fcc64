//! Extended attributes.

use uml_abi::Result;
use uml_abi::errno::{E2BIG, EEXIST, EINVAL, ENODATA, ERANGE};

use crate::fs::Ext4;
use crate::inode::Inode;
use crate::xattr::{self, Attribute, Value, acl, index};

impl Ext4 {
    /// The value of an attribute, ACLs in the form of acl(5) programs.
    /// `ENODATA` when absent, `EOPNOTSUPP` for an unknown name space.
    pub fn getxattr(&self, ino: u32, name: &[u8]) -> Result<Vec<u8>> {
        let (i, rest) = xattr::split_name(name)?;
        self.view(|v| {
            let inode = Inode::live(v, ino)?;
            let set = xattr::load(v, &inode)?;
            let a = set.find(i, rest).ok_or(ENODATA)?;
            let value = xattr::stored_value(v, ino, &a.value)?;
            match i {
                index::ACL_ACCESS | index::ACL_DEFAULT => acl::to_user(&value),
                _ => Ok(value),
            }
        })
    }

    /// Full names of all attributes.
    pub fn listxattr(&self, ino: u32) -> Result<Vec<Vec<u8>>> {
        self.view(|v| {
            let set = xattr::load(v, &Inode::live(v, ino)?)?;
            let all = set.body.iter().chain(&set.block);
            Ok(all.filter_map(|a| xattr::full_name(a.index, &a.name)).collect())
        })
    }
}

/// How setxattr(2) treats an existing attribute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    #[default]
    Any,
    /// `XATTR_CREATE`: `EEXIST` when it exists.
    Create,
    /// `XATTR_REPLACE`: `ENODATA` when it does not.
    Replace,
}

/// Turns a user's name and value into a stored attribute.
pub(crate) fn to_attribute(name: &[u8], value: &[u8]) -> Result<Attribute> {
    let (index, rest) = xattr::split_name(name)?;
    let acl = matches!(index, index::ACL_ACCESS | index::ACL_DEFAULT);
    if rest.len() > 255 || (rest.is_empty() && !acl) {
        return Err(if rest.is_empty() { EINVAL } else { ERANGE });
    }
    if value.len() > xattr::VALUE_MAX {
        return Err(E2BIG);
    }
    let value = if acl { acl::to_disk(value)? } else { value.to_vec() };
    Ok(Attribute { index, name: rest.to_vec(), value: Value::Bytes(value) })
}

impl Ext4 {
    /// Sets an attribute. `ENOSPC` when it does not fit the format (without
    /// `ea_inode` all attributes share the inode and one block).
    pub fn setxattr(&self, ino: u32, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let new = to_attribute(name, value)?;
        self.transact(false, |tx| {
            let mut inode = Inode::live(tx, ino)?;
            let old = xattr::load(tx, &inode)?;
            let mut set = old.clone();
            let slot = set
                .body
                .iter_mut()
                .chain(&mut set.block)
                .find(|a| a.index == new.index && a.name == new.name);
            match (slot, mode) {
                (Some(_), XattrMode::Create) => return Err(EEXIST),
                (None, XattrMode::Replace) => return Err(ENODATA),
                (Some(a), _) => *a = new.clone(),
                (None, _) => set.block.push(new.clone()),
            }
            xattr::save(tx, &mut inode, &old, set)?;
            inode.ctime = tx.now;
            tx.put_inode(&inode)
        })
    }

    /// Removes an attribute. `ENODATA` when absent.
    pub fn removexattr(&self, ino: u32, name: &[u8]) -> Result<()> {
        let (i, rest) = xattr::split_name(name)?;
        self.transact(false, |tx| {
            let mut inode = Inode::live(tx, ino)?;
            let old = xattr::load(tx, &inode)?;
            if old.find(i, rest).is_none() {
                return Err(ENODATA);
            }
            let mut set = old.clone();
            for list in [&mut set.body, &mut set.block] {
                list.retain(|a| !(a.index == i && a.name == rest));
            }
            xattr::save(tx, &mut inode, &old, set)?;
            inode.ctime = tx.now;
            tx.put_inode(&inode)
        })
    }
}
