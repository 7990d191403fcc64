//! One file's data in memory: reading and writing.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Instant;

use uml_abi::errno::*;
use uml_abi::{Errno, Result};
use uml_base::storage;
use uml_platform::view::{FileView, ViewSlot};

use crate::backing::Backing;
use crate::pages::PageSet;
use crate::pool::CHUNK;
use crate::readahead::Readahead;
use crate::store::{HEAP_MAX, Store};
use crate::volume::Volume;
use crate::{PAGE, lock, page_range, scratch};

/// Pages filled at a time.
const FILL: u64 = (1 << 20) / PAGE;
/// Pages entered at a time.
const INSTALL: u64 = (128 << 10) / PAGE;
/// Shortest read that goes through a view.
const VIEW_READ: u64 = PAGE;

/// How a mapped file is known to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `st_dev`, encoded.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// No other mappable object of the machine has this number.
    pub key: u64,
}

pub(crate) struct State {
    pub store: Store,
    pub size: u64,
    /// Pages whose bytes in the store are the file's.
    pub uptodate: PageSet,
    /// Pages that differ from what the backing has; all of them valid.
    pub dirty: PageSet,
    /// Pages that were promised space by the backing.
    pub delayed: PageSet,
    /// Pages known to have space.
    pub allocated: PageSet,
    /// Mappings in existence.
    pub maps: u64,
    /// Counts mappings that were added.
    pub map_epoch: u64,
    /// Pages that may be mapped while there are mappings: they stay in memory.
    pub pinned: PageSet,
    /// Pages that guests may change without our seeing it, while there are mappings.
    pub exposed: PageSet,
    /// Hashes of exposed pages as the backing has them.
    pub sums: HashMap<u64, u64>,
    /// Chunks in the pool's queue; true: used since the pool last looked.
    pub chunks: BTreeMap<u64, bool>,
    /// Since when there are changed or exposed pages, as entered in the volume's list.
    pub since: Option<Instant>,
    /// Last error of a writeback.
    pub error: Option<Errno>,
    /// The file was deleted: nothing is written back.
    pub dead: bool,
    /// Pages that somebody is reading ahead.
    pub coming: Vec<Range<u64>>,
    /// Pages that are being read from below to be entered here.
    pub loading: Vec<Range<u64>>,
    /// Pages that are being written past the cache, with others beside them.
    pub direct: Vec<Range<u64>>,
    /// How many wait for one of these two to change.
    pub waiting: usize,
    /// Pages were read ahead since room was made the last time.
    pub fetched: bool,
    /// For long reads; of the present store or of none any more.
    pub view: ViewSlot,
}

/// The data of one inode.
pub struct CachedFile {
    pub(crate) me: Weak<CachedFile>,
    pub(crate) id: u64,
    pub(crate) volume: Arc<Volume>,
    pub(crate) backing: Box<dyn Backing>,
    pub(crate) identity: Identity,
    /// Serialises writebacks, so that a page's older contents never follow its newer ones.
    pub(crate) writeback: Mutex<()>,
    /// Shared: pages stay valid and offsets keep meaning the same bytes.
    pub(crate) layout: RwLock<()>,
    pub(crate) state: Mutex<State>,
    /// Pages of `coming` arrived, or will not; others left `loading` or `direct`.
    arrived: Condvar,
    /// Counts failed writebacks.
    pub(crate) errors: AtomicU64,
}

impl CachedFile {
    /// A file of `size` bytes of which nothing is in memory.
    pub fn new(
        volume: &Arc<Volume>,
        backing: Box<dyn Backing>,
        identity: Identity,
        size: u64,
    ) -> Arc<CachedFile> {
        let state = State {
            store: Store::empty(),
            size,
            uptodate: PageSet::default(),
            dirty: PageSet::default(),
            delayed: PageSet::default(),
            allocated: PageSet::default(),
            maps: 0,
            map_epoch: 0,
            pinned: PageSet::default(),
            exposed: PageSet::default(),
            sums: HashMap::new(),
            chunks: BTreeMap::new(),
            since: None,
            error: None,
            dead: false,
            coming: Vec::new(),
            loading: Vec::new(),
            direct: Vec::new(),
            waiting: 0,
            fetched: false,
            view: ViewSlot::empty(),
        };
        Arc::new_cyclic(|me| CachedFile {
            me: me.clone(),
            id: volume.pool.new_id(),
            volume: volume.clone(),
            backing,
            identity,
            writeback: Mutex::new(()),
            layout: RwLock::new(()),
            state: Mutex::new(state),
            arrived: Condvar::new(),
            errors: AtomicU64::new(0),
        })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        lock(&self.state).size
    }

