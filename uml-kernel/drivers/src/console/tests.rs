use std::fs::{File as HostFile, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::File;
use uml_core::kernel::Kernel;
use uml_core::registry::NodeOpen;
use uml_core::task::{RunState, Task};
use uml_core::vfs::Dev;
use uml_core::vfs::anon::{self, AnonKind};
use uml_host::reactor::Reactor;
use uml_host::terminal;
use uml_tty::devices::TerminalLayer;
use uml_tty::tty::When;

use super::line::Family;
use super::*;
use crate::testing::{self, read, write};

struct Machine {
    kernel: Arc<Kernel>,
    layer: Arc<TerminalLayer>,
    consoles: Consoles,
}

fn machine(con: &[String], ssl: &[String]) -> Machine {
    let kernel = Kernel::new(64 << 20, 2);
    let layer = TerminalLayer::install(&kernel).expect("terminal layer");
    let reactor = Reactor::start().expect("reactor");
    let options = ConsoleOptions {
        con: con.to_vec(),
        ssl: ssl.to_vec(),
        ssl_non_raw: false,
        ..ConsoleOptions::default()
    };
    let consoles = Consoles::install(&kernel, &layer, &reactor, &options).expect("consoles");
    Machine { kernel, layer, consoles }
}

impl Machine {
    fn task(&self) -> Arc<Task> {
        testing::task(&self.kernel)
    }

    /// Opens device `major`:`minor`.
    fn open(&self, task: &Task, major: u32, minor: u32, flags: i32) -> Result<Arc<File>> {
        let dev = Dev::new(major, minor);
        let driver = self.kernel.vfs.registry.char_driver(dev)?;
        let path = anon::path(AnonKind::Other("tty"), &task.cred());
        let flags = flags as u32;
        let opened = driver.open(&NodeOpen { task, dev, path: &path, flags })?;
        Ok(File::new(opened.ops, path, flags, task.cred()))
    }
}

fn pipe() -> (HostFile, HostFile) {
    let (r, w) = std::io::pipe().expect("pipe");
    (std::os::fd::OwnedFd::from(r).into(), std::os::fd::OwnedFd::from(w).into())
}

fn read_host(f: &mut HostFile, n: usize) -> String {
    let mut buf = vec![0; n];
    f.read_exact(&mut buf).expect("host read");
    String::from_utf8_lossy(&buf).into_owned()
}

/// con0 on two pipes: the machine, what to type into, what to read from, and the line's ends, which
/// stay open as descriptors 0 and 1 of a kernel do.
fn on_pipes() -> (Machine, HostFile, HostFile, [HostFile; 2]) {
    let (guest_in, host_in) = pipe();
    let (host_out, guest_out) = pipe();
    let option = format!("0=fd:{},fd:{}", guest_in.as_raw_fd(), guest_out.as_raw_fd());
    let mut m = machine(&[option], &[]);
    m.consoles.start_log(&[]);
    (m, host_in, host_out, [guest_in, guest_out])
}

fn raw(m: &Machine, task: &Task) {
    let tty = m.consoles.tty(Family::Console, 0).expect("con0");
    tty.set_termios(task, None, When::Now, |t| {
        let mut t = *t;
        (t.iflag, t.oflag, t.lflag) = (0, 0, 0);
        t
    })
    .expect("settings");
}

#[test]
fn pipes_pass_through_the_line_discipline() {
    let (m, mut host_in, mut host_out, _ends) = on_pipes();
    let task = m.task();
    let f = m.open(&task, 5, 1, libc::O_RDWR).expect("/dev/console opens con0");
    write(&task, &f, "hello\n").expect("write");
    assert_eq!(read_host(&mut host_out, 7), "hello\r\n");
    host_in.write_all(b"ls\nexit").expect("host write");
    assert_eq!(read(&task, &f, 100).as_deref(), Ok("ls\n"));
    assert_eq!(read_host(&mut host_out, 8), "ls\r\nexit");
    // The end of the input: first the last line, then end of file and hang-up.
    drop(host_in);
    assert_eq!(read(&task, &f, 100).as_deref(), Ok("exit"));
    assert_eq!(read(&task, &f, 100).as_deref(), Ok(""));
    // Output still works, for /dev/console and for those who open it again; input stays over, without hanging up.
    assert_eq!(write(&task, &f, "x"), Ok(1));
    assert_eq!(read_host(&mut host_out, 1), "x");
    let f = m.open(&task, 4, 0, libc::O_RDWR | libc::O_NONBLOCK).expect("opens again");
    write(&task, &f, "again").expect("write");
    assert_eq!(read_host(&mut host_out, 5), "again");
    assert_eq!(read(&task, &f, 100), Err(EAGAIN));
}

#[test]
fn a_megabyte_arrives_in_order_both_ways() {
    let (m, mut host_in, mut host_out, _ends) = on_pipes();
    let task = m.task();
    raw(&m, &task);
    let f = m.open(&task, 4, 0, libc::O_RDWR).expect("opens");
    let text: String = (0..150_000).map(|i| format!("{i:06}\n")).collect();
    let copy = text.clone();
    let typist = std::thread::spawn(move || host_in.write_all(copy.as_bytes()).map(|()| host_in));
    let mut got = String::new();
    while got.len() < text.len() {
        got.push_str(&read(&task, &f, 5000).expect("read"));
    }
    assert!(got == text);
    typist.join().expect("thread").expect("host write");

    let copy = text.clone();
    let t = task.clone();
    let writer = std::thread::spawn(move || write(&t, &f, &copy));
    assert!(read_host(&mut host_out, text.len()) == text);
    assert_eq!(writer.join().expect("thread"), Ok(text.len()));
}

#[test]
fn a_stalled_reader_blocks_only_the_writer() {
    let (mut m, _host_in, mut host_out, _ends) = on_pipes();
    m.consoles.start_log(&["tty0".to_owned()]);
    let task = m.task();
    raw(&m, &task);
    let f = m.open(&task, 4, 0, libc::O_RDWR).expect("opens");
    let (t, text) = (task.clone(), "x".repeat(500_000));
    let writer = std::thread::spawn(move || write(&t, &f, &text));
    while task.run_state() == RunState::Running {
        std::thread::yield_now();
    }
    // The kernel goes on; its messages are dropped until somebody reads.
    for i in 0..2000 {
        uml_base::pr_info!("message {i}");
    }
    let mut seen = 0;
    let mut buf = [0; 4096];
    while seen < 500_000 {
        let n = host_out.read(&mut buf).expect("host read");
        seen += buf[..n].iter().filter(|c| **c == b'x').count();
    }
    assert_eq!(writer.join().expect("thread"), Ok(500_000));
}

#[test]
fn kernel_messages_appear_from_the_first_on() {
    let (guest_in, _host_in) = pipe();
    let (mut host_out, guest_out) = pipe();
    uml_base::pr_info!("before the console");
    let mut m =
        machine(&[format!("0=fd:{},fd:{}", guest_in.as_raw_fd(), guest_out.as_raw_fd())], &[]);
    m.consoles.start_log(&["tty0".to_owned()]);
    uml_base::pr_info!("the last message");
    let mut text = String::new();
    let mut buf = [0; 4096];
    while !text.contains("the last message\n") {
        let n = host_out.read(&mut buf).expect("host read");
        text.push_str(&String::from_utf8_lossy(&buf[..n]));
    }
    let at = |s: &str| text.find(s).unwrap_or_else(|| panic!("no {s:?} in {text}"));
    // Other tests of this process log too; their lines may stand anywhere.
    assert!(at("Initialized stdio console driver") < at("Console initialized on /dev/tty0"));
    assert!(at("before the console") < at("the last message"));
    assert_eq!(text.matches("before the console").count(), 1);
    assert!(m.layer.console().is_some());
}

#[test]
fn a_pts_line_is_named_hung_up_and_made_anew() {
    let m = machine(&[], &["3=pts".into()]);
    let task = m.task();
    assert_eq!(m.consoles.query(Family::Serial, "3").as_deref(), Ok("pts"));
    let f = m.open(&task, 4, 67, libc::O_RDWR).expect("opens");
    let shown = m.consoles.query(Family::Serial, "3").expect("query");
    let device = shown.strip_prefix("pts:").expect("a device").to_owned();
    let mut user = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(&device)
        .expect("the host's side opens");
    write(&task, &f, "login: ").expect("write");
    assert_eq!(read_host(&mut user, 7), "login: ");
    // The size is followed when input comes.
    terminal::set_size(&user, (33, 111, 0, 0)).expect("size");
    user.write_all(b"root\r").expect("host write");
    assert_eq!(read(&task, &f, 100).as_deref(), Ok("root\n"));
    let size = m.consoles.tty(Family::Serial, 3).expect("ssl3").winsize();
    assert_eq!((size.rows, size.cols), (33, 111));
    assert_eq!(read_host(&mut user, 6), "root\r\n");
    // The user leaves: hang-up.
    drop(user);
    assert_eq!(read(&task, &f, 100).as_deref(), Ok(""));
    assert_eq!(write(&task, &f, "x"), Err(EIO));
    let again = m.open(&task, 4, 67, libc::O_RDWR).expect("opens again");
    write(&task, &again, "hi").expect("write");
    assert!(m.consoles.query(Family::Serial, "3").is_ok_and(|s| s.starts_with("pts:")));
}

/// As agetty(8) does: open, close, open.
#[test]
fn a_pts_that_closes_without_a_word_is_the_next_openers() {
    let m = machine(&[], &["3=pts".into()]);
    let task = m.task();
    let device = || m.consoles.query(Family::Serial, "3").expect("query");
    let f = m.open(&task, 4, 67, libc::O_RDWR).expect("opens");
    let first = device();
    let mut user = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(first.strip_prefix("pts:").expect("a device"))
        .expect("the host's side opens");
    drop(f);
    assert_eq!(device(), "pts");
    let f = m.open(&task, 4, 67, libc::O_RDWR).expect("opens");
    assert_eq!(device(), first);
    write(&task, &f, "login: ").expect("write");
    assert_eq!(read_host(&mut user, 7), "login: ");
    user.write_all(b"root\r").expect("host write");
    assert_eq!(read(&task, &f, 100).as_deref(), Ok("root\n"));
    assert_eq!(read_host(&mut user, 6), "root\r\n");
    // Now something was said: the close is for the user too.
    drop(f);
    let mut rest = [0; 8];
    assert_eq!(user.read(&mut rest).ok(), Some(0));
    // What was kept goes when the line becomes another one.
    let f = m.open(&task, 4, 67, libc::O_RDWR).expect("opens");
    let kept = device();
    let mut user = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOCTTY)
        .open(kept.strip_prefix("pts:").expect("a device"))
        .expect("the host's side opens");
    drop(f);
    m.consoles.config(Family::Serial, "3=null").expect("config");
    assert_eq!(user.read(&mut rest).ok(), Some(0));
}

