//! signalfd(2) and pidfd_open(2).

mod common;

use common::{kernel, read, start, task};
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::signal::{SigInfo, bit};
use uml_core::task::tree::ChildState;
use uml_ipc::epoll::{Epoll, EpollEvent};
use uml_ipc::pidfd::PidFd;
use uml_ipc::signalfd::SignalFd;

#[test]
fn signals_are_read_instead_of_delivered() {
    let k = kernel();
    let t = task(&k);
    let (usr1, usr2) = (bit(libc::SIGUSR1), bit(libc::SIGUSR2));
    t.set_blocked(usr1 | usr2);
    let f = SignalFd::open(&t, usr1 | bit(libc::SIGKILL), libc::SFD_NONBLOCK);
    assert_eq!(SignalFd::of(&f).unwrap().mask(), usr1);
    assert_eq!(read(&t, &f, 128), Err(EAGAIN));
    assert_eq!(read(&t, &f, 127), Err(EINVAL));
    t.send_signal(SigInfo::kernel(libc::SIGUSR2));
    assert_eq!(f.ops.poll_as(&t, None), Events::NONE);
    t.send_signal(SigInfo::user(libc::SIGUSR1, &t));
    assert_eq!(f.ops.poll_as(&t, None), Events::READABLE);
    // Another process sees its own signals through the same descriptor.
    assert_eq!(f.ops.poll_as(&task(&k), None), Events::NONE);
    let b = read(&t, &f, 1000).unwrap();
    assert_eq!(b.len(), 128);
    assert_eq!(b[..4], (libc::SIGUSR1 as u32).to_le_bytes());
    assert_eq!(b[12..16], t.process.pid.to_le_bytes());
    assert_eq!(t.pending_set(), usr2);
    SignalFd::of(&f).unwrap().set_mask(&t, usr2);
    assert_eq!(read(&t, &f, 128).unwrap()[..4], (libc::SIGUSR2 as u32).to_le_bytes());
}

#[test]
fn an_epoll_wait_sees_signals_sent_to_the_process() {
    let k = kernel();
    let t = task(&k);
    t.set_blocked(bit(libc::SIGCHLD));
    let f = SignalFd::open(&t, bit(libc::SIGCHLD), 0);
    let ep = Epoll::open(&t);
    Epoll::of(&ep).unwrap().add(&t, 0, &f, EpollEvent { events: 1, data: 5 }).unwrap();
    let h = start(&t, move |t| {
        let mut got = 0;
        let n = Epoll::of(&ep).unwrap().wait(t, 4, None, |e| {
            got = e[0].data;
            Ok(())
        });
        (n, got)
    });
    t.process.send_signal(&k, SigInfo::kernel(libc::SIGCHLD));
    assert_eq!(h.join().unwrap(), (Ok(1), 5));
}

#[test]
fn a_pidfd_becomes_readable_at_exit() {
    let k = kernel();
    let (t, child) = (task(&k), task(&k));
    let f = PidFd::open(&t, &child.process, 0);
    assert_eq!(f.ops.poll(None), Events::NONE);
    if let Some(p) = k.tree.write().get_mut(child.process.pid) {
        p.state = ChildState::Zombie(0);
    }
    assert_eq!(f.ops.poll(None), Events::READABLE);
    k.tree.write().remove_process(child.process.pid);
    assert_eq!(f.ops.poll(None), Events::READABLE | Events::HUP);
    assert!(matches!(PidFd::of(&Epoll::open(&t)), Err(EBADF)));
}