    /// Pages that will take space which the backing does not count yet.
    pub fn delayed_pages(&self) -> u64 {
        lock(&self.state).delayed.count()
    }

    /// True when nothing of the file is in memory and nobody maps it.
    pub fn is_empty(&self) -> bool {
        let s = lock(&self.state);
        s.uptodate.is_empty() && s.maps == 0
    }

    pub(crate) fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.layout.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails with the last writeback error when one happened since `seen` was last passed in; each
    /// open file thus learns of it once (fsync(2)).
    pub fn check_error(&self, seen: &AtomicU64) -> Result<()> {
        let now = self.errors.load(Ordering::Acquire);
        if seen.swap(now, Ordering::AcqRel) == now {
            return Ok(());
        }
        Err(lock(&self.state).error.unwrap_or(EIO))
    }

    /// The error count, for an open file's first [`CachedFile::check_error`].
    pub fn error_count(&self) -> u64 {
        self.errors.load(Ordering::Acquire)
    }

    /// Reads at most `buf.len()` bytes at `off`; 0 at and past the end.
    pub fn read(&self, off: u64, buf: &mut [u8], ahead: &Readahead) -> Result<usize> {
        self.valid(off, buf.len(), ahead, |s, n| {
            let fd = match &s.store {
                Store::Memory(fd) => fd.clone(),
                heap => {
                    heap.read(off, &mut buf[..n])?;
                    return Ok(n);
                }
            };
            drop(s);
            crate::store::read_all(&fd, off, &mut buf[..n])?;
            Ok(n)
        })
    }

    /// As [`CachedFile::read`] for long reads from files that a [`FileView`] is worth: `put` moves up to the given number
    /// of bytes from the offset in the view, and says how many. `None` for other files; nothing was done then.
    pub fn read_view(
        &self,
        off: u64,
        len: usize,
        ahead: &Readahead,
        put: impl FnOnce(&FileView, usize) -> Result<usize>,
    ) -> Option<Result<usize>> {
        if (len as u64) < VIEW_READ || !lock(&self.state).viewable() {
            return None;
        }
        let mut some = true;
        let r = self.valid(off, len, ahead, |mut s, n| {
            let Some(view) = s.view() else {
                some = false;
                return Ok(0);
            };
            drop(s);
            // The layout is held: no page goes away meanwhile.
            put(&view, n)
        });
        some.then_some(r)
    }

