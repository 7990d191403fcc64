//! unix(7), clause by clause.

mod common;

use std::sync::Arc;

use common::{kernel, read, start, task, task_as, user, write};
use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::file::File;
use uml_core::io::{BufSink, BufSource};
use uml_core::signal::bit;
use uml_core::task::Task;
use uml_ipc::eventfd::EventFd;
use uml_ipc::socket::{
    Control, Received, RecvArgs, SendArgs, Shutdown, Socket, SocketFamily, SocketFile,
};
use uml_ipc::unix::Family;

fn make(t: &Task, kind: i32) -> (Arc<File>, Arc<dyn Socket>) {
    let s = Family.create(t, kind, 0).unwrap();
    (SocketFile::open(t, s.clone(), 0), s)
}

fn pair(t: &Task, kind: i32) -> (Arc<File>, Arc<File>) {
    let (a, b) = Family.pair(t, kind, 0).unwrap();
    (SocketFile::open(t, a, 0), SocketFile::open(t, b, 0))
}

fn sock(f: &File) -> &Arc<dyn Socket> {
    SocketFile::of(f).unwrap()
}

fn abstract_addr(name: &str) -> Vec<u8> {
    [&1u16.to_le_bytes()[..], &[0], name.as_bytes()].concat()
}

fn send(
    t: &Task,
    f: &File,
    data: &[u8],
    addr: Option<&[u8]>,
    control: &[u8],
    flags: i32,
) -> Result<usize> {
    let nonblock = flags & libc::MSG_DONTWAIT != 0;
    let data = &mut BufSource::new(data);
    sock(f).send(&mut SendArgs { task: t, data, addr, control, flags, nonblock })
}

fn recv(t: &Task, f: &File, n: usize, flags: i32) -> Result<(Vec<u8>, Received)> {
    let mut buf = vec![0; n];
    let mut sink = BufSink::new(&mut buf);
    let nonblock = flags & libc::MSG_DONTWAIT != 0;
    let data = &mut sink;
    let r = sock(f).recv(&mut RecvArgs { task: t, data, flags, nonblock, want_control: true })?;
    let got = sink.written();
    buf.truncate(got);
    Ok((buf, r))
}

fn cmsg(kind: i32, data: &[u8]) -> Vec<u8> {
    let len = 16 + data.len() as u64;
    let mut v = [&len.to_le_bytes()[..], &1i32.to_le_bytes(), &kind.to_le_bytes(), data].concat();
    v.resize(v.len().next_multiple_of(8), 0);
    v
}

fn rights(fds: &[i32]) -> Vec<u8> {
    let data: Vec<u8> = fds.iter().flat_map(|f| f.to_le_bytes()).collect();
    cmsg(libc::SCM_RIGHTS, &data)
}

const DONTWAIT: i32 = libc::MSG_DONTWAIT;

#[test]
fn a_stream_has_no_boundaries_and_an_end() {
    let t = task(&kernel());
    let (a, b) = pair(&t, libc::SOCK_STREAM);
    write(&t, &a, b"one").unwrap();
    write(&t, &a, b"two").unwrap();
    assert_eq!(recv(&t, &b, 4, libc::MSG_PEEK).unwrap().0, b"onet");
    assert_eq!(read(&t, &b, 4), Ok(b"onet".to_vec()));
    assert_eq!(read(&t, &b, 9), Ok(b"wo".to_vec()));
    assert_eq!(recv(&t, &b, 9, DONTWAIT).err(), Some(EAGAIN));
    sock(&a).shutdown(Shutdown::Write).unwrap();
    assert_eq!(read(&t, &b, 9), Ok(vec![]));
    let in_ = Events::READABLE;
    let out = Events::WRITABLE | Events::WRBAND;
    assert_eq!(b.ops.poll(None), in_ | Events::RDHUP | out);
    t.set_blocked(bit(libc::SIGPIPE));
    assert_eq!(send(&t, &a, b"x", None, &[], libc::MSG_NOSIGNAL), Err(EPIPE));
    assert_eq!(t.pending_set(), 0);
    assert_eq!(write(&t, &a, b"x"), Err(EPIPE));
    assert_eq!(t.pending_set(), bit(libc::SIGPIPE));
    drop(b);
    assert!(a.ops.poll(None).contains(Events::HUP));
}

#[test]
fn unread_data_resets_the_peer() {
    let t = task(&kernel());
    let (a, b) = pair(&t, libc::SOCK_STREAM);
    write(&t, &a, b"lost").unwrap();
    drop(b);
    assert!(a.ops.poll(None).contains(Events::ERR | Events::HUP));
    assert_eq!(read(&t, &a, 1), Err(ECONNRESET));
    assert_eq!(read(&t, &a, 1), Ok(vec![]));
}

