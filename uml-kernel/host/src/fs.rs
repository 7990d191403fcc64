//! Host files: calls relative to descriptors, with the paths confined by openat2(2).
//!
//! Every function names a file by a descriptor, or by a single name in a directory given by a descriptor.
//! Calls on O_PATH descriptors go through `/proc/self/fd/N`, which names exactly the file that was
//! opened, whatever happened to its name since.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use uml_abi::errno::*;
use uml_abi::{Errno, Result};

/// Confinement of [`openat2`]: nothing outside the starting directory, no magic links.
pub const BENEATH: u64 = 0x08 | 0x02;
/// Symbolic links are not followed at all.
pub const NO_SYMLINKS: u64 = 0x04;

/// Attributes of a host file (statx(2)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Stat {
    pub dev: (u32, u32),
    pub ino: u64,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: (u32, u32),
    pub size: u64,
    pub blocks: u64,
    pub blksize: u32,
    /// Seconds and nanoseconds.
    pub atime: (i64, u32),
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
    pub btime: Option<(i64, u32)>,
    pub mnt_id: u64,
}

/// Numbers of a host filesystem (statfs(2)).
#[derive(Clone, Copy, Debug, Default)]
pub struct StatFs {
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub bsize: u64,
    pub namelen: u64,
}

fn last() -> Errno {
    std::io::Error::last_os_error().into()
}

fn check(r: i64) -> Result<i64> {
    if r < 0 { Err(last()) } else { Ok(r) }
}

fn cstr(b: &[u8]) -> Result<CString> {
    CString::new(b).map_err(|_| EINVAL)
}

/// `/proc/self/fd/N`.
fn proc_path(fd: BorrowedFd<'_>) -> Result<CString> {
    cstr(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_bytes())
}

/// Opens `path` below `dir` (openat2(2)) with O_CLOEXEC.
pub fn openat2(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: i32,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd> {
    let path = cstr(path)?;
    let how: [u64; 3] = [(flags | libc::O_CLOEXEC) as u64, u64::from(mode), resolve];
    loop {
        // SAFETY: the path is a C string and `how` a `struct open_how` of the size given; both outlive the
        // call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                how.as_ptr(),
                std::mem::size_of_val(&how),
            )
        };
        if fd >= 0 {
            // SAFETY: the descriptor was just made and nobody else owns it.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        }
        match last() {
            // A rename on the host raced with a confined walk (openat2(2)).
            EAGAIN | EINTR => continue,
            e => return Err(e),
        }
    }
}

/// Opens a host path as given, following links; for the roots of hostfs only.
pub fn open_root(path: &[u8]) -> Result<OwnedFd> {
    let path = cstr(path)?;
    // SAFETY: the path is a C string that outlives the call.
    let fd =
        unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    check(i64::from(fd))?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens anew the file that `fd` (O_PATH or not) refers to, with other flags.
pub fn reopen(fd: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd> {
    let path = proc_path(fd)?;
    loop {
        // SAFETY: the path is a C string that outlives the call.
        let n = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
        if n >= 0 {
            // SAFETY: the descriptor was just made and nobody else owns it.
            return Ok(unsafe { OwnedFd::from_raw_fd(n) });
        }
        match last() {
            EINTR => continue,
            e => return Err(e),
        }
    }
}

/// Attributes of `name` in `dir`, or of `dir` itself when the name is empty; links are not followed.
pub fn statx(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Stat> {
    let mut small = [0u8; 256];
    let owned;
    let ptr = if name.len() < small.len() && !name.contains(&0) {
        small[..name.len()].copy_from_slice(name);
        small.as_ptr().cast()
    } else {
        owned = cstr(name)?;
        owned.as_ptr()
    };
    let mut s = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    // SAFETY: the name is NUL-terminated and the buffer is a `struct statx`; both outlive the call.
    let r = unsafe { libc::statx(dir.as_raw_fd(), ptr, flags, mask, s.as_mut_ptr()) };
    check(i64::from(r))?;
    // SAFETY: the structure consists of integers, was zeroed, and the call filled it.
    let s = unsafe { s.assume_init() };
    let t = |t: libc::statx_timestamp| (t.tv_sec, t.tv_nsec);
    Ok(Stat {
        dev: (s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        mode: u32::from(s.stx_mode),
        nlink: s.stx_nlink,
        uid: s.stx_uid,
        gid: s.stx_gid,
        rdev: (s.stx_rdev_major, s.stx_rdev_minor),
        size: s.stx_size,
        blocks: s.stx_blocks,
        blksize: s.stx_blksize,
        atime: t(s.stx_atime),
        mtime: t(s.stx_mtime),
        ctime: t(s.stx_ctime),
        btime: (s.stx_mask & libc::STATX_BTIME != 0).then(|| t(s.stx_btime)),
        mnt_id: s.stx_mnt_id,
    })
}

/// pread(2); 0 at the end of the file.
pub fn pread(fd: BorrowedFd<'_>, off: u64, buf: &mut [u8]) -> Result<usize> {
    let off = i64::try_from(off).map_err(|_| EINVAL)?;
    loop {
        // SAFETY: pointer and length describe a live, writable buffer.
        let n = unsafe { libc::pread(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), off) };
        match check(n as i64) {
            Err(EINTR) => continue,
            r => return r.map(|n| n as usize),
        }
    }
}

/// pwrite(2).
pub fn pwrite(fd: BorrowedFd<'_>, off: u64, data: &[u8]) -> Result<usize> {
    let off = i64::try_from(off).map_err(|_| EINVAL)?;
    loop {
        // SAFETY: pointer and length describe a live buffer.
        let n = unsafe { libc::pwrite(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), off) };
        match check(n as i64) {
            Err(EINTR) => continue,
            r => return r.map(|n| n as usize),
        }
    }
}

/// write(2) at the descriptor's own position: for files opened with O_APPEND.
pub fn append(fd: BorrowedFd<'_>, data: &[u8]) -> Result<usize> {
    loop {
        // SAFETY: pointer and length describe a live buffer.
        let n = unsafe { libc::write(fd.as_raw_fd(), data.as_ptr().cast(), data.len()) };
        match check(n as i64) {
            Err(EINTR) => continue,
            r => return r.map(|n| n as usize),
        }
    }
}

/// lseek(2).
pub fn lseek(fd: BorrowedFd<'_>, off: i64, whence: i32) -> Result<u64> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::lseek(fd.as_raw_fd(), off, whence) }).map(|n| n as u64)
}

/// Raw directory records (getdents64(2)) from the descriptor's position; 0 at the end.
pub fn getdents(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize> {
    // SAFETY: pointer and length describe a live, writable buffer.
    let n =
        unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), buf.as_mut_ptr(), buf.len()) };
    check(n).map(|n| n as usize)
}

