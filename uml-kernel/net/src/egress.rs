//! The last step to a device: what it does not do itself is done in software.

use std::net::IpAddr;
use std::sync::Arc;

use crate::gso;
use crate::interface::{Features, Interface};
use crate::packet::{GsoKind, Packet};
use crate::stack::{Cx, Stack};

/// Whether the packet is to be cut in software for a device.
fn must_cut(p: &Packet, f: Features) -> bool {
    match p.gso.map(|g| g.kind) {
        Some(GsoKind::TcpV4) => !f.tso4,
        Some(GsoKind::TcpV6) => !f.tso6,
        Some(GsoKind::Udp) => !f.uso,
        None => false,
    }
}

impl Stack {
    /// Does in software what the device does not, and hands over.
    pub(crate) fn to_device(
        &self,
        cx: &mut Cx,
        iface: &Arc<Interface>,
        next: IpAddr,
        mut p: Packet,
    ) {
        let f = iface.device.features();
        let n = self.neighbours.clone();
        if must_cut(&p, f) {
            let mut told = std::mem::take(&mut p.told);
            for mut s in gso::segment(p, !f.tx_csum) {
                s.told = std::mem::take(&mut told);
                n.send(cx, iface, next, s);
            }
            return;
        }
        if !f.tx_csum {
            p.complete_checksum();
        }
        n.send(cx, iface, next, p);
    }

    /// Sends a frame that has its link header, as a bridge does: what the device does not is done in software.
    pub(crate) fn send_frame(&self, cx: &mut Cx, iface: &Arc<Interface>, mut p: Packet) {
        let f = iface.device.features();
        if must_cut(&p, f) {
            for s in gso::segment(p, !f.tx_csum) {
                iface.enqueue(cx, s);
            }
            return;
        }
        if !f.tx_csum {
            p.complete_checksum();
        }
        iface.enqueue(cx, p);
    }
}