#[test]
fn a_host_terminal_is_raw_while_the_line_is_open() {
    let pair = uml_host::pty::open_pts().expect("host pty");
    let slave = pair.open_slave().expect("slave");
    let path = pair.slave_path().display().to_string();
    terminal::set_size(&slave, (10, 20, 0, 0)).expect("size");
    let m = machine(&[format!("1=tty:{path}")], &[]);
    let task = m.task();
    assert_eq!(terminal::echoes(&slave).ok(), Some(true));
    let f = m.open(&task, 4, 1, libc::O_RDWR).expect("opens");
    assert_eq!(terminal::echoes(&slave).ok(), Some(false));
    let size = m.consoles.tty(Family::Console, 1).expect("con1").winsize();
    assert_eq!((size.rows, size.cols), (10, 20));
    assert_eq!(m.consoles.query(Family::Console, "1"), Ok(format!("tty:{path}")));
    drop(f);
    assert_eq!(terminal::echoes(&slave).ok(), Some(true));
    let _f = m.open(&task, 4, 1, libc::O_RDWR).expect("opens");
    m.consoles.shutdown();
    assert_eq!(terminal::echoes(&slave).ok(), Some(true));
}

#[test]
fn an_ordinary_file_as_input_is_read_to_its_end() {
    let mut file = tempfile::tempfile().expect("file");
    file.write_all("echo 1\n".repeat(5000).as_bytes()).expect("write");
    std::io::Seek::rewind(&mut file).expect("rewind");
    let m = machine(&[format!("2=fd:{},null", file.as_raw_fd())], &[]);
    let task = m.task();
    let f = m.open(&task, 4, 2, libc::O_RDWR).expect("opens");
    let mut lines = 0;
    loop {
        match read(&task, &f, 100).expect("read").as_str() {
            "echo 1\n" => lines += 1,
            "" => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lines, 5000);
}

#[test]
fn null_none_and_broken_lines() {
    let m = machine(&["=null".into(), "3=none".into(), "4=what".into(), "5=fd:9999".into()], &[]);
    let task = m.task();
    let f = m.open(&task, 4, 1, libc::O_RDWR | libc::O_NONBLOCK).expect("opens");
    assert_eq!(write(&task, &f, &"x".repeat(100_000)), Ok(100_000));
    assert_eq!(read(&task, &f, 1), Err(EAGAIN));
    assert_eq!(m.open(&task, 4, 3, libc::O_RDWR).err(), Some(ENXIO));
    assert_eq!(m.open(&task, 4, 4, libc::O_RDWR).err(), Some(ENXIO));
    assert_eq!(m.open(&task, 4, 5, libc::O_RDWR).err(), Some(EBADF));
    let names: Vec<String> = m.kernel.vfs.registry.nodes().into_iter().map(|n| n.name).collect();
    assert!(names.contains(&"tty2".into()) && names.contains(&"ttyS63".into()));
    assert!(!names.contains(&"tty3".into()) && !names.contains(&"tty4".into()));
}

#[test]
fn configuration_at_run_time() {
    let m = machine(&["=null".into()], &[]);
    let c = &m.consoles;
    let (con, ssl) = (Family::Console, Family::Serial);
    let error = |r: std::result::Result<String, ConfigError>| match r {
        Err(e) => (e.err, e.text),
        Ok(t) => panic!("accepted: {t:?}"),
    };
    let number = "line_get_config failed to parse device number";
    assert_eq!(error(c.query(con, "")), (1, number.into()));
    assert_eq!(error(c.query(con, "1x")), (1, number.into()));
    assert_eq!(error(c.query(con, "16")), (1, "device number out of range".into()));
    assert_eq!(
        error(c.config(con, "=pts")),
        (-22, "Can't configure all devices from mconsole".into())
    );
    assert_eq!(error(c.config(con, "1x=pts")), (-22, "Couldn't parse device number".into()));
    assert_eq!(error(c.config(ssl, "64=pts")), (-22, "Device number out of range".into()));
    assert_eq!(error(c.config(con, "2=what")), (-1, "failed to parse channel pair".into()));
    assert_eq!(c.query(con, "2").as_deref(), Ok("none"));
    assert_eq!(c.config(con, "2=fd:0,fd:1").as_deref(), Ok(""));
    assert_eq!(c.query(con, "2").as_deref(), Ok("fd:0,fd:1"));
    assert_eq!(c.config(con, "2=none").as_deref(), Ok("configured as 'none'"));
    assert_eq!(c.remove(con, "2").err().map(|e| e.text), Some("configured as 'none'".into()));
    assert_eq!(c.remove(con, "").err().map(|e| e.err), Some(1));
    assert_eq!(c.remove(con, "77").err().map(|e| e.err), Some(-22));
    let task = m.task();
    let f = m.open(&task, 4, 1, libc::O_RDWR).expect("opens");
    assert_eq!(error(c.config(con, "1=pts")), (-22, "Device is already open".into()));
    drop(f);
    assert_eq!(c.remove(con, "1"), Ok(()));
    assert_eq!(m.open(&task, 4, 1, libc::O_RDWR).err(), Some(ENXIO));
}

/// A free port of the loopback interface.
fn free_port() -> u16 {
    let l = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    l.local_addr().expect("address").port()
}

/// Reads until `want` is seen; telnet commands are left in.
fn until(s: &mut impl Read, want: &str) -> String {
    let mut got = Vec::new();
    let mut buf = [0; 1000];
    while !String::from_utf8_lossy(&got).contains(want) {
        let n = s.read(&mut buf).expect("read");
        assert_ne!(n, 0, "ended after {:?}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buf[..n]);
    }
    String::from_utf8_lossy(&got).into_owned()
}

#[test]
fn telnet_reaches_the_lines_that_share_a_port() {
    let port = free_port();
    let m = machine(&[], &[format!("0=port:{port}"), format!("1=port:{port}")]);
    let task = m.task();
    // Opening does not wait for a client; what is written meanwhile is kept for it.
    let first = m.open(&task, 4, 64, libc::O_RDWR).expect("opens");
    let second = m.open(&task, 4, 65, libc::O_RDWR).expect("opens");
    write(&task, &first, "one login: ").expect("write");
    write(&task, &second, "two login: ").expect("write");
    assert_eq!(m.consoles.query(Family::Serial, "0"), Ok(format!("port:{port}")));
    let mut a = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connect");
    until(&mut a, "one login: ");
    let mut b = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connect");
    until(&mut b, "two login: ");
    // Window size, then a line with telnet's end of line and a literal 255.
    a.write_all(b"\xff\xfa\x1f\0\x64\0\x28\xff\xf0root\r\0").expect("write");
    assert_eq!(read(&task, &first, 100).as_deref(), Ok("root\n"));
    let size = m.consoles.tty(Family::Serial, 0).expect("ssl0").winsize();
    assert_eq!((size.rows, size.cols), (40, 100));
    until(&mut a, "root\r\n");
    // Nobody is left: the third is told, and gets the line that the first one leaves.
    let mut c = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connect");
    until(&mut c, "****\r\nNo console");
    drop(a);
    assert_eq!(read(&task, &first, 100).as_deref(), Ok(""));
    drop(first);
    let again = m.open(&task, 4, 64, libc::O_RDWR).expect("opens");
    write(&task, &again, "welcome").expect("write");
    until(&mut c, "welcome");
    // Closing the line closes the connection.
    drop(second);
    let mut rest = Vec::new();
    b.read_to_end(&mut rest).expect("the end");
    // A port in use is a clear refusal.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let number = taken.local_addr().expect("address").port();
    m.consoles.config(Family::Serial, &format!("5=port:{number}")).expect("config");
    assert_eq!(m.open(&task, 4, 69, libc::O_RDWR).err(), Some(EADDRINUSE));
}

#[test]
fn a_console_waits_for_its_client_when_asked() {
    let port = free_port();
    let mut m = machine(&[format!("0=port:{port}:wait")], &[]);
    uml_base::pr_info!("before anybody was there");
    m.consoles.start_log(&["tty0".to_owned()]);
    assert!(!m.consoles.shows_log());
    assert_eq!(m.consoles.query(Family::Console, "0"), Ok(format!("port:{port}:wait")));
    let consoles = Arc::new(m.consoles);
    let waiter = consoles.clone();
    let waiting = std::thread::spawn(move || waiter.await_clients());
    // Another port's client is not the one.
    assert!(std::net::TcpStream::connect(("127.0.0.1", free_port())).is_err());
    assert!(!waiting.is_finished());
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connect");
    waiting.join().expect("no panic");
    until(&mut client, "before anybody was there");
    assert!(consoles.shows_log());
}

/// As agetty(8) does: open, close, open.
#[test]
fn a_line_that_closes_without_a_word_leaves_its_client_to_the_next() {
    let port = free_port();
    let m = machine(&[], &[format!("0=port:{port}"), format!("1=port:{port}")]);
    let task = m.task();
    let line = m.open(&task, 4, 64, libc::O_RDWR).expect("opens");
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connect");
    client.write_all(b"\xff\xfa\x1f\0\x64\0\x28\xff\xf0").expect("write");
    let size = |n| m.consoles.tty(Family::Serial, n).expect("a line").winsize();
    while size(0).cols != 100 {
        std::thread::yield_now();
    }
    drop(line);
    let next = m.open(&task, 4, 65, libc::O_RDWR).expect("opens");
    write(&task, &next, "login: ").expect("write");
    until(&mut client, "login: ");
    assert_eq!((size(1).rows, size(1).cols), (40, 100));
    // Now something was said: the close is for the client too.
    drop(next);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the end");
}

#[test]
fn a_flood_through_a_port_loses_nothing() {
    let port = free_port();
    let mut m = machine(&[format!("0=port:{port}")], &[]);
    let task = m.task();
    m.consoles.start_log(&[]);
    raw(&m, &task);
    let f = m.open(&task, 4, 0, libc::O_RDWR).expect("opens");
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connect");
    client.write_all(b"go\n").expect("write");
    assert_eq!(read(&task, &f, 10).as_deref(), Ok("go\n"));
    let text: String = (0..60_000).map(|i| format!("{i:06}\n")).collect();
    let (t, copy) = (task.clone(), text.clone());
    let writer = std::thread::spawn(move || (write(&t, &f, &copy), f));
    let got = until(&mut client, "059999\n");
    assert!(got.ends_with(&text));
    assert_eq!(writer.join().expect("thread").0, Ok(text.len()));
}
