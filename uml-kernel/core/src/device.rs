//! Devices as /sys and uevents show them (sysfs(5), udev(7)).
//!
//! A driver registers what it has with [`DeviceTree::add`]; sysfs builds its whole tree from here and
//! uevent listeners (netlink, the binary) are told. A device with a node also shows in devtmpfs.
//!
//! Places, as on Linux: a device of a class without a parent is `/sys/devices/virtual/CLASS/NAME`; below a
//! parent of another class `PARENT/CLASS/NAME`; below a parent of the same class (partitions)
//! `PARENT/NAME`; on a bus `/sys/devices/BUS/NAME`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, RwLock};

use crate::registry::{DeviceNode, Registry};
use crate::vfs::Dev;

/// What a device belongs to (the `subsystem` link).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subsystem {
    /// A class (`tty`, `net`, `mem`, `misc`); `block` is one too, though its device numbers are block ones.
    Class(&'static str),
    /// A bus (`platform`).
    Bus(&'static str),
}

impl Subsystem {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Subsystem::Class(n) | Subsystem::Bus(n) => n,
        }
    }
}

/// Renders an attribute.
pub type Show = Box<dyn Fn(&mut Vec<u8>) -> Result<()> + Send + Sync>;
/// Takes what was written to an attribute.
pub type Store = Box<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;

/// One attribute file. The name may contain a directory (`queue/rotational`).
pub struct Attribute {
    pub name: &'static str,
    pub show: Option<Show>,
    pub store: Option<Store>,
}

impl Attribute {
    /// A read-only attribute whose text is made anew on every read.
    pub fn new(
        name: &'static str,
        show: impl Fn(&mut Vec<u8>) -> Result<()> + Send + Sync + 'static,
    ) -> Attribute {
        Attribute { name, show: Some(Box::new(show)), store: None }
    }

    /// A read-only attribute that never changes; a newline is added.
    pub fn fixed(name: &'static str, text: impl Into<String>) -> Attribute {
        let text = text.into();
        Attribute::new(name, move |out| {
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
            Ok(())
        })
    }

    /// Makes it writable.
    pub fn writable(
        mut self,
        store: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
    ) -> Attribute {
        self.store = Some(Box::new(store));
        self
    }

    /// Permission bits in sysfs.
    pub fn mode(&self) -> u32 {
        let r = if self.show.is_some() { 0o444 } else { 0 };
        let w = if self.store.is_some() { 0o200 } else { 0 };
        r | w
    }
}

/// What a directory of a device has at the moment.
pub enum Entry {
    File(Attribute),
    /// A symbolic link: its name and its text.
    Link(String, String),
}

/// A directory of a device whose entries come and go, and which may not be there itself: then the function gives none.
pub struct Folder {
    /// Empty for entries beside the device's own.
    pub name: &'static str,
    pub entries: Box<dyn Fn() -> Option<Vec<Entry>> + Send + Sync>,
}

/// What a driver says about a new device.
pub struct DeviceSpec {
    pub subsystem: Subsystem,
    pub name: String,
    /// Device node below /dev, which also gives the number.
    pub node: Option<DeviceNode>,
    pub parent: Option<Arc<Device>>,
    /// Driver bound to it (the `driver` link of bus devices).
    pub driver: Option<&'static str>,
    /// DEVTYPE of uevents (`disk`, `partition`).
    pub devtype: Option<&'static str>,
    pub attributes: Vec<Attribute>,
    pub folders: Vec<Folder>,
    /// Further uevent variables.
    pub env: Vec<(&'static str, String)>,
}

impl DeviceSpec {
    /// A device of a class, without parent, node or attributes.
    pub fn class(class: &'static str, name: impl Into<String>) -> DeviceSpec {
        DeviceSpec {
            subsystem: Subsystem::Class(class),
            name: name.into(),
            node: None,
            parent: None,
            driver: None,
            devtype: None,
            attributes: Vec::new(),
            folders: Vec::new(),
            env: Vec::new(),
        }
    }

    /// A device on a bus with its driver.
    pub fn bus(bus: &'static str, name: impl Into<String>, driver: &'static str) -> DeviceSpec {
        let mut s = DeviceSpec::class(bus, name);
        s.subsystem = Subsystem::Bus(bus);
        s.driver = Some(driver);
        s
    }

    /// With a device node `/dev/NAME` of the device's own name.
    pub fn node(mut self, kind: u32, dev: Dev, mode: u32) -> DeviceSpec {
        let name = self.name.clone();
        self.node = Some(DeviceNode { name, kind, dev, mode, uid: 0, gid: 0 });
        self
    }

    /// Below `parent`.
    pub fn below(mut self, parent: &Arc<Device>) -> DeviceSpec {
        self.parent = Some(parent.clone());
        self
    }

