//! Devices from device nodes: a driver that only announces its nodes
//! ([`uml_core::registry::Registry::add_node`]) still has its devices in sysfs and gets its uevents. One that
//! registers its devices itself is left alone.

use std::sync::{Arc, Weak};

use uml_core::device::{Attribute, Device, DeviceSpec, Subsystem};
use uml_core::kernel::Kernel;
use uml_core::registry::{DeviceListener, DeviceNode};

use super::block;
use crate::proc::sources::Sources;

/// Major of ubd disks, with its minors a disk.
const UBD_MAJOR: u32 = 98;
const UBD_MINORS: u32 = 16;

/// Listens to nodes.
pub struct NodeBridge {
    kernel: Weak<Kernel>,
    sources: Arc<Sources>,
}

/// Class of a character device. Ptys' masters and slaves and the like have none that shows.
fn char_class(major: u32, name: &str) -> Option<&'static str> {
    match major {
        1 => Some("mem"),
        4 | 5 if !name.contains('/') => Some("tty"),
        10 => Some("misc"),
        _ => None,
    }
}

impl NodeBridge {
    /// Derives devices of `kernel` from its nodes from now on, and from those that exist.
    pub fn install(kernel: &Arc<Kernel>, sources: Arc<Sources>) {
        let b = NodeBridge { kernel: Arc::downgrade(kernel), sources };
        kernel.vfs.registry.add_listener(Arc::new(b));
    }

    fn find(&self, kernel: &Kernel, node: &DeviceNode) -> Option<Arc<Device>> {
        kernel.devices.list().into_iter().find(|d| d.dev() == Some((node.kind, node.dev)))
    }

    fn disk_parent(&self, kernel: &Arc<Kernel>, node: &DeviceNode) -> Option<Arc<Device>> {
        if node.dev.major != UBD_MAJOR {
            return None;
        }
        let name = format!("uml-blkdev.{}", node.dev.minor / UBD_MINORS);
        if let Some(d) = kernel.devices.get(&format!("platform/{name}")) {
            return Some(d);
        }
        let mut spec = DeviceSpec::bus("platform", name, "uml-blkdev");
        spec.env.push(("MODALIAS", "platform:uml-blkdev".into()));
        kernel.devices.add(&kernel.vfs.registry, spec).ok()
    }

    fn block(&self, kernel: &Arc<Kernel>, node: &DeviceNode) -> DeviceSpec {
        let mut spec = DeviceSpec::class("block", &*node.name);
        // A partition is called by its disk's name and a number.
        let stem = node.name.trim_end_matches(|c: char| c.is_ascii_digit());
        let disk =
            (stem != node.name)
                .then(|| {
                    kernel.devices.list().into_iter().find(|d| {
                        d.spec.subsystem == Subsystem::Class("block") && d.spec.name == stem
                    })
                })
                .flatten();
        let partition = disk.is_some();
        if let Some(d) = disk {
            spec.devtype = Some("partition");
            let number = &node.name[stem.len()..];
            spec.env.push(("PARTN", number.to_string()));
            spec.parent = Some(d);
        } else {
            spec.devtype = Some("disk");
            spec.parent = self.disk_parent(kernel, node);
        }
        spec.attributes = block::attributes(&self.kernel, node.dev, partition);
        spec
    }

    fn tty(&self, node: &DeviceNode) -> DeviceSpec {
        let mut spec = DeviceSpec::class("tty", &*node.name);
        if node.name == "console" {
            let sources = self.sources.clone();
            // Consoles that kernel messages go to, the preferred one last.
            spec.attributes.push(Attribute::new("active", move |out| {
                let mut all = sources.consoles();
                all.sort_by_key(|c| c.preferred);
                let names: Vec<String> = all.into_iter().map(|c| c.name).collect();
                out.extend_from_slice(names.join(" ").as_bytes());
                out.push(b'\n');
                Ok(())
            }));
        }
        spec
    }
}

impl DeviceListener for NodeBridge {
    fn added(&self, node: &DeviceNode) {
        let Some(kernel) = self.kernel.upgrade() else { return };
        if self.find(&kernel, node).is_some() {
            return;
        }
        let mut spec = if node.kind == libc::S_IFBLK {
            self.block(&kernel, node)
        } else {
            match char_class(node.dev.major, &node.name) {
                Some("tty") => self.tty(node),
                Some(class) => DeviceSpec::class(class, &*node.name),
                None => return,
            }
        };
        spec.node = Some(node.clone());
        // The node is known already: only the device is new.
        if let Err(e) = kernel.devices.add_known(spec) {
            uml_base::pr_warn!("sysfs: no device for node {}: {e}", node.name);
        }
    }

    fn removed(&self, node: &DeviceNode) {
        let Some(kernel) = self.kernel.upgrade() else { return };
        let device = self.find(&kernel, node);
        if let Some(d) = device.filter(|d| d.spec.node.as_ref().is_some_and(|n| n == node)) {
            let parent = d.spec.parent.clone();
            kernel.devices.remove(&kernel.vfs.registry, &d);
            // The platform device of a disk goes with it.
            if let Some(p) = parent.filter(|p| p.spec.subsystem == Subsystem::Bus("platform")) {
                kernel.devices.remove(&kernel.vfs.registry, &p);
            }
        }
    }
}
