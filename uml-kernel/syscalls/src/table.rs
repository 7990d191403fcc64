//! What a line of the system-call table says, and the joined table.

use std::sync::OnceLock;

use uml_abi::Result;
use uml_core::ctx::Ctx;

/// Kind of an argument: how the strace printer shows it and how a register is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// File descriptor (`int`; high register bits are ignored).
    Fd,
    /// Directory descriptor or AT_FDCWD.
    DirFd,
    /// NUL-terminated path in guest memory.
    Path,
    /// Other NUL-terminated string.
    Str,
    /// Buffer the kernel reads.
    In,
    /// Buffer the kernel fills.
    Out,
    /// Pointer to a structure.
    Ptr,
    /// Signed int.
    Int,
    /// Unsigned int or flags, shown in hex.
    Flags,
    /// Octal mode.
    Mode,
    /// size_t.
    Size,
    /// 64-bit signed offset.
    Off,
    /// Address.
    Addr,
    /// Process or thread id.
    Pid,
    /// Signal number.
    Sig,
}

/// When the call is restarted after a signal handler ran (signal(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartRule {
    /// Restarted if the handler has SA_RESTART.
    Sys,
    /// Never restarted after a handler; restarted when no handler runs.
    NoHand,
    /// The same, as restart_syscall(2).
    Block,
    /// Always EINTR.
    Never,
}

