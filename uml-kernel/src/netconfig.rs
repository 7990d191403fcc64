//! `ip=`: an interface that has its address before init runs (Linux's kernel documentation, nfsroot).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use uml_core::kernel::Kernel;
use uml_net::interface::{Address, Interface, iff};
use uml_net::route::{Mode, Prefix, Route};
use uml_net::stack::{Change, Stack};
use uml_procfs::ProcFs;
use uml_procfs::synth::TextFn;

/// What `ip=` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpOption {
    pub client: Option<Ipv4Addr>,
    pub server: Option<Ipv4Addr>,
    pub gateway: Option<Ipv4Addr>,
    pub prefix: Option<u8>,
    pub hostname: String,
    pub device: String,
    pub dns: Vec<Ipv4Addr>,
}

impl IpOption {
    /// Reads `client:server:gateway:netmask:hostname:device:autoconf:dns0:dns1`; `None` for `off` and `none`.
    pub fn parse(text: &str) -> Result<Option<IpOption>, String> {
        let left =
            "the kernel asks no server; give an address, or leave it to a DHCP client of the guest";
        match text {
            "off" | "none" => return Ok(None),
            "on" | "any" | "dhcp" | "bootp" | "rarp" | "both" => {
                return Err(format!("ip={text}: {left}"));
            }
            _ => {}
        }
        let fields: Vec<&str> = text.split(':').collect();
        let field = |n: usize| fields.get(n).copied().unwrap_or_default();
        let address = |n: usize, what: &str| match field(n) {
            "" => Ok(None),
            t => match t.parse::<Ipv4Addr>() {
                Ok(a) => Ok(Some(a)),
                Err(_) => Err(format!("ip={text}: {what} {t}: expected an IPv4 address")),
            },
        };
        match field(6) {
            "" | "off" | "none" => {}
            t => return Err(format!("ip={text}: {t}: {left}")),
        }
        let prefix = match address(3, "netmask")? {
            None => None,
            Some(m) => {
                let ones = u32::from(m).leading_ones();
                if u32::from(m).checked_shl(ones).unwrap_or(0) != 0 {
                    return Err(format!("ip={text}: netmask {m}: not a mask"));
                }
                Some(ones as u8)
            }
        };
        let dns = [address(7, "name server")?, address(8, "name server")?];
        let o = IpOption {
            client: address(0, "address")?,
            server: address(1, "server")?,
            gateway: address(2, "gateway")?,
            prefix,
            hostname: field(4).into(),
            device: field(5).into(),
            dns: dns.into_iter().flatten().collect(),
        };
        if o.client.is_none() {
            return Err(format!("ip={text}: no address; {left}"));
        }
        Ok(Some(o))
    }

    /// The prefix length: as given, or of the address' class.
    fn prefix(&self, client: Ipv4Addr) -> u8 {
        self.prefix.unwrap_or(match client.octets()[0] {
            0..128 => 8,
            128..192 => 16,
            _ => 24,
        })
    }
}

fn device(stack: &Stack, name: &str) -> Option<Arc<Interface>> {
    if name.is_empty() {
        return stack.interfaces().into_iter().find(|i| !i.is_loopback());
    }
    stack.interface_named(name)
}

/// Sets the interface up. The error says what could not be done.
pub fn apply(o: &IpOption, kernel: &Kernel, stack: &Arc<Stack>) -> Result<(), String> {
    let Some(client) = o.client else { return Ok(()) };
    let i = device(stack, &o.device).ok_or_else(|| match o.device.as_str() {
        "" => "ip=: there is no network interface".to_owned(),
        d => format!("ip=: there is no network interface {d}"),
    })?;
    let name = i.name();
    let failed = |what: &str, e: uml_abi::Errno| format!("ip=: {name}: {what}: {e}");
    stack.set_flags(&i, iff::UP, iff::UP).map_err(|e| failed("cannot go up", e))?;
    let mut a = Address::new(client.into(), o.prefix(client));
    a.label = Some(name.clone());
    let mask = u32::MAX.checked_shl(32 - u32::from(a.prefix)).unwrap_or(0);
    if a.prefix < 31 {
        a.broadcast = Some(Ipv4Addr::from(u32::from(client) | !mask));
    }
    stack.add_address(&i, a, false).map_err(|e| failed("address", e))?;
    if let Some(g) = o.gateway {
        let mut r = Route::new(Prefix::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), i.index);
        r.gateway = Some(g.into());
        // RTPROT_BOOT
        r.proto = 3;
        let mode = Mode { create: true, exclusive: true, replace: false, append: false };
        stack.routes.add(r.clone(), mode).map_err(|e| failed("gateway", e))?;
        stack.announce(&Change::Route(r));
    }
    if !o.hostname.is_empty() {
        *kernel.namespaces.uts.hostname.lock() = o.hostname.clone().into_bytes();
    }
    Ok(())
}

/// `/proc/net/pnp`: the name servers in the form of resolv.conf(5).
pub fn show(proc: &ProcFs, o: &IpOption) {
    let mut text = String::from("#MANUAL\n");
    for d in &o.dns {
        text.push_str(&format!("nameserver {d}\n"));
    }
    let server = o.server.unwrap_or(Ipv4Addr::UNSPECIFIED);
    text.push_str(&format!("bootserver {server}\n"));
    let file = TextFn::new(move |_, out| {
        out.raw(text.as_bytes());
        Ok(())
    });
    proc.sources.add_net("pnp", 0o444, file);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_have_their_places() {
        let o = IpOption::parse("10.0.2.15::10.0.2.2:255.255.255.0:box:vec0:off:10.0.2.3")
            .unwrap()
            .unwrap();
        assert_eq!(o.client.unwrap().to_string(), "10.0.2.15");
        assert_eq!((o.prefix, o.hostname.as_str(), o.device.as_str()), (Some(24), "box", "vec0"));
        assert_eq!(o.gateway.unwrap().to_string(), "10.0.2.2");
        assert_eq!(o.dns, [Ipv4Addr::new(10, 0, 2, 3)]);
        assert_eq!(IpOption::parse("off"), Ok(None));
        assert!(IpOption::parse("dhcp").unwrap_err().contains("DHCP client"));
        assert!(IpOption::parse("::::::dhcp").is_err());
        assert!(IpOption::parse("10.0.0.1:::255.0.255.0").unwrap_err().contains("not a mask"));
        assert!(IpOption::parse("300.0.0.1").is_err());
        let classful = IpOption::parse("192.168.1.5").unwrap().unwrap();
        assert_eq!(classful.prefix(Ipv4Addr::new(192, 168, 1, 5)), 24);
    }
}
