//! pipe(7) and fifo(7), clause by clause.

mod common;

use std::collections::VecDeque;
use std::sync::Arc;

use common::{kernel, read, start, task, task_as, user, write};
use proptest::prelude::*;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::signal::bit;
use uml_core::vfs::Inode;
use uml_core::vfs::anon::{AnonInode, AnonKind};
use uml_ipc::pipe::{Pipe, Position};

const NONBLOCK: u32 = libc::O_NONBLOCK as u32;
const DIRECT: u32 = libc::O_DIRECT as u32;

#[test]
fn bytes_pass_in_order_and_end_with_the_writer() {
    let t = task(&kernel());
    let (r, w) = Pipe::pair(&t, 0).unwrap();
    assert_eq!(write(&t, &w, b"hello "), Ok(6));
    assert_eq!(write(&t, &w, b"world"), Ok(5));
    assert_eq!(Pipe::of(&r).unwrap().unread(), 11);
    assert_eq!(read(&t, &r, 8), Ok(b"hello wo".to_vec()));
    drop(w);
    assert_eq!(read(&t, &r, 8), Ok(b"rld".to_vec()));
    assert_eq!(read(&t, &r, 8), Ok(vec![]));
}

#[test]
fn capacity_is_counted_in_pages() {
    let t = task(&kernel());
    let (r, w) = Pipe::pair(&t, NONBLOCK).unwrap();
    // 1-byte writes share pages.
    let mut n = 0;
    while write(&t, &w, b"x").is_ok() {
        n += 1;
    }
    assert_eq!(n, 65536);
    assert_eq!(w.ops.poll(None), Events::NONE);
    // Room shows only once a whole page is free.
    assert_eq!(read(&t, &r, 4095).unwrap().len(), 4095);
    assert_eq!(w.ops.poll(None), Events::NONE);
    assert_eq!(read(&t, &r, 1).unwrap().len(), 1);
    assert_eq!(w.ops.poll(None), Events::WRITABLE);
    while !read(&t, &r, 65536).unwrap_or_default().is_empty() {}
    // 3000-byte writes do not fit twice into a page.
    let mut n = 0;
    while write(&t, &w, &[7; 3000]).is_ok() {
        n += 1;
    }
    assert_eq!(n, 16);
}

#[test]
fn small_writes_are_atomic_and_large_ones_partial_without_blocking() {
    let t = task(&kernel());
    let (r, w) = Pipe::pair(&t, NONBLOCK).unwrap();
    assert_eq!(write(&t, &w, &[1; 100_000]), Ok(65536));
    assert_eq!(write(&t, &w, &[1; 4096]), Err(EAGAIN));
    assert_eq!(read(&t, &r, 4097).unwrap().len(), 4097);
    assert_eq!(write(&t, &w, &[2; 4096]), Ok(4096));
    assert_eq!(write(&t, &w, &[2; 4096]), Err(EAGAIN));
}

#[test]
fn writing_without_readers_is_sigpipe() {
    let t = task(&kernel());
    t.set_blocked(bit(libc::SIGPIPE));
    let (r, w) = Pipe::pair(&t, 0).unwrap();
    drop(r);
    assert_eq!(write(&t, &w, b""), Ok(0));
    assert_eq!(t.pending_set(), 0);
    assert_eq!(write(&t, &w, b"x"), Err(EPIPE));
    assert_eq!(t.pending_set(), bit(libc::SIGPIPE));
    assert_eq!(w.ops.poll(None), Events::WRITABLE | Events::ERR);
}

#[test]
fn poll_reports_hang_up() {
    let t = task(&kernel());
    let (r, w) = Pipe::pair(&t, 0).unwrap();
    assert_eq!(r.ops.poll(None), Events::NONE);
    write(&t, &w, b"x").unwrap();
    assert_eq!(r.ops.poll(None), Events::READABLE);
    drop(w);
    assert_eq!(r.ops.poll(None), Events::READABLE | Events::HUP);
    read(&t, &r, 1).unwrap();
    assert_eq!(r.ops.poll(None), Events::HUP);
}

#[test]
fn packets_keep_their_boundaries() {
    let t = task(&kernel());
    let (r, w) = Pipe::pair(&t, DIRECT).unwrap();
    write(&t, &w, b"first").unwrap();
    write(&t, &w, b"second").unwrap();
    assert_eq!(write(&t, &w, &[9; 5000]), Ok(5000));
    assert_eq!(read(&t, &r, 100), Ok(b"first".to_vec()));
    assert_eq!(read(&t, &r, 3), Ok(b"sec".to_vec()));
    assert_eq!(read(&t, &r, 9999).unwrap().len(), 4096);
    assert_eq!(read(&t, &r, 9999).unwrap().len(), 904);
}