#[test]
fn a_writer_blocks_until_its_data_is_read() {
    let k = kernel();
    let (t, other) = (task(&k), task(&k));
    let (a, b) = pair(&t, libc::SOCK_STREAM);
    let big = vec![7u8; 1 << 20];
    let sent = send(&t, &a, &big, None, &[], DONTWAIT).unwrap();
    assert!((100_000..400_000).contains(&sent), "{sent}");
    assert_eq!(a.ops.poll(None), Events::NONE);
    let a2 = a.clone();
    let w = start(&other, move |t| write(t, &a2, &[8; 500_000]));
    let (got, _) = recv(&t, &b, sent + 500_000, libc::MSG_WAITALL).unwrap();
    assert_eq!(got.len(), sent + 500_000);
    assert!(got[..sent].iter().all(|x| *x == 7) && got[sent..].iter().all(|x| *x == 8));
    assert_eq!(w.join().unwrap(), Ok(500_000));
    assert!(a.ops.poll(None).contains(Events::OUT));
}

#[test]
fn connections_are_made_by_name() {
    let k = kernel();
    let t = task(&k);
    let name = abstract_addr("connect-test");
    let (lf, l) = make(&t, libc::SOCK_STREAM);
    assert_eq!(l.listen(&t, 1), Err(EINVAL));
    l.bind(&t, &name).unwrap();
    assert_eq!(l.bind(&t, &abstract_addr("other")), Err(EINVAL));
    assert_eq!(make(&t, libc::SOCK_STREAM).1.bind(&t, &name), Err(EADDRINUSE));
    // Each type has names of its own.
    make(&t, libc::SOCK_DGRAM).1.bind(&t, &name).unwrap();
    let (cf, c) = make(&t, libc::SOCK_STREAM);
    assert!(cf.ops.poll(None).contains(Events::HUP | Events::OUT));
    assert_eq!(c.connect(&t, &name, true), Err(ECONNREFUSED));
    assert_eq!(c.peer(), Err(ENOTCONN));
    assert_eq!(write(&t, &cf, b"x"), Err(ENOTCONN));
    l.listen(&t, 1).unwrap();
    assert!(matches!(l.accept(&t, true), Err(EAGAIN)));
    let client = task_as(&k, user(1000));
    c.connect(&client, &name, false).unwrap();
    assert_eq!(c.connect(&client, &name, false), Err(EISCONN));
    assert_eq!(lf.ops.poll(None), Events::READABLE);
    // The connection carries data before it is accepted.
    write(&t, &cf, b"early").unwrap();
    let (s, from) = l.accept(&t, false).unwrap();
    assert_eq!(from, 1u16.to_le_bytes());
    let sf = SocketFile::open(&t, s.clone(), 0);
    assert_eq!(read(&t, &sf, 9), Ok(b"early".to_vec()));
    assert_eq!((s.local(), c.peer()), (Ok(name.clone()), Ok(name.clone())));
    let cred = s.get_option(&t, libc::SOL_SOCKET, libc::SO_PEERCRED, 12).unwrap();
    assert_eq!(cred[..4], client.process.pid.to_le_bytes());
    assert_eq!(cred[4..8], 1000u32.to_le_bytes());
    assert_eq!(
        c.get_option(&t, libc::SOL_SOCKET, libc::SO_PEERCRED, 12).unwrap()[..4],
        t.process.pid.to_le_bytes()
    );
    // A full backlog: two wait, the third has to.
    let more: Vec<_> = (0..2).map(|_| make(&t, libc::SOCK_STREAM)).collect();
    for (_, m) in &more {
        m.connect(&t, &name, true).unwrap();
    }
    let (_f3, third) = make(&t, libc::SOCK_STREAM);
    assert_eq!(third.connect(&t, &name, true), Err(EAGAIN));
    let n2 = name.clone();
    let h = start(&task(&k), move |t| third.connect(t, &n2, false));
    let (first, _) = l.accept(&t, false).unwrap();
    first.close();
    assert_eq!(h.join().unwrap(), Ok(()));
    // The listener goes: what it had not accepted is reset.
    drop(lf);
    assert_eq!(read(&t, &more[1].0, 1), Err(ECONNRESET));
    let (_f, c) = make(&t, libc::SOCK_STREAM);
    assert_eq!(c.connect(&t, &name, true), Err(ECONNREFUSED));
    assert_eq!(c.connect(&t, &[2, 0, 0, 0], true), Err(EINVAL));
    // An accepted connection does not own the name.
    make(&t, libc::SOCK_STREAM).1.bind(&t, &name).unwrap();
    drop(sf);
}

