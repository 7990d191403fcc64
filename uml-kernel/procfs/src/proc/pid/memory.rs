//! Guest memory as files show it.

use uml_abi::Result;
use uml_core::vfs;
use uml_mm::Mm;
use uml_mm::vma::{Purpose, Vma};

/// Most bytes of arguments or environment that one read shows.
const STRINGS_MAX: u64 = 16 << 20;

/// The bytes of `start..end`, up to the first inaccessible page.
pub fn range(mm: &Mm, start: u64, end: u64) -> Vec<u8> {
    let len = end.saturating_sub(start).min(STRINGS_MAX) as usize;
    let mut buf = vec![0; len];
    let n = mm.read_foreign(start, &mut buf);
    buf.truncate(n);
    buf
}

/// Name of an area in `maps`; empty for anonymous memory.
pub fn area_name(v: &Vma) -> Result<Vec<u8>> {
    if let Some(b) = &v.backing {
        let name = b.object.name();
        if !name.is_empty() {
            return Ok(name);
        }
    }
    Ok(match v.flags.purpose {
        Purpose::Stack => b"[stack]".to_vec(),
        Purpose::Heap => b"[heap]".to_vec(),
        Purpose::Vdso => b"[vdso]".to_vec(),
        Purpose::Vvar => b"[vvar]".to_vec(),
        Purpose::Normal | Purpose::Secret => match &v.name {
            Some(n) if v.flags.shared => [b"[anon_shmem:", &n[..], b"]"].concat(),
            Some(n) => [b"[anon:", &n[..], b"]"].concat(),
            None => Vec::new(),
        },
    })
}

/// Device and inode number of an area's file; zeros for anonymous memory.
pub fn area_file(v: &Vma) -> (vfs::Dev, u64) {
    match &v.backing {
        Some(b) => {
            let (dev, ino) = b.object.identity();
            (vfs::Dev::decode(dev), ino)
        }
        None => (vfs::Dev::default(), 0),
    }
}
