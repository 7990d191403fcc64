//! Small files and symlinks stored inside their inode (`inline_data`).

use uml_abi::Result;

use crate::inode::Inode;
use crate::meta::MetaRead;
use crate::xattr;

/// All bytes of an inline file, `i_size` long (zero-filled if short).
pub(crate) fn contents(src: &dyn MetaRead, inode: &Inode) -> Result<Vec<u8>> {
    let mut v = inode.block.to_vec();
    v.extend(xattr::inline_value(src, inode)?);
    // The inode bounds what can be stored; a larger size is damage.
    if inode.size > u64::from(src.lay().inode_size) + 60 {
        return Err(src.corrupt("inline data size", inode.ino, 0));
    }
    v.resize(inode.size as usize, 0);
    Ok(v)
}
