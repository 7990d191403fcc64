//! What the router needs of the host.

use std::net::{IpAddr, SocketAddr};

use uml_abi::{Errno, Result};
use uml_net::packet::Data;

use crate::flows::Id;

/// An error that the host noted about something sent from a datagram socket (ip(7), IP_RECVERR).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub errno: Errno,
    /// Type, code and number of the ICMP message (0 when the host itself refused), and who sent it.
    pub kind: u8,
    pub code: u8,
    pub info: u32,
    pub from: Option<IpAddr>,
    /// Where the datagram went.
    pub to: SocketAddr,
    /// What of the datagram came back.
    pub quoted: Vec<u8>,
}

/// Sockets of the host. None of the calls waits: `EAGAIN` says that [`crate::Nat::ready`] will be told of the
/// socket's `Id` once it can go on. A socket that is dropped is closed.
pub trait Outside {
    type Socket;

    /// Begins a connection. True when it is there already; else the outcome is asked for when the socket becomes
    /// writable.
    fn connect(&mut self, id: Id, to: SocketAddr) -> Result<(Self::Socket, bool)>;

    /// How the connection went; `EINPROGRESS` when that is not known yet.
    fn outcome(&mut self, s: &Self::Socket) -> Result<()>;

    /// Sends on a connection; how many bytes were taken.
    fn send(&mut self, s: &Self::Socket, data: &Data) -> Result<usize>;

    /// Receives on a connection; zero at its end.
    fn recv(&mut self, s: &Self::Socket, buf: &mut [u8]) -> Result<usize>;

    /// Ends the sending side.
    fn finish(&mut self, s: &Self::Socket);

    /// Ends the connection so that the peer sees a reset.
    fn reset(&mut self, s: Self::Socket);

    /// A listener for connections to `at`.
    fn listen(&mut self, id: Id, at: SocketAddr) -> Result<Self::Socket>;

    /// A connection that came in, now known as `id`, and its peer.
    fn accept(&mut self, listener: &Self::Socket, id: Id) -> Result<(Self::Socket, SocketAddr)>;

    /// A datagram socket of the family of `at`, bound to it.
    fn datagrams(&mut self, id: Id, at: SocketAddr) -> Result<Self::Socket>;

    /// A socket for echo requests: `EACCES` when the host does not allow them.
    fn ping(&mut self, id: Id, v6: bool) -> Result<Self::Socket>;

    /// Sends one datagram with a time to live.
    fn send_to(&mut self, s: &Self::Socket, data: &Data, to: SocketAddr, ttl: u8) -> Result<()>;

    /// Receives one datagram: its size and sender.
    fn recv_from(&mut self, s: &Self::Socket, buf: &mut [u8]) -> Result<(usize, SocketAddr)>;

    /// The next error noted for a datagram socket.
    fn trouble(&mut self, s: &Self::Socket) -> Option<Trouble>;

    /// The host's name servers in their order, as they are now.
    fn resolvers(&mut self) -> Vec<SocketAddr>;
}
