//! Writing file contents.

use uml_abi::Result;
use uml_abi::errno::{EFBIG, EINVAL, EISDIR, ENOSPC};

use super::blocks::{convert, drop_inline};
use crate::fs::Ext4;
use crate::inode::{Inode, flags};
use crate::map::{self, Mapping};
use crate::meta::{Core, MetaRead};
use crate::txn::Txn;
use crate::{inline, xattr};

/// Bytes written under one transaction.
const CHUNK: usize = 4 << 20;

/// A piece of a write whose place on the device is known.
struct Piece {
    /// First block.
    block: u64,
    /// Number of blocks.
    len: u64,
    /// Logical block.
    logical: u64,
    /// Whether old contents outside the written bytes count.
    keep: bool,
}

/// What a block of a write was before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Was {
    Data,
    Unwritten,
    Hole,
}

/// A piece with what must be done to make it part of the file.
struct Place {
    piece: Piece,
    state: Was,
}

impl Ext4 {
    /// Writes `data` at `off`, allocating blocks and growing the file as
    /// needed, and returns when the store has the data. All bytes are written
    /// or an error is returned (earlier parts may then have been written).
    ///
    /// This is what a page cache calls to write back: pages next to each other
    /// in one call get blocks next to each other. Times are changed only when
    /// the file's structure changes; use [`Ext4::setattr`] otherwise.
    /// `EFBIG`, `ENOSPC`, `EROFS`.
    pub fn write(&self, ino: u32, off: u64, data: &[u8], use_reserved: bool) -> Result<()> {
        self.write_with(ino, off, data, use_reserved, true)
    }

    /// As [`Ext4::write`] for a cache that has given the file the times of the
    /// write already: they are left alone. Space promised by
    /// [`Ext4::reserve`] may be used.
    pub fn write_back(&self, ino: u32, off: u64, data: &[u8]) -> Result<()> {
        self.write_with(ino, off, data, true, false)
    }

    fn write_with(
        &self,
        ino: u32,
        off: u64,
        data: &[u8],
        use_reserved: bool,
        stamp: bool,
    ) -> Result<()> {
        let end = off.checked_add(data.len() as u64).ok_or(EFBIG)?;
        if end > i64::MAX as u64 {
            return Err(EFBIG);
        }
        if data.is_empty() {
            return Ok(());
        }
        if self.core.errors.is_read_only() {
            return Err(uml_abi::errno::EROFS);
        }
        if !self.core.journal_data {
            let _data = self.inode_lock(ino).read().unwrap_or_else(|e| e.into_inner());
            if self.overwrite(ino, off, data)? {
                return Ok(());
            }
        }
        let _data = self.inode_lock(ino).write().unwrap_or_else(|e| e.into_inner());
        if self.view(|v| Ok(v.core.journals(&writable(v, ino)?)))? {
            return self.write_journaled(ino, off, data, use_reserved, stamp);
        }
        in_chunks(off, data, CHUNK, |pos, part| {
            self.write_part(ino, pos, part, use_reserved, stamp)
        })
    }

    /// Writes through the journal: each chunk with its metadata in one
    /// transaction, of which it may take a part only. The inode's lock is held.
    fn write_journaled(
        &self,
        ino: u32,
        off: u64,
        data: &[u8],
        use_reserved: bool,
        stamp: bool,
    ) -> Result<()> {
        let chunk = CHUNK.min((self.max_running / 4).max(1) << self.core.lay.block_bits);
        in_chunks(off, data, chunk, |pos, part| {
            self.transact(use_reserved, |tx| write_through(tx, ino, pos, part, stamp))
        })
    }

