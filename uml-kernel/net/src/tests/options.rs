//! Options of packets across a router.

use super::*;
use crate::wire::v4_options::Options;

/// A host, a router and a host.
fn three() -> Lab {
    let mut l = Lab::new();
    for n in [1, 2, 1] {
        l.machine(n, Features::NONE);
    }
    l.wires.push(((0, 0), (1, 0)));
    l.wires.push(((1, 1), (2, 0)));
    for (m, p, a) in [
        (0, 0, "10.0.0.1/24"),
        (1, 0, "10.0.0.254/24"),
        (1, 1, "10.0.1.254/24"),
        (2, 0, "10.0.1.1/24"),
    ] {
        l.address(m, p, a);
    }
    l.route(0, "0.0.0.0/0", "10.0.0.254");
    l.route(2, "0.0.0.0/0", "10.0.1.254");
    l.stack(1).conf.ip_forward.set(1).unwrap();
    l
}

/// A raw ICMP socket that sends an echo request with the options.
fn ping(l: &Lab, options: &[u8], dst: &str) -> Arc<RawSocket> {
    let raw = RawSocket::new(l.stack(0), false, 1);
    raw.opts.lock().options = Options::of_program(options, true).unwrap();
    raw.send(
        Some((dst.parse().unwrap(), 0)),
        &[8, 0, 0xf7, 0xfe, 0, 1, 0, 0],
        &SendInfo::default(),
    )
    .unwrap();
    raw
}

/// Options and ICMP message of what came back.
fn answer(s: &RawSocket) -> (Vec<u8>, Vec<u8>) {
    let b = s.recv(false).unwrap().unwrap().data.to_vec();
    let header = usize::from(b[0] & 15) * 4;
    (b[20..header].to_vec(), b[header..].to_vec())
}

#[test]
fn each_host_on_the_way_records_itself() {
    let mut l = three();
    let mut route = vec![7, 39, 4];
    route.resize(39, 0);
    let s = ping(&l, &route, "10.0.1.1");
    l.run(100 * MS);
    let (options, icmp) = answer(&s);
    assert_eq!(icmp[0], 0);
    // Sender, router as it sends, the other host as it receives and as it sends, the router, and the receiver.
    let hosts: Vec<String> =
        options[3..27].chunks(4).map(|a| format!("{}.{}.{}.{}", a[0], a[1], a[2], a[3])).collect();
    assert_eq!(hosts, ["10.0.0.1", "10.0.1.254", "10.0.1.1", "10.0.1.1", "10.0.0.254", "10.0.0.1"]);
    assert_eq!(options[2], 28);
}

#[test]
fn packets_with_a_source_route_are_dropped() {
    let mut l = three();
    let s = ping(&l, &[131, 7, 4, 10, 0, 0, 254], "10.0.1.1");
    l.run(100 * MS);
    assert_eq!(s.recv(false).err(), Some(EAGAIN));
}

#[test]
fn options_that_are_wrong_are_told_with_their_place() {
    let mut l = three();
    let s = RawSocket::new(l.stack(0), false, 1);
    s.header_included.store(true, Ordering::SeqCst);
    // A record of a route whose pointer points into its own head.
    let mut b = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 1, 1];
    b.extend_from_slice(&[1, 7, 3, 2]);
    b.extend_from_slice(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    s.send(Some(("10.0.1.1".parse().unwrap(), 0)), &b, &SendInfo::default()).unwrap();
    l.run(100 * MS);
    let (_, icmp) = answer(&s);
    assert_eq!((icmp[0], icmp[1], icmp[4]), (12, 0, 23));
}

#[test]
fn segments_leave_room_for_options() {
    let mut l = three();
    let server = TcpSocket::new(l.stack(2), false);
    server.bind(addr("0.0.0.0:80"), 0).unwrap();
    server.listen(1).unwrap();
    let c = TcpSocket::new(l.stack(0), false);
    c.opts.lock().options =
        Options::of_program(&[7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], false).unwrap();
    assert_eq!(c.connect(addr("10.0.1.1:80"), 0), Err(EINPROGRESS));
    l.run(100 * MS);
    let a = server.accept().unwrap();
    for s in [&c, &a] {
        // Room for both headers, time stamps and sixteen bytes of options.
        assert_eq!(s.look(|t| t.mss()).unwrap(), 1500 - 40 - 12 - 16);
    }
    let peer = a.opts.lock().options.clone();
    assert_eq!(peer.bytes()[3..15], [10, 0, 0, 1, 10, 0, 1, 254, 10, 0, 1, 1]);
}
