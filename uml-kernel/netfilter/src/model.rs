//! The ruleset as programs make and see it (nft(8)): tables, chains, rules, sets and named objects.
//!
//! A [`Ruleset`] is an immutable snapshot that packets are judged by; a transaction changes a copy, whose parts it
//! shares until they differ, and puts that in its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_net::hook::FrameHook;

use crate::expr::{Expr, Operation};
use crate::set::Set;

/// Families (NFPROTO_*).
pub mod family {
    pub const UNSPEC: u8 = 0;
    pub const INET: u8 = 1;
    pub const IPV4: u8 = 2;
    pub const ARP: u8 = 3;
    pub const NETDEV: u8 = 5;
    pub const BRIDGE: u8 = 7;
    pub const IPV6: u8 = 10;

    /// Families whose rules see frames, of whatever protocol.
    pub fn of_frames(f: u8) -> bool {
        matches!(f, ARP | NETDEV | BRIDGE)
    }
}

/// Longest name of a table, chain, set or object (NFT_NAME_MAXLEN with its terminator).
pub const NAME_MAX: usize = 255;
/// Longest user data.
pub const USERDATA_MAX: usize = 256;
/// Most rules of a namespace, elements of a set, and tables, chains and sets: what keeps a program from filling memory.
pub const RULES_MAX: usize = 65_536;
pub const ELEMENTS_MAX: usize = 1 << 18;
pub const OBJECTS_MAX: usize = 16_384;

/// Packets and bytes.
#[derive(Default, Debug)]
pub struct Counter {
    pub packets: AtomicU64,
    pub bytes: AtomicU64,
}

impl Counter {
    /// A counter that goes on from there.
    pub fn new(packets: u64, bytes: u64) -> Counter {
        Counter { packets: packets.into(), bytes: bytes.into() }
    }

