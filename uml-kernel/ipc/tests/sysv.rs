//! sysvipc(7): semaphore sets and message queues.

mod common;

use std::time::{Duration, Instant};

use common::{kernel, start, task, task_as, user};
use uml_abi::errno::*;
use uml_ipc::sysv::sem::{self, SemOp};
use uml_ipc::sysv::{IPC_CREAT, IPC_EXCL, IPC_NOWAIT, IPC_PRIVATE, msg, shm};

const UNDO: i16 = 0x1000;

fn op(num: u16, op: i16, flags: i16) -> SemOp {
    SemOp { num, op, flags }
}

#[test]
fn keys_find_objects_and_modes_protect_them() {
    let k = kernel();
    let (a, b) = (task_as(&k, user(1000)), task_as(&k, user(1001)));
    let key = 0x5e11;
    assert_eq!(sem::get(&a, key, 2, 0o600), Err(ENOENT));
    let id = sem::get(&a, key, 2, IPC_CREAT | 0o640).unwrap();
    assert_eq!(sem::get(&a, key, 0, 0o600), Ok(id));
    assert_eq!(sem::get(&a, key, 3, 0o600), Err(EINVAL));
    assert_eq!(sem::get(&a, key, 2, IPC_CREAT | IPC_EXCL), Err(EEXIST));
    assert_eq!(sem::get(&b, key, 2, 0o600), Err(EACCES));
    let set = sem::table(&a).find(id).unwrap();
    assert_eq!(set.check(&b, &[op(0, 1, 0)]), Err(EACCES));
    assert_eq!(set.check(&a, &[op(2, 1, 0)]), Err(EFBIG));
    assert_eq!(set.remove(&b, id), Err(EPERM));
    set.remove(&a, id).unwrap();
    assert!(sem::table(&a).find(id).is_err());
    assert_eq!(set.operate(&a, &[op(0, 1, 0)], None), Err(EIDRM));
}

#[test]
fn operations_are_atomic_wait_and_are_undone() {
    let k = kernel();
    let (t, other) = (task(&k), task(&k));
    let id = sem::get(&t, IPC_PRIVATE, 2, 0o600).unwrap();
    let set = sem::table(&t).find(id).unwrap();
    set.operate(&t, &[op(0, 3, 0)], None).unwrap();
    // The second operation cannot be done, so the first is not either.
    let both = [op(0, -1, 0), op(1, -1, IPC_NOWAIT as i16)];
    assert_eq!(set.operate(&t, &both, None), Err(EAGAIN));
    assert_eq!(set.values(), [3, 0]);
    let soon = Some(Instant::now() + Duration::from_millis(2));
    assert_eq!(set.operate(&t, &[op(1, -1, 0)], soon), Err(EAGAIN));
    let s2 = set.clone();
    let h = start(&other, move |t| s2.operate(t, &[op(0, -3, UNDO), op(1, -1, 0)], None));
    assert_eq!(set.one(1).map(|s| s.2), Ok(1));
    set.operate(&t, &[op(1, 1, 0)], None).unwrap();
    assert_eq!(h.join().unwrap(), Ok(()));
    assert_eq!((set.values(), set.one(1).map(|s| s.2)), (vec![0, 0], Ok(0)));
    assert_eq!(set.one(0).map(|s| s.1), Ok(other.process.pid));
    sem::exit_process(&other);
    assert_eq!(set.values(), [3, 0]);
    assert_eq!(set.set_value(&t, 0, 40000), Err(ERANGE));
    set.set_values(&t, &[32767, 5]).unwrap();
    assert_eq!(set.operate(&t, &[op(0, 1, 0)], None), Err(ERANGE));
    let s2 = set.clone();
    let h = start(&other, move |t| s2.operate(t, &[op(1, 0, 0)], None));
    assert_eq!(set.one(1).map(|s| s.3), Ok(1));
    set.remove(&t, id).unwrap();
    assert_eq!(h.join().unwrap(), Err(EIDRM));
}

#[test]
fn messages_are_chosen_by_type() {
    let k = kernel();
    let t = task(&k);
    let id = msg::get(&t, IPC_PRIVATE, 0o600).unwrap();
    let q = msg::table(&t).find(id).unwrap();
    let get = |kind, max, flags: i32| q.receive(&t, kind, max, flags | IPC_NOWAIT);
    for (kind, text) in [(5, "five"), (3, "three"), (9, "nine"), (3, "again")] {
        q.send(&t, kind, text.as_bytes(), 0).unwrap();
    }
    assert_eq!(q.send(&t, 0, b"x", 0), Err(EINVAL));
    assert_eq!(get(3, 2, 0), Err(E2BIG));
    assert_eq!(get(3, 2, 0o10000), Ok((3, b"th".to_vec())));
    assert_eq!(get(2, 0o40000, 0o40000), Ok((3, b"again".to_vec())));
    assert_eq!(get(-6, 99, 0), Ok((3, b"again".to_vec())));
    assert_eq!(get(5, 99, 0o20000), Ok((9, b"nine".to_vec())));
    assert_eq!(get(7, 99, 0), Err(ENOMSG));
    assert_eq!(get(0, 99, 0), Ok((5, b"five".to_vec())));
    // A full queue blocks the sender; an empty one the receiver.
    for _ in 0..2 {
        q.send(&t, 1, &[0; 8192], 0).unwrap();
    }
    assert_eq!(q.send(&t, 1, b"x", IPC_NOWAIT), Err(EAGAIN));
    let q2 = q.clone();
    let h = start(&task(&k), move |t| q2.send(t, 2, b"late", 0));
    get(0, 8192, 0).unwrap();
    assert_eq!(h.join().unwrap(), Ok(()));
    let q2 = q.clone();
    let h = start(&task(&k), move |t| q2.receive(t, 77, 9, 0));
    q.remove(&t, id).unwrap();
    assert_eq!(h.join().unwrap(), Err(EIDRM));
}

#[test]
fn segments_have_sizes_and_go_when_removed() {
    let k = kernel();
    let t = task(&k);
    assert_eq!(shm::get(&t, IPC_PRIVATE, 0, 0o600), Err(EINVAL));
    assert_eq!(shm::get(&t, IPC_PRIVATE, u64::MAX, 0o600), Err(EINVAL));
    let id = shm::get(&t, 0x5e12, 5000, IPC_CREAT | 0o600).unwrap();
    assert_eq!(shm::get(&t, 0x5e12, 5001, 0), Err(EINVAL));
    assert_eq!(shm::get(&t, 0x5e12, 0, 0), Ok(id));
    let s = shm::table(&t).find(id).unwrap();
    assert_eq!((s.stat().size, s.stat().nattch), (5000, 0));
    s.remove(&t).unwrap();
    assert!(shm::table(&t).find(id).is_err());
    // The position is used again, the identifier is not.
    assert_ne!(shm::get(&t, 0x5e12, 1, IPC_CREAT), Ok(id));
}
