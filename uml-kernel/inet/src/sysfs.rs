//! Network interfaces in sysfs (Documentation/ABI/testing/sysfs-class-net), with their uevents: those of the initial network
//! namespace, whatever namespace looks.

mod bridge;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::errno::{EINVAL, ENODEV};
use uml_base::{Mutex, Rank};
use uml_core::device::{Attribute, Device, DeviceSpec};
use uml_core::kernel::Kernel;
use uml_net::interface::{Counters, Interface};
use uml_net::stack::{Change, Stack, Watcher};
use uml_net::wire::ethernet::Mac;

use crate::rtnetlink::operstate;

/// What an interface has in sysfs.
struct Shown {
    name: String,
    /// `None` while it is being entered.
    device: Option<Arc<Device>>,
}

struct Mirror {
    kernel: Weak<Kernel>,
    stack: Weak<Stack>,
    /// By the interface's number.
    shown: Mutex<BTreeMap<u32, Shown>>,
}

/// Shows the interfaces of `stack` from now on, those that exist included.
pub fn install(kernel: &Arc<Kernel>, stack: &Arc<Stack>) {
    let shown = Mutex::new(Rank::LEAF, BTreeMap::new());
    let mirror =
        Arc::new(Mirror { kernel: Arc::downgrade(kernel), stack: Arc::downgrade(stack), shown });
    stack.watch(mirror.clone());
    for i in stack.interfaces() {
        mirror.changed(stack, &Change::Link(i.index));
    }
}

impl Watcher for Mirror {
    fn changed(&self, stack: &Stack, change: &Change) {
        let Some(kernel) = self.kernel.upgrade() else { return };
        match change {
            Change::Link(index) => {
                if let Some(i) = stack.interface(*index) {
                    self.show(&kernel, &i);
                }
            }
            Change::LinkGone(index, _) => {
                let gone = self.shown.lock().remove(index).and_then(|s| s.device);
                if let Some(d) = gone {
                    kernel.devices.remove(&kernel.vfs.registry, &d);
                }
            }
            _ => {}
        }
    }
}

impl Mirror {
    /// Enters an interface that is new, moves one whose name changed.
    fn show(&self, kernel: &Arc<Kernel>, i: &Arc<Interface>) {
        let name = i.name();
        let old = {
            let mut all = self.shown.lock();
            match all.get_mut(&i.index) {
                Some(s) if s.name == name => return,
                Some(s) => {
                    s.name.clone_from(&name);
                    s.device.take()
                }
                None => {
                    all.insert(i.index, Shown { name: name.clone(), device: None });
                    None
                }
            }
        };
        let spec = describe(kernel, &self.stack, i, &name);
        let entered = match &old {
            None => kernel.devices.add(&kernel.vfs.registry, spec),
            Some(d) => kernel.devices.rename(d, spec),
        };
        match entered {
            Ok(d) => {
                if let Some(s) = self.shown.lock().get_mut(&i.index) {
                    s.device = Some(d);
                }
            }
            Err(e) => uml_base::pr_warn!("sysfs: no device for interface {name}: {e}"),
        }
    }
}

type Text = fn(&Interface) -> uml_abi::Result<String>;
type Count = fn(&Counters) -> &AtomicU64;

const FILES: [(&str, Text); 16] = [
    ("addr_len", |i| Ok(if hardware(i) { "6" } else { "0" }.into())),
    ("address", |i| Ok(i.mac().to_string())),
    ("broadcast", |i| Ok(if i.is_loopback() { Mac::ZERO } else { Mac::BROADCAST }.to_string())),
    // Only an interface that is up has a carrier to speak of.
    (
        "carrier",
        |i| if i.is_up() { Ok(u8::from(i.has_carrier()).to_string()) } else { Err(EINVAL) },
    ),
    ("dev_id", |_| Ok("0x0".into())),
    ("dev_port", |_| Ok("0".into())),
    ("flags", |i| Ok(format!("{:#x}", i.flags() & 0xffff))),
    ("gro_flush_timeout", |_| Ok("0".into())),
    ("ifalias", |i| Ok(i.alias.lock().clone())),
    ("ifindex", |i| Ok(i.index.to_string())),
    ("iflink", |i| Ok(i.device.lower().map_or(i.index, |(l, _)| l.index).to_string())),
    ("link_mode", |_| Ok("0".into())),
    ("mtu", |i| Ok(i.mtu().to_string())),
    ("netdev_group", |i| Ok(i.group.load(Ordering::Relaxed).to_string())),
    ("tx_queue_len", |i| Ok(i.tx_queue_len.load(Ordering::Relaxed).to_string())),
    ("type", |i| Ok(uml_net::tap::hardware_type(i.link).to_string())),
];

