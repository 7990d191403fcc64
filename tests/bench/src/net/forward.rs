//! A router between two namespaces of the host: TCP from one to the other, with filter rules that match nothing on the way.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command};

use crate::count;
use crate::measure::What;
use crate::place::{Kind, Place};
use crate::wires::{self, Namespace, Owned, ip};

/// The router's addresses towards this namespace and the far one, and the hosts behind them.
const NEAR: (&str, &str) = ("10.7.0.2", "10.7.0.1");
const FAR: (&str, &str) = ("10.8.0.2", "10.8.0.1");

/// Gbit/s through the router.
pub fn measure(place: &Place, what: What, rules: u32, seconds: u32) -> Result<f64, String> {
    let far = Namespace::new()?;
    let file = place.scratch.join("rules");
    let file = match rules {
        0 => None,
        n => {
            std::fs::write(&file, ruleset(n)).map_err(|e| format!("{}: {e}", file.display()))?;
            Some(file.as_path())
        }
    };
    let _router = match place.kind {
        Kind::Native => native(&far, file)?,
        _ => guest(place, &far, file)?,
    };
    far.run(&format!("ip addr add {}/24 dev far", FAR.1))?;
    far.run("ip link set far up")?;
    far.run(&format!("ip route add default via {}", FAR.0))?;
    ip(&format!("addr add {}/24 dev near", NEAR.1))?;
    ip("link set near up")?;
    ip(&format!("route replace 10.8.0.0/24 via {}", NEAR.0))?;
    let _server = wires::serve_with(far.command(&["iperf3"]), FAR.1)?;
    let command = what.command(FAR.1, seconds);
    let out = Command::new(&command[0])
        .args(&command[1..])
        .output()
        .map_err(|e| format!("iperf3: {e}"))?;
    what.read(&String::from_utf8_lossy(&out.stdout))
}

/// What routes, until it is dropped; the interfaces near and far end with it.
enum Router {
    Host { _namespace: Namespace, _link: wires::Link },
    Guest { _child: Owned, _links: [wires::Link; 2] },
}

/// Half of the rules look at an address, half at a port. Nothing of a measurement matches.
fn ruleset(rules: u32) -> String {
    let mut text = String::from(
        "table ip bench {\n chain f {\n  type filter hook forward priority 0; policy accept;\n",
    );
    for n in 0..rules {
        let _ = match n % 2 {
            0 => writeln!(text, "  ip saddr 192.168.{}.{} drop", n / 256 % 256, n % 256),
            _ => writeln!(text, "  tcp dport {} drop", 10_000 + n),
        };
    }
    text.push_str(" }\n}\n");
    text
}

/// A namespace with a veth pair to either side.
fn native(far: &Namespace, rules: Option<&Path>) -> Result<Router, String> {
    let router = Namespace::new()?;
    let link = wires::Link("near");
    for (here, there, (address, _)) in [("near", "router0", NEAR), ("far", "router1", FAR)] {
        ip(&format!("link add dev {here} type veth peer name {there}"))?;
        ip(&format!("link set {there} netns {}", router.pid()))?;
        router.run(&format!("ip addr add {address}/24 dev {there}"))?;
        router.run(&format!("ip link set {there} up"))?;
    }
    ip(&format!("link set far netns {}", far.pid()))?;
    router.run("sysctl -qw net.ipv4.ip_forward=1")?;
    if let Some(file) = rules {
        router.run(&format!("nft -f {}", file.display()))?;
    }
    // A namespace goes in its own time, its interfaces with it: this one is taken away at once.
    Ok(Router::Host { _namespace: router, _link: link })
}

/// A guest with a tap device to either side.
fn guest(place: &Place, far: &Namespace, rules: Option<&Path>) -> Result<Router, String> {
    let links = [wires::tap("near")?, wires::tap("far")?];
    // Stock kernels are built without nf_tables, but forward without rules.
    let load = rules.map_or(String::new(), |file| format!("&& nft -f {}", file.display()));
    let tap = |name: &str| format!("tap,ifname={name},depth=128,gro=1");
    let script = format!(
        "ip addr add {}/24 dev vec0 && ip link set vec0 up && ip addr add {}/24 dev vec1 && ip link set vec1 up && \
         echo 1 >/proc/sys/net/ipv4/ip_forward {} && echo it routes && sleep 60",
        NEAR.0, FAR.0, load
    );
    let child = place.start(&[tap("near"), tap("far")], "", &["sh".into(), "-c".into(), script])?;
    let mut child = Owned(child);
    routes(&mut child.0)?;
    // The guest has it open, wherever it is.
    ip(&format!("link set far netns {}", far.pid()))?;
    Ok(Router::Guest { _child: child, _links: links })
}

fn routes(child: &mut Child) -> Result<(), String> {
    let said = count::lines(child.stdout.take().ok_or("no output")?);
    let mut text = String::new();
    for (_, line) in said {
        if line.contains("it routes") {
            return Ok(());
        }
        text.push_str(&line);
    }
    Err(format!("the guest does not route:\n{text}"))
}