/// The target of the symbolic link `fd` (O_PATH).
pub fn readlink(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let mut buf = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: the path is a C string; pointer and length describe a live, writable buffer.
    let n = unsafe {
        libc::readlinkat(fd.as_raw_fd(), c"".as_ptr(), buf.as_mut_ptr().cast(), buf.len())
    };
    let n = check(n as i64)? as usize;
    buf.truncate(n);
    Ok(buf)
}

/// mkdirat(2).
pub fn mkdir(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<()> {
    let name = cstr(name)?;
    // SAFETY: the name is a C string that outlives the call.
    check(i64::from(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) })).map(drop)
}

/// mknodat(2).
pub fn mknod(dir: BorrowedFd<'_>, name: &[u8], mode: u32, major: u32, minor: u32) -> Result<()> {
    let name = cstr(name)?;
    let dev = libc::makedev(major, minor);
    // SAFETY: the name is a C string that outlives the call.
    let r = unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, dev) };
    check(i64::from(r)).map(drop)
}

/// symlinkat(2).
pub fn symlink(target: &[u8], dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let (target, name) = (cstr(target)?, cstr(name)?);
    // SAFETY: both are C strings that outlive the call.
    let r = unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) };
    check(i64::from(r)).map(drop)
}

/// A new name for the file `fd` (O_PATH or not).
pub fn link(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let (old, name) = (proc_path(fd)?, cstr(name)?);
    // SAFETY: both are C strings that outlive the call.
    let r = unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            old.as_ptr(),
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    check(i64::from(r)).map(drop)
}

/// unlinkat(2); `is_dir` is AT_REMOVEDIR.
pub fn unlink(dir: BorrowedFd<'_>, name: &[u8], is_dir: bool) -> Result<()> {
    let name = cstr(name)?;
    let flags = if is_dir { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: the name is a C string that outlives the call.
    check(i64::from(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) })).map(drop)
}

/// renameat2(2).
pub fn rename(
    old_dir: BorrowedFd<'_>,
    old: &[u8],
    new_dir: BorrowedFd<'_>,
    new: &[u8],
    flags: u32,
) -> Result<()> {
    let (old, new) = (cstr(old)?, cstr(new)?);
    // SAFETY: both are C strings that outlive the call.
    let r = unsafe {
        libc::renameat2(old_dir.as_raw_fd(), old.as_ptr(), new_dir.as_raw_fd(), new.as_ptr(), flags)
    };
    check(i64::from(r)).map(drop)
}

/// Sets the permission bits of the file `fd` refers to; not for symbolic links.
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    let path = proc_path(fd)?;
    // SAFETY: the path is a C string that outlives the call.
    check(i64::from(unsafe { libc::chmod(path.as_ptr(), mode) })).map(drop)
}

/// Sets the owner of the file `fd` refers to; links are changed themselves.
pub fn chown(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
    // SAFETY: the path is a static C string.
    let r = unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) };
    check(i64::from(r)).map(drop)
}

/// Sets access and modification time (seconds, nanoseconds) of the file `fd` refers to.
pub fn utimes(
    fd: BorrowedFd<'_>,
    atime: Option<(i64, u32)>,
    mtime: Option<(i64, u32)>,
) -> Result<()> {
    let ts = |t: Option<(i64, u32)>| match t {
        Some((s, n)) => libc::timespec { tv_sec: s, tv_nsec: i64::from(n) },
        None => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
    };
    let times = [ts(atime), ts(mtime)];
    // SAFETY: the path is a static C string and `times` an array of two that outlives the call.
    let r = unsafe {
        libc::utimensat(fd.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH)
    };
    check(i64::from(r)).map(drop)
}