#[test]
fn capacity_can_be_changed() {
    let k = kernel();
    let root = task(&k);
    let (_r, w) = Pipe::pair(&root, NONBLOCK).unwrap();
    let p = Pipe::of(&w).unwrap();
    assert_eq!(p.capacity(), 65536);
    assert_eq!(p.set_capacity(&root, 5000), Ok(8192));
    assert_eq!(write(&root, &w, &[0; 100_000]), Ok(8192));
    assert_eq!(p.set_capacity(&root, 1), Err(EBUSY));
    assert_eq!(p.set_capacity(&root, 2 << 20), Ok(2 << 20));
    let plain = task_as(&k, user(1000));
    assert_eq!(p.set_capacity(&plain, 4 << 20), Err(EPERM));
    assert_eq!(p.set_capacity(&root, (1 << 31) + 1), Err(EINVAL));
}

#[test]
fn a_blocked_reader_and_writer_are_woken() {
    let k = kernel();
    let (a, b) = (task(&k), task(&k));
    let (r, w) = Pipe::pair(&a, 0).unwrap();
    let r2 = r.clone();
    let reader = start(&b, move |t| read(t, &r2, 10));
    write(&a, &w, b"ping").unwrap();
    assert_eq!(reader.join().unwrap(), Ok(b"ping".to_vec()));

    let w2 = w.clone();
    let writer = start(&b, move |t| write(t, &w2, &[3; 200_000]));
    let mut got = 0;
    while got < 200_000 {
        got += read(&a, &r, 10_000).unwrap().len();
    }
    assert_eq!(writer.join().unwrap(), Ok(200_000));

    let reader = start(&b, move |t| read(t, &r, 10));
    drop(w);
    assert_eq!(reader.join().unwrap(), Ok(vec![]));
}

#[test]
fn a_signal_interrupts_a_read_and_shortens_a_write() {
    use uml_core::signal::SigInfo;
    let k = kernel();
    let (a, b) = (task(&k), task(&k));
    b.process.sighand.lock().set_action(
        libc::SIGUSR1,
        uml_core::signal::SigAction { handler: 4096, ..Default::default() },
    );
    let (r, w) = Pipe::pair(&a, 0).unwrap();
    let r2 = r.clone();
    let reader = start(&b, move |t| read(t, &r2, 10));
    b.send_signal(SigInfo::kernel(libc::SIGUSR1));
    assert_eq!(reader.join().unwrap(), Err(EINTR));
    b.dequeue_signal(!0);
    b.recheck_signals();
    let writer = start(&b, move |t| write(t, &w, &[3; 100_000]));
    b.send_signal(SigInfo::kernel(libc::SIGUSR1));
    assert_eq!(writer.join().unwrap(), Ok(65536));
    drop(r);
}

#[test]
fn each_of_many_readers_gets_its_turn() {
    let k = kernel();
    let owner = task(&k);
    let (r, w) = Pipe::pair(&owner, 0).unwrap();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let r = r.clone();
            start(&task(&k), move |t| read(t, &r, 1))
        })
        .collect();
    // One wake-up for four bytes: each reader passes it on.
    write(&owner, &w, b"abcd").unwrap();
    let mut all: Vec<u8> = readers.into_iter().flat_map(|h| h.join().unwrap().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, b"abcd");
}

#[test]
fn fifo_open_rules() {
    let k = kernel();
    let (a, b) = (task(&k), task(&k));
    let inode: Arc<dyn Inode> = AnonInode::new(AnonKind::Pipe, &a.cred());
    let (rd, wr, rdwr) = (libc::O_RDONLY as u32, libc::O_WRONLY as u32, libc::O_RDWR as u32);
    assert!(matches!(uml_ipc::fifo::open(&a, &inode, wr | NONBLOCK), Err(ENXIO)));
    // Non-blocking reader: no hang-up until a writer came and went.
    let r = uml_ipc::fifo::open(&a, &inode, rd | NONBLOCK).unwrap();
    assert_eq!(r.poll(None), Events::NONE);
    let w = uml_ipc::fifo::open(&a, &inode, wr | NONBLOCK).unwrap();
    drop(w);
    assert_eq!(r.poll(None), Events::HUP);
    drop(r);
    // Blocking opens meet.
    let i2 = inode.clone();
    let opener = start(&b, move |t| uml_ipc::fifo::open(t, &i2, wr).map(|_| ()));
    assert!(!opener.is_finished());
    let r = uml_ipc::fifo::open(&a, &inode, rd).unwrap();
    assert_eq!(opener.join().unwrap(), Ok(()));
    drop(r);
    assert!(uml_ipc::fifo::open(&a, &inode, rdwr).is_ok());
}

