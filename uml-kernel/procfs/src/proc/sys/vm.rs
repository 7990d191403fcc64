//! `/proc/sys/vm` (proc_sys_vm(5)).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::kernel::Kernel;
use uml_core::task::Task;

use super::{Setting, command, number, parse};

/// 1 page caches, 2 names and inodes, 3 both; 4 only asks for silence about it.
fn drop_caches(k: &Kernel, _: &Task, data: &[u8]) -> Result<()> {
    let v = parse(data, 1)?[0];
    if !(1..=4).contains(&v) {
        return Err(EINVAL);
    }
    k.hooks.drop_caches(k, v & 1 != 0, v & 2 != 0);
    Ok(())
}

pub static ROWS: &[Setting] = &[
    number("admin_reserve_kbytes", |s| &s.vm_admin_reserve_kbytes),
    number("compact_unevictable_allowed", |s| &s.vm_compact_unevictable_allowed),
    number("dirty_background_bytes", |s| &s.vm_dirty_background_bytes),
    number("dirty_background_ratio", |s| &s.vm_dirty_background_ratio),
    number("dirty_bytes", |s| &s.vm_dirty_bytes),
    number("dirty_expire_centisecs", |s| &s.vm_dirty_expire_centisecs),
    number("dirty_ratio", |s| &s.vm_dirty_ratio),
    number("dirty_writeback_centisecs", |s| &s.vm_dirty_writeback_centisecs),
    command("drop_caches", drop_caches),
    number("laptop_mode", |s| &s.vm_laptop_mode),
    number("max_map_count", |s| &s.vm_max_map_count),
    number("min_free_kbytes", |s| &s.vm_min_free_kbytes),
    number("mmap_min_addr", |s| &s.vm_mmap_min_addr),
    number("oom_dump_tasks", |s| &s.vm_oom_dump_tasks),
    number("oom_kill_allocating_task", |s| &s.vm_oom_kill_allocating_task),
    number("overcommit_kbytes", |s| &s.vm_overcommit_kbytes),
    number("overcommit_memory", |s| &s.vm_overcommit_memory),
    number("overcommit_ratio", |s| &s.vm_overcommit_ratio),
    number("page-cluster", |s| &s.vm_page_cluster),
    number("panic_on_oom", |s| &s.vm_panic_on_oom),
    number("swappiness", |s| &s.vm_swappiness),
    number("user_reserve_kbytes", |s| &s.vm_user_reserve_kbytes),
    number("vfs_cache_pressure", |s| &s.vm_vfs_cache_pressure),
];
