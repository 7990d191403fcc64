//! A filesystem's changed files and the thread that writes them back.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::EAGAIN;
use uml_base::storage;

use crate::ahead::Ahead;
use crate::backing::VolumeOps;
use crate::file::CachedFile;
use crate::pool::Pool;
use crate::{PAGE, lock};

/// Changed files the flusher takes from the list at a time.
const BATCH: usize = 16;

/// Times of a volume's flusher.
#[derive(Clone, Copy, Debug)]
pub struct VolumeConfig {
    /// How often it looks, and commits metadata (ext4's `commit=`, vm.dirty_writeback_centisecs).
    pub interval: Duration,
    /// How long changed data may lie (vm.dirty_expire_centisecs).
    pub expire: Duration,
}

impl Default for VolumeConfig {
    fn default() -> VolumeConfig {
        VolumeConfig { interval: Duration::from_secs(5), expire: Duration::from_secs(30) }
    }
}

#[derive(Default)]
struct Control {
    stop: bool,
    /// Too much is changed: write back now.
    kick: bool,
    thread: Option<JoinHandle<()>>,
}

/// What the cached files of one mounted filesystem share.
pub struct Volume {
    pub(crate) pool: Arc<Pool>,
    config: Mutex<VolumeConfig>,
    ops: Weak<dyn VolumeOps>,
    /// Files with changed pages, by the time of the first change.
    dirty: Mutex<BTreeMap<(Instant, u64), Arc<CachedFile>>>,
    /// Metadata was changed since the last commit.
    touched: AtomicBool,
    control: Mutex<Control>,
    /// The flusher waits for the first change, and not for a moment.
    rests: AtomicBool,
    wake: Condvar,
    ahead: Ahead,
}

impl Volume {
    /// A volume without files; [`Volume::start`] starts its flusher.
    pub fn new(pool: &Arc<Pool>, config: VolumeConfig, ops: Weak<dyn VolumeOps>) -> Arc<Volume> {
        Arc::new(Volume {
            pool: pool.clone(),
            config: Mutex::new(config),
            ops,
            dirty: Mutex::new(BTreeMap::new()),
            touched: AtomicBool::new(false),
            control: Mutex::new(Control::default()),
            rests: AtomicBool::new(false),
            wake: Condvar::new(),
            ahead: Ahead::default(),
        })
    }

    /// Starts the flusher thread. `EAGAIN` when the host has no thread left.
    pub fn start(self: &Arc<Volume>) -> Result<()> {
        let mut c = lock(&self.control);
        if c.thread.is_some() {
            return Ok(());
        }
        let me = self.clone();
        let t = std::thread::Builder::new().name("uml-flush".into()).spawn(move || me.serve());
        c.thread = Some(t.map_err(|_| EAGAIN)?);
        Ok(())
    }

    /// Stops the flusher thread and waits for it. What is changed stays so.
    pub fn stop(&self) {
        let t = {
            let mut c = lock(&self.control);
            c.stop = true;
            c.thread.take()
        };
        self.ahead.stop();
        self.wake.notify_all();
        if let Some(t) = t
            && t.thread().id() != std::thread::current().id()
        {
            // A panic of the flusher was reported by itself.
            let _ = t.join();
        }
    }

    /// Has pages `a..b` of a file read ahead by another thread; false when too much is asked for already or there is no
    /// such thread to be had, which is no loss but of time.
    pub(crate) fn fetch(&self, file: &Weak<CachedFile>, a: u64, b: u64) -> bool {
        let asked = self.ahead.ask(file.clone(), a, b);
        if asked {
            // That thread works for nobody in particular.
            storage::read((b - a) * PAGE);
        }
        asked
    }

    /// Changes the flusher's times.
    pub fn set_config(&self, config: VolumeConfig) {
        *lock(&self.config) = config;
        self.wake.notify_all();
    }

    /// Times of the flusher.
    pub fn config(&self) -> VolumeConfig {
        *lock(&self.config)
    }

    /// Metadata was changed: a commit is due within the interval.
    pub fn touch(&self) {
        if !self.touched.load(Ordering::Relaxed) && !self.touched.swap(true, Ordering::SeqCst) {
            self.nudge();
        }
    }

