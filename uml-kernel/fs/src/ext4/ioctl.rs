//! ioctl(2) on files and directories: flags (chattr), extents (filefrag), freezing, trimming, labels.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::pr_warn;
use uml_core::ctx::Ctx;
use uml_core::file::File;
use uml_core::task::{Cap, Task};
use uml_core::user::{read_bytes, read_obj, write_bytes, write_obj};
use uml_ext4::{NewGroup, SetAttr, flags};

use crate::ext4::inode::Ext4Inode;

const FIBMAP: u32 = 1;
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC_GETVERSION: u32 = 0x8008_7601;
const FS_IOC_FIEMAP: u32 = 0xc020_660b;
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
const FIFREEZE: u32 = 0xc004_5877;
const FITHAW: u32 = 0xc004_5878;
const FITRIM: u32 = 0xc018_5879;
const FS_IOC_GETFSLABEL: u32 = 0x8100_9431;
const FS_IOC_SETFSLABEL: u32 = 0x4100_9432;
const FS_IOC_GETFSUUID: u32 = 0x8011_1500;

const EXT4_IOC_GROUP_EXTEND: u32 = 0x4008_6607;
const EXT4_IOC_GROUP_ADD: u32 = 0x4028_6608;
const EXT4_IOC_RESIZE_FS: u32 = 0x4008_6610;

/// Longest label FS_IOC_GETFSLABEL returns, with its zero byte.
const FSLABEL_MAX: usize = 256;
/// Longest label of ext4, with its zero byte.
const LABEL_MAX: usize = 17;

/// FIEMAP_EXTENT_* of `<linux/fiemap.h>`.
mod extent {
    pub const LAST: u32 = 0x1;
    pub const UNWRITTEN: u32 = 0x800;
    pub const NOT_ALIGNED: u32 = 0x100;
    pub const DATA_INLINE: u32 = 0x200;
    pub const MERGED_UNKNOWN: u32 = 0x2;
    pub const DELALLOC: u32 = 0x4;
}
/// FIEMAP_FLAG_SYNC.
const FIEMAP_SYNC: u32 = 1;
/// Extents one call returns at most; more are asked for with another call.
const FIEMAP_MAX: usize = 4096;

/// FS_XFLAG_* of `<linux/fs.h>` with the inode flags they are.
const XFLAGS: [(u32, u32); 6] = [
    (0x8, flags::IMMUTABLE),
    (0x10, flags::APPEND),
    (0x20, flags::SYNC),
    (0x40, flags::NOATIME),
    (0x80, flags::NODUMP),
    (0x200, flags::PROJINHERIT),
];

