//! `/proc/sys/fs` (proc_sys_fs(5)).

use std::sync::atomic::{AtomicU32, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::vfs::Protection;

use super::{Setting, both, dir, number, parse, show};
use crate::synth::Text;

/// A `protected_*` setting; `max` is its highest level.
macro_rules! protected {
    ($name:literal, $field:ident, $max:expr) => {
        both(
            $name,
            |_, k, out| {
                writeln!(out, "{}", k.vfs.protection.$field.load(Ordering::Relaxed));
                Ok(())
            },
            |k, _, data| set_protected(&k.vfs.protection, |p| &p.$field, $max, data),
        )
    };
}

fn set_protected(
    p: &Protection,
    get: fn(&Protection) -> &AtomicU32,
    max: i64,
    data: &[u8],
) -> Result<()> {
    let v = parse(data, 1)?[0];
    if !(0..=max).contains(&v) {
        return Err(EINVAL);
    }
    get(p).store(v as u32, Ordering::Relaxed);
    Ok(())
}

fn id(out: &mut Text) -> Result<()> {
    // The overflow id of nobody; ids of filesystems are 32 bits wide here and never overflow.
    out.raw(b"65534\n");
    Ok(())
}

pub static ROWS: &[Setting] = &[
    number("aio-max-nr", |s| &s.fs_aio_max_nr),
    show("dentry-state", |_, k, out| {
        writeln!(out, "{0}\t{0}\t45\t0\t0\t0", k.vfs.dcache.len());
        Ok(())
    }),
    number("dir-notify-enable", |s| &s.fs_dir_notify_enable),
    dir("epoll", &[number("max_user_watches", |s| &s.fs_epoll_max_user_watches)]),
    number("file-max", |s| &s.fs_file_max),
    show("file-nr", |_, k, out| {
        writeln!(out, "{}\t0\t{}", uml_core::file::open_count(), k.sysctl.fs_file_max.get());
        Ok(())
    }),
    show("inode-nr", |_, k, out| {
        writeln!(out, "{}\t0", k.vfs.dcache.len());
        Ok(())
    }),
    show("inode-state", |_, k, out| {
        writeln!(out, "{}\t0\t0\t0\t0\t0\t0", k.vfs.dcache.len());
        Ok(())
    }),
    dir(
        "inotify",
        &[
            number("max_queued_events", |s| &s.fs_inotify_max_queued_events),
            number("max_user_instances", |s| &s.fs_inotify_max_user_instances),
            number("max_user_watches", |s| &s.fs_inotify_max_user_watches),
        ],
    ),
    number("lease-break-time", |s| &s.fs_lease_break_time),
    number("leases-enable", |s| &s.fs_leases_enable),
    number("mount-max", |s| &s.fs_mount_max),
    dir(
        "mqueue",
        &[
            number("msg_default", |s| &s.fs_mqueue_msg_default),
            number("msg_max", |s| &s.fs_mqueue_msg_max),
            number("msgsize_default", |s| &s.fs_mqueue_msgsize_default),
            number("msgsize_max", |s| &s.fs_mqueue_msgsize_max),
            number("queues_max", |s| &s.fs_mqueue_queues_max),
        ],
    ),
    number("nr_open", |s| &s.fs_nr_open),
    show("overflowgid", |_, _, out| id(out)),
    show("overflowuid", |_, _, out| id(out)),
    number("pipe-max-size", |s| &s.fs_pipe_max_size),
    number("pipe-user-pages-hard", |s| &s.fs_pipe_user_pages_hard),
    number("pipe-user-pages-soft", |s| &s.fs_pipe_user_pages_soft),
    protected!("protected_fifos", fifos, 2),
    protected!("protected_hardlinks", hardlinks, 1),
    protected!("protected_regular", regular, 2),
    protected!("protected_symlinks", symlinks, 1),
    number("suid_dumpable", |s| &s.fs_suid_dumpable),
];
