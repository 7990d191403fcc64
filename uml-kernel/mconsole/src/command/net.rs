//! `net`: interfaces of the initial network namespace, with addresses and traffic.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use uml_net::interface::Interface;

use crate::server::Client;

pub fn run(client: &Client<'_>) {
    let mut out = String::new();
    for i in client.server().parts.net.interfaces() {
        describe(&i, &mut out);
    }
    client.ok(out);
}

/// A string takes whatever is written to it.
fn describe(i: &Interface, out: &mut String) {
    let state = if i.is_up() { "up" } else { "down" };
    let _ = writeln!(out, "{}: {state} mtu {} address {}", i.name(), i.mtu(), i.mac());
    for a in i.addresses() {
        let _ = writeln!(out, "    {}/{}", a.addr, a.prefix);
    }
    let c = &i.counters;
    for (direction, figures) in [
        ("received", [&c.rx_packets, &c.rx_bytes, &c.rx_errors, &c.rx_dropped]),
        ("sent", [&c.tx_packets, &c.tx_bytes, &c.tx_errors, &c.tx_dropped]),
    ] {
        let [packets, bytes, errors, dropped] = figures.map(|f| f.load(Ordering::Relaxed));
        let _ = writeln!(
            out,
            "    {direction} {packets} packets, {bytes} bytes, {errors} errors, {dropped} dropped"
        );
    }
}
