//! Network interfaces of the drivers by their number: what the families of `vecN` and `ethN` have in common.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use uml_base::{Mutex, Rank, pr_err, pr_info, pr_warn};
use uml_core::configure::{Outcome, Refusal};
use uml_core::device::DeviceSpec;
use uml_core::kernel::Kernel;
use uml_net::interface::{Device, Interface, Link};
use uml_net::stack::Stack;
use uml_net::wire::ethernet::Mac;

/// The interfaces of a family.
pub struct Units {
    kernel: Weak<Kernel>,
    stack: Arc<Stack>,
    units: Mutex<BTreeMap<u32, Unit>>,
}

struct Unit {
    iface: Arc<Interface>,
    /// Its device on the platform bus.
    bus: Option<Arc<uml_core::device::Device>>,
}

/// The address an interface gets, with the driver's words about it.
pub(crate) fn choose_mac(given: Option<Mac>, problem: Option<&String>, whose: &str) -> Mac {
    if let Some(e) = problem {
        pr_err!("{e}");
    }
    if let Some(m) = given {
        if m.0[0] & 2 == 0 {
            let mut local = m;
            local.0[0] |= 2;
            pr_warn!("Warning: Assigning a globally valid ethernet address to a device");
            pr_warn!("You should set the 2nd rightmost bit in the first byte of the MAC,");
            pr_warn!("i.e. {local}");
        }
        return m;
    }
    pr_info!("Choosing a random ethernet address{whose}");
    let mut b = [0; 6];
    uml_host::random::fill(&mut b);
    b[0] = b[0] & !1 | 2;
    Mac(b)
}

impl Units {
    /// A family without interfaces.
    pub fn new(kernel: &Arc<Kernel>, stack: &Arc<Stack>) -> Units {
        Units {
            kernel: Arc::downgrade(kernel),
            stack: stack.clone(),
            units: Mutex::new(Rank::DEVICE, BTreeMap::new()),
        }
    }

    /// True when there is an interface of this number.
    pub fn has(&self, unit: u32) -> bool {
        self.units.lock().contains_key(&unit)
    }

    /// Adds an interface, down; `mtu` is the present and the largest one, `platform` the
    /// device on the platform bus and its driver. The error is a text.
    pub fn add(
        &self,
        unit: u32,
        name: String,
        platform: (String, &'static str),
        mac: Mac,
        mtu: (usize, usize),
        device: Arc<dyn Device>,
    ) -> Result<(), String> {
        // First the device on the bus, below which the interface shows.
        let kernel = self.kernel.upgrade();
        let bus = kernel.as_ref().and_then(|k| {
            let spec = DeviceSpec::bus("platform", platform.0, platform.1);
            k.devices.add(&k.vfs.registry, spec).ok()
        });
        let added = self.stack.add_interface(&name, Link::Ethernet, mac, mtu.0, mtu.1, device);
        match added {
            Ok(iface) => {
                self.units.lock().insert(unit, Unit { iface, bus });
            }
            Err(e) => {
                if let (Some(k), Some(d)) = (kernel, bus) {
                    k.devices.remove(&k.vfs.registry, &d);
                }
                return Err(format!("{name}: {e}"));
            }
        }
        Ok(())
    }

    /// Removes the interface whose number is `text`, as the management console asks for it.
    pub fn remove(&self, text: &str) -> Outcome {
        let unit = crate::number::whole(text)
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| Refusal::general("Couldn't parse device number"))?;
        let u = {
            let mut units = self.units.lock();
            match units.get(&unit) {
                None => return Err(Refusal::errno(libc::ENODEV, "Device doesn't exist")),
                Some(u) if u.iface.present().0.is_up() => {
                    return Err(Refusal::errno(libc::EBUSY, "Device is currently open"));
                }
                Some(_) => units.remove(&unit),
            }
        };
        if let Some(u) = u {
            let (now, moved_to) = u.iface.present();
            moved_to.as_ref().unwrap_or(&self.stack).remove_interface(&now);
            if let (Some(k), Some(d)) = (self.kernel.upgrade(), u.bus) {
                k.devices.remove(&k.vfs.registry, &d);
            }
        }
        Ok(String::new())
    }
}
