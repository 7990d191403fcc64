use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use uml_net::interface::iff;
use uml_net::packet::{Csum, Data};
use uml_net::sock::SendInfo;
use uml_net::udp::UdpSocket;
use uml_net::wire::ethernet::Mac;
use uml_net::{Clock, Time};

use super::*;

struct Now;

impl Clock for Now {
    fn now(&self) -> Time {
        Time(1_000_000_000)
    }

    fn realtime(&self) -> u64 {
        5_000_000_007
    }
}

struct Lab {
    dir: tempfile::TempDir,
    net: Arc<Stack>,
    captures: Captures,
    socket: Arc<UdpSocket>,
    /// Takes what is sent, so that no errors come back.
    _sink: Arc<UdpSocket>,
}

impl Lab {
    fn new() -> Lab {
        let net = Stack::new(Arc::new(Now), [1; 32]);
        let lo = net.loopback().unwrap();
        net.set_flags(&lo, iff::UP, iff::UP).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (captures, socket) = (Captures::new(&net), UdpSocket::new(&net, false));
        let sink = UdpSocket::new(&net, false);
        sink.bind("127.0.0.1:9".parse().unwrap(), 0).unwrap();
        Lab { dir, captures, socket, _sink: sink, net }
    }

    fn wanted(&self, file: &str) -> Wanted {
        Wanted {
            interface: Some("lo".into()),
            snap_len: pcap_all(),
            count: None,
            size: None,
            file: self.dir.path().join(file),
        }
    }

    fn send(&self, n: usize, len: usize) {
        for k in 0..n {
            let data = Data::copy_of(&vec![k as u8; len]);
            let to = "127.0.0.1:9".parse().unwrap();
            self.socket.send(Some((to, 0)), data, &SendInfo::default(), false).unwrap();
        }
    }

    fn pipe(&self, name: &str) -> File {
        let path = self.dir.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
    }

