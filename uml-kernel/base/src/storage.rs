//! Storage that the work of this thread takes: what proc_pid_io(5) and getrusage(2) count for the task it works for. Whoever
//! moves bytes counts them here, without knowing tasks; whoever runs tasks looks before and after ([`Used::take`]).

use std::cell::Cell;

thread_local! {
    static USED: Cell<Used> = const { Cell::new(Used { read: 0, written: 0, cancelled: 0 }) };
}

/// Bytes since the thread began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Asked of a disk.
    pub read: u64,
    /// Made to differ from what a disk has, or written to one past the cache.
    pub written: u64,
    /// Of those, what was dropped before it was written (a file was cut or deleted).
    pub cancelled: u64,
}

impl Used {
    /// What this thread has used.
    pub fn now() -> Used {
        USED.get()
    }

    /// What this thread has used since it had used `before`. Whoever looked earlier and takes later does not get it again.
    pub fn take(before: Used) -> Used {
        let now = USED.replace(before);
        Used {
            read: now.read - before.read,
            written: now.written - before.written,
            cancelled: now.cancelled - before.cancelled,
        }
    }
}

fn change(f: impl FnOnce(&mut Used)) {
    let mut u = USED.get();
    f(&mut u);
    USED.set(u);
}

/// Bytes are read from a disk on behalf of this thread.
pub fn read(bytes: u64) {
    change(|u| u.read += bytes);
}

/// Bytes are to go to a disk.
pub fn written(bytes: u64) {
    change(|u| u.written += bytes);
}

/// Bytes that were to go to a disk will not.
pub fn cancelled(bytes: u64) {
    change(|u| u.cancelled += bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_for_themselves() {
        let before = Used::now();
        read(512);
        std::thread::spawn(|| written(1)).join().unwrap();
        written(4096);
        cancelled(100);
        let inner = Used::now();
        read(7);
        assert_eq!(Used::take(inner), Used { read: 7, written: 0, cancelled: 0 });
        assert_eq!(Used::take(before), Used { read: 512, written: 4096, cancelled: 100 });
        assert_eq!(Used::now(), before);
    }
}
