//! Values that /proc/sys changes and other subsystems read (proc_sys(5)).
//!
//! Only values that can change are here: what is fixed is a constant in procfs. A subsystem that has a limit of
//! this kind reads it from here and keeps no copy.

use std::sync::atomic::{AtomicI64, Ordering};

use uml_abi::Result;
use uml_abi::errno::EINVAL;
use uml_base::{Mutex, Rank};

/// A number with a range.
pub struct Number {
    value: AtomicI64,
    min: i64,
    max: i64,
}

impl Number {
    /// A setting that starts at `value` and accepts `min..=max`.
    pub const fn new(value: i64, min: i64, max: i64) -> Number {
        Number { value: AtomicI64::new(value), min, max }
    }

    /// The present value.
    pub fn get(&self) -> i64 {
        self.value.load(Ordering::Relaxed)
    }

    /// The present value of a setting that is never negative.
    pub fn unsigned(&self) -> u64 {
        self.get().max(0) as u64
    }

    /// Changes the value; `EINVAL` outside its range.
    pub fn set(&self, v: i64) -> Result<()> {
        if !(self.min..=self.max).contains(&v) {
            return Err(EINVAL);
        }
        self.value.store(v, Ordering::Relaxed);
        Ok(())
    }
}

const INT: i64 = i32::MAX as i64;

/// The machine's settings, named as in /proc/sys with `_` for `/`, `-` and `.`.
pub struct Sysctl {
    pub kernel_pid_max: Number,
    pub kernel_threads_max: Number,
    /// Seconds until a reboot after a panic; 0 never, negative at once.
    pub kernel_panic: Number,
    pub kernel_panic_on_oops: Number,
    /// Default level of messages without one, minimum and boot-time default of the console level
    /// (kernel.printk 2 to 4; the first is [`crate::kernel::Kernel::console_level`]).
    pub kernel_printk: [Number; 3],
    pub kernel_printk_ratelimit: Number,
    pub kernel_printk_ratelimit_burst: Number,
    pub kernel_sysrq: Number,
    pub kernel_core_pattern: Mutex<Vec<u8>>,
    pub kernel_core_uses_pid: Number,
    pub kernel_core_pipe_limit: Number,
    pub kernel_randomize_va_space: Number,
    pub kernel_dmesg_restrict: Number,
    pub kernel_kptr_restrict: Number,
    pub kernel_poweroff_cmd: Mutex<Vec<u8>>,
    /// SEMMSL, SEMMNS, SEMOPM, SEMMNI (semget(2)).
    pub kernel_sem: [Number; 4],
    pub kernel_shmmax: Number,
    pub kernel_shmall: Number,
    pub kernel_shmmni: Number,
    pub kernel_shm_rmid_forced: Number,
    pub kernel_msgmax: Number,
    pub kernel_msgmnb: Number,
    pub kernel_msgmni: Number,
    pub kernel_keys_maxkeys: Number,
    pub vm_overcommit_memory: Number,
    pub vm_overcommit_ratio: Number,
    pub vm_overcommit_kbytes: Number,
    pub vm_swappiness: Number,
    pub vm_max_map_count: Number,
    pub vm_min_free_kbytes: Number,
    pub vm_dirty_ratio: Number,
    pub vm_dirty_background_ratio: Number,
    pub vm_dirty_bytes: Number,
    pub vm_dirty_background_bytes: Number,
    pub vm_dirty_expire_centisecs: Number,
    pub vm_dirty_writeback_centisecs: Number,
    pub vm_vfs_cache_pressure: Number,
    pub vm_panic_on_oom: Number,
    pub vm_oom_kill_allocating_task: Number,
    pub vm_oom_dump_tasks: Number,
    pub vm_mmap_min_addr: Number,
    pub vm_page_cluster: Number,
    pub vm_laptop_mode: Number,
    pub vm_user_reserve_kbytes: Number,
    pub vm_admin_reserve_kbytes: Number,
    pub vm_compact_unevictable_allowed: Number,
    pub fs_file_max: Number,
    pub fs_nr_open: Number,
    pub fs_pipe_max_size: Number,
    pub fs_pipe_user_pages_soft: Number,
    pub fs_pipe_user_pages_hard: Number,
    pub fs_inotify_max_queued_events: Number,
    pub fs_inotify_max_user_instances: Number,
    pub fs_inotify_max_user_watches: Number,
    pub fs_epoll_max_user_watches: Number,
    pub fs_mqueue_queues_max: Number,
    pub fs_mqueue_msg_max: Number,
    pub fs_mqueue_msgsize_max: Number,
    pub fs_mqueue_msg_default: Number,
    pub fs_mqueue_msgsize_default: Number,
    pub fs_lease_break_time: Number,
    pub fs_leases_enable: Number,
    pub fs_dir_notify_enable: Number,
    pub fs_suid_dumpable: Number,
    pub fs_aio_max_nr: Number,
    pub fs_mount_max: Number,
    pub net_core_somaxconn: Number,
    pub net_core_rmem_default: Number,
    pub net_core_rmem_max: Number,
    pub net_core_wmem_default: Number,
    pub net_core_wmem_max: Number,
    pub net_core_netdev_max_backlog: Number,
    pub net_core_optmem_max: Number,
    pub net_unix_max_dgram_qlen: Number,
}

