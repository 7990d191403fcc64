//! Pseudo-terminals (pty(7)): the master's side.

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, PollRegistrar, WaitQueue};
use uml_core::ctx::Ctx;
use uml_core::file::{File, FileOps, Io};
use uml_core::io::{Sink, Source};
use uml_core::task::Task;
use uml_core::user::{read_obj, write_obj};
use uml_core::vfs::Dev;

use crate::ioctl;
use crate::session::Sessions;
use crate::termios::Termios;
use crate::tty::{INCOMING_LIMIT, Line, PKT_FLUSHREAD, Tty};

/// Major number of Unix98 slaves.
pub const PTS_MAJOR: u32 = 136;

const TIOCPKT: u32 = 0x5420;
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCSIG: u32 = 0x4004_5436;
const TIOCGPKT: u32 = 0x8004_5438;
const TIOCGPTLCK: u32 = 0x8004_5439;
const TIOCGPTPEER: u32 = 0x5441;

/// The line of a slave: its device is the master.
pub struct PtyLine {
    /// Readers and writers of the master.
    read_wait: Arc<WaitQueue>,
    write_wait: Arc<WaitQueue>,
}

impl Line for PtyLine {
    fn is_pty(&self) -> bool {
        true
    }

    fn open(&self, _tty: &Arc<Tty>) -> Result<()> {
        Ok(())
    }

    fn close(&self, _tty: &Tty) {
        // The master now reads EIO.
        self.read_wait.wake_all(Events::ALL);
        self.write_wait.wake_all(Events::ALL);
    }

    fn output_ready(&self, _tty: &Tty) {
        self.read_wait.wake_all(Events::READABLE | Events::PRI);
    }

    fn input_room(&self, _tty: &Tty) {
        self.write_wait.wake_all(Events::WRITABLE);
    }
}

/// What opens the slave of a master by number (TIOCGPTPEER); devpts does.
pub trait PeerOpener: Send + Sync {
    /// Opens the slave as open(2) with `flags` would and installs the descriptor.
    fn open_peer(&self, task: &Task, flags: u32) -> Result<i32>;
    /// The master was closed: the slave's name disappears.
    fn master_closed(&self);
}

/// The open file of a master.
pub struct PtyMaster {
    tty: Arc<Tty>,
    line: Arc<PtyLine>,
    peer: Box<dyn PeerOpener>,
    index: u32,
}

/// A new pair `pts/<index>`: the slave, and what the master is made of. The slave stays locked until
/// TIOCSPTLCK (unlockpt(3)).
pub fn new_pair(index: u32, sessions: &Arc<Sessions>) -> (Arc<Tty>, Arc<PtyLine>) {
    let line =
        Arc::new(PtyLine { read_wait: WaitQueue::shared(), write_wait: WaitQueue::shared() });
    let name = format!("pts/{index}");
    let dev = Dev::new(PTS_MAJOR, index);
    let tty = Tty::new(&name, dev, line.clone(), Termios::pty(), sessions);
    tty.state().lock().pt_locked = true;
    (tty, line)
}

impl PtyMaster {
    /// The master of a pair.
    pub fn new(
        tty: Arc<Tty>,
        line: Arc<PtyLine>,
        peer: Box<dyn PeerOpener>,
        index: u32,
    ) -> PtyMaster {
        PtyMaster { tty, line, peer, index }
    }

    /// The slave.
    pub fn slave(&self) -> &Arc<Tty> {
        &self.tty
    }

    /// Name of the slave where devpts is usually mounted.
    pub fn path(&self) -> String {
        format!("/dev/pts/{}", self.index)
    }

    /// Unlocks or locks the slave (TIOCSPTLCK).
    pub fn set_locked(&self, locked: bool) {
        self.tty.state().lock().pt_locked = locked;
    }

    fn read_some(&self, max: usize) -> Result<Vec<u8>> {
        let packet = {
            let mut st = self.tty.state().lock();
            if st.packet && st.packet_status != 0 {
                return Ok(vec![std::mem::take(&mut st.packet_status)]);
            }
            st.packet
        };
        let head = usize::from(packet);
        let mut data = self.tty.take_output(max.saturating_sub(head));
        if data.is_empty() {
            // Everything was read and nobody can write more.
            let closed = self.tty.state().lock().slave_closed;
            return Err(if closed { EIO } else { EAGAIN });
        }
        if packet {
            data.insert(0, 0);
        }
        Ok(data)
    }

    fn set_packet(&self, on: bool) {
        let mut st = self.tty.state().lock();
        if on && !st.packet {
            st.packet_status = 0;
        }
        st.packet = on;
    }