    /// Makes as many of `len` bytes at `off` valid as there are, and has `copy` move that many with the layout held;
    /// it gives how many it moved.
    fn valid(
        &self,
        off: u64,
        len: usize,
        ahead: &Readahead,
        copy: impl FnOnce(MutexGuard<'_, State>, usize) -> Result<usize>,
    ) -> Result<usize> {
        let mut len = len as u64;
        self.make_room();
        let _layout = self.shared();
        loop {
            let mut s = lock(&self.state);
            let n = s.size.saturating_sub(off).min(len);
            if n == 0 {
                return Ok(0);
            }
            let (a, b) = page_range(off, n);
            let last = s.size.div_ceil(PAGE);
            let Some((gap, _)) = s.uptodate.first_gap(a, b) else {
                if !ahead.sequential(off) {
                    s.mark_used(a, b);
                }
                if let Some((x, y)) = ahead.next(off, b, last) {
                    if s.uptodate.covers(x, y) || self.volume.fetch(&self.me, x, y) {
                        ahead.asked(y);
                    }
                }
                let moved = copy(s, n as usize)?;
                ahead.done(off + moved as u64);
                return Ok(moved);
            };
            drop(s);
            let end = (gap + ahead.missed(off, gap, b - gap)).min(last);
            if self.fill(gap, end).is_err() {
                // What was only read ahead may fail without anybody noticing.
                if let Err(e) = self.fill(gap, b) {
                    let whole = self.valid_prefix(off, n);
                    if whole == 0 {
                        return Err(e);
                    }
                    len = whole as u64;
                }
            }
        }
    }

    /// Reads a range ahead (POSIX_FADV_WILLNEED); `len` 0 is up to the end. Bounded by half of what the pool
    /// may hold; errors come back when the data is really read.
    pub fn read_ahead(&self, off: u64, len: u64) {
        let len = if len == 0 { u64::MAX - off } else { len };
        let (a, b) = page_range(off, len.min(self.volume.pool.stats().limit / 2));
        self.volume.pool.make_room();
        let _layout = self.shared();
        let _ = self.fill(a, b);
    }

    /// Waits until pages have come that somebody else reads or writes.
    fn wait_for_pages<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let _stall = uml_base::pressure::io();
        self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the pool evict what is too much, this file's pages too, which it cannot while they are being read ahead.
    fn make_room(&self) {
        let pool = &self.volume.pool;
        pool.make_room();
        if !pool.full() {
            return;
        }
        let mut s = lock(&self.state);
        // Perhaps that was in the way; only then is it worth another look.
        if !std::mem::take(&mut s.fetched) {
            return;
        }
        while !s.coming.is_empty() {
            s = self.wait_for_pages(s);
        }
        drop(s);
        pool.make_room_now();
    }

    /// Reads pages ahead for a reader that will come to them; others who want them wait for these instead of reading
    /// them too. Errors come back when the data is really read.
    pub(crate) fn fetch(&self, a: u64, b: u64) {
        // The reader makes room, and needs moments for it when nobody is in the middle of something with this file.
        if self.volume.pool.full() {
            return;
        }
        let range = {
            let mut s = lock(&self.state);
            // One piece at most: what is there or on its way already is left out.
            let gap = s.uptodate.first_gap(a, b.min(s.size.div_ceil(PAGE)));
            let Some((from, to)) = gap else { return };
            let to = s.until_coming(from, to).min(from + FILL);
            if to <= from || s.coming.iter().any(|c| c.contains(&from)) {
                return;
            }
            s.coming.push(from..to);
            s.fetched = true;
            from..to
        };
        let coming = Coming { file: self, range };
        // Not for a change of the layout that is under way or waiting: readers hold it shared and wait for us.
        let Ok(layout) = self.layout.try_read() else { return };
        let size = self.size();
        let to = coming.range.end.min(size.div_ceil(PAGE));
        if coming.range.start < to {
            let _ = self.load(coming.range.start, to, size);
        }
        // Before the word that the pages are there: who waits for it may want to evict.
        drop(layout);
        drop(coming);
    }

    /// Bytes of `off..off + len` that are valid before the first that is not.
    fn valid_prefix(&self, off: u64, len: u64) -> usize {
        let (a, b) = page_range(off, len);
        let s = lock(&self.state);
        let end = s.uptodate.first_gap(a, b).map_or(b, |(gap, _)| gap) * PAGE;
        end.min(off + len).saturating_sub(off) as usize
    }

    /// Makes pages `a..b` valid, as far as the file reaches. The layout is held shared.
    pub(crate) fn fill(&self, a: u64, b: u64) -> Result<()> {
        loop {
            let (from, to, size) = {
                let mut s = lock(&self.state);
                loop {
                    let gap = s.uptodate.first_gap(a, b.min(s.size.div_ceil(PAGE)));
                    let Some((from, to)) = gap else { return Ok(()) };
                    if !s.coming.iter().any(|c| c.contains(&from)) {
                        break (from, s.until_coming(from, to), s.size);
                    }
                    // Whoever reads them never waits for the layout, which is held here.
                    s = self.wait_for_pages(s);
                }
            };
            self.load(from, to.min(from + FILL), size)?;
        }
    }

    /// Reads pages `from..to` of a file of `size` bytes, at most [`FILL`] of them. The layout is held shared.
    fn load(&self, from: u64, to: u64, size: u64) -> Result<()> {
        let off = from * PAGE;
        let len = (to * PAGE).min(size).saturating_sub(off) as usize;
        // What was read before a direct write must not be entered after it.
        let _loading = self.alone(from..to, Use::Load);
        scratch::with(len, |buf| -> Result<()> {
            self.backing.read(off, buf)?;
            // In pieces, so that a reader of the pages before these does not wait for all of them.
            for a in (from..to).step_by(INSTALL as usize) {
                let b = to.min(a + INSTALL);
                let mut s = lock(&self.state);
                // Somebody may have filled or written some of them meanwhile.
                for (s0, e0) in s.uptodate.gaps(a, b) {
                    let (x, y) = ((s0 - from) * PAGE, ((e0 - from) * PAGE).min(len as u64));
                    self.ready_store(&mut s, size)?;
                    s.store.install(s0 * PAGE, &buf[x as usize..y as usize])?;
                    self.add_valid(&mut s, s0, e0);
                }
            }
            Ok(())
        })
    }

    /// Enters `pages` in the list of `what` happens to them, once nothing happens to them that may not at the same time: loads keep
    /// direct writes away, and those loads and each other. Who is in a list waits for no one here.
    pub(crate) fn alone(&self, pages: Range<u64>, what: Use) -> Using<'_> {
        let mut s = lock(&self.state);
        loop {
            let meets = |c: &Range<u64>| c.start < pages.end && pages.start < c.end;
            let loads = what == Use::Direct && s.loading.iter().any(meets);
            if !loads && !s.direct.iter().any(meets) {
                break;
            }
            s.waiting += 1;
            s = self.wait_for_pages(s);
            s.waiting -= 1;
        }
        what.list(&mut s).push(pages.clone());
        Using { file: self, pages, what }
    }

