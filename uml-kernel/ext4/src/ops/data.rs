//! Reading file contents and mapping files to blocks.

use uml_abi::Result;
use uml_abi::errno::{EINVAL, EISDIR};

use crate::cache::Buf;
use crate::fs::Ext4;
use crate::inline;
use crate::inode::{Inode, flags};
use crate::map::{self, Mapping};
use crate::meta::MetaRead;

/// Mappings looked up under one lock.
const BATCH: usize = 64;

/// Contents found while planning a read.
enum Plan {
    Inline(Vec<u8>),
    /// Bytes to read, the mappings they come from, and of a file whose
    /// contents are journalled the blocks whose newest ones are not yet at home.
    Blocks(u64, Vec<Mapping>, Vec<(u64, Buf)>),
}

/// How bytes come from the store: offset, buffer.
trait Fetch: Fn(u64, &mut [u8]) -> Result<()> {}
impl<F: Fn(u64, &mut [u8]) -> Result<()>> Fetch for F {}

/// Puts the blocks of `newer` that lie in `p..p + len` over what was read from byte `skip` of that run.
fn lay_over(newer: &[(u64, Buf)], p: u64, len: u64, skip: u64, bits: u32, dst: &mut [u8]) {
    for (nr, b) in newer.iter().filter(|(nr, _)| (p..p + len).contains(nr)) {
        let at = (nr - p) << bits;
        let (s, e) = (at.max(skip), (at + b.len() as u64).min(skip + dst.len() as u64));
        if s < e {
            dst[(s - skip) as usize..(e - skip) as usize]
                .copy_from_slice(&b[(s - at) as usize..(e - at) as usize]);
        }
    }
}

impl Ext4 {
    /// Reads at most `buf.len()` bytes at `off`; holes read as zeros. Returns
    /// 0 at and past the end. `EISDIR` for directories, `EINVAL` for others
    /// without contents.
    pub fn read(&self, ino: u32, off: u64, buf: &mut [u8]) -> Result<usize> {
        self.read_by(ino, off, buf, |at, dst| self.core.store.read_at(at, dst))
    }

    /// As [`Ext4::read`], but `EAGAIN` where the store would have to be waited for contents; it is waited for metadata.
    pub fn read_at_once(&self, ino: u32, off: u64, buf: &mut [u8]) -> Result<usize> {
        self.read_by(ino, off, buf, |at, dst| self.core.store.read_at_once(at, dst))
    }

    fn read_by(&self, ino: u32, off: u64, buf: &mut [u8], from: impl Fetch) -> Result<usize> {
        let _data = self.inode_lock(ino).read().unwrap_or_else(|e| e.into_inner());
        let mut done = 0usize;
        while done < buf.len() {
            let at = off + done as u64;
            let n = self.read_some(ino, at, &mut buf[done..], &from)?;
            if n == 0 {
                break;
            }
            done += n;
        }
        Ok(done)
    }

    fn read_some(&self, ino: u32, off: u64, buf: &mut [u8], from: &impl Fetch) -> Result<usize> {
        let bits = self.core.lay.block_bits;
        let plan = self.view(|v| {
            let inode = Inode::live(v, ino)?;
            if inode.is_dir() {
                return Err(EISDIR);
            }
            if !inode.is_reg() {
                return Err(EINVAL);
            }
            if off >= inode.size || buf.is_empty() {
                return Ok(Plan::Blocks(0, Vec::new(), Vec::new()));
            }
            if inode.has(flags::INLINE_DATA) {
                return Ok(Plan::Inline(inline::contents(v, &inode)?));
            }
            let len = (inode.size - off).min(buf.len() as u64);
            let end = (off + len).div_ceil(1 << bits);
            let mut at = off >> bits;
            let mut list = Vec::new();
            while at < end && list.len() < BATCH {
                let m = map::find(v, &inode, at, end - at)?;
                at += m.len;
                list.push(m);
            }
            let mut newer = Vec::new();
            if v.core.journals(&inode) {
                for m in list.iter().filter(|m| !m.unwritten) {
                    let run = m.physical.map_or(0..0, |p| p..p + m.len);
                    newer.extend(run.filter_map(|nr| v.st.dirty.get(&nr).map(|b| (nr, b.clone()))));
                }
            }
            Ok(Plan::Blocks(len.min((at << bits) - off), list, newer))
        })?;
        match plan {
            Plan::Inline(v) => {
                let part = v.get(off as usize..).unwrap_or(&[]);
                let n = part.len().min(buf.len());
                buf[..n].copy_from_slice(&part[..n]);
                Ok(n)
            }
            Plan::Blocks(len, list, newer) => {
                let end = off + len;
                for m in list {
                    let s = (m.logical << bits).max(off);
                    let e = ((m.logical + m.len) << bits).min(end);
                    let Some(dst) = buf.get_mut((s - off) as usize..(e.max(s) - off) as usize)
                    else {
                        continue;
                    };
                    match m.physical.filter(|_| !m.unwritten) {
                        Some(p) => {
                            let skip = s - (m.logical << bits);
                            self.read_bytes(p, skip, dst, from)?;
                            lay_over(&newer, p, m.len, skip, bits, dst);
                        }
                        None => dst.fill(0),
                    }
                }
                Ok(len as usize)
            }
        }
    }

