//! One terminal: its line discipline, the queues on both sides of it, who has it open and which
//! processes it belongs to.
//!
//! A pseudo-terminal is one [`Tty`] too: the master is what stands where a serial line has its
//! hardware. Bytes from that side enter by [`Tty::receive`], bytes for it are fetched by
//! [`Tty::take_output`]; the other side are the files that programs have open.

mod control;
mod input;
mod open;
mod output;
mod read;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_base::{Events, Mutex, Rank, WaitQueue};
use uml_core::kernel::Kernel;
use uml_core::signal::{SigInfo, send_to_group};
use uml_core::vfs::Dev;

use crate::ldisc::LineDiscipline;
use crate::session::Sessions;
use crate::termios::{RawTermios, Termios, WinSize};

pub use control::{FlowAction, When};
pub use open::Opening;

/// Bytes of output that wait for the device; writers sleep beyond.
pub const OUTPUT_LIMIT: usize = 32 * 1024;
/// Echo may exceed the limit by this much before it is dropped.
const ECHO_RESERVE: usize = 4096;
/// Bytes received while the line discipline has no room; the device is told to wait beyond.
pub const INCOMING_LIMIT: usize = 64 * 1024;

/// What stands behind a terminal: a host channel, or the master of a pseudo-terminal. Called without the
/// terminal's lock.
pub trait Line: Send + Sync {
    /// True for the slave of a pseudo-terminal.
    fn is_pty(&self) -> bool {
        false
    }

    /// A file is being opened; makes the line work if it does not yet. May sleep in host calls.
    fn open(&self, tty: &Arc<Tty>) -> Result<()> {
        let _ = tty;
        Ok(())
    }

    /// The last file is closed, or the terminal was hung up. What [`Tty::drain_output`] yields is still
    /// to be sent.
    fn close(&self, tty: &Tty) {
        let _ = tty;
    }

    /// There is output to fetch.
    fn output_ready(&self, tty: &Tty);

    /// [`Tty::receive`] takes bytes again after it had refused some.
    fn input_room(&self, tty: &Tty) {
        let _ = tty;
    }

    /// Bytes fetched that have not reached the device yet (TIOCOUTQ, tcdrain(3)).
    fn unsent(&self) -> usize {
        0
    }
}

/// Packet-mode status bits (ioctl_tty(2) TIOCPKT).
pub const PKT_FLUSHREAD: u8 = 1;
pub const PKT_FLUSHWRITE: u8 = 2;
pub const PKT_STOP: u8 = 4;
pub const PKT_START: u8 = 8;
pub const PKT_NOSTOP: u8 = 16;
pub const PKT_DOSTOP: u8 = 32;
pub const PKT_IOCTL: u8 = 64;

pub(crate) struct State {
    pub(crate) ldisc: LineDiscipline,
    /// Received, not yet through the line discipline.
    pub(crate) incoming: VecDeque<u8>,
    /// Some received bytes were refused: the device waits for [`Line::input_room`].
    pub(crate) refused: bool,
    /// The device will send nothing more: who reads beyond what is there hangs the terminal up.
    pub(crate) input_ended: bool,
    /// Processed output that the device has not fetched.
    pub(crate) output: VecDeque<u8>,
    /// Output suspended by tcflow(3).
    pub(crate) held: bool,
    pub(crate) winsize: WinSize,
    /// Session and foreground process group; 0 for none.
    pub(crate) session: i32,
    pub(crate) pgrp: i32,
    /// Open files of the present generation.
    pub(crate) count: u32,
    /// Those of them that were opened as /dev/console.
    pub(crate) consoles: u32,
    /// TIOCEXCL.
    pub(crate) exclusive: bool,
    /// Settings bits that TIOCSLCKTRMIOS forbids to change.
    pub(crate) locked_termios: RawTermios,
    /// The other side went away for good: the master of a pseudo-terminal was closed.
    pub(crate) gone: bool,
    /// The line is a pseudo-terminal.
    pub(crate) is_pty: bool,
    /// The slave may not be opened yet (TIOCSPTLCK).
    pub(crate) pt_locked: bool,
    /// Every file of the slave was closed after it had been open.
    pub(crate) slave_closed: bool,
    /// TIOCPKT, and what its next packet says.
    pub(crate) packet: bool,
    pub(crate) packet_status: u8,
}

impl State {
    /// Discards output. What the master of a pseudo-terminal has received already, as much as its own input
    /// buffer holds (N_TTY_BUF_SIZE), is not taken back.
    pub(crate) fn discard_output(&mut self) {
        const MASTER_BUFFER: usize = 4095;
        self.output.truncate(if self.is_pty { MASTER_BUFFER } else { 0 });
        self.packet(PKT_FLUSHWRITE);
    }