    /// Writes every changed file back; the first error, after all were tried.
    pub fn write_back(&self) -> Result<()> {
        let files: Vec<_> = lock(&self.dirty).values().cloned().collect();
        let mut result = Ok(());
        for f in files {
            let r = f.write_back_all();
            result = result.and(r);
        }
        result
    }

    /// Files with changed pages.
    pub fn dirty_files(&self) -> usize {
        lock(&self.dirty).len()
    }

    /// Lets go of every file, written back or not (unmount after an error).
    pub fn abandon(&self) {
        let files = std::mem::take(&mut *lock(&self.dirty));
        drop(files);
    }

    /// Something was changed: the flusher looks again if it rests. Else it does so at its moment, so that a program
    /// that makes every change durable does not wake it with each.
    fn nudge(&self) {
        if self.rests.load(Ordering::SeqCst) {
            // With the lock, so that it is not between looking and waiting.
            let _c = lock(&self.control);
            self.wake.notify_all();
        }
    }

    fn is_changed(&self) -> bool {
        self.touched.load(Ordering::SeqCst) || !lock(&self.dirty).is_empty()
    }

    /// Writers should not go on producing changed data at this rate.
    pub(crate) fn kick(&self) {
        let mut c = lock(&self.control);
        if !c.kick {
            c.kick = true;
            self.wake.notify_all();
        }
    }

    /// Enters a file that got its first changed page at `since`.
    pub(crate) fn enter(&self, since: Instant, id: u64, file: Arc<CachedFile>) {
        let first = {
            let mut d = lock(&self.dirty);
            d.insert((since, id), file);
            d.len() == 1
        };
        if first {
            self.nudge();
        }
    }

    /// Takes a file out that has no changed page any more. The caller drops the reference without locks.
    pub(crate) fn leave(&self, since: Instant, id: u64) -> Option<Arc<CachedFile>> {
        lock(&self.dirty).remove(&(since, id))
    }

    fn serve(&self) {
        let mut next = Instant::now();
        loop {
            {
                let mut c = lock(&self.control);
                loop {
                    if c.stop {
                        return;
                    }
                    let now = Instant::now();
                    if c.kick || (now >= next && self.is_changed()) {
                        break;
                    }
                    if now < next {
                        let r = self.wake.wait_timeout(c, next - now);
                        c = r.unwrap_or_else(PoisonError::into_inner).0;
                        // The times may have been changed.
                        next = next.min(Instant::now() + lock(&self.config).interval);
                        continue;
                    }
                    // An idle volume does not wake up at all. Whoever changes something looks after that whether this rests,
                    // and this looks for changes after it has said so.
                    self.rests.store(true, Ordering::SeqCst);
                    if !self.is_changed() {
                        c = self.wake.wait(c).unwrap_or_else(PoisonError::into_inner);
                    }
                    self.rests.store(false, Ordering::SeqCst);
                    // What is changed first after a rest waits its whole interval.
                    next = Instant::now() + lock(&self.config).interval;
                }
                c.kick = false;
            }
            self.flush_due();
            let now = Instant::now();
            if now >= next {
                if self.touched.swap(false, Ordering::AcqRel)
                    && let Some(ops) = self.ops.upgrade()
                {
                    ops.commit();
                }
                next = Instant::now() + lock(&self.config).interval;
            }
        }
    }

    /// Writes back what is old enough, and the oldest while too much is changed.
    fn flush_due(&self) {
        let expire = lock(&self.config).expire;
        let now = Instant::now();
        let mut from = Bound::Unbounded;
        loop {
            // What comes in meanwhile waits for the next time. A few at a time: with thousands of small files this often ends
            // after some of them.
            let files: Vec<_> = lock(&self.dirty)
                .range((from, Bound::Included((now, u64::MAX))))
                .take(BATCH)
                .map(|(k, f)| (*k, f.clone()))
                .collect();
            let Some((last, _)) = files.last() else { return };
            from = Bound::Excluded(*last);
            for ((since, _), f) in files {
                let old = now.saturating_duration_since(since) >= expire;
                if !old && !self.pool.over_background() {
                    return;
                }
                if lock(&self.control).stop {
                    return;
                }
                // An error is kept for fsync(2).
                let _ = f.write_back_all();
            }
        }
    }
}
