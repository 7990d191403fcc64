//! A buffer per thread for moving data.

use std::cell::RefCell;

/// Larger buffers are not kept.
const KEEP: usize = 1 << 20;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with `len` bytes of unspecified contents.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    if len > KEEP {
        return f(&mut vec![0; len]);
    }
    BUFFER.with(|b| match b.try_borrow_mut() {
        Ok(mut b) => {
            if b.len() < len {
                b.resize(len, 0);
            }
            f(&mut b[..len])
        }
        // A writeback from within a fill: rare.
        Err(_) => f(&mut vec![0; len]),
    })
}