    /// Writes one chunk: choose places, write the data there without holding
    /// up anybody's metadata, then make the places part of the file.
    fn write_part(
        &self,
        ino: u32,
        off: u64,
        data: &[u8],
        use_reserved: bool,
        stamp: bool,
    ) -> Result<()> {
        let Some(places) = self.plan(ino, off, data.len() as u64, use_reserved)? else {
            return self.transact(use_reserved, |tx| write_inline_file(tx, ino, off, data, stamp));
        };
        let end = off + data.len() as u64;
        let done =
            places.iter().try_for_each(|p| put(&self.core, &p.piece, off, data)).and_then(|()| {
                self.transact(use_reserved, |tx| enter(tx, ino, off..end, &places, stamp))
            });
        let mut st = self.write_state();
        for p in places.iter().filter(|p| p.state == Was::Hole) {
            if done.is_ok() {
                st.del_busy(p.piece.block, p.piece.len);
            } else {
                st.release_busy(p.piece.block, p.piece.len);
            }
        }
        done
    }

    /// Chooses a place for every block of a chunk; `None` for inline files.
    fn plan(&self, ino: u32, off: u64, len: u64, use_reserved: bool) -> Result<Option<Vec<Place>>> {
        let mut retried = false;
        loop {
            let mut st = self.write_state();
            let mut tx = Txn::new(&self.core, &mut st, (self.opts.clock)());
            tx.use_reserved = use_reserved;
            let mut places = Vec::new();
            let r = choose(&mut tx, ino, off, off + len, &mut places);
            // Nothing was changed but the set of busy blocks.
            tx.finish()?;
            match r {
                Ok(blocks) => return Ok(blocks.then_some(places)),
                Err(e) => {
                    for p in places.iter().filter(|p| p.state == Was::Hole) {
                        st.release_busy(p.piece.block, p.piece.len);
                    }
                    if e != ENOSPC || retried || st.busy.is_empty() {
                        return Err(e);
                    }
                    drop(st);
                    self.commit()?;
                    retried = true;
                }
            }
        }
    }

    /// Writes in place when every byte has a written block already.
    fn overwrite(&self, ino: u32, off: u64, data: &[u8]) -> Result<bool> {
        let bits = self.core.lay.block_bits;
        let end = off + data.len() as u64;
        let pieces = self.view(|v| {
            let inode = writable(v, ino)?;
            if end > inode.size || inode.has(flags::INLINE_DATA) || v.core.journals(&inode) {
                return Ok(None);
            }
            let (mut at, last) = (off >> bits, end.div_ceil(1 << bits));
            let mut pieces = Vec::new();
            while at < last {
                let m = map::find(v, &inode, at, last - at)?;
                match m.physical.filter(|_| !m.unwritten) {
                    Some(block) if pieces.len() < 1024 => {
                        pieces.push(Piece { block, len: m.len, logical: at, keep: true });
                    }
                    _ => return Ok(None),
                }
                at += m.len;
            }
            Ok(Some(pieces))
        })?;
        let Some(pieces) = pieces else { return Ok(false) };
        for p in &pieces {
            put(&self.core, p, off, data)?;
        }
        Ok(true)
    }
}

fn writable(src: &dyn MetaRead, ino: u32) -> Result<Inode> {
    let inode = Inode::live(src, ino)?;
    if inode.is_dir() {
        return Err(EISDIR);
    }
    if !inode.is_reg() {
        return Err(EINVAL);
    }
    Ok(inode)
}

/// Calls `f` with each part of `data`, which goes to byte `off`, and its place. Parts end at multiples of `chunk`, so that runs of
/// blocks do.
fn in_chunks(
    off: u64,
    data: &[u8],
    chunk: usize,
    mut f: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut at = 0;
    while at < data.len() {
        let pos = off + at as u64;
        let n = (chunk - (pos % chunk as u64) as usize).min(data.len() - at);
        f(pos, &data[at..at + n])?;
        at += n;
    }
    Ok(())
}

