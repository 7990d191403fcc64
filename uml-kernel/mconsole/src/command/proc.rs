//! `proc FILE`: a file of /proc, whether or not the guest has it mounted.

use std::sync::Arc;

use uml_abi::Result;
use uml_base::pr_err;
use uml_core::io::BufSink;
use uml_core::task::{FsContext, Task};
use uml_core::vfs::{self, DirFd, MountNs, OpenHow, walk};
use uml_formats::mconsole::argument;

use crate::server::{Client, Server};

/// Bytes read at a time; one such chunk is one text of the answer.
const CHUNK: usize = 4095;
/// Where an answer ends with an error: a file as long as this is no text (/proc/<pid>/pagemap).
const LIMIT: usize = 64 << 20;

pub fn run(rest: &[u8], client: &Client<'_>) {
    let path = argument(rest);
    let Ok(reader) = reader(client.server()) else {
        return client.fail("Proc not available");
    };
    // Nothing here may wait for the guest: no FIFO's other end, no terminal, no way out of /proc.
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let how = OpenHow { resolve: walk::NO_MAGICLINKS, ..OpenHow::new(flags, 0) };
    let file = match vfs::open(&reader, &DirFd::Cwd, &for_init(path), &how) {
        Ok(f) => f,
        Err(e) => {
            pr_err!("open /proc/{}: {}", String::from_utf8_lossy(path), -e.raw());
            return client.fail("Failed to open file");
        }
    };
    // A reader of the log takes records away from the guest's. `sysrq R` shows them all and takes none.
    if for_init(path) == b"kmsg" {
        return client.fail("Read of file failed");
    }
    let mut buf = [0; CHUNK];
    let mut done = 0;
    let mut first = true;
    loop {
        let mut sink = BufSink::new(&mut buf);
        let n = match file.read(&reader, &mut sink) {
            Ok(n) if done + n <= LIMIT => n.min(CHUNK),
            _ => return client.fail("Read of file failed"),
        };
        if std::mem::take(&mut first) {
            client.reply(0, b"\n", true);
        }
        if n == 0 || !client.listens() {
            return client.ok("");
        }
        done += n;
        // The protocol's texts end at a NUL.
        let text = buf[..n].split(|b| *b == 0).next().unwrap_or_default();
        client.reply(0, text, true);
    }
}

/// A task of the kernel whose whole world is a /proc of its own.
fn reader(server: &Server) -> Result<Arc<Task>> {
    if let Some(task) = server.reader.get() {
        return Ok(task.clone());
    }
    let kernel = &server.parts.kernel;
    let sb = server.parts.proc.instance(kernel, b"")?;
    let mount = kernel.vfs.new_mount(sb, b"proc", 0);
    let ns = MountNs::new(0, mount.clone());
    let task = Task::of_kernel(kernel, "mconsole", FsContext::new(mount.root_path(), ns));
    Ok(server.reader.get_or_init(|| task).clone())
}

/// The console is no process: what /proc says of the reader is what it says of init.
fn for_init(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let end = path.iter().position(|b| *b == b'/').unwrap_or(path.len());
    let (first, rest) = path.split_at(end);
    let first: &[u8] = match first {
        b"self" => b"1",
        b"thread-self" => b"1/task/1",
        b"mounts" => b"1/mounts",
        b"net" => b"1/net",
        b"" => b".",
        other => other,
    };
    [first, rest].concat()
}

#[cfg(test)]
mod tests {
    use super::for_init;

    #[test]
    fn the_reader_is_init() {
        assert_eq!(for_init(b"self/status"), b"1/status");
        assert_eq!(for_init(b"/mounts"), b"1/mounts");
        assert_eq!(for_init(b"net/dev"), b"1/net/dev");
        assert_eq!(for_init(b"selfish"), b"selfish");
        assert_eq!(for_init(b""), b".");
        assert_eq!(for_init(b"cpuinfo\n"), b"cpuinfo\n");
    }
}
