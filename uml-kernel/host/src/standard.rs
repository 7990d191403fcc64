//! Which of descriptors 0, 1 and 2 this process was started without.
//!
//! The runtime opens /dev/null in place of a missing one before `main`, so that no file comes to have its number. A console
//! that was put on it would be silent for ever; who asked for it is told instead.

use std::sync::atomic::{AtomicU8, Ordering};

/// A bit for each number.
static CLOSED: AtomicU8 = AtomicU8::new(0);

extern "C" fn look() {
    for number in 0..3 {
        // SAFETY: fcntl(2) on a number; what is not open is EBADF.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            CLOSED.fetch_or(1 << number, Ordering::Relaxed);
        }
    }
}

// Before the runtime's own start.
// SAFETY: the section holds functions that take and give nothing which `look` needs, and `look` uses nothing of the runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// True when the process was started without descriptor `number`.
pub fn was_closed(number: i32) -> bool {
    (0..3).contains(&number) && CLOSED.load(Ordering::Relaxed) >> number & 1 != 0
}
