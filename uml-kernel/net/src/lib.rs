//! The guest's network stack, sans I/O.
//!
//! Frames and moments go in, frames and wake-ups come out: the stack knows no host, no task and no
//! descriptor. A [`stack::Stack`] is one network namespace; everything in it is reached through it.
//!
//! Key types: [`packet::Packet`], [`stack::Stack`], [`interface::Interface`] with the [`interface::Device`] behind
//! it, the sockets [`tcp_socket::TcpSocket`], [`udp::UdpSocket`], [`raw::RawSocket`], [`tap::PacketSocket`], and
//! [`tcp::tcb::Tcb`], one TCP connection as a state machine.
//!
//! Neighbours: `uml-base` below (locks, wait queues); `uml-inet` above, which makes sockets of programs of
//! this, and devices. Guest memory, file descriptors and host descriptors do not belong here.
//!
//! Lock order: a socket's state (`Rank::SOCKET`); everything else (tables, routes, neighbours, queues) is
//! a leaf. A socket's lock is never held while another's is taken, and never while a device transmits:
//! packets are put on the interface's queue under it, and the queue is drained afterwards.
#![forbid(unsafe_code)]

pub mod addrconf;
pub mod bpf;
pub mod bridge;
pub mod conf;
mod egress;
pub mod ended;
mod forward;
mod fragment;
pub mod gro;
mod group;
pub mod gso;
pub mod hook;
pub mod icmp;
mod icmp_limit;
pub mod interface;
pub mod ip;
#[cfg(test)]
mod link_tests;
pub mod namespace;
pub mod neighbour;
pub mod packet;
pub mod ping;
pub mod ports;
pub mod raw;
pub mod route;
pub mod snmp;
pub mod sock;
pub mod stack;
pub mod stamp;
#[cfg(test)]
mod step_tests;
pub mod tap;
pub mod tcp;
mod tcp_listen;
pub mod tcp_socket;
pub mod tcp_table;
#[cfg(test)]
mod tests;
pub mod time;
pub mod timer;
pub mod udp;
pub mod udplite;
pub mod veth;
pub mod vlan;
pub mod wire;

pub use fragment::cut as cut_fragments;
pub use time::{Clock, Time};
