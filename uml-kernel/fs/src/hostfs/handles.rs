//! Which inodes keep host descriptors: a bounded set, least recently used ones close theirs.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use uml_base::{Mutex, Rank};

use crate::hostfs::inode::HostInode;

/// Most inodes of one mount that keep descriptors (each may have two).
const LIMIT: usize = 1024;

/// The inodes with open descriptors, oldest first.
pub(crate) struct HandleCache {
    queue: Mutex<VecDeque<Weak<HostInode>>>,
    limit: usize,
}

impl HandleCache {
    pub(crate) fn new() -> HandleCache {
        // A quarter of what the host lets the process open, for all mounts of this kind together.
        let files = uml_host::fs::max_open_files();
        let limit = usize::try_from(files / 8).unwrap_or(LIMIT).clamp(16, LIMIT);
        HandleCache { queue: Mutex::new(Rank::LEAF, VecDeque::new()), limit }
    }

    /// `inode` opened a descriptor and was in no queue before.
    pub(crate) fn add(&self, inode: &Arc<HostInode>) {
        let mut victims = Vec::new();
        {
            let mut q = self.queue.lock();
            q.push_back(Arc::downgrade(inode));
            for _ in 0..4 {
                if q.len() <= self.limit {
                    break;
                }
                victims.extend(q.pop_front());
            }
        }
        for v in victims {
            let Some(i) = v.upgrade() else { continue };
            if !i.close_unused() {
                self.queue.lock().push_back(v);
            }
        }
    }

    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.queue.lock());
        drop(all);
    }
}
