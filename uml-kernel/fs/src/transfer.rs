//! Moving file data between a host descriptor and a sink or source, through a bounded buffer.

use std::cell::RefCell;

use uml_abi::Result;
use uml_core::io::{Sink, Source};

/// Largest piece moved at a time.
const CHUNK: usize = 256 << 10;
/// Largest piece moved at a time without a buffer: locks are held for as long.
const THROUGH: usize = 1 << 20;
/// Up to this size the buffer lives on the stack.
const SMALL: usize = 4096;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with a scratch buffer of `len` bytes.
pub(crate) fn with_buffer<R>(len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    if len <= SMALL {
        return f(&mut [0; SMALL][..len]);
    }
    BUFFER.with(|b| match b.try_borrow_mut() {
        Ok(mut b) => {
            if b.len() < len {
                b.resize(len, 0);
            }
            f(&mut b[..len])
        }
        // Nested transfer on one thread (an overlay copying up): rare.
        Err(_) => f(&mut vec![0; len]),
    })
}

/// Fills `dst` from `read(off, buf)`, which returns 0 at the end of the file. `*off` advances.
pub(crate) fn read_into(
    off: &mut u64,
    dst: &mut dyn Sink,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<usize>,
) -> Result<usize> {
    let mut done = 0;
    while dst.remaining() != 0 {
        let want = dst.remaining().min(CHUNK);
        let step = with_buffer(want, |buf| -> Result<(usize, usize)> {
            let got = read(*off, buf)?;
            let put = if got == 0 { 0 } else { dst.put(&buf[..got])? };
            Ok((got, put))
        });
        match step {
            Ok((got, put)) => {
                *off += put as u64;
                done += put;
                if got < want || put < got {
                    break;
                }
            }
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// As [`read_into`], but by `through(off, len, dst)` as long as that can move bytes to `dst` in one copy (`None`: it cannot).
pub(crate) fn read_through(
    off: &mut u64,
    dst: &mut dyn Sink,
    mut through: impl FnMut(u64, usize, &mut dyn Sink) -> Option<Result<usize>>,
    read: impl FnMut(u64, &mut [u8]) -> Result<usize>,
) -> Result<usize> {
    let mut done = 0;
    while dst.remaining() != 0 {
        let want = dst.remaining().min(THROUGH);
        match through(*off, want, dst) {
            Some(Ok(got)) => {
                *off += got as u64;
                done += got;
                if got < want {
                    return Ok(done);
                }
            }
            Some(Err(e)) if done == 0 => return Err(e),
            Some(Err(_)) => return Ok(done),
            None => {
                return match read_into(off, dst, read) {
                    Ok(n) => Ok(done + n),
                    Err(e) if done == 0 => Err(e),
                    Err(_) => Ok(done),
                };
            }
        }
    }
    Ok(done)
}

/// Drains `src` into `write(buf)`, which returns how much it took.
pub(crate) fn write_from(
    src: &mut dyn Source,
    mut write: impl FnMut(&[u8]) -> Result<usize>,
) -> Result<usize> {
    let mut done = 0;
    while src.remaining() != 0 {
        let want = src.remaining().min(CHUNK);
        let step = with_buffer(want, |buf| -> Result<(usize, usize)> {
            let got = src.take(buf)?;
            match write(&buf[..got]) {
                Ok(n) => {
                    src.untake(got - n);
                    Ok((got, n))
                }
                Err(e) => {
                    src.untake(got);
                    Err(e)
                }
            }
        });
        match step {
            Ok((got, n)) => {
                done += n;
                if n < got || got < want {
                    break;
                }
            }
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}
