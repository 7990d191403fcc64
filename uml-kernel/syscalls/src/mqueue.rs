//! POSIX message queues (mq_open(2) and its family) and memfd_create(2), memfd_secret(2).

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::file::File;
use uml_core::time::Clock;
use uml_core::user;
use uml_core::vfs::Inode;
use uml_fs::secretmem;
use uml_fs::tmpfs::{Options, SEAL_EXEC, TmpFs};
use uml_ipc::mqueue::{self, MQ_PRIO_MAX, MqFile, Notify};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;
use crate::timespec::read_timeout;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(240, "mq_open", mq_open(Str, Flags, Mode, Ptr)),
    call!(241, "mq_unlink", mq_unlink(Str)),
    call!(242, "mq_timedsend", mq_timedsend(Fd, In, Size, Int, Ptr), Sys),
    call!(243, "mq_timedreceive", mq_timedreceive(Fd, Out, Size, Out, Ptr), Sys),
    call!(
        244,
        "mq_notify",
        mq_notify(Fd, Ptr),
        Never,
        Partial("SIGEV_NONE and SIGEV_SIGNAL; SIGEV_THREAD needs AF_NETLINK")
    ),
    call!(245, "mq_getsetattr", mq_getsetattr(Fd, Ptr, Out)),
    call!(319, "memfd_create", memfd_create(Str, Flags), Never, Partial("without MFD_HUGETLB")),
    call!(447, "memfd_secret", memfd_secret(Flags)),
];

/// `struct mq_attr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MqAttr {
    flags: i64,
    max: i64,
    size: i64,
    current: i64,
    reserved: [i64; 4],
}

const _: () = assert!(size_of::<MqAttr>() == 64);

fn read_name(cx: &Ctx<'_>, name: u64) -> Result<Vec<u8>> {
    user::read_path(&cx.task, name)
}

fn mq_open(cx: &mut Ctx<'_>, name: u64, flags: i32, mode: u32, attr: u64) -> Result<u64> {
    let name = read_name(cx, name)?;
    let attr = match attr {
        0 => None,
        at if flags & libc::O_CREAT != 0 => {
            let a: MqAttr = user::read_obj(&cx.task, at)?;
            Some((a.max, a.size))
        }
        _ => None,
    };
    let file = mqueue::open(&cx.task, &name, flags, mode, attr)?;
    // Message queue descriptors are close-on-exec by nature (mq_open(3)).
    Ok(cx.task.install_fd(file, true)? as u64)
}

fn mq_unlink(cx: &mut Ctx<'_>, name: u64) -> Result<u64> {
    let name = read_name(cx, name)?;
    mqueue::unlink(&cx.task, &name)?;
    Ok(0)
}

/// The absolute CLOCK_REALTIME timeout of the timed calls.
fn deadline(cx: &Ctx<'_>, timeout: u64) -> Result<Option<Instant>> {
    let t = read_timeout(&cx.task, timeout)?;
    Ok(t.and_then(|d| cx.task.kernel().time.instant_of(Clock::Realtime, d)))
}

fn nonblock(file: &File) -> bool {
    file.flags() & libc::O_NONBLOCK as u32 != 0
}

fn mq_timedsend(
    cx: &mut Ctx<'_>,
    fd: i32,
    msg: u64,
    len: usize,
    priority: u32,
    timeout: u64,
) -> Result<u64> {
    let deadline = deadline(cx, timeout)?;
    if priority >= MQ_PRIO_MAX {
        return Err(EINVAL);
    }
    let file = cx.task.file(fd)?;
    let q = MqFile::of(&file)?;
    if !file.writable() {
        return Err(EBADF);
    }
    if len > q.message_size() {
        return Err(EMSGSIZE);
    }
    let text = user::read_bytes(&cx.task, msg, len)?;
    q.send(&cx.task, &text, priority, nonblock(&file), deadline)?;
    Ok(0)
}

fn mq_timedreceive(
    cx: &mut Ctx<'_>,
    fd: i32,
    msg: u64,
    len: usize,
    priority: u64,
    timeout: u64,
) -> Result<u64> {
    let deadline = deadline(cx, timeout)?;
    let file = cx.task.file(fd)?;
    let q = MqFile::of(&file)?;
    if !file.readable() {
        return Err(EBADF);
    }
    if len < q.message_size() {
        return Err(EMSGSIZE);
    }
    let (text, prio) = q.receive(&cx.task, nonblock(&file), deadline)?;
    user::write_bytes(&cx.task, msg, &text)?;
    if priority != 0 {
        user::write_obj(&cx.task, priority, &prio)?;
    }
    Ok(text.len() as u64)
}

