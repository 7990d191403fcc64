//! stat(2), statx(2), statfs(2) and their kin.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::task::Task;
use uml_core::user;
use uml_core::vfs::mount::*;
use uml_core::vfs::walk::{self, DirFd};
use uml_core::vfs::{Metadata, Path, Timespec};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(4, "stat", stat(Path, Out)),
    call!(5, "fstat", fstat(Fd, Out)),
    call!(6, "lstat", lstat(Path, Out)),
    call!(262, "newfstatat", newfstatat(DirFd, Path, Out, Flags)),
    call!(332, "statx", statx(DirFd, Path, Flags, Flags, Out)),
    call!(137, "statfs", statfs(Path, Out)),
    call!(138, "fstatfs", fstatfs(Fd, Out)),
    call!(136, "ustat", ustat(Int, Out)),
];

/// `struct stat` of x86-64.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Stat {
    dev: u64,
    ino: u64,
    nlink: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    pad0: u32,
    rdev: u64,
    size: i64,
    blksize: i64,
    blocks: i64,
    atime: [u64; 2],
    mtime: [u64; 2],
    ctime: [u64; 2],
    unused: [i64; 3],
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct StatxTime {
    sec: i64,
    nsec: u32,
    pad: i32,
}

/// `struct statx`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Statx {
    mask: u32,
    blksize: u32,
    attributes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    pad0: u16,
    ino: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    atime: StatxTime,
    btime: StatxTime,
    ctime: StatxTime,
    mtime: StatxTime,
    rdev_major: u32,
    rdev_minor: u32,
    dev_major: u32,
    dev_minor: u32,
    mnt_id: u64,
    dio_mem_align: u32,
    dio_offset_align: u32,
    spare: [u64; 12],
}

/// `struct statfs` of x86-64.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct StatFs {
    kind: i64,
    bsize: i64,
    blocks: u64,
    bfree: u64,
    bavail: u64,
    files: u64,
    ffree: u64,
    fsid: [i32; 2],
    namelen: i64,
    frsize: i64,
    flags: i64,
    spare: [i64; 4],
}

const _: () =
    assert!(size_of::<Stat>() == 144 && size_of::<Statx>() == 256 && size_of::<StatFs>() == 120);

fn pair(t: Timespec) -> [u64; 2] {
    [t.sec as u64, u64::from(t.nsec)]
}

fn put_stat(task: &Task, out: u64, path: &Path, m: &Metadata) -> Result<u64> {
    let ns = task.cred().user_ns.clone();
    let s = Stat {
        dev: path.dev().encode(),
        ino: m.ino,
        nlink: u64::from(m.nlink),
        mode: m.mode,
        uid: ns.uid(m.uid),
        gid: ns.gid(m.gid),
        rdev: m.rdev.encode(),
        size: m.size as i64,
        blksize: i64::from(m.blksize),
        blocks: m.blocks as i64,
        atime: pair(m.atime),
        mtime: pair(m.mtime),
        ctime: pair(m.ctime),
        ..Stat::default()
    };
    user::write_obj(task, out, &s)?;
    Ok(0)
}

/// The place a *at call names: with AT_EMPTY_PATH (and for a null path) the descriptor itself.
pub(crate) fn at_path(
    task: &Task,
    dirfd: i32,
    path: u64,
    flags: i32,
    follow: bool,
) -> Result<Path> {
    let empty = flags & libc::AT_EMPTY_PATH != 0;
    let text = if path == 0 && empty { Vec::new() } else { user::read_path(task, path)? };
    let mut walk = if follow { walk::FOLLOW } else { 0 };
    if empty {
        walk |= walk::EMPTY;
        if text.is_empty() && dirfd >= 0 {
            return Ok(task.file_any(dirfd)?.path.clone());
        }
    }
    walk::lookup(task, &DirFd::from_raw(dirfd), &text, walk)
}

fn stat(cx: &mut Ctx<'_>, path: u64, out: u64) -> Result<u64> {
    newfstatat(cx, libc::AT_FDCWD, path, out, 0)
}

fn lstat(cx: &mut Ctx<'_>, path: u64, out: u64) -> Result<u64> {
    newfstatat(cx, libc::AT_FDCWD, path, out, libc::AT_SYMLINK_NOFOLLOW)
}

fn fstat(cx: &mut Ctx<'_>, fd: i32, out: u64) -> Result<u64> {
    let file = cx.task.file_any(fd)?;
    put_stat(&cx.task, out, &file.path, &file.path.metadata()?)
}

