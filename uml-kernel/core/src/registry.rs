//! Where filesystems and drivers are entered.
//!
//! Filled at boot by `init.rs` of the binary; read by mount(2), by open(2) of device nodes, FIFOs and
//! sockets, by devtmpfs, and by /proc/filesystems and /proc/devices.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, RwLock};

use crate::file::FileOps;
use crate::task::Task;
use crate::vfs::{Dev, FsType, Inode, Path, inode_key};

/// A request to open a device node or FIFO.
pub struct NodeOpen<'a> {
    pub task: &'a Task,
    pub dev: Dev,
    /// The node.
    pub path: &'a Path,
    /// open(2) flags.
    pub flags: u32,
}

/// An opened node.
pub struct Opened {
    pub ops: Box<dyn FileOps>,
    /// Where the file says it is, when that is not the node (`/dev/ptmx` opens a pty's master).
    pub path: Option<Path>,
}

impl From<Box<dyn FileOps>> for Opened {
    fn from(ops: Box<dyn FileOps>) -> Opened {
        Opened { ops, path: None }
    }
}

/// Driver of a range of character devices. May sleep (modem control), no locks are held.
pub trait CharDriver: Send + Sync {
    fn open(&self, req: &NodeOpen<'_>) -> Result<Opened>;
}

/// Requests of one kind that a block device completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestStats {
    pub requests: u64,
    pub bytes: u64,
    pub nanos: u64,
}

/// Counters of a block device (/proc/diskstats, /sys/block/<dev>/stat).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStats {
    pub reads: RequestStats,
    pub writes: RequestStats,
    pub discards: RequestStats,
    pub flushes: RequestStats,
    /// Requests under way: reads, and all others.
    pub in_flight: [u64; 2],
    /// Time during which some request was under way.
    pub busy_nanos: u64,
}

impl BlockStats {
    /// The seventeen fields of /proc/diskstats after the name (Documentation/admin-guide/iostats.rst): sectors of
    /// 512 bytes, milliseconds. Merges are 0: no device here queues requests to join them; who has neighbouring blocks asks for
    /// them at once.
    pub fn fields(&self) -> [u64; 17] {
        let ms = |n: u64| n / 1_000_000;
        let (r, w, d, f) = (&self.reads, &self.writes, &self.discards, &self.flushes);
        let weighted = r.nanos + w.nanos + d.nanos + f.nanos;
        [
            r.requests,
            0,
            r.bytes / 512,
            ms(r.nanos),
            w.requests,
            0,
            w.bytes / 512,
            ms(w.nanos),
            self.in_flight.iter().sum(),
            ms(self.busy_nanos),
            ms(weighted),
            d.requests,
            0,
            d.bytes / 512,
            ms(d.nanos),
            f.requests,
            ms(f.nanos),
        ]
    }
}

/// A block device as filesystems use it. Offsets and lengths are in bytes and multiples of
/// [`BlockDevice::block_size`].
pub trait BlockDevice: Send + Sync {
    fn dev(&self) -> Dev;
    /// Kernel name (`ubda1`).
    fn name(&self) -> String;
    fn size(&self) -> u64;
    /// Logical block size in bytes.
    fn block_size(&self) -> u32;
    fn read_only(&self) -> bool;
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()>;
    /// As [`BlockDevice::read`], but `EAGAIN` where the bytes would have to be waited for; a device that cannot tell waits.
    fn read_at_once(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.read(off, buf)
    }
    fn write(&self, off: u64, data: &[u8]) -> Result<()>;
    /// Makes all completed writes durable.
    fn flush(&self) -> Result<()>;
    /// Makes a range read as zeros without moving them through a buffer where the device can.
    fn write_zeroes(&self, off: u64, len: u64) -> Result<()> {
        let zeros = [0; 4096];
        let end = off.checked_add(len).ok_or(EINVAL)?;
        let mut at = off;
        while at < end {
            let n = (end - at).min(zeros.len() as u64);
            self.write(at, &zeros[..n as usize])?;
            at += n;
        }
        Ok(())
    }
    /// Number and first byte of a partition; `None` for a whole disk.
    fn partition(&self) -> Option<(u32, u64)> {
        None
    }
    /// Serial number, for sysfs.
    fn serial(&self) -> Option<String> {
        None
    }
    /// Discard is offered.
    fn can_discard(&self) -> bool {
        false
    }
    /// Completed requests since boot.
    fn stats(&self) -> BlockStats {
        BlockStats::default()
    }
    /// Tells the device that a range holds nothing; `EOPNOTSUPP` when it cannot use that.
    fn discard(&self, off: u64, len: u64) -> Result<()> {
        let _ = (off, len);
        Err(EOPNOTSUPP)
    }
    fn as_any(&self) -> &dyn Any;
}

