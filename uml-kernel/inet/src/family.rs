//! AF_INET, AF_INET6 and AF_PACKET: which sockets there are (socket(2)).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::{Cap, Task};
use uml_ipc::socket::{Socket, SocketFamily, register_socket_family};

use crate::dgram::DgramSocket;
use crate::packet::PacketSock;
use crate::stack_of;
use crate::stream::StreamSocket;

/// AF_INET or AF_INET6.
pub struct Inet {
    pub v6: bool,
}

impl SocketFamily for Inet {
    fn create(&self, task: &Task, kind: i32, protocol: i32) -> Result<Arc<dyn Socket>> {
        if !(0..256).contains(&protocol) {
            return Err(EINVAL);
        }
        let stack = stack_of(task);
        let icmp = if self.v6 { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP };
        match (kind, protocol) {
            (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => {
                Ok(StreamSocket::create(task, &stack, self.v6))
            }
            (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => {
                Ok(DgramSocket::udp(task, &stack, self.v6))
            }
            (libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE) => {
                Ok(DgramSocket::udplite(task, &stack, self.v6))
            }
            (libc::SOCK_DGRAM, p) if p == icmp => Ok(DgramSocket::ping(task, &stack, self.v6)),
            (libc::SOCK_RAW, 0) => Err(EPROTONOSUPPORT),
            (libc::SOCK_RAW, p) => {
                crate::require_net(task, Cap::NetRaw)?;
                Ok(DgramSocket::raw(task, &stack, self.v6, p as u8))
            }
            (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => Err(EPROTONOSUPPORT),
            _ => Err(ESOCKTNOSUPPORT),
        }
    }
}

struct PacketFamily;

impl SocketFamily for PacketFamily {
    fn create(&self, task: &Task, kind: i32, protocol: i32) -> Result<Arc<dyn Socket>> {
        crate::require_net(task, Cap::NetRaw)?;
        let cooked = match kind {
            libc::SOCK_RAW => false,
            libc::SOCK_DGRAM => true,
            _ => return Err(ESOCKTNOSUPPORT),
        };
        // The protocol is in network byte order.
        let protocol = (protocol as u16).swap_bytes();
        Ok(PacketSock::create(task, &stack_of(task), cooked, protocol))
    }
}

/// Makes the families known.
pub fn register() {
    register_socket_family(libc::AF_INET, Arc::new(Inet { v6: false }));
    register_socket_family(libc::AF_INET6, Arc::new(Inet { v6: true }));
    register_socket_family(libc::AF_PACKET, Arc::new(PacketFamily));
}
