//! Vector network interfaces, `vecN` (shared interface specification, network).
//!
//! [`spec`] is the option syntax, [`open`] the host side of each transport, [`frame`] what stands in front
//! of frames, [`device`] the interface and [`receive`] how it takes frames, [`user`] the one whose host side is a router in this process; here is the
//! family: boot, `config`.

pub mod device;
pub mod frame;
pub(crate) mod open;
mod receive;
mod resolvers;
mod router;
pub mod spec;
pub mod user;

use std::sync::Arc;

use uml_base::pr_err;
use uml_core::configure::{Configurable, Outcome, Refusal};
use uml_core::kernel::Kernel;
use uml_net::stack::Stack;

use crate::interfaces::{Units, choose_mac};
use device::{Shape, VectorDevice};
use spec::{SpecError, Transport, VectorSpec};
use user::UserDevice;

/// Largest MTU of the transports.
const MTU_MAX: usize = 65_534;

/// Every vector interface.
pub struct Vectors(Units);

impl Vectors {
    /// Makes the interfaces of the command line; `options` are what follows `vec`, in order.
    pub fn install(kernel: &Arc<Kernel>, stack: &Arc<Stack>, options: &[String]) -> Arc<Vectors> {
        let v = Arc::new(Vectors(Units::new(kernel, stack)));
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
        if self.0.has(unit) {
            return Err("Device already configured".into());
        }
        let mac = choose_mac(s.mac, s.mac_problem.as_ref(), "");
        let mtu = s.mtu;
        let device: Arc<dyn uml_net::interface::Device> = match &s.transport {
            Transport::User(items) => {
                let pairs = items.iter().map(|(k, v)| (k.as_str(), v.as_str()));
                UserDevice::new(unit, uml_nat::Config::parse(pairs)?, mac)
            }
            t => {
                let shape = Shape {
                    name: format!("vec{unit}"),
                    driver: ("uml-vector", format!("uml-vector.{unit}")),
                    depth: s.depth,
                    batches: s.vec,
                    // What the host was asked for when the transport has the header.
                    offload: matches!(t, Transport::Tap { .. } | Transport::Hybrid { .. }),
                };
                VectorDevice::new(shape, Box::new(s), mac)
            }
        };
        let platform = format!("uml-vector.{unit}");
        self.0.add(
            unit,
            format!("vec{unit}"),
            (platform, "uml-vector"),
            mac,
            (mtu, MTU_MAX),
            device,
        )
    }
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
        self.0.remove(text)
    }
}
