//! Buffers for moving data, used again: fresh memory costs the host more than the copy that goes through it.

use std::cell::RefCell;
use std::sync::Mutex;

use crate::lock;

/// Each thread keeps one of at most this size.
const OWN: usize = 1 << 20;
/// Larger ones, up to this size, are kept for all...
const COMMON: usize = 4 << 20;
/// ... but no more than these.
const MOST: usize = 2;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

static LARGE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Runs `f` with `len` bytes of unspecified contents.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    if len > OWN {
        return with_large(len, f);
    }
    BUFFER.with(|b| match b.try_borrow_mut() {
        Ok(mut b) => f(grown(&mut b, len)),
        // A writeback from within a fill: rare.
        Err(_) => f(&mut vec![0; len]),
    })
}

fn grown(b: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if b.len() < len {
        b.resize(len, 0);
    }
    &mut b[..len]
}

fn with_large<R>(len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    let kept = lock(&LARGE).pop();
    let mut b = kept.unwrap_or_default();
    let r = f(grown(&mut b, len));
    if b.len() <= COMMON {
        let mut all = lock(&LARGE);
        if all.len() < MOST {
            all.push(b);
        }
    }
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_their_size_and_few_are_kept() {
        for len in [0, 1, OWN, OWN + 1, COMMON, COMMON + 1, 5000] {
            with(len, |b| {
                assert_eq!(b.len(), len);
                b.fill(1);
                // One within the other.
                with(len, |inner| assert_eq!(inner.len(), len));
            });
        }
        std::thread::scope(|s| {
            for _ in 0..6 {
                s.spawn(|| with(COMMON, |b| b.fill(2)));
            }
        });
        let all = lock(&LARGE);
        assert!(all.len() <= MOST && all.iter().all(|b| b.len() <= COMMON));
    }
}
