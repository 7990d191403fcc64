//! Epoll instances that watch each other: no loops, no deep chains (epoll_ctl(2) ELOOP).

use std::collections::HashSet;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, MutexGuard, Rank};

use super::Epoll;

/// Most links in a chain of instances.
const MAX_LINKS: usize = 4;

/// Serialises changes of who watches whom.
static TOPOLOGY: Mutex<()> = Mutex::new(Rank::EPOLL_NEST, ());

impl Epoll {
    /// Refuses to watch `target` when that makes a loop or too long a chain. The guard keeps the
    /// answer true.
    pub(super) fn check_nesting(&self, target: &Arc<Epoll>) -> Result<MutexGuard<'static, ()>> {
        let guard = TOPOLOGY.lock();
        let below = target.depth_below(self, &mut HashSet::new(), 0)?;
        let above = self.depth_above(0);
        if below + 1 + above > MAX_LINKS {
            return Err(ELOOP);
        }
        Ok(guard)
    }

    /// Links below; `ELOOP` when `origin` is among them.
    fn depth_below(
        &self,
        origin: &Epoll,
        seen: &mut HashSet<usize>,
        level: usize,
    ) -> Result<usize> {
        if std::ptr::eq(self, origin) || level > MAX_LINKS {
            return Err(ELOOP);
        }
        let files: Vec<_> = self.items.lock().values().filter_map(|i| i.file.upgrade()).collect();
        let mut deepest = 0;
        for f in &files {
            let Ok(child) = Epoll::of(f) else { continue };
            if !seen.insert(Arc::as_ptr(child) as usize) && !std::ptr::eq(&**child, origin) {
                continue;
            }
            deepest = deepest.max(1 + child.depth_below(origin, seen, level + 1)?);
        }
        Ok(deepest)
    }

    fn depth_above(&self, level: usize) -> usize {
        if level > MAX_LINKS {
            return level;
        }
        let parents: Vec<Arc<Epoll>> = {
            let mut list = self.parents.lock();
            list.retain(|p| p.strong_count() > 0);
            list.iter().filter_map(|p| p.upgrade()).collect()
        };
        let watching = |p: &&Arc<Epoll>| {
            let files: Vec<_> = p.items.lock().values().filter_map(|i| i.file.upgrade()).collect();
            files.iter().any(|f| Epoll::of(f).is_ok_and(|e| std::ptr::eq(&**e, self)))
        };
        parents.iter().filter(watching).map(|p| 1 + p.depth_above(level + 1)).max().unwrap_or(0)
    }
}
