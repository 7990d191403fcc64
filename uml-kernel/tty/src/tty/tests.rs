use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;

use uml_abi::errno::*;
use uml_core::file::{File, FileOps};
use uml_core::io::{BufSink, BufSource};
use uml_core::signal::{SIG_IGN, SigHand, bit};
use uml_core::task::process::Process;
use uml_core::task::rlimit::Rlimits;
use uml_core::task::{Cred, FsContext, RunState, Task, TaskInit, Terminals};
use uml_core::vfs::MountNs;
use uml_core::vfs::anon::{self, AnonKind};

use super::*;
use crate::file::TtyFile;
use crate::pty::{NoPeer, PtyLine, PtyMaster, new_pair};

pub(crate) struct Machine {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) sessions: Arc<Sessions>,
}

pub(crate) fn machine() -> Machine {
    let kernel = Kernel::new(64 << 20, 2);
    let sessions = Sessions::new(&kernel);
    kernel.set_terminals(sessions.clone());
    Machine { kernel, sessions }
}

impl Machine {
    /// A process in `pgrp` and `session` (0: its own).
    pub(crate) fn task(&self, parent: i32, pgrp: i32, session: i32) -> Arc<Task> {
        static NEXT: AtomicI32 = AtomicI32::new(100);
        let pid = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = |id: i32| if id == 0 { pid } else { id };
        let process = Process::new(pid, SigHand::default(), Rlimits::initial(1024), libc::SIGCHLD);
        let cred = Arc::new(Cred::root());
        let root = anon::path(AnonKind::Other("[root]"), &cred);
        let task = Task::new(
            &self.kernel,
            TaskInit {
                tid: pid,
                process,
                comm: [0; 16],
                cred,
                mm: None,
                files: Default::default(),
                fs: Arc::new(FsContext::new(root.clone(), MountNs::new(1, root.mnt))),
                blocked: 0,
            },
        );
        self.kernel.tree.write().add_process(&task, parent, own(pgrp), own(session));
        task
    }

    fn open(&self, tty: &Arc<Tty>, task: &Task) -> Arc<File> {
        let opening = tty.open(task, false, true).expect("the terminal opens");
        file(Box::new(TtyFile::new(tty.clone(), opening)), task)
    }

    /// A pair with the slave unlocked, and the master's file.
    fn pty(&self, task: &Task) -> (Arc<Tty>, Arc<File>) {
        let (tty, line) = new_pair(0, &self.sessions);
        (tty.clone(), master(tty, line, task))
    }

    /// A session leader whose controlling terminal is the pair's slave, held open.
    fn session(&self) -> (Arc<Task>, Arc<Tty>, Arc<File>, Arc<File>) {
        let leader = self.task(0, 0, 0);
        let (tty, m) = self.pty(&leader);
        let slave = self.open(&tty, &leader);
        (leader, tty, m, slave)
    }
}

fn master(tty: Arc<Tty>, line: Arc<PtyLine>, task: &Task) -> Arc<File> {
    let m = PtyMaster::new(tty, line, Box::new(NoPeer), 0);
    m.set_locked(false);
    file(Box::new(m), task)
}

fn file(ops: Box<dyn FileOps>, task: &Task) -> Arc<File> {
    let path = anon::path(AnonKind::Other("tty"), &task.cred());
    File::new(ops, path, libc::O_RDWR as u32, task.cred())
}

pub(crate) fn read(task: &Task, f: &File, n: usize) -> Result<String> {
    let mut buf = vec![0; n];
    let got = f.read(task, &mut BufSink::new(&mut buf))?;
    Ok(String::from_utf8_lossy(&buf[..got]).into_owned())
}

pub(crate) fn write(task: &Task, f: &File, data: &str) -> Result<usize> {
    f.write(task, &mut BufSource::new(data.as_bytes()))
}

fn nonblocking(f: &File) {
    f.set_flags(libc::O_NONBLOCK as u32).expect("flags");
}

