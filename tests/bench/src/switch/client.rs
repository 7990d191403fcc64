//! Ports of a switch, and what goes through them.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use uml_formats::switch::{ADDRESS_LEN, Address, MAGIC, Request};
use uml_host::frames::{self, Received};
use uml_host::{netdev, wait};

/// Frames of one call.
const BATCH: usize = 32;

/// What is measured.
pub struct Load {
    pub ports: usize,
    pub size: usize,
    /// The last receiver does not read.
    pub stalled: bool,
    /// Receivers whose frames count, from the first.
    pub counted: usize,
    pub time: Duration,
}

/// A port.
pub struct Client {
    data: OwnedFd,
    /// The port lasts as long as this.
    _control: UnixStream,
}

impl Client {
    /// Joins a uml_switch.
    pub fn uml(control: &Path) -> io::Result<Client> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("switch-bench-{}-{n}", std::process::id());
        let address = Address::from_abstract(name.as_bytes()).ok_or(io::ErrorKind::InvalidInput)?;
        let data = netdev::open_unix_datagram(&address.0)?;
        Client::ask(control, data, &Request { version: 3, address }.encode())
    }

    /// Joins a vde_switch, whose requests have a description at the end and whose sockets are files.
    pub fn vde(control: &Path, own: &Path) -> io::Result<Client> {
        let data = UnixDatagram::bind(own)?;
        data.set_nonblocking(true)?;
        let address = Address::from_path(own).ok_or(io::ErrorKind::InvalidInput)?;
        let mut request = Vec::new();
        for word in [MAGIC, 3, 0] {
            request.extend(word.to_ne_bytes());
        }
        request.extend(address.encode());
        request.resize(request.len() + 128, 0);
        Client::ask(control, data.into(), &request)
    }

    fn ask(control: &Path, data: OwnedFd, request: &[u8]) -> io::Result<Client> {
        let mut c = UnixStream::connect(control)?;
        c.set_read_timeout(Some(Duration::from_secs(10)))?;
        c.write_all(request)?;
        let mut reply = [0; ADDRESS_LEN];
        c.read_exact(&mut reply)?;
        let to = Address::decode(&reply).ok_or(io::ErrorKind::InvalidData)?;
        if to.is_abstract() {
            netdev::connect_unix_datagram(&data, &to.0)?;
        } else {
            let data = UnixDatagram::from(data.try_clone()?);
            data.connect(std::str::from_utf8(to.name()).map_err(io::Error::other)?)?;
        }
        Ok(Client { data, _control: c })
    }
}

fn mac(n: usize) -> [u8; 6] {
    [2, 0, 0, 0, (n >> 8) as u8, n as u8]
}

fn frame(from: usize, to: [u8; 6], size: usize) -> Vec<u8> {
    let mut f = to.to_vec();
    f.extend(mac(from));
    f.extend([0x88, 0xb5]);
    f.resize(size, 0);
    f
}

/// Frames a second that reach the receivers that count: port n of the first half sends to n of the second.
pub fn measure(clients: Vec<Client>, load: &Load) -> io::Result<f64> {
    let half = load.ports / 2;
    // Where everybody is, so that nothing is flooded.
    for (n, c) in clients.iter().enumerate() {
        let hello = frame(n, [0xff; 6], 60);
        while frames::send(&c.data, &[&hello], None).is_err() {
            std::thread::yield_now();
        }
        drain(&clients, Duration::from_millis(2));
    }
    drain(&clients, Duration::from_millis(200));
    let count = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let readers = if load.stalled { half - 1 } else { half };
    let (senders, receivers) = clients.split_at(half);
    std::thread::scope(|s| {
        s.spawn(|| send(senders, load, &over));
        s.spawn(|| receive(&receivers[..readers], load, &count, &over));
        // It runs before it is looked at.
        std::thread::sleep(load.time / 4);
        let (start, before) = (Instant::now(), count.load(Ordering::Relaxed));
        std::thread::sleep(load.time);
        let (n, took) = (count.load(Ordering::Relaxed) - before, start.elapsed());
        over.store(true, Ordering::Relaxed);
        Ok(n as f64 / took.as_secs_f64())
    })
}

fn drain(clients: &[Client], time: Duration) {
    let mut r = Received::new(BATCH, 2048);
    let end = Instant::now() + time;
    while Instant::now() < end {
        for c in clients {
            while r.fill(&c.data).is_ok() {}
        }
        std::thread::sleep(time / 4);
    }
}

fn send(senders: &[Client], load: &Load, over: &AtomicBool) {
    let half = senders.len();
    let all: Vec<Vec<u8>> = (0..half).map(|n| frame(n, mac(half + n), load.size)).collect();
    while !over.load(Ordering::Relaxed) {
        let mut moved = false;
        for (c, f) in senders.iter().zip(&all) {
            let batch = [f.as_slice(); BATCH];
            moved |= frames::send(&c.data, &batch, None).is_ok();
        }
        if !moved {
            // Until one has room again; a switch may never take those of one that waits for a receiver.
            let fds: Vec<_> = senders.iter().map(|c| c.data.as_fd()).collect();
            wait::any_writable(&fds, 100);
        }
    }
}

fn receive(receivers: &[Client], load: &Load, count: &AtomicU64, over: &AtomicBool) {
    let mut r = Received::new(BATCH, 2048);
    let fds: Vec<_> = receivers.iter().map(|c| c.data.as_fd()).collect();
    while !over.load(Ordering::Relaxed) {
        let mut any = false;
        for (n, c) in receivers.iter().enumerate() {
            if let Ok(got) = r.fill(&c.data) {
                any = true;
                if n < load.counted {
                    count.fetch_add(got as u64, Ordering::Relaxed);
                }
            }
        }
        if !any {
            wait::any_readable(&fds, 100);
        }
    }
}
