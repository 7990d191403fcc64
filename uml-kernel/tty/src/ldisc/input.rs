//! Input processing (termios(3), `c_iflag` and `c_lflag`).

use super::{Effects, INPUT_LIMIT, KeySignal, LineDiscipline};

/// Input flags that leave no byte as it is.
const INPUT_PROCESSING: u32 = libc::ISTRIP
    | libc::INLCR
    | libc::IGNCR
    | libc::ICRNL
    | libc::IUCLC
    | libc::IXON
    | libc::PARMRK;

impl LineDiscipline {
    /// Takes received bytes; returns how many, which is less than all when readers must make room first
    /// (flow control: nothing is lost). In canonical mode without a finished line there is always
    /// room, and what exceeds the line limit is dropped (termios(3)).
    pub fn receive(&mut self, input: &[u8], fx: &mut Effects) -> usize {
        if self.is_transparent() {
            let n = input.len().min((INPUT_LIMIT - 1).saturating_sub(self.used()));
            self.buf.extend(&input[..n]);
            return n;
        }
        for (i, c) in input.iter().enumerate() {
            if self.full() {
                return i;
            }
            self.receive_char(*c, fx);
        }
        input.len()
    }

    /// True when input goes to readers untouched.
    fn is_transparent(&self) -> bool {
        let busy = libc::ICANON | libc::ECHO | libc::ISIG;
        self.t.lflag & busy == 0 && self.t.iflag & INPUT_PROCESSING == 0 && !self.lnext
    }

    /// Makes an unfinished canonical line readable, as VEOF does.
    pub fn finish_line(&mut self) {
        if self.canonical() && self.edit_len() > 0 {
            self.commit(None);
        }
    }

    /// A break condition of a serial line (termios(3), IGNBRK).
    pub fn receive_break(&mut self, fx: &mut Effects) {
        if self.t.i(libc::IGNBRK) {
            return;
        }
        if self.t.i(libc::BRKINT) {
            self.signal(KeySignal::Interrupt, fx);
            return;
        }
        if self.t.i(libc::PARMRK) {
            self.put(0xff);
            self.put(0);
        }
        self.put(0);
    }

    /// A byte with a parity or framing error (termios(3), IGNPAR).
    pub fn receive_damaged(&mut self, c: u8, fx: &mut Effects) {
        if !self.t.i(libc::INPCK) {
            self.receive_char(c, fx);
        } else if self.t.i(libc::IGNPAR) {
        } else if self.t.i(libc::PARMRK) {
            self.put(0xff);
            self.put(0);
            self.put(c);
        } else {
            self.put(0);
        }
    }

    fn receive_char(&mut self, c: u8, fx: &mut Effects) {
        let mut c = c;
        if self.t.i(libc::ISTRIP) {
            c &= 0x7f;
        }
        if self.t.i(libc::IUCLC) && self.t.l(libc::IEXTEN) {
            c = lower(c);
        }
        if self.t.l(libc::EXTPROC) {
            self.put(c);
            return;
        }
        if std::mem::take(&mut self.lnext) {
            self.receive_ordinary(c, false, fx);
            return;
        }
        if self.flow_control(c) || self.signal_character(c, fx) {
            return;
        }
        let mut mapped = false;
        match c {
            b'\r' if self.t.i(libc::IGNCR) => return,
            b'\r' if self.t.i(libc::ICRNL) => {
                c = b'\n';
                mapped = true;
            }
            b'\n' if self.t.i(libc::INLCR) => c = b'\r',
            _ => {}
        }
        if !self.t.l(libc::ICANON) || !self.edit(c, fx) {
            self.receive_ordinary(c, mapped, fx);
        }
    }

    /// VSTART, VSTOP and IXANY; true when `c` is used up.
    fn flow_control(&mut self, c: u8) -> bool {
        if !self.t.i(libc::IXON) {
            return false;
        }
        if self.t.is_cc(libc::VSTART, c) {
            self.stopped = false;
            return true;
        }
        if self.t.is_cc(libc::VSTOP, c) {
            self.stopped = true;
            return true;
        }
        if self.t.i(libc::IXANY) {
            self.stopped = false;
        }
        false
    }

    /// VINTR, VQUIT and VSUSP; true when `c` is one.
    fn signal_character(&mut self, c: u8, fx: &mut Effects) -> bool {
        if !self.t.l(libc::ISIG) {
            return false;
        }
        let signal = if self.t.is_cc(libc::VINTR, c) {
            KeySignal::Interrupt
        } else if self.t.is_cc(libc::VQUIT, c) {
            KeySignal::Quit
        } else if self.t.is_cc(libc::VSUSP, c) {
            KeySignal::Suspend
        } else {
            return false;
        };
        self.signal(signal, fx);
        if self.t.i(libc::IXON) {
            self.stopped = false;
        }
        if self.t.l(libc::ECHO) {
            self.echo_char(c, fx);
        }
        true
    }

    fn signal(&mut self, signal: KeySignal, fx: &mut Effects) {
        fx.signals |= signal as u8;
        if !self.t.l(libc::NOFLSH) {
            self.flush_input();
            fx.echo.clear();
            fx.flush_output = true;
            fx.flushed_input = true;
        }
    }

