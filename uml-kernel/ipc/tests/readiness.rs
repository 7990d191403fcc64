//! poll(2), epoll(7) and eventfd(2).

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{kernel, read, start, task, write};
use proptest::prelude::*;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::file::File;
use uml_core::task::Task;
use uml_ipc::epoll::{EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT, Epoll, EpollEvent};
use uml_ipc::eventfd::EventFd;
use uml_ipc::pipe::Pipe;
use uml_ipc::poll::{PollItem, poll};

const IN: u32 = 1;
const OUT: u32 = 4;
const HUP: u32 = 16;

fn ev(events: u32, data: u64) -> EpollEvent {
    EpollEvent { events, data }
}

fn now() -> Option<Instant> {
    Some(Instant::now())
}

/// What a wait with timeout 0 returns, as (data, events).
fn ready(task: &Task, ep: &File, max: usize) -> Vec<(u64, u32)> {
    let mut out = Vec::new();
    let epoll = Epoll::of(ep).unwrap();
    let n = epoll.wait(task, max, now(), |e| {
        out.extend(e.iter().map(|e| (e.data, e.events)));
        Ok(())
    });
    assert_eq!(n, Ok(out.len()));
    out
}

#[test]
fn poll_finds_what_is_ready_and_times_out() {
    let k = kernel();
    let t = task(&k);
    let (r, w) = Pipe::pair(&t, 0).unwrap();
    let item = |f: &Arc<File>, e| PollItem::new(Some(f.clone()), e);
    let mut items = [item(&r, Events::IN), item(&w, Events::OUT), PollItem::new(None, Events::IN)];
    assert_eq!(poll(&t, &mut items, None), Ok(2));
    assert_eq!(items[0].ready, Events::NONE);
    assert_eq!(items[1].ready, Events::OUT);
    assert_eq!(items[2].ready, Events::NVAL);
    let mut one = [item(&r, Events::IN)];
    let soon = Instant::now() + Duration::from_millis(5);
    assert_eq!(poll(&t, &mut one, Some(soon)), Ok(0));
    assert!(Instant::now() >= soon);

    let r2 = r.clone();
    let sleeper = start(&task(&k), move |t| {
        let mut one = [PollItem::new(Some(r2), Events::IN)];
        poll(t, &mut one, None).map(|n| (n, one[0].ready))
    });
    write(&t, &w, b"x").unwrap();
    assert_eq!(sleeper.join().unwrap(), Ok((1, Events::IN)));
}

#[test]
fn eventfd_counts() {
    let k = kernel();
    let t = task(&k);
    let e = EventFd::open(&t, 3, libc::EFD_NONBLOCK);
    assert_eq!(read(&t, &e, 8), Ok(3u64.to_le_bytes().to_vec()));
    assert_eq!(read(&t, &e, 8), Err(EAGAIN));
    assert_eq!(read(&t, &e, 7), Err(EINVAL));
    assert_eq!(write(&t, &e, &u64::MAX.to_le_bytes()), Err(EINVAL));
    assert_eq!(write(&t, &e, &(u64::MAX - 1).to_le_bytes()), Ok(8));
    assert_eq!(e.ops.poll(None), Events::READABLE);
    assert_eq!(write(&t, &e, &1u64.to_le_bytes()), Err(EAGAIN));
    assert_eq!(read(&t, &e, 8), Ok((u64::MAX - 1).to_le_bytes().to_vec()));
    assert_eq!(e.ops.poll(None), Events::WRITABLE);

    let s = EventFd::open(&t, 2, libc::EFD_SEMAPHORE);
    assert_eq!(read(&t, &s, 8), Ok(1u64.to_le_bytes().to_vec()));
    assert_eq!(read(&t, &s, 8), Ok(1u64.to_le_bytes().to_vec()));
    let s2 = s.clone();
    let reader = start(&task(&k), move |t| read(t, &s2, 8));
    write(&t, &s, &1u64.to_le_bytes()).unwrap();
    assert_eq!(reader.join().unwrap(), Ok(1u64.to_le_bytes().to_vec()));
}

