//! A switch under test and clients of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use uml_formats::switch::{ADDRESS_LEN, Address, Request};

/// How long anything that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long to listen for a frame that must not come, after one that must was seen.
const SILENCE: Duration = Duration::from_millis(300);

/// A running switch; killed when dropped.
pub struct Switch {
    pub child: Child,
    pub control: PathBuf,
    out: Receiver<String>,
    said: Vec<String>,
}

/// The switch of this workspace.
pub fn ours() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_uml_switch"))
}

impl Switch {
    /// Starts `program` with its control socket in `dir` and waits for its start line.
    pub fn start(program: &Path, dir: &Path, args: &[&str]) -> Switch {
        let control = dir.join("ctl");
        let mut words: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        if !words.iter().any(|w| w == "-unix") {
            words.splice(0..0, ["-unix".to_owned(), control.display().to_string()]);
        }
        // The classic program leaves its output in a buffer when it is no terminal.
        let mut child = Command::new("stdbuf")
            .arg("-oL")
            .arg(program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let (send, out) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // A test that failed does not listen any more.
                let _ = send.send(line);
            }
        });
        let mut switch = Switch { child, control, out, said: Vec::new() };
        switch.wait_for("attached to unix socket");
        switch.said.clear();
        switch
    }

    /// Waits for a line of its standard output that contains `text`.
    pub fn wait_for(&mut self, text: &str) {
        while !self.said.last().is_some_and(|l| l.contains(text)) {
            let line = self.out.recv_timeout(PATIENCE);
            self.said.push(line.unwrap_or_else(|e| panic!("no {text:?} ({e}): {:?}", self.said)));
        }
    }

    /// Ends it by `signal` and returns what it said after the start line on standard output, and on standard error.
    pub fn end(&mut self, signal: nix::sys::signal::Signal) -> (Vec<String>, String) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("kill");
        let mut err = String::new();
        self.child.stderr.take().expect("stderr").read_to_string(&mut err).expect("read");
        self.said.extend(self.out.iter());
        self.child.wait().expect("wait");
        (std::mem::take(&mut self.said), err)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client with a port.
pub struct Client {
    pub control: UnixStream,
    pub data: UnixDatagram,
    pub to: Option<Address>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A datagram socket with an abstract address of its own.
pub fn data_socket() -> (UnixDatagram, Address) {
    let name =
        format!("uml-switch-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
    let address = Address::from_abstract(name.as_bytes()).expect("short");
    let at = SocketAddr::from_abstract_name(address.name()).expect("address");
    let socket = UnixDatagram::bind_addr(&at).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    (socket, address)
}

impl Client {
    /// Opens a port with protocol version `version`.
    pub fn open(control: &Path, version: u32) -> Client {
        let (data, address) = data_socket();
        let mut control = UnixStream::connect(control).expect("connect");
        control.set_read_timeout(Some(PATIENCE)).expect("timeout");
        control.write_all(&Request { version, address }.encode()).expect("request");
        let mut to = None;
        if version != 0 {
            let mut reply = [0; ADDRESS_LEN];
            control.read_exact(&mut reply).expect("reply");
            to = Some(Address::decode(&reply).expect("an address"));
        }
        Client { control, data, to }
    }

    /// Sends a frame, waiting while the switch's queue is full.
    pub fn send(&self, frame: &[u8]) {
        let to = self.to.expect("the data address is known");
        let to = if to.is_abstract() {
            SocketAddr::from_abstract_name(to.name()).expect("address")
        } else {
            SocketAddr::from_pathname(String::from_utf8_lossy(to.name()).as_ref()).expect("address")
        };
        self.data.send_to_addr(frame, &to).expect("send");
    }

    /// The next frame.
    pub fn receive(&self) -> Vec<u8> {
        let mut buf = [0; 4096];
        let n = self.data.recv(&mut buf).expect("a frame");
        buf[..n].to_vec()
    }

    /// Makes sure that no frame waits or comes.
    pub fn receives_nothing(&self) {
        self.data.set_read_timeout(Some(SILENCE)).expect("timeout");
        let mut buf = [0; 4096];
        if let Ok(n) = self.data.recv(&mut buf) {
            panic!("an unexpected frame: {:x?}", &buf[..n]);
        }
        self.data.set_read_timeout(Some(PATIENCE)).expect("timeout");
    }
}

/// A frame between two stations, with a number.
pub fn frame(to: u8, from: u8, number: u32, len: usize) -> Vec<u8> {
    let mut f = if to == 0xff { vec![0xff; 6] } else { vec![2, 0, 0, 0, 0, to] };
    f.extend([2, 0, 0, 0, 0, from, 0x88, 0xb5]);
    f.extend(number.to_be_bytes());
    f.resize(len.max(18), 0xa5);
    f
}