    /// Output must not be fetched.
    pub(crate) fn output_stopped(&self) -> bool {
        self.held || self.ldisc.stopped()
    }

    pub(crate) fn packet(&mut self, status: u8) {
        if self.packet {
            let opposite = match status {
                PKT_STOP => PKT_START,
                PKT_START => PKT_STOP,
                PKT_DOSTOP => PKT_NOSTOP,
                PKT_NOSTOP => PKT_DOSTOP,
                _ => 0,
            };
            self.packet_status = (self.packet_status & !opposite) | status;
        }
    }
}

/// A terminal.
pub struct Tty {
    name: String,
    dev: Dev,
    line: Arc<dyn Line>,
    sessions: Weak<Sessions>,
    /// Counts hang-ups; a file of an older generation is hung up.
    generation: AtomicU64,
    state: Mutex<State>,
    /// Readers and writers of the terminal (not of a master).
    read_wait: Arc<WaitQueue>,
    write_wait: Arc<WaitQueue>,
}

/// What is to be done once the terminal's lock is released.
#[derive(Default)]
#[must_use]
pub(crate) struct After {
    pub(crate) signals: Vec<(i32, i32)>,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) output: bool,
    pub(crate) input_room: bool,
}

impl Tty {
    /// A terminal `name` (as in /proc: `tty0`, `pts/3`) on `line`.
    pub fn new(
        name: &str,
        dev: Dev,
        line: Arc<dyn Line>,
        termios: Termios,
        sessions: &Arc<Sessions>,
    ) -> Arc<Tty> {
        let is_pty = line.is_pty();
        let no_locks = RawTermios { iflag: 0, oflag: 0, cflag: 0, lflag: 0, line: 0, cc: [0; 19] };
        Arc::new(Tty {
            name: name.to_owned(),
            dev,
            line,
            sessions: Arc::downgrade(sessions),
            generation: AtomicU64::new(0),
            state: Mutex::new(
                Rank::TTY,
                State {
                    ldisc: LineDiscipline::new(termios),
                    incoming: VecDeque::new(),
                    refused: false,
                    input_ended: false,
                    output: VecDeque::new(),
                    held: false,
                    winsize: WinSize::default(),
                    session: 0,
                    pgrp: 0,
                    count: 0,
                    consoles: 0,
                    exclusive: false,
                    locked_termios: no_locks,
                    gone: false,
                    is_pty,
                    pt_locked: false,
                    slave_closed: false,
                    packet: false,
                    packet_status: 0,
                },
            ),
            read_wait: WaitQueue::shared(),
            write_wait: WaitQueue::shared(),
        })
    }

    /// Name as /proc and boot messages show it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Device number.
    pub fn dev(&self) -> Dev {
        self.dev
    }

    /// True for a pseudo-terminal.
    pub fn is_pty(&self) -> bool {
        self.line.is_pty()
    }

    /// Present settings.
    pub fn termios(&self) -> Termios {
        *self.state.lock().ldisc.termios()
    }

    /// Foreground process group, 0 for none (tcgetpgrp(3)).
    pub fn foreground(&self) -> i32 {
        self.state.lock().pgrp
    }

    /// Session whose controlling terminal this is, 0 for none (tcgetsid(3)).
    pub fn session(&self) -> i32 {
        self.state.lock().session
    }

    /// Files open now.
    pub fn open_count(&self) -> u32 {
        self.state.lock().count
    }

    pub(crate) fn state(&self) -> &Mutex<State> {
        &self.state
    }

    pub(crate) fn sessions(&self) -> Option<Arc<Sessions>> {
        self.sessions.upgrade()
    }

    pub(crate) fn kernel(&self) -> Option<Arc<Kernel>> {
        self.sessions.upgrade()?.kernel()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Carries out what was decided under the lock.
    pub(crate) fn finish(&self, after: After) {
        if after.output {
            self.line.output_ready(self);
        }
        if after.readable {
            self.read_wait.wake_all(Events::READABLE);
        }
        if after.writable {
            self.write_wait.wake_all(Events::WRITABLE);
        }
        if after.input_room {
            self.line.input_room(self);
        }
        if !after.signals.is_empty()
            && let Some(kernel) = self.kernel()
        {
            for (pgrp, signo) in after.signals {
                send_to_group(&kernel, pgrp, SigInfo::kernel(signo));
            }
        }
    }
}