/// Writes inside one transaction, contents and all.
fn write_through(tx: &mut Txn<'_>, ino: u32, off: u64, data: &[u8], stamp: bool) -> Result<()> {
    let mut inode = writable(tx, ino)?;
    if inode.has(flags::INLINE_DATA) {
        return write_inline_file(tx, ino, off, data, stamp);
    }
    let bits = tx.lay().block_bits;
    let end = off + data.len() as u64;
    let (from, to) = (off >> bits, end.div_ceil(1 << bits));
    if to > map::max_blocks(tx, &inode) {
        return Err(EFBIG);
    }
    if off > inode.size && inode.size & ((1 << bits) - 1) != 0 {
        // What lies past the old end must not become visible.
        let edge = (inode.size >> bits) + 1;
        zero_bytes(tx, &inode, inode.size, off.min(edge << bits))?;
    }
    for p in &allocate(tx, &mut inode, from, to)? {
        put_in(tx, &inode, p, off, data)?;
    }
    inode.size = inode.size.max(end);
    finish(tx, &mut inode, stamp)
}

/// As [`put`], but a part of the transaction for a file whose contents are.
fn put_in(tx: &mut Txn<'_>, inode: &Inode, p: &Piece, off: u64, data: &[u8]) -> Result<()> {
    if !tx.core().journals(inode) {
        return put(tx.core(), p, off, data);
    }
    let bs = u64::from(tx.lay().block_size);
    let end = off + data.len() as u64;
    for i in 0..p.len {
        let at = (p.logical + i) * bs;
        let (s, e) = (at.max(off), (at + bs).min(end));
        let covered = s == at && e == at + bs;
        if s >= e && p.keep {
            continue;
        }
        let block = tx.contents(p.block + i, p.keep && !covered)?;
        if s < e {
            block[(s - at) as usize..(e - at) as usize]
                .copy_from_slice(&data[(s - off) as usize..(e - off) as usize]);
        }
    }
    Ok(())
}

/// Writes the part of `data` (which starts at byte `off` of the file) that
/// falls into a piece.
fn put(core: &Core, p: &Piece, off: u64, data: &[u8]) -> Result<()> {
    let bs = u64::from(core.lay.block_size);
    let (start, end) = (p.logical * bs, (p.logical + p.len) * bs);
    let (s, e) = (start.max(off), end.min(off + data.len() as u64));
    if s >= e {
        // Allocated but not covered by the data: must read as zeros.
        return if p.keep { Ok(()) } else { zero_blocks(core, p.block, p.len) };
    }
    let src = &data[(s - off) as usize..(e - off) as usize];
    let base = p.block * bs;
    let (head, tail) = (s - s / bs * bs, e.div_ceil(bs) * bs - e);
    if head == 0 && tail == 0 {
        return core.store.write_at(base + (s - start), src);
    }
    // Edge blocks are completed; the middle is written as it is.
    let first = s / bs * bs;
    let last = (e - 1) / bs * bs;
    let edge = |at: u64| -> Result<()> {
        let mut b = vec![0; bs as usize];
        if p.keep {
            core.store.read_at(base + (at - start), &mut b)?;
        }
        let (cs, ce) = (at.max(s), (at + bs).min(e));
        b[(cs - at) as usize..(ce - at) as usize]
            .copy_from_slice(&src[(cs - s) as usize..(ce - s) as usize]);
        core.store.write_at(base + (at - start), &b)
    };
    let mut mid = (first, last + bs);
    if head != 0 || first == last {
        edge(first)?;
        mid.0 += bs;
    }
    if tail != 0 && last != first {
        edge(last)?;
        mid.1 -= bs;
    } else if first == last {
        return Ok(());
    }
    if mid.0 < mid.1 {
        let part = &src[(mid.0 - s) as usize..(mid.1 - s) as usize];
        core.store.write_at(base + (mid.0 - start), part)?;
    }
    Ok(())
}

