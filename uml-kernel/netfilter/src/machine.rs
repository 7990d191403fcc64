//! Judging a packet: registers, the compiled ruleset, and the walk through chains.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use uml_net::Time;
use uml_net::hook::{FrameHook, Hook, Verdict};
use uml_net::interface::Interface;
use uml_net::packet::Packet;
use uml_net::stack::Cx;
use uml_net::wire::ethernet::ethertype;
use uml_net::wire::{ipv4, ipv6, proto};

use crate::Netfilter;
use crate::conntrack::Conntrack;
use crate::expr::{Operation, REGISTERS, Reg, Step};
use crate::guard::{Guards, Loaded};
use crate::model::{Base, Chain, ChainKind, Ruleset, Table, family};
use crate::set::Set;

/// How deep jumps go (NFT_JUMP_STACK_SIZE).
pub const DEPTH_MAX: usize = 16;

/// Numbers hash to themselves.
#[derive(Default)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, b: &[u8]) {
        for b in b {
            self.0 = self.0.rotate_left(8) ^ u64::from(*b);
        }
    }

    fn write_u64(&mut self, n: u64) {
        // The table uses the top bits too.
        self.0 = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type ById<T> = HashMap<u64, T, BuildHasherDefault<Identity>>;

/// What happens at a hook, in order of priority.
enum Stage {
    /// Connections are looked up.
    Track,
    Chain(Arc<Chain>),
    /// Addresses are translated; the chains decide about new connections.
    Translate(Vec<Arc<Chain>>),
    /// New connections are entered.
    Confirm,
}

/// A ruleset made ready for packets.
#[derive(Default)]
pub struct Compiled {
    /// By family (IPv4, IPv6) and hook.
    stages: [[Vec<Stage>; Hook::COUNT]; 2],
    /// Chains of frames by place, and the family of each.
    frames: [Vec<(u8, Arc<Chain>)>; FrameHook::COUNT],
    chains: ById<Arc<Chain>>,
    /// What the rules of each chain ask first.
    guards: ById<Guards>,
    sets: ById<Arc<Set>>,
    objects: ById<Arc<dyn Operation>>,
    /// Connections are tracked.
    pub tracks: bool,
}

impl Compiled {
    /// Makes a ruleset ready.
    pub fn new(rules: &Ruleset) -> Compiled {
        let mut c = Compiled::default();
        let live: Vec<&Arc<Table>> =
            rules.tables.iter().filter(|t| t.flags & Table::DORMANT == 0).collect();
        let (mut tracks, mut nat) = ([false; 2], [false; 2]);
        for t in &rules.tables {
            let frames = family::of_frames(t.family);
            let both = |f: &mut [bool; 2]| {
                f[0] |= t.family != family::IPV6;
                f[1] |= t.family != family::IPV4;
            };
            for s in &t.sets {
                c.sets.insert(s.id, s.clone());
            }
            for o in &t.objects {
                c.objects.insert(o.id, o.state.clone());
            }
            for chain in &t.chains {
                c.chains.insert(chain.id, chain.clone());
                if frames {
                    continue;
                }
                c.guards.insert(chain.id, Guards::new(chain));
                if chain.rules.iter().any(|r| r.exprs.iter().any(|e| e.tracks())) {
                    both(&mut tracks);
                }
                if chain.base.as_ref().is_some_and(|b| b.kind == ChainKind::Nat) {
                    both(&mut tracks);
                    both(&mut nat);
                }
            }
        }
        c.tracks = tracks[0] || tracks[1];
        for place in FrameHook::ALL {
            let mut list: Vec<(i32, (u8, Arc<Chain>))> = Vec::new();
            for t in live.iter().filter(|t| family::of_frames(t.family)) {
                for chain in &t.chains {
                    if let Some(b) = &chain.base
                        && b.place(t.family) == Some(place)
                    {
                        list.push((b.priority, (t.family, chain.clone())));
                    }
                }
            }
            list.sort_by_key(|l| l.0);
            c.frames[place as usize] = list.into_iter().map(|l| l.1).collect();
        }
        for (f, fam) in [family::IPV4, family::IPV6].into_iter().enumerate() {
            for hook in Hook::ALL {
                let mut list: Vec<(i64, Stage)> = Vec::new();
                let mut nats: Vec<(i32, Arc<Chain>)> = Vec::new();
                for t in live.iter().filter(|t| t.family == fam || t.family == family::INET) {
                    for chain in &t.chains {
                        match &chain.base {
                            Some(b) if b.hook != hook as u32 => {}
                            Some(b) if b.kind == ChainKind::Nat => {
                                nats.push((b.priority, chain.clone()));
                            }
                            Some(b) => list.push((b.priority.into(), Stage::Chain(chain.clone()))),
                            None => {}
                        }
                    }
                }
                let early = matches!(hook, Hook::Prerouting | Hook::Output);
                if tracks[f] {
                    match hook {
                        Hook::Prerouting | Hook::Output => list.push((-200, Stage::Track)),
                        Hook::Input | Hook::Postrouting => list.push((i64::MAX, Stage::Confirm)),
                        Hook::Forward => {}
                    }
                }
                if nat[f] && hook != Hook::Forward {
                    nats.sort_by_key(|n| n.0);
                    let chains = nats.into_iter().map(|n| n.1).collect();
                    list.push((if early { -100 } else { 100 }, Stage::Translate(chains)));
                }
                list.sort_by_key(|s| s.0);
                c.stages[f][hook as usize] = list.into_iter().map(|s| s.1).collect();
            }
        }
        c
    }

    /// The same, every rule of which is evaluated.
    #[cfg(test)]
    pub fn without_guards(mut self) -> Compiled {
        self.guards.clear();
        self
    }

    /// Bit n for a hook n where anything happens, and those of places.
    pub fn hooks(&self) -> u32 {
        let hooks = Hook::ALL
            .into_iter()
            .filter(|h| self.stages.iter().any(|f| !f[*h as usize].is_empty()))
            .fold(0, |m, h| m | 1 << h as u8);
        let places = FrameHook::ALL.into_iter().filter(|p| !self.frames[*p as usize].is_empty());
        places.fold(hooks, |m, p| m | p.bit())
    }
}

/// What is known of a packet's headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parsed {
    /// It is of IP; frames may be of something else.
    pub ip: bool,
    pub v6: bool,
    /// Protocol after extension headers.
    pub proto: u8,
    /// Where its header begins, from the network header.
    pub transport: usize,
    /// A piece other than the first: there is no transport header.
    pub piece: bool,
    /// A piece, first or not.
    pub fragment: bool,
}

