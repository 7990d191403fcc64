//! Options of IPv4 packets: what a program or the wire may say, and what hosts on the way write into them (RFC 791 3.1,
//! RFC 1122 3.2.1.8, RFC 2113).

use std::net::Ipv4Addr;

use super::ipv4::{OPTIONS_MAX, options};

const END: u8 = 0;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;
const ROUTER_ALERT: u8 = 148;

/// Kinds of timestamp options: times, addresses and times, times of the hosts that are named.
const TIMES: u8 = 0;
const WITH_ADDRESSES: u8 = 1;
const NAMED: u8 = 3;

/// Why options are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// They are wrong at this place, counted from the first option.
    Wrong(usize),
    /// They are for programs with CAP_NET_RAW.
    Privilege,
}

/// Where options come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A program, with CAP_NET_RAW or without.
    Program {
        raw: bool,
    },
    Wire,
}

/// What a host writes into options that pass it.
pub struct Here<'a> {
    /// Its address.
    pub addr: Ipv4Addr,
    /// Milliseconds since midnight, universal time.
    pub time: u32,
    /// Whether an address is this host's: anything but another host's.
    pub mine: &'a dyn Fn(Ipv4Addr) -> bool,
}

/// Options that a socket or an answer sends, checked and in whole words. A source route is kept as the program gave it: its first
/// host is where packets go, and what the packet then says is made by [`Options::fill`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<u8>);

impl Options {
    /// Options that a program gives, whose rest after the end is cleared. Empty without any.
    pub fn of_program(b: &[u8], raw: bool) -> Result<Options, Refusal> {
        if b.len() > OPTIONS_MAX {
            return Err(Refusal::Wrong(OPTIONS_MAX));
        }
        let mut v = b.to_vec();
        v.resize(v.len().next_multiple_of(4), END);
        if check(&v, Origin::Program { raw })? && !raw {
            return Err(Refusal::Privilege);
        }
        if let Some(end) = end_of(&v) {
            v[end..].fill(END);
        }
        Ok(Options(v))
    }

    /// What an answer to a packet with these options carries: the record of its route and its times, to be gone on with
    /// (RFC 1122 3.2.2.6). `None` when there is no room for what would have to be written. Source routes are not answered: such packets
    /// are not taken.
    pub fn echo(received: &[u8]) -> Option<Options> {
        let mut v = Vec::new();
        for kind in [RECORD_ROUTE, TIMESTAMP] {
            let found = options(received).map_while(Result::ok).find(|o| o.kind == kind);
            let Some(o) = found else { continue };
            let whole = received.get(o.at..o.at + o.data.len() + 2)?;
            let next = usize::from(*whole.get(2)?);
            if next <= whole.len() && next + room_for(whole) > whole.len() + 1 {
                return None;
            }
            v.extend_from_slice(whole);
        }
        v.resize(v.len().next_multiple_of(4), END);
        Some(Options(v))
    }

    /// Bytes in the header.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without options.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As the program gave them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn route(&self) -> Option<(usize, usize)> {
        options(&self.0)
            .map_while(Result::ok)
            .find(|o| matches!(o.kind, LOOSE_ROUTE | STRICT_ROUTE))
            .map(|o| (o.at + 3, o.at + 2 + o.data.len()))
    }

    /// Where packets are sent to first: the first host of a source route.
    pub fn first_hop(&self) -> Option<Ipv4Addr> {
        let (from, _) = self.route()?;
        address(&self.0, from)
    }

    /// The options of a packet to `dst` that leaves `here`.
    pub fn fill(&self, dst: Ipv4Addr, here: &Here<'_>) -> Vec<u8> {
        let mut v = self.0.clone();
        if let Some((from, to)) = self.route() {
            v.copy_within(from + 4..to, from);
            v[to - 4..to].copy_from_slice(&dst.octets());
        }
        record(&mut v, here, false);
        v
    }
}

/// Bytes that a host writes into the option, a record of a route or of times.
fn room_for(option: &[u8]) -> usize {
    match (option[0], option.get(3).map_or(0, |f| f & 15)) {
        (TIMESTAMP, WITH_ADDRESSES | NAMED) => 8,
        _ => 4,
    }
}

fn address(b: &[u8], at: usize) -> Option<Ipv4Addr> {
    b.get(at..at + 4).map(|a| Ipv4Addr::new(a[0], a[1], a[2], a[3]))
}

/// Where the list ends before the header does.
fn end_of(b: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(kind) = b.get(at) {
        match kind {
            0 => return Some(at),
            1 => at += 1,
            _ => at += usize::from(*b.get(at + 1)?).max(2),
        }
    }
    None
}

