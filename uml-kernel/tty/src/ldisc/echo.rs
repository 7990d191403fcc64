//! Echo of received characters and of their erasure (termios(3), ECHO*).

use super::output::is_control;
use super::{Effects, LineDiscipline};

impl LineDiscipline {
    /// Sends `c` to the terminal through output processing.
    pub(super) fn echo_raw(&mut self, c: u8, fx: &mut Effects) {
        // Linux echoes this byte past output processing, and always counts a column for it.
        if c == 0xff {
            fx.put(c);
            self.column = self.column.saturating_add(1);
            return;
        }
        let mut bytes = [0; 8];
        let n = self.expand(c, &mut bytes);
        for b in &bytes[..n] {
            fx.put(*b);
        }
    }

    /// Echoes `c`; with ECHOCTL a control character as `^X`.
    pub(super) fn echo_char(&mut self, c: u8, fx: &mut Effects) {
        if self.t.l(libc::ECHOCTL) && is_control(c) && c != b'\t' {
            fx.put(b'^');
            fx.put(c ^ 0x40);
            self.column = self.column.saturating_add(2);
        } else {
            self.echo_raw(c, fx);
        }
    }

    /// Notes where the echo of the edited line begins, when `c` is its first character.
    pub(super) fn mark_canon_column(&mut self) {
        if self.edit_len() == 0 {
            self.canon_column = self.column;
        }
    }

    /// Ends an ECHOPRT erasure.
    pub(super) fn finish_erasing(&mut self, fx: &mut Effects) {
        if std::mem::take(&mut self.erasing) {
            self.echo_raw(b'/', fx);
        }
    }

    /// Shows that the character beginning with `c`, whose further bytes are `rest`, was erased; it is
    /// no longer in the buffer.
    pub(super) fn echo_erased(&mut self, c: u8, rest: &[u8], by_erase: bool, fx: &mut Effects) {
        if self.t.l(libc::ECHOPRT) {
            if !self.erasing {
                self.echo_raw(b'\\', fx);
                self.erasing = true;
            }
            self.echo_char(c, fx);
            for b in rest {
                self.echo_raw(*b, fx);
                self.column = self.column.saturating_sub(1);
            }
        } else if by_erase && !self.t.l(libc::ECHOE) {
            self.echo_char(self.t.cc[libc::VERASE], fx);
        } else if c == b'\t' {
            self.echo_erased_tab(fx);
        } else {
            let columns = match (is_control(c), self.t.l(libc::ECHOCTL)) {
                (true, true) => 2,
                (true, false) => 0,
                (false, _) => 1,
            };
            for _ in 0..columns {
                for b in [0x08, b' ', 0x08] {
                    self.echo_raw(b, fx);
                }
            }
        }
    }

    /// Moves back over a tab: to the column that the characters before it reached.
    fn echo_erased_tab(&mut self, fx: &mut Effects) {
        let mut width = 0u32;
        let mut from_line_start = true;
        for i in (self.buf.len() - self.edit_len()..self.buf.len()).rev() {
            let Some(&c) = self.buf.get(i) else { break };
            if c == b'\t' {
                from_line_start = false;
                break;
            }
            width += match c {
                c if is_control(c) => 2 * u32::from(self.t.l(libc::ECHOCTL)),
                c => u32::from(!self.is_continuation(c)),
            };
        }
        if from_line_start {
            width = width.saturating_add(self.canon_column);
        }
        for _ in 0..8 - (width & 7) {
            fx.put(0x08);
            self.column = self.column.saturating_sub(1);
        }
    }

    /// VREPRINT: the edited line again, on a new line.
    pub(super) fn reprint(&mut self, c: u8, fx: &mut Effects) {
        self.finish_erasing(fx);
        self.echo_char(c, fx);
        self.echo_raw(b'\n', fx);
        for i in self.buf.len() - self.edit_len()..self.buf.len() {
            if let Some(&c) = self.buf.get(i) {
                self.echo_char(c, fx);
            }
        }
    }
}