    /// One more packet.
    pub fn count(&self, bytes: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Packets and bytes so far.
    pub fn get(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Packets and bytes so far, which are forgotten.
    pub fn reset(&self) -> (u64, u64) {
        (self.packets.swap(0, Ordering::Relaxed), self.bytes.swap(0, Ordering::Relaxed))
    }
}

/// All there is in a namespace.
#[derive(Clone, Default)]
pub struct Ruleset {
    pub tables: Vec<Arc<Table>>,
}

impl Ruleset {
    /// The table of this name.
    pub fn table(&self, family: u8, name: &str) -> Option<&Arc<Table>> {
        self.tables.iter().find(|t| t.family == family && &*t.name == name)
    }

    /// The table, for changes.
    pub fn table_mut(&mut self, family: u8, name: &str) -> Option<&mut Table> {
        let t = self.tables.iter_mut().find(|t| t.family == family && &*t.name == name)?;
        Some(Arc::make_mut(t))
    }

    /// Number of rules.
    pub fn rules(&self) -> usize {
        self.tables.iter().flat_map(|t| &t.chains).map(|c| c.rules.len()).sum()
    }
}

/// A table.
#[derive(Clone)]
pub struct Table {
    pub family: u8,
    pub name: Arc<str>,
    pub handle: u64,
    pub flags: u32,
    pub userdata: Option<Vec<u8>>,
    /// The port that alone may change it; 0 is everybody.
    pub owner: u32,
    /// The last handle given in it. Shared by all versions, so that a transaction that fails uses them up.
    pub handles: Arc<AtomicU64>,
    pub chains: Vec<Arc<Chain>>,
    pub sets: Vec<Arc<Set>>,
    pub objects: Vec<Arc<Object>>,
}

impl Table {
    /// Without effect on packets (NFT_TABLE_F_DORMANT).
    pub const DORMANT: u32 = 1;
    /// Changed by its maker only, and gone with it (NFT_TABLE_F_OWNER).
    pub const OWNER: u32 = 2;

    /// The next handle.
    pub fn next_handle(&self) -> u64 {
        self.handles.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The chain of this name.
    pub fn chain(&self, name: &str) -> Option<&Arc<Chain>> {
        self.chains.iter().find(|c| &*c.name == name)
    }

    /// The chain, for changes.
    pub fn chain_mut(&mut self, id: u64) -> Option<&mut Chain> {
        let c = self.chains.iter_mut().find(|c| c.id == id)?;
        Some(Arc::make_mut(c))
    }

    /// The set of this name.
    pub fn set(&self, name: &str) -> Option<&Arc<Set>> {
        self.sets.iter().find(|s| &*s.name == name)
    }

    /// The set, for changes.
    pub fn set_mut(&mut self, id: u64) -> Option<&mut Set> {
        let s = self.sets.iter_mut().find(|s| s.id == id)?;
        Some(Arc::make_mut(s))
    }

    /// How often rules and set elements jump to the chain.
    pub fn jumps_to(&self, id: u64) -> usize {
        let rules = self.chains.iter().flat_map(|c| &c.rules).flat_map(|r| &r.exprs);
        let by_rules = rules.filter(|e| e.jumps_to() == Some(id)).count();
        by_rules + self.sets.iter().map(|s| s.jumps_to(id)).sum::<usize>()
    }

    /// How many expressions use the set.
    pub fn uses_of_set(&self, id: u64) -> usize {
        let rules = self.chains.iter().flat_map(|c| &c.rules).flat_map(|r| &r.exprs);
        rules.filter(|e| e.set() == Some(id)).count()
    }

    /// How many expressions and elements use the object.
    pub fn uses_of_object(&self, id: u64) -> usize {
        let rules = self.chains.iter().flat_map(|c| &c.rules).flat_map(|r| &r.exprs);
        rules.filter(|e| e.object() == Some(id)).count()
            + self.sets.iter().map(|s| s.uses_of_object(id)).sum::<usize>()
    }
}

/// What a base chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    /// Packets sent here are routed again when what routes them changed.
    Route,
    Nat,
}

impl ChainKind {
    /// By its name.
    pub fn named(name: &str) -> Option<ChainKind> {
        Some(match name {
            "filter" => ChainKind::Filter,
            "route" => ChainKind::Route,
            "nat" => ChainKind::Nat,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            ChainKind::Filter => "filter",
            ChainKind::Route => "route",
            ChainKind::Nat => "nat",
        }
    }
}

/// Where a base chain hangs.
#[derive(Clone)]
pub struct Base {
    pub kind: ChainKind,
    pub hook: u32,
    pub priority: i32,
    /// What happens to packets that no rule decides about.
    pub accept: bool,
    pub counter: Option<Arc<Counter>>,
    /// The interfaces, by name, that a chain of netdev is for, and whether it was made with a list of them.
    pub devices: Vec<Arc<str>>,
    pub list: bool,
}

impl Base {
    /// Where frames come to it, in a table of frames.
    pub fn place(&self, family: u8) -> Option<FrameHook> {
        let all: &[FrameHook] = match family {
            family::ARP => &[FrameHook::ArpInput, FrameHook::ArpOutput],
            family::NETDEV => &[FrameHook::Ingress, FrameHook::Egress],
            family::BRIDGE => &[
                FrameHook::BridgePrerouting,
                FrameHook::BridgeInput,
                FrameHook::BridgeForward,
                FrameHook::BridgeOutput,
                FrameHook::BridgePostrouting,
            ],
            _ => &[],
        };
        all.get(self.hook as usize).copied()
    }
}

/// A chain.
#[derive(Clone)]
pub struct Chain {
    pub id: u64,
    pub name: Arc<str>,
    pub handle: u64,
    pub base: Option<Base>,
    /// NFT_CHAIN_*.
    pub flags: u32,
    pub userdata: Option<Vec<u8>>,
    pub rules: Vec<Arc<Rule>>,
}

impl Chain {
    /// Belongs to the rule that jumps to it (NFT_CHAIN_BINDING).
    pub const BINDING: u32 = 4;
}

/// A rule.
pub struct Rule {
    pub handle: u64,
    pub exprs: Vec<Expr>,
    pub userdata: Option<Vec<u8>>,
    /// Protocol and flags that extensions of iptables check.
    pub compat: Option<(u32, u32)>,
}

/// A named object that rules refer to.
#[derive(Clone)]
pub struct Object {
    pub id: u64,
    pub name: Arc<str>,
    pub handle: u64,
    /// NFT_OBJECT_*.
    pub kind: u32,
    pub state: Arc<dyn Operation>,
    pub userdata: Option<Vec<u8>>,
}

/// A number for a chain, set or object that no other ever has.
pub fn fresh_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