    /// Line editing and line ends of canonical mode; true when `c` is used up.
    fn edit(&mut self, c: u8, fx: &mut Effects) -> bool {
        let extended = self.t.l(libc::IEXTEN);
        let echo = self.t.l(libc::ECHO);
        if self.t.is_cc(libc::VERASE, c) {
            self.erase(Erasure::Character, fx);
        } else if self.t.is_cc(libc::VKILL, c) {
            self.kill(c, fx);
        } else if extended && self.t.is_cc(libc::VWERASE, c) {
            self.erase(Erasure::Word, fx);
        } else if extended && self.t.is_cc(libc::VLNEXT, c) {
            self.lnext = true;
            if echo {
                self.finish_erasing(fx);
                if self.t.l(libc::ECHOCTL) {
                    // The caret stays under the cursor until the next character replaces it.
                    self.echo_raw(b'^', fx);
                    self.echo_raw(0x08, fx);
                }
            }
        } else if extended && echo && self.t.is_cc(libc::VREPRINT, c) {
            self.reprint(c, fx);
        } else if c == b'\n' {
            // An erasure is not ended by the line's end: Linux shows its `/` in the next line.
            if self.t.lflag & (libc::ECHO | libc::ECHONL) != 0 {
                self.echo_raw(c, fx);
            }
            self.commit(Some(c));
        } else if self.t.is_cc(libc::VEOF, c) {
            self.commit(None);
        } else if self.t.is_cc(libc::VEOL, c) || (extended && self.t.is_cc(libc::VEOL2, c)) {
            if echo {
                self.mark_canon_column();
                self.echo_char(c, fx);
            }
            self.commit(Some(c));
        } else {
            return false;
        }
        true
    }

    /// A byte for the reader. A newline that a carriage return became is echoed as one even outside of
    /// canonical mode; others as the control character they are.
    fn receive_ordinary(&mut self, c: u8, mapped: bool, fx: &mut Effects) {
        if self.t.l(libc::ECHO) {
            self.finish_erasing(fx);
            if mapped {
                self.echo_raw(c, fx);
            } else {
                self.mark_canon_column();
                self.echo_char(c, fx);
            }
        }
        // A byte that looks like PARMRK's mark is doubled so that readers can tell.
        if c == 0xff && self.t.i(libc::PARMRK) && !self.t.i(libc::ISTRIP) {
            self.put(c);
        }
        self.put(c);
    }

    /// Stores a byte, leaving a place for the terminator of a canonical line.
    fn put(&mut self, c: u8) {
        if self.used() < INPUT_LIMIT - 1 {
            self.buf.push_back(c);
        }
    }

    /// Finishes the line, with its terminator unless it is an end of file.
    fn commit(&mut self, terminator: Option<u8>) {
        if let Some(c) = terminator {
            if c == 0xff && self.t.i(libc::PARMRK) {
                self.put(c);
            }
            if self.used() < INPUT_LIMIT {
                self.buf.push_back(c);
            }
        }
        self.committed = self.end();
        self.push_end(terminator.is_none());
    }

    /// VKILL.
    fn kill(&mut self, c: u8, fx: &mut Effects) {
        if self.edit_len() == 0 {
            return;
        }
        if !self.t.l(libc::ECHO) {
            self.drop_edited();
            return;
        }
        if self.t.l(libc::ECHOK | libc::ECHOKE | libc::ECHOE) {
            self.erase(Erasure::Line, fx);
            return;
        }
        self.drop_edited();
        self.finish_erasing(fx);
        self.echo_char(c, fx);
        if self.t.l(libc::ECHOK) {
            self.echo_raw(b'\n', fx);
        }
    }

    fn drop_edited(&mut self) {
        let keep = self.buf.len() - self.edit_len();
        self.buf.truncate(keep);
    }

    fn erase(&mut self, what: Erasure, fx: &mut Effects) {
        if self.edit_len() == 0 {
            return;
        }
        let mut in_word = false;
        while self.edit_len() > 0 {
            let line_start = self.buf.len() - self.edit_len();
            let first = (line_start..self.buf.len())
                .rev()
                .find(|i| self.buf.get(*i).is_some_and(|c| !self.is_continuation(*c)));
            // Continuation bytes without a first byte: nothing that could be erased as one.
            let Some(first) = first else { break };
            let Some(&c) = self.buf.get(first) else { break };
            if what == Erasure::Word {
                if is_word(c) {
                    in_word = true;
                } else if in_word {
                    break;
                }
            }
            let rest: Vec<u8> = self.buf.range(first + 1..).copied().collect();
            self.buf.truncate(first);
            if self.t.l(libc::ECHO) {
                self.echo_erased(c, &rest, what == Erasure::Character, fx);
            }
            if what == Erasure::Character {
                break;
            }
        }
        if self.edit_len() == 0 && self.t.l(libc::ECHO) {
            self.finish_erasing(fx);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Erasure {
    Character,
    Word,
    Line,
}

/// The small letter of a Latin-1 capital: IUCLC knows no other alphabet.
fn lower(c: u8) -> u8 {
    if c.is_ascii_uppercase() || ((0xc0..=0xde).contains(&c) && c != 0xd7) { c + 0x20 } else { c }
}

/// Letters (of Latin-1, which covers the first bytes of UTF-8 characters), digits, underscore: what
/// VWERASE takes for a word.
fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || (c >= 0xc0 && c != 0xd7 && c != 0xf7)
}
