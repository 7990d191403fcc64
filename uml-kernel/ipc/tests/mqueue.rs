//! mq_overview(7).

mod common;

use std::time::{Duration, Instant};

use common::{kernel, read, start, task, task_as, user};
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::signal::{SigFields, bit};
use uml_ipc::mqueue::{self, MqFile, Notify};

const RDWR: i32 = libc::O_RDWR;
const CREAT: i32 = libc::O_CREAT;

#[test]
fn messages_come_by_priority_then_age() {
    let k = kernel();
    let t = task(&k);
    let f = mqueue::open(&t, b"prio", RDWR | CREAT, 0o600, Some((3, 16))).unwrap();
    let q = MqFile::of(&f).unwrap();
    for (p, m) in [(1, "low"), (5, "first"), (5, "second")] {
        q.send(&t, m.as_bytes(), p, true, None).unwrap();
    }
    assert_eq!(q.send(&t, b"x", 9, true, None), Err(EAGAIN));
    let soon = Some(Instant::now() + Duration::from_millis(1));
    assert_eq!(q.send(&t, b"x", 9, false, soon), Err(ETIMEDOUT));
    assert_eq!(q.send(&t, &[0; 17], 0, true, None), Err(EMSGSIZE));
    assert_eq!(f.ops.poll(None), Events::READABLE);
    assert_eq!(q.receive(&t, true, None), Ok((b"first".to_vec(), 5)));
    assert_eq!(q.receive(&t, true, None), Ok((b"second".to_vec(), 5)));
    assert_eq!(q.receive(&t, true, None), Ok((b"low".to_vec(), 1)));
    assert_eq!(q.receive(&t, true, None), Err(EAGAIN));
    let f2 = f.clone();
    let h = start(&task(&k), move |t| MqFile::of(&f2).unwrap().receive(t, false, None));
    q.send(&t, b"late", 0, true, None).unwrap();
    assert_eq!(h.join().unwrap(), Ok((b"late".to_vec(), 0)));
    mqueue::unlink(&t, b"prio").unwrap();
    assert_eq!(mqueue::unlink(&t, b"prio"), Err(ENOENT));
}

#[test]
fn names_modes_and_limits() {
    let k = kernel();
    let (a, b) = (task_as(&k, user(1000)), task_as(&k, user(1001)));
    let open = |t, name: &[u8], flags, attr| mqueue::open(t, name, flags, 0o640, attr).err();
    assert_eq!(open(&a, b"none", RDWR, None), Some(ENOENT));
    assert_eq!(open(&a, b"a/b", RDWR | CREAT, None), Some(EACCES));
    assert_eq!(open(&a, &[b'x'; 256], RDWR | CREAT, None), Some(ENAMETOOLONG));
    assert_eq!(open(&a, b"q", RDWR | CREAT, Some((0, 1))), Some(EINVAL));
    assert_eq!(open(&a, b"q", RDWR | CREAT, Some((11, 1))), Some(EINVAL));
    assert_eq!(open(&a, b"q", RDWR | CREAT, None), None);
    assert_eq!(open(&a, b"q", RDWR | CREAT | libc::O_EXCL, None), Some(EEXIST));
    assert_eq!(open(&b, b"q", libc::O_RDONLY, None), Some(EACCES));
    assert_eq!(mqueue::unlink(&b, b"q"), Err(EACCES));
    // RLIMIT_MSGQUEUE holds nine queues of the default size and not ten.
    let made =
        (0..20).filter(|i| open(&a, format!("q{i}").as_bytes(), RDWR | CREAT, None).is_none());
    assert_eq!(made.count(), 8);
    for i in 0..8 {
        mqueue::unlink(&a, format!("q{i}").as_bytes()).unwrap();
    }
    assert_eq!(open(&a, b"q9", RDWR | CREAT, None), None);
    mqueue::unlink(&a, b"q9").unwrap();
    mqueue::unlink(&a, b"q").unwrap();
}

#[test]
fn one_process_is_notified_of_the_first_message() {
    let k = kernel();
    let (t, other) = (task(&k), task(&k));
    t.set_blocked(bit(libc::SIGUSR1));
    let f = mqueue::open(&t, b"notify", RDWR | CREAT, 0o600, None).unwrap();
    let q = MqFile::of(&f).unwrap();
    q.notify(&t, Some(Notify::Signal(libc::SIGUSR1, 42))).unwrap();
    assert_eq!(q.notify(&other, Some(Notify::None)), Err(EBUSY));
    assert_eq!(q.notify(&other, None), Ok(()));
    let status = String::from_utf8(read(&t, &f, 99).unwrap()).unwrap();
    assert!(status.contains("SIGNO:10") && status.contains(&format!("PID:{}", t.process.pid)));
    q.send(&other, b"x", 0, true, None).unwrap();
    let info = t.dequeue_signal(bit(libc::SIGUSR1)).unwrap();
    assert_eq!(info.code, -3);
    assert_eq!(info.fields, SigFields::Queue { pid: other.process.pid, uid: 0, value: 42 });
    // The registration is used up.
    q.receive(&t, true, None).unwrap();
    q.send(&other, b"x", 0, true, None).unwrap();
    assert_eq!(t.dequeue_signal(bit(libc::SIGUSR1)), None);
    mqueue::unlink(&t, b"notify").unwrap();
}