    /// Makes the store one that can hold a file of `size` bytes.
    pub(crate) fn ready_store(&self, s: &mut State, size: u64) -> Result<()> {
        if size > HEAP_MAX { self.need_memory(s) } else { Ok(()) }
    }

    /// Makes the store a memory file.
    pub(crate) fn need_memory(&self, s: &mut State) -> Result<()> {
        if s.store.move_to_memory(s.size)? {
            self.volume.pool.add_fd();
        }
        Ok(())
    }

    /// Enters pages whose bytes were just stored.
    pub(crate) fn add_valid(&self, s: &mut State, a: u64, b: u64) {
        let n = s.uptodate.add(a, b);
        if n == 0 {
            return;
        }
        self.volume.pool.add_used(n);
        for c in a / CHUNK..b.div_ceil(CHUNK) {
            if s.chunks.insert(c, false).is_none() {
                self.volume.pool.enqueue(&self.me, c);
            }
        }
    }

    /// Writes `data` at `off`, growing the file; returns how much, which is less than all only when
    /// space ran out. `privileged` callers may use reserved space. The caller keeps other writers and
    /// changes of the size away.
    pub fn write(&self, off: u64, data: &[u8], privileged: bool) -> Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        let room = (i64::MAX as u64).saturating_sub(off);
        if room == 0 {
            return Err(EFBIG);
        }
        let data = &data[..data.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        self.volume.pool.make_room();
        let n = {
            let _layout = self.shared();
            self.write_shared(off, data, privileged)?
        };
        if self.volume.pool.over_background() {
            self.volume.kick();
            if self.volume.pool.over_hard() {
                // Whoever makes changed data faster than it is written writes it.
                let _ = self.write_back_some();
            }
        }
        Ok(n)
    }

    fn write_shared(&self, off: u64, data: &[u8], privileged: bool) -> Result<usize> {
        let mut data = data;
        let (a, mut b) = page_range(off, data.len() as u64);
        let size = self.size();
        // Pages that are written in part need the rest of their bytes.
        let end = off + data.len() as u64;
        if off % PAGE != 0 && a * PAGE < size {
            self.fill(a, a + 1)?;
        }
        if end % PAGE != 0 && end < size {
            self.fill(b - 1, b)?;
        }
        let promised = match self.promise(a, b, privileged) {
            Err(ENOSPC) if b > a + 1 => {
                // The last space is given out page by page: a short write.
                b = a + 1;
                data = &data[..(b * PAGE - off) as usize];
                self.promise(a, b, privileged)
            }
            r => r,
        }?;
        let end = off + data.len() as u64;
        let mut s = lock(&self.state);
        let s = &mut *s;
        let mut surplus = promised.total;
        let r = self.ready_store(s, s.size.max(end)).and_then(|()| {
            self.zero_tail(s, off)?;
            s.store.write(off, data)
        });
        if r.is_ok() {
            for &(x, y) in &promised.holes {
                surplus -= s.delayed.add(x, y).min(surplus);
            }
            for &(x, y) in &promised.known {
                s.allocated.add(x, y);
            }
            if end > s.size {
                let old = std::mem::replace(&mut s.size, end);
                self.grown(s, old);
            }
            if s.uptodate.covers(a, b) {
                s.mark_used(a, b);
            }
            self.add_valid(s, a, b);
            self.add_dirty(s, a, b);
        }
        if surplus > 0 {
            self.backing.unreserve(surplus);
        }
        // A full host is a failing disk to the guest.
        r.map_err(|e| if matches!(e, EMFILE | ENFILE | ENOMEM) { ENOMEM } else { EIO })?;
        Ok(data.len())
    }

    /// Bytes past the end that a mapping may have stored in the last page must not appear when the
    /// file grows to `to` or beyond.
    pub(crate) fn zero_tail(&self, s: &mut State, to: u64) -> Result<()> {
        let edge = s.size.next_multiple_of(PAGE);
        if to <= s.size || s.size == edge || s.exposed.is_empty() {
            return Ok(());
        }
        if !s.uptodate.covers(s.size / PAGE, s.size / PAGE + 1) {
            return Ok(());
        }
        let n = (edge.min(to) - s.size) as usize;
        let at = s.size;
        s.store.write(at, &[0; PAGE as usize][..n])
    }

