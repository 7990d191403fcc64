//! Opening the host side of the legacy transports that have no switch.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use uml_host::netdev::{self, HostAddr};
use uml_net::wire::ethernet::Mac;

use super::spec::Transport;
use crate::vector::device::HostSide;
use crate::vector::frame::Encap;
use crate::vector::open::{Endpoint, Failed, failed, own_frames, plain, tap, vde};
use crate::vector::spec;

type Filter = Vec<(u16, u8, u8, u32)>;

/// The header that a filter on a UDP socket sees in front of the data.
const UDP_HEADER: u32 = 8;

/// A host side that is opened when the interface goes up.
pub struct Opened {
    transport: Transport,
    filter: Option<Filter>,
}

impl Opened {
    /// Checks what can be checked before the interface goes up.
    pub fn new(transport: Transport) -> Result<Opened, String> {
        let filter = match &transport {
            Transport::Pcap { filter: Some(text), .. } => Some(compile(text)?),
            _ => None,
        };
        Ok(Opened { transport, filter })
    }
}

/// A filter in the language of pcap-filter(7), compiled by tcpdump(8), which needs no privilege for it.
fn compile(text: &str) -> Result<Filter, String> {
    let refused = |why: &str| format!("pcap_setup : bad filter '{text}': {why}");
    let out = Command::new("tcpdump")
        .args(["-ddd", "-y", "EN10MB", "--", text])
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|e| refused(&format!("cannot run tcpdump, which compiles it: {e}")))?;
    if !out.status.success() {
        return Err(refused(String::from_utf8_lossy(&out.stderr).trim()));
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let insn = |l: &str| {
        let mut n = l.split(' ');
        Some((
            n.next()?.parse().ok()?,
            n.next()?.parse().ok()?,
            n.next()?.parse().ok()?,
            n.next()?.parse().ok()?,
        ))
    };
    let program: Option<Filter> = text.lines().skip(1).map(insn).collect();
    program.filter(|p| !p.is_empty()).ok_or_else(|| refused("tcpdump gave no program"))
}

impl HostSide for Opened {
    fn open(&self, mac: Mac) -> Result<Endpoint, Failed> {
        let number = |e: &std::io::Error| e.raw_os_error().unwrap_or(0);
        match &self.transport {
            Transport::Tuntap { dev, gateway } => {
                if dev.is_none() && gateway.is_some() {
                    return failed(
                        "tuntap: without a device the setuid helper uml_net would be needed, which is not used; give one (ip tuntap add tap0 mode tap user <name>), or use vec0:transport=user".into(),
                    );
                }
                let (fd, name) = tap(dev)?;
                // The header is between the host's device and us; frames on the link are the same.
                let mut e = plain(fd, Encap::Vnet)?;
                (e.offload, e.ifname) = (true, Some(name));
                Ok(e)
            }
            Transport::Mcast { group, ttl } => {
                let fd = match netdev::open_multicast(*group, *ttl) {
                    Ok(fd) => fd,
                    Err(e) => {
                        return failed(format!(
                            "mcast_open : cannot join {group}, err = {} ({e})",
                            -number(&e)
                        ));
                    }
                };
                // The host gives back what was sent, which no Ethernet does; IPv6 would take it for a
                // station with the same address.
                if let Err(e) = netdev::attach_filter(&fd, &behind_udp(own_frames(mac))) {
                    return failed(format!("mcast_open : own frames cannot be left out: {e}"));
                }
                let mut e = plain(fd, Encap::None)?;
                e.to = Some(HostAddr::new((*group).into()));
                Ok(e)
            }
            Transport::Ucast { remote: (host, port), listen } => {
                let to = match netdev::resolve(host, *port, false) {
                    Ok(a) => a,
                    Err(e) => return failed(format!("ucast_open : cannot resolve {host}: {e}")),
                };
                let own = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), *listen);
                match netdev::open_udp(own) {
                    Ok(fd) => {
                        let mut e = plain(fd, Encap::None)?;
                        e.to = Some(HostAddr::new(to));
                        Ok(e)
                    }
                    Err(e) => failed(format!(
                        "ucast_open : data bind failed, errno = {} (port {listen}: {e})",
                        number(&e)
                    )),
                }
            }
            Transport::Vde { switch, port, group, mode, descr } => vde(&spec::Transport::Vde {
                vnl: switch.clone(),
                descr: descr.clone(),
                port: port.clone(),
                mode: Some(format!("{mode:o}")),
                group: group.clone(),
            }),
            Transport::Pcap { ifname, promiscuous, .. } => {
                self.capture(ifname, *promiscuous, number)
            }
            Transport::Daemon { control } => failed(format!("daemon: {control} was not joined")),
        }
    }
}

impl Opened {
    fn capture(
        &self,
        ifname: &str,
        promiscuous: bool,
        number: impl Fn(&std::io::Error) -> i32,
    ) -> Result<Endpoint, Failed> {
        let end = match netdev::open_packet(ifname, true) {
            Ok(e) => e,
            Err(e) => {
                return failed(format!(
                    "pcap_open : cannot capture on {ifname}, err = {} ({e})",
                    -number(&e)
                ));
            }
        };
        if let Some(f) = &self.filter
            && let Err(e) = netdev::attach_filter(&end.fd, f)
        {
            return failed(format!("pcap_open : the host refuses the filter: {e}"));
        }
        if promiscuous && let Err(e) = netdev::set_promiscuous(&end.fd, ifname) {
            return failed(format!("pcap_open : {ifname} cannot be promiscuous: {e}"));
        }
        let mut e = plain(end.fd, if end.vnet { Encap::Vnet } else { Encap::None })?;
        e.receive_only = true;
        e.ifname = Some(ifname.to_owned());
        Ok(e)
    }
}

/// A filter of frames for a UDP socket: its loads are behind the header.
fn behind_udp(mut program: Filter) -> Filter {
    const LOAD_ABSOLUTE: u16 = 0x20;
    const CLASS_AND_MODE: u16 = 0xe7;
    for (code, _, _, k) in &mut program {
        if *code & CLASS_AND_MODE == LOAD_ABSOLUTE {
            *k += UDP_HEADER;
        }
    }
    program
}
