//! A router in user mode: the guest's Ethernet on one side, ordinary sockets of the host on the other.
//!
//! The guest finds a small network with a gateway, a name server and a DHCP server. Its TCP connections end
//! here and go on as connections of the host; its datagrams and echo requests leave from sockets of the
//! host. So nothing needs any privilege, and the host's own firewall and routes apply.
//!
//! Key types: [`Nat`], the router: frames, readiness and moments in; frames, calls of [`Outside`] and a
//! deadline out. [`Config`], its network and rules. One file per protocol.
//!
//! Neighbours: `uml-net` below (wire formats, the TCP machine, packets); the vector driver above, which has
//! the sockets. Descriptors, threads and clocks do not belong here.
//!
//! Everything that arrives is untrusted, from both sides: nothing panics, tables and queues have limits
//! ([`limits`]).
#![forbid(unsafe_code)]

mod arp;
pub mod config;
mod dhcp;
mod dhcp6;
mod dns;
mod flows;
mod fragment;
mod icmp;
pub mod limits;
mod nat;
mod ndp;
pub mod outside;
mod ping;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod wire;

pub use config::Config;
pub use flows::Id;
pub use nat::Nat;
pub use outside::{Outside, Trouble};
