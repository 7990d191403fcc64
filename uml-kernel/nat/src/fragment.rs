//! Putting fragments of the guest together (RFC 791, RFC 8200 4.5, RFC 5722).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use uml_net::Time;
use uml_net::packet::{Data, Packet};

use crate::limits;

/// Source, destination, identification and protocol of a packet.
type Key = (IpAddr, IpAddr, u32, u8);

struct Partial {
    pieces: BTreeMap<usize, Data>,
    total: Option<usize>,
    have: usize,
    expires: Time,
}

/// Packets that are not whole. What is too old goes when something new comes: no timer runs for it.
#[derive(Default)]
pub(crate) struct Reassembly {
    table: HashMap<Key, Partial>,
    bytes: usize,
}

impl Reassembly {
    /// Adds a piece that begins with its payload; the whole payload once nothing is missing.
    pub fn add(
        &mut self,
        key: Key,
        offset: usize,
        more: bool,
        mut p: Packet,
        now: Time,
    ) -> Option<Packet> {
        let data = p.take_payload(0);
        let end = offset + data.len();
        if data.is_empty() || end > 65_535 || (more && data.len() % 8 != 0) {
            return None;
        }
        if offset == 0 && !more {
            return Some(Packet::new(data));
        }
        self.make_room(data.len(), now);
        let p = self.table.entry(key).or_insert_with(|| Partial {
            pieces: BTreeMap::new(),
            total: None,
            have: 0,
            expires: now + limits::REASSEMBLY,
        });
        let overlap =
            p.pieces.range(..end).next_back().is_some_and(|(at, d)| at + d.len() > offset);
        let beyond = p.total.is_some_and(|n| end > n || (!more && end != n))
            || (!more && p.pieces.last_key_value().is_some_and(|(at, d)| at + d.len() > end));
        if overlap || beyond {
            // An attack or a mess: all of it goes.
            self.bytes -= p.have;
            self.table.remove(&key);
            return None;
        }
        if !more {
            p.total = Some(end);
        }
        p.have += data.len();
        self.bytes += data.len();
        p.pieces.insert(offset, data);
        if p.total != Some(p.have) {
            return None;
        }
        let p = self.table.remove(&key)?;
        self.bytes -= p.have;
        let mut all = Data::new();
        for d in p.pieces.into_values() {
            all.append(d);
        }
        Some(Packet::new(all))
    }

    fn make_room(&mut self, len: usize, now: Time) {
        let full = |t: &Reassembly| {
            t.table.len() >= limits::PARTIALS || t.bytes + len > limits::PARTIAL_BYTES
        };
        if !full(self) {
            return;
        }
        let mut freed = 0;
        self.table.retain(|_, p| {
            let keep = p.expires > now;
            freed += if keep { 0 } else { p.have };
            keep
        });
        self.bytes -= freed;
        while full(self) {
            let Some(k) = self.table.iter().min_by_key(|(_, p)| p.expires).map(|(k, _)| *k) else {
                return;
            };
            if let Some(p) = self.table.remove(&k) {
                self.bytes -= p.have;
            }
        }
    }
}