#[test]
fn datagrams_keep_boundaries_and_queue_limits() {
    let k = kernel();
    let t = task(&k);
    let name = abstract_addr("dgram-test");
    let (rf, r) = make(&t, libc::SOCK_DGRAM);
    r.bind(&t, &name).unwrap();
    let (sf, s) = make(&t, libc::SOCK_DGRAM);
    assert_eq!(send(&t, &sf, b"x", None, &[], 0), Err(ENOTCONN));
    assert_eq!(send(&t, &sf, &vec![0; 300_000], Some(&name), &[], 0), Err(EMSGSIZE));
    s.bind(&t, &1u16.to_le_bytes()).unwrap();
    let own = s.local().unwrap();
    assert_eq!((own.len(), own[2]), (8, 0));
    assert_eq!(send(&t, &sf, b"hello", Some(&name), &[], 0), Ok(5));
    assert_eq!(send(&t, &sf, b"", Some(&name), &[], 0), Ok(0));
    let (data, got) = recv(&t, &rf, 3, libc::MSG_PEEK).unwrap();
    assert_eq!((&data[..], got.len, got.flags), (&b"hel"[..], 3, libc::MSG_TRUNC));
    let (data, got) = recv(&t, &rf, 3, libc::MSG_TRUNC).unwrap();
    assert_eq!((&data[..], got.len, got.flags), (&b"hel"[..], 5, libc::MSG_TRUNC));
    assert_eq!(got.addr, Some(own));
    assert_eq!(recv(&t, &rf, 3, 0).unwrap().1.len, 0);
    // Eleven messages fit, the next one waits.
    s.connect(&t, &name, true).unwrap();
    for _ in 0..11 {
        assert_eq!(send(&t, &sf, b"x", None, &[], DONTWAIT), Ok(1));
    }
    assert_eq!(send(&t, &sf, b"x", None, &[], DONTWAIT), Err(EAGAIN));
    assert!(!sf.ops.poll(None).contains(Events::OUT));
    let sf2 = sf.clone();
    let h = start(&task(&k), move |t| write(t, &sf2, b"late"));
    recv(&t, &rf, 9, 0).unwrap();
    assert_eq!(h.join().unwrap(), Ok(4));
    drop((rf, r));
    assert_eq!(write(&t, &sf, b"x"), Err(ECONNREFUSED));
    assert_eq!(write(&t, &sf, b"x"), Err(ENOTCONN));
}

#[test]
fn seqpackets_keep_boundaries_and_end() {
    let t = task(&kernel());
    let (a, b) = pair(&t, libc::SOCK_SEQPACKET);
    write(&t, &a, b"one").unwrap();
    write(&t, &a, b"two").unwrap();
    assert_eq!(read(&t, &b, 2), Ok(b"on".to_vec()));
    assert_eq!(read(&t, &b, 9), Ok(b"two".to_vec()));
    drop(a);
    assert_eq!(read(&t, &b, 9), Ok(vec![]));
    assert_eq!(write(&t, &b, b"x"), Err(EPIPE));
}

#[test]
fn descriptors_travel() {
    let t = task(&kernel());
    let (a, b) = pair(&t, libc::SOCK_STREAM);
    let e = EventFd::open(&t, 5, 0);
    let fd = t.install_fd(e.clone(), false).unwrap();
    write(&t, &a, b"before").unwrap();
    assert_eq!(send(&t, &a, b"with", None, &rights(&[fd]), 0), Ok(4));
    write(&t, &a, b"after").unwrap();
    assert_eq!(send(&t, &a, b"x", None, &rights(&[99]), 0), Err(EBADF));
    assert_eq!(send(&t, &a, b"x", None, &rights(&vec![fd; 254]), 0), Err(EINVAL));
    assert_eq!(send(&t, &a, b"x", None, &[9; 20], 0), Err(EINVAL));
    t.files().remove(fd).unwrap();
    assert_eq!(Arc::strong_count(&e), 2);
    // A peek shows them without taking them; a read stops behind them.
    let (_, r) = recv(&t, &b, 99, libc::MSG_PEEK).unwrap();
    assert!(matches!(&r.control[..], [Control::Rights(f)] if Arc::ptr_eq(&f[0], &e)));
    drop(r);
    let (data, r) = recv(&t, &b, 99, 0).unwrap();
    assert_eq!(data, b"beforewith");
    assert!(matches!(&r.control[..], [Control::Rights(f)] if Arc::ptr_eq(&f[0], &e)));
    drop(r);
    assert_eq!(Arc::strong_count(&e), 1);
    assert_eq!(read(&t, &b, 99), Ok(b"after".to_vec()));
    // Unread ones are closed with the socket.
    let fd = t.install_fd(e.clone(), false).unwrap();
    send(&t, &a, b"x", None, &rights(&[fd]), 0).unwrap();
    t.files().remove(fd).unwrap();
    drop(b);
    assert_eq!(Arc::strong_count(&e), 1);
}

