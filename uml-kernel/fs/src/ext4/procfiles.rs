//! The files of `/proc/fs/ext4/DEVICE` (ext4(5)).

use std::fmt::Write;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_ext4::ErrorPolicy;

use super::Shared;

/// Their names.
pub(super) const NAMES: &[&str] = &["mb_groups", "options"];
/// Columns of `mb_groups`, whatever the block size.
const ORDERS: usize = 14;

/// The text of the file `name`.
pub(super) fn text(shared: &Shared, name: &str) -> Result<String> {
    match name {
        "mb_groups" => Ok(groups(shared)),
        "options" => Ok(options(shared)),
        _ => Err(ENOENT),
    }
}

/// The free blocks of each group and the pieces a buddy allocator sees in them.
fn groups(shared: &Shared) -> String {
    let mut out = String::from("#group: free  frags first [");
    for n in 0..ORDERS {
        let _ = write!(out, " {:<5}", format!("2^{n}"));
    }
    out.push_str(" ]\n");
    for g in 0..shared.engine.groups() {
        // A string takes whatever is written to it.
        let _ = match shared.engine.group_space(g) {
            Ok(s) => {
                let _ = write!(out, "#{g:<5}: {:<5} {:<5} {:<5} [", s.free, s.runs, s.first);
                for n in 0..ORDERS {
                    let _ = write!(out, " {:<5}", s.pieces.get(n).copied().unwrap_or(0));
                }
                writeln!(out, " ]")
            }
            Err(_) => writeln!(out, "#{g:<5}: I/O error"),
        };
    }
    out
}

/// What holds for the filesystem, options that were given or not; only of what can differ here or is a choice.
fn options(shared: &Shared) -> String {
    let on = |on: bool, yes: &'static str, no: &'static str| if on { yes } else { no };
    let e = &shared.engine;
    let given = e.options();
    let flag = |f: &std::sync::atomic::AtomicBool| f.load(Ordering::Relaxed);
    let errors = match e.error_policy() {
        ErrorPolicy::Continue => "errors=continue",
        ErrorPolicy::RemountRo => "errors=remount-ro",
        ErrorPolicy::Panic => "errors=panic",
    };
    let commit = format!("commit={}", shared.volume().config().interval.as_secs());
    let lines = [
        on(e.is_read_only(), "ro", "rw"),
        "bsddf",
        on(flag(&shared.bsd_groups), "grpid", "nogrpid"),
        "block_validity",
        on(given.discard, "discard", "nodiscard"),
        on(flag(&shared.no_delay), "nodelalloc", "delalloc"),
        on(given.barrier, "barrier", "nobarrier"),
        "user_xattr",
        on(flag(&shared.acls), "acl", "noacl"),
        "noquota",
        errors,
        &commit,
        on(e.journals_data(), "data=journal", "data=ordered"),
    ];
    lines.map(|l| format!("{l}\n")).concat()
}
