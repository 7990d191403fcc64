//! FIFOs: pipes found by an inode (fifo(7)).

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank};
use uml_core::file::FileOps;
use uml_core::registry::{FifoOpener, NodeOpen};
use uml_core::task::{Task, WaitKind};
use uml_core::vfs::Inode;
use uml_core::vfs::anon::AnonInode;

use crate::pipe::{Pipe, PipeFile};

/// Live FIFOs by the identity of their inode, which stays the same while somebody has it open.
static LIVE: LazyLock<Mutex<HashMap<usize, Weak<Pipe>>>> =
    LazyLock::new(|| Mutex::new(Rank::LEAF, HashMap::new()));

fn identity(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).cast::<()>() as usize
}

/// Keeps the inode, and with it its identity, while a FIFO is open.
pub(crate) struct Registration {
    inode: Arc<dyn Inode>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let key = identity(&self.inode);
        let mut live = LIVE.lock();
        if live.get(&key).is_some_and(|p| p.strong_count() == 0) {
            live.remove(&key);
        }
    }
}

/// The pipe of pipe(2) behind an inode that /proc/<pid>/fd led to.
fn anonymous(inode: &Arc<dyn Inode>) -> Option<Result<Arc<Pipe>>> {
    let anon = inode.as_any().downcast_ref::<AnonInode>()?;
    Some(anon.object()?.downcast::<Pipe>().map_err(|_| ENXIO))
}

fn pipe_of(task: &Task, inode: &Arc<dyn Inode>) -> Result<Arc<Pipe>> {
    let key = identity(inode);
    if let Some(p) = LIVE.lock().get(&key).and_then(Weak::upgrade) {
        return Ok(p);
    }
    let fresh = Pipe::new(&task.cred())?;
    let mut live = LIVE.lock();
    if let Some(p) = live.get(&key).and_then(Weak::upgrade) {
        return Ok(p);
    }
    live.insert(key, Arc::downgrade(&fresh));
    Ok(fresh)
}

/// What the VFS opens FIFOs with.
pub struct Opener;

impl FifoOpener for Opener {
    fn open(&self, req: &NodeOpen<'_>) -> Result<Box<dyn FileOps>> {
        open(req.task, req.path.inode(), req.flags)
    }
}

/// Opens the FIFO `inode` with open(2) `flags`: sleeps until the other end is opened too, unless
/// O_NONBLOCK (reading succeeds at once, writing is `ENXIO` without a reader) or O_RDWR.
pub fn open(task: &Task, inode: &Arc<dyn Inode>, flags: u32) -> Result<Box<dyn FileOps>> {
    let (read, write) = match (flags & libc::O_ACCMODE as u32) as i32 {
        libc::O_RDONLY => (true, false),
        libc::O_WRONLY => (false, true),
        libc::O_RDWR => (true, true),
        _ => return Err(EINVAL),
    };
    if let Some(pipe) = anonymous(inode) {
        // Its partner was there from the start: nothing to wait for.
        return Ok(Box::new(PipeFile::new(pipe?, read, write)));
    }
    let nonblock = flags & libc::O_NONBLOCK as u32 != 0;
    let pipe = pipe_of(task, inode)?;
    if write && !read && nonblock && pipe.ends().readers == 0 {
        return Err(ENXIO);
    }
    let registration = Some(Registration { inode: inode.clone() });
    // From here on the ends count; an error drops the file and takes them back.
    let (file, ends) = PipeFile::open(pipe.clone(), read, write);
    let mut file = Box::new(file);
    file.registration = registration;
    let partner_missing = (read && ends.writers == 0) || (write && ends.readers == 0);
    if !partner_missing {
        return Ok(file);
    }
    if nonblock {
        file.quiet_until = Some(ends.write_opens);
        return Ok(file);
    }
    // A partner that opened and closed again in the meantime counts too.
    let opened = || {
        let now = pipe.ends();
        let came = if read {
            now.writers > 0 || now.write_opens != ends.write_opens
        } else {
            now.readers > 0 || now.read_opens != ends.read_opens
        };
        came.then_some(())
    };
    task.wait(
        pipe.queue(),
        Events::MSG,
        WaitKind::Interruptible,
        None,
        "wait_for_partner",
        opened,
    )?;
    Ok(file)
}
