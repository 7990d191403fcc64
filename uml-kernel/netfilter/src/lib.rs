//! Packet filtering, connection tracking and NAT, as `nft` and `iptables-nft` ask for them through netlink.
//!
//! A [`Netfilter`] belongs to one network namespace. Messages go in and answers come out ([`Netfilter::request`]); packets
//! come by at the hooks of the stack ([`uml_net::hook`]). [`model`] is the ruleset, [`expr`] what rules are made of, [`machine`]
//! judges by them ([`guard`] is what rules ask first), [`transaction`] changes them, [`dump`] shows them, [`conntrack`] knows connections.
//!
//! Neighbours: `uml-net` below, whose packets are judged; `uml-inet` above, which makes a netlink protocol of this. Sockets
//! and tasks do not belong here.
//!
//! Lock order: `changing` is held while a transaction is made; everything else is a leaf. Packets take the present ruleset and hold no
//! lock while they are judged.
#![forbid(unsafe_code)]

pub mod attr;
pub mod conntrack;
mod ctnetlink;
mod dump;
pub mod expr;
pub mod guard;
#[cfg(test)]
mod guard_tests;
mod log;
pub mod machine;
pub mod message;
pub mod model;
pub mod set;
#[cfg(test)]
mod tests;
mod transaction;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_base::{Mutex, Rank, RwLock};
use uml_net::hook::{Filter, FrameHook, Hook, Verdict};
use uml_net::interface::Interface;
use uml_net::packet::Packet;
use uml_net::stack::{Cx, Stack};

use conntrack::Conntrack;
use machine::Compiled;
use model::Ruleset;

/// The ruleset in force.
struct Present {
    rules: Arc<Ruleset>,
    compiled: Arc<Compiled>,
    /// Changes with every transaction.
    generation: u32,
    /// Who made the last one: process and name.
    by: (u32, String),
}

/// Filtering of a namespace.
pub struct Netfilter {
    present: RwLock<Present>,
    changing: Mutex<()>,
    tables_made: AtomicU64,
    pub conntrack: Arc<Conntrack>,
}

impl Netfilter {
    /// Without any rules.
    pub fn new() -> Arc<Netfilter> {
        let present = Present {
            rules: Arc::default(),
            compiled: Arc::default(),
            generation: 1,
            by: (0, String::new()),
        };
        Arc::new(Netfilter {
            present: RwLock::new(Rank::LEAF, present),
            changing: Mutex::new(Rank::DEVICE, ()),
            tables_made: AtomicU64::new(0),
            conntrack: Conntrack::new(),
        })
    }

    /// The ruleset.
    pub fn rules(&self) -> Arc<Ruleset> {
        self.present.read().rules.clone()
    }

    /// The number of the ruleset's version.
    pub fn generation(&self) -> u32 {
        self.present.read().generation
    }

    /// Puts a ruleset in force.
    fn commit(self: &Arc<Self>, stack: &Stack, rules: Ruleset, by: (u32, String)) -> u32 {
        let compiled = Arc::new(Compiled::new(&rules));
        let mask = compiled.hooks();
        let generation = {
            let mut p = self.present.write();
            p.rules = Arc::new(rules);
            p.compiled = compiled;
            p.generation = p.generation.wrapping_add(1).max(1);
            p.by = by;
            p.generation
        };
        stack.hooks.install(self.clone(), mask);
        generation
    }

    fn next_table(&self) -> u64 {
        self.tables_made.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Filter for Netfilter {
    fn judge(
        &self,
        cx: &mut Cx,
        hook: Hook,
        p: &mut Packet,
        input: Option<&Arc<Interface>>,
        output: Option<&Arc<Interface>>,
    ) -> Verdict {
        let rules = self.present.read().compiled.clone();
        machine::judge(self, &rules, cx, hook, p, input, output)
    }

    fn judge_frame(
        &self,
        cx: &mut Cx,
        place: FrameHook,
        p: &mut Packet,
        input: Option<&Arc<Interface>>,
        output: Option<&Arc<Interface>>,
    ) -> Verdict {
        let rules = self.present.read().compiled.clone();
        machine::judge_frame(self, &rules, cx, place, p, input, output)
    }

    fn wants_whole(&self) -> bool {
        self.present.read().compiled.tracks
    }

    fn original_destination(
        &self,
        stack: &Stack,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Option<SocketAddr> {
        let t = conntrack::Tuple {
            src: local.ip(),
            dst: remote.ip(),
            proto: uml_net::wire::proto::TCP,
            sport: local.port(),
            dport: remote.port(),
            icmp: (0, 0),
        };
        let (c, _) = self.conntrack.find(&t, stack.now())?;
        Some(SocketAddr::new(c.original.dst, c.original.dport))
    }

    fn address_gone(&self, stack: &Stack, iface: u32) {
        self.conntrack.forget_masquerade(stack.now(), iface);
    }
}