#[test]
fn ctl_errors() {
    let t = task(&kernel());
    let ep = Epoll::open(&t);
    let e = Epoll::of(&ep).unwrap();
    let (r, _w) = Pipe::pair(&t, 0).unwrap();
    assert_eq!(e.add(&t, 9, &ep, ev(IN, 0)), Err(EINVAL));
    assert_eq!(e.modify(&t, 3, &r, ev(IN, 0)), Err(ENOENT));
    assert_eq!(e.delete(3, &r), Err(ENOENT));
    e.add(&t, 3, &r, ev(IN, 0)).unwrap();
    assert_eq!(e.add(&t, 3, &r, ev(IN, 0)), Err(EEXIST));
    // The same file under another descriptor is another entry.
    e.add(&t, 4, &r, ev(IN, 0)).unwrap();
    assert_eq!(e.modify(&t, 4, &r, ev(IN | EPOLLEXCLUSIVE, 0)), Err(EINVAL));
    assert_eq!(e.add(&t, 5, &r, ev(IN | EPOLLEXCLUSIVE | EPOLLONESHOT, 0)), Err(EINVAL));
    assert!(matches!(Epoll::of(&r), Err(EINVAL)));
}

#[test]
fn level_edge_and_one_shot() {
    let t = task(&kernel());
    let ep = Epoll::open(&t);
    let e = Epoll::of(&ep).unwrap();
    let pipes: Vec<_> = (0..3).map(|_| Pipe::pair(&t, 0).unwrap()).collect();
    for (i, flags) in [0, EPOLLET, EPOLLONESHOT].iter().enumerate() {
        e.add(&t, i as i32, &pipes[i].0, ev(IN | flags, i as u64)).unwrap();
    }
    assert_eq!(ready(&t, &ep, 9), []);
    for p in &pipes {
        write(&t, &p.1, b"xx").unwrap();
    }
    assert_eq!(ready(&t, &ep, 9), [(0, IN), (1, IN), (2, IN)]);
    assert_eq!(ready(&t, &ep, 9), [(0, IN)]);
    for p in &pipes {
        write(&t, &p.1, b"x").unwrap();
    }
    let mut again = ready(&t, &ep, 9);
    again.sort_unstable();
    assert_eq!(again, [(0, IN), (1, IN)]);
    // Re-arming reports what is there.
    e.modify(&t, 2, &pipes[2].0, ev(IN | EPOLLONESHOT, 22)).unwrap();
    let mut again = ready(&t, &ep, 9);
    again.sort_unstable();
    assert_eq!(again, [(0, IN), (22, IN)]);
    e.delete(0, &pipes[0].0).unwrap();
    assert_eq!(ready(&t, &ep, 9), []);
}

