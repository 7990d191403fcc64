//! Output processing (termios(3), `c_oflag`).

use super::LineDiscipline;

/// Most bytes one character becomes (a tab as spaces).
const MAX_EXPANSION: usize = 8;

impl LineDiscipline {
    /// Processes output of a program: appends to `out`, by at most `room` bytes, what the
    /// terminal gets, and returns how many bytes of `src` that covers.
    pub fn output(&mut self, src: &[u8], room: usize, out: &mut Vec<u8>) -> usize {
        if !self.t.o(libc::OPOST) {
            let n = src.len().min(room);
            out.extend_from_slice(&src[..n]);
            return n;
        }
        let limit = out.len().saturating_add(room);
        let mut done = 0;
        while done < src.len() && out.len() < limit {
            let rest = &src[done..];
            let plain = rest.iter().position(|c| !self.is_plain(*c)).unwrap_or(rest.len());
            let plain = plain.min(limit - out.len());
            if plain > 0 {
                out.extend_from_slice(&rest[..plain]);
                self.column = self.column.saturating_add(plain as u32);
                done += plain;
                continue;
            }
            let (column, canon) = (self.column, self.canon_column);
            let mut bytes = [0; MAX_EXPANSION];
            let n = self.expand(rest[0], &mut bytes);
            if n > limit - out.len() {
                (self.column, self.canon_column) = (column, canon);
                break;
            }
            out.extend_from_slice(&bytes[..n]);
            done += 1;
        }
        done
    }

    /// Characters that occupy one column and are never changed.
    fn is_plain(&self, c: u8) -> bool {
        (0x20..0x7f).contains(&c) && (!self.t.o(libc::OLCUC) || !c.is_ascii_lowercase())
    }

    /// What `c` becomes on the terminal; keeps track of the column.
    pub(super) fn expand(&mut self, c: u8, out: &mut [u8; MAX_EXPANSION]) -> usize {
        if !self.t.o(libc::OPOST) {
            out[0] = c;
            return 1;
        }
        out[0] = c;
        match c {
            b'\n' => {
                if self.t.oflag & (libc::ONLRET | libc::ONLCR) != 0 {
                    self.column = 0;
                }
                self.canon_column = self.column;
                if self.t.o(libc::ONLCR) {
                    out[..2].copy_from_slice(b"\r\n");
                    return 2;
                }
            }
            b'\r' => {
                if self.t.o(libc::ONOCR) && self.column == 0 {
                    return 0;
                }
                if self.t.o(libc::OCRNL) {
                    out[0] = b'\n';
                    if !self.t.o(libc::ONLRET) {
                        return 1;
                    }
                }
                self.column = 0;
                self.canon_column = 0;
            }
            b'\t' => {
                let width = 8 - (self.column & 7);
                self.column = self.column.saturating_add(width);
                if self.t.oflag & libc::TABDLY == libc::XTABS {
                    out[..width as usize].fill(b' ');
                    return width as usize;
                }
            }
            0x08 => self.column = self.column.saturating_sub(1),
            _ if is_control(c) => {}
            _ => {
                if self.t.o(libc::OLCUC) {
                    out[0] = upper(c);
                }
                if !self.is_continuation(c) {
                    self.column = self.column.saturating_add(1);
                }
            }
        }
        1
    }

    /// A byte inside a UTF-8 character, which takes no column of its own (IUTF8).
    pub(super) fn is_continuation(&self, c: u8) -> bool {
        self.t.i(libc::IUTF8) && c & 0xc0 == 0x80
    }
}

/// The capital of a Latin-1 small letter, for OLCUC; as in Linux also for the two that have none.
fn upper(c: u8) -> u8 {
    if c.is_ascii_lowercase() || (c >= 0xdf && c != 0xf7) { c - 0x20 } else { c }
}

/// Control characters of ASCII.
pub(super) fn is_control(c: u8) -> bool {
    c.is_ascii_control()
}
