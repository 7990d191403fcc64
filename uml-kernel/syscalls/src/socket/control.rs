//! Ancillary data on its way to the program (cmsg(3)).

use std::sync::Arc;

use uml_abi::Result;
use uml_core::file::File;
use uml_core::task::Task;
use uml_core::user;
use uml_ipc::socket::Control;
use uml_ipc::socket::message::CMSG_HEADER;

const SCM_PIDFD: i32 = 4;
const ALIGN: u64 = 8;

/// A place in the program's control buffer.
struct Cursor<'a> {
    task: &'a Task,
    at: u64,
    left: u64,
    used: u64,
    truncated: bool,
}

impl Cursor<'_> {
    fn put(&mut self, level: i32, kind: i32, data: &[u8]) -> Result<()> {
        if self.left < CMSG_HEADER as u64 {
            self.truncated = true;
            return Ok(());
        }
        let fits = data.len().min(self.left as usize - CMSG_HEADER);
        self.truncated |= fits < data.len();
        let len = CMSG_HEADER + fits;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&(len as u64).to_le_bytes());
        bytes.extend_from_slice(&level.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&data[..fits]);
        user::write_bytes(self.task, self.at, &bytes)?;
        let step = (len as u64).next_multiple_of(ALIGN).min(self.left);
        self.at = self.at.wrapping_add(step);
        self.left -= step;
        self.used += step;
        Ok(())
    }

    /// Installs as many files as there is room for; the others are dropped, and reported as
    /// truncated.
    fn put_files(&mut self, kind: i32, files: Vec<Arc<File>>, cloexec: bool) -> Result<()> {
        let room = self.left.saturating_sub(CMSG_HEADER as u64) / 4;
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let total = files.len();
        let mut fds = Vec::new();
        for f in files.into_iter().take(room) {
            match self.task.install_fd(f, cloexec) {
                Ok(fd) => fds.extend_from_slice(&fd.to_le_bytes()),
                // Out of descriptors: what was installed is delivered.
                Err(_) => break,
            }
        }
        self.truncated |= fds.len() / 4 < total;
        if fds.is_empty() { Ok(()) } else { self.put(libc::SOL_SOCKET, kind, &fds) }
    }
}

/// Writes the items to `at`, where `room` bytes are free; returns the bytes used and whether something did
/// not fit.
pub(super) fn write(
    task: &Task,
    at: u64,
    room: u64,
    items: Vec<Control>,
    cloexec: bool,
) -> Result<(u64, bool)> {
    let mut c = Cursor { task, at, left: room, used: 0, truncated: false };
    for item in items {
        match item {
            Control::Bytes { level, kind, data } => c.put(level, kind, &data)?,
            Control::Rights(files) => c.put_files(libc::SCM_RIGHTS, files, cloexec)?,
            // A pidfd is always close-on-exec (pidfd_open(2)).
            Control::Pidfd(file) => c.put_files(SCM_PIDFD, vec![file], true)?,
        }
    }
    Ok((c.used, c.truncated))
}
