//! The spanning tree protocol (IEEE 802.1D-1998, clause 8) of one bridge, sans I/O: messages, moments and changes of ports go in, messages and
//! states of ports come out. The names are the standard's; where it leaves a choice, Linux' is taken, so that what both tell of
//! themselves is the same.

use std::cmp::Ordering;

use crate::time::{SEC, Time};
use crate::wire::ethernet::Mac;

/// Priority and address of a bridge, as compared and sent.
pub type Id = [u8; 8];

/// Hundredths of a second in nanoseconds: the unit in which programs give times.
pub const TICK: u64 = SEC / 100;
/// Configuration messages of a port are at least this far apart (8.10.2).
const HOLD: u64 = SEC;
/// What a bridge adds to the age of what it passes on.
const AGE_INCREMENT: u64 = SEC / 256;
/// Times in messages are in 256ths of a second.
const WIRE: u64 = SEC / 256;
/// Bytes of a message: of a configuration, and of a notification of a changed topology.
const CONFIG: usize = 35;
const NOTIFICATION: usize = 4;
const KIND_NOTIFICATION: u8 = 0x80;
const TOPOLOGY_CHANGE: u8 = 0x01;
const ACKNOWLEDGED: u8 = 0x80;

/// States of a port (BR_STATE_*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Disabled = 0,
    Listening = 1,
    Learning = 2,
    Forwarding = 3,
    Blocking = 4,
}

impl State {
    /// The state of this number.
    pub fn from_number(n: u32) -> Option<State> {
        use State::*;
        [Disabled, Listening, Learning, Forwarding, Blocking].get(n as usize).copied()
    }
}

/// Times that a bridge wishes or follows, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub max_age: u64,
    pub hello: u64,
    pub forward_delay: u64,
}

impl Default for Times {
    fn default() -> Times {
        Times { max_age: 20 * SEC, hello: 2 * SEC, forward_delay: 15 * SEC }
    }
}

/// What a configuration message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub topology_change: bool,
    pub acknowledged: bool,
    pub root: Id,
    pub cost: u32,
    pub bridge: Id,
    pub port: u16,
    pub message_age: u64,
    pub times: Times,
}

/// A message between bridges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Config(Config),
    /// The topology has changed.
    Notification,
}

impl Message {
    /// The message after the link header; none for another version or kind, and for what is too short.
    pub fn parse(b: &[u8]) -> Option<Message> {
        if b.get(..3)? != [0; 3] {
            return None;
        }
        if *b.get(3)? == KIND_NOTIFICATION {
            return Some(Message::Notification);
        }
        let b = b.get(..CONFIG).filter(|b| b[3] == 0)?;
        let id = |at: usize| -> Id { std::array::from_fn(|i| b[at + i]) };
        let half = |at: usize| u16::from_be_bytes([b[at], b[at + 1]]);
        let time = |at: usize| u64::from(half(at)) * WIRE;
        Some(Message::Config(Config {
            topology_change: b[4] & TOPOLOGY_CHANGE != 0,
            acknowledged: b[4] & ACKNOWLEDGED != 0,
            root: id(5),
            cost: u32::from_be_bytes([b[13], b[14], b[15], b[16]]),
            bridge: id(17),
            port: half(25),
            message_age: time(27),
            times: Times { max_age: time(29), hello: time(31), forward_delay: time(33) },
        }))
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let Message::Config(c) = self else {
            let mut b = vec![0; NOTIFICATION];
            b[3] = KIND_NOTIFICATION;
            return b;
        };
        let on = |bit: u8, yes: bool| if yes { bit } else { 0 };
        let mut b = vec![0; 4];
        b.push(on(TOPOLOGY_CHANGE, c.topology_change) | on(ACKNOWLEDGED, c.acknowledged));
        b.extend_from_slice(&c.root);
        b.extend_from_slice(&c.cost.to_be_bytes());
        b.extend_from_slice(&c.bridge);
        b.extend_from_slice(&c.port.to_be_bytes());
        for t in [c.message_age, c.times.max_age, c.times.hello, c.times.forward_delay] {
            let units = u16::try_from(t / WIRE).unwrap_or(u16::MAX);
            b.extend_from_slice(&units.to_be_bytes());
        }
        b
    }
}

/// A timer: when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer(Time);

impl Default for Timer {
    fn default() -> Timer {
        Timer(Time::NEVER)
    }
}

impl Timer {
    fn start(&mut self, now: Time, after: u64) {
        self.0 = now + after;
    }

    fn stop(&mut self) {
        self.0 = Time::NEVER;
    }

