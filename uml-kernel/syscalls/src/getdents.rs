//! getdents(2), getdents64(2).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::file::DirEmit;
use uml_core::user;

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(78, "getdents", getdents(Fd, Out, Size)),
    call!(217, "getdents64", getdents64(Fd, Out, Size)),
];

/// Most bytes collected before they are copied to the guest.
const MAX: usize = 256 << 10;

/// Builds the records of one call.
struct Records {
    out: Vec<u8>,
    room: usize,
    old: bool,
    /// An entry did not fit.
    full: bool,
}

impl DirEmit for Records {
    fn emit(&mut self, name: &[u8], ino: u64, kind: u8, next: u64) -> bool {
        // `struct linux_dirent64`: ino, off, reclen, type, name, NUL; the old one has the type in its last
        // byte instead.
        let len = (8 + 8 + 2 + 1 + name.len() + 1).next_multiple_of(8);
        if self.out.len() + len > self.room || len > usize::from(u16::MAX) {
            self.full = true;
            return false;
        }
        let start = self.out.len();
        self.out.extend_from_slice(&ino.to_ne_bytes());
        self.out.extend_from_slice(&next.to_ne_bytes());
        self.out.extend_from_slice(&(len as u16).to_ne_bytes());
        if !self.old {
            self.out.push(kind);
        }
        self.out.extend_from_slice(name);
        self.out.resize(start + len, 0);
        if self.old {
            self.out[start + len - 1] = kind;
        }
        true
    }
}

fn list(cx: &mut Ctx<'_>, fd: i32, buf: u64, size: usize, old: bool) -> Result<u64> {
    let task = &cx.task;
    let file = task.file(fd)?;
    // A count is an int inside: a negative one holds nothing.
    let room = usize::try_from(size as i32).unwrap_or(0).min(MAX);
    let start = file.pos();
    let mut r = Records { out: Vec::new(), room, old, full: false };
    let result = file.readdir(task, &mut r);
    if r.out.is_empty() {
        // An error after some entries is the next call's.
        result?;
        return if r.full { Err(EINVAL) } else { Ok(0) };
    }
    if let Err(e) = user::write_bytes(task, buf, &r.out) {
        file.with_pos(|p| *p = start);
        return Err(e);
    }
    Ok(r.out.len() as u64)
}

fn getdents64(cx: &mut Ctx<'_>, fd: i32, buf: u64, size: usize) -> Result<u64> {
    list(cx, fd, buf, size, false)
}

fn getdents(cx: &mut Ctx<'_>, fd: i32, buf: u64, size: usize) -> Result<u64> {
    list(cx, fd, buf, size, true)
}
