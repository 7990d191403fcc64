//! The thread that reads ahead for a filesystem's sequential readers, so that the disk and the reader work at the same
//! time. It exists from the first such reader on, and does not wake up while there is none.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, Weak};
use std::thread::JoinHandle;

use crate::file::CachedFile;
use crate::lock;

/// Requests that may wait. With more readers than that at once the disk has enough to do.
const QUEUE: usize = 16;

struct Request {
    file: Weak<CachedFile>,
    from: u64,
    to: u64,
}

#[derive(Default)]
enum State {
    #[default]
    Fresh,
    Running(SyncSender<Request>, JoinHandle<()>),
    /// Unmounted, or the host gave no thread.
    Over,
}

/// The asking side.
#[derive(Default)]
pub(crate) struct Ahead(Mutex<State>);

impl Ahead {
    /// Has pages `from..to` of `file` read; false when that will not happen.
    pub(crate) fn ask(&self, file: Weak<CachedFile>, from: u64, to: u64) -> bool {
        let mut s = lock(&self.0);
        if matches!(*s, State::Fresh) {
            let (queue, requests) = sync_channel(QUEUE);
            let t = std::thread::Builder::new().name("uml-readahead".into());
            *s = match t.spawn(move || serve(&requests)) {
                Ok(t) => State::Running(queue, t),
                Err(_) => State::Over,
            };
        }
        match &*s {
            State::Running(q, _) => q.try_send(Request { file, from, to }).is_ok(),
            _ => false,
        }
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        let old = std::mem::replace(&mut *lock(&self.0), State::Over);
        if let State::Running(queue, t) = old {
            drop(queue);
            if t.thread().id() != std::thread::current().id() {
                // A panic was reported by the thread itself.
                let _ = t.join();
            }
        }
    }
}

fn serve(requests: &Receiver<Request>) {
    for r in requests {
        if let Some(f) = r.file.upgrade() {
            f.fetch(r.from, r.to);
        }
    }
}
