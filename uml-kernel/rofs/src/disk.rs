//! Reading bytes anywhere in a block store.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::EIO;
use uml_store::BlockStore;

use crate::lru::Lru;

/// What the store is asked for is a multiple of it.
const SECTOR: u64 = 512;
/// Bytes in a cached piece.
const PIECE: u64 = 4096;
/// Cached pieces.
const PIECES: usize = 256;

/// A store with a small cache for structures.
pub(crate) struct Disk {
    store: Arc<dyn BlockStore>,
    size: u64,
    pieces: Lru<u64, Arc<[u8]>>,
}

impl Disk {
    pub(crate) fn new(store: Arc<dyn BlockStore>) -> Disk {
        // What follows the last whole sector cannot be read.
        let size = store.size() / SECTOR * SECTOR;
        Disk { store, size, pieces: Lru::new(PIECES) }
    }

    /// Bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    fn end(&self, off: u64, len: u64) -> Result<u64> {
        off.checked_add(len).filter(|end| *end <= self.size).ok_or(EIO)
    }

    /// Fills `buf` from `off` without the cache: file contents.
    pub(crate) fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        let end = self.end(off, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        if off % SECTOR == 0 && end % SECTOR == 0 {
            return self.store.read_at(off, buf);
        }
        let from = off / SECTOR * SECTOR;
        let whole = crate::size(end.div_ceil(SECTOR) * SECTOR - from)?;
        let mut around = vec![0; whole];
        self.store.read_at(from, &mut around)?;
        let at = crate::size(off - from)?;
        buf.copy_from_slice(&around[at..at + buf.len()]);
        Ok(())
    }

    /// Fills `buf` from `off` through the cache: structures.
    pub(crate) fn peek(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.end(off, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let at = off + done as u64;
            let first = at / PIECE * PIECE;
            let piece = self.pieces.get_or(first, || {
                let len = crate::size(PIECE.min(self.size - first))?;
                let mut b = vec![0; len];
                self.store.read_at(first, &mut b)?;
                Ok::<Arc<[u8]>, uml_abi::Errno>(Arc::from(b))
            })?;
            let from = crate::size(at - first)?;
            let n = (piece.len() - from).min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&piece[from..from + n]);
            done += n;
        }
        Ok(())
    }

    /// As [`Disk::peek`], a number of bytes that the caller has bounded.
    pub(crate) fn bytes(&self, off: u64, len: usize) -> Result<Vec<u8>> {
        self.end(off, len as u64)?;
        let mut b = vec![0; len];
        self.peek(off, &mut b)?;
        Ok(b)
    }

    pub(crate) fn forget(&self) {
        self.pieces.clear();
    }
}