impl Parsed {
    /// Looks at the headers, which become contiguous as far as they are there.
    pub fn of(p: &mut Packet) -> Option<Parsed> {
        let found = Parsed::headers(p)?;
        // Only headers are moved: data stays where receivers join it.
        if !found.piece {
            let len = if found.proto == proto::TCP { 20 } else { 8 };
            p.pull(p.net_len().min(found.transport + len));
        }
        Some(found)
    }

    /// The same of a frame, which may not be of IP.
    pub fn of_frame(p: &mut Packet) -> Parsed {
        match p.kind {
            ethertype::IPV4 | ethertype::IPV6 => Parsed::of(p).unwrap_or_default(),
            _ => Parsed::default(),
        }
    }

    fn headers(p: &mut Packet) -> Option<Parsed> {
        p.pull(p.net_len().min(ipv4::HEADER));
        match p.net().first()? >> 4 {
            4 => {
                p.pull(p.net_len().min(usize::from(p.net()[0] & 15) * 4));
                let b = p.net();
                let h = ipv4::Ipv4::parse_quoted(b).ok()?;
                Some(Parsed {
                    ip: true,
                    v6: false,
                    proto: h.proto,
                    transport: h.header_len,
                    piece: h.frag_off != 0,
                    fragment: h.is_fragment(),
                })
            }
            6 => {
                p.pull(p.net_len().min(ipv6::HEADER));
                if matches!(
                    p.net().get(6),
                    Some(&proto::HOPOPT | &proto::ROUTING | &proto::FRAGMENT | &proto::DSTOPTS)
                ) {
                    p.pull(p.net_len().min(256));
                }
                let b = p.net();
                let h = ipv6::Ipv6::parse_quoted(b).ok()?;
                let c = ipv6::chain(b, h.next).ok()?;
                let at = ipv6::HEADER + c.len;
                if c.proto != proto::FRAGMENT {
                    return Some(Parsed {
                        ip: true,
                        v6: true,
                        proto: c.proto,
                        transport: at,
                        ..Parsed::default()
                    });
                }
                let f = ipv6::Fragment::parse(b.get(at..)?).ok()?;
                Some(Parsed {
                    ip: true,
                    v6: true,
                    proto: f.next,
                    transport: at + ipv6::Fragment::LEN,
                    piece: f.offset != 0,
                    fragment: true,
                })
            }
            _ => None,
        }
    }
}