    fn runs(&self) -> bool {
        self.0 != Time::NEVER
    }

    /// Whether it is due, which stops it.
    fn fires(&mut self, now: Time) -> bool {
        let due = self.0 <= now;
        if due {
            self.stop();
        }
        due
    }

    /// Hundredths of a second until it is due; 0 when it does not run.
    pub fn left(&self, now: Time) -> u64 {
        if self.runs() { self.0.since(now) / TICK } else { 0 }
    }
}

/// What the protocol knows of a port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Port {
    pub number: u16,
    /// 0 to 63.
    pub priority: u16,
    pub cost: u32,
    pub state: State,
    pub designated_root: Id,
    pub designated_cost: u32,
    pub designated_bridge: Id,
    pub designated_port: u16,
    pub acknowledge: bool,
    pub config_pending: bool,
    /// When what is known was true.
    since: Time,
    pub message_age: Timer,
    pub forward_delay: Timer,
    pub hold: Timer,
}

impl Port {
    /// A port that is disabled.
    pub fn new(number: u16) -> Port {
        Port { number, priority: 32, cost: 2, ..Port::default() }
    }

    /// Priority and number as compared and sent.
    pub fn id(&self) -> u16 {
        (self.priority & 63) << 10 | (self.number & 0x3ff)
    }
}

/// A bridge: what it is and knows. Its ports are the caller's, who passes them in the order they came.
#[derive(Clone, Debug)]
pub struct Bridge {
    pub id: Id,
    /// The protocol runs here; else ports forward as soon as they can.
    pub on: bool,
    /// The bridge is up.
    pub up: bool,
    /// What it wishes, and what holds: the root's wishes.
    pub own: Times,
    pub times: Times,
    pub root: Id,
    pub root_cost: u32,
    /// 0 for the root.
    pub root_port: u16,
    pub topology_change: bool,
    pub change_detected: bool,
    pub hello: Timer,
    pub notification: Timer,
    pub change: Timer,
}

/// What comes of a step.
#[derive(Default)]
pub struct Out {
    /// Messages by number of the port.
    pub messages: Vec<(u16, Message)>,
    /// Ports whose state changed.
    pub changed: Vec<u16>,
    /// Ports whose stations are to be forgotten.
    pub forget: Vec<u16>,
}

/// A step: the bridge, its ports, the moment, and what comes of it.
pub struct Step<'a, P: AsMut<Port> + AsRef<Port>> {
    pub b: &'a mut Bridge,
    pub ports: &'a mut [P],
    pub now: Time,
    pub out: Out,
}

impl Bridge {
    /// A bridge of this priority without an address.
    pub fn new(priority: u16) -> Bridge {
        let id = Bridge::id_of(priority, Mac::ZERO);
        Bridge {
            id,
            on: false,
            up: false,
            own: Times::default(),
            times: Times::default(),
            root: id,
            root_cost: 0,
            root_port: 0,
            topology_change: false,
            change_detected: false,
            hello: Timer::default(),
            notification: Timer::default(),
            change: Timer::default(),
        }
    }

    /// Priority and address together.
    pub fn id_of(priority: u16, mac: Mac) -> Id {
        let (p, m) = (priority.to_be_bytes(), mac.0);
        [p[0], p[1], m[0], m[1], m[2], m[3], m[4], m[5]]
    }

    /// The priority.
    pub fn priority(&self) -> u16 {
        u16::from_be_bytes([self.id[0], self.id[1]])
    }

    /// It is the root of the tree.
    pub fn is_root(&self) -> bool {
        self.id == self.root
    }

    fn is_designated(&self, p: &Port) -> bool {
        p.designated_bridge == self.id && p.designated_port == p.id()
    }
}