/// Runs `f` on a thread and returns once the task sleeps (or `f` is done).
fn start<T: Send + 'static>(
    task: &Arc<Task>,
    f: impl FnOnce(&Task) -> T + Send + 'static,
) -> JoinHandle<T> {
    let t = task.clone();
    let h = std::thread::spawn(move || f(&t));
    while !h.is_finished() && task.run_state() == RunState::Running {
        std::thread::yield_now();
    }
    h
}

fn pending(task: &Task, signo: i32) -> bool {
    task.pending_set() & bit(signo) != 0
}

fn change(tty: &Tty, task: &Task, f: impl Fn(&mut Termios)) {
    tty.set_termios(task, None, When::Now, |t| {
        let mut t = *t;
        f(&mut t);
        t
    })
    .expect("settings");
}

fn raw(tty: &Tty, task: &Task, vmin: u8, vtime: u8) {
    change(tty, task, |t| {
        t.iflag = 0;
        t.oflag = 0;
        t.lflag = 0;
        t.cc[libc::VMIN] = vmin;
        t.cc[libc::VTIME] = vtime;
    });
}

#[test]
fn a_line_goes_through_a_pair_in_both_directions() {
    let m = machine();
    let (task, _tty, master, slave) = m.session();
    assert_eq!(write(&task, &master, "ls\r"), Ok(3));
    assert_eq!(read(&task, &slave, 100).as_deref(), Ok("ls\n"));
    assert_eq!(write(&task, &slave, "a\nb\n"), Ok(4));
    assert_eq!(read(&task, &master, 100).as_deref(), Ok("ls\r\na\r\nb\r\n"));
    nonblocking(&master);
    assert_eq!(read(&task, &master, 100), Err(EAGAIN));
}

#[test]
fn a_blocked_reader_gets_the_line_when_it_is_typed() {
    let m = machine();
    let (task, _tty, master, slave) = m.session();
    let reader = start(&task, move |t| read(t, &slave, 100));
    assert_eq!(task.run_state(), RunState::Sleeping);
    let other = m.task(0, 0, 0);
    write(&other, &master, "hel").expect("write");
    write(&other, &master, "lo\n").expect("write");
    assert_eq!(reader.join().expect("reader").as_deref(), Ok("hello\n"));
}

#[test]
fn nothing_is_lost_when_the_reader_is_slow() {
    let m = machine();
    let (task, tty, master, slave) = m.session();
    raw(&tty, &task, 1, 0);
    let writer_task = m.task(0, 0, 0);
    let data: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let copy = data.clone();
    let m2 = master.clone();
    let writer = start(&writer_task, move |t| m2.write(t, &mut BufSource::new(&copy)));
    let mut got = Vec::new();
    while got.len() < data.len() {
        let mut buf = [0; 777];
        let n = slave.read(&task, &mut BufSink::new(&mut buf)).expect("read");
        got.extend_from_slice(&buf[..n]);
    }
    assert_eq!(writer.join().expect("writer"), Ok(data.len()));
    assert!(got == data);
}

#[test]
fn a_flood_of_output_waits_for_the_master() {
    let m = machine();
    let (task, _tty, master, slave) = m.session();
    let text = "yes\n".repeat(100_000);
    let want = text.replace('\n', "\r\n");
    let writer = start(&task, move |t| write(t, &slave, &text).map(|n| (n, slave)));
    assert_eq!(task.run_state(), RunState::Sleeping);
    let other = m.task(0, 0, 0);
    let mut got = String::new();
    while got.len() < want.len() {
        got.push_str(&read(&other, &master, 5000).expect("read"));
    }
    assert_eq!(writer.join().expect("writer").map(|w| w.0), Ok(400_000));
    assert!(got == want);
}

