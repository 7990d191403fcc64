//! Virtual interfaces of a guest beside those of the host's Linux: the same commands print the same.

mod common;

use std::process::Command;

use common::{Done, World, both};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/links.sh");

#[test]
fn virtual_interfaces_are_those_of_linux() {
    let here = [
        "-rnm",
        "sh",
        "-c",
        "mount -t tmpfs none /run && ip link add b type bridge && ip link add v type veth && bridge link && python3 -V && ip netns add x",
    ];
    if !Command::new("unshare").args(here).output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no namespaces with bridges, or no iproute2 or python3 here");
        return;
    }
    let w = World::new();
    let host = Command::new("unshare").args(["-rnm", "sh", SCRIPT]).output().unwrap();
    let host = Done::from(host).ok();
    let mut c = w.umld();
    c.args(["run", "--mem", "256M", "--net", "none", "--", "unshare", "-nm", "sh", SCRIPT]);
    let guest = Done::from(c.output().unwrap()).ok();
    if host != guest {
        let lines = host.lines().zip(guest.lines()).filter(|(h, g)| h != g);
        let shown: Vec<String> = lines.take(20).map(|(h, g)| format!("- {h}\n+ {g}")).collect();
        panic!("{}\n== guest\n{guest}", shown.join("\n"));
    }
    assert!(host.matches("same").count() == 6 && !host.contains("different"), "{host}");
}

// The host may have no such interfaces to compare with.
#[test]
fn vlans_carry_tagged_frames_and_namespaces_hear_of_themselves() {
    let script = r#"
ip link add va type veth peer name vb
ip link add link va name va.5 type vlan id 5 && ip link add link vb name vb.5 type vlan id 5
ip link add link va name va.5b type vlan id 5 2>/dev/null || echo taken
ip link add link va name va.x type vlan id 5000 2>/dev/null || echo "no such tag"
ip link set va.5 up 2>/dev/null || echo "down below"
ip -d link show va.5 | tr -s ' \n' '\n' | grep -A4 -x vlan | tr '\n' ' '; echo
ip netns add n
ip link set vb.5 netns n
ip -n n -br link show vb.5 | cut -d' ' -f1
ip addr add 10.5.0.1/24 dev va.5
ip -n n addr add 10.5.0.2/24 dev vb.5
ip link set va up; ip link set vb up; ip -n n link set vb.5 up
ip -br link show va.5 | grep -o LOWER_UP
cat > /tmp/look.py <<'P'
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("va", 0))
s.setsockopt(263, 8, 1)
print("ready", flush=True)
s.settimeout(60)
while True:
    f, c, _, _ = s.recvmsg(2000, 200)
    if b"hello vlan" in f:
        print("tag", int.from_bytes(f[14:16], "big") if f[12:14] == b"\x81\0" else [int.from_bytes(d[16:18], "little") for _, t, d in c if t == 8])
        break
P
python3 -c '
import socket, subprocess
l = subprocess.Popen(["python3", "/tmp/look.py"], stdout=subprocess.PIPE, text=True)
l.stdout.readline()
e = subprocess.Popen(["ip", "netns", "exec", "n", "python3", "-c", "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((chr(49)+\"0.5.0.2\", 7)); print(1, flush=True); m, a = s.recvfrom(2000); s.sendto(m.upper(), a)"], stdout=subprocess.PIPE, text=True)
e.stdout.readline()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(60)
s.sendto(b"hello vlan", ("10.5.0.2", 7))
print(s.recv(100), flush=True)
print(l.communicate()[0].strip())'
ip link set va down; ip -br link show va.5 | grep -c -w UP
ip link del va; ip link show va.5 2>/dev/null || echo gone
ip -n n link show vb.5 2>/dev/null || echo "gone there"
unshare -n sh -c 'ip monitor link > /tmp/there & ip link add seen type dummy; i=0; until grep -q seen /tmp/there; do sleep 0.1; [ $((i += 1)) -lt 200 ] || exit; ip link set seen mtu $((1400 + i)); done; kill $!' &
ip monitor link > /tmp/here & m=$!
i=0; until grep -q first /tmp/here || [ $i = 200 ]; do ip link add first$((i += 1)) type dummy; sleep 0.1; done
wait %1; ip link add last type dummy
i=0; until grep -q last /tmp/here || [ $((i += 1)) = 200 ]; do sleep 0.1; done
kill $m; grep -c seen /tmp/here; grep -c -m1 seen /tmp/there
ip link add bond0 type bond 2>/dev/null || echo "no bonds"
"#;
    if Command::new("ip").arg("-V").output().is_err()
        || Command::new("python3").arg("-V").output().is_err()
    {
        eprintln!("skipped: no iproute2 or python3 here");
        return;
    }
    let w = World::new();
    let out = w.run(&["run", "--mem", "256M", "--net", "none", "--", "sh", "-c", script]);
    let want = "taken\nno such tag\ndown below\nvlan protocol 802.1Q id 5 \nvb.5@if2\nLOWER_UP\nb'HELLO VLAN'\ntag 5\n0\ngone\ngone there\n0\n1\nno bonds\n";
    assert_eq!(out.out, want, "{out:?}");
}

#[test]
fn bridges_find_one_tree_as_on_linux() {
    let Some(host) = both("stp.py") else { return };
    assert!(host.contains("r2 ['disabled'") && !host.contains("never"), "{host}");
}

#[test]
fn brctl_does_and_shows_what_it_does_on_linux() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/brctl.sh");
    let own = format!("mount -t sysfs none /sys && exec sh {script}");
    let here = [
        "-rnm",
        "sh",
        "-c",
        "mount -t sysfs none /sys && brctl --version && ip link add b type bridge",
    ];
    if !Command::new("unshare").args(here).output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no namespaces with bridges, or no brctl or iproute2 here");
        return;
    }
    let host = Command::new("unshare").args(["-rnm", "sh", "-c", &own]).output().unwrap();
    let w = World::new();
    let mut c = w.umld();
    c.args(["run", "--mem", "256M", "--net", "none", "--", "sh", script]);
    assert_eq!(Done::from(host).ok(), Done::from(c.output().unwrap()).ok());
}

// Nothing to compare with: a host's kernel may have no filter for VLANs.
#[test]
fn bridges_tell_vlans_apart() {
    if Command::new("bridge").arg("-V").output().is_err() {
        eprintln!("skipped: no iproute2 here");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vlans.py");
    let w = World::new();
    let out = w
        .run(&["run", "--mem", "256M", "--net", "none", "--", "unshare", "-nm", "python3", script]);
    assert_eq!(out.out, include_str!("vlans.expected"), "{out:?}");
}
