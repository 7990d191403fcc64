//! Addresses that umld's own init gives interfaces of the guest, beside the one that the kernel sets (`ip=`): by rtnetlink(7),
//! since no program of the guest may be counted on.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    socket,
};
use serde::{Deserialize, Serialize};

/// An interface's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The interface.
    pub device: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// Where everything else is.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
}

/// Sets the interface up with it.
pub fn set(a: &Address) -> io::Result<()> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    connect(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    // netdevice(7): by a socket of the family that the address is of.
    let inet = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let index = rustix::net::netdevice::name_to_index(inet.as_fd(), &a.device)?;
    for m in requests(a, index) {
        ask(&netlink, &m)?;
    }
    Ok(())
}

/// Sends a request and waits for its acknowledgement.
fn ask(netlink: &OwnedFd, request: &[u8]) -> io::Result<()> {
    send(netlink.as_raw_fd(), request, MsgFlags::empty())?;
    let mut buf = [0; 4096];
    let n = recv(netlink.as_raw_fd(), &mut buf, MsgFlags::empty())?;
    match buf[..n].get(16..20).and_then(|e| e.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(e) => Err(io::Error::from_raw_os_error(e.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The messages: the address, the interface up, the route.
fn requests(a: &Address, index: u32) -> Vec<Vec<u8>> {
    let octets = a.address.octets();
    let family = libc::AF_INET as u8;
    let mut address = vec![family, a.prefix, 0, 0];
    address.extend(index.to_ne_bytes());
    let host = u32::MAX.checked_shr(u32::from(a.prefix)).unwrap_or(0);
    let broadcast = Ipv4Addr::from(u32::from(a.address) | host).octets();
    let attributes =
        [(libc::IFA_LOCAL, octets), (libc::IFA_ADDRESS, octets), (libc::IFA_BROADCAST, broadcast)];
    let mut all = vec![message(libc::RTM_NEWADDR, &address, &attributes)];
    let mut up = vec![0; 4];
    up.extend(index.to_ne_bytes());
    up.extend((libc::IFF_UP as u32).to_ne_bytes());
    up.extend((libc::IFF_UP as u32).to_ne_bytes());
    all.push(message(libc::RTM_NEWLINK, &up, &[]));
    if let Some(g) = a.gateway {
        let mut route = vec![family, 0, 0, 0];
        route.extend([
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
        ]);
        route.extend([0; 4]);
        let to = [(libc::RTA_GATEWAY, g.octets()), (libc::RTA_OIF, index.to_ne_bytes())];
        all.push(message(libc::RTM_NEWROUTE, &route, &to));
    }
    all
}

/// A message of rtnetlink with attributes of four bytes.
fn message(kind: u16, body: &[u8], attributes: &[(u16, [u8; 4])]) -> Vec<u8> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE;
    let mut m = vec![0; 4];
    m.extend(kind.to_ne_bytes());
    m.extend((flags as u16).to_ne_bytes());
    m.extend([0; 8]);
    m.extend(body);
    for (kind, value) in attributes {
        m.extend(8u16.to_ne_bytes());
        m.extend(kind.to_ne_bytes());
        m.extend(value);
    }
    let len = (m.len() as u32).to_ne_bytes();
    m[..4].copy_from_slice(&len);
    m
}
