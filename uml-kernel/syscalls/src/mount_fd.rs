//! The descriptor-based mount calls: fsopen(2), fsconfig(2), fsmount(2), move_mount(2), open_tree(2),
//! fspick(2), mount_setattr(2).

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::ctx::Ctx;
use uml_core::file::{File, FileOps, Io};
use uml_core::io::Sink;
use uml_core::task::{Cap, Task};
use uml_core::user;
use uml_core::vfs::anon::{self, AnonKind};
use uml_core::vfs::mount::*;
use uml_core::vfs::open::Location;
use uml_core::vfs::walk::{self, DirFd};
use uml_core::vfs::{FsType, Path, SuperBlock};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::mount::set_propagation;
use crate::stat::at_path;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(428, "open_tree", open_tree(DirFd, Path, Flags)),
    call!(
        429,
        "move_mount",
        move_mount(DirFd, Path, DirFd, Path, Flags),
        Never,
        Partial("no MOVE_MOUNT_SET_GROUP and MOVE_MOUNT_BENEATH")
    ),
    call!(430, "fsopen", fsopen(Str, Flags)),
    call!(
        431,
        "fsconfig",
        fsconfig(Fd, Int, Str, Ptr, Int),
        Never,
        Partial("no binary parameters")
    ),
    call!(432, "fsmount", fsmount(Fd, Flags, Flags)),
    call!(433, "fspick", fspick(DirFd, Path, Flags)),
    call!(
        442,
        "mount_setattr",
        mount_setattr(DirFd, Path, Flags, Ptr, Size),
        Never,
        Partial("no id-mapped mounts")
    ),
    call!(457, "statmount", refused(), Never, Refused("use /proc/<pid>/mountinfo; ENOSYS")),
    call!(458, "listmount", refused(), Never, Refused("use /proc/<pid>/mountinfo; ENOSYS")),
    call!(467, "open_tree_attr", refused(), Never, Refused("use mount_setattr; ENOSYS")),
];

fn refused(_: &mut Ctx<'_>) -> Result<u64> {
    Err(ENOSYS)
}

enum Stage {
    /// Collecting parameters.
    Open,
    /// FSCONFIG_CMD_CREATE made the superblock.
    Created(Arc<dyn SuperBlock>),
    /// fsmount(2) took it.
    Mounted,
    /// fspick(2): parameters for a change.
    Picked(Path),
    /// Something failed; nothing more can be done.
    Failed,
}

struct State {
    stage: Stage,
    source: Vec<u8>,
    options: Vec<Vec<u8>>,
    read_only: bool,
    log: Vec<String>,
}

/// The descriptor of fsopen(2) and fspick(2). Reading it yields messages.
struct FsContextFile {
    kind: Arc<dyn FsType>,
    state: Mutex<State>,
}

