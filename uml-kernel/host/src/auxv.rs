//! The kernel process's own auxiliary vector (getauxval(3)).

/// AT_HWCAP and AT_HWCAP2: processor features as the host announces them.
pub fn hwcap() -> (u64, u64) {
    // SAFETY: getauxval only reads the vector the process was started with.
    unsafe { (libc::getauxval(libc::AT_HWCAP), libc::getauxval(libc::AT_HWCAP2)) }
}