#[test]
fn vmin_and_vtime() {
    let m = machine();
    let (task, tty, master, slave) = m.session();
    // MIN 0, TIME 0: never waits, not even with O_NONBLOCK's EAGAIN.
    raw(&tty, &task, 0, 0);
    assert_eq!(read(&task, &slave, 10).as_deref(), Ok(""));
    nonblocking(&slave);
    assert_eq!(read(&task, &slave, 10).as_deref(), Ok(""));
    // MIN 3, TIME 0: waits for three bytes, or for as many as were asked for.
    raw(&tty, &task, 3, 0);
    assert_eq!(read(&task, &slave, 10), Err(EAGAIN));
    slave.set_flags(0).expect("flags");
    write(&task, &master, "ab").expect("write");
    assert_eq!(read(&task, &slave, 2).as_deref(), Ok("ab"));
    let s = slave.clone();
    let reader = start(&task, move |t| read(t, &s, 10));
    let other = m.task(0, 0, 0);
    write(&other, &master, "ab").expect("write");
    write(&other, &master, "c").expect("write");
    assert_eq!(reader.join().expect("reader").as_deref(), Ok("abc"));
    // MIN 0, TIME 1: gives up after a tenth of a second.
    raw(&tty, &task, 0, 1);
    assert_eq!(read(&task, &slave, 10).as_deref(), Ok(""));
    // MIN 5, TIME 1: the timer starts with the first byte.
    raw(&tty, &task, 5, 1);
    let s = slave.clone();
    let reader = start(&task, move |t| read(t, &s, 10));
    assert_eq!(task.run_state(), RunState::Sleeping);
    write(&other, &master, "xy").expect("write");
    assert_eq!(reader.join().expect("reader").as_deref(), Ok("xy"));
}

#[test]
fn the_first_terminal_a_leader_opens_becomes_its_own() {
    let m = machine();
    let (leader, tty, _master, _slave) = m.session();
    assert_eq!((tty.session(), tty.foreground()), (leader.tid, leader.tid));
    assert!(m.sessions.terminal_of(&leader).is_some_and(|t| Arc::ptr_eq(&t, &tty)));
    assert_eq!(m.sessions.controlling(&leader), Some((Dev::new(136, 0), leader.tid)));
    // Neither a second terminal, nor one opened by somebody who leads no session.
    let (second, _m2) = m.pty(&leader);
    let _f = m.open(&second, &leader);
    let child = m.task(leader.tid, 0, leader.tid);
    let _g = m.open(&second, &child);
    assert_eq!(second.session(), 0);
    assert_eq!(m.sessions.acquire(&child, &second, false, true), Err(EPERM));
    // Another session may not have it, except by force.
    let rival = m.task(0, 0, 0);
    assert_eq!(m.sessions.acquire(&rival, &tty, false, true), Err(EPERM));
    assert_eq!(m.sessions.acquire(&rival, &tty, true, true), Ok(()));
    assert!(m.sessions.terminal_of(&leader).is_none());
}

#[test]
fn keyboard_signals_reach_the_foreground_group_only() {
    let m = machine();
    let (leader, tty, master, _slave) = m.session();
    let front = m.task(leader.tid, 0, leader.tid);
    let back = m.task(leader.tid, 0, leader.tid);
    assert_eq!(tty.set_foreground(&leader, front.tid), Ok(()));
    write(&leader, &master, "\x1a").expect("write");
    assert!(pending(&front, libc::SIGTSTP));
    assert!(!pending(&back, libc::SIGTSTP) && !pending(&leader, libc::SIGTSTP));
}

