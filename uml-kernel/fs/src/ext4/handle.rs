//! File handles: inode number and generation, as Linux makes them.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;
use uml_core::vfs::Inode;
use uml_core::vfs::handle::{Export, Handle};
use uml_ext4::ROOT_INO;

use super::{Ext4Fs, Ext4Inode};

/// FILEID_INO32_GEN.
const NUMBER_AND_GENERATION: i32 = 1;
/// Smaller numbers are the filesystem's own inodes, the root apart.
const FIRST_INO: u32 = 11;

fn own(inode: &Arc<dyn Inode>) -> Result<&Ext4Inode> {
    inode.as_any().downcast_ref::<Ext4Inode>().ok_or(EOPNOTSUPP)
}

impl Export for Ext4Fs {
    fn encode(&self, inode: &Arc<dyn Inode>) -> Result<Handle> {
        let inode = own(inode)?;
        let generation = inode.attr()?.generation;
        let bytes = [inode.ino.to_ne_bytes(), generation.to_ne_bytes()].concat();
        Ok(Handle { kind: NUMBER_AND_GENERATION, bytes })
    }

    fn decode(&self, _: &Task, handle: &Handle) -> Result<Arc<dyn Inode>> {
        let bytes: [u8; 8] = handle.bytes[..].try_into().map_err(|_| ESTALE)?;
        if handle.kind != NUMBER_AND_GENERATION {
            return Err(ESTALE);
        }
        let value = u64::from_ne_bytes(bytes);
        let (ino, generation) = (value as u32, (value >> 32) as u32);
        if ino != ROOT_INO && ino < FIRST_INO {
            return Err(ESTALE);
        }
        // Number and generation may be anything: whatever the engine says of them, there is no such file.
        let attr = self.shared.engine.attr(ino).map_err(|_| ESTALE)?;
        if attr.generation != generation || attr.links == 0 && self.shared.live(ino).is_none() {
            return Err(ESTALE);
        }
        Ok(self.shared.get(ino)?)
    }

    fn parent(&self, dir: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>> {
        let parent = self.shared.engine.parent(own(dir)?.ino)?;
        Ok(self.shared.get(parent)?)
    }
}