/// The partner that an opener waits for may be gone again before the opener looks.
#[test]
fn fifo_partners_come_and_go() {
    let k = kernel();
    let (a, b) = (task(&k), task(&k));
    let (rd, wr) = (libc::O_RDONLY as u32, libc::O_WRONLY as u32);
    for round in 0..4000 {
        let inode: Arc<dyn Inode> = AnonInode::new(AnonKind::Pipe, &a.cred());
        let (mine, other) = if round % 2 == 0 { (rd, wr) } else { (wr, rd) };
        let i2 = inode.clone();
        let opener = start(&b, move |t| uml_ipc::fifo::open(t, &i2, other).map(|_| ()));
        assert!(uml_ipc::fifo::open(&a, &inode, mine).is_ok());
        assert_eq!(opener.join().unwrap(), Ok(()));
    }
}

#[test]
fn splice_moves_and_tee_copies() {
    let t = task(&kernel());
    let (r1, w1) = Pipe::pair(&t, 0).unwrap();
    let (r2, w2) = Pipe::pair(&t, 0).unwrap();
    write(&t, &w1, b"0123456789").unwrap();
    let (a, b) = (Pipe::of(&r1).unwrap(), Pipe::of(&w2).unwrap());
    assert_eq!(a.tee(b, &t, 4, true), Ok(4));
    assert_eq!(a.unread(), 10);
    assert_eq!(a.splice_to_pipe(b, &t, 3, true), Ok(3));
    assert_eq!(a.unread(), 7);
    assert_eq!(read(&t, &r2, 100), Ok(b"0123012".to_vec()));
    // Into a "file" and out of one: other pipes serve as such.
    assert_eq!(a.splice_to_file(&w2, Position::Own, &t, 5, true), Ok(5));
    assert_eq!(read(&t, &r2, 100), Ok(b"34567".to_vec()));
    assert_eq!(b.splice_from_file(&r1, Position::Own, &t, 100, true), Ok(2));
    assert_eq!(read(&t, &r2, 100), Ok(b"89".to_vec()));
    assert_eq!(a.splice_to_pipe(b, &t, 3, true), Err(EAGAIN));
    drop(w1);
    assert_eq!(a.splice_to_pipe(b, &t, 3, true), Ok(0));
}

/// What Linux's pipe does, as a list of pages.
#[derive(Default)]
struct Model {
    pages: VecDeque<(usize, VecDeque<u8>)>,
}

impl Model {
    fn write(&mut self, data: &[u8]) -> Option<usize> {
        let mut data = data.to_vec();
        let total = data.len();
        let odd = total % 4096;
        if odd != 0
            && let Some((end, page)) = self.pages.back_mut()
            && *end + odd <= 4096
        {
            page.extend(data.drain(..odd));
            *end += odd;
        }
        while !data.is_empty() && self.pages.len() < 16 {
            let n = data.len().min(4096);
            self.pages.push_back((n, data.drain(..n).collect()));
        }
        (data.len() < total || total == 0).then_some(total - data.len())
    }

    fn read(&mut self, n: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < n
            && let Some((_, page)) = self.pages.front_mut()
        {
            let k = page.len().min(n - out.len());
            out.extend(page.drain(..k));
            if page.is_empty() {
                self.pages.pop_front();
            }
        }
        out
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_page_model(ops in prop::collection::vec((any::<bool>(), 0usize..9000), 1..60)) {
        let t = task(&kernel());
        let (r, w) = Pipe::pair(&t, NONBLOCK).unwrap();
        let mut model = Model::default();
        let mut next = 0u8;
        for (is_write, n) in ops {
            if is_write {
                let data: Vec<u8> = (0..n).map(|_| { next = next.wrapping_add(1); next }).collect();
                prop_assert_eq!(write(&t, &w, &data).ok(), model.write(&data));
            } else if n > 0 {
                let got = read(&t, &r, n).unwrap_or_default();
                prop_assert_eq!(got, model.read(n));
            }
            let full = model.pages.len() == 16;
            prop_assert_eq!(w.ops.poll(None) == Events::WRITABLE, !full);
            prop_assert_eq!(r.ops.poll(None) == Events::READABLE, !model.pages.is_empty());
        }
    }
}