#[test]
fn background_readers_are_stopped_or_refused() {
    let m = machine();
    let (leader, tty, _master, slave) = m.session();
    let job = m.task(leader.tid, 0, leader.tid);
    assert_eq!(read(&job, &slave, 10), Err(EINTR));
    assert!(pending(&job, libc::SIGTTIN));
    assert_eq!(job.restart.get(), uml_core::signal::Restart::Sys);
    // Ignoring the signal: EIO.
    let deaf = m.task(leader.tid, 0, leader.tid);
    deaf.process.sighand.lock().actions.lock()[libc::SIGTTIN as usize - 1].handler = SIG_IGN;
    assert_eq!(read(&deaf, &slave, 10), Err(EIO));
    // A group without a parent in the session cannot be continued by anybody.
    let orphan = m.task(0, 0, leader.tid);
    assert_eq!(read(&orphan, &slave, 10), Err(EIO));
    // Writing is free until TOSTOP; then ignoring SIGTTOU allows it.
    assert_eq!(write(&job, &slave, "x"), Ok(1));
    change(&tty, &leader, |t| t.lflag |= libc::TOSTOP);
    let job = m.task(leader.tid, 0, leader.tid);
    assert_eq!(write(&job, &slave, "x"), Err(EINTR));
    assert!(pending(&job, libc::SIGTTOU));
    let deaf = m.task(leader.tid, 0, leader.tid);
    deaf.set_blocked(bit(libc::SIGTTOU));
    assert_eq!(write(&deaf, &slave, "x"), Ok(1));
}

#[test]
fn foreground_changes_are_checked() {
    let m = machine();
    let (leader, tty, _master, _slave) = m.session();
    let job = m.task(leader.tid, 0, leader.tid);
    let stranger = m.task(0, 0, 0);
    assert_eq!(tty.set_foreground(&leader, stranger.tid), Err(EPERM));
    assert_eq!(tty.set_foreground(&leader, 31_000), Err(ESRCH));
    assert_eq!(tty.set_foreground(&leader, -1), Err(EINVAL));
    assert_eq!(tty.set_foreground(&stranger, job.tid), Err(ENOTTY));
    assert_eq!(tty.set_foreground(&leader, job.tid), Ok(()));
    // Now the shell is in the background.
    assert_eq!(tty.set_foreground(&leader, leader.tid), Err(ENOTTY));
    leader.set_blocked(bit(libc::SIGTTOU));
    assert_eq!(tty.set_foreground(&leader, leader.tid), Ok(()));
}

#[test]
fn closing_the_master_hangs_the_slave_up() {
    let m = machine();
    let (leader, tty, master, slave) = m.session();
    // SIGHUP is blocked so that it stays pending and the read is not what ends the task.
    leader.set_blocked(bit(libc::SIGHUP) | bit(libc::SIGCONT));
    let s = slave.clone();
    let reader = start(&leader, move |t| read(t, &s, 10));
    drop(master);
    let got = reader.join().expect("reader");
    assert!(got == Ok(String::new()) || got == Err(EIO), "{got:?}");
    assert!(pending(&leader, libc::SIGHUP));
    assert_eq!(read(&leader, &slave, 10).as_deref(), Ok(""));
    assert_eq!(write(&leader, &slave, "x"), Err(EIO));
    assert!(slave.ops.poll(None).contains(Events::HUP));
    assert_eq!(tty.open(&leader, false, true).err(), Some(EIO));
    assert_eq!(tty.session(), 0);
    assert!(m.sessions.terminal_of(&leader).is_none());
}

#[test]
fn the_master_sees_the_last_close_of_the_slave() {
    let m = machine();
    let (task, tty, master, slave) = m.session();
    nonblocking(&master);
    write(&task, &slave, "bye").expect("write");
    drop(slave);
    assert!(master.ops.poll(None).contains(Events::HUP | Events::READABLE));
    assert_eq!(read(&task, &master, 10).as_deref(), Ok("bye"));
    assert_eq!(read(&task, &master, 10), Err(EIO));
    let _again = m.open(&tty, &task);
    assert_eq!(read(&task, &master, 10), Err(EAGAIN));
}

#[test]
fn a_locked_or_exclusive_terminal_does_not_open() {
    let m = machine();
    let task = m.task(0, 0, 0);
    let (tty, _line) = new_pair(3, &m.sessions);
    assert_eq!(tty.open(&task, false, true).err(), Some(EIO));
    let (tty, _master) = m.pty(&task);
    let _f = m.open(&tty, &task);
    tty.set_exclusive(true);
    let user = m.task(0, 0, 0);
    user.set_cred(Arc::new(Cred { cap_effective: 0, ..Cred::root() }));
    assert_eq!(tty.open(&user, false, true).err(), Some(EBUSY));
    assert!(tty.open(&task, false, true).is_ok());
}

