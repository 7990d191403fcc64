//! NETLINK_NETFILTER: filtering, NAT and connections, as nft(8), iptables-nft(8) and conntrack(8) ask for them.
//!
//! The messages are `uml-netfilter`'s; here programs are let in and answers go out.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::{Cap, Task};
use uml_ipc::netlink::{
    NetlinkSocket, OpenTo, Origin, Protocol, has_listeners, multicast, register_protocol,
};
use uml_netfilter::message::{Asker, group};

use crate::NetPart;
use crate::nlmsg::answer_all;

struct Nfnetlink;

impl Protocol for Nfnetlink {
    fn groups(&self) -> u32 {
        group::LAST
    }

    fn open_to_all(&self) -> OpenTo {
        OpenTo { receiving: true, sending: false }
    }

    fn received(&self, from: &Arc<NetlinkSocket>, task: &Task, data: &[u8]) -> Result<()> {
        let ns = from.net.clone();
        if task.require_in(&ns.owner, Cap::NetAdmin).is_err() {
            // Asking needs the privilege too.
            answer_all(from, data, |_| false, |_, _, _| Err(EPERM));
            return Ok(());
        }
        let part = ns.parts.get::<NetPart>();
        let (capped, extended) = from.acknowledged_with();
        let who = Asker {
            portid: from.portid(),
            pid: task.show_pid(task.process.pid) as u32,
            name: String::from_utf8_lossy(&task.comm()).into_owned(),
            capped,
            extended,
            heard: has_listeners(libc::NETLINK_NETFILTER, group::NFTABLES, ns.id),
        };
        let answer = part.netfilter.request(&part.stack, &who, data);
        for (group, message) in answer.notices {
            let origin = Origin { group, net: ns.id, ..Origin::default() };
            multicast(libc::NETLINK_NETFILTER, &message, origin, None);
        }
        // A program that does not read is told by ENOBUFS.
        let _ = from.deliver_answer(&answer.replies);
        Ok(())
    }
}

/// Enters the protocol.
pub fn register() {
    register_protocol(libc::NETLINK_NETFILTER, Arc::new(Nfnetlink));
}