/// An ioctl on the open file or directory `inode`; `ENOTTY` for what is not known.
pub(crate) fn ioctl(
    inode: &Arc<Ext4Inode>,
    cx: &mut Ctx<'_>,
    file: &Arc<File>,
    cmd: u32,
    arg: u64,
) -> Result<u64> {
    let task = &*cx.task;
    let s = &inode.shared;
    let e = &s.engine;
    let done = |r: Result<()>| r.map(|()| 0);
    match cmd {
        FIBMAP if inode.file_type == libc::S_IFREG => {
            task.require(Cap::SysRawio)?;
            let block: i32 = read_obj(task, arg)?;
            let lblk = u64::try_from(block).map_err(|_| EINVAL)?;
            inode.data()?.write_back_all()?;
            let at = e.map(inode.ino, lblk, 1)?.physical.unwrap_or(0);
            done(write_obj(task, arg, &i32::try_from(at).map_err(|_| ERANGE)?))
        }
        FS_IOC_GETFLAGS => done(write_obj(task, arg, &visible(inode.attr()?.flags))),
        FS_IOC_SETFLAGS => {
            let want: u32 = read_obj(task, arg)?;
            set_flags(inode, task, file, want)
        }
        FS_IOC_GETVERSION => done(write_obj(task, arg, &inode.attr()?.generation)),
        FS_IOC_FSGETXATTR => {
            let a = inode.attr()?;
            let x = XFLAGS.iter().filter(|(_, f)| a.flags & f != 0).fold(0, |v, (x, _)| v | x);
            // fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, fsx_cowextsize, padding.
            done(write_obj(task, arg, &[x, 0, 0, a.projid, 0, 0, 0u32]))
        }
        FS_IOC_FSSETXATTR => {
            let [x, extsize, _, projid, ..]: [u32; 7] = read_obj(task, arg)?;
            let known = XFLAGS.iter().fold(0, |v, (x, _)| v | x);
            if x & !known != 0 || extsize != 0 {
                return Err(EOPNOTSUPP);
            }
            let mut want = inode.attr()?.flags;
            for (bit, flag) in XFLAGS {
                want = if x & bit != 0 { want | flag } else { want & !flag };
            }
            if projid != inode.attr()?.projid {
                owner(inode, task)?;
                file.path.mnt.want_write()?;
                let _running = s.gate.change();
                e.setattr(inode.ino, &SetAttr { projid: Some(projid), ..SetAttr::default() })?;
                inode.changed();
            }
            set_flags(inode, task, file, visible(want))
        }
        FS_IOC_FIEMAP => fiemap(inode, task, arg),
        FIFREEZE => {
            task.require(Cap::SysAdmin)?;
            done(s.freeze())
        }
        FITHAW => {
            task.require(Cap::SysAdmin)?;
            done(s.thaw())
        }
        FITRIM => {
            task.require(Cap::SysAdmin)?;
            if !s.device.can_discard() {
                return Err(EOPNOTSUPP);
            }
            let [start, len, min]: [u64; 3] = read_obj(task, arg)?;
            let trimmed = e.trim(start, len, min)?;
            done(write_obj(task, arg, &[start, trimmed, min]))
        }
        FS_IOC_GETFSLABEL => {
            let mut out = [0; FSLABEL_MAX];
            let label = e.info().label;
            out[..label.len()].copy_from_slice(&label);
            done(write_bytes(task, arg, &out))
        }
        FS_IOC_SETFSLABEL => {
            task.require(Cap::SysAdmin)?;
            file.path.mnt.want_write()?;
            // As Linux: no more is read than the longest label takes.
            let text = read_bytes(task, arg, LABEL_MAX)?;
            let end = text.iter().position(|b| *b == 0).ok_or(EINVAL)?;
            let _running = s.gate.change();
            e.set_label(&text[..end])?;
            s.volume().touch();
            Ok(0)
        }
        EXT4_IOC_RESIZE_FS | EXT4_IOC_GROUP_EXTEND | EXT4_IOC_GROUP_ADD => {
            task.require(Cap::SysResource)?;
            resize(inode, task, file, cmd, arg)
        }
        FS_IOC_GETFSUUID => {
            let mut out = [0; 17];
            out[0] = 16;
            out[1..].copy_from_slice(&e.info().uuid);
            done(write_bytes(task, arg, &out))
        }
        _ => Err(ENOTTY),
    }
}

/// What resize2fs(8) asks of a mounted filesystem.
fn resize(inode: &Ext4Inode, task: &Task, file: &File, cmd: u32, arg: u64) -> Result<u64> {
    let s = &inode.shared;
    let e = &s.engine;
    let done = match cmd {
        EXT4_IOC_GROUP_ADD => {
            // struct ext4_new_group_input: group and padding, three places, the count and two halves.
            let [group, _]: [u32; 2] = read_obj(task, arg)?;
            let [block_bitmap, inode_bitmap, inode_table]: [u64; 3] = read_obj(task, arg + 8)?;
            let [blocks, kept]: [u32; 2] = read_obj(task, arg + 32)?;
            let kept = kept & 0xffff;
            let new = NewGroup { group, blocks, block_bitmap, inode_bitmap, inode_table, kept };
            file.path.mnt.want_write()?;
            let _running = s.gate.change();
            e.add_group(&new)
        }
        _ => {
            let blocks: u64 = read_obj(task, arg)?;
            file.path.mnt.want_write()?;
            let _running = s.gate.change();
            if cmd == EXT4_IOC_RESIZE_FS { e.resize(blocks) } else { e.resize_last_group(blocks) }
        }
    };
    s.volume().touch();
    if done == Err(EPERM) {
        // resize2fs says "permission denied", which is not the reason.
        pr_warn!(
            "EXT4-fs: not resized: the filesystem has recorded errors (see e2fsck), or no descriptor block for another group"
        );
    }
    done.map(|()| 0)
}

/// Flags that FS_IOC_GETFLAGS shows.
fn visible(f: u32) -> u32 {
    const SHOWN: u32 = flags::USER_MODIFIABLE
        | flags::INDEX
        | flags::JOURNAL_DATA
        | flags::HUGE_FILE
        | flags::EXTENTS
        | flags::EA_INODE
        | flags::INLINE_DATA;
    f & SHOWN
}

fn owner(inode: &Ext4Inode, task: &Task) -> Result<()> {
    let cred = task.cred();
    if cred.fsuid == inode.attr()?.uid || cred.capable(Cap::Fowner) { Ok(()) } else { Err(EPERM) }
}

