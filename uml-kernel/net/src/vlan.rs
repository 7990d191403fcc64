//! VLAN interfaces (IEEE 802.1Q): the frames of one tag on another interface.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use crate::interface::{Device, Features, Interface, Link, Sent, iff};
use crate::namespace::Place;
use crate::packet::Packet;
use crate::stack::{Cx, Stack};
use crate::wire::ethernet::{HEADER, Mac, ethertype};

/// Tags there are; the last one is reserved.
pub const ID_MAX: u16 = 4094;
/// Bytes of both addresses of a frame.
const ADDRESSES: usize = 12;

/// A VLAN interface.
pub struct Vlan {
    me: Weak<Vlan>,
    pub id: u16,
    place: Mutex<Place>,
    parent: Mutex<Place>,
}

impl Vlan {
    /// Makes one upon `parent`. `EEXIST` when the tag or the name is taken, `ERANGE` for a tag that is none,
    /// `EOPNOTSUPP` upon what has no Ethernet frames.
    pub fn create(
        stack: &Arc<Stack>,
        parent: (&Arc<Interface>, &Arc<Stack>),
        name: &str,
        id: u16,
        mac: Option<Mac>,
    ) -> Result<Arc<Interface>> {
        let (lower, lower_stack) = parent;
        if lower.link != Link::Ethernet {
            return Err(EOPNOTSUPP);
        }
        if id > ID_MAX {
            return Err(ERANGE);
        }
        let device = Arc::new_cyclic(|me| Vlan {
            me: me.clone(),
            id,
            place: Mutex::new(Rank::LEAF, Place::default()),
            parent: Mutex::new(Rank::LEAF, Place::new(lower, lower_stack)),
        });
        if lower.vlans().iter().any(|v| v.id == id) {
            return Err(EEXIST);
        }
        let mac = mac.unwrap_or_else(|| lower.mac());
        let i = stack.add_interface(
            name,
            Link::Ethernet,
            mac,
            lower.mtu(),
            crate::veth::MTU_MAX,
            device.clone(),
        )?;
        lower.vlans.write().push(device);
        Ok(i)
    }

    fn parent(&self) -> Option<(Arc<Interface>, Arc<Stack>)> {
        let place = self.parent.lock().clone();
        place.get()
    }

    /// What it stands upon is in another namespace now.
    pub(crate) fn parent_moved(&self, parent: &Arc<Interface>, stack: &Arc<Stack>) {
        *self.parent.lock() = Place::new(parent, stack);
    }

    /// Takes a frame with this interface's tag, as the interface below got it.
    pub(crate) fn receive(&self, cx: &mut Cx, mut p: Packet) {
        let place = self.place.lock().clone();
        let Some((iface, stack)) = place.get() else { return };
        if !iface.is_up() {
            return;
        }
        let mut head = p.link()[..ADDRESSES].to_vec();
        head.extend_from_slice(&p.kind.to_be_bytes());
        p.strip_link();
        p.push_front(&head);
        let p = p.arrived();
        if std::ptr::eq(Arc::as_ptr(&stack), Arc::as_ptr(cx.stack())) {
            stack.receive(cx, &iface, p);
        } else {
            stack.enter(|cx| stack.receive(cx, &iface, p));
        }
    }

    /// What it stands upon is gone.
    pub(crate) fn without_parent(&self) {
        let place = std::mem::take(&mut *self.place.lock());
        if let Some((i, s)) = place.get() {
            s.remove_interface(&i);
        }
    }

    /// What it stands upon went up or down.
    pub(crate) fn follow(&self, up: bool) {
        let place = self.place.lock().clone();
        if let Some((i, s)) = place.get() {
            let _ = s.set_flags(&i, if up { iff::UP } else { 0 }, iff::UP);
        }
    }
}

impl Device for Vlan {
    fn features(&self) -> Features {
        self.parent().map_or(Features::NONE, |(i, _)| i.device.features())
    }

    fn open(&self, _: &Arc<Interface>, _: &Arc<Stack>) -> Result<()> {
        match self.parent() {
            Some((i, _)) if i.is_up() => Ok(()),
            _ => Err(ENETDOWN),
        }
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        let mut sent = Sent::default();
        let Some((lower, stack)) = self.parent() else {
            sent.dropped = batch.len() as u64;
            batch.clear();
            return sent;
        };
        stack.enter(|cx| {
            for mut p in batch.drain(..) {
                sent.packets += 1;
                sent.bytes += p.len() as u64;
                if p.link_len() < HEADER {
                    continue;
                }
                let mut head = p.link()[..ADDRESSES].to_vec();
                let rest = p.link()[ADDRESSES..].to_vec();
                head.extend_from_slice(&ethertype::VLAN.to_be_bytes());
                head.extend_from_slice(&self.id.to_be_bytes());
                head.extend_from_slice(&rest);
                p.strip_link();
                p.push_front(&head);
                stack.send_frame(cx, &lower, p);
            }
        });
        sent
    }

    fn driver(&self) -> (&'static str, String) {
        ("802.1Q VLAN Support", String::new())
    }

    fn kind(&self) -> &'static str {
        "vlan"
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn attached(&self, iface: &Arc<Interface>, stack: &Arc<Stack>) {
        *self.place.lock() = Place::new(iface, stack);
    }

    fn removed(&self) {
        if let Some((i, _)) = self.parent() {
            i.vlans.write().retain(|v| !std::ptr::eq(Arc::as_ptr(v), self.me.as_ptr()));
        }
    }

    fn carrier(&self) -> bool {
        self.parent().is_some_and(|(i, _)| i.has_carrier())
    }

    fn lower(&self) -> Option<(Arc<Interface>, Arc<Stack>)> {
        self.parent()
    }
}
