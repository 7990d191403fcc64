//! NETLINK_KOBJECT_UEVENT: changes of devices, to whoever listens to group 1 (udev(7)).

use std::sync::Arc;

use uml_core::device::{Uevent, UeventListener};
use uml_core::kernel::Kernel;

use super::{OpenTo, Origin, Protocol, multicast, register_protocol};

/// NETLINK_KOBJECT_UEVENT.
pub const PROTOCOL: i32 = libc::NETLINK_KOBJECT_UEVENT;
/// The kernel's own messages; group 2 is udev's.
const KERNEL_GROUP: u32 = 1;

struct Uevents;

impl Protocol for Uevents {
    fn groups(&self) -> u32 {
        32
    }

    fn open_to_all(&self) -> OpenTo {
        OpenTo { receiving: true, sending: false }
    }
}

impl UeventListener for Uevents {
    fn uevent(&self, e: &Uevent) {
        multicast(
            PROTOCOL,
            &e.to_bytes(),
            Origin { group: KERNEL_GROUP, ..Origin::default() },
            None,
        );
    }
}

/// Makes the protocol known and sends the machine's uevents to it.
pub fn init(kernel: &Kernel) {
    let u = Arc::new(Uevents);
    register_protocol(PROTOCOL, u.clone());
    kernel.devices.add_listener(u);
}