    /// Waits until the list says `what`.
    fn until(&self, what: &str) {
        let end = Instant::now() + Duration::from_secs(100);
        while !self.captures.describe().contains(what) {
            assert!(Instant::now() < end, "{}", self.captures.describe());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn pcap_all() -> u32 {
    uml_formats::pcap::SNAP_LEN
}

/// Stored bytes, whole length and stamp of every record.
fn records(mut b: &[u8]) -> Vec<(Vec<u8>, u32, (u32, u32))> {
    let word = |b: &[u8], at: usize| u32::from_ne_bytes(b[at..at + 4].try_into().unwrap());
    let mut out = Vec::new();
    b = &b[24..];
    while !b.is_empty() {
        let n = word(b, 8) as usize;
        out.push((b[16..16 + n].to_vec(), word(b, 12), (word(b, 0), word(b, 4))));
        b = &b[16 + n..];
    }
    out
}

#[test]
fn packets_are_written_until_there_are_enough() {
    let l = Lab::new();
    let w = Wanted { count: Some(3), snap_len: 50, ..l.wanted("a") };
    assert_eq!(l.captures.start(w.clone()), Ok(1));
    l.send(5, 100);
    l.until("complete");
    let text = l.captures.stop(1).unwrap();
    assert!(text.starts_with("1 lo ") && text.contains(": 3 packets, "), "{text}");
    assert_eq!(l.captures.stop(1), None);
    let got = records(&std::fs::read(&w.file).unwrap());
    assert_eq!(got.len(), 3);
    for (k, (data, len, stamp)) in got.into_iter().enumerate() {
        // Headers of Ethernet, IP and UDP; what came first is what arrived, not what left.
        assert_eq!((data.len(), len, stamp), (50, 142, (5, 7)));
        assert_eq!(data[42..], [k as u8; 8]);
    }
    // The size bounds the file.
    let w = Wanted { size: Some(24 + 2 * (16 + 142) + 7), ..l.wanted("b") };
    assert_eq!(l.captures.start(w.clone()), Ok(2));
    l.send(5, 100);
    l.until("complete");
    assert_eq!(records(&std::fs::read(&w.file).unwrap()).len(), 2);
    // All interfaces: a header of its own instead of the frame's.
    let w = Wanted { interface: None, count: Some(1), ..l.wanted("c") };
    assert_eq!(l.captures.start(w.clone()), Ok(3));
    l.send(1, 100);
    l.until("c: 1 packets");
    let got = records(&std::fs::read(&w.file).unwrap());
    assert_eq!(got[0].0[..12], [8, 0, 0, 0, 0, 0, 0, 1, 3, 4, 0, 6]);
    assert_eq!(got[0].1, 20 + 128);
    assert!(l.net.packet_sockets().is_empty());
}

#[test]
fn a_pipe_that_is_not_read_costs_packets_and_nothing_else() {
    let l = Lab::new();
    let mut pipe = l.pipe("p");
    assert_eq!(l.captures.start(l.wanted("p")), Ok(1));
    // More than the buffers take, from the thread that would wait.
    l.send(12_000, 1400);
    let text = l.captures.stop(1).unwrap();
    let dropped: u64 =
        text.split(", ").find_map(|p| p.strip_suffix(" dropped")).unwrap().parse().unwrap();
    assert!(dropped > 0 && dropped <= 12_000, "{text}");
    let mut b = [0; 24];
    pipe.read_exact(&mut b).unwrap();
    assert_eq!(b, file_header(LinkType::Ethernet, pcap_all()));
}

#[test]
fn a_reader_that_goes_ends_its_capture() {
    let l = Lab::new();
    let pipe = l.pipe("p");
    assert_eq!(l.captures.start(l.wanted("p")), Ok(1));
    l.until("running");
    drop(pipe);
    l.until("Broken pipe");
    // What has ended makes room; what has not does not.
    for n in 0..LIMIT {
        l.captures.start(l.wanted(&n.to_string())).unwrap();
    }
    assert!(l.captures.start(l.wanted("x")).unwrap_err().contains("16 captures already"));
    assert_eq!(l.captures.describe().lines().count(), LIMIT);
    l.captures.stop_all();
    assert_eq!(l.captures.describe(), "");
}

#[test]
fn what_cannot_be_is_refused() {
    let l = Lab::new();
    let mut w = l.wanted("p");
    drop(l.pipe("p"));
    // Nobody reads it.
    assert!(l.captures.start(w.clone()).unwrap_err().contains("No such device or address"));
    w.interface = Some("eth9".into());
    assert_eq!(l.captures.start(w.clone()), Err("There is no interface eth9".into()));
    w = l.wanted("none/file");
    assert!(l.captures.start(w).unwrap_err().contains("No such file or directory"));
}

#[test]
fn tags_that_were_taken_out_are_put_back() {
    let mut f = Frame {
        data: (0..20).collect(),
        len: 60,
        protocol: 0x800,
        iface: 2,
        hatype: 1,
        pkttype: pkttype::HOST,
        addr: Mac::ZERO,
        stamp: 0,
        vlan: Some(0x2005),
        csum: Csum::None,
        net: 14,
        cooked: false,
    };
    let mut out = Records { bytes: vec![0; 24], packets: 0 };
    record(&f, LinkType::Ethernet, &mut out);
    f.pkttype = pkttype::OUTGOING;
    record(&f, LinkType::Ethernet, &mut out);
    let got = records(&out.bytes);
    assert_eq!(got[0].0[10..18], [10, 11, 0x81, 0, 0x20, 5, 12, 13]);
    assert_eq!((got[0].0.len(), got[0].1), (24, 64));
    assert_eq!((got[1].0.len(), got[1].1), (20, 60));
    f.data.truncate(5);
    f.pkttype = pkttype::HOST;
    record(&f, LinkType::Ethernet, &mut out);
    assert_eq!(records(&out.bytes)[2].0.len(), 5);
    assert_eq!(length(&f, LinkType::Ethernet), 16 + 5);
}
