//! The line discipline N_TTY as a pure engine (termios(3)): received bytes and programs' output go in;
//! echo, processed output, finished lines and signals come out. It knows no tasks, files or
//! devices and never blocks, so it is tested exhaustively on its own.
//!
//! Memory is bounded: at most [`INPUT_LIMIT`] bytes of input are kept, and echo stops
//! at [`Effects::echo_limit`].

mod echo;
mod input;
mod output;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::termios::Termios;

/// Most bytes of unread input, a line's terminator included (termios(3): "the maximum line length is
/// 4096 chars").
pub const INPUT_LIMIT: usize = 4096;

/// The signals a keyboard can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KeySignal {
    /// VINTR, a break condition: SIGINT.
    Interrupt = 1,
    /// VQUIT: SIGQUIT.
    Quit = 2,
    /// VSUSP: SIGTSTP.
    Suspend = 4,
}

impl KeySignal {
    /// Every one of them, in the order in which they are sent.
    pub const ALL: [KeySignal; 3] = [KeySignal::Interrupt, KeySignal::Quit, KeySignal::Suspend];

    /// Its signal number.
    pub fn signo(self) -> i32 {
        match self {
            KeySignal::Interrupt => libc::SIGINT,
            KeySignal::Quit => libc::SIGQUIT,
            KeySignal::Suspend => libc::SIGTSTP,
        }
    }
}

/// What received input causes outside of the discipline.
#[derive(Debug, Default)]
pub struct Effects {
    /// Bytes for the terminal's output, already output-processed. What the caller has put into its
    /// output queue before is obsolete when `flush_output` is set.
    pub echo: Vec<u8>,
    /// Echo beyond this many bytes is dropped, as Linux does when nobody reads the terminal.
    pub echo_limit: usize,
    /// A signal character without NOFLSH: discard pending output.
    pub flush_output: bool,
    /// The same discarded pending input (told in packet mode).
    pub flushed_input: bool,
    signals: u8,
}

impl Effects {
    /// Room for `echo_limit` bytes of echo.
    pub fn new(echo_limit: usize) -> Effects {
        Effects { echo_limit, ..Effects::default() }
    }

    /// Signals for the foreground process group.
    pub fn signals(&self) -> impl Iterator<Item = KeySignal> + '_ {
        KeySignal::ALL.into_iter().filter(|s| self.signals & *s as u8 != 0)
    }

    /// True when there is a signal to send.
    pub fn has_signals(&self) -> bool {
        self.signals != 0
    }

    fn put(&mut self, c: u8) {
        if self.echo.len() < self.echo_limit {
            self.echo.push(c);
        }
    }
}

/// The end of a line that canonical reads may return.
#[derive(Clone, Copy, Debug)]
struct LineEnd {
    /// Position after the line's last byte.
    at: u64,
    /// Ended without a terminator byte (VEOF).
    bare: bool,
}

/// Line discipline state of one terminal.
#[derive(Debug)]
pub struct LineDiscipline {
    t: Termios,
    /// Unread input. In canonical mode the part after `committed` is the line being edited.
    buf: VecDeque<u8>,
    /// Position of `buf`'s first byte, counted from the terminal's beginning.
    start: u64,
    /// Canonical reads see the input up to here.
    committed: u64,
    /// Ends of the finished lines, ascending. An end-of-file character is an end whose line has no
    /// terminator byte.
    ends: VecDeque<LineEnd>,
    /// How many of `ends` are bare: each occupies a place of the input limit.
    bare_ends: usize,
    /// Cursor column of the output, and where the echo of the edited line began.
    column: u32,
    canon_column: u32,
    /// Between the `\` and `/` of an ECHOPRT erasure.
    erasing: bool,
    /// The last character was VLNEXT.
    lnext: bool,
    /// VSTOP was received.
    stopped: bool,
}

impl LineDiscipline {
    /// A discipline with nothing received yet.
    pub fn new(t: Termios) -> LineDiscipline {
        LineDiscipline {
            t,
            buf: VecDeque::new(),
            start: 0,
            committed: 0,
            ends: VecDeque::new(),
            bare_ends: 0,
            column: 0,
            canon_column: 0,
            erasing: false,
            lnext: false,
            stopped: false,
        }
    }

    /// The settings.
    pub fn termios(&self) -> &Termios {
        &self.t
    }