    /// Makes sure that pages `a..b` can be written back later.
    fn promise(&self, a: u64, b: u64, privileged: bool) -> Result<Promise> {
        let unknown: Vec<_> = {
            let s = lock(&self.state);
            let fresh = s.delayed.gaps(a, b);
            fresh.into_iter().flat_map(|(x, y)| s.allocated.gaps(x, y)).collect()
        };
        let mut p = Promise::default();
        for (x, y) in unknown {
            let holes = self.backing.holes(x, y)?;
            let mut at = x;
            for &(hs, he) in &holes {
                if at < hs {
                    p.known.push((at, hs));
                }
                at = he;
                p.total += he - hs;
            }
            if at < y {
                p.known.push((at, y));
            }
            p.holes.extend(holes);
        }
        if p.total > 0 {
            self.backing.reserve(p.total, privileged)?;
        }
        Ok(p)
    }

    /// Promises space for pages that a mapping changed.
    pub(crate) fn promise_pages(&self, a: u64, b: u64) -> Result<()> {
        let p = self.promise(a, b, true)?;
        let mut surplus = p.total;
        {
            let mut s = lock(&self.state);
            for (x, y) in p.holes {
                surplus -= s.delayed.add(x, y).min(surplus);
            }
            for (x, y) in p.known {
                s.allocated.add(x, y);
            }
        }
        if surplus > 0 {
            self.backing.unreserve(surplus);
        }
        Ok(())
    }

    /// Enters changed pages.
    pub(crate) fn add_dirty(&self, s: &mut State, a: u64, b: u64) {
        let n = s.dirty.add(a, b);
        storage::written(n * PAGE);
        self.volume.pool.add_dirty(n);
        self.enlist(s);
    }

    /// Enters the file in the volume's list of changed files.
    pub(crate) fn enlist(&self, s: &mut State) {
        if s.since.is_none()
            && let Some(me) = self.me.upgrade()
        {
            let now = Instant::now();
            s.since = Some(now);
            self.volume.enter(now, self.id, me);
        }
    }
}

/// What [`CachedFile::promise`] found: pages without space, for which some was promised, and with.
#[derive(Default)]
struct Promise {
    holes: Vec<(u64, u64)>,
    known: Vec<(u64, u64)>,
    total: u64,
}

/// What happens to pages while others may use the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// They are read from below.
    Load,
    /// They are written past the cache.
    Direct,
}

impl Use {
    fn list(self, s: &mut State) -> &mut Vec<Range<u64>> {
        match self {
            Use::Load => &mut s.loading,
            Use::Direct => &mut s.direct,
        }
    }
}

/// Pages in one of the lists, as long as this lives.
pub(crate) struct Using<'a> {
    file: &'a CachedFile,
    pages: Range<u64>,
    what: Use,
}

impl Drop for Using<'_> {
    fn drop(&mut self) {
        let mut s = lock(&self.file.state);
        let list = self.what.list(&mut s);
        // Equal ones stand for each other.
        if let Some(i) = list.iter().position(|r| *r == self.pages) {
            list.swap_remove(i);
        }
        let awaited = s.waiting > 0;
        drop(s);
        if awaited {
            self.file.arrived.notify_all();
        }
    }
}

/// Pages that are being read ahead, until they are there or the attempt failed.
struct Coming<'a> {
    file: &'a CachedFile,
    range: Range<u64>,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        lock(&self.file.state).coming.retain(|c| *c != self.range);
        self.file.arrived.notify_all();
    }
}

impl State {
    /// A view of the file may be had.
    fn viewable(&self) -> bool {
        self.store.fd().is_some() && self.size >= FileView::LEAST
    }

    /// The view of the file's store.
    fn view(&mut self) -> Option<Arc<FileView>> {
        self.view.get(self.store.fd()?, self.size)
    }

    /// `to`, or where pages after `from` begin that are on their way.
    fn until_coming(&self, from: u64, to: u64) -> u64 {
        self.coming.iter().map(|c| c.start).filter(|c| *c > from).fold(to, u64::min)
    }

    /// Pages were used again.
    fn mark_used(&mut self, a: u64, b: u64) {
        for (_, used) in self.chunks.range_mut(a / CHUNK..b.div_ceil(CHUNK)) {
            *used = true;
        }
    }
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        let s = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let pool = &self.volume.pool;
        pool.sub_used(s.uptodate.count());
        pool.sub_dirty(s.dirty.count());
        pool.forget(s.chunks.len());
        if s.store.fd().is_some() {
            pool.sub_fd();
        }
        let promised = s.delayed.count();
        if promised > 0 {
            self.backing.unreserve(promised);
        }
    }
}