fn mq_notify(cx: &mut Ctx<'_>, fd: i32, event: u64) -> Result<u64> {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    let what = match event {
        0 => None,
        at => {
            // sigev_value, sigev_signo, sigev_notify (sigevent(3type)).
            let [value, rest]: [u64; 2] = user::read_obj(&cx.task, at)?;
            let (signo, how) = (rest as i32, (rest >> 32) as i32);
            Some(match how {
                SIGEV_NONE => Notify::None,
                SIGEV_SIGNAL if (1..=64).contains(&signo) => Notify::Signal(signo, value),
                _ => return Err(EINVAL),
            })
        }
    };
    let file = cx.task.file(fd)?;
    MqFile::of(&file)?.notify(&cx.task, what)?;
    Ok(0)
}

fn mq_getsetattr(cx: &mut Ctx<'_>, fd: i32, new: u64, old: u64) -> Result<u64> {
    let nonblock = i64::from(libc::O_NONBLOCK);
    let wanted = match new {
        0 => None,
        at => {
            let a: MqAttr = user::read_obj(&cx.task, at)?;
            if a.flags & !nonblock != 0 {
                return Err(EINVAL);
            }
            Some(a.flags)
        }
    };
    let file = cx.task.file(fd)?;
    let a = MqFile::of(&file)?.attr();
    let flags = i64::from(file.flags()) & nonblock;
    if let Some(w) = wanted {
        let kept = file.flags() & !(libc::O_NONBLOCK as u32);
        file.set_flags(kept | w as u32)?;
    }
    if old != 0 {
        let out = MqAttr { flags, max: a.max, size: a.size, current: a.current, reserved: [0; 4] };
        user::write_obj(&cx.task, old, &out)?;
    }
    Ok(0)
}

fn memfd_secret(cx: &mut Ctx<'_>, flags: u32) -> Result<u64> {
    const CLOEXEC: u32 = libc::O_CLOEXEC as u32;
    if flags & !CLOEXEC != 0 {
        return Err(EINVAL);
    }
    let file = secretmem::create(&cx.task)?;
    Ok(cx.task.install_fd(file, flags & CLOEXEC != 0)? as u64)
}

/// The internal instance that memory files live in.
static MEMORY_FILES: OnceLock<Arc<TmpFs>> = OnceLock::new();

fn memfd_create(cx: &mut Ctx<'_>, name: u64, flags: u32) -> Result<u64> {
    const MFD_CLOEXEC: u32 = 1;
    const MFD_ALLOW_SEALING: u32 = 2;
    const MFD_NOEXEC_SEAL: u32 = 8;
    const MFD_EXEC: u32 = 16;
    const NAME_MAX: usize = 249;
    let known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC;
    if flags & !known != 0 || flags & (MFD_EXEC | MFD_NOEXEC_SEAL) == MFD_EXEC | MFD_NOEXEC_SEAL {
        return Err(EINVAL);
    }
    let name = user::read_cstr(&cx.task, name, NAME_MAX + 1, EINVAL)?;
    let kernel = cx.task.kernel();
    let fs = MEMORY_FILES.get_or_init(|| TmpFs::new(&kernel.vfs, "tmpfs", Options::default()));
    let cred = cx.task.cred();
    let noexec = flags & MFD_NOEXEC_SEAL != 0;
    let mode = if noexec { 0o666 } else { 0o777 };
    let inode = fs.unnamed_file(mode, cred.fsuid, cred.fsgid)?;
    if noexec || flags & MFD_ALLOW_SEALING != 0 {
        inode.allow_sealing();
    }
    if noexec {
        inode.add_seals(SEAL_EXEC)?;
    }
    let ops = inode.open(libc::O_RDWR as u32)?;
    let shown = [b"/memfd:", &name[..]].concat();
    let path = kernel.vfs.unnamed_path(inode, &shown);
    let status = libc::O_RDWR | libc::O_LARGEFILE;
    let file = File::new(ops, path, status as u32, cred);
    Ok(cx.task.install_fd(file, flags & MFD_CLOEXEC != 0)? as u64)
}
