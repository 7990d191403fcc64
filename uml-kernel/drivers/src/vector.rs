//! Vector network interfaces, `vecN` (shared interface specification, network).
//!
//! [`spec`] is the option syntax, [`open`] the host side of each transport, [`frame`] what stands in front
//! of frames, [`device`] the interface, [`user`] the one whose host side is a router in this process; here is the
//! family: boot, `config`, `remove`.

pub mod device;
pub mod frame;
mod open;
mod resolvers;
mod router;
pub mod spec;
pub mod user;

use std::collections::BTreeMap;
use std::sync::Arc;

use uml_base::{Mutex, Rank, pr_err, pr_info, pr_warn};
use uml_core::configure::{Configurable, Outcome, Refusal};
use uml_core::device::{Attribute, DeviceSpec};
use uml_core::kernel::Kernel;
use uml_net::interface::{Interface, Link, iff};
use uml_net::stack::Stack;
use uml_net::wire::ethernet::Mac;

use device::VectorDevice;
use spec::{SpecError, Transport, VectorSpec};
use user::UserDevice;

/// Largest MTU of the transports.
const MTU_MAX: usize = 65_534;

/// Every vector interface.
pub struct Vectors {
    kernel: std::sync::Weak<Kernel>,
    stack: Arc<Stack>,
    units: Mutex<BTreeMap<u32, Unit>>,
}

struct Unit {
    iface: Arc<Interface>,
    nodes: Vec<Arc<uml_core::device::Device>>,
}

/// The address an interface gets, with the driver's words about it.
fn choose_mac(s: &VectorSpec) -> Mac {
    if let Some(e) = &s.mac_problem {
        pr_err!("{e}");
    }
    if let Some(m) = s.mac {
        if m.0[0] & 2 == 0 {
            let mut local = m;
            local.0[0] |= 2;
            pr_warn!("Warning: Assigning a globally valid ethernet address to a device");
            pr_warn!("You should set the 2nd rightmost bit in the first byte of the MAC,");
            pr_warn!("i.e. {local}");
        }
        return m;
    }
    pr_info!("Choosing a random ethernet address");
    let mut b = [0; 6];
    uml_host::random::fill(&mut b);
    b[0] = b[0] & !1 | 2;
    Mac(b)
}

impl Vectors {
    /// Makes the interfaces of the command line; `options` are what follows `vec`, in order.
    pub fn install(kernel: &Arc<Kernel>, stack: &Arc<Stack>, options: &[String]) -> Arc<Vectors> {
        let v = Arc::new(Vectors {
            kernel: Arc::downgrade(kernel),
            stack: stack.clone(),
            units: Mutex::new(Rank::DEVICE, BTreeMap::new()),
        });
        if let Some(lo) = stack.loopback() {
            // /sys/class/net/lo
            let _ = kernel.devices.add(&kernel.vfs.registry, net_device(&lo));
        }
        for text in options {
            if let Err(reason) = v.add(text) {
                pr_err!("uml-vector: Couldn't parse '{text}': {reason}");
            }
        }
        kernel.configurables.add(v.clone());
        v
    }

    fn add(&self, text: &str) -> Result<(), String> {
        let s = VectorSpec::parse(text).map_err(|e| e.to_string())?;
        let unit = s.unit;
        if self.units.lock().contains_key(&unit) {
            return Err("Device already configured".into());
        }
        let mac = choose_mac(&s);
        let mtu = s.mtu;
        let device: Arc<dyn uml_net::interface::Device> = match &s.transport {
            Transport::User(items) => {
                let pairs = items.iter().map(|(k, v)| (k.as_str(), v.as_str()));
                UserDevice::new(unit, uml_nat::Config::parse(pairs)?, mac)
            }
            _ => VectorDevice::new(s, mac),
        };
        let name = format!("vec{unit}");
        let iface = self
            .stack
            .add_interface(&name, Link::Ethernet, mac, mtu, MTU_MAX, device)
            .map_err(|e| format!("{name}: {e}"))?;
        let nodes = self.sysfs(unit, &iface);
        self.units.lock().insert(unit, Unit { iface, nodes });
        Ok(())
    }