    fn flush(&self, arg: u64) -> Result<u64> {
        // From the master, the slave's output is what is to be read, its input what was written.
        let (input, output) = ioctl::flush_sides(arg)?;
        if input {
            self.tty.flush_output();
        }
        if output {
            self.tty.flush_input();
            self.tty.state().lock().packet(PKT_FLUSHREAD);
        }
        Ok(0)
    }
}

impl Drop for PtyMaster {
    fn drop(&mut self) {
        self.tty.state().lock().gone = true;
        self.peer.master_closed();
        self.tty.hangup(false);
    }
}

impl FileOps for PtyMaster {
    fn read(&self, io: &Io<'_>, _off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let max = dst.remaining();
        if max == 0 {
            return Ok(0);
        }
        let data = io.task.retry(
            &self.line.read_wait,
            Events::IN,
            io.nonblock,
            None,
            "n_tty_read",
            || self.read_some(max),
        )?;
        dst.put(&data)
    }

    fn write(&self, io: &Io<'_>, _off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let mut total = 0;
        let mut chunk = [0; 4096];
        while src.remaining() > 0 {
            let n = match src.take(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if total == 0 => return Err(e),
                Err(_) => break,
            };
            let mut done = 0;
            while done < n {
                let taken = io.task.retry(
                    &self.line.write_wait,
                    Events::OUT,
                    io.nonblock,
                    None,
                    "n_tty_write",
                    || match self.tty.receive(&chunk[done..n]) {
                        0 => Err(EAGAIN),
                        m => Ok(m),
                    },
                );
                match taken {
                    Ok(m) => done += m,
                    Err(e) => {
                        src.untake(n - done);
                        total += done;
                        return if total > 0 { Ok(total) } else { Err(e) };
                    }
                }
            }
            total += n;
        }
        Ok(total)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(reg) = reg {
            reg.register(&self.line.read_wait);
            reg.register(&self.line.write_wait);
        }
        let st = self.tty.state().lock();
        let status = st.packet && st.packet_status != 0;
        let data = !st.output.is_empty() && !st.output_stopped();
        Events::READABLE.when(data || status)
            | Events::PRI.when(status)
            | Events::HUP.when(st.slave_closed)
            | Events::WRITABLE.when(st.incoming.len() < INCOMING_LIMIT / 2)
    }

    fn pollable(&self) -> bool {
        true
    }

    fn signals_owner(&self) -> bool {
        true
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, file: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        let task = &cx.task;
        match cmd {
            TIOCGPTN => write_obj(task, arg, &self.index).map(|()| 0),
            TIOCSPTLCK => {
                let locked: i32 = read_obj(task, arg)?;
                self.set_locked(locked != 0);
                Ok(0)
            }
            TIOCGPTLCK => {
                let locked = self.tty.state().lock().pt_locked;
                write_obj(task, arg, &i32::from(locked)).map(|()| 0)
            }
            TIOCPKT => {
                let on: i32 = read_obj(task, arg)?;
                self.set_packet(on != 0);
                Ok(0)
            }
            TIOCGPKT => {
                let on = self.tty.state().lock().packet;
                write_obj(task, arg, &i32::from(on)).map(|()| 0)
            }
            TIOCSIG => self.tty.keyboard_signal(arg as i32).map(|()| 0),
            TIOCGPTPEER => Ok(self.peer.open_peer(task, arg as u32)? as u64),
            ioctl::TCFLSH => self.flush(arg),
            ioctl::FIONREAD => ioctl::put_int(task, arg, self.tty.output_available()),
            ioctl::TIOCOUTQ => ioctl::put_int(task, arg, 0),
            ioctl::TIOCSCTTY => {
                let sessions = self.tty.sessions().ok_or(EIO)?;
                sessions.acquire(task, &self.tty, arg == 1, file.readable()).map(|()| 0)
            }
            ioctl::TIOCNOTTY => Err(ENOTTY),
            // What is written to a master is with the slave at once: tcdrain(3) has nothing to wait for.
            ioctl::TCSBRK | ioctl::TCSBRKP => Ok(0),
            _ => ioctl::common(task, &self.tty, None, cmd, arg),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A master whose slave nobody opens by name (tests, and internal consoles).
pub struct NoPeer;

impl PeerOpener for NoPeer {
    fn open_peer(&self, _task: &Task, _flags: u32) -> Result<i32> {
        Err(ENXIO)
    }

    fn master_closed(&self) {}
}