/// A packet being judged.
pub struct Machine<'a> {
    pub cx: &'a mut Cx,
    pub p: &'a mut Packet,
    pub nf: &'a Netfilter,
    rules: &'a Compiled,
    pub hook: Hook,
    pub iif: Option<&'a Arc<Interface>>,
    pub oif: Option<&'a Arc<Interface>>,
    pub parsed: Parsed,
    /// Of a frame the family of the table, and where it is.
    pub frame: Option<(u8, FrameHook)>,
    registers: [u8; REGISTERS],
}

impl<'a> Machine<'a> {
    /// The bytes of a register.
    pub fn load(&self, r: Reg, len: usize) -> &[u8] {
        let end = (r.0 + len).min(REGISTERS);
        &self.registers[r.0.min(end)..end]
    }

    /// Fills a register; the rest of the last word becomes zero.
    pub fn store(&mut self, r: Reg, v: &[u8]) {
        let end = (r.0 + v.len()).min(REGISTERS);
        let n = end.saturating_sub(r.0);
        self.registers[r.0..end].copy_from_slice(&v[..n]);
        let whole = end.next_multiple_of(4).min(REGISTERS);
        self.registers[end..whole].fill(0);
    }

    /// Fills a register with bytes from the network header on, without those that were not pulled; false when they are
    /// not there.
    pub fn store_net(&mut self, r: Reg, at: usize, len: usize) -> bool {
        let end = (r.0 + len).min(REGISTERS);
        let Some(b) = self.p.net().get(at..at + (end - r.0)) else { return false };
        self.registers[r.0..end].copy_from_slice(b);
        let whole = end.next_multiple_of(4).min(REGISTERS);
        self.registers[end..whole].fill(0);
        true
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        self.cx.now
    }