    /// `/sys/class/net/vecN` and its platform device.
    fn sysfs(&self, unit: u32, iface: &Arc<Interface>) -> Vec<Arc<uml_core::device::Device>> {
        let Some(kernel) = self.kernel.upgrade() else { return Vec::new() };
        let reg = &kernel.vfs.registry;
        let mut nodes = Vec::new();
        let bus = DeviceSpec::bus("platform", format!("uml-vector.{unit}"), "uml-vector");
        if let Ok(d) = kernel.devices.add(reg, bus) {
            let net = net_device(iface).below(&d);
            nodes.extend(kernel.devices.add(reg, net));
            nodes.insert(0, d);
        }
        nodes
    }
}

/// An interface for sysfs (Documentation/ABI/testing/sysfs-class-net).
pub fn net_device(iface: &Arc<Interface>) -> DeviceSpec {
    type Get = fn(&Interface) -> String;
    let files: [(&'static str, Get); 12] = [
        ("address", |i| i.mac().to_string()),
        ("addr_len", |_| "6".into()),
        ("broadcast", |i| if i.is_loopback() { Mac::ZERO } else { Mac::BROADCAST }.to_string()),
        ("carrier", |i| u8::from(i.is_up()).to_string()),
        ("dev_id", |_| "0x0".into()),
        ("flags", |i| format!("{:#x}", i.flags())),
        ("ifindex", |i| i.index.to_string()),
        ("iflink", |i| i.index.to_string()),
        ("mtu", |i| i.mtu().to_string()),
        ("operstate", |i| {
            let up = if i.is_loopback() { "unknown" } else { "up" };
            if i.is_up() { up } else { "down" }.into()
        }),
        ("tx_queue_len", |i| i.tx_queue_len.load(std::sync::atomic::Ordering::Relaxed).to_string()),
        ("type", |i| uml_net::tap::hardware_type(i.link).to_string()),
    ];
    let mut spec = DeviceSpec::class("net", iface.name());
    spec.env.push(("INTERFACE", iface.name()));
    spec.env.push(("IFINDEX", iface.index.to_string()));
    for (name, get) in files {
        let i = iface.clone();
        spec.attributes.push(Attribute::new(name, move |out| {
            out.extend_from_slice(get(&i).as_bytes());
            out.push(b'\n');
            Ok(())
        }));
    }
    spec
}

impl Configurable for Vectors {
    fn prefix(&self) -> &'static str {
        "vec"
    }

    fn set(&self, text: &str) -> Outcome {
        let refused = |says: &str| Refusal::errno(libc::EINVAL, says);
        if !text.contains(':') {
            return Err(refused(&SpecError::Colon.to_string()));
        }
        match VectorSpec::parse(text) {
            // Scripts know the text without the item; the log has it.
            Err(SpecError::Item(item)) => {
                pr_err!("uml-vector: Couldn't parse 'vec{text}' at '{item}'");
                return Err(refused("vector_config failed to parse parameters"));
            }
            Err(e) => return Err(refused(&e.to_string())),
            Ok(_) => {}
        }
        self.add(text).map(|()| String::new()).map_err(|e| refused(&e))
    }

    /// The stock driver tells none, and a client asks for nothing else.
    fn get(&self, _: &str) -> Option<Outcome> {
        None
    }

    fn remove(&self, text: &str) -> Outcome {
        let unit = crate::number::whole(text)
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| Refusal::general("Couldn't parse device number"))?;
        let u = {
            let mut units = self.units.lock();
            match units.get(&unit) {
                None => return Err(Refusal::errno(libc::ENODEV, "Device doesn't exist")),
                Some(u) if u.iface.flags() & iff::UP != 0 => {
                    return Err(Refusal::errno(libc::EBUSY, "Device is currently open"));
                }
                Some(_) => units.remove(&unit),
            }
        };
        if let Some(u) = u {
            self.stack.remove_interface(&u.iface);
            if let Some(k) = self.kernel.upgrade() {
                for d in u.nodes.iter().rev() {
                    k.devices.remove(&k.vfs.registry, d);
                }
            }
        }
        Ok(String::new())
    }
}