    /// Changes the settings. A change of ICANON makes everything received so far
    /// readable: leaving canonical mode byte by byte, entering it as one line. Returns true when
    /// output that VSTOP had stopped runs again because IXON was switched off.
    pub fn set_termios(&mut self, t: Termios) -> bool {
        let changed = self.t.lflag ^ t.lflag;
        self.t = t;
        if changed & (libc::ICANON | libc::EXTPROC) != 0 {
            self.clear_ends();
            self.erasing = false;
            self.lnext = false;
            if self.t.l(libc::ICANON) && !self.buf.is_empty() {
                self.committed = self.end();
                self.push_end(true);
            } else {
                self.committed = self.start;
            }
        }
        if self.stopped && !self.t.i(libc::IXON) {
            self.stopped = false;
            return true;
        }
        false
    }

    /// True while VSTOP holds the output.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Column of the cursor as far as output processing knows it.
    pub fn column(&self) -> u32 {
        self.column
    }

    /// Reads return whole lines.
    pub fn canonical(&self) -> bool {
        self.t.l(libc::ICANON) && !self.t.l(libc::EXTPROC)
    }

    /// VMIN bytes end a non-canonical read.
    pub fn vmin(&self) -> usize {
        usize::from(self.t.cc[libc::VMIN])
    }

    /// VTIME of a non-canonical read, tenths of a second.
    pub fn vtime(&self) -> u32 {
        u32::from(self.t.cc[libc::VTIME])
    }

    /// Position after the last received byte.
    fn end(&self) -> u64 {
        self.start + self.buf.len() as u64
    }

    /// Bytes of the line being edited.
    fn edit_len(&self) -> usize {
        (self.end() - self.committed.max(self.start)) as usize
    }

    /// Bytes that a read could return now (TIOCINQ).
    pub fn available(&self) -> usize {
        if self.canonical() {
            self.committed.saturating_sub(self.start) as usize
        } else {
            self.buf.len()
        }
    }

    /// True when a read would return something: a line or an end of file in canonical
    /// mode, a byte otherwise.
    pub fn has_input(&self) -> bool {
        if self.canonical() { !self.ends.is_empty() } else { !self.buf.is_empty() }
    }

    /// Readiness for poll(2): in non-canonical mode with VTIME 0, VMIN bytes are needed.
    pub fn poll_readable(&self) -> bool {
        if self.canonical() || self.vtime() != 0 {
            return self.has_input();
        }
        self.buf.len() >= self.vmin().max(1)
    }

    /// Takes input for a read of up to `max` bytes: in canonical mode the rest of the first line (nothing
    /// for an end of file), else whatever is there. `None` when the read has to wait.
    pub fn read(&mut self, max: usize) -> Option<Vec<u8>> {
        if !self.has_input() {
            return None;
        }
        if !self.canonical() {
            return Some(self.take(max.min(self.buf.len())));
        }
        let line = self.ends.front()?.at.saturating_sub(self.start) as usize;
        let n = line.min(max);
        let data = self.take(n);
        // An end of file right after the bytes goes with them, so that it is not seen twice.
        if n == line && max != 0 && self.ends.pop_front().is_some_and(|e| e.bare) {
            self.bare_ends -= 1;
        }
        Some(data)
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        self.start += n as u64;
        self.committed = self.committed.max(self.start);
        self.buf.drain(..n).collect()
    }

    /// Discards all input (TCIFLUSH).
    pub fn flush_input(&mut self) {
        self.start = self.end();
        self.buf.clear();
        self.clear_ends();
        self.committed = self.start;
        self.erasing = false;
        self.lnext = false;
    }

    /// True when a byte more would be refused by [`LineDiscipline::receive`].
    pub fn full(&self) -> bool {
        self.used() >= INPUT_LIMIT - self.reserve() && (!self.canonical() || self.has_input())
    }

    /// Places of the input limit in use.
    fn used(&self) -> usize {
        self.buf.len() + self.bare_ends
    }

    fn push_end(&mut self, bare: bool) {
        self.ends.push_back(LineEnd { at: self.committed, bare });
        self.bare_ends += usize::from(bare);
    }

    fn clear_ends(&mut self) {
        self.ends.clear();
        self.bare_ends = 0;
    }

    /// Places kept free: for a line's terminator, and for what PARMRK inserts.
    fn reserve(&self) -> usize {
        if self.t.i(libc::PARMRK) { 3 } else { 1 }
    }
}