impl FileOps for FsContextFile {
    fn read(&self, _: &Io<'_>, _: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let line = {
            let mut s = self.state.lock();
            if s.log.is_empty() {
                return Err(ENODATA);
            }
            s.log.remove(0)
        };
        if line.len() > dst.remaining() {
            return Err(EMSGSIZE);
        }
        dst.put(line.as_bytes())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Longest parameter value, and most parameters of one context.
const VALUE_MAX: usize = 256;
const PATH_VALUE_MAX: usize = libc::PATH_MAX as usize;
const PARAMETERS_MAX: usize = 256;

fn install(task: &Arc<Task>, file: FsContextFile, cloexec: bool) -> Result<u64> {
    let cred = task.cred();
    let path = anon::path(AnonKind::Other("[fscontext]"), &cred);
    let file = File::new(Box::new(file), path, libc::O_RDWR as u32, cred);
    Ok(task.install_fd(file, cloexec)? as u64)
}

fn fsopen(cx: &mut Ctx<'_>, name: u64, flags: u32) -> Result<u64> {
    let task = &cx.task;
    crate::mount::may_mount(task)?;
    if flags & !1 != 0 {
        return Err(EINVAL);
    }
    let name = user::read_cstr(task, name, 4096, EINVAL)?;
    let kind = task.kernel().vfs.registry.fs(&name)?;
    crate::mount::may_mount_type(task, &*kind)?;
    let state = State {
        stage: Stage::Open,
        source: Vec::new(),
        options: Vec::new(),
        read_only: false,
        log: Vec::new(),
    };
    let file = FsContextFile { kind, state: Mutex::new(Rank::LEAF, state) };
    install(task, file, flags & 1 != 0)
}

fn fspick(cx: &mut Ctx<'_>, dirfd: i32, path: u64, flags: u32) -> Result<u64> {
    const CLOEXEC: u32 = 1;
    const NOFOLLOW: u32 = 2;
    const EMPTY: u32 = 8;
    let task = &cx.task;
    crate::mount::may_mount(task)?;
    if flags & !(CLOEXEC | NOFOLLOW | 4 | EMPTY) != 0 {
        return Err(EINVAL);
    }
    let at = if flags & EMPTY != 0 { libc::AT_EMPTY_PATH } else { 0 };
    let p = at_path(task, dirfd, path, at, flags & NOFOLLOW == 0)?;
    if !p.is_mount_root() {
        return Err(EINVAL);
    }
    let kind = task.kernel().vfs.registry.fs(p.mnt.sb.fs_type().as_bytes())?;
    let state = State {
        read_only: p.mnt.sb.read_only(),
        stage: Stage::Picked(p),
        source: Vec::new(),
        options: Vec::new(),
        log: Vec::new(),
    };
    let file = FsContextFile { kind, state: Mutex::new(Rank::LEAF, state) };
    install(task, file, flags & CLOEXEC != 0)
}

fn fsconfig(cx: &mut Ctx<'_>, fd: i32, cmd: u32, key: u64, value: u64, aux: i32) -> Result<u64> {
    // FSCONFIG_SET_FLAG to FSCONFIG_CMD_CREATE_EXCL.
    const LAST_COMMAND: u32 = 8;
    if fd < 0 {
        return Err(EINVAL);
    }
    if cmd > LAST_COMMAND {
        return Err(EOPNOTSUPP);
    }
    let task = &cx.task;
    let file = task.file(fd)?;
    let ctx = file.downcast::<FsContextFile>().ok_or(EINVAL)?;
    let key_text = || user::read_cstr(task, key, VALUE_MAX, EINVAL);
    match cmd {
        // SET_FLAG
        0 => {
            if key == 0 || value != 0 || aux != 0 {
                return Err(EINVAL);
            }
            let key = key_text()?;
            ctx.parameter(key, None)
        }
        // SET_STRING
        1 => {
            if key == 0 || value == 0 || aux != 0 {
                return Err(EINVAL);
            }
            let (key, v) = (key_text()?, user::read_cstr(task, value, PATH_VALUE_MAX, EINVAL)?);
            ctx.parameter(key, Some(v))
        }
        // SET_PATH, SET_PATH_EMPTY: filesystems here take paths as text.
        3 | 4 => {
            if key == 0 || value == 0 {
                return Err(EINVAL);
            }
            let (key, v) = (key_text()?, user::read_path(task, value)?);
            let start = DirFd::from_raw(aux);
            let flags = walk::FOLLOW | if cmd == 4 { walk::EMPTY } else { 0 };
            let p = walk::lookup(task, &start, &v, flags)?;
            let name = task.kernel().vfs.path_name(&p, &task.fs().root());
            ctx.parameter(key, Some(name.bytes))
        }
        // SET_FD
        5 => {
            if key == 0 || value != 0 || aux < 0 {
                return Err(EINVAL);
            }
            let key = key_text()?;
            let p = task.file_any(aux)?.path.clone();
            let name = task.kernel().vfs.path_name(&p, &task.fs().root());
            ctx.parameter(key, Some(name.bytes))
        }
        // SET_BINARY: no filesystem here has such a parameter.
        2 => {
            if key == 0 || value == 0 || aux <= 0 || aux > 1 << 20 {
                return Err(EINVAL);
            }
            key_text()?;
            user::read_bytes(task, value, aux as usize)?;
            Err(EINVAL)
        }
        // CMD_CREATE, CMD_CREATE_EXCL
        6 | 8 => {
            if key != 0 || value != 0 || aux != 0 {
                return Err(EINVAL);
            }
            ctx.create(task)
        }
        // CMD_RECONFIGURE
        7 => {
            if key != 0 || value != 0 || aux != 0 {
                return Err(EINVAL);
            }
            ctx.reconfigure(task)
        }
        _ => Err(EOPNOTSUPP),
    }
}

impl FsContextFile {
    fn parameter(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<u64> {
        let mut s = self.state.lock();
        if !matches!(s.stage, Stage::Open | Stage::Picked(_)) {
            return Err(EBUSY);
        }
        if s.options.len() >= PARAMETERS_MAX {
            return Err(ENOSPC);
        }
        match (&key[..], value) {
            (b"ro", None) => s.read_only = true,
            (b"rw", None) => s.read_only = false,
            // Flags of every superblock that change nothing here.
            (
                b"sync" | b"async" | b"dirsync" | b"lazytime" | b"nolazytime" | b"mand" | b"nomand"
                | b"silent",
                None,
            ) => {}
            (b"source", Some(v)) => {
                if !s.source.is_empty() {
                    s.log.push("e VFS: Multiple sources\n".into());
                    return Err(EINVAL);
                }
                s.source = v;
            }
            (_, None) => s.options.push(key),
            (_, Some(v)) => {
                let mut o = key;
                o.push(b'=');
                // The option text is split at commas; a backslash takes one as it is (overlay's rule).
                for b in v {
                    if b == b',' {
                        o.push(b'\\');
                    }
                    o.push(b);
                }
                s.options.push(o);
            }
        }
        Ok(0)
    }

    fn create(&self, task: &Arc<Task>) -> Result<u64> {
        let (source, data, flags) = {
            let s = self.state.lock();
            if !matches!(s.stage, Stage::Open) {
                return Err(EBUSY);
            }
            let flags = if s.read_only { libc::MS_RDONLY } else { 0 };
            (s.source.clone(), s.options.join(&b","[..]), flags)
        };
        let made = self.kind.mount(task, &source, flags, &data);
        let mut s = self.state.lock();
        match made {
            Ok(sb) => {
                s.stage = Stage::Created(sb);
                Ok(0)
            }
            Err(e) => {
                s.stage = Stage::Failed;
                let text = format!("e {}: cannot mount: {e}\n", self.kind.name());
                s.log.push(text);
                Err(e)
            }
        }
    }

    fn reconfigure(&self, task: &Task) -> Result<u64> {
        let (path, ro, data) = {
            let s = self.state.lock();
            let Stage::Picked(p) = &s.stage else { return Err(EBUSY) };
            (p.clone(), s.read_only, s.options.join(&b","[..]))
        };
        task.require_in(&path.mnt.instance.owner(), Cap::SysAdmin)?;
        path.mnt.sb.remount(ro, &data)?;
        self.state.lock().options.clear();
        Ok(0)
    }
}

/// MOUNT_ATTR_* of mount_setattr(2).
const ATTR_NOATIME: u64 = 0x10;
const ATTR_STRICTATIME: u64 = 0x20;
const ATTR_ATIME: u64 = 0x70;
const ATTR_SIMPLE: [(u64, u64); 6] = [
    (0x1, MNT_RDONLY),
    (0x2, MNT_NOSUID),
    (0x4, MNT_NODEV),
    (0x8, MNT_NOEXEC),
    (0x80, MNT_NODIRATIME),
    (0x20_0000, MNT_NOSYMFOLLOW),
];
const ATTR_ALL: u64 = 0x8f | ATTR_ATIME | 0x20_0000;

/// MNT_* flags of MOUNT_ATTR_* ones, without access times.
fn simple(attr: u64) -> u64 {
    ATTR_SIMPLE.iter().filter(|(a, _)| attr & a != 0).fold(0, |f, (_, m)| f | m)
}

fn atime(attr: u64) -> Result<u64> {
    match attr & ATTR_ATIME {
        0 => Ok(MNT_RELATIME),
        ATTR_NOATIME => Ok(MNT_NOATIME),
        ATTR_STRICTATIME => Ok(0),
        _ => Err(EINVAL),
    }
}

/// A descriptor for a place, as O_PATH gives.
fn place_fd(task: &Arc<Task>, p: Path, cloexec: bool) -> Result<u64> {
    let file = File::new(Box::new(Location), p, libc::O_PATH as u32, task.cred());
    Ok(task.install_fd(file, cloexec)? as u64)
}

fn fsmount(cx: &mut Ctx<'_>, fd: i32, flags: u32, attr: u64) -> Result<u64> {
    let task = &cx.task;
    crate::mount::may_mount(task)?;
    if flags & !1 != 0 || attr & !ATTR_ALL != 0 {
        return Err(EINVAL);
    }
    let mnt_flags = simple(attr) | atime(attr)?;
    let file = task.file(fd)?;
    let ctx = file.downcast::<FsContextFile>().ok_or(EINVAL)?;
    let (sb, source, ro) = {
        let mut s = ctx.state.lock();
        let stage = std::mem::replace(&mut s.stage, Stage::Mounted);
        let Stage::Created(sb) = stage else {
            s.stage = stage;
            return Err(EINVAL);
        };
        (sb, s.source.clone(), s.read_only)
    };
    let source = if source.is_empty() { b"none".to_vec() } else { source };
    let flags_all = mnt_flags | if ro { MNT_RDONLY } else { 0 };
    let no_devices = crate::mount::may_mount_type(task, &*ctx.kind)?;
    let m = task.kernel().vfs.new_mount_for(task, sb, &source, flags_all)?;
    m.instance.forbid_devices(no_devices);
    m.instance.own(&task.fs().mounts().owner());
    place_fd(task, m.root_path(), flags & 1 != 0)
}

fn open_tree(cx: &mut Ctx<'_>, dirfd: i32, path: u64, flags: u32) -> Result<u64> {
    const CLONE: u32 = 1;
    const CLOEXEC: u32 = libc::O_CLOEXEC as u32;
    const NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;
    const EMPTY: u32 = libc::AT_EMPTY_PATH as u32;
    const RECURSIVE: u32 = 0x8000;
    let known = CLONE | CLOEXEC | NOFOLLOW | EMPTY | RECURSIVE | libc::AT_NO_AUTOMOUNT as u32;
    if flags & !known != 0 || flags & (RECURSIVE | CLONE) == RECURSIVE {
        return Err(EINVAL);
    }
    let task = &cx.task;
    if flags & CLONE != 0 {
        crate::mount::may_mount(task)?;
    }
    let p = at_path(task, dirfd, path, (flags & EMPTY) as i32, flags & NOFOLLOW == 0)?;
    let p = if flags & CLONE != 0 {
        let ns = task.fs().mounts();
        task.kernel().vfs.bind(&ns, &p, flags & RECURSIVE != 0)?.root_path()
    } else {
        p
    };
    place_fd(task, p, flags & CLOEXEC != 0)
}

fn move_mount(
    cx: &mut Ctx<'_>,
    from_fd: i32,
    from: u64,
    to_fd: i32,
    to: u64,
    flags: u32,
) -> Result<u64> {
    const F_SYMLINKS: u32 = 1;
    const F_EMPTY: u32 = 4;
    const T_SYMLINKS: u32 = 0x10;
    const T_EMPTY: u32 = 0x40;
    let task = &cx.task;
    crate::mount::may_mount(task)?;
    if flags & !(F_SYMLINKS | 2 | F_EMPTY | T_SYMLINKS | 0x20 | T_EMPTY) != 0 {
        return Err(EINVAL);
    }
    let empty = |bit: u32| if flags & bit != 0 { libc::AT_EMPTY_PATH } else { 0 };
    let from = at_path(task, from_fd, from, empty(F_EMPTY), flags & F_SYMLINKS != 0)?;
    let to = at_path(task, to_fd, to, empty(T_EMPTY), flags & T_SYMLINKS != 0)?;
    uml_core::landlock::files::may_mount(&task.cred())?;
    let kernel = task.kernel();
    let ns = task.fs().mounts();
    let detached = from.mnt.ns().is_none() && from.mnt.parent().is_none();
    if detached {
        if !from.is_mount_root() || from.dentry.is_anonymous() {
            return Err(EINVAL);
        }
        kernel.vfs.attach(&ns, &from.mnt, &to)?;
    } else {
        kernel.vfs.move_mount(&ns, &from, &to)?;
    }
    Ok(0)
}

/// `struct mount_attr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

const _: () = assert!(size_of::<MountAttr>() == 32);

fn mount_setattr(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: u64,
    flags: u32,
    attr: u64,
    size: usize,
) -> Result<u64> {
    const EMPTY: u32 = libc::AT_EMPTY_PATH as u32;
    const NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;
    const RECURSIVE: u32 = 0x8000;
    if flags & !(EMPTY | NOFOLLOW | RECURSIVE | libc::AT_NO_AUTOMOUNT as u32) != 0 {
        return Err(EINVAL);
    }
    if size < 32 {
        return Err(EINVAL);
    }
    if size > 4096 {
        return Err(E2BIG);
    }
    let task = &cx.task;
    crate::mount::may_mount(task)?;
    if size > 32 && user::read_bytes(task, attr + 32, size - 32)?.iter().any(|b| *b != 0) {
        return Err(E2BIG);
    }
    let a: MountAttr = user::read_obj(task, attr)?;
    if (a.set | a.clear) & !ATTR_ALL != 0 {
        return Err(EINVAL);
    }
    // Access times are one value: setting one needs the whole field cleared.
    let changes_atime = a.clear & ATTR_ATIME != 0;
    if (changes_atime && a.clear & ATTR_ATIME != ATTR_ATIME)
        || (!changes_atime && a.set & ATTR_ATIME != 0)
    {
        return Err(EINVAL);
    }
    let new_atime = atime(a.set)?;
    if a.propagation.count_ones() > 1 {
        return Err(EINVAL);
    }
    let p = at_path(task, dirfd, path, (flags & EMPTY) as i32, flags & NOFOLLOW == 0)?;
    if !p.is_mount_root() {
        return Err(EINVAL);
    }
    let recursive = flags & RECURSIVE != 0;
    if a.propagation != 0 {
        set_propagation(task, &p, a.propagation, recursive)?;
    }
    let list = if recursive { p.mnt.subtree() } else { vec![p.mnt.clone()] };
    for m in list {
        let mut f = m.flags() & !simple(a.clear) | simple(a.set);
        if changes_atime {
            f = f & !(MNT_RELATIME | MNT_NOATIME) | new_atime;
        }
        m.may_set_flags(f)?;
        m.set_flags(f);
    }
    let ns = task.fs().mounts();
    task.kernel().vfs.announce(&ns);
    Ok(0)
}