    /// Reads bytes at `skip` past the start of block `p`, in requests that
    /// respect the store's alignment.
    fn read_bytes(&self, p: u64, skip: u64, dst: &mut [u8], from: &impl Fetch) -> Result<()> {
        let bs = self.core.lay.bs();
        let start = self.core.off(p) + skip;
        let head = (start % bs as u64) as usize;
        let mut dst = dst;
        let mut at = start;
        if head != 0 || dst.len() < bs {
            let mut b = vec![0; bs];
            from(at - head as u64, &mut b)?;
            let n = (bs - head).min(dst.len());
            dst[..n].copy_from_slice(&b[head..head + n]);
            dst = &mut dst[n..];
            at += n as u64;
        }
        let whole = dst.len() - dst.len() % bs;
        if whole > 0 {
            from(at, &mut dst[..whole])?;
            dst = &mut dst[whole..];
            at += whole as u64;
        }
        if !dst.is_empty() {
            let mut b = vec![0; bs];
            from(at, &mut b)?;
            let n = dst.len();
            dst.copy_from_slice(&b[..n]);
        }
        Ok(())
    }

    /// Maps at most `count` blocks from logical block `lblk`: for O_DIRECT,
    /// FIEMAP, FIBMAP and SEEK_HOLE. Inline files map to holes.
    pub fn map(&self, ino: u32, lblk: u64, count: u64) -> Result<Mapping> {
        self.view(|v| map::find(v, &Inode::live(v, ino)?, lblk, count))
    }

    /// Largest size in bytes that an inode's block map can express.
    pub fn max_size(&self, ino: u32) -> Result<u64> {
        let bits = self.core.lay.block_bits;
        self.view(|v| {
            let inode = Inode::live(v, ino)?;
            // A file that starts inline gets the map the filesystem uses.
            let blocks = if inode.has(flags::INLINE_DATA) && v.lay().extents() {
                v.lay().max_extent_blocks()
            } else {
                map::max_blocks(v, &inode)
            };
            Ok((blocks << bits).min(i64::MAX as u64))
        })
    }

    /// SEEK_DATA (`data` true) or SEEK_HOLE from `off`: the first byte of that
    /// kind, or `None` when there is none before the end of the file (for
    /// SEEK_HOLE the end itself counts as a hole).
    pub fn seek(&self, ino: u32, off: u64, data: bool) -> Result<Option<u64>> {
        let bits = self.core.lay.block_bits;
        let mut at = off;
        loop {
            // A bounded number of steps per lock.
            let r = self.view(|v| {
                let inode = Inode::live(v, ino)?;
                if off >= inode.size {
                    return Ok(Some(None));
                }
                if inode.has(flags::INLINE_DATA) {
                    return Ok(Some(Some(if data { off } else { inode.size })));
                }
                for _ in 0..BATCH {
                    if at >= inode.size {
                        return Ok(Some((!data).then_some(inode.size)));
                    }
                    let left = inode.size.div_ceil(1 << bits) - (at >> bits);
                    let m = map::find(v, &inode, at >> bits, left)?;
                    if m.is_data() == data {
                        return Ok(Some(Some(at)));
                    }
                    at = (m.logical + m.len) << bits;
                }
                Ok(None)
            })?;
            if let Some(answer) = r {
                return Ok(answer);
            }
        }
    }

    /// The target of a symbolic link. `EINVAL` for other inodes.
    pub fn readlink(&self, ino: u32) -> Result<Vec<u8>> {
        self.view(|v| {
            let inode = Inode::live(v, ino)?;
            if !inode.is_symlink() {
                return Err(EINVAL);
            }
            if inode.has(flags::INLINE_DATA) {
                return inline::contents(v, &inode);
            }
            let lay = v.lay();
            let n = inode.size as usize;
            if inode.fast_symlink(lay) {
                let t = inode.block.get(..n.min(59)).unwrap_or(&[]);
                return Ok(t.to_vec());
            }
            if n >= lay.bs() || n > 4095 {
                return Err(v.corrupt("symlink length", ino, 0));
            }
            let m = map::find(v, &inode, 0, 1)?;
            let Some(p) = m.physical else {
                return Err(v.corrupt("symlink without a block", ino, 0));
            };
            Ok(v.block(p)?[..n].to_vec())
        })
    }
}
