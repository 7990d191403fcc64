//! A lab of routers and hosts: dynamic routing between two paths, one of which is cut and healed, and NAT at the edge.

mod common;

use common::World;

/// What each machine does first. `$HERE` is the directory of the files that the routers read.
const START: &str = r#"
router() {
    sysctl -qw net.ipv4.ip_forward=1
    ip addr flush dev eth0; ip addr add $1 dev eth0
    ip addr add $2 dev vec0; ip link set vec0 up
    ip addr add $3 dev eth1; ip link set eth1 up
    mkdir -p /run/bird
    bird -c "$HERE/$(hostname).conf" -s /run/bird.ctl
}
case $(hostname) in
r1)
    router 10.1.0.254/24 10.8.0.1/30 10.9.0.1/30
    nft 'add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; add rule ip nat post oifname vec1 masquerade'
    ;;
r2) router 10.2.0.254/24 10.8.0.2/30 10.9.0.2/30 ;;
h1 | h3) ip route add default via 10.1.0.254 ;;
h2) ip route add default via 10.2.0.254 ;;
esac
exec sleep 100000
"#;

/// OSPF over a tunnel and a cable, of which the cable is preferred.
fn bird(id: &str, edge: &str) -> String {
    format!(
        "router id {id};\nprotocol device {{ scan time 1; }}\n{edge}\
         protocol kernel {{ ipv4 {{ import none; export where source != RTS_DEVICE && source != RTS_STATIC; }}; }}\n\
         protocol ospf v2 {{ ipv4 {{ import all; export all; }}; area 0 {{\n\
         interface \"vec0\" {{ type ptp; cost 50; hello 1; dead 4; }};\n\
         interface \"eth1\" {{ type ptp; cost 5; hello 1; dead 4; }};\n\
         interface \"eth0\" {{ stub yes; }};\n}}; }}\n"
    )
}

fn udp_port() -> u16 {
    let s = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    s.local_addr().expect("address").port()
}

fn lab(w: &World) {
    let here = w.path("").display().to_string();
    w.write(
        "r1.conf",
        &bird("1.1.1.1", "protocol static { ipv4; route 0.0.0.0/0 via 10.0.2.2; }\n"),
    );
    w.write("r2.conf", &bird("2.2.2.2", ""));
    w.write("start.sh", &format!("HERE={here}\n{START}"));
    w.machine("base", &format!("sh {here}/start.sh"), "");
    let (a, b) = (udp_port(), udp_port());
    let tunnel = |own: u16, other: u16, rx: u8, tx: u8| {
        format!(
            "{{ mode = \"l2tpv3\", options = {{ udp = \"1\", src = \"127.0.0.1\", dst = \"127.0.0.1\", srcport = \"{own}\", \
             dstport = \"{other}\", rx_session = \"{rx}\", tx_session = \"{tx}\" }} }}"
        )
    };
    let (one, two) = (tunnel(a, b, 7, 8), tunnel(b, a, 8, 7));
    let mut text = format!(
        "[fleet]\ntemplate = \"base.toml\"\nset.vm.mem = \"64M\"\n\
         [[switch]]\nname = \"left\"\nnetwork = \"10.1.0.0/24\"\n[[switch]]\nname = \"right\"\nnetwork = \"10.2.0.0/24\"\n\
         [[link]]\nbetween = [\"r1\", \"r2\"]\n\
         [[member]]\nname = \"r1\"\nset.net = [{{ switch = \"left\" }}, {one}, {{ mode = \"user\" }}]\n\
         [[member]]\nname = \"r2\"\nset.net = [{{ switch = \"right\" }}, {two}]\n"
    );
    for (name, switch) in [("h1", "left"), ("h2", "right"), ("h3", "left")] {
        text +=
            &format!("[[member]]\nname = \"{name}\"\nset.net = [{{ switch = \"{switch}\" }}]\n");
    }
    w.write("fleet.toml", &text);
}

/// Status of a command in a member.
fn does(w: &World, name: &str, command: &str) -> bool {
    w.run(&["exec", name, "--", "sh", "-c", command]).status == 0
}

#[test]
fn routers_find_the_other_way_when_a_cable_is_cut() {
    let there = |p: &str| {
        ["/usr/sbin", "/usr/bin", "/bin"].iter().any(|d| std::path::Path::new(d).join(p).exists())
    };
    if let Some(p) = ["bird", "nft", "ip", "ping"].into_iter().find(|p| !there(p)) {
        eprintln!("skipped: no {p} here");
        return;
    }
    let w = World::new();
    lab(&w);
    w.run(&["up", "-f", "fleet.toml"]).ok();
    // Its init is still at work when a command can be run.
    let named = || w.run(&["exec", "h3", "--", "hostname"]).ok().trim() == "h3";
    w.eventually("h3 has its name", named);
    // h1 and h3 know each other's names; h2 is reached by the routers' protocol.
    w.eventually("h1 reaches its neighbour by name", || does(&w, "h1", "ping -c 1 -W 1 h3"));
    let way = |by: &str| does(&w, "r1", &format!("ip route get 10.2.0.9 | grep -q 'dev {by} '"));
    let far = || does(&w, "h1", "ping -c 1 -W 1 h2") && does(&w, "h2", "ping -c 1 -W 1 h3");
    w.eventually("the cable is the way", || way("eth1"));
    w.eventually("h1 reaches the other network", far);
    // Two routers in between.
    assert!(does(&w, "h1", "ping -c 1 -W 1 -t 3 h2") && !does(&w, "h1", "ping -c 1 -W 1 -t 2 h2"));
    assert!(does(&w, "r1", "ip link set eth1 down"));
    w.eventually("the tunnel is the way", || way("vec0"));
    w.eventually("h1 reaches the other network again", far);
    assert!(does(&w, "r1", "ip link set eth1 up"));
    w.eventually("the cable is the way again", || way("eth1"));
    w.eventually("h1 still reaches the other network", far);
    // The way out leads through both routers and the address of the edge: a server of the host, as the gateway's.
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a server");
    let port = server.local_addr().expect("address").port();
    let answering = std::thread::spawn(move || {
        use std::io::Write;
        let (mut c, _) = server.accept().expect("a client");
        c.write_all(b"from the host\n").expect("written");
    });
    w.eventually("the default route comes from the edge", || {
        does(&w, "r2", "ip route get 10.0.2.2 | grep -q via")
    });
    let ask = format!("exec 3<>/dev/tcp/10.0.2.2/{port}; read -r line <&3; echo \"$line\"");
    assert_eq!(w.run(&["exec", "h2", "--", "bash", "-c", &ask]).ok(), "from the host\n");
    answering.join().expect("no panic");
    let counted = w.run(&["exec", "r1", "--", "sh", "-c", "nft list table ip nat"]).ok();
    assert!(counted.contains("masquerade"), "{counted}");
    w.run(&["down", "-f", "fleet.toml"]).ok();
}
