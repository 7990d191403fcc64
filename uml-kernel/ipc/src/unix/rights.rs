//! Descriptors in messages (SCM_RIGHTS) and the collection of sockets that only messages hold.
//!
//! A socket in flight inside a queue of a socket that is itself in flight may be unreachable although it
//! is referenced. Whenever a socket is closed while some are in flight, those whose every reference is
//! in flight and that no live queue leads to are found and their queues emptied.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::File;
use uml_core::task::{Cap, Resource, Task};

use super::UnixSocket;
use crate::socket::SocketFile;

/// Most descriptors in one message (unix(7)).
pub(super) const SCM_MAX_FD: usize = 253;

#[derive(Default)]
struct Flight {
    /// Files in flight by user.
    users: HashMap<u32, u64>,
    /// AF_UNIX sockets in flight: how many references are.
    sockets: HashMap<usize, (Weak<File>, usize)>,
}

static FLIGHT: LazyLock<Mutex<Flight>> =
    LazyLock::new(|| Mutex::new(Rank::LEAF, Flight::default()));

/// Open files inside a message.
pub(super) struct Rights {
    files: Vec<Arc<File>>,
    uid: u32,
}

fn unix_socket(file: &File) -> Option<&UnixSocket> {
    UnixSocket::of(&**SocketFile::of(file).ok()?)
}

impl Rights {
    /// Puts files into flight: `ETOOMANYREFS` beyond RLIMIT_NOFILE without privilege.
    pub fn new(task: &Task, files: Vec<Arc<File>>) -> Result<Rights> {
        let cred = task.cred();
        let uid = cred.uid;
        let mut f = FLIGHT.lock();
        let privileged = cred.capable(Cap::SysResource) || cred.capable(Cap::SysAdmin);
        let now = f.users.get(&uid).copied().unwrap_or(0);
        if now > task.rlimit(Resource::NoFile) && !privileged {
            return Err(ETOOMANYREFS);
        }
        let r = Rights { files, uid };
        r.count(&mut f);
        Ok(r)
    }

    fn count(&self, f: &mut Flight) {
        *f.users.entry(self.uid).or_default() += self.files.len() as u64;
        for file in self.files.iter().filter(|file| unix_socket(file).is_some()) {
            let key = Arc::as_ptr(file) as usize;
            f.sockets.entry(key).or_insert_with(|| (Arc::downgrade(file), 0)).1 += 1;
        }
    }

    /// For MSG_PEEK: the same files again.
    pub fn duplicate(&self) -> Vec<Arc<File>> {
        self.files.clone()
    }

    /// Takes the files out of flight.
    pub fn land(mut self) -> Vec<Arc<File>> {
        self.end()
    }

    fn end(&mut self) -> Vec<Arc<File>> {
        let files = std::mem::take(&mut self.files);
        let mut f = FLIGHT.lock();
        let left = f.users.get_mut(&self.uid).map(|n| {
            *n = n.saturating_sub(files.len() as u64);
            *n
        });
        if left == Some(0) {
            f.users.remove(&self.uid);
        }
        for file in files.iter().filter(|file| unix_socket(file).is_some()) {
            let key = Arc::as_ptr(file) as usize;
            if let Some((_, n)) = f.sockets.get_mut(&key) {
                *n -= 1;
                if *n == 0 {
                    f.sockets.remove(&key);
                }
            }
        }
        drop(f);
        files
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        if !self.files.is_empty() {
            drop(self.end());
        }
    }
}

impl UnixSocket {
    /// AF_UNIX sockets inside this one's queues, and those of connections it has not accepted.
    fn held(&self, out: &mut Vec<usize>) {
        let pending: Vec<Arc<UnixSocket>> = {
            let inner = self.inner.lock();
            for r in inner.queue.iter().filter_map(|p| p.rights.as_ref()) {
                let sockets = r.files.iter().filter(|f| unix_socket(f).is_some());
                out.extend(sockets.map(|f| Arc::as_ptr(f) as usize));
            }
            inner.pending.iter().cloned().collect()
        };
        for p in pending {
            p.held(out);
        }
    }

    fn purge(&self) {
        let (packets, pending) = {
            let mut inner = self.inner.lock();
            let pending: Vec<_> = inner.pending.iter().cloned().collect();
            (std::mem::take(&mut inner.queue), pending)
        };
        drop(packets);
        for p in pending {
            p.purge();
        }
    }
}

/// One collection at a time; who finds one running leaves the work to it or to the next.
static COLLECTING: Mutex<()> = Mutex::new(Rank::SOCKET_TABLE, ());

/// Finds and empties unreachable sockets.
pub(super) fn collect() {
    // Most machines never have a socket in flight while another is closed.
    if FLIGHT.lock().sockets.is_empty() {
        return;
    }
    // Whatever was looked at is let go of only after the lock: the last reference may be ours by then.
    let (files, garbage) = {
        let _one = COLLECTING.lock();
        find_garbage()
    };
    for key in garbage {
        if let Some(s) = files.get(&key).and_then(|f| unix_socket(f)) {
            s.purge();
        }
    }
}

type Files = HashMap<usize, Arc<File>>;

fn find_garbage() -> (Files, Vec<usize>) {
    let mut files: Files = HashMap::new();
    // Candidates: every reference is in flight. The one taken here is discounted.
    let mut candidates: HashMap<usize, usize> = HashMap::new();
    {
        let f = FLIGHT.lock();
        for (key, (weak, n)) in &f.sockets {
            if let Some(file) = weak.upgrade() {
                if Arc::strong_count(&file) - 1 == *n {
                    candidates.insert(*key, *n);
                }
                files.insert(*key, file);
            }
        }
    }
    // References that come from candidates' queues.
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut internal: HashMap<usize, usize> = HashMap::new();
    for key in candidates.keys() {
        let mut held = Vec::new();
        if let Some(s) = files.get(key).and_then(|f| unix_socket(f)) {
            s.held(&mut held);
        }
        for h in &held {
            *internal.entry(*h).or_default() += 1;
        }
        children.insert(*key, held);
    }
    // A candidate that something else holds is live, and so is all its queues lead to.
    let mut live: HashSet<usize> = HashSet::new();
    let outside = |k: &usize, n: &usize| *n > internal.get(k).copied().unwrap_or(0);
    let mut todo: Vec<usize> =
        candidates.iter().filter(|(k, n)| outside(k, n)).map(|(k, _)| *k).collect();
    while let Some(k) = todo.pop() {
        if live.insert(k) {
            todo.extend(children.get(&k).into_iter().flatten());
        }
    }
    let garbage = candidates.into_keys().filter(|k| !live.contains(k)).collect();
    (files, garbage)
}
