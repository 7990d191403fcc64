//! The threads that read ahead for a filesystem's sequential readers, so that the disk and the reader work at the same
//! time. They exist from the first such reader on, and do not wake up while there is none.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use crate::file::CachedFile;
use crate::lock;

/// Requests that may wait. With more readers than that at once the disk has enough to do.
const QUEUE: usize = 16;
/// Threads: while one enters what it has read into the cache, the other one reads.
const THREADS: usize = 2;

struct Request {
    file: Weak<CachedFile>,
    from: u64,
    to: u64,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    threads: Vec<JoinHandle<()>>,
    /// Threads that wait for a request.
    idle: usize,
    /// Unmounted, or the host gave no thread.
    over: bool,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    come: Condvar,
}

/// The asking side.
#[derive(Default)]
pub(crate) struct Ahead(Arc<Queue>);

impl Ahead {
    /// Has pages `from..to` of `file` read; false when that will not happen.
    pub(crate) fn ask(&self, file: Weak<CachedFile>, from: u64, to: u64) -> bool {
        let mut s = lock(&self.0.state);
        if s.over || s.requests.len() >= QUEUE {
            return false;
        }
        if s.idle <= s.requests.len() && s.threads.len() < THREADS {
            let queue = self.0.clone();
            let t = std::thread::Builder::new().name("uml-readahead".into());
            match t.spawn(move || serve(&queue)) {
                Ok(t) => s.threads.push(t),
                Err(_) if s.threads.is_empty() => {
                    s.over = true;
                    return false;
                }
                // One does it, too.
                Err(_) => {}
            }
        }
        s.requests.push_back(Request { file, from, to });
        drop(s);
        self.0.come.notify_one();
        true
    }

    /// Ends the threads and waits for them.
    pub(crate) fn stop(&self) {
        let threads = {
            let mut s = lock(&self.0.state);
            s.over = true;
            s.requests.clear();
            std::mem::take(&mut s.threads)
        };
        self.0.come.notify_all();
        let me = std::thread::current().id();
        for t in threads.into_iter().filter(|t| t.thread().id() != me) {
            // A panic was reported by the thread itself.
            let _ = t.join();
        }
    }
}

fn serve(queue: &Queue) {
    loop {
        let request = {
            let mut s = lock(&queue.state);
            loop {
                if let Some(r) = s.requests.pop_front() {
                    break r;
                }
                if s.over {
                    return;
                }
                s.idle += 1;
                s = queue.come.wait(s).unwrap_or_else(PoisonError::into_inner);
                s.idle -= 1;
            }
        };
        if let Some(f) = request.file.upgrade() {
            f.fetch(request.from, request.to);
        }
    }
}