impl Sysctl {
    /// Linux's defaults for a machine of `mem_bytes` that may have `max_tasks` tasks.
    pub fn new(mem_bytes: u64, max_tasks: u64) -> Sysctl {
        let n = Number::new;
        let flag = |v| Number::new(v, 0, 1);
        let any = |v| Number::new(v, 0, i64::MAX);
        let int = |v| Number::new(v, 0, INT);
        let text = |s: &[u8]| Mutex::new(Rank::LEAF, s.to_vec());
        let kib = (mem_bytes >> 10) as i64;
        // int_sqrt(16 * lowmem KiB), between 128 and 262144 (init_per_zone_wmark_min).
        let min_free = (((16 * kib.max(1)) as f64).sqrt() as i64).clamp(128, 262_144);
        // 4 % of low memory at 160 bytes a watch (eventpoll_init), the same for inotify within its bounds.
        let epoll = (mem_bytes / 25 / 160) as i64;
        let inotify = ((mem_bytes / 100 / 1160) as i64).clamp(8192, 1_048_576);
        Sysctl {
            kernel_pid_max: n(crate::task::tree::PID_MAX as i64, 301, 4_194_304),
            kernel_threads_max: n(max_tasks as i64, 20, 0x3fff_ffff),
            kernel_panic: n(0, -INT - 1, INT),
            kernel_panic_on_oops: flag(0),
            kernel_printk: [n(4, 1, 15), n(1, 1, 15), n(7, 1, 15)],
            kernel_printk_ratelimit: int(5),
            kernel_printk_ratelimit_burst: int(10),
            kernel_sysrq: n(1, 0, 511),
            kernel_core_pattern: text(b"core"),
            kernel_core_uses_pid: flag(0),
            kernel_core_pipe_limit: int(0),
            kernel_randomize_va_space: n(2, 0, 2),
            kernel_dmesg_restrict: flag(0),
            kernel_kptr_restrict: n(0, 0, 2),
            kernel_poweroff_cmd: text(b"/sbin/poweroff"),
            kernel_sem: [
                n(32_000, 0, INT),
                n(1_024_000_000, 0, INT),
                n(500, 0, INT),
                n(32_000, 0, 32_768),
            ],
            kernel_shmmax: any(i64::MAX - (1 << 24)),
            kernel_shmall: any((i64::MAX - (1 << 24)) >> 1),
            kernel_shmmni: n(4096, 0, 32_768),
            kernel_shm_rmid_forced: flag(0),
            kernel_msgmax: int(8192),
            kernel_msgmnb: int(16_384),
            kernel_msgmni: n(32_000, 0, 32_768),
            kernel_keys_maxkeys: n(200, 1, INT),
            vm_overcommit_memory: n(0, 0, 2),
            vm_overcommit_ratio: int(50),
            vm_overcommit_kbytes: any(0),
            vm_swappiness: n(60, 0, 200),
            vm_max_map_count: int(65_530),
            vm_min_free_kbytes: int(min_free),
            vm_dirty_ratio: n(20, 0, 100),
            vm_dirty_background_ratio: n(10, 0, 100),
            vm_dirty_bytes: any(0),
            vm_dirty_background_bytes: any(0),
            vm_dirty_expire_centisecs: int(3000),
            vm_dirty_writeback_centisecs: int(500),
            vm_vfs_cache_pressure: int(100),
            vm_panic_on_oom: n(0, 0, 2),
            vm_oom_kill_allocating_task: flag(0),
            vm_oom_dump_tasks: flag(1),
            vm_mmap_min_addr: any(65_536),
            vm_page_cluster: n(3, 0, 31),
            vm_laptop_mode: int(0),
            vm_user_reserve_kbytes: any((kib / 32).min(131_072)),
            vm_admin_reserve_kbytes: any((kib / 32).min(8192)),
            vm_compact_unevictable_allowed: flag(1),
            fs_file_max: any(i64::MAX),
            fs_nr_open: n(crate::file::fdtable::NR_OPEN as i64, 64, 2_147_483_584),
            fs_pipe_max_size: n(1 << 20, 4096, INT),
            fs_pipe_user_pages_soft: any(16_384),
            fs_pipe_user_pages_hard: any(0),
            fs_inotify_max_queued_events: int(16_384),
            fs_inotify_max_user_instances: int(128),
            fs_inotify_max_user_watches: int(inotify),
            fs_epoll_max_user_watches: any(epoll),
            fs_mqueue_queues_max: int(256),
            fs_mqueue_msg_max: n(10, 1, 65_536),
            fs_mqueue_msgsize_max: n(8192, 128, 16 << 20),
            fs_mqueue_msg_default: n(10, 1, 65_536),
            fs_mqueue_msgsize_default: n(8192, 128, 16 << 20),
            fs_lease_break_time: int(45),
            fs_leases_enable: flag(1),
            fs_dir_notify_enable: flag(1),
            fs_suid_dumpable: n(0, 0, 2),
            fs_aio_max_nr: any(65_536),
            fs_mount_max: n(crate::vfs::mount::MOUNT_MAX as i64, 1, INT),
            net_core_somaxconn: n(4096, 0, INT),
            net_core_rmem_default: n(212_992, 2304, INT),
            net_core_rmem_max: n(212_992, 2304, INT),
            net_core_wmem_default: n(212_992, 4608, INT),
            net_core_wmem_max: n(212_992, 4608, INT),
            net_core_netdev_max_backlog: int(1000),
            net_core_optmem_max: int(131_072),
            net_unix_max_dgram_qlen: n(512, 0, INT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_range() {
        let s = Sysctl::new(256 << 20, 1000);
        assert_eq!(s.vm_swappiness.set(201), Err(EINVAL));
        assert_eq!(s.vm_swappiness.get(), 60);
        assert_eq!(s.vm_swappiness.set(200), Ok(()));
        assert_eq!(s.vm_swappiness.unsigned(), 200);
    }
}
