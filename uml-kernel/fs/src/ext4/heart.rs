//! The thread of multi-mount protection: tells other machines every few seconds that the filesystem is mounted here.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use uml_base::pr_err;

use crate::ext4::Shared;

#[derive(Default)]
struct State {
    stop: bool,
    thread: Option<JoinHandle<()>>,
}

/// Runs while the filesystem is writable, if it has the feature.
#[derive(Default)]
pub(crate) struct Heart {
    state: Mutex<State>,
    stopped: Condvar,
}

impl Heart {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts, unless it runs already.
    pub(crate) fn start(shared: &Arc<Shared>) {
        if shared.engine.heartbeat_interval().is_none() || shared.engine.is_read_only() {
            return;
        }
        let mut s = shared.heart.lock();
        if s.thread.is_some() {
            return;
        }
        s.stop = false;
        let weak = Arc::downgrade(shared);
        let thread = std::thread::Builder::new().name("kmmpd".into()).spawn(move || run(&weak));
        match thread {
            Ok(t) => s.thread = Some(t),
            Err(e) => pr_err!("EXT4-fs: no thread for multi-mount protection: {e}"),
        }
    }

    /// Stops and waits for its end.
    pub(crate) fn stop(&self) {
        let thread = {
            let mut s = self.lock();
            s.stop = true;
            s.thread.take()
        };
        self.stopped.notify_all();
        if let Some(t) = thread {
            let _ = t.join();
        }
    }
}

fn run(shared: &Weak<Shared>) {
    loop {
        let Some(fs) = shared.upgrade() else { return };
        let Some(interval) = fs.engine.heartbeat_interval() else { return };
        let s = fs.heart.lock();
        let r = fs.heart.stopped.wait_timeout_while(s, interval, |s| !s.stop);
        let stop = r.unwrap_or_else(PoisonError::into_inner).0.stop;
        // Nothing is written to a frozen filesystem, as on Linux.
        if stop || fs.engine.is_read_only() || (!fs.gate.frozen() && fs.engine.heartbeat().is_err())
        {
            return;
        }
    }
}
