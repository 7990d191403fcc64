//! Contents of files: blocks, fragments, holes.

use std::sync::{Arc, Mutex, PoisonError};

use uml_abi::Result;
use uml_abi::errno::{EINVAL, EIO, EISDIR};
use uml_store::bytes::{rd32, rd64};

use crate::squashfs::Squashfs;
use crate::squashfs::inode::{Body, File};
use crate::squashfs::meta::Place;

/// Blocks between two remembered places of a list of blocks.
const STRIDE: u64 = 1024;
/// Places remembered of one file.
const SPOTS: usize = 1 << 16;
/// Set in sizes of blocks that are not compressed.
const PLAIN: u32 = 1 << 24;

/// Where a block of a file is.
#[derive(Clone, Copy, Debug)]
struct Spot {
    /// Its size's place in the list.
    list: Place,
    /// Its position in the image.
    at: u64,
}

/// Places of every [`STRIDE`]th block of a file, as far as anybody came.
pub(crate) type Spots = Arc<Mutex<Vec<SpotOf>>>;

/// A remembered place.
#[derive(Clone, Copy)]
pub(crate) struct SpotOf(Spot);

impl Squashfs {
    /// The regular file that a node is.
    pub(crate) fn file(&self, node: u64) -> Result<File> {
        match self.inode(node)?.body {
            Body::File(f) => Ok(f),
            Body::Dir(_) => Err(EISDIR),
            _ => Err(EINVAL),
        }
    }

    /// Blocks of a file that are not in a fragment.
    fn whole_blocks(&self, f: &File) -> u64 {
        let bs = self.sb.block_size as u64;
        if f.tail.is_some() { f.size / bs } else { f.size.div_ceil(bs) }
    }

    /// Where block `n` is.
    fn spot(&self, node: u64, f: &File, n: u64) -> Result<Spot> {
        let first = Spot { list: f.list, at: f.start };
        let known = if n < STRIDE {
            None
        } else {
            Some(self.spots.get_or(node, || Ok::<_, uml_abi::Errno>(Spots::default()))?)
        };
        let (mut s, mut i) = (first, 0);
        if let Some(k) = &known {
            let k = k.lock().unwrap_or_else(PoisonError::into_inner);
            let have = (n / STRIDE).min(k.len() as u64);
            if let Some(SpotOf(spot)) = have.checked_sub(1).and_then(|h| k.get(h as usize)) {
                (s, i) = (*spot, have * STRIDE);
            }
        }
        while i < n {
            let size = u32::from_le_bytes(self.meta.array(&mut s.list)?);
            s.at = s.at.checked_add(u64::from(size & (PLAIN - 1))).ok_or(EIO)?;
            i += 1;
            if i % STRIDE == 0
                && let Some(k) = &known
            {
                let mut k = k.lock().unwrap_or_else(PoisonError::into_inner);
                if k.len() as u64 == i / STRIDE - 1 && k.len() < SPOTS {
                    k.push(SpotOf(s));
                }
            }
        }
        Ok(s)
    }

    /// Bytes of a block or fragment at a position. `size` is as in the lists.
    fn block(&self, at: u64, size: u32) -> Result<Arc<Vec<u8>>> {
        self.blocks.get_or(at, || {
            let len = (size & (PLAIN - 1)) as usize;
            let end = at.checked_add(len as u64).ok_or(EIO)?;
            if size >= PLAIN << 1 || len > self.sb.block_size || end > self.sb.used {
                return Err(EIO);
            }
            let mut raw = vec![0; len];
            self.meta.disk.read(at, &mut raw)?;
            let plain = size & PLAIN != 0;
            let bytes =
                if plain { raw } else { self.meta.codec.decompress(&raw, self.sb.block_size)? };
            Ok(Arc::new(bytes))
        })
    }

    fn fragment(&self, n: u32) -> Result<Arc<Vec<u8>>> {
        if n >= self.sb.fragments {
            return Err(EIO);
        }
        let e: [u8; 16] = self.meta.entry(self.sb.fragments_at, n.into())?;
        self.block(rd64(&e, 0), rd32(&e, 8))
    }

    pub(crate) fn read_file(&self, node: u64, off: u64, buf: &mut [u8]) -> Result<usize> {
        let f = self.file(node)?;
        let left = f.size.saturating_sub(off);
        let want = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buf = &mut buf[..want];
        if want == 0 {
            return Ok(0);
        }
        let bs = self.sb.block_size as u64;
        let whole = self.whole_blocks(&f);
        let mut n = off / bs;
        let mut from = (off % bs) as usize;
        let mut spot = if n < whole { Some(self.spot(node, &f, n)?) } else { None };
        let mut done = 0;
        while done < want {
            let in_block = (f.size - n * bs).min(bs) as usize;
            let part = (in_block - from).min(want - done);
            let to = &mut buf[done..done + part];
            match &mut spot {
                Some(s) if n < whole => {
                    let size = u32::from_le_bytes(self.meta.array(&mut s.list)?);
                    if size == 0 {
                        to.fill(0);
                    } else {
                        let b = self.block(s.at, size)?;
                        // A block holds all of its part of the file.
                        to.copy_from_slice(b.get(from..from + part).ok_or(EIO)?);
                    }
                    s.at = s.at.checked_add(u64::from(size & (PLAIN - 1))).ok_or(EIO)?;
                }
                _ => {
                    let (fragment, at) = f.tail.ok_or(EIO)?;
                    let b = self.fragment(fragment)?;
                    let first = (at as usize).checked_add(from).ok_or(EIO)?;
                    to.copy_from_slice(b.get(first..first + part).ok_or(EIO)?);
                }
            }
            done += part;
            from = 0;
            n += 1;
        }
        Ok(done)
    }
}