/// Checks options: `Ok(true)` when they hold a source route.
pub fn check(b: &[u8], origin: Origin) -> Result<bool, Refusal> {
    let mut seen = [false; 256];
    let mut routed = false;
    let program = origin != Origin::Wire;
    let raw = origin != Origin::Program { raw: false };
    let mut walked = 0;
    for o in options(b) {
        // The list says that it is wrong, not where: behind what was walked over, no-operations aside.
        let Ok(o) = o else {
            let skipped = b[walked..].iter().take_while(|k| **k == 1).count();
            return Err(Refusal::Wrong(walked + skipped));
        };
        let len = o.data.len() + 2;
        let wrong = |n: usize| Err(Refusal::Wrong(o.at + n));
        walked = o.at + len;
        let next = o.data.first().map_or(0, |n| usize::from(*n));
        match o.kind {
            LOOSE_ROUTE | STRICT_ROUTE => {
                if len < 3 {
                    return wrong(1);
                }
                if next < 4 {
                    return wrong(2);
                }
                if routed {
                    return wrong(0);
                }
                if program && (next != 4 || len < 7 || (len - 3) % 4 != 0) {
                    return wrong(1);
                }
                routed = true;
            }
            RECORD_ROUTE => {
                if seen[usize::from(o.kind)] {
                    return wrong(0);
                }
                if len < 3 {
                    return wrong(1);
                }
                if next < 4 || (next <= len && next + 3 > len) {
                    return wrong(2);
                }
            }
            TIMESTAMP => {
                if seen[usize::from(o.kind)] {
                    return wrong(0);
                }
                if len < 4 {
                    return wrong(1);
                }
                if next < 5 {
                    return wrong(2);
                }
                let flags = o.data[1];
                let kind = flags & 15;
                if next <= len {
                    let room = if matches!(kind, WITH_ADDRESSES | NAMED) { 7 } else { 3 };
                    if next + room > len {
                        return wrong(2);
                    }
                    if !matches!(kind, TIMES | WITH_ADDRESSES | NAMED) && !raw {
                        return wrong(3);
                    }
                } else if kind != NAMED && flags >> 4 == 15 {
                    return wrong(3);
                }
            }
            ROUTER_ALERT if len < 4 => return wrong(1),
            ROUTER_ALERT => {}
            _ if !raw => return wrong(0),
            _ => {}
        }
        seen[usize::from(o.kind)] = true;
    }
    Ok(routed)
}