/// Writes zeros over blocks.
pub(crate) fn zero_blocks(core: &Core, block: u64, len: u64) -> Result<()> {
    let bs = u64::from(core.lay.block_size);
    let zeros = vec![0; (len * bs).min(1 << 20) as usize];
    let mut done = 0;
    while done < len * bs {
        let n = (len * bs - done).min(zeros.len() as u64);
        core.store.write_at(core.off(block) + done, &zeros[..n as usize])?;
        done += n;
    }
    Ok(())
}

/// Zeroes bytes `from..to` of a file where a written block holds them; both
/// lie in the same block.
pub(crate) fn zero_bytes(tx: &mut Txn<'_>, inode: &Inode, from: u64, to: u64) -> Result<()> {
    let lay = tx.lay();
    let lblk = from >> lay.block_bits;
    let m = map::find(tx, inode, lblk, 1)?;
    let Some(p) = m.physical.filter(|_| !m.unwritten) else { return Ok(()) };
    let base = lblk << lay.block_bits;
    let range = (from - base) as usize..(to - base) as usize;
    if tx.core().journals(inode) {
        tx.contents(p, true)?[range].fill(0);
        return Ok(());
    }
    let mut b = tx.core().read_raw(p)?;
    let part = &mut b[range];
    if part.iter().all(|x| *x == 0) {
        return Ok(());
    }
    part.fill(0);
    tx.core().store.write_at(tx.core().off(p), &b)
}

/// Where the next block of a file should go: after the one before it.
pub(crate) fn goal(tx: &Txn<'_>, inode: &Inode, lblk: u64) -> Result<u64> {
    if let Some(before) = lblk.checked_sub(1) {
        if let Some(p) = map::find(tx, inode, before, 1)?.physical {
            return Ok(p + 1);
        }
    }
    Ok(tx.goal_for(inode))
}

/// Chooses where blocks of bytes `off..end` go. Returns false for files that
/// are stored in their inode.
fn choose(tx: &mut Txn<'_>, ino: u32, off: u64, end: u64, places: &mut Vec<Place>) -> Result<bool> {
    let inode = writable(tx, ino)?;
    if inode.has(flags::INLINE_DATA) {
        return Ok(false);
    }
    let bits = tx.lay().block_bits;
    let (mut at, to) = (off >> bits, end.div_ceil(1 << bits));
    if to > map::max_blocks(tx, &inode) {
        return Err(EFBIG);
    }
    let mut taken = 0;
    let mut next = None;
    while at < to {
        let m = map::find(tx, &inode, at, to - at)?;
        let (block, len, state) = match m {
            Mapping { physical: Some(b), unwritten: true, len, .. } => (b, len, Was::Unwritten),
            Mapping { physical: Some(b), len, .. } => (b, len, Was::Data),
            Mapping { len, .. } => {
                let hint = match next {
                    Some(n) => n,
                    None => goal(tx, &inode, at)?,
                };
                let (b, got) = tx.set_aside(hint, len, taken)?;
                taken += got;
                (b, got, Was::Hole)
            }
        };
        let keep = state == Was::Data;
        places.push(Place { piece: Piece { block, len, logical: at, keep }, state });
        next = Some(block + len);
        at += len;
    }
    Ok(true)
}

/// Makes chosen and written places part of the file.
fn enter(
    tx: &mut Txn<'_>,
    ino: u32,
    range: std::ops::Range<u64>,
    places: &[Place],
    stamp: bool,
) -> Result<()> {
    let (off, end) = (range.start, range.end);
    let mut inode = writable(tx, ino)?;
    let bits = tx.lay().block_bits;
    if off > inode.size && inode.size & ((1 << bits) - 1) != 0 {
        // What lies past the old end must not become visible.
        let edge = (inode.size >> bits) + 1;
        zero_bytes(tx, &inode, inode.size, off.min(edge << bits))?;
    }
    for Place { piece: p, state } in places {
        match state {
            Was::Data => {}
            Was::Unwritten => convert(tx, &mut inode, p.logical, p.logical + p.len, false)?,
            Was::Hole => {
                tx.claim_exact(p.block, p.len)?;
                inode.sectors += p.len * tx.lay().sectors();
                map::insert(tx, &mut inode, p.logical, p.block, p.len, false)?;
            }
        }
    }
    inode.size = inode.size.max(end);
    finish(tx, &mut inode, stamp)
}

