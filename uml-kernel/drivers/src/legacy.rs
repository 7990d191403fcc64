//! Legacy network interfaces, `ethN` (shared interface specification, network part B): a field list instead of
//! keys, kept for scripts and for switches that speak the protocol of `uml_switch`.
//!
//! [`spec`] is the option syntax, [`open`] the host side of each transport, [`daemon`] that of a port of a switch; the data
//! path is that of vector interfaces. Here is the family: boot, `config`.

mod daemon;
mod open;
pub mod spec;

use std::sync::Arc;

use uml_base::{pr_err, pr_info, pr_warn};
use uml_core::configure::{Configurable, Outcome, Refusal};
use uml_core::kernel::Kernel;
use uml_net::stack::Stack;

use crate::interfaces::{Units, choose_mac};
use crate::vector::device::{HostSide, Shape, VectorDevice};
use spec::{LegacySpec, Transport};

/// MTU of these interfaces, which cannot be more.
const MTU: usize = 1500;
/// Frames moved with one call.
const DEPTH: usize = 64;

/// Every legacy interface.
pub struct Legacy(Units);

impl Legacy {
    /// Makes the interfaces of the command line; `options` are what follows `eth`, in order.
    pub fn install(kernel: &Arc<Kernel>, stack: &Arc<Stack>, options: &[String]) -> Arc<Legacy> {
        let family = Arc::new(Legacy(Units::new(kernel, stack)));
        for text in options {
            if let Err(reason) = family.add(text) {
                pr_err!("eth_setup - Couldn't parse '{text}' : {reason}");
            }
        }
        kernel.configurables.add(family.clone());
        family
    }

    fn add(&self, text: &str) -> Result<(), String> {
        let s = LegacySpec::parse(text).map_err(|e| e.to_string())?;
        let unit = s.unit;
        if self.0.has(unit) {
            return Err("Device already configured".into());
        }
        for w in &s.warnings {
            pr_warn!("{w}");
        }
        let whose = format!(" for device eth{unit}");
        let mac = choose_mac(s.mac, s.mac_problem.as_ref(), &whose);
        let offload = matches!(s.transport, Transport::Tuntap { .. });
        let (host, line) = host_side(s)?;
        pr_info!("Netdevice {unit} ({mac}) : {line}");
        let shape = Shape {
            name: format!("eth{unit}"),
            driver: ("uml-netdev", format!("uml-netdev.{unit}")),
            depth: DEPTH,
            batches: true,
            offload,
        };
        let device = VectorDevice::new(shape, host, mac);
        let platform = (format!("uml-netdev.{unit}"), "uml-netdev");
        self.0.add(unit, format!("eth{unit}"), platform, mac, (MTU, MTU), device)
    }
}

/// What opens the host side, and the transport's own words at boot. Transports that the stock kernel opens when
/// they are configured are opened here: without a switch there is no interface.
fn host_side(s: LegacySpec) -> Result<(Box<dyn HostSide>, String), String> {
    let line = match &s.transport {
        Transport::Daemon { control } => {
            let port = daemon::SwitchPort::join(control)?;
            let line = format!("daemon backend (uml_switch version 3) - unix:{control}");
            return Ok((Box::new(port), line));
        }
        Transport::Tuntap { gateway, dev } => match (gateway, dev) {
            (Some(g), _) => format!("TUN/TAP backend - IP = {g}"),
            (None, _) => "TUN/TAP backend".into(),
        },
        Transport::Mcast { group, ttl } => {
            pr_info!("Configured mcast device: {group}-{ttl}");
            format!("mcast backend multicast address: {group}, TTL:{ttl}")
        }
        Transport::Ucast { remote, listen } => {
            pr_info!("Configured ucast device: :{listen} -> {}:{}", remote.0, remote.1);
            let (host, port) = remote;
            format!("ucast backend address: {host}:{port} listen port: {listen}")
        }
        Transport::Vde { .. } => "vde backend".into(),
        Transport::Pcap { ifname, filter, .. } => {
            let filter = filter.as_deref().unwrap_or("");
            format!("pcap backend, host interface {ifname}, filter '{filter}'")
        }
    };
    let end = open::Opened::new(s.transport)?;
    Ok((Box::new(end), line))
}

impl Configurable for Legacy {
    fn prefix(&self) -> &'static str {
        "eth"
    }

    fn set(&self, text: &str) -> Outcome {
        self.add(text).map(|()| String::new()).map_err(|e| Refusal::errno(libc::EINVAL, e))
    }

    /// The stock driver tells none.
    fn get(&self, _: &str) -> Option<Outcome> {
        None
    }

    fn remove(&self, text: &str) -> Outcome {
        self.0.remove(text)
    }
}