fn newfstatat(cx: &mut Ctx<'_>, dirfd: i32, path: u64, out: u64, flags: i32) -> Result<u64> {
    let known = libc::AT_SYMLINK_NOFOLLOW
        | libc::AT_EMPTY_PATH
        | libc::AT_NO_AUTOMOUNT
        | libc::AT_STATX_SYNC_TYPE;
    if flags & !known != 0 {
        return Err(EINVAL);
    }
    let p = at_path(&cx.task, dirfd, path, flags, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?;
    put_stat(&cx.task, out, &p, &p.metadata()?)
}

/// STATX_ATTR_MOUNT_ROOT.
const ATTR_MOUNT_ROOT: u64 = 0x2000;
const STATX_RESERVED: u32 = 0x8000_0000;
const STATX_MNT_ID: u32 = 0x1000;
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

fn statx(cx: &mut Ctx<'_>, dirfd: i32, path: u64, flags: i32, mask: u32, out: u64) -> Result<u64> {
    let known = libc::AT_SYMLINK_NOFOLLOW
        | libc::AT_EMPTY_PATH
        | libc::AT_NO_AUTOMOUNT
        | libc::AT_STATX_SYNC_TYPE;
    if flags & !known != 0
        || flags & libc::AT_STATX_SYNC_TYPE == libc::AT_STATX_SYNC_TYPE
        || mask & STATX_RESERVED != 0
    {
        return Err(EINVAL);
    }
    let p = at_path(&cx.task, dirfd, path, flags, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?;
    let m = p.metadata()?;
    let t = |t: Timespec| StatxTime { sec: t.sec, nsec: t.nsec, pad: 0 };
    let dev = p.dev();
    let mut got = libc::STATX_BASIC_STATS | STATX_MNT_ID;
    if m.btime.is_some() {
        got |= libc::STATX_BTIME;
    }
    if mask & STATX_MNT_ID_UNIQUE != 0 {
        got = got & !STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
    }
    let root = if p.is_mount_root() { ATTR_MOUNT_ROOT } else { 0 };
    let ns = cx.task.cred().user_ns.clone();
    let s = Statx {
        mask: got,
        blksize: m.blksize,
        attributes: m.attributes | root,
        attributes_mask: m.attributes_mask | ATTR_MOUNT_ROOT,
        nlink: m.nlink,
        uid: ns.uid(m.uid),
        gid: ns.gid(m.gid),
        mode: m.mode as u16,
        ino: m.ino,
        size: m.size,
        blocks: m.blocks,
        atime: t(m.atime),
        btime: t(m.btime.unwrap_or_default()),
        ctime: t(m.ctime),
        mtime: t(m.mtime),
        rdev_major: m.rdev.major,
        rdev_minor: m.rdev.minor,
        dev_major: dev.major,
        dev_minor: dev.minor,
        mnt_id: p.mnt.id,
        ..Statx::default()
    };
    user::write_obj(&cx.task, out, &s)?;
    Ok(0)
}

/// ST_* flags of statfs(2) from mount flags.
pub(crate) fn st_flags(p: &Path) -> i64 {
    const ST_VALID: i64 = 0x20;
    const ST_RELATIME: i64 = 4096;
    let f = p.mnt.flags();
    let mut out = ST_VALID;
    if p.mnt.read_only() {
        out |= libc::ST_RDONLY as i64;
    }
    for (mnt, st) in [
        (MNT_NOSUID, libc::ST_NOSUID as i64),
        (MNT_NODEV, libc::ST_NODEV as i64),
        (MNT_NOEXEC, libc::ST_NOEXEC as i64),
        (MNT_NOATIME, libc::ST_NOATIME as i64),
        (MNT_NODIRATIME, libc::ST_NODIRATIME as i64),
        (MNT_RELATIME, ST_RELATIME),
        (MNT_NOSYMFOLLOW, 0x2000),
    ] {
        if f & mnt != 0 {
            out |= st;
        }
    }
    out
}

fn put_statfs(task: &Arc<Task>, p: &Path, out: u64) -> Result<u64> {
    let s = p.mnt.sb.statfs()?;
    let r = StatFs {
        kind: s.magic as i64,
        bsize: s.block_size as i64,
        blocks: s.blocks,
        bfree: s.blocks_free,
        bavail: s.blocks_avail,
        files: s.files,
        ffree: s.files_free,
        fsid: [s.fsid as i32, (s.fsid >> 32) as i32],
        namelen: s.name_max as i64,
        frsize: s.block_size as i64,
        flags: st_flags(p),
        ..StatFs::default()
    };
    user::write_obj(task, out, &r)?;
    Ok(0)
}

fn statfs(cx: &mut Ctx<'_>, path: u64, out: u64) -> Result<u64> {
    let path = user::read_path(&cx.task, path)?;
    let p = walk::lookup(&cx.task, &DirFd::Cwd, &path, walk::FOLLOW)?;
    put_statfs(&cx.task, &p, out)
}

fn fstatfs(cx: &mut Ctx<'_>, fd: i32, out: u64) -> Result<u64> {
    let file = cx.task.file_any(fd)?;
    put_statfs(&cx.task, &file.path, out)
}

/// `struct ustat`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Ustat {
    tfree: i32,
    pad: u32,
    tinode: u64,
    names: [u8; 12],
    pad2: u32,
}

const _: () = assert!(size_of::<Ustat>() == 32);

fn ustat(cx: &mut Ctx<'_>, dev: u32, out: u64) -> Result<u64> {
    let kernel = cx.task.kernel();
    let dev = uml_core::vfs::Dev::decode(u64::from(dev));
    let i = kernel.vfs.instances().into_iter().find(|i| i.sb.dev() == dev).ok_or(EINVAL)?;
    let s = i.sb.statfs()?;
    let free = i32::try_from(s.blocks_free).unwrap_or(i32::MAX);
    user::write_obj(
        &cx.task,
        out,
        &Ustat { tfree: free, tinode: s.files_free, ..Ustat::default() },
    )?;
    Ok(0)
}