#[test]
fn the_leaders_exit_takes_the_terminal_away() {
    let m = machine();
    let (leader, tty, _master, _slave) = m.session();
    let job = m.task(leader.tid, 0, leader.tid);
    job.set_blocked(bit(libc::SIGHUP));
    tty.set_foreground(&leader, job.tid).expect("foreground");
    crate::session::on_exit_process(&leader);
    assert!(pending(&job, libc::SIGHUP));
    assert_eq!((tty.session(), tty.foreground()), (0, 0));
    assert!(m.sessions.terminal_of(&job).is_none());
}

#[test]
fn giving_the_terminal_up() {
    let m = machine();
    let (leader, tty, _master, _slave) = m.session();
    let job = m.task(leader.tid, leader.tid, leader.tid);
    assert_eq!(m.sessions.disown(&job, &tty), Ok(()));
    assert!(m.sessions.terminal_of(&job).is_none());
    assert_eq!(m.sessions.disown(&job, &tty), Err(ENOTTY));
    assert!(m.sessions.terminal_of(&leader).is_some());
    job.set_blocked(bit(libc::SIGHUP));
    assert_eq!(m.sessions.disown(&leader, &tty), Ok(()));
    assert!(m.sessions.terminal_of(&leader).is_none());
    assert!(pending(&job, libc::SIGHUP));
}

#[test]
fn window_size_changes_are_signalled_once() {
    let m = machine();
    let (leader, tty, _master, _slave) = m.session();
    leader.process.sighand.lock().actions.lock()[libc::SIGWINCH as usize - 1].handler = 0x1000;
    let size = WinSize { rows: 24, cols: 80, ..WinSize::default() };
    tty.set_winsize(size);
    assert!(pending(&leader, libc::SIGWINCH));
    leader.dequeue_signal(bit(libc::SIGWINCH));
    tty.set_winsize(size);
    assert!(!pending(&leader, libc::SIGWINCH));
    assert_eq!(tty.winsize(), size);
}

#[test]
fn flow_control_stops_the_writers() {
    let m = machine();
    let (task, tty, master, slave) = m.session();
    nonblocking(&master);
    nonblocking(&slave);
    write(&task, &master, "\x13").expect("write");
    assert_eq!(write(&task, &slave, "held"), Err(EAGAIN));
    assert_eq!(read(&task, &master, 10), Err(EAGAIN));
    assert!(!master.ops.poll(None).intersects(Events::READABLE));
    write(&task, &master, "\x11").expect("write");
    write(&task, &slave, "held").expect("write");
    assert_eq!(read(&task, &master, 10).as_deref(), Ok("held"));
    tty.flow(FlowAction::OutputOff);
    assert_eq!(write(&task, &slave, "x"), Err(EAGAIN));
    assert_eq!(read(&task, &master, 10), Err(EAGAIN));
    tty.flow(FlowAction::OutputOn);
    write(&task, &slave, "x").expect("write");
    assert_eq!(read(&task, &master, 10).as_deref(), Ok("x"));
}

#[test]
fn packet_mode_tells_what_happened() {
    let m = machine();
    let (task, tty, master, slave) = m.session();
    nonblocking(&master);
    task.set_blocked(bit(libc::SIGINT));
    tty.state().lock().packet = true;
    write(&task, &slave, "hi").expect("write");
    assert_eq!(read(&task, &master, 10).as_deref(), Ok("\0hi"));
    write(&task, &master, "\x13").expect("write");
    assert!(master.ops.poll(None).contains(Events::PRI));
    assert_eq!(read(&task, &master, 10).as_deref(), Ok("\x04"));
    write(&task, &master, "\x11").expect("write");
    assert_eq!(read(&task, &master, 10).as_deref(), Ok("\x08"));
    write(&task, &master, "\x03").expect("write");
    assert_eq!(read(&task, &master, 10).as_deref(), Ok("\x03"));
    assert_eq!(read(&task, &master, 10).as_deref(), Ok("\0^C"));
    change(&tty, &task, |t| t.iflag &= !libc::IXON);
    assert_eq!(read(&task, &master, 10).as_deref(), Ok("\x10"));
}

