//! Metadata: streams of blocks of at most 8 KiB.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::EIO;

use crate::disk::Disk;
use crate::lru::Lru;
use crate::squashfs::codec::Codec;

/// Bytes of a metadata block but the last of a stream.
pub(crate) const BLOCK: usize = 8192;
/// Decompressed blocks kept.
const KEPT: usize = 128;

/// A place in a stream: a block's position in the image, and a byte in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub block: u64,
    pub at: usize,
}

impl Place {
    /// The place that a reference names, in a table that starts at `base`.
    pub(crate) fn of(base: u64, reference: u64) -> Result<Place> {
        let block = base.checked_add(reference >> 16).ok_or(EIO)?;
        Ok(Place { block, at: (reference & 0xffff) as usize })
    }
}

#[derive(Clone)]
struct Block {
    bytes: Arc<Vec<u8>>,
    next: u64,
}

/// Reads metadata.
pub(crate) struct Meta {
    pub disk: Arc<Disk>,
    pub codec: Codec,
    /// Bytes of the image that are in use.
    pub end: u64,
    blocks: Lru<u64, Block>,
}

impl Meta {
    pub(crate) fn new(disk: Arc<Disk>, codec: Codec, end: u64) -> Meta {
        Meta { disk, codec, end, blocks: Lru::new(KEPT) }
    }

    fn block(&self, at: u64) -> Result<Block> {
        self.blocks.get_or(at, || {
            let mut head = [0; 2];
            self.disk.peek(at, &mut head)?;
            let head = u16::from_le_bytes(head);
            let len = match head & 0x7fff {
                0 => 0x8000,
                n => usize::from(n),
            };
            let next = at + 2 + len as u64;
            if len > BLOCK || next > self.end {
                return Err(EIO);
            }
            let raw = self.disk.bytes(at + 2, len)?;
            let plain = head & 0x8000 != 0;
            let bytes = if plain { raw } else { self.codec.decompress(&raw, BLOCK)? };
            Ok(Block { bytes: Arc::new(bytes), next })
        })
    }

    /// Fills `buf` from a place, which moves on.
    pub(crate) fn read(&self, p: &mut Place, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let n = self.step(p, buf.len() - done, |b| {
                buf[done..done + b.len()].copy_from_slice(b);
            })?;
            done += n;
        }
        Ok(())
    }

    /// Moves a place on.
    pub(crate) fn skip(&self, p: &mut Place, mut n: u64) -> Result<()> {
        while n > 0 {
            let want = usize::try_from(n).unwrap_or(usize::MAX);
            n -= self.step(p, want, |_| ())? as u64;
        }
        Ok(())
    }

    /// Hands out at most `n` bytes of one block.
    fn step(&self, p: &mut Place, n: usize, f: impl FnOnce(&[u8])) -> Result<usize> {
        let mut b = self.block(p.block)?;
        if p.at == b.bytes.len() {
            *p = Place { block: b.next, at: 0 };
            b = self.block(p.block)?;
        }
        let rest = b.bytes.get(p.at..).filter(|r| !r.is_empty()).ok_or(EIO)?;
        let n = rest.len().min(n);
        f(&rest[..n]);
        p.at += n;
        Ok(n)
    }

    /// An array of bytes from a place.
    pub(crate) fn array<const N: usize>(&self, p: &mut Place) -> Result<[u8; N]> {
        let mut b = [0; N];
        self.read(p, &mut b)?;
        Ok(b)
    }

    /// Entry `index` of a table whose blocks are listed at `list`.
    pub(crate) fn entry<const N: usize>(&self, list: u64, index: u64) -> Result<[u8; N]> {
        let per_block = (BLOCK / N) as u64;
        let at = list.checked_add(index / per_block * 8).ok_or(EIO)?;
        let mut b = [0; 8];
        self.disk.peek(at, &mut b)?;
        let at = (index % per_block) as usize * N;
        self.array(&mut Place { block: u64::from_le_bytes(b), at })
    }

    pub(crate) fn forget(&self) {
        self.blocks.clear();
        self.disk.forget();
    }
}
