//! What happens within one step: answers that are there when a packet has left, and floods that nobody reads.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use uml_abi::errno::*;

use crate::interface::{Address, Device, Features, Interface, Link, Sent, iff};
use crate::packet::{Data, Packet};
use crate::ping::PingSocket;
use crate::sock::SendInfo;
use crate::stack::{Cx, Stack};
use crate::time::{Clock, SEC, Time};
use crate::udp::UdpSocket;
use crate::wire::ethernet::Mac;
use crate::wire::ipv4::Ipv4;
use crate::wire::{proto, udp};

struct Still;

impl Clock for Still {
    fn now(&self) -> Time {
        Time(SEC)
    }
}

/// The other end gives everything back with its ends exchanged.
#[derive(Default)]
struct Mirror {
    back: Mutex<VecDeque<Vec<u8>>>,
    asked: AtomicUsize,
}

impl Device for Mirror {
    fn features(&self) -> Features {
        Features::NONE
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        let packets = batch.len() as u64;
        for p in batch.drain(..) {
            let mut b = p.to_vec();
            // Addresses and, of datagrams, ports: no checksum changes.
            let ends: Vec<u8> = b[12..20].to_vec();
            b[12..16].copy_from_slice(&ends[4..]);
            b[16..20].copy_from_slice(&ends[..4]);
            if b[9] == proto::UDP {
                b[20..24].rotate_left(2);
            }
            self.back.lock().unwrap().push_back(b);
        }
        Sent { packets, ..Sent::default() }
    }

    fn answers(&self, cx: &mut Cx, iface: &Arc<Interface>) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let all: Vec<Vec<u8>> = self.back.lock().unwrap().drain(..).collect();
        let stack = cx.stack().clone();
        for b in all {
            stack.receive(cx, iface, Packet::contiguous(&b));
        }
    }
}

fn machine() -> (Arc<Stack>, Arc<Interface>, Arc<Mirror>) {
    let stack = Stack::new(Arc::new(Still), [5; 32]);
    let d = Arc::new(Mirror::default());
    let i = stack.add_interface("tun0", Link::None, Mac::ZERO, 1500, 1500, d.clone()).unwrap();
    i.v6.disabled.store(true, Ordering::SeqCst);
    stack.set_flags(&i, iff::UP, iff::UP).unwrap();
    stack.add_address(&i, Address::new("10.0.0.1".parse().unwrap(), 24), false).unwrap();
    // What going up made it say is no part of a test.
    d.back.lock().unwrap().clear();
    d.asked.store(0, Ordering::SeqCst);
    (stack, i, d)
}

#[test]
fn who_sends_finds_the_answer_that_came_at_once() {
    let (stack, _, d) = machine();
    let s = UdpSocket::new(&stack, false);
    let to: SocketAddr = "10.0.0.2:7".parse().unwrap();
    s.send(Some((to, 0)), Data::copy_of(b"echo"), &SendInfo::default(), false).unwrap();
    let got = s.recv(false).unwrap().unwrap();
    assert_eq!((got.src, got.data.to_vec()), (to, b"echo".to_vec()));
    assert_eq!(d.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_step_asks_for_answers_once() {
    let (stack, _, d) = machine();
    let s = PingSocket::new(&stack, false);
    let echo = [8, 0, 0, 0, 0, 0, 0, 1];
    s.send(Some(("10.0.0.2".parse().unwrap(), 0)), &echo, &SendInfo::default()).unwrap();
    // The request came back, and was answered: two that answer each other do not keep the sender for ever.
    assert_eq!(d.asked.load(Ordering::SeqCst), 1);
    assert_eq!(d.back.lock().unwrap().len(), 1);
}

/// A datagram for the socket of a test.
fn datagram(n: usize) -> Packet {
    let mut b = Vec::new();
    Ipv4::new([10, 0, 0, 2].into(), [10, 0, 0, 1].into(), proto::UDP, 64, udp::HEADER + 18)
        .write(&[], &mut b);
    b.extend(udp::Udp { src: 9, dst: 5000, len: udp::HEADER + 18, checksum: 0 }.bytes());
    b.extend([n as u8; 18]);
    Packet::contiguous(&b)
}

#[test]
fn what_a_reader_far_behind_does_not_get_is_surplus() {
    let (stack, i, _) = machine();
    let s = UdpSocket::new(&stack, false);
    s.bind("10.0.0.1:5000".parse().unwrap(), 0).unwrap();
    let flood = |n: usize| {
        stack.enter(|cx| {
            (0..n).for_each(|n| stack.receive(cx, &i, datagram(n)));
            cx.surplus()
        })
    };
    assert_eq!(flood(100), 0);
    let surplus = flood(900);
    let kept = std::iter::from_fn(|| s.recv(false).ok().flatten()).count();
    assert_eq!((surplus, s.usage().1), (1000 - kept, (1000 - kept) as u64));
    assert_eq!(stack.snmp.udp.rcvbuf_errors.get(), surplus as u64);
    assert_eq!(stack.snmp.udp.in_datagrams.get(), kept as u64);
    // Few datagrams are read sooner than anybody could wait.
    s.opts.lock().rcvbuf = 8192;
    assert_eq!(flood(100), 0);
    assert!(s.usage().1 > surplus as u64 + 80);
    assert_eq!(s.recv(false).unwrap().unwrap().data.to_vec(), [0; 18]);
    assert_eq!(std::iter::from_fn(|| s.recv(false).ok().flatten()).count(), 9);
    assert_eq!(s.recv(false).err(), Some(EAGAIN));
}
