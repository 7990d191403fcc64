//! Signals about changes of directories (fcntl(2) F_NOTIFY).

use std::sync::{Arc, LazyLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::notify_owner::{self, F_OWNER_PID, POLL_MSG};
use uml_core::file::{CloseWatcher, File, Owner};
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_core::vfs::inode_key;
use uml_core::vfs::watch::{self, Watcher};

const DN_ACCESS: u32 = 0x1;
const DN_MODIFY: u32 = 0x2;
const DN_CREATE: u32 = 0x4;
const DN_DELETE: u32 = 0x8;
const DN_RENAME: u32 = 0x10;
const DN_ATTRIB: u32 = 0x20;
const DN_MULTISHOT: u32 = 0x8000_0000;

/// Watches one directory through one open file of it.
struct Watch {
    me: Weak<Watch>,
    file: Weak<File>,
    inode: usize,
    fd: i32,
    kernel: Weak<Kernel>,
    /// DN_* asked for; 0 once it is over.
    mask: Mutex<u32>,
}

/// Live watches.
static WATCHES: LazyLock<Mutex<Vec<Arc<Watch>>>> =
    LazyLock::new(|| Mutex::new(Rank::LEAF, Vec::new()));

/// DN_* bits that an inotify event is.
fn bits(mask: u32) -> u32 {
    [
        (watch::IN_ACCESS, DN_ACCESS),
        (watch::IN_MODIFY, DN_MODIFY),
        (watch::IN_ATTRIB, DN_ATTRIB),
        (watch::IN_CREATE, DN_CREATE),
        (watch::IN_DELETE, DN_DELETE),
        (watch::IN_MOVED_FROM, DN_RENAME | DN_DELETE),
        (watch::IN_MOVED_TO, DN_RENAME | DN_CREATE),
    ]
    .iter()
    .filter(|(event, _)| mask & event != 0)
    .fold(0, |all, (_, dn)| all | dn)
}

impl Watch {
    fn end(&self) {
        *self.mask.lock() = 0;
        WATCHES.lock().retain(|w| !std::ptr::eq(&**w, self));
        if let Some(me) = self.me.upgrade() {
            let me: Arc<dyn Watcher> = me;
            watch::table().remove(self.inode, &me);
        }
    }
}

impl Watcher for Watch {
    fn event(&self, _: usize, mask: u32, _: u32, name: &[u8], _: bool) {
        // Only what happens to the entries of the directory counts.
        let asked = *self.mask.lock();
        if name.is_empty() || asked & bits(mask) == 0 {
            return;
        }
        let (Some(file), Some(kernel)) = (self.file.upgrade(), self.kernel.upgrade()) else {
            return;
        };
        let owner = file.owner.lock().clone();
        notify_owner::signal(&kernel, &owner, self.fd, POLL_MSG);
        if asked & DN_MULTISHOT == 0 {
            self.end();
        }
    }
}

impl CloseWatcher for Watch {
    fn closed(&self) {
        self.end();
    }
}

/// F_NOTIFY: `mask` is DN_*; without an event a watch of the descriptor is taken back;
/// unknown bits are events that never happen. `ENOTDIR` when the file is no directory.
pub fn set(task: &Task, file: &Arc<File>, fd: i32, mask: u32) -> Result<()> {
    let events = mask & !DN_MULTISHOT;
    let present = |w: &&Arc<Watch>| w.fd == fd && std::ptr::eq(w.file.as_ptr(), Arc::as_ptr(file));
    let known = WATCHES.lock().iter().find(present).cloned();
    if events == 0 {
        if let Some(w) = known {
            w.end();
        }
        return Ok(());
    }
    let inode = file.inode();
    if inode.dir().is_none() {
        return Err(ENOTDIR);
    }
    {
        let c = task.cred();
        let mut o = file.owner.lock();
        let id = task.process.pid;
        *o = Owner {
            kind: F_OWNER_PID,
            id,
            signo: o.signo,
            uid: c.uid,
            euid: c.euid,
            landlock: None,
        };
    }
    if let Some(w) = known {
        // Requests for one descriptor add up.
        *w.mask.lock() |= mask;
        return Ok(());
    }
    let w = Arc::new_cyclic(|me| Watch {
        me: me.clone(),
        file: Arc::downgrade(file),
        inode: inode_key(inode),
        fd,
        kernel: Arc::downgrade(&task.kernel()),
        mask: Mutex::new(Rank::LEAF, mask),
    });
    WATCHES.lock().push(w.clone());
    let closes: Arc<dyn CloseWatcher> = w.clone();
    file.watch_close(Arc::downgrade(&closes));
    watch::table().add(inode, w);
    Ok(())
}
