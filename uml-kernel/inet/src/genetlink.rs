//! NETLINK_GENERIC: families of messages that are found by name (genetlink(7), "controller" nlctrl).
//!
//! The controller is the only family there is: programs that ask for another (ethtool, wireguard, nl80211) hear ENOENT, as on
//! a kernel built without it, and go on without.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;
use uml_ipc::netlink::{NetlinkSocket, OpenTo, Protocol, register_protocol};

use crate::nlmsg::{Attrs, Header, Reply, answer_all, flag, nested};

/// Length of `struct genlmsghdr`.
const FIXED: usize = 4;
/// The controller's number, and that of its multicast group.
const CTRL: u16 = 0x10;
const NAME: &str = "nlctrl";
const VERSION: u8 = 2;

/// CTRL_CMD_*.
const NEWFAMILY: u8 = 1;
const GETFAMILY: u8 = 3;

/// CTRL_ATTR_*.
mod attr {
    pub const FAMILY_ID: u16 = 1;
    pub const FAMILY_NAME: u16 = 2;
    pub const VERSION: u16 = 3;
    pub const HDRSIZE: u16 = 4;
    pub const MAXATTR: u16 = 5;
    pub const OPS: u16 = 6;
    pub const MCAST_GROUPS: u16 = 7;
    /// In each operation.
    pub const OP_ID: u16 = 1;
    pub const OP_FLAGS: u16 = 2;
    /// In each multicast group.
    pub const GRP_NAME: u16 = 1;
    pub const GRP_ID: u16 = 2;
}

/// The operation answers a single question and a dump, and knows its attributes.
const DO_DUMP_POLICY: u32 = 0x2 | 0x4 | 0x8;

struct Genetlink;

impl Protocol for Genetlink {
    fn groups(&self) -> u32 {
        CTRL.into()
    }

    fn open_to_all(&self) -> OpenTo {
        OpenTo { receiving: true, sending: false }
    }

    fn received(&self, from: &Arc<NetlinkSocket>, _: &Task, data: &[u8]) -> Result<()> {
        answer_all(from, data, is_dump, serve);
        Ok(())
    }
}

fn is_dump(h: &Header) -> bool {
    h.flags & flag::DUMP == flag::DUMP
}

fn serve(head: Header, body: &[u8], out: &mut Reply) -> Result<()> {
    if head.kind != CTRL {
        return Err(ENOENT);
    }
    let Some(&command) = body.first().filter(|_| body.len() >= FIXED) else { return Err(EINVAL) };
    if command != GETFAMILY {
        return Err(EOPNOTSUPP);
    }
    let dump = is_dump(&head);
    if !dump {
        let a = Attrs::parse(body, FIXED)?;
        let id = match a.get(attr::FAMILY_ID) {
            None => None,
            Some(b) => Some(u16::from_le_bytes(b.try_into().map_err(|_| EINVAL)?)),
        };
        match (id, a.text(attr::FAMILY_NAME)?) {
            (None, None) => return Err(EINVAL),
            // The name decides when both are given.
            (_, Some(n)) if n != NAME => return Err(ENOENT),
            (Some(id), None) if id != CTRL => return Err(ENOENT),
            _ => {}
        }
    }
    let mut m = out.message(CTRL, dump, &[NEWFAMILY, VERSION, 0, 0]);
    m.text(attr::FAMILY_NAME, NAME);
    m.put(attr::FAMILY_ID, &CTRL.to_le_bytes());
    m.word(attr::VERSION, VERSION.into());
    m.word(attr::HDRSIZE, 0);
    m.word(attr::MAXATTR, attr::MCAST_GROUPS.into());
    let id = u32::from(GETFAMILY).to_le_bytes();
    let operation = nested(&[(attr::OP_ID, &id), (attr::OP_FLAGS, &DO_DUMP_POLICY.to_le_bytes())]);
    m.put(attr::OPS, &nested(&[(1, &operation)]));
    let group = nested(&[
        (attr::GRP_ID, u32::from(CTRL).to_le_bytes().as_slice()),
        (attr::GRP_NAME, b"notify\0"),
    ]);
    m.put(attr::MCAST_GROUPS, &nested(&[(1, &group)]));
    out.push(m);
    Ok(())
}

/// Enters the protocol.
pub fn register() {
    register_protocol(libc::NETLINK_GENERIC, Arc::new(Genetlink));
}
