//! The host process of a guest address space: identity, life and memory access.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::sys::{self, Copy};
use crate::view::FileView;

/// A child process that stays un-reaped while anybody is using its pid.
pub struct HostProcess {
    pid: i32,
    /// Set before the process is reaped; the pid means nothing afterwards.
    gone: AtomicBool,
    /// Calls that are using the pid right now.
    users: AtomicUsize,
}

struct InUse<'a>(&'a AtomicUsize);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl HostProcess {
    pub fn new(pid: i32) -> HostProcess {
        HostProcess { pid, gone: AtomicBool::new(false), users: AtomicUsize::new(0) }
    }

    /// The pid, whether or not it is still valid.
    pub fn raw_pid(&self) -> i32 {
        self.pid
    }

    pub fn pid(&self) -> i32 {
        if self.is_gone() { 0 } else { self.pid }
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Declares the pid invalid and waits until nobody uses it; the caller may then reap.
    /// Users hold it for the length of one host call that does not sleep on guests.
    pub fn retire(&self) {
        self.gone.store(true, Ordering::SeqCst);
        while self.users.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }

    /// Runs `f` with the pid, which stays valid meanwhile; `None` when the process is gone.
    pub fn with_pid<R>(&self, f: impl FnOnce(i32) -> R) -> Option<R> {
        self.users.fetch_add(1, Ordering::SeqCst);
        let _in_use = InUse(&self.users);
        if self.is_gone() { None } else { Some(f(self.pid)) }
    }

    pub fn kill(&self) {
        // An error means that it is dead already.
        self.with_pid(|pid| sys::kill(pid, libc::SIGKILL).ok());
    }

    /// Writes through the host's /proc/<pid>/mem, which minds no protection of private pages.
    pub fn poke(&self, addr: u64, buf: &[u8]) -> usize {
        use std::os::unix::fs::FileExt;
        let write = |pid: i32| {
            let mem = std::fs::File::options().write(true).open(format!("/proc/{pid}/mem")).ok()?;
            mem.write_at(buf, addr).ok()
        };
        self.with_pid(write).flatten().unwrap_or(0)
    }

    pub fn read(&self, ranges: &[(u64, usize)], buf: &mut [u8]) -> usize {
        // SAFETY: the buffer is live and writable for its length.
        self.with_pid(|pid| unsafe {
            sys::copy_vm(pid, Copy::Read, buf.as_mut_ptr(), buf.len(), ranges)
        })
        .unwrap_or(0)
    }

    pub fn write(&self, ranges: &[(u64, usize)], buf: &[u8]) -> usize {
        // SAFETY: the buffer is live and, in this direction, only read.
        self.with_pid(|pid| unsafe {
            sys::copy_vm(pid, Copy::Write, buf.as_ptr().cast_mut(), buf.len(), ranges)
        })
        .unwrap_or(0)
    }

    pub fn write_view(
        &self,
        ranges: &[(u64, usize)],
        view: &FileView,
        off: u64,
        len: usize,
    ) -> usize {
        let Some(from) = view.bytes(off, len) else { return 0 };
        // SAFETY: the range is inside the view's mapping, which the host only reads; pages that the file has not
        // are refused like bad addresses.
        self.with_pid(|pid| unsafe { sys::copy_vm(pid, Copy::Write, from, len, ranges) })
            .unwrap_or(0)
    }
}

/// Implements [`crate::api::Space`] for a type with a `process: HostProcess`.
macro_rules! impl_space {
    ($t:ty) => {
        impl $crate::api::Space for $t {
            fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
                let len = buf.len();
                self.process.read(&[(addr, len)], buf)
            }

            fn write(&self, addr: u64, buf: &[u8]) -> usize {
                self.process.write(&[(addr, buf.len())], buf)
            }

            fn poke(&self, addr: u64, buf: &[u8]) -> usize {
                self.process.poke(addr, buf)
            }

            fn read_vectored(&self, ranges: &[(u64, usize)], buf: &mut [u8]) -> usize {
                self.process.read(ranges, buf)
            }

            fn write_vectored(&self, ranges: &[(u64, usize)], buf: &[u8]) -> usize {
                self.process.write(ranges, buf)
            }

            fn write_view(
                &self,
                addr: u64,
                view: &$crate::view::FileView,
                off: u64,
                len: usize,
            ) -> usize {
                self.process.write_view(&[(addr, len)], view, off, len)
            }

            fn kill(&self) {
                self.process.kill();
            }

            fn host_pid(&self) -> i32 {
                self.process.pid()
            }
        }
    };
}

pub(crate) use impl_space;
