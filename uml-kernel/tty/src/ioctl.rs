//! ioctl_tty(2): decoding of the requests that a terminal and a pseudo-terminal's master share.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::File;
use uml_core::task::{Cap, Task};
use uml_core::user::{read_obj, write_obj};

use crate::termios::{RawTermio, RawTermios, RawTermios2, Termios, WinSize};
use crate::tty::{FlowAction, Opening, Tty, When};

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TCGETA: u32 = 0x5405;
const TCSETA: u32 = 0x5406;
const TCSETAW: u32 = 0x5407;
const TCSETAF: u32 = 0x5408;
pub(crate) const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540a;
pub(crate) const TCFLSH: u32 = 0x540b;
const TIOCEXCL: u32 = 0x540c;
const TIOCNXCL: u32 = 0x540d;
pub(crate) const TIOCSCTTY: u32 = 0x540e;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
pub(crate) const TIOCOUTQ: u32 = 0x5411;
const TIOCSTI: u32 = 0x5412;
const TIOCCONS: u32 = 0x541d;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const TIOCGSOFTCAR: u32 = 0x5419;
const TIOCSSOFTCAR: u32 = 0x541a;
pub(crate) const FIONREAD: u32 = 0x541b;
pub(crate) const TIOCNOTTY: u32 = 0x5422;
const TIOCSETD: u32 = 0x5423;
const TIOCGETD: u32 = 0x5424;
pub(crate) const TCSBRKP: u32 = 0x5425;
const TIOCSBRK: u32 = 0x5427;
const TIOCCBRK: u32 = 0x5428;
const TIOCGSID: u32 = 0x5429;
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
const TCSETSW2: u32 = 0x402c_542c;
const TCSETSF2: u32 = 0x402c_542d;
const TIOCGDEV: u32 = 0x8004_5432;
const TIOCVHANGUP: u32 = 0x5437;
const TIOCGEXCL: u32 = 0x8004_5440;
const TIOCGLCKTRMIOS: u32 = 0x5456;
const TIOCSLCKTRMIOS: u32 = 0x5457;

/// The only line discipline.
const N_TTY: i32 = 0;

/// A request on the terminal's own side.
pub(crate) fn terminal(
    task: &Task,
    file: &File,
    tty: &Arc<Tty>,
    at: &Opening,
    cmd: u32,
    arg: u64,
) -> Result<u64> {
    match cmd {
        TCSBRK | TCSBRKP | TIOCSBRK => {
            tty.check_change(task, libc::SIGTTOU)?;
            // None of the lines can send a break; TCSBRK with an argument is tcdrain(3).
            tty.drain(task, Some(at))?;
            Ok(0)
        }
        TIOCCBRK => tty.check_change(task, libc::SIGTTOU).map(|()| 0),
        TCXONC => {
            tty.check_change(task, libc::SIGTTOU)?;
            tty.flow(match arg as i32 {
                libc::TCOOFF => FlowAction::OutputOff,
                libc::TCOON => FlowAction::OutputOn,
                libc::TCIOFF => FlowAction::InputOff,
                libc::TCION => FlowAction::InputOn,
                _ => return Err(EINVAL),
            });
            Ok(0)
        }
        TCFLSH => {
            tty.check_change(task, libc::SIGTTOU)?;
            let (input, output) = flush_sides(arg)?;
            if input {
                tty.flush_input();
            }
            if output {
                tty.flush_output();
            }
            Ok(0)
        }
        TIOCEXCL | TIOCNXCL => {
            tty.set_exclusive(cmd == TIOCEXCL);
            Ok(0)
        }
        TIOCSCTTY => {
            let sessions = tty.sessions().ok_or(EIO)?;
            sessions.acquire(task, tty, arg == 1, file.readable())?;
            Ok(0)
        }
        TIOCNOTTY => {
            tty.sessions().ok_or(EIO)?.disown(task, tty)?;
            Ok(0)
        }
        TIOCGPGRP | TIOCGSID if !tty.controls(task) => Err(ENOTTY),
        TIOCOUTQ => put_int(task, arg, tty.unsent()),
        FIONREAD => put_int(task, arg, tty.readable_bytes()),
        TIOCSTI => {
            let c = insertable(task, arg)?;
            tty.receive(&[c]);
            Ok(0)
        }
        // Redirecting the console's output is refused for everybody: messages stay on the console.
        TIOCCONS => Err(EPERM),
        TIOCVHANGUP => {
            task.require(Cap::SysAdmin)?;
            tty.hangup(false);
            Ok(0)
        }
        _ => common(task, tty, Some(at), cmd, arg),
    }
}