    /// Connections of the namespace.
    pub fn conntrack(&self) -> &'a Conntrack {
        &self.nf.conntrack
    }

    /// NFPROTO_* of the packet.
    pub fn family(&self) -> u8 {
        if let Some((f, _)) = self.frame {
            return f;
        }
        if self.parsed.v6 { family::IPV6 } else { family::IPV4 }
    }

    /// Bytes of the packet as they are counted: from the network header on, but for frames that have got their link header.
    pub fn counted(&self) -> usize {
        match self.frame {
            Some((_, place)) if place.with_link() => self.p.len(),
            _ => self.p.net_len(),
        }
    }

    /// What the headers are, after they were changed: none where they make no sense any more.
    pub fn parse_again(&mut self) {
        match self.frame {
            None => {
                if let Some(h) = Parsed::of(self.p) {
                    self.parsed = h;
                }
            }
            Some(_) => self.parsed = Parsed::of_frame(self.p),
        }
    }

    /// The set with this number.
    pub fn set(&self, id: u64) -> Option<&'a Arc<Set>> {
        self.rules.sets.get(&id)
    }

    /// The state of the object with this number.
    pub fn object(&self, id: u64) -> Option<&'a Arc<dyn Operation>> {
        self.rules.objects.get(&id)
    }

    /// Walks through a base chain and what it jumps to.
    fn chain(&mut self, base: &'a Arc<Chain>) -> Step {
        let mut stack: [Option<(&'a Chain, usize)>; DEPTH_MAX] = [None; DEPTH_MAX];
        let (mut depth, mut chain, mut at) = (0, &**base, 0);
        let rules = self.rules;
        let mut guards = rules.guards.get(&chain.id);
        let mut loaded = Loaded::default();
        loop {
            if let Some(g) = guards {
                at = g.next(at, self, &mut loaded);
                // The rule may change the packet.
                loaded.forget();
            }
            let step = match chain.rules.get(at) {
                Some(rule) => {
                    let mut step = Step::Next;
                    for e in &rule.exprs {
                        step = e.eval(self);
                        if step != Step::Next {
                            break;
                        }
                    }
                    step
                }
                None => Step::Return,
            };
            match step {
                Step::Next | Step::Break => at += 1,
                Step::Accept | Step::Drop | Step::Stolen => return step,
                Step::Jump(id) | Step::Goto(id) => {
                    let Some(next) = self.rules.chains.get(&id) else { return Step::Drop };
                    if let Step::Jump(_) = step {
                        if depth == DEPTH_MAX {
                            return Step::Drop;
                        }
                        stack[depth] = Some((chain, at + 1));
                        depth += 1;
                    }
                    (chain, at) = (&**next, 0);
                    guards = rules.guards.get(&chain.id);
                }
                Step::Return => {
                    if depth == 0 {
                        break;
                    }
                    depth -= 1;
                    match stack[depth] {
                        Some(back) => (chain, at) = back,
                        None => break,
                    }
                    guards = rules.guards.get(&chain.id);
                }
            }
        }
        let Some(b) = &base.base else { return Step::Accept };
        if let Some(c) = &b.counter {
            c.count(self.counted());
        }
        if b.accept { Step::Accept } else { Step::Drop }
    }

    /// Asks nat chains about a new connection: the first that decides.
    fn nat_chains(&mut self, chains: &'a [Arc<Chain>]) -> Step {
        for c in chains {
            match self.chain(c) {
                Step::Accept => {}
                other => return other,
            }
            if self.conntrack().translated(self.p, self.hook) {
                return Step::Accept;
            }
        }
        Step::Accept
    }

    fn stage(&mut self, s: &'a Stage) -> Step {
        match s {
            Stage::Chain(c) => self.chain(c),
            Stage::Track => self.conntrack().enter(self.cx, self.p, &self.parsed),
            Stage::Confirm => self.conntrack().confirm(self.cx, self.p),
            Stage::Translate(chains) => {
                let ct = self.conntrack();
                if ct.undecided(self.p, self.hook) {
                    match self.nat_chains(chains) {
                        Step::Accept => {}
                        other => return other,
                    }
                    if !ct.decide_nothing(self.cx, self.p, self.hook) {
                        return Step::Drop;
                    }
                }
                let step = ct.translate(self.p, self.hook, &self.parsed);
                if let Some(again) = Parsed::of(self.p) {
                    self.parsed = again;
                }
                step
            }
        }
    }
}

/// Judges a packet at a hook.
pub fn judge<'a>(
    nf: &'a Netfilter,
    rules: &'a Compiled,
    cx: &'a mut Cx,
    hook: Hook,
    p: &'a mut Packet,
    iif: Option<&'a Arc<Interface>>,
    oif: Option<&'a Arc<Interface>>,
) -> Verdict {
    let Some(parsed) = Parsed::of(p) else { return Verdict::Accept };
    let stages = &rules.stages[usize::from(parsed.v6)][hook as usize];
    if stages.is_empty() {
        return Verdict::Accept;
    }
    let registers = [0; REGISTERS];
    let mut m = Machine { cx, p, nf, rules, hook, iif, oif, parsed, frame: None, registers };
    for s in stages {
        match m.stage(s) {
            Step::Drop => return Verdict::Drop,
            Step::Stolen => return Verdict::Stolen,
            _ => {}
        }
    }
    Verdict::Accept
}

/// Judges a frame at a place.
pub fn judge_frame<'a>(
    nf: &'a Netfilter,
    rules: &'a Compiled,
    cx: &'a mut Cx,
    place: FrameHook,
    p: &'a mut Packet,
    iif: Option<&'a Arc<Interface>>,
    oif: Option<&'a Arc<Interface>>,
) -> Verdict {
    let parsed = Parsed::of_frame(p);
    // Rules of frames ask for no hook of IP.
    let hook = if oif.is_some() { Hook::Output } else { Hook::Prerouting };
    let registers = [0; REGISTERS];
    let frame = None;
    let mut m = Machine { cx, p, nf, rules, hook, iif, oif, parsed, frame, registers };
    let name = iif.or(oif).map(|i| i.name()).unwrap_or_default();
    for (family, chain) in &rules.frames[place as usize] {
        let here = |b: &Base| b.devices.is_empty() || b.devices.iter().any(|d| **d == *name);
        if !chain.base.as_ref().is_some_and(here) {
            continue;
        }
        m.frame = Some((*family, place));
        match m.chain(chain) {
            Step::Drop => return Verdict::Drop,
            Step::Stolen => return Verdict::Stolen,
            _ => {}
        }
    }
    Verdict::Accept
}
