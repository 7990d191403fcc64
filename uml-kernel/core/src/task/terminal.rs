//! What the process tree needs from the terminal layer above.

use crate::kernel::Kernel;
use crate::task::Task;
use crate::vfs::Dev;

/// Controlling terminals of sessions (credentials(7), "Sessions and process groups"), implemented by the
/// tty crate and attached with [`Kernel::set_terminals`].
pub trait Terminals: Send + Sync {
    /// Device number and foreground process group (0 when there is none) of the controlling terminal
    /// of `task`, for /proc/<pid>/stat.
    fn controlling(&self, task: &Task) -> Option<(Dev, i32)>;

    /// The leader of `session` exits: the terminal is hung up or taken away and the foreground
    /// group gets SIGHUP (setsid(2), exit(3)). Called without locks.
    fn leader_exits(&self, kernel: &Kernel, session: i32);

    /// vhangup(2): hangs up the controlling terminal of `task`, if it has one.
    fn vhangup(&self, task: &Task);

    /// Gives every line that a session is on, pseudo-terminals excepted, its first settings back, whatever programs
    /// made of them (SysRq `r`). Called without locks.
    fn reset_lines(&self);
}
