//! File handles: name_to_handle_at(2), open_by_handle_at(2).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::file::File;
use uml_core::task::{Cap, Resource};
use uml_core::user;
use uml_core::vfs::handle::{Handle, MAX_HANDLE};
use uml_core::vfs::open::Location;
use uml_core::vfs::{self, DirFd, Path, Walker, walk};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::open::{CLOEXEC, VALID};
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(
        303,
        "name_to_handle_at",
        name_to_handle_at(DirFd, Path, Ptr, Out, Flags),
        Never,
        Partial("tmpfs, ext4 and cgroup2, EOPNOTSUPP elsewhere; of AT_HANDLE_* only FID: EINVAL")
    ),
    call!(
        304,
        "open_by_handle_at",
        open_by_handle_at(DirFd, Ptr, Flags),
        Sys,
        Partial("CAP_DAC_READ_SEARCH in the initial user namespace; no O_TMPFILE: EOPNOTSUPP")
    ),
];

/// AT_HANDLE_FID: the handle only names the file (fanotify(7)), so that every filesystem has some.
const HANDLE_FID: i32 = 0x200;
/// FILEID_INO64_GEN and FILEID_INVALID (`<linux/exportfs.h>`).
const INO64_GEN: i32 = 0x81;
const INVALID: i32 = 0xff;

/// `struct file_handle` without its bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Head {
    bytes: u32,
    kind: i32,
}
const _: () = assert!(size_of::<Head>() == 8);

fn name_to_handle_at(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: u64,
    handle: u64,
    mount_id: u64,
    flags: i32,
) -> Result<u64> {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH | HANDLE_FID) != 0 {
        return Err(EINVAL);
    }
    let mut how = 0;
    if flags & libc::AT_SYMLINK_FOLLOW != 0 {
        how |= walk::FOLLOW;
    }
    if flags & libc::AT_EMPTY_PATH != 0 {
        how |= walk::EMPTY;
    }
    let path = user::read_path(&cx.task, path)?;
    let place = Walker::new(&cx.task, &DirFd::from_raw(dirfd), &path, how)?.to_end()?;
    let inode = place.inode();
    let sb = inode.superblock();
    let export = sb.export();
    if export.is_none() && flags & HANDLE_FID == 0 {
        return Err(EOPNOTSUPP);
    }
    let head: Head = user::read_obj(&cx.task, handle)?;
    if head.bytes as usize > MAX_HANDLE {
        return Err(EINVAL);
    }
    let made = match export {
        Some(e) => e.encode(inode)?,
        // Enough to tell files apart: inode number and generation.
        None => {
            let bytes = [&inode.metadata()?.ino.to_le_bytes()[..], &0u32.to_le_bytes()].concat();
            Handle { kind: INO64_GEN, bytes }
        }
    };
    let fits = made.bytes.len() <= head.bytes as usize;
    let id = i32::try_from(place.mnt.id).map_err(|_| EOVERFLOW)?;
    user::write_obj(&cx.task, mount_id, &id)?;
    // What does not fit is told by its length.
    let head =
        Head { bytes: made.bytes.len() as u32, kind: if fits { made.kind } else { INVALID } };
    user::write_obj(&cx.task, handle, &head)?;
    if !fits {
        return Err(EOVERFLOW);
    }
    let at = handle.checked_add(size_of::<Head>() as u64).ok_or(EFAULT)?;
    user::write_bytes(&cx.task, at, &made.bytes)?;
    Ok(0)
}

/// The mount that `fd` is on: any open file but one of O_PATH, or the working directory.
fn anchor(cx: &Ctx<'_>, fd: i32) -> Result<Path> {
    if fd == libc::AT_FDCWD {
        return Ok(cx.task.fs().cwd());
    }
    Ok(cx.task.file(fd)?.path.clone())
}

fn open_by_handle_at(cx: &mut Ctx<'_>, mount_fd: i32, handle: u64, flags: u32) -> Result<u64> {
    let head: Head = user::read_obj(&cx.task, handle)?;
    let bytes = head.bytes as usize;
    if bytes == 0 || bytes > MAX_HANDLE {
        return Err(EINVAL);
    }
    let anchor = anchor(cx, mount_fd)?;
    cx.task.require(Cap::DacReadSearch)?;
    let at = handle.checked_add(size_of::<Head>() as u64).ok_or(EFAULT)?;
    let bytes = user::read_bytes(&cx.task, at, bytes)?;
    let kernel = cx.task.kernel();
    let place = kernel.vfs.place_of(&cx.task, &anchor.mnt, &Handle { kind: head.kind, bytes })?;
    let flags = flags & VALID;
    let has = |bits: i32| flags & bits as u32 == bits as u32;
    if has(libc::O_TMPFILE) {
        return Err(if place.inode().dir().is_some() { EOPNOTSUPP } else { ENOTDIR });
    }
    let limit = cx.task.rlimit(Resource::NoFile);
    cx.task.files().check_room(limit)?;
    let file = if has(libc::O_PATH) {
        if has(libc::O_DIRECTORY) && place.inode().dir().is_none() {
            return Err(ENOTDIR);
        }
        let keep = (libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW) as u32;
        File::new(Box::new(Location), place, flags & keep, cx.task.cred())
    } else {
        vfs::open_path(&cx.task, place, flags)?
    };
    Ok(cx.task.install_fd(file, flags & CLOEXEC != 0)? as u64)
}
