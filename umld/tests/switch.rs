//! Guests, a script and a stock kernel on one `uml_switch`, which exchange bulk data through it.

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{World, switch};

/// A stock kernel that has legacy interfaces: `UML_STOCK_61`, or where tests/run puts it.
/// None on CPUs with AMX, where it cannot run programs.
fn stock() -> Option<PathBuf> {
    if std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|c| c.contains(" amx")) {
        return None;
    }
    let fetched =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cache/stock-6.1/usr/bin/linux.uml");
    let named = std::env::var_os("UML_STOCK_61").map(PathBuf::from);
    named.into_iter().chain([fetched.into()]).find(|p| p.exists())
}

#[test]
fn guests_scripts_and_stock_kernels_share_a_switch() {
    let (Some(switch), true) = (switch(), Command::new("python3").arg("-V").output().is_ok())
    else {
        eprintln!("skipped: no uml_switch or no python3 here");
        return;
    };
    let w = World::new();
    let umld = w.umld();
    let mut c = Command::new("python3");
    c.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/switch.py"));
    c.arg(umld.get_program()).arg(switch).arg(w.path("")).env("HOME", w.path(""));
    let mut want = vec!["10.9.0.1: same", "10.9.0.8: same", "10.9.0.9: same"];
    match stock() {
        Some(k) => {
            c.arg(k);
            want.push("10.9.0.4: same");
        }
        None => eprintln!("without a stock kernel: none here"),
    }
    let out = c.output().unwrap();
    let (text, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}\n{err}");
    assert_eq!(text.lines().collect::<Vec<_>>(), want, "{err}");
}

#[test]
fn what_is_wrong_with_a_legacy_interface_is_said_and_the_machine_runs() {
    let w = World::new();
    let mut c = w.umld();
    c.args(["run", "--mem", "128M", "--net", "none"]);
    let nowhere = format!("eth0=daemon,,unix,{}", w.path("nowhere").display());
    for word in [
        nowhere.as_str(),
        "eth1=slirp",
        "eth2=mcast,,224.0.0.9,x",
        "eth3=ucast,01:00:00:00:00:01,127.0.0.1,0,9",
        "eth4=tuntap,,,192.168.0.1",
        "eth3=daemon",
        "eth5",
        "eth6=nonsense",
    ] {
        c.args(["--append", word]);
    }
    c.args(["--", "sh", "-c", "dmesg; ip -br link; ip link set eth3 up && echo up; ip link set eth4 up || dmesg | tail -1; echo end"]);
    let out = common::Done::from(c.output().unwrap()).ok();
    for want in [
        "eth_setup - Couldn't parse '0=daemon,,unix,",
        "daemon_open : control connect failed, errno = 2 (",
        "vec0:transport=user has a router built in",
        "eth_setup - Couldn't parse '2=mcast,,224.0.0.9,x' : mcast_setup - Bad port : 'x'",
        "Attempt to assign a multicast ethernet address to a device disallowed",
        "Choosing a random ethernet address for device eth3",
        "Configured ucast device: :0 -> 127.0.0.1:9",
        "ucast backend address: 127.0.0.1:9 listen port: 0",
        "eth_setup - Couldn't parse '3=daemon' : Device already configured",
        "eth_setup - Couldn't parse '5' : Expected '=' after device number",
        "unknown transport 'nonsense'; known: daemon, ",
        "\nup\n",
        "the setuid helper uml_net would be needed",
        "\nend\n",
    ] {
        assert!(out.contains(want), "{want} in\n{out}");
    }
    for none in ["eth0 ", "eth1 ", "eth2 ", "eth5 ", "eth6 "] {
        assert!(!out.lines().any(|l| l.starts_with(none)), "{none} in\n{out}");
    }
}

#[test]
fn legacy_transports_carry_bulk_data() {
    let probe = Command::new("unshare")
        .args(["-rn", "sh", "-c", "ip link set lo up && ip tuntap add t0 mode tap && python3 -V"])
        .output();
    if !probe.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no user namespace with tap interfaces, python3 and ip here");
        return;
    }
    let w = World::new();
    let umld = w.umld();
    let out = Command::new("unshare")
        .args(["-rn", "python3", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/legacy.py")])
        .arg(umld.get_program())
        .env("HOME", w.path(""))
        .output()
        .unwrap();
    let (text, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}\n{err}");
    let mut lines: Vec<&str> = text.lines().collect();
    if Command::new("tcpdump").arg("--version").output().is_err() {
        assert!(lines.pop().is_some_and(|l| l.contains("cannot run tcpdump")), "{text}");
    } else {
        assert_eq!(lines.pop(), Some("pcap: the datagram"), "{text}\n{err}");
    }
    assert_eq!(
        lines,
        ["ucast: same, one address", "mcast: same, one address", "tuntap: same, one address"],
        "{err}"
    );
}