/// Writes what a host records into options that were checked, and counts where there is no room (on the wire, not by the
/// sender itself). True when something changed.
pub fn record(b: &mut [u8], here: &Here<'_>, passing: bool) -> bool {
    let found: Vec<(u8, usize, usize)> = options(b)
        .map_while(Result::ok)
        .filter(|o| matches!(o.kind, RECORD_ROUTE | TIMESTAMP) && o.data.len() >= 2)
        .map(|o| (o.kind, o.at, o.data.len() + 2))
        .collect();
    let mut changed = false;
    for (kind, at, len) in found {
        let o = &mut b[at..at + len];
        let next = usize::from(o[2]);
        let room = room_for(o);
        if next > len {
            if kind == TIMESTAMP && passing && o[3] & 15 != NAMED && o[3] >> 4 < 15 {
                o[3] += 0x10;
                changed = true;
            }
            continue;
        }
        if next == 0 || next + room > len + 1 {
            continue;
        }
        let place = next - 1;
        match (kind, o[3] & 15) {
            (RECORD_ROUTE, _) => o[place..place + 4].copy_from_slice(&here.addr.octets()),
            (_, TIMES) => o[place..place + 4].copy_from_slice(&here.time.to_be_bytes()),
            (_, WITH_ADDRESSES) => {
                o[place..place + 4].copy_from_slice(&here.addr.octets());
                o[place + 4..place + 8].copy_from_slice(&here.time.to_be_bytes());
            }
            (_, NAMED) if address(o, place).is_some_and(here.mine) => {
                o[place + 4..place + 8].copy_from_slice(&here.time.to_be_bytes());
            }
            _ => continue,
        }
        o[2] += room as u8;
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ME: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn here() -> Here<'static> {
        Here { addr: ME, time: 0x0102_0304, mine: &|a| a == ME }
    }

    fn program(b: &[u8]) -> Options {
        Options::of_program(b, true).unwrap()
    }

    #[test]
    fn a_route_is_recorded_until_there_is_no_room() {
        let o = program(&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut b = o.fill(Ipv4Addr::LOCALHOST, &here());
        assert_eq!(b, [7, 11, 8, 10, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert!(record(&mut b, &here(), true));
        assert_eq!(b, [7, 11, 12, 10, 0, 0, 1, 10, 0, 0, 1, 0]);
        assert!(!record(&mut b, &here(), true));
    }

    #[test]
    fn times_overflow_until_the_count_does() {
        let o = program(&[68, 8, 5, 0, 0, 0, 0, 0]);
        let mut b = o.fill(Ipv4Addr::LOCALHOST, &here());
        assert_eq!(b, [68, 8, 9, 0, 1, 2, 3, 4]);
        for n in 1..=15u8 {
            assert!(record(&mut b, &here(), true));
            assert_eq!(b[3], n << 4);
        }
        assert!(!record(&mut b, &here(), true));
        assert_eq!(check(&b, Origin::Wire), Err(Refusal::Wrong(3)));
    }

    #[test]
    fn only_named_hosts_write_their_time() {
        let named = [68, 20, 5, 3, 10, 0, 0, 1, 0, 0, 0, 0, 10, 0, 0, 2, 0, 0, 0, 0];
        let mut b = program(&named).fill(Ipv4Addr::LOCALHOST, &here());
        assert_eq!(b[2], 13);
        assert_eq!(b[8..12], [1, 2, 3, 4]);
        assert!(!record(&mut b, &here(), true));
    }

    #[test]
    fn a_source_route_leads_to_its_first_host_and_ends_at_the_destination() {
        let o = program(&[131, 11, 4, 10, 0, 0, 7, 10, 0, 0, 8]);
        assert_eq!(o.first_hop(), Some(Ipv4Addr::new(10, 0, 0, 7)));
        let b = o.fill(Ipv4Addr::new(10, 0, 0, 9), &here());
        assert_eq!(b, [131, 11, 4, 10, 0, 0, 8, 10, 0, 0, 9, 0]);
        assert_eq!(check(&b, Origin::Wire), Ok(true));
        let refused = Options::of_program(&[131, 7, 4, 10, 0, 0, 7], false);
        assert_eq!(refused, Err(Refusal::Privilege));
    }

    #[test]
    fn the_place_of_what_is_wrong_is_told() {
        for (b, at) in [
            (&[1u8, 1, 7, 9, 4, 0][..], 2),
            (&[7, 3, 2, 1], 2),
            (&[1, 7, 6, 4, 0, 0, 0, 0], 3),
            (&[7, 3, 4, 7, 3, 4, 0, 0], 3),
            (&[148, 3, 0, 0], 1),
        ] {
            assert_eq!(check(b, Origin::Wire), Err(Refusal::Wrong(at)), "{b:?}");
        }
    }

    #[test]
    fn an_answer_goes_on_with_the_records() {
        let b = [148, 4, 0, 0, 68, 8, 5, 0, 0, 0, 0, 0, 7, 7, 4, 0, 0, 0, 0, 1];
        let e = Options::echo(&b).unwrap();
        assert_eq!(e.bytes(), [7, 7, 4, 0, 0, 0, 0, 68, 8, 5, 0, 0, 0, 0, 0, 0]);
        // Three bytes are left, an address has four.
        assert_eq!(Options::echo(&[7, 10, 8, 1, 2, 3, 4, 0, 0, 0, 0, 0]), None);
        assert_eq!(Options::echo(&[]), Some(Options::default()));
    }

    proptest! {
        /// Whatever bytes arrive: nothing panics, records stay within their option, and what was checked once stays well-formed.
        #[test]
        fn any_bytes_are_survived(mut b in proptest::collection::vec(any::<u8>(), 0..44), first in 0usize..6) {
            if let Some(k) = b.first_mut() {
                *k = [RECORD_ROUTE, TIMESTAMP, LOOSE_ROUTE, ROUTER_ALERT, 1, *k][first];
            }
            let before = b.clone();
            let checked = check(&b, Origin::Wire);
            if let Err(Refusal::Wrong(at)) = checked {
                prop_assert!(at < b.len());
            }
            record(&mut b, &here(), true);
            prop_assert_eq!(b.len(), before.len());
            let _ = Options::echo(&b);
            for raw in [false, true] {
                if let Ok(o) = Options::of_program(&before, raw) {
                    prop_assert!(o.len() % 4 == 0 && o.len() <= OPTIONS_MAX);
                    let filled = o.fill(ME, &here());
                    prop_assert_eq!(filled.len(), o.len());
                    prop_assert_eq!(Options::of_program(o.bytes(), raw), Ok(o));
                }
            }
        }
    }
}