/// Files of `statistics` that count something.
const COUNTED: [(&str, Count); 9] = [
    ("statistics/multicast", |c| &c.multicast),
    ("statistics/rx_bytes", |c| &c.rx_bytes),
    ("statistics/rx_dropped", |c| &c.rx_dropped),
    ("statistics/rx_errors", |c| &c.rx_errors),
    ("statistics/rx_packets", |c| &c.rx_packets),
    ("statistics/tx_bytes", |c| &c.tx_bytes),
    ("statistics/tx_dropped", |c| &c.tx_dropped),
    ("statistics/tx_errors", |c| &c.tx_errors),
    ("statistics/tx_packets", |c| &c.tx_packets),
];

/// What cannot happen to these interfaces.
const NEVER: [&str; 15] = [
    "statistics/collisions",
    "statistics/rx_compressed",
    "statistics/rx_crc_errors",
    "statistics/rx_fifo_errors",
    "statistics/rx_frame_errors",
    "statistics/rx_length_errors",
    "statistics/rx_missed_errors",
    "statistics/rx_nohandler",
    "statistics/rx_over_errors",
    "statistics/tx_aborted_errors",
    "statistics/tx_carrier_errors",
    "statistics/tx_compressed",
    "statistics/tx_fifo_errors",
    "statistics/tx_heartbeat_errors",
    "statistics/tx_window_errors",
];

/// Whether the interface has addresses of its own kind.
fn hardware(i: &Interface) -> bool {
    i.link != uml_net::interface::Link::None
}

fn describe(kernel: &Kernel, stack: &Weak<Stack>, i: &Arc<Interface>, name: &str) -> DeviceSpec {
    let mut spec = DeviceSpec::class("net", name);
    // The platform device that a driver of the host's side made before.
    let (_, bus) = i.device.driver();
    spec.parent = kernel.devices.get(&format!("platform/{bus}"));
    spec.devtype = match i.device.kind() {
        kind @ ("bridge" | "vlan") => Some(kind),
        _ => None,
    };
    spec.env.push(("INTERFACE", name.into()));
    spec.env.push(("IFINDEX", i.index.to_string()));
    for (file, get) in FILES {
        let i = i.clone();
        spec.attributes.push(Attribute::new(file, move |out| {
            let text = get(&i)?;
            out.extend_from_slice(text.as_bytes());
            // Without an alias its file is empty.
            if !text.is_empty() {
                out.push(b'\n');
            }
            Ok(())
        }));
    }
    let (stack, of) = (stack.clone(), i.clone());
    spec.attributes.push(Attribute::new("operstate", move |out| {
        // IF_OPER_* (RFC 2863).
        let text: &[u8] = match operstate(&*stack.upgrade().ok_or(ENODEV)?, &of) {
            2 => b"down\n",
            3 => b"lowerlayerdown\n",
            6 => b"up\n",
            _ => b"unknown\n",
        };
        out.extend_from_slice(text);
        Ok(())
    }));
    for (file, get) in COUNTED {
        let i = i.clone();
        spec.attributes.push(Attribute::new(file, move |out| {
            let n = get(&i.counters).load(Ordering::Relaxed);
            out.extend_from_slice(format!("{n}\n").as_bytes());
            Ok(())
        }));
    }
    spec.attributes.extend(NEVER.map(|file| Attribute::fixed(file, "0")));
    spec.folders = bridge::folders(i);
    spec
}