#[test]
fn an_interrupt_discards_what_was_typed_and_printed() {
    let m = machine();
    let (task, _tty, master, slave) = m.session();
    task.set_blocked(bit(libc::SIGINT));
    nonblocking(&master);
    nonblocking(&slave);
    write(&task, &slave, "lots of output").expect("write");
    write(&task, &master, "half a li\x03").expect("write");
    // What the master received before is not taken back, as on a pty of the host.
    assert_eq!(read(&task, &master, 100).as_deref(), Ok("lots of output^C"));
    assert_eq!(read(&task, &slave, 100), Err(EAGAIN));
    assert!(pending(&task, libc::SIGINT));
}

#[test]
fn locked_settings_stay() {
    let m = machine();
    let (task, tty, _master, _slave) = m.session();
    let mut mask = RawTermios { iflag: 0, oflag: 0, cflag: 0, lflag: 0, line: 0, cc: [0; 19] };
    mask.lflag = libc::ECHO;
    mask.cc[libc::VINTR] = 1;
    tty.lock_termios(&task, mask).expect("root may");
    raw(&tty, &task, 1, 0);
    change(&tty, &task, |t| t.cc[libc::VINTR] = b'x');
    assert_eq!(tty.termios().lflag, libc::ECHO);
    assert_eq!(tty.termios().cc[libc::VINTR], 3);
}

#[test]
fn signals_interrupt_a_read() {
    let m = machine();
    let (task, _tty, _master, slave) = m.session();
    let reader = start(&task, move |t| read(t, &slave, 10));
    assert_eq!(task.run_state(), RunState::Sleeping);
    uml_core::signal::send_to_task(&task, SigInfo::kernel(libc::SIGUSR1), false);
    assert_eq!(reader.join().expect("reader"), Err(EINTR));
}

/// Not a test of correctness: prints throughput. `cargo test --release -p uml-tty throughput -- --ignored --nocapture`
#[test]
#[ignore = "prints a figure"]
fn throughput() {
    let m = machine();
    let (task, _tty, master, slave) = m.session();
    let text = "a line of ordinary output, as programs print it by the thousand\n".repeat(1 << 20);
    let total = text.len();
    let start_time = std::time::Instant::now();
    let writer = start(&task, move |t| write(t, &slave, &text).map(|n| (n, slave)));
    let other = m.task(0, 0, 0);
    let mut got = 0;
    let mut buf = vec![0; 65536];
    while got < total {
        got += master.read(&other, &mut BufSink::new(&mut buf)).expect("read");
    }
    let mb = total as f64 / 1e6 / start_time.elapsed().as_secs_f64();
    println!("slave to master: {mb:.0} MB/s");
    drop(writer);
}

/// What Linux's init(8) relies on: its files of /dev/console live on when a session on the same terminal ends.
#[test]
fn files_of_the_console_outlive_a_hangup() {
    let m = machine();
    let init = m.task(0, 0, 0);
    let (tty, master) = m.pty(&init);
    let console = tty.open(&init, true, false).expect("opens");
    let console = file(Box::new(TtyFile::new(tty.clone(), console)), &init);
    let shell = m.task(0, 0, 0);
    let session = m.open(&tty, &shell);
    tty.hangup(true);
    let write = |task: &Task, f: &File, text: &[u8]| f.write(task, &mut BufSource::new(text));
    assert_eq!(write(&shell, &session, b"no"), Err(EIO));
    assert_eq!(write(&init, &console, b"still here"), Ok(10));
    assert_eq!(read(&init, &master, 20).expect("read"), "still here");
    assert_eq!(tty.open_count(), 1);
    drop((session, console));
    assert_eq!(tty.open_count(), 0);
}