/// How much of the manual page is implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Full,
    /// What is missing, in the words of the manual's table.
    Partial(&'static str),
    /// Refused; the errno is in the handler, the reason here.
    Refused(&'static str),
}

/// A handler with its arguments still raw.
pub type Handler = fn(&mut Ctx<'_>, [u64; 6]) -> Result<u64>;

/// One line of the table.
#[derive(Clone, Copy)]
pub struct Entry {
    pub nr: u16,
    pub name: &'static str,
    pub args: &'static [Arg],
    pub restart: RestartRule,
    pub support: Support,
    pub handler: Handler,
}

/// Conversion of a register to a typed argument: the truncation and sign rules, once.
pub trait FromReg {
    fn from_reg(raw: u64) -> Self;
}

impl FromReg for i32 {
    fn from_reg(raw: u64) -> i32 {
        raw as i32
    }
}
impl FromReg for u32 {
    fn from_reg(raw: u64) -> u32 {
        raw as u32
    }
}
impl FromReg for u64 {
    fn from_reg(raw: u64) -> u64 {
        raw
    }
}
impl FromReg for i64 {
    fn from_reg(raw: u64) -> i64 {
        raw as i64
    }
}
impl FromReg for usize {
    fn from_reg(raw: u64) -> usize {
        raw as usize
    }
}

/// Builds the table lines of a family:
///
/// ```ignore
/// pub const TABLE: &[Entry] = &[
///     call!(0, "read", read(Fd, Out, Size), Sys),
///     call!(13, "rt_sigaction", rt_sigaction(Sig, Ptr, Ptr, Size)),            // rule Never, fully supported
///     call!(250, "keyctl", keyctl(Int, Int), Never, Refused("keyrings are not implemented")),
/// ];
/// ```
#[macro_export]
macro_rules! call {
    ($nr:literal, $name:literal, $f:ident($($k:ident),*)) => {
        $crate::call!($nr, $name, $f($($k),*), Never)
    };
    ($nr:literal, $name:literal, $f:ident($($k:ident),*), $rule:ident) => {
        $crate::call!(@ $nr, $name, $f, [$($k),*], $rule, $crate::table::Support::Full)
    };
    ($nr:literal, $name:literal, $f:ident($($k:ident),*), $rule:ident, Partial($note:literal)) => {
        $crate::call!(@ $nr, $name, $f, [$($k),*], $rule, $crate::table::Support::Partial($note))
    };
    ($nr:literal, $name:literal, $f:ident($($k:ident),*), $rule:ident, Refused($note:literal)) => {
        $crate::call!(@ $nr, $name, $f, [$($k),*], $rule, $crate::table::Support::Refused($note))
    };
    (@ $nr:literal, $name:literal, $f:ident, [$($k:ident),*], $rule:ident, $support:expr) => {
        $crate::table::Entry {
            nr: $nr,
            name: $name,
            args: &[$($crate::table::Arg::$k),*],
            restart: $crate::table::RestartRule::$rule,
            support: $support,
            handler: |cx, raw| $crate::call!(@args $f, cx, raw, [$($k),*]),
        }
    };
    (@args $f:ident, $cx:ident, $raw:ident, []) => {{ let _ = $raw; $f($cx) }};
    (@args $f:ident, $cx:ident, $raw:ident, [$a:ident]) => {
        $f($cx, $crate::table::FromReg::from_reg($raw[0]))
    };
    (@args $f:ident, $cx:ident, $raw:ident, [$a:ident, $b:ident]) => {
        $f($cx, $crate::table::FromReg::from_reg($raw[0]), $crate::table::FromReg::from_reg($raw[1]))
    };
    (@args $f:ident, $cx:ident, $raw:ident, [$a:ident, $b:ident, $c:ident]) => {
        $f($cx, $crate::table::FromReg::from_reg($raw[0]), $crate::table::FromReg::from_reg($raw[1]),
           $crate::table::FromReg::from_reg($raw[2]))
    };
    (@args $f:ident, $cx:ident, $raw:ident, [$a:ident, $b:ident, $c:ident, $d:ident]) => {
        $f($cx, $crate::table::FromReg::from_reg($raw[0]), $crate::table::FromReg::from_reg($raw[1]),
           $crate::table::FromReg::from_reg($raw[2]), $crate::table::FromReg::from_reg($raw[3]))
    };
    (@args $f:ident, $cx:ident, $raw:ident, [$a:ident, $b:ident, $c:ident, $d:ident, $e:ident]) => {
        $f($cx, $crate::table::FromReg::from_reg($raw[0]), $crate::table::FromReg::from_reg($raw[1]),
           $crate::table::FromReg::from_reg($raw[2]), $crate::table::FromReg::from_reg($raw[3]),
           $crate::table::FromReg::from_reg($raw[4]))
    };
    (@args $f:ident, $cx:ident, $raw:ident, [$a:ident, $b:ident, $c:ident, $d:ident, $e:ident, $g:ident]) => {
        $f($cx, $crate::table::FromReg::from_reg($raw[0]), $crate::table::FromReg::from_reg($raw[1]),
           $crate::table::FromReg::from_reg($raw[2]), $crate::table::FromReg::from_reg($raw[3]),
           $crate::table::FromReg::from_reg($raw[4]), $crate::table::FromReg::from_reg($raw[5]))
    };
}

/// The families, in no particular order; a number may appear once.
const FAMILIES: &[&[Entry]] = &[
    crate::aio::TABLE,
    crate::inotify::TABLE,
    crate::inspect::TABLE,
    crate::namespaces::TABLE,
    crate::mount::TABLE,
    crate::mount_fd::TABLE,
    crate::fcntl::TABLE,
    crate::file_io::TABLE,
    crate::getdents::TABLE,
    crate::handle::TABLE,
    crate::mqueue::TABLE,
    crate::open::TABLE,
    crate::path::TABLE,
    crate::stat::TABLE,
    crate::xattr::TABLE,
    crate::epoll::TABLE,
    crate::event_fds::TABLE,
    crate::futex::TABLE,
    crate::identity::TABLE,
    crate::landlock::TABLE,
    crate::memory::TABLE,
    crate::pipe::TABLE,
    crate::poll::TABLE,
    crate::prctl::TABLE,
    crate::process::TABLE,
    crate::ptrace::TABLE,
    crate::sched::TABLE,
    crate::seccomp::TABLE,
    crate::signals::TABLE,
    crate::socket::TABLE,
    crate::system::TABLE,
    crate::sysv::TABLE,
    crate::time::TABLE,
];

/// Numbers beyond this one do not exist.
pub const MAX_NR: usize = 600;

/// The line of system call `nr`.
pub fn lookup(nr: u64) -> Option<&'static Entry> {
    static INDEX: OnceLock<Vec<Option<&'static Entry>>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let mut v = vec![None; MAX_NR];
        for e in entries() {
            debug_assert!(v[e.nr as usize].is_none(), "two lines for system call {}", e.nr);
            v[e.nr as usize] = Some(e);
        }
        v
    });
    *index.get(usize::try_from(nr).ok()?)?
}

/// Every line.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    FAMILIES.iter().flat_map(|f| f.iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_one_line() {
        let mut names = std::collections::BTreeMap::new();
        for e in entries() {
            assert!((e.nr as usize) < MAX_NR, "{} is beyond the table", e.nr);
            let other = names.insert(e.nr, e.name);
            assert_eq!(other, None, "two lines for system call {}: {}", e.nr, e.name);
        }
    }
}