/// ftruncate(2).
pub fn truncate(fd: BorrowedFd<'_>, len: u64) -> Result<()> {
    let len = i64::try_from(len).map_err(|_| EFBIG)?;
    // SAFETY: no memory is passed.
    check(i64::from(unsafe { libc::ftruncate(fd.as_raw_fd(), len) })).map(drop)
}

/// fallocate(2).
pub fn fallocate(fd: BorrowedFd<'_>, mode: u32, off: u64, len: u64) -> Result<()> {
    let off = i64::try_from(off).map_err(|_| EINVAL)?;
    let len = i64::try_from(len).map_err(|_| EINVAL)?;
    // SAFETY: no memory is passed.
    let r = unsafe { libc::fallocate(fd.as_raw_fd(), mode as i32, off, len) };
    check(i64::from(r)).map(drop)
}

/// fsync(2), or fdatasync(2) when `data_only`.
pub fn fsync(fd: BorrowedFd<'_>, data_only: bool) -> Result<()> {
    // SAFETY: no memory is passed.
    let r = unsafe {
        if data_only { libc::fdatasync(fd.as_raw_fd()) } else { libc::fsync(fd.as_raw_fd()) }
    };
    check(i64::from(r)).map(drop)
}

/// syncfs(2) of the filesystem `fd` is on (not for O_PATH descriptors).
pub fn syncfs(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no memory is passed.
    check(i64::from(unsafe { libc::syncfs(fd.as_raw_fd()) })).map(drop)
}

/// fstatfs(2).
pub fn statfs(fd: BorrowedFd<'_>) -> Result<StatFs> {
    let mut s = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the buffer is a `struct statfs` that outlives the call.
    check(i64::from(unsafe { libc::fstatfs(fd.as_raw_fd(), s.as_mut_ptr()) }))?;
    // SAFETY: the structure consists of integers, was zeroed, and the call filled it.
    let s = unsafe { s.assume_init() };
    Ok(StatFs {
        blocks: s.f_blocks,
        bfree: s.f_bfree,
        bavail: s.f_bavail,
        files: s.f_files,
        ffree: s.f_ffree,
        bsize: s.f_bsize as u64,
        namelen: s.f_namelen as u64,
    })
}

/// Whether the host lets this process access the file in the ways of `mask` (faccessat2(2), effective
/// ids).
pub fn access(fd: BorrowedFd<'_>, mask: u32) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_EACCESS;
    // SAFETY: the path is a static C string.
    let r = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            fd.as_raw_fd(),
            c"".as_ptr(),
            mask as libc::c_int,
            flags,
        )
    };
    check(r).map(drop)
}

/// Value of an extended attribute; at most 64 KiB (xattr(7)).
pub fn getxattr(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    let (path, name) = (proc_path(fd)?, cstr(name)?);
    let mut buf = vec![0u8; 65536];
    // SAFETY: both are C strings; pointer and length describe a live, writable buffer.
    let n =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    let n = check(n as i64)? as usize;
    buf.truncate(n);
    Ok(buf)
}

/// Sets an extended attribute; `flags` are XATTR_CREATE/XATTR_REPLACE.
pub fn setxattr(fd: BorrowedFd<'_>, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
    let (path, name) = (proc_path(fd)?, cstr(name)?);
    // SAFETY: both are C strings; pointer and length describe a live buffer.
    let r = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags as i32,
        )
    };
    check(i64::from(r)).map(drop)
}

/// Removes an extended attribute.
pub fn removexattr(fd: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let (path, name) = (proc_path(fd)?, cstr(name)?);
    // SAFETY: both are C strings that outlive the call.
    check(i64::from(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })).map(drop)
}

/// Names of all extended attributes.
pub fn listxattr(fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let path = proc_path(fd)?;
    let mut buf = vec![0u8; 65536];
    // SAFETY: the path is a C string; pointer and length describe a live, writable buffer.
    let n = unsafe { libc::listxattr(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    let n = check(n as i64)? as usize;
    Ok(buf[..n].split(|b| *b == 0).filter(|s| !s.is_empty()).map(<[u8]>::to_vec).collect())
}

/// How many descriptors this process may have (RLIMIT_NOFILE).
pub fn max_open_files() -> u64 {
    match nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) => soft,
        Err(_) => 1024,
    }
}

/// Appends `data` atomically (pwritev2(2) RWF_APPEND).
pub fn append_at_end(fd: BorrowedFd<'_>, data: &[u8]) -> Result<usize> {
    let iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    loop {
        // SAFETY: the vector describes one live buffer, which the call only reads.
        let n = unsafe { libc::pwritev2(fd.as_raw_fd(), &iov, 1, 0, libc::RWF_APPEND) };
        match check(n as i64) {
            Err(EINTR) => continue,
            r => return r.map(|n| n as usize),
        }
    }
}