fn finish(tx: &mut Txn<'_>, inode: &mut Inode, stamp: bool) -> Result<()> {
    if stamp {
        inode.mtime = tx.now;
        inode.ctime = tx.now;
    }
    inode.version = inode.version.wrapping_add(1);
    tx.put_inode(inode)
}

/// Writes to a file stored in its inode, moving it to blocks when it grows.
fn write_inline_file(tx: &mut Txn<'_>, ino: u32, off: u64, data: &[u8], stamp: bool) -> Result<()> {
    let mut inode = writable(tx, ino)?;
    let bits = tx.lay().block_bits;
    let end = off + data.len() as u64;
    if !inode.has(flags::INLINE_DATA) || !write_inline(tx, &mut inode, off, data)? {
        if inode.has(flags::INLINE_DATA) {
            leave_inline(tx, &mut inode)?;
        }
        for p in &allocate(tx, &mut inode, off >> bits, end.div_ceil(1 << bits))? {
            put_in(tx, &inode, p, off, data)?;
        }
        inode.size = inode.size.max(end);
    }
    finish(tx, &mut inode, stamp)
}

/// Gives every block in `from..to` a written place; returns the places.
fn allocate(tx: &mut Txn<'_>, inode: &mut Inode, from: u64, to: u64) -> Result<Vec<Piece>> {
    let mut out = Vec::new();
    let mut at = from;
    while at < to {
        let m = map::find(tx, inode, at, to - at)?;
        match m {
            Mapping { physical: Some(block), unwritten, len, .. } => {
                if unwritten {
                    convert(tx, inode, at, at + len, false)?;
                }
                out.push(Piece { block, len, logical: at, keep: !unwritten });
                at += len;
            }
            Mapping { len, .. } => {
                let hint = goal(tx, inode, at)?;
                let (block, got) = tx.alloc_run(hint, len)?;
                inode.sectors += got * tx.lay().sectors();
                map::insert(tx, inode, at, block, got, false)?;
                out.push(Piece { block, len: got, logical: at, keep: false });
                at += got;
            }
        }
    }
    Ok(out)
}

/// Writes into an inline file if it still fits; grows the inline space.
fn write_inline(tx: &mut Txn<'_>, inode: &mut Inode, off: u64, data: &[u8]) -> Result<bool> {
    let end = off + data.len() as u64;
    let room = 60 + xattr::inline_room(tx, inode)? as u64;
    if end > room {
        return Ok(false);
    }
    let mut all = inline::contents(tx, inode)?;
    let size = all.len().max(end as usize);
    all.resize(size, 0);
    all[off as usize..end as usize].copy_from_slice(data);
    store_inline(tx, inode, &all)?;
    Ok(true)
}

/// Stores all bytes of an inline file, which fit.
pub(crate) fn store_inline(tx: &mut Txn<'_>, inode: &mut Inode, all: &[u8]) -> Result<()> {
    let first = all.len().min(60);
    inode.block = [0; 60];
    inode.block[..first].copy_from_slice(&all[..first]);
    let rest = all.get(60..).unwrap_or(&[]);
    xattr::set_inline_value(tx, inode, Some(rest.to_vec()))?;
    inode.size = all.len() as u64;
    Ok(())
}

/// Moves an inline file's contents to a block.
pub(crate) fn leave_inline(tx: &mut Txn<'_>, inode: &mut Inode) -> Result<()> {
    let all = inline::contents(tx, inode)?;
    drop_inline(tx, inode)?;
    if !all.is_empty() {
        for p in allocate(tx, inode, 0, 1)? {
            put_in(tx, inode, &p, 0, &all)?;
        }
    }
    Ok(())
}
