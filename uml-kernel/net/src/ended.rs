//! What is told of TCP and UDP sockets that end (sock_diag(7), `SKNLGRP_INET_TCP_DESTROY` and its like).
//!
//! A socket ends with whoever had it last, perhaps with locks held, so it is noted and told by the timers' thread at once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use uml_base::{Mutex, Rank};

use crate::stack::{Cx, Stack};
use crate::tcp::info::Info;
use crate::timer::Expire;

/// Sockets noted and not told yet, at most: beyond, programs that listen could not follow either.
const WAITING: usize = 16_384;

/// A socket as it was at its end.
pub struct Ended {
    pub v6: bool,
    /// Of TCP what is known of the connection; none of UDP.
    pub tcp: Option<Info>,
    pub local: SocketAddr,
    pub remote: Option<SocketAddr>,
    /// Number of the socket, and of the interface that it was bound to.
    pub id: u64,
    pub device: u32,
}

type Teller = Box<dyn Fn(&Stack, Vec<Ended>) -> bool + Send + Sync>;

/// The sockets of a namespace that have ended.
pub struct Ends {
    wanted: AtomicBool,
    list: Mutex<Vec<Ended>>,
    teller: OnceLock<Teller>,
}

impl Default for Ends {
    fn default() -> Ends {
        Ends {
            wanted: AtomicBool::new(false),
            list: Mutex::new(Rank::LEAF, Vec::new()),
            teller: OnceLock::new(),
        }
    }
}

impl Ends {
    /// Sets who tells of them, once: without locks; false when nobody wants to know any more.
    pub fn set_teller(&self, t: Teller) {
        let _ = self.teller.set(t);
    }

    /// Somebody wants to know from now on.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    /// Whether somebody does.
    pub(crate) fn wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// A socket ends; any lock may be held.
    pub(crate) fn add(self: &Arc<Self>, stack: &Stack, e: Ended) {
        let first = {
            let mut list = self.list.lock();
            if list.len() >= WAITING {
                return;
            }
            list.push(e);
            list.len() == 1
        };
        if first {
            let me: Arc<dyn Expire> = self.clone();
            stack.timers.arm(stack.now(), Arc::downgrade(&me));
        }
    }
}

impl Expire for Ends {
    fn expired(self: Arc<Self>, cx: &mut Cx) {
        let list = std::mem::take(&mut *self.list.lock());
        if list.is_empty() {
            return;
        }
        let stack = cx.stack().clone();
        if !self.teller.get().is_some_and(|t| t(&stack, list)) {
            self.wanted.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp_socket::TcpSocket;
    use crate::udp::UdpSocket;
    use std::sync::atomic::AtomicUsize;

    struct Still;

    impl crate::Clock for Still {
        fn now(&self) -> crate::Time {
            crate::Time(1)
        }
    }

    #[test]
    fn ends_are_told_while_somebody_wants_to_know() {
        let stack = Stack::new(Arc::new(Still), [7; 32]);
        let told = Arc::new(Mutex::new(Rank::LEAF, Vec::new()));
        let left = Arc::new(AtomicUsize::new(2));
        let (t, n) = (told.clone(), left.clone());
        stack.ends.set_teller(Box::new(move |_, list| {
            t.lock().extend(list.iter().map(|e| (e.v6, e.tcp.is_some(), e.local.port())));
            n.fetch_sub(1, Ordering::SeqCst) > 1
        }));
        drop(TcpSocket::new(&stack, false));
        assert_eq!(stack.timers.next(), None, "nobody wants to know");
        stack.ends.want();
        drop(TcpSocket::new(&stack, true));
        let u = UdpSocket::new(&stack, false);
        drop(u.clone());
        drop(u);
        stack.run_timers();
        assert_eq!(*told.lock(), [(true, true, 0), (false, false, 0)]);
        drop(TcpSocket::new(&stack, true));
        stack.run_timers();
        assert_eq!(told.lock().len(), 3);
        // That one was the last that was wanted.
        drop(TcpSocket::new(&stack, true));
        assert_eq!(stack.timers.next(), None);
    }
}