    /// With an attribute.
    pub fn attribute(mut self, a: Attribute) -> DeviceSpec {
        self.attributes.push(a);
        self
    }
}

/// A registered device.
pub struct Device {
    /// Place below /sys/devices (`platform/uml-blkdev.0/block/ubda`).
    pub path: String,
    pub spec: DeviceSpec,
    /// Never reused: tells a device from a later one of the same place.
    pub id: u64,
}

impl Device {
    /// Its device number, with S_IFCHR or S_IFBLK.
    pub fn dev(&self) -> Option<(u32, Dev)> {
        self.spec.node.as_ref().map(|n| (n.kind, n.dev))
    }

    /// The attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.spec.attributes.iter().find(|a| a.name == name)
    }

    /// Variables of its `uevent` file and of uevents, without ACTION, DEVPATH, SUBSYSTEM and SEQNUM.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut v = Vec::new();
        if let Some(n) = &self.spec.node {
            v.push(("MAJOR".into(), n.dev.major.to_string()));
            v.push(("MINOR".into(), n.dev.minor.to_string()));
            v.push(("DEVNAME".into(), n.name.clone()));
            // 0600 root:root is what listeners assume.
            if n.mode & 0o777 != 0o600 {
                v.push(("DEVMODE".into(), format!("0{:o}", n.mode & 0o777)));
            }
        }
        if let Some(t) = self.spec.devtype {
            v.push(("DEVTYPE".into(), t.into()));
        }
        if let Some(d) = self.spec.driver {
            v.push(("DRIVER".into(), d.into()));
        }
        v.extend(self.spec.env.iter().map(|(k, t)| ((*k).to_string(), t.clone())));
        v
    }
}

/// A change that listeners are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, ...
    pub action: &'static str,
    /// `/devices/...`.
    pub devpath: String,
    pub subsystem: String,
    pub seqnum: u64,
    pub env: Vec<(String, String)>,
}

impl Uevent {
    /// The datagram of NETLINK_KOBJECT_UEVENT: `action@devpath` and variables, each ended by NUL.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |s: String| {
            out.extend_from_slice(s.as_bytes());
            out.push(0);
        };
        put(format!("{}@{}", self.action, self.devpath));
        put(format!("ACTION={}", self.action));
        put(format!("DEVPATH={}", self.devpath));
        put(format!("SUBSYSTEM={}", self.subsystem));
        for (k, v) in &self.env {
            put(format!("{k}={v}"));
        }
        put(format!("SEQNUM={}", self.seqnum));
        out
    }
}

/// Told of uevents; called without locks.
pub trait UeventListener: Send + Sync {
    fn uevent(&self, e: &Uevent);
}

/// Every device of the machine.
pub struct DeviceTree {
    devices: RwLock<BTreeMap<String, Arc<Device>>>,
    listeners: Mutex<Vec<Arc<dyn UeventListener>>>,
    seqnum: AtomicU64,
    next_id: AtomicU64,
}

impl Default for DeviceTree {
    fn default() -> Self {
        DeviceTree {
            devices: RwLock::new(Rank::LEAF, BTreeMap::new()),
            listeners: Mutex::new(Rank::LEAF, Vec::new()),
            seqnum: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
        }
    }
}

fn place(spec: &DeviceSpec) -> Result<String> {
    // `/` in a name (`cciss/c0d0`) is `!` in sysfs.
    let name = spec.name.replace('/', "!");
    if name.is_empty() || name.len() > 255 || name == "." || name == ".." || name.contains('\0') {
        return Err(EINVAL);
    }
    let sub = spec.subsystem.name();
    Ok(match (&spec.parent, spec.subsystem) {
        (Some(p), s) if s == p.spec.subsystem => format!("{}/{name}", p.path),
        (Some(p), Subsystem::Class(_)) => format!("{}/{sub}/{name}", p.path),
        (Some(p), Subsystem::Bus(_)) => format!("{}/{name}", p.path),
        (None, Subsystem::Class(_)) => format!("virtual/{sub}/{name}"),
        (None, Subsystem::Bus(_)) => format!("{sub}/{name}"),
    })
}

impl DeviceTree {
    /// Registers a device: it appears in sysfs and, with a node, in devtmpfs (`registry`), and an
    /// `add` uevent is sent. `EEXIST` when its place is taken, `EINVAL` for an impossible name.
    pub fn add(&self, registry: &Registry, spec: DeviceSpec) -> Result<Arc<Device>> {
        let device = self.enter(spec)?;
        if let Some(n) = &device.spec.node {
            registry.add_node(n.clone());
        }
        self.emit(&device, "add", &[]);
        Ok(device)
    }

    /// As [`DeviceTree::add`] for a device whose node was announced before.
    pub fn add_known(&self, spec: DeviceSpec) -> Result<Arc<Device>> {
        let device = self.enter(spec)?;
        self.emit(&device, "add", &[]);
        Ok(device)
    }

    fn enter(&self, spec: DeviceSpec) -> Result<Arc<Device>> {
        let path = place(&spec)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let device = Arc::new(Device { path: path.clone(), spec, id });
        match self.devices.write().entry(path) {
            std::collections::btree_map::Entry::Occupied(_) => return Err(EEXIST),
            std::collections::btree_map::Entry::Vacant(e) => {
                e.insert(device.clone());
            }
        }
        Ok(device)
    }