#[test]
fn limited_waits_go_round() {
    let t = task(&kernel());
    let ep = Epoll::open(&t);
    let e = Epoll::of(&ep).unwrap();
    let pipes: Vec<_> = (0..4).map(|_| Pipe::pair(&t, 0).unwrap()).collect();
    for (i, p) in pipes.iter().enumerate() {
        e.add(&t, i as i32, &p.0, ev(IN, i as u64)).unwrap();
        write(&t, &p.1, b"x").unwrap();
    }
    let seen: Vec<u64> = (0..4).flat_map(|_| ready(&t, &ep, 1)).map(|e| e.0).collect();
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[test]
fn closing_the_file_removes_the_entry() {
    let t = task(&kernel());
    let ep = Epoll::open(&t);
    let e = Epoll::of(&ep).unwrap();
    let (r, w) = Pipe::pair(&t, 0).unwrap();
    e.add(&t, 0, &r, ev(IN, 7)).unwrap();
    let dup = r.clone();
    drop(r);
    assert_eq!(e.entries().len(), 1);
    drop(dup);
    assert_eq!(e.entries().len(), 0);
    assert_eq!(w.ops.poll(None), Events::WRITABLE | Events::ERR);
    // And the other way round: a closed instance leaves the file alone.
    let (r, w) = Pipe::pair(&t, 0).unwrap();
    e.add(&t, 0, &r, ev(IN, 7)).unwrap();
    drop(ep);
    write(&t, &w, b"x").unwrap();
    assert_eq!(read(&t, &r, 9), Ok(b"x".to_vec()));
}

#[test]
fn instances_nest_without_loops() {
    let t = task(&kernel());
    let eps: Vec<_> = (0..7).map(|_| Epoll::open(&t)).collect();
    let e = |i: usize| Epoll::of(&eps[i]).unwrap();
    for i in 0..4 {
        e(i).add(&t, 0, &eps[i + 1], ev(IN, i as u64)).unwrap();
    }
    assert_eq!(e(4).add(&t, 0, &eps[0], ev(IN, 0)), Err(ELOOP));
    assert_eq!(e(4).add(&t, 0, &eps[5], ev(IN, 0)), Err(ELOOP));
    assert_eq!(e(5).add(&t, 0, &eps[0], ev(IN, 0)), Err(ELOOP));
    let (r, w) = Pipe::pair(&t, 0).unwrap();
    e(4).add(&t, 1, &r, ev(IN, 99)).unwrap();
    assert_eq!(ready(&t, &eps[0], 9), []);
    write(&t, &w, b"x").unwrap();
    assert_eq!(ready(&t, &eps[0], 9), [(0, IN)]);
    assert_eq!(ready(&t, &eps[4], 9), [(99, IN)]);
    read(&t, &r, 1).unwrap();
    assert_eq!(ready(&t, &eps[0], 9), []);
}

#[test]
fn waiters_are_woken_one_per_event() {
    let k = kernel();
    let t = task(&k);
    let ep = Epoll::open(&t);
    let e = Epoll::of(&ep).unwrap();
    let files: Vec<_> = (0..2).map(|_| EventFd::open(&t, 0, 0)).collect();
    for (i, f) in files.iter().enumerate() {
        e.add(&t, i as i32, f, ev(IN | EPOLLET, i as u64)).unwrap();
    }
    let wait = |ep: &Arc<File>| {
        let ep = ep.clone();
        start(&task(&k), move |t| {
            let mut got = 0;
            let n = Epoll::of(&ep).unwrap().wait(t, 1, None, |e| {
                got = e[0].data;
                Ok(())
            });
            (n, got)
        })
    };
    let (a, b) = (wait(&ep), wait(&ep));
    write(&t, &files[0], &1u64.to_le_bytes()).unwrap();
    write(&t, &files[1], &1u64.to_le_bytes()).unwrap();
    let mut got = [a.join().unwrap(), b.join().unwrap()];
    got.sort_by_key(|g| g.1);
    assert_eq!(got, [(Ok(1), 0), (Ok(1), 1)]);
}

#[test]
fn an_exclusive_entry_wakes_one_instance() {
    let k = kernel();
    let t = task(&k);
    let (r, w) = Pipe::pair(&t, 0).unwrap();
    let eps: Vec<_> = (0..2).map(|_| Epoll::open(&t)).collect();
    let mut waits = Vec::new();
    for ep in &eps {
        Epoll::of(ep).unwrap().add(&t, 0, &r, ev(IN | EPOLLEXCLUSIVE, 0)).unwrap();
        let ep = ep.clone();
        waits.push(start(&task(&k), move |t| Epoll::of(&ep).unwrap().wait(t, 1, None, |_| Ok(()))));
    }
    write(&t, &w, b"x").unwrap();
    assert_eq!(waits.remove(0).join().unwrap(), Ok(1));
    assert!(!waits[0].is_finished());
    drop(w);
    assert_eq!(waits.remove(0).join().unwrap(), Ok(1));
}

#[derive(Clone, Debug)]
enum Op {
    Add(usize, u32),
    Mod(usize, u32),
    Del(usize),
    Write(usize),
    Drain(usize),
    CloseWriter(usize),
    Wait(usize),
}

#[derive(Default)]
struct ModelItem {
    mask: u32,
    /// Something happened since it was last reported.
    event: bool,
}

fn op() -> impl Strategy<Value = Op> {
    let flags = prop::sample::select(vec![0, EPOLLET, EPOLLONESHOT, EPOLLET | EPOLLONESHOT]);
    let n = 0usize..4;
    prop_oneof![
        2 => (n.clone(), flags.clone()).prop_map(|(i, f)| Op::Add(i, f)),
        2 => (n.clone(), flags).prop_map(|(i, f)| Op::Mod(i, f)),
        1 => n.clone().prop_map(Op::Del),
        4 => n.clone().prop_map(Op::Write),
        3 => n.clone().prop_map(Op::Drain),
        1 => n.prop_map(Op::CloseWriter),
        6 => (1usize..5).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// A wait reports exactly the entries that are ready and have news (edge), are ready (level) and
    /// are armed (one-shot).
    #[test]
    fn epoll_agrees_with_its_model(ops in prop::collection::vec(op(), 1..80)) {
        let t = task(&kernel());
        let ep = Epoll::open(&t);
        let e = Epoll::of(&ep).unwrap();
        let mut pipes: Vec<_> = (0..4)
            .map(|_| Pipe::pair(&t, libc::O_NONBLOCK as u32).map(|(r, w)| (r, Some(w))).unwrap())
            .collect();
        let mut model: BTreeMap<usize, ModelItem> = BTreeMap::new();
        let state = |p: &(Arc<File>, Option<Arc<File>>)| {
            let bits = p.0.ops.poll(None);
            (if bits.intersects(Events::IN) { IN } else { 0 })
                | (if bits.intersects(Events::HUP) { HUP } else { 0 })
        };
        for op in ops {
            match op {
                Op::Add(i, f) => {
                    let r = e.add(&t, i as i32, &pipes[i].0, ev(IN | OUT | f, i as u64));
                    prop_assert_eq!(r.is_ok(), !model.contains_key(&i));
                    model.entry(i).or_insert(ModelItem { mask: IN | f, event: true });
                }
                Op::Mod(i, f) => {
                    let r = e.modify(&t, i as i32, &pipes[i].0, ev(IN | f, i as u64));
                    prop_assert_eq!(r.is_ok(), model.contains_key(&i));
                    if let Some(m) = model.get_mut(&i) {
                        let was_listed = m.event;
                        // Not ready now means no event from the change itself.
                        *m = ModelItem { mask: IN | f, event: was_listed || state(&pipes[i]) != 0 };
                    }
                }
                Op::Del(i) => {
                    let r = e.delete(i as i32, &pipes[i].0);
                    prop_assert_eq!(r.is_ok(), model.remove(&i).is_some());
                }
                Op::Write(i) => {
                    if let Some(w) = &pipes[i].1
                        && write(&t, w, b"x").is_ok()
                        && let Some(m) = model.get_mut(&i)
                    {
                        m.event |= m.mask & IN != 0;
                    }
                }
                Op::Drain(i) => {
                    let _ = read(&t, &pipes[i].0, 1 << 20);
                }
                Op::CloseWriter(i) => {
                    if pipes[i].1.take().is_some() && let Some(m) = model.get_mut(&i) {
                        m.event |= m.mask & IN != 0;
                    }
                }
                Op::Wait(max) => {
                    let got = ready(&t, &ep, max);
                    let mut expected: BTreeMap<u64, u32> = BTreeMap::new();
                    for (i, m) in &model {
                        let bits = if m.mask & IN != 0 { state(&pipes[*i]) } else { 0 };
                        if bits != 0 && (m.event || m.mask & EPOLLET == 0) {
                            expected.insert(*i as u64, bits);
                        }
                    }
                    prop_assert_eq!(got.len(), expected.len().min(max));
                    for (data, events) in got {
                        prop_assert_eq!(expected.get(&data), Some(&events));
                        if let Some(m) = model.get_mut(&(data as usize)) {
                            m.event = false;
                            if m.mask & EPOLLONESHOT != 0 {
                                m.mask &= !IN;
                            }
                        }
                    }
                    if expected.len() <= max {
                        // Everything listed was looked at: what was not ready has no news left.
                        for (i, m) in &mut model {
                            if !expected.contains_key(&(*i as u64)) {
                                m.event = false;
                            }
                        }
                    } else {
                        // Entries passed over may or may not have been examined: settle them.
                        while !ready(&t, &ep, 64).is_empty() {
                            let level = model.values().any(|m| m.mask & (EPOLLET | EPOLLONESHOT) == 0);
                            if level { break; }
                        }
                        for (i, m) in &mut model {
                            m.event = false;
                            if m.mask & EPOLLONESHOT != 0 && state(&pipes[*i]) != 0 && m.mask & IN != 0
                                && expected.contains_key(&(*i as u64)) {
                                m.mask &= !IN;
                            }
                        }
                    }
                }
            }
        }
    }
}
