//! Where the bytes of a read go and where the bytes of a write come from.
//!
//! File operations never see guest pointers: they move data through a [`Sink`] or a
//! [`Source`], which is guest memory for read(2) and kernel memory for internal use. Copies may stop
//! part-way; the caller then reports what got through (read(2): a short count, `EFAULT`
//! only when nothing was copied).

use uml_abi::Result;
use uml_abi::errno::EFAULT;
use uml_platform::view::FileView;

/// Destination of a read.
pub trait Sink {
    /// Bytes that still fit.
    fn remaining(&self) -> usize;
    /// Appends `data`; returns how many bytes were taken, which is less than
    /// `min(data.len(), remaining())` only at an inaccessible page, and `EFAULT` when that
    /// happens at the first byte.
    fn put(&mut self, data: &[u8]) -> Result<usize>;
    /// Appends bytes `off..off + len` of a memory file, in one copy where the sink can; otherwise as [`Sink::put`],
    /// page by page. The file has all of them.
    fn put_view(&mut self, view: &FileView, off: u64, len: usize) -> Result<usize> {
        let mut page = [0; 4096];
        let mut done = 0;
        while done < len {
            let want = (len - done).min(page.len());
            let got = uml_host::fs::pread(view.file(), off + done as u64, &mut page[..want])?;
            let put = match self.put(&page[..got]) {
                Ok(n) => n,
                Err(e) if done == 0 => return Err(e),
                Err(_) => 0,
            };
            done += put;
            if put < want {
                break;
            }
        }
        Ok(done)
    }
    /// Appends `n` zero bytes (holes).
    fn put_zeros(&mut self, n: usize) -> Result<usize> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut done = 0;
        while done < n {
            let want = (n - done).min(ZEROS.len());
            match self.put(&ZEROS[..want]) {
                Ok(got) if got == want => done += got,
                Ok(got) => return Ok(done + got),
                Err(e) if done == 0 => return Err(e),
                Err(_) => return Ok(done),
            }
        }
        Ok(done)
    }
}

/// Origin of a write.
pub trait Source {
    /// Bytes that are left.
    fn remaining(&self) -> usize;
    /// Takes up to `buf.len()` bytes; returns how many, which is less than
    /// `min(buf.len(), remaining())` only at an inaccessible page, and `EFAULT` when that happens at
    /// the first byte.
    fn take(&mut self, buf: &mut [u8]) -> Result<usize>;
    /// Puts the last `n` taken bytes back, because the object accepted fewer.
    fn untake(&mut self, n: usize);
}

/// Kernel memory as a sink.
pub struct BufSink<'a> {
    buf: &'a mut [u8],
    pos: usize,
}

impl<'a> BufSink<'a> {
    /// Fills `buf` from the start.
    pub fn new(buf: &'a mut [u8]) -> BufSink<'a> {
        BufSink { buf, pos: 0 }
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.pos
    }
}

impl Sink for BufSink<'_> {
    fn remaining(&self) -> usize {
        self.buf.len() - self.pos
    }

    fn put(&mut self, data: &[u8]) -> Result<usize> {
        let n = data.len().min(self.remaining());
        self.buf[self.pos..self.pos + n].copy_from_slice(&data[..n]);
        self.pos += n;
        Ok(n)
    }
}

/// A growing vector as a sink, bounded by `limit`.
pub struct VecSink {
    pub data: Vec<u8>,
    limit: usize,
}

impl VecSink {
    /// Accepts at most `limit` bytes.
    pub fn new(limit: usize) -> VecSink {
        VecSink { data: Vec::new(), limit }
    }
}

impl Sink for VecSink {
    fn remaining(&self) -> usize {
        self.limit - self.data.len()
    }

    fn put(&mut self, data: &[u8]) -> Result<usize> {
        let n = data.len().min(self.remaining());
        self.data.extend_from_slice(&data[..n]);
        Ok(n)
    }
}

/// Kernel memory as a source.
pub struct BufSource<'a> {
    buf: &'a [u8],
    pos: usize,
}

impl<'a> BufSource<'a> {
    /// Yields `buf` from the start.
    pub fn new(buf: &'a [u8]) -> BufSource<'a> {
        BufSource { buf, pos: 0 }
    }
}

impl Source for BufSource<'_> {
    fn remaining(&self) -> usize {
        self.buf.len() - self.pos
    }

    fn take(&mut self, out: &mut [u8]) -> Result<usize> {
        let n = out.len().min(self.remaining());
        out[..n].copy_from_slice(&self.buf[self.pos..self.pos + n]);
        self.pos += n;
        Ok(n)
    }

    fn untake(&mut self, n: usize) {
        self.pos = self.pos.saturating_sub(n);
    }
}

/// Copies everything left in `src` into a vector of at most `limit` bytes; a fault
/// part-way yields what was readable, at the first byte `EFAULT`.
pub fn take_vec(src: &mut dyn Source, limit: usize) -> Result<Vec<u8>> {
    let want = src.remaining().min(limit);
    let mut buf = vec![0; want];
    let got = if want == 0 { 0 } else { src.take(&mut buf)? };
    if want != 0 && got == 0 {
        return Err(EFAULT);
    }
    buf.truncate(got);
    Ok(buf)
}
