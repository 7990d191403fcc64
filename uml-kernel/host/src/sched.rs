//! Scheduling facts of the host: CPU time, affinity, memory ordering.

use std::sync::OnceLock;

/// CPU time of the thread `tid` of any process in nanoseconds; 0 when it is gone.
pub fn thread_cpu_ns(tid: i32) -> u64 {
    // Clocks of single threads can only be read by their own process (clock_getres(2)); what carries guest
    // programs are others.
    crate::procinfo::schedstat(tid)[0]
}

/// CPU time of the process `pid` with all its threads, those that ended included, in nanoseconds; 0 when it is gone. One call
/// of the host, where [`thread_cpu_ns`] reads a file.
pub fn process_cpu_ns(pid: i32) -> u64 {
    // The host's numbering of these clocks (include/linux/posix-timers_types.h); clock_getcpuclockid(3) makes a call of its own to
    // see whether there is such a process, which reading the clock says too.
    const SCHED: libc::clockid_t = 2;
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is live and writable; a number that is no process's is refused.
    let r = unsafe { libc::clock_gettime((!pid << 3) | SCHED, &mut t) };
    if r == 0 { t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64 } else { 0 }
}

/// CPU time of the calling thread.
pub fn own_cpu() -> std::time::Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is live and writable; the clock always exists (clock_getres(2)).
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    std::time::Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// The CPUs the kernel process may use, in order.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the set.
    let r = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if r != 0 {
        return vec![0];
    }
    // SAFETY: CPU_ISSET reads the set for numbers below its size.
    (0..libc::CPU_SETSIZE as usize).filter(|c| unsafe { libc::CPU_ISSET(*c, &set) }).collect()
}

/// The CPUs of the machine: those of the thread that asked first, which the kernel does while it boots. Workers are confined to
/// one of them for a while, so what a thread may use now is another matter.
pub fn machine_cpus() -> &'static [usize] {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    CPUS.get_or_init(allowed_cpus)
}

/// The host CPU the calling thread runs on.
pub fn current_cpu() -> usize {
    // SAFETY: the call takes no pointers.
    let c = unsafe { libc::sched_getcpu() };
    usize::try_from(c).unwrap_or(0)
}

/// Load averages of the host are not the guest's; total and free memory of the host in bytes.
pub fn host_memory() -> (u64, u64) {
    // SAFETY: an all-zero sysinfo is valid, and the call fills it.
    let mut s: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live structure.
    if unsafe { libc::sysinfo(&mut s) } != 0 {
        return (0, 0);
    }
    let unit = u64::from(s.mem_unit);
    (s.totalram * unit, s.freeram * unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn both_counts_of_a_process_with_one_thread_are_the_same() {
        use nix::sys::signal::{Signal, kill};
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        let script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; kill -STOP $$";
        let mut child = Command::new("sh").args(["-c", script]).spawn().expect("sh");
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("wait");
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        let (process, thread) = (process_cpu_ns(pid.as_raw()), thread_cpu_ns(pid.as_raw()));
        kill(pid, Signal::SIGKILL).expect("kill");
        child.wait().expect("wait");
        assert!(process > 0 && process.abs_diff(thread) < 1_000_000, "{process} {thread}");
        assert_eq!(process_cpu_ns(pid.as_raw()), 0);
    }
}