    /// Gives a device without node, and without devices below it, another name: it is replaced by what `spec` says, and
    /// listeners hear of a move. `EEXIST` when the place is taken, `EINVAL` for an impossible name.
    pub fn rename(&self, device: &Arc<Device>, spec: DeviceSpec) -> Result<Arc<Device>> {
        let new = self.enter(spec)?;
        self.devices.write().remove(&device.path);
        self.emit(&new, "move", &[("DEVPATH_OLD", format!("/devices/{}", device.path))]);
        Ok(new)
    }

    /// Takes a device and everything below it away again.
    pub fn remove(&self, registry: &Registry, device: &Arc<Device>) {
        let below = format!("{}/", device.path);
        let gone: Vec<Arc<Device>> = {
            let mut d = self.devices.write();
            let keys: Vec<String> = d
                .range(device.path.clone()..)
                .take_while(|(k, _)| k.starts_with(&device.path))
                .filter(|(k, _)| **k == device.path || k.starts_with(&below))
                .map(|(k, _)| k.clone())
                .collect();
            keys.iter().filter_map(|k| d.remove(k)).collect()
        };
        for d in gone.iter().rev() {
            if let Some(n) = &d.spec.node {
                registry.remove_node(&n.name);
            }
            self.emit(d, "remove", &[]);
        }
    }

    /// Sends a uevent about `device` with further variables (`change` after a resize, and what is
    /// written to a `uevent` file).
    pub fn emit(&self, device: &Device, action: &'static str, extra: &[(&str, String)]) {
        let mut env = device.environment();
        env.extend(extra.iter().map(|(k, v)| ((*k).to_string(), v.clone())));
        let e = Uevent {
            action,
            devpath: format!("/devices/{}", device.path),
            subsystem: device.spec.subsystem.name().into(),
            seqnum: self.seqnum.fetch_add(1, Ordering::Relaxed) + 1,
            env,
        };
        let listeners = self.listeners.lock().clone();
        for l in listeners {
            l.uevent(&e);
        }
    }

    /// Adds a listener; it hears of what happens from now on.
    pub fn add_listener(&self, l: Arc<dyn UeventListener>) {
        self.listeners.lock().push(l);
    }

    /// Number of the latest uevent (/sys/kernel/uevent_seqnum).
    pub fn seqnum(&self) -> u64 {
        self.seqnum.load(Ordering::Relaxed)
    }

    /// The device at `path` below /sys/devices.
    pub fn get(&self, path: &str) -> Option<Arc<Device>> {
        self.devices.read().get(path).cloned()
    }

    /// Every device, by path.
    pub fn list(&self) -> Vec<Arc<Device>> {
        self.devices.read().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Log(Mutex<Vec<Uevent>>);

    impl UeventListener for Log {
        fn uevent(&self, e: &Uevent) {
            self.0.lock().push(e.clone());
        }
    }

    #[test]
    fn places_nodes_and_uevents_follow_registration() {
        let (tree, reg) = (DeviceTree::default(), Registry::default());
        let log = Arc::new(Log(Mutex::new(Rank::LEAF, Vec::new())));
        tree.add_listener(log.clone());
        let bus =
            tree.add(&reg, DeviceSpec::bus("platform", "uml-blkdev.0", "uml-blkdev")).unwrap();
        let disk = DeviceSpec::class("block", "ubda").below(&bus).node(
            libc::S_IFBLK,
            Dev::new(98, 0),
            0o660,
        );
        let disk = tree.add(&reg, disk).unwrap();
        let part = DeviceSpec::class("block", "ubda1").below(&disk).node(
            libc::S_IFBLK,
            Dev::new(98, 1),
            0o660,
        );
        let part = tree.add(&reg, part).unwrap();
        assert_eq!(part.path, "platform/uml-blkdev.0/block/ubda/ubda1");
        assert_eq!(reg.nodes().len(), 2);
        let again = DeviceSpec::class("block", "ubda").below(&bus);
        assert_eq!(tree.add(&reg, again).err(), Some(EEXIST));
        tree.remove(&reg, &bus);
        assert!(tree.list().is_empty() && reg.nodes().is_empty());
        let log = log.0.lock();
        let actions: Vec<_> = log.iter().map(|e| e.action).collect();
        assert_eq!(actions, ["add", "add", "add", "remove", "remove", "remove"]);
        let text = String::from_utf8(log[1].to_bytes()).unwrap();
        assert!(text.starts_with("add@/devices/platform/uml-blkdev.0/block/ubda\0"), "{text}");
        assert!(text.contains("\0MAJOR=98\0MINOR=0\0DEVNAME=ubda\0DEVMODE=0660\0"), "{text}");
        assert!(text.ends_with("\0SEQNUM=2\0"), "{text}");
    }

    #[test]
    fn impossible_names_are_refused() {
        let (tree, reg) = (DeviceTree::default(), Registry::default());
        for bad in ["", ".", ".."] {
            assert_eq!(tree.add(&reg, DeviceSpec::class("misc", bad)).err(), Some(EINVAL));
        }
    }
}