/// A request that means the same on the terminal and on a master.
pub(crate) fn common(
    task: &Task,
    tty: &Tty,
    at: Option<&Opening>,
    cmd: u32,
    arg: u64,
) -> Result<u64> {
    let done = |r: Result<()>| r.map(|()| 0);
    let set = |when, change: &dyn Fn(&Termios) -> Termios| {
        tty.set_termios(task, at, when, |t| change(t)).map(|()| 0)
    };
    match cmd {
        TCGETS => done(write_obj(task, arg, &tty.termios().to_raw())),
        TCGETS2 => done(write_obj(task, arg, &tty.termios().to_raw2())),
        TCGETA => done(write_obj(task, arg, &tty.termios().to_termio())),
        TCSETS | TCSETSW | TCSETSF => {
            let raw: RawTermios = read_obj(task, arg)?;
            set(when(cmd - TCSETS), &|t| t.with_raw(&raw))
        }
        TCSETS2 | TCSETSW2 | TCSETSF2 => {
            let raw: RawTermios2 = read_obj(task, arg)?;
            set(when(cmd - TCSETS2), &|t| t.with_raw2(&raw))
        }
        TCSETA | TCSETAW | TCSETAF => {
            let raw: RawTermio = read_obj(task, arg)?;
            set(when(cmd - TCSETA), &|t| t.with_termio(&raw))
        }
        TIOCGLCKTRMIOS => done(write_obj(task, arg, &tty.locked_termios())),
        TIOCSLCKTRMIOS => {
            let raw: RawTermios = read_obj(task, arg)?;
            done(tty.lock_termios(task, raw))
        }
        TIOCGSOFTCAR => put_int(task, arg, usize::from(tty.termios().cflag & libc::CLOCAL != 0)),
        TIOCSSOFTCAR => {
            let on: i32 = read_obj(task, arg)?;
            let bit = if on != 0 { libc::CLOCAL } else { 0 };
            set(When::Now, &|t| Termios { cflag: (t.cflag & !libc::CLOCAL) | bit, ..*t })
        }
        TIOCGWINSZ => done(write_obj(task, arg, &tty.winsize())),
        TIOCSWINSZ => {
            let size: WinSize = read_obj(task, arg)?;
            tty.set_winsize(size);
            Ok(0)
        }
        TIOCGPGRP => done(write_obj(task, arg, &task.show_pid(tty.foreground()))),
        TIOCSPGRP => {
            let pgrp: i32 = read_obj(task, arg)?;
            let pgrp = if pgrp > 0 { task.kernel_pid(pgrp)? } else { pgrp };
            done(tty.set_foreground(task, pgrp))
        }
        TIOCGSID => {
            let session = tty.session();
            if session == 0 {
                return Err(ENOTTY);
            }
            done(write_obj(task, arg, &task.show_pid(session)))
        }
        TIOCGETD => done(write_obj(task, arg, &N_TTY)),
        TIOCSETD => {
            let wanted: i32 = read_obj(task, arg)?;
            if wanted == N_TTY { Ok(0) } else { Err(EINVAL) }
        }
        TIOCGDEV => done(write_obj(task, arg, &(tty.dev().encode() as u32))),
        TIOCGEXCL => put_int(task, arg, usize::from(tty.exclusive())),
        _ => Err(ENOTTY),
    }
}

fn when(index: u32) -> When {
    match index {
        0 => When::Now,
        1 => When::Drain,
        _ => When::Flush,
    }
}

/// Which queues tcflush(3) empties: input, output.
pub(crate) fn flush_sides(arg: u64) -> Result<(bool, bool)> {
    match arg as i32 {
        libc::TCIFLUSH => Ok((true, false)),
        libc::TCOFLUSH => Ok((false, true)),
        libc::TCIOFLUSH => Ok((true, true)),
        _ => Err(EINVAL),
    }
}

/// Stores a count where FIONREAD and its like want an int.
pub(crate) fn put_int(task: &Task, arg: u64, n: usize) -> Result<u64> {
    let n = i32::try_from(n).unwrap_or(i32::MAX);
    write_obj(task, arg, &n).map(|()| 0)
}

/// The byte TIOCSTI inserts. Since Linux 6.2 (dev.tty.legacy_tiocsti=0) only a process with
/// CAP_SYS_ADMIN may; others get `EIO`.
fn insertable(task: &Task, arg: u64) -> Result<u8> {
    if !task.cred().capable(Cap::SysAdmin) {
        return Err(EIO);
    }
    read_obj(task, arg)
}