#[test]
fn cycles_of_sockets_in_flight_are_collected() {
    let t = task(&kernel());
    let e = EventFd::open(&t, 0, 0);
    let (a, b) = pair(&t, libc::SOCK_DGRAM);
    // b's queue holds a, a's queue holds b and an eventfd.
    let fds = [a.clone(), b.clone(), e.clone()].map(|f| t.install_fd(f, false).unwrap());
    send(&t, &a, b"x", None, &rights(&[fds[0]]), 0).unwrap();
    send(&t, &b, b"x", None, &rights(&[fds[1], fds[2]]), 0).unwrap();
    for fd in fds {
        drop(t.files().remove(fd).unwrap());
    }
    drop(a);
    // Still reachable through b.
    drop(make(&t, libc::SOCK_DGRAM));
    assert_eq!(Arc::strong_count(&e), 2);
    assert_eq!(recv(&t, &b, 9, libc::MSG_PEEK).unwrap().0, b"x");
    drop(b);
    // Any close finds the cycle.
    drop(make(&t, libc::SOCK_DGRAM));
    assert_eq!(Arc::strong_count(&e), 1);
}

#[test]
fn credentials_are_passed_and_checked() {
    let k = kernel();
    let t = task_as(&k, user(1000));
    let (a, b) = pair(&t, libc::SOCK_STREAM);
    write(&t, &a, b"plain").unwrap();
    sock(&b).options().set(&t, libc::SO_PASSCRED, &1i32.to_le_bytes()).unwrap().unwrap();
    let other = task_as(&k, user(1001));
    write(&t, &a, b"mine").unwrap();
    write(&other, &a, b"theirs").unwrap();
    let creds = |r: &Received| match &r.control[..] {
        [Control::Bytes { data, .. }] => data.clone(),
        _ => panic!("one control message"),
    };
    let ucred =
        |pid: i32, id: u32| [pid.to_le_bytes(), id.to_le_bytes(), id.to_le_bytes()].concat();
    // Bytes of different senders are not joined.
    let (data, r) = recv(&t, &b, 99, 0).unwrap();
    assert_eq!((&data[..], creds(&r)), (&b"plain"[..], ucred(0, 65534)));
    let (data, r) = recv(&t, &b, 99, 0).unwrap();
    assert_eq!((&data[..], creds(&r)), (&b"mine"[..], ucred(t.process.pid, 1000)));
    let (data, r) = recv(&t, &b, 99, 0).unwrap();
    assert_eq!((&data[..], creds(&r)), (&b"theirs"[..], ucred(other.process.pid, 1001)));
    let forged = cmsg(libc::SCM_CREDENTIALS, &ucred(1, 1000));
    assert_eq!(send(&t, &a, b"x", None, &forged, 0), Err(EPERM));
    let forged = cmsg(libc::SCM_CREDENTIALS, &ucred(t.process.pid, 0));
    assert_eq!(send(&t, &a, b"x", None, &forged, 0), Err(EPERM));
    let honest = cmsg(libc::SCM_CREDENTIALS, &ucred(t.process.pid, 1000));
    assert_eq!(send(&t, &a, b"x", None, &honest, 0), Ok(1));
}

#[test]
fn timeouts_and_buffer_sizes() {
    let t = task(&kernel());
    let (_a, b) = pair(&t, libc::SOCK_STREAM);
    let o = sock(&b).options();
    let tv = [0i64.to_le_bytes(), 2000i64.to_le_bytes()].concat();
    o.set(&t, libc::SO_RCVTIMEO, &tv).unwrap().unwrap();
    assert_eq!(o.get(libc::SO_RCVTIMEO), Some(tv));
    assert_eq!(read(&t, &b, 1), Err(EAGAIN));
    let bad = [0i64.to_le_bytes(), 2_000_000i64.to_le_bytes()].concat();
    assert_eq!(o.set(&t, libc::SO_RCVTIMEO, &bad), Some(Err(EDOM)));
    o.set(&t, libc::SO_SNDBUF, &10_000i32.to_le_bytes()).unwrap().unwrap();
    assert_eq!(o.get(libc::SO_SNDBUF), Some(20_000i32.to_le_bytes().to_vec()));
    o.set(&t, libc::SO_SNDBUF, &1i32.to_le_bytes()).unwrap().unwrap();
    assert_eq!(o.get(libc::SO_SNDBUF), Some(4608i32.to_le_bytes().to_vec()));
}
