//! Pairs of virtual Ethernet interfaces (veth(4)): what goes in at one end comes out at the other, in any
//! namespace.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_base::{Mutex, Rank};

use crate::interface::{Device, Features, Interface, Link, Sent};
use crate::namespace::Place;
use crate::packet::Packet;
use crate::stack::Stack;
use crate::wire::ethernet::Mac;

/// Largest MTU of a virtual interface.
pub const MTU_MAX: usize = 65_535;

/// One end of a pair.
pub struct Veth {
    place: Mutex<Place>,
    peer: Mutex<Weak<Veth>>,
}

/// What an end is made with.
pub struct Plan {
    pub stack: Arc<Stack>,
    pub name: String,
    pub mac: Mac,
    pub mtu: usize,
}

impl Veth {
    fn new() -> Arc<Veth> {
        Arc::new(Veth {
            place: Mutex::new(Rank::LEAF, Place::default()),
            peer: Mutex::new(Rank::LEAF, Weak::new()),
        })
    }

    /// Makes a pair; the second end first, as Linux numbers them. Errors as of [`Stack::add_interface`]; then there
    /// is neither.
    pub fn pair(a: Plan, b: Plan) -> Result<(Arc<Interface>, Arc<Interface>)> {
        let (da, db) = (Veth::new(), Veth::new());
        *da.peer.lock() = Arc::downgrade(&db);
        *db.peer.lock() = Arc::downgrade(&da);
        let add = |p: &Plan, d: Arc<Veth>| {
            let name = p.stack.free_name(&p.name);
            p.stack.add_interface(&name, Link::Ethernet, p.mac, p.mtu, MTU_MAX, d)
        };
        let second = add(&b, db)?;
        match add(&a, da) {
            Ok(first) => Ok((first, second)),
            Err(e) => {
                b.stack.remove_interface(&second);
                Err(e)
            }
        }
    }

    fn other(&self) -> Option<(Arc<Interface>, Arc<Stack>)> {
        let peer = self.peer.lock().upgrade()?;
        let place = peer.place.lock().clone();
        place.get()
    }
}

impl Device for Veth {
    fn features(&self) -> Features {
        // Nothing is cut or summed on the way: the other end takes it as it is.
        Features::ALL
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        let mut sent = Sent::default();
        let Some((iface, stack)) = self.other().filter(|(i, _)| i.is_up()) else {
            sent.dropped = batch.len() as u64;
            batch.clear();
            return sent;
        };
        stack.enter(|cx| {
            for p in batch.drain(..) {
                sent.packets += 1;
                sent.bytes += p.len() as u64;
                stack.receive(cx, &iface, p.arrived());
            }
        });
        sent
    }

    fn driver(&self) -> (&'static str, String) {
        ("veth", String::new())
    }

    fn kind(&self) -> &'static str {
        "veth"
    }

    fn attached(&self, iface: &Arc<Interface>, stack: &Arc<Stack>) {
        *self.place.lock() = Place::new(iface, stack);
    }

    fn removed(&self) {
        let other = self.other();
        *self.peer.lock() = Weak::new();
        if let Some((iface, stack)) = other {
            stack.remove_interface(&iface);
        }
    }

    fn carrier(&self) -> bool {
        self.other().is_some_and(|(i, _)| i.is_up())
    }

    fn lower(&self) -> Option<(Arc<Interface>, Arc<Stack>)> {
        self.other()
    }

    fn dependent(&self) -> Option<(Arc<Interface>, Arc<Stack>)> {
        self.other()
    }
}
