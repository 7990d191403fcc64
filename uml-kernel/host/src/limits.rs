//! Resource limits of the kernel process (getrlimit(2)).

/// Soft and hard RLIMIT_CORE in bytes; `None` is no limit.
pub fn core() -> (Option<u64>, Option<u64>) {
    let mut l = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live structure.
    let r = unsafe { libc::getrlimit(libc::RLIMIT_CORE, &mut l) };
    if r != 0 {
        return (Some(0), Some(0));
    }
    let show = |v| if v == libc::RLIM_INFINITY { None } else { Some(v) };
    (show(l.rlim_cur), show(l.rlim_max))
}