fn set_flags(inode: &Arc<Ext4Inode>, task: &Task, file: &File, want: u32) -> Result<u64> {
    owner(inode, task)?;
    file.path.mnt.want_write()?;
    let old = visible(inode.attr()?.flags);
    let changed = old ^ want;
    let journaling = changed & flags::JOURNAL_DATA != 0;
    if changed & !(flags::USER_MODIFIABLE | flags::JOURNAL_DATA) != 0 {
        return Err(EOPNOTSUPP);
    }
    if changed & (flags::IMMUTABLE | flags::APPEND) != 0 {
        task.require(Cap::LinuxImmutable)?;
    }
    if journaling {
        task.require(Cap::SysResource)?;
    }
    let _running = inode.shared.gate.change();
    let set = SetAttr { flags: Some(want), ..SetAttr::default() };
    inode.shared.engine.setattr(inode.ino, &set)?;
    if journaling {
        let _one = inode.write_lock.write();
        if inode.file_type == libc::S_IFREG {
            // What was written so far is written the old way.
            inode.data()?.write_back_all()?;
        }
        inode.shared.engine.set_data_journaling(inode.ino, want & flags::JOURNAL_DATA != 0)?;
    }
    inode.changed();
    Ok(0)
}

/// `struct fiemap`: fm_start, fm_length, fm_flags and fm_mapped_extents, fm_extent_count and fm_reserved.
fn fiemap(inode: &Ext4Inode, task: &Task, arg: u64) -> Result<u64> {
    let [start, len]: [u64; 2] = read_obj(task, arg)?;
    let [mut flags, _, count, _]: [u32; 4] = read_obj(task, arg + 16)?;
    if len == 0 {
        return Err(EINVAL);
    }
    if flags & !FIEMAP_SYNC != 0 {
        flags &= !FIEMAP_SYNC;
        write_obj(task, arg + 16, &flags)?;
        return Err(EBADR);
    }
    let regular = inode.file_type == libc::S_IFREG;
    if regular && flags & FIEMAP_SYNC != 0 {
        inode.data()?.write_back_all()?;
    }
    let a = inode.attr()?;
    let bs = u64::from(inode.shared.block_size);
    let end = start.saturating_add(len);
    let room = if count == 0 { usize::MAX } else { (count as usize).min(FIEMAP_MAX) };
    let mut out: Vec<[u64; 7]> = Vec::new();
    let mut n = 0usize;
    // fe_logical, fe_physical, fe_length, two reserved words, fe_flags and reserved, two reserved.
    let mut add = |logical: u64, physical: u64, length: u64, f: u32| {
        if count != 0 {
            out.push([logical, physical, length, 0, 0, u64::from(f), 0]);
        }
        n += 1;
        n < room
    };
    if a.flags & uml_ext4::flags::INLINE_DATA != 0 {
        let f = extent::LAST | extent::NOT_ALIGNED | extent::DATA_INLINE;
        if a.size > start {
            add(0, 0, a.size, f);
        }
    } else {
        // Extents past the end (FALLOC_FL_KEEP_SIZE) count too.
        let top = inode.shared.engine.max_size(inode.ino).unwrap_or(a.size).div_ceil(bs);
        let (mut at, last) = (start / bs, end.div_ceil(bs).min(top));
        let mut more = None;
        while at < last {
            let m = inode.shared.engine.map(inode.ino, at, last - at)?;
            let from = at * bs;
            let bytes = m.len * bs;
            if let Some(p) = m.physical {
                if let Some((l, p, b, f)) = more.take()
                    && !add(l, p, b, f)
                {
                    break;
                }
                let f = if m.unwritten { extent::UNWRITTEN } else { 0 };
                more = Some((from, p * bs, bytes, f));
            }
            at = (m.logical + m.len).max(at + 1);
        }
        let delayed = regular && inode.data()?.delayed_pages() > 0;
        if let Some((l, p, b, f)) = more
            && at >= last
        {
            let f = if !delayed && end >= a.size { f | extent::LAST } else { f };
            add(l, p, b, f);
        }
        if delayed && at >= last && a.size > start {
            // What is not placed yet has no better description than that.
            let f = extent::DELALLOC | extent::MERGED_UNKNOWN | extent::LAST;
            add(a.size / bs * bs, 0, bs, f);
        }
    }
    let n = u32::try_from(n.min(room)).unwrap_or(u32::MAX);
    write_obj(task, arg + 20, &n)?;
    for (i, e) in out.iter().enumerate() {
        write_obj(task, arg + 32 + i as u64 * 56, e)?;
    }
    Ok(0)
}