/// Who has a block device in use, a mounted filesystem: programs that read or write the device node meanwhile see and
/// change what it has in memory, as far as that is possible (tune2fs(8), dumpe2fs(8)).
pub trait BlockHolder: Send + Sync {
    /// Somebody opened the node: what the holder keeps in memory goes to the device.
    fn bring_home(&self);
    /// Somebody wrote bytes of the device through the node.
    fn overwritten(&self, off: u64, len: u64);
}

/// Driver of a block major.
pub trait BlockDriver: Send + Sync {
    /// The device with this number; `ENXIO` when there is none.
    fn device(&self, dev: Dev) -> Result<Arc<dyn BlockDevice>>;
    /// Opens the node for read, write and ioctl.
    fn open(&self, req: &NodeOpen<'_>) -> Result<Opened>;
    /// Every device, for /proc/partitions.
    fn list(&self) -> Vec<Arc<dyn BlockDevice>>;
}

/// Opens FIFOs (fifo(7)); blocks until the other end is there, as open(2) says.
pub trait FifoOpener: Send + Sync {
    fn open(&self, req: &NodeOpen<'_>) -> Result<Box<dyn FileOps>>;
}

/// A device node that devtmpfs shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// Path below /dev (`ubda1`, `input/event0`).
    pub name: String,
    /// S_IFCHR or S_IFBLK.
    pub kind: u32,
    pub dev: Dev,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Told of device nodes that come and go (devtmpfs, uevents).
pub trait DeviceListener: Send + Sync {
    fn added(&self, node: &DeviceNode);
    fn removed(&self, node: &DeviceNode);
}

struct CharRange {
    name: &'static str,
    major: u32,
    first: u32,
    last: u32,
    driver: Arc<dyn CharDriver>,
}

type BlockMajor = (&'static str, Arc<dyn BlockDriver>);

struct Bound {
    inode: Arc<dyn Inode>,
    socket: Weak<dyn Any + Send + Sync>,
}

/// Filesystem types, drivers and device nodes of the machine.
pub struct Registry {
    fs_types: RwLock<Vec<Arc<dyn FsType>>>,
    chars: RwLock<Vec<CharRange>>,
    blocks: RwLock<BTreeMap<u32, BlockMajor>>,
    holders: Mutex<HashMap<Dev, Weak<dyn BlockHolder>>>,
    nodes: Mutex<Vec<DeviceNode>>,
    listeners: RwLock<Vec<Arc<dyn DeviceListener>>>,
    fifo: OnceLock<Arc<dyn FifoOpener>>,
    sockets: Mutex<HashMap<usize, Bound>>,
}

impl Default for Registry {
    fn default() -> Self {
        Registry {
            fs_types: RwLock::new(Rank::LEAF, Vec::new()),
            chars: RwLock::new(Rank::LEAF, Vec::new()),
            blocks: RwLock::new(Rank::LEAF, BTreeMap::new()),
            holders: Mutex::new(Rank::LEAF, HashMap::new()),
            nodes: Mutex::new(Rank::LEAF, Vec::new()),
            listeners: RwLock::new(Rank::LEAF, Vec::new()),
            fifo: OnceLock::new(),
            sockets: Mutex::new(Rank::LEAF, HashMap::new()),
        }
    }
}

impl Registry {
    /// Enters a filesystem type; a second one of the same name replaces the first.
    pub fn add_fs(&self, fs: Arc<dyn FsType>) {
        let mut v = self.fs_types.write();
        v.retain(|f| f.name() != fs.name());
        v.push(fs);
    }

    /// The filesystem type `name`; `ENODEV` when unknown (mount(2)).
    pub fn fs(&self, name: &[u8]) -> Result<Arc<dyn FsType>> {
        let v = self.fs_types.read();
        v.iter().find(|f| f.name().as_bytes() == name).cloned().ok_or(ENODEV)
    }

    /// Every filesystem type, in order of registration (/proc/filesystems).
    pub fn fs_list(&self) -> Vec<Arc<dyn FsType>> {
        self.fs_types.read().clone()
    }

    /// Enters the driver of minors `first..=last` of `major`; `EBUSY` when some of them are taken.
    pub fn add_char(
        &self,
        name: &'static str,
        major: u32,
        first: u32,
        last: u32,
        driver: Arc<dyn CharDriver>,
    ) -> Result<()> {
        let mut v = self.chars.write();
        if v.iter().any(|r| r.major == major && r.first <= last && first <= r.last) {
            return Err(EBUSY);
        }
        v.push(CharRange { name, major, first, last, driver });
        Ok(())
    }

    /// The driver of a character device; `ENXIO` when there is none (open(2)).
    pub fn char_driver(&self, dev: Dev) -> Result<Arc<dyn CharDriver>> {
        let v = self.chars.read();
        v.iter()
            .find(|r| r.major == dev.major && (r.first..=r.last).contains(&dev.minor))
            .map(|r| r.driver.clone())
            .ok_or(ENXIO)
    }

    /// Character majors with their names, ascending (/proc/devices).
    pub fn char_majors(&self) -> Vec<(u32, &'static str)> {
        let mut v: Vec<_> = self.chars.read().iter().map(|r| (r.major, r.name)).collect();
        v.sort_unstable();
        v.dedup();
        v
    }

    /// Enters the driver of a block major; `EBUSY` when it is taken.
    pub fn add_block(
        &self,
        name: &'static str,
        major: u32,
        driver: Arc<dyn BlockDriver>,
    ) -> Result<()> {
        match self.blocks.write().entry(major) {
            std::collections::btree_map::Entry::Occupied(_) => Err(EBUSY),
            std::collections::btree_map::Entry::Vacant(e) => {
                e.insert((name, driver));
                Ok(())
            }
        }
    }

    /// The driver of a block major; `ENXIO` when there is none.
    pub fn block_driver(&self, major: u32) -> Result<Arc<dyn BlockDriver>> {
        self.blocks.read().get(&major).map(|(_, d)| d.clone()).ok_or(ENXIO)
    }

    /// The block device with this number.
    pub fn block_device(&self, dev: Dev) -> Result<Arc<dyn BlockDevice>> {
        self.block_driver(dev.major)?.device(dev)
    }

    /// Enters who has a block device in use, as long as the holder lives or until [`Registry::release_block`].
    pub fn hold_block(&self, dev: Dev, holder: Weak<dyn BlockHolder>) {
        self.holders.lock().insert(dev, holder);
    }

    /// The device is no longer in use.
    pub fn release_block(&self, dev: Dev) {
        self.holders.lock().remove(&dev);
    }

    /// Who has a block device in use.
    pub fn block_holder(&self, dev: Dev) -> Option<Arc<dyn BlockHolder>> {
        self.holders.lock().get(&dev).and_then(Weak::upgrade)
    }

    /// Block majors with their names, ascending.
    pub fn block_majors(&self) -> Vec<(u32, &'static str)> {
        self.blocks.read().iter().map(|(m, (n, _))| (*m, *n)).collect()
    }

    /// Every block device, by major and as its driver orders them.
    pub fn block_devices(&self) -> Vec<Arc<dyn BlockDevice>> {
        let drivers: Vec<_> = self.blocks.read().values().map(|(_, d)| d.clone()).collect();
        drivers.iter().flat_map(|d| d.list()).collect()
    }

    /// Announces a device node: it appears in devtmpfs.
    pub fn add_node(&self, node: DeviceNode) {
        {
            let mut nodes = self.nodes.lock();
            nodes.retain(|n| n.name != node.name);
            nodes.push(node.clone());
        }
        let listeners = self.listeners.read().clone();
        for l in listeners {
            l.added(&node);
        }
    }

    /// Takes a device node back.
    pub fn remove_node(&self, name: &str) {
        let node = {
            let mut nodes = self.nodes.lock();
            match nodes.iter().position(|n| n.name == name) {
                Some(i) => nodes.remove(i),
                None => return,
            }
        };
        let listeners = self.listeners.read().clone();
        for l in listeners {
            l.removed(&node);
        }
    }

    /// Every announced device node.
    pub fn nodes(&self) -> Vec<DeviceNode> {
        self.nodes.lock().clone()
    }

    /// Adds a listener and tells it of the nodes that exist.
    pub fn add_listener(&self, l: Arc<dyn DeviceListener>) {
        self.listeners.write().push(l.clone());
        for n in self.nodes() {
            l.added(&n);
        }
    }

    /// Sets what opens FIFOs, once.
    pub fn set_fifo(&self, opener: Arc<dyn FifoOpener>) {
        let _ = self.fifo.set(opener);
    }

    /// What opens FIFOs; `ENXIO` without one.
    pub fn fifo(&self) -> Result<Arc<dyn FifoOpener>> {
        self.fifo.get().cloned().ok_or(ENXIO)
    }

    /// Binds an AF_UNIX socket to the socket inode that bind(2) made. The binding lasts until
    /// [`Registry::unbind_socket`] or until the socket is gone.
    pub fn bind_socket(&self, inode: &Arc<dyn Inode>, socket: Weak<dyn Any + Send + Sync>) {
        let bound = Bound { inode: inode.clone(), socket };
        let old = self.sockets.lock().insert(inode_key(inode), bound);
        drop(old);
    }

    /// The socket bound to `inode`; `ECONNREFUSED` when nobody listens behind the name (unix(7)).
    pub fn socket(&self, inode: &Arc<dyn Inode>) -> Result<Arc<dyn Any + Send + Sync>> {
        let t = self.sockets.lock();
        t.get(&inode_key(inode)).and_then(|b| b.socket.upgrade()).ok_or(ECONNREFUSED)
    }

    /// Ends a binding; sockets do so when they are closed.
    pub fn unbind_socket(&self, inode: &Arc<dyn Inode>) {
        let old = {
            let mut t = self.sockets.lock();
            match t.get(&inode_key(inode)) {
                Some(b) if Arc::ptr_eq(&b.inode, inode) => t.remove(&inode_key(inode)),
                _ => None,
            }
        };
        drop(old);
    }
}
