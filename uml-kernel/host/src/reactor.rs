//! The thread that waits for host descriptors and tells their owners.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    pub readable: bool,
    pub writable: bool,
    /// The other side is gone, or an error is pending.
    pub hangup: bool,
}

/// What its owner wants to know. With neither, only a hang-up is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    pub read: bool,
    pub write: bool,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        let mut f = EpollFlags::empty();
        f.set(EpollFlags::EPOLLIN, self.read);
        f.set(EpollFlags::EPOLLOUT, self.write);
        f
    }
}

/// The owner of a descriptor. Called on the reactor's thread without locks; must not block.
pub trait Source: Send + Sync {
    fn ready(&self, ready: Ready);
}

/// Names a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(u64);

const STOP: u64 = 0;

struct Shared {
    epoll: Epoll,
    sources: Mutex<Sources>,
}

struct Sources {
    next: u64,
    by_token: HashMap<u64, Weak<dyn Source>>,
}

/// An epoll(7) loop on a thread of its own, which ends when the value is dropped.
pub struct Reactor {
    shared: Arc<Shared>,
    stop: EventFd,
}

impl Reactor {
    /// Starts the thread.
    pub fn start() -> io::Result<Arc<Reactor>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let shared = Arc::new(Shared {
            epoll,
            sources: Mutex::new(Sources { next: STOP + 1, by_token: HashMap::new() }),
        });
        let inner = shared.clone();
        std::thread::Builder::new()
            .name("host I/O reactor".to_owned())
            .spawn(move || inner.run())?;
        Ok(Arc::new(Reactor { shared, stop }))
    }

    /// Watches `fd` for `source`, which the caller keeps alive. `EPERM` for descriptors that are always ready
    /// (ordinary files), see epoll_ctl(2).
    pub fn add(
        &self,
        fd: impl AsFd,
        interest: Interest,
        source: &Arc<dyn Source>,
    ) -> io::Result<Token> {
        let mut s = self.shared.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let token = s.next;
        self.shared.epoll.add(fd, EpollEvent::new(interest.flags(), token))?;
        s.next += 1;
        s.by_token.insert(token, Arc::downgrade(source));
        Ok(Token(token))
    }

    /// Changes what is watched for. A hang-up is reported whatever the interest is: who does not want to
    /// hear of it removes the descriptor.
    pub fn modify(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(self.shared.epoll.modify(fd, &mut EpollEvent::new(interest.flags(), token.0))?)
    }

    /// Stops watching. The source may be told one last time, if that is under way.
    pub fn remove(&self, fd: impl AsFd, token: Token) {
        self.shared
            .sources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .by_token
            .remove(&token.0);
        let _ = self.shared.epoll.delete(fd);
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
    }
}

impl Shared {
    fn run(&self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let n = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(n) => n,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return,
            };
            for e in events.iter().take(n) {
                if e.data() == STOP {
                    return;
                }
                let source = {
                    let s = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
                    s.by_token.get(&e.data()).and_then(Weak::upgrade)
                };
                let Some(source) = source else { continue };
                let f = e.events();
                source.ready(Ready {
                    readable: f.contains(EpollFlags::EPOLLIN),
                    writable: f.contains(EpollFlags::EPOLLOUT),
                    hangup: f.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Tell(Mutex<mpsc::Sender<Ready>>);
    impl Source for Tell {
        fn ready(&self, ready: Ready) {
            if let Ok(tx) = self.0.lock() {
                let _ = tx.send(ready);
            }
        }
    }

    #[test]
    fn a_pipe_is_reported_readable_and_hung_up() {
        let reactor = Reactor::start().expect("reactor");
        let (r, w) = nix::unistd::pipe().expect("pipe");
        let (tx, rx) = mpsc::channel();
        let source: Arc<dyn Source> = Arc::new(Tell(Mutex::new(tx)));
        let interest = Interest { read: true, write: false };
        let token = reactor.add(&r, interest, &source).expect("add");
        nix::unistd::write(&w, b"x").expect("write");
        assert!(rx.recv().expect("event").readable);
        reactor.modify(&r, token, Interest::default()).expect("modify");
        drop(w);
        while !rx.recv().expect("event").hangup {}
        reactor.remove(&r, token);
    }

    #[test]
    fn ordinary_files_are_refused() {
        let reactor = Reactor::start().expect("reactor");
        let (tx, _rx) = mpsc::channel();
        let source: Arc<dyn Source> = Arc::new(Tell(Mutex::new(tx)));
        let f = std::fs::File::open("/proc/self/exe").expect("file");
        let e = reactor.add(&f, Interest::default(), &source).expect_err("refused");
        assert_eq!(e.raw_os_error(), Some(libc::EPERM));
    }
}