impl<'a, P: AsMut<Port> + AsRef<Port>> Step<'a, P> {
    /// A step at `now`.
    pub fn new(b: &'a mut Bridge, ports: &'a mut [P], now: Time) -> Step<'a, P> {
        Step { b, ports, now, out: Out::default() }
    }

    fn at(&mut self, i: usize) -> &mut Port {
        self.ports[i].as_mut()
    }

    fn get(&self, i: usize) -> &Port {
        self.ports[i].as_ref()
    }

    fn numbered(&self, number: u16) -> Option<usize> {
        (0..self.ports.len()).find(|i| self.get(*i).number == number)
    }

    /// The earliest timer.
    pub fn next(&self) -> Time {
        let of_ports = self.ports.iter().map(|p| {
            let p = p.as_ref();
            p.message_age.0.min(p.forward_delay.0).min(p.hold.0)
        });
        let own = self.b.hello.0.min(self.b.notification.0).min(self.b.change.0);
        of_ports.min().unwrap_or(Time::NEVER).min(own)
    }

    // Procedures (8.6).

    fn set_state(&mut self, i: usize, s: State) {
        let p = self.at(i);
        if p.state != s {
            p.state = s;
            let number = p.number;
            self.out.changed.push(number);
        }
    }

    fn transmit_config(&mut self, i: usize) {
        let now = self.now;
        if self.get(i).hold.runs() {
            self.at(i).config_pending = true;
            return;
        }
        let b = &*self.b;
        let mut message_age = 0;
        if !b.is_root()
            && let Some(r) = self.numbered(b.root_port)
        {
            message_age = now.since(self.get(r).since) + AGE_INCREMENT;
        }
        if message_age >= b.times.max_age {
            return;
        }
        let p = self.get(i);
        let c = Config {
            topology_change: b.topology_change,
            acknowledged: p.acknowledge,
            root: b.root,
            cost: b.root_cost,
            bridge: b.id,
            port: p.id(),
            message_age,
            times: b.times,
        };
        let running = b.on;
        let p = self.at(i);
        (p.acknowledge, p.config_pending) = (false, false);
        if running {
            p.hold.start(now, HOLD);
        }
        let number = p.number;
        self.out.messages.push((number, Message::Config(c)));
    }

    /// Tells every segment that the bridge is designated for.
    fn generate(&mut self) {
        for i in 0..self.ports.len() {
            let p = self.get(i);
            if p.state != State::Disabled && self.b.is_designated(p) {
                self.transmit_config(i);
            }
        }
    }

    fn transmit_notification(&mut self) {
        if self.numbered(self.b.root_port).is_some() {
            self.out.messages.push((self.b.root_port, Message::Notification));
        }
    }

    /// Whether what a message says is better than what is known of the port's segment.
    fn supersedes(&self, i: usize, c: &Config) -> bool {
        let p = self.get(i);
        let known = (p.designated_root, p.designated_cost, p.designated_bridge);
        match (c.root, c.cost, c.bridge).cmp(&known) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => c.bridge != self.b.id || c.port <= p.designated_port,
        }
    }

    fn become_designated(&mut self, i: usize) {
        let (root, cost, id) = (self.b.root, self.b.root_cost, self.b.id);
        let p = self.at(i);
        (p.designated_root, p.designated_cost, p.designated_bridge) = (root, cost, id);
        p.designated_port = p.id();
    }

    /// The port through which the root is nearest.
    fn select_root(&mut self) {
        let key = |p: &Port| {
            let cost = p.designated_cost.saturating_add(p.cost);
            (p.designated_root, cost, p.designated_bridge, p.designated_port, p.id())
        };
        let fits = |p: &&Port| {
            p.state != State::Disabled && !self.b.is_designated(p) && p.designated_root < self.b.id
        };
        let best = self.ports.iter().map(|p| p.as_ref()).filter(fits).min_by_key(|p| key(p));
        (self.b.root, self.b.root_cost, self.b.root_port) = match best {
            Some(p) => (p.designated_root, key(p).1, p.number),
            None => (self.b.id, 0, 0),
        };
    }

    fn select_designated(&mut self) {
        for i in 0..self.ports.len() {
            let (p, b) = (self.get(i), &*self.b);
            let better = || {
                (b.root_cost, b.id, p.id())
                    < (p.designated_cost, p.designated_bridge, p.designated_port)
            };
            let becomes = p.state != State::Disabled
                && (b.is_designated(p) || p.designated_root != b.root || better());
            if becomes {
                self.become_designated(i);
            }
        }
    }

    fn update(&mut self) {
        self.select_root();
        self.select_designated();
    }

    fn select_states(&mut self) {
        for i in 0..self.ports.len() {
            let p = *self.get(i);
            if p.state == State::Disabled {
                continue;
            }
            if p.number == self.b.root_port {
                let p = self.at(i);
                (p.config_pending, p.acknowledge) = (false, false);
                self.make_forwarding(i);
            } else if self.b.is_designated(&p) {
                self.at(i).message_age.stop();
                self.make_forwarding(i);
            } else {
                let p = self.at(i);
                (p.config_pending, p.acknowledge) = (false, false);
                self.make_blocking(i);
            }
        }
    }

    fn make_forwarding(&mut self, i: usize) {
        if self.get(i).state != State::Blocking {
            return;
        }
        let (now, delay) = (self.now, self.b.times.forward_delay);
        if !self.b.on || delay == 0 {
            self.set_state(i, State::Forwarding);
            self.detect_change();
            self.at(i).forward_delay.stop();
        } else {
            self.set_state(i, State::Listening);
        }
        if delay != 0 {
            self.at(i).forward_delay.start(now, delay);
        }
    }

    fn make_blocking(&mut self, i: usize) {
        let state = self.get(i).state;
        if state == State::Blocking {
            return;
        }
        if matches!(state, State::Forwarding | State::Learning) {
            self.detect_change();
        }
        self.set_state(i, State::Blocking);
        self.at(i).forward_delay.stop();
    }

    fn detect_change(&mut self) {
        if !self.b.on {
            return;
        }
        let (now, own) = (self.now, self.b.own);
        if self.b.is_root() {
            self.b.topology_change = true;
            self.b.change.start(now, own.forward_delay + own.max_age);
        } else if !self.b.change_detected {
            self.transmit_notification();
            self.b.notification.start(now, own.hello);
        }
        self.b.change_detected = true;
    }

    fn become_root(&mut self) {
        self.b.times = self.b.own;
        self.detect_change();
        self.b.notification.stop();
        if self.b.up {
            self.generate();
            self.b.hello.start(self.now, self.b.times.hello);
        }
    }

    /// Runs `f`, after which the tree is looked at anew; the bridge may have become its root.
    fn with_update(&mut self, f: impl FnOnce(&mut Self)) {
        let was_root = self.b.is_root();
        f(self);
        self.update();
        self.select_states();
        if self.b.is_root() && !was_root {
            self.become_root();
        }
    }

    // What happens to the bridge.

    /// It goes up, with the ports of these places ready.
    pub fn enable(&mut self, ready: &[usize]) {
        self.b.up = true;
        if self.b.on {
            self.b.hello.start(self.now, self.b.times.hello);
        }
        self.generate();
        for i in ready {
            self.enable_port(*i);
        }
    }

    /// It goes down.
    pub fn disable(&mut self) {
        for i in 0..self.ports.len() {
            if self.get(i).state != State::Disabled {
                self.disable_port(i);
            }
        }
        let b = &mut *self.b;
        (b.up, b.topology_change, b.change_detected) = (false, false, false);
        b.hello.stop();
        b.notification.stop();
        b.change.stop();
    }

    /// A port has come, disabled.
    pub fn add_port(&mut self, i: usize) {
        self.become_designated(i);
    }

    /// A port can be used.
    pub fn enable_port(&mut self, i: usize) {
        self.become_designated(i);
        let p = self.at(i);
        (p.acknowledge, p.config_pending) = (false, false);
        // States are told of once one is chosen.
        p.state = State::Blocking;
        self.select_states();
        let number = self.get(i).number;
        if !self.out.changed.contains(&number) {
            self.out.changed.push(number);
        }
    }

    /// A port cannot be used any more.
    pub fn disable_port(&mut self, i: usize) {
        self.with_update(|s| {
            s.become_designated(i);
            s.set_state(i, State::Disabled);
            let p = s.at(i);
            (p.acknowledge, p.config_pending) = (false, false);
            p.message_age.stop();
            p.forward_delay.stop();
            p.hold.stop();
            let number = p.number;
            s.out.forget.push(number);
        });
    }

    /// Switches the protocol on or off.
    pub fn set_on(&mut self, on: bool) {
        if self.b.on == on {
            return;
        }
        self.b.on = on;
        if !on {
            return;
        }
        let (least, most) = (2 * SEC, 30 * SEC);
        self.set_forward_delay(self.b.own.forward_delay.clamp(least, most));
        if self.b.up {
            self.b.hello.start(self.now, self.b.times.hello);
        }
        self.select_states();
    }

    /// Changes what the bridge wishes; where it is the root, that holds.
    pub fn set_times(&mut self, t: Times) {
        self.b.own = t;
        if self.b.is_root() {
            self.b.times = t;
        }
    }

    fn set_forward_delay(&mut self, ns: u64) {
        self.set_times(Times { forward_delay: ns, ..self.b.own });
    }

    /// The address changes, in what ports know of this bridge, too.
    pub fn set_address(&mut self, mac: Mac) {
        let old: [u8; 6] = std::array::from_fn(|i| self.b.id[i + 2]);
        if old == mac.0 {
            return;
        }
        self.with_update(|s| {
            s.b.id[2..].copy_from_slice(&mac.0);
            for p in s.ports.iter_mut() {
                let p = p.as_mut();
                for id in [&mut p.designated_bridge, &mut p.designated_root] {
                    if id[2..] == old {
                        id[2..].copy_from_slice(&mac.0);
                    }
                }
            }
        });
    }

    /// The priority changes; ports that are not used learn of it when they are.
    pub fn set_priority(&mut self, priority: u16) {
        let own = self.b.id;
        self.with_update(|s| {
            let new = priority.to_be_bytes();
            s.b.id[..2].copy_from_slice(&new);
            for p in s.ports.iter_mut() {
                let p = p.as_mut();
                let designated = p.designated_bridge == own && p.designated_port == p.id();
                if designated && p.state != State::Disabled {
                    p.designated_bridge[..2].copy_from_slice(&new);
                }
            }
        });
    }

    /// A port's priority changes.
    pub fn set_port_priority(&mut self, i: usize, priority: u16) {
        let designated = self.b.is_designated(self.get(i));
        let own = self.b.id;
        let p = self.at(i);
        p.priority = priority;
        if designated {
            p.designated_port = p.id();
        }
        if p.designated_bridge == own && p.id() < p.designated_port {
            self.become_designated(i);
            self.select_states();
        }
    }

    /// A port's cost changes.
    pub fn set_port_cost(&mut self, i: usize, cost: u32) {
        self.at(i).cost = cost;
        self.update();
        self.select_states();
    }

    /// A program sets a port's state, while the protocol does not run.
    pub fn force_state(&mut self, i: usize, s: State) {
        self.set_state(i, s);
        self.select_states();
    }

    /// A message has come through a port.
    pub fn received(&mut self, i: usize, m: &Message) {
        if !self.b.on || !self.b.up || self.get(i).state == State::Disabled {
            return;
        }
        match m {
            Message::Config(c) if c.message_age > c.times.max_age => {}
            Message::Config(c) => self.received_config(i, c),
            Message::Notification => {
                if self.b.is_designated(self.get(i)) {
                    self.detect_change();
                    self.at(i).acknowledge = true;
                    self.transmit_config(i);
                }
            }
        }
    }

    fn received_config(&mut self, i: usize, c: &Config) {
        if !self.supersedes(i, c) {
            if self.b.is_designated(self.get(i)) {
                self.transmit_config(i);
            }
            return;
        }
        let (now, was_root) = (self.now, self.b.is_root());
        let p = self.at(i);
        (p.designated_root, p.designated_cost) = (c.root, c.cost);
        (p.designated_bridge, p.designated_port) = (c.bridge, c.port);
        p.since = now - c.message_age;
        p.message_age.start(now, c.times.max_age - c.message_age);
        self.update();
        self.select_states();
        if was_root && !self.b.is_root() {
            self.b.hello.stop();
            if self.b.change_detected {
                self.b.change.stop();
                self.transmit_notification();
                self.b.notification.start(now, self.b.own.hello);
            }
        }
        if self.get(i).number == self.b.root_port {
            self.b.times = c.times;
            self.b.topology_change = c.topology_change;
            self.generate();
            if c.acknowledged {
                self.b.change_detected = false;
                self.b.notification.stop();
            }
        }
    }

    /// Runs the timers that are due.
    pub fn expire(&mut self) {
        let now = self.now;
        if self.b.hello.fires(now) && self.b.up {
            self.generate();
            if self.b.on {
                self.b.hello.start(now, self.b.times.hello);
            }
        }
        if self.b.notification.fires(now) && !self.b.is_root() && self.b.up {
            self.transmit_notification();
            self.b.notification.start(now, self.b.own.hello);
        }
        if self.b.change.fires(now) {
            (self.b.change_detected, self.b.topology_change) = (false, false);
        }
        for i in 0..self.ports.len() {
            if self.at(i).message_age.fires(now) && self.get(i).state != State::Disabled {
                self.with_update(|s| s.become_designated(i));
            }
            if self.at(i).forward_delay.fires(now) {
                self.forward_delay_over(i);
            }
            if self.at(i).hold.fires(now) && self.get(i).config_pending {
                self.transmit_config(i);
            }
        }
    }

    fn forward_delay_over(&mut self, i: usize) {
        let (now, delay) = (self.now, self.b.times.forward_delay);
        match self.get(i).state {
            State::Listening => {
                self.set_state(i, State::Learning);
                self.at(i).forward_delay.start(now, delay);
            }
            State::Learning => {
                self.set_state(i, State::Forwarding);
                let id = self.b.id;
                let designated = |p: &P| {
                    let p = p.as_ref();
                    p.state != State::Disabled && p.designated_bridge == id
                };
                if self.ports.iter().any(designated) {
                    self.detect_change();
                }
            }
            _ => {}
        }
    }
}
