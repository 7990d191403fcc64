//! The terminal of a program that is run through the door: a pair of the guest's own devpts.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::File;
use uml_core::io::{BufSink, BufSource};
use uml_core::task::Task;
use uml_core::vfs::{self, DirFd, OpenHow};
use uml_formats::door::Frame;
use uml_tty::pty::PtyMaster;
use uml_tty::termios::WinSize;

/// Bytes read at a time.
const STEP: usize = 16 << 10;

/// Both sides' state.
pub struct Terminal {
    master: Arc<File>,
    /// Reads the master; told to end when the program ended.
    reader: Arc<Task>,
    /// Writes to it.
    writer: Arc<Task>,
    /// The program ended.
    over: AtomicBool,
}

impl Terminal {
    /// Makes a pair, and its slave the standard streams and controlling terminal of `task`, a session leader.
    pub fn open(task: &Arc<Task>, rows: u16, cols: u16) -> Result<Terminal> {
        let kernel = task.kernel();
        let how = |flags| OpenHow::new(flags, 0);
        let ptmx = how(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        let master = vfs::open(task, &DirFd::Cwd, b"/dev/ptmx", &ptmx)?;
        let m = master.downcast::<PtyMaster>().ok_or(ENODEV)?;
        m.set_locked(false);
        m.slave().set_winsize(WinSize { rows, cols, ..WinSize::default() });
        let slave = vfs::open(task, &DirFd::Cwd, m.path().as_bytes(), &how(libc::O_RDWR))?;
        for _ in 0..3 {
            task.install_fd(slave.clone(), false)?;
        }
        let fs = || task.fs().duplicate();
        let (reader, writer) =
            (Task::of_kernel(&kernel, "door", fs()), Task::of_kernel(&kernel, "door", fs()));
        Ok(Terminal { master, reader, writer, over: AtomicBool::new(false) })
    }

    /// Starts to send what is printed to the caller.
    pub fn print(self: &Arc<Terminal>, stream: &UnixStream) -> io::Result<JoinHandle<()>> {
        let mut stream = stream.try_clone()?;
        let me = self.clone();
        std::thread::Builder::new().name("door".into()).spawn(move || {
            let mut buf = vec![0; STEP];
            loop {
                let mut io = me.master.io(&me.reader);
                // What is there when the program ends is still sent.
                io.nonblock = me.over.load(Ordering::SeqCst);
                let mut sink = BufSink::new(&mut buf);
                let n = match me.master.read_io(&io, &mut sink) {
                    Ok(0) => return,
                    Ok(n) => n,
                    Err(EINTR) if !io.nonblock => continue,
                    Err(_) => return,
                };
                let frame = Frame::Data(buf.get(..n).unwrap_or_default().to_vec());
                let mut sent = Ok(());
                me.reader.kernel().blocking(&mut || sent = stream.write_all(&frame.encode()));
                if sent.is_err() {
                    return;
                }
            }
        })
    }

    /// The caller typed.
    pub fn type_in(&self, bytes: &[u8]) {
        // A program that does not read holds up its caller only.
        let _ = self.master.write(&self.writer, &mut BufSource::new(bytes));
    }

    /// The caller's window changed.
    pub fn resize(&self, rows: u16, cols: u16) {
        if let Some(m) = self.master.downcast::<PtyMaster>() {
            m.slave().set_winsize(WinSize { rows, cols, ..WinSize::default() });
        }
    }

    /// The program ended: nothing waits any more.
    pub fn finish(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.reader.notice();
        self.writer.notice();
    }
}
