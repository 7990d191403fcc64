//! The states of a TCP connection as somebody in the middle sees them (RFC 9293 3.3.2).

use uml_net::packet::Packet;
use uml_net::wire::tcp::flags;

use crate::machine::Parsed;

/// States, numbered as enum tcp_conntrack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpState {
    #[default]
    None = 0,
    SynSent = 1,
    SynRecv = 2,
    Established = 3,
    FinWait = 4,
    CloseWait = 5,
    LastAck = 6,
    TimeWait = 7,
    Close = 8,
    SynSent2 = 9,
}

/// What of a segment matters.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
}

impl Segment {
    /// Of a packet; `None` when its header is cut or its flags are impossible.
    pub fn of(p: &mut Packet, h: &Parsed) -> Option<Segment> {
        if !p.pull(h.transport + 20) {
            return None;
        }
        let b = p.net().get(h.transport..h.transport + 20)?;
        let word = |i: usize| u32::from_be_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let s = Segment { seq: word(4), ack: word(8), flags: b[13] };
        let has = |f| s.flags & f != 0;
        let possible = match (has(flags::SYN), has(flags::FIN), has(flags::RST)) {
            (true, true, _) | (true, _, true) | (_, true, true) => false,
            (false, false, false) => has(flags::ACK),
            (_, true, _) => has(flags::ACK),
            _ => true,
        };
        possible.then_some(s)
    }

    fn has(&self, f: u8) -> bool {
        self.flags & f != 0
    }

    /// Can be the first of a connection: a SYN, or data of one that was there before tracking
    /// (nf_conntrack_tcp_loose).
    pub fn begins(&self) -> bool {
        !(self.has(flags::RST) || self.has(flags::SYN) && self.has(flags::ACK))
    }
}

/// A SYN of its client makes a new connection of one that is over.
pub fn reopens(state: TcpState, s: &Segment, _reply: bool) -> bool {
    s.has(flags::SYN)
        && !s.has(flags::ACK)
        && matches!(state, TcpState::TimeWait | TcpState::Close | TcpState::LastAck)
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp {
    pub state: TcpState,
    /// It was open once with a handshake.
    pub assured: bool,
    /// Its beginning was not seen.
    loose: bool,
    /// Who closed first sent replies.
    closer_replies: bool,
    /// The last acknowledgement of each direction.
    acked: [Option<u32>; 2],
}

impl Tcp {
    /// Follows a segment; false when it does not belong here.
    pub fn follow(&mut self, s: &Segment, reply: bool) -> bool {
        use TcpState::*;
        let before = self.state;
        self.state = if s.has(flags::RST) {
            // A reset that nobody asked for ends nothing (RFC 5961 3).
            let expected = self.acked[usize::from(!reply)];
            match before {
                None => return false,
                Established | FinWait | CloseWait if expected.is_some_and(|a| a != s.seq) => before,
                _ => Close,
            }
        } else if s.has(flags::SYN) {
            match (before, s.has(flags::ACK), reply) {
                (None, false, false) => SynSent,
                (None, true, _) => return false,
                (SynSent, false, true) => SynSent2,
                (SynSent, true, true) | (SynSent2, true, _) => SynRecv,
                (SynSent, true, false) => return false,
                (state, ..) => state,
            }
        } else if s.has(flags::FIN) {
            match before {
                None => {
                    self.loose = true;
                    self.closer_replies = reply;
                    FinWait
                }
                SynSent | SynSent2 => return false,
                SynRecv | Established => {
                    self.closer_replies = reply;
                    FinWait
                }
                FinWait | CloseWait if reply != self.closer_replies => LastAck,
                state => state,
            }
        } else {
            match before {
                None => {
                    self.loose = true;
                    Established
                }
                SynSent => return !reply,
                SynRecv if !reply => Established,
                FinWait if reply != self.closer_replies => CloseWait,
                LastAck if reply == self.closer_replies => TimeWait,
                state => state,
            }
        };
        if s.has(flags::ACK) {
            self.acked[usize::from(reply)] = Some(s.ack);
        }
        if self.state == Established && matches!(before, SynRecv | Established) {
            self.assured = true;
        }
        true
    }

    /// Seconds that it is remembered (nf_conntrack_tcp_timeout_*).
    pub fn timeout(&self, seen_reply: bool) -> u64 {
        match self.state {
            TcpState::None | TcpState::Close => 10,
            TcpState::SynSent | TcpState::SynSent2 => 120,
            TcpState::SynRecv | TcpState::CloseWait => 60,
            // Not acknowledged by anybody: more likely a scan than a connection.
            TcpState::Established if self.loose && !seen_reply => 300,
            TcpState::Established => 432_000,
            TcpState::FinWait | TcpState::TimeWait => 120,
            TcpState::LastAck => 30,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TcpState::*;
    use flags::*;

    fn seg(flags: u8, seq: u32, ack: u32) -> Segment {
        Segment { seq, ack, flags }
    }

    #[test]
    fn a_connection_opens_and_closes() {
        let mut t = Tcp::default();
        let steps = [
            (SYN, false, SynSent),
            (SYN | ACK, true, SynRecv),
            (ACK, false, Established),
            (ACK | PSH, true, Established),
            (FIN | ACK, true, FinWait),
            (ACK, false, CloseWait),
            (FIN | ACK, false, LastAck),
            (ACK, true, TimeWait),
        ];
        for (i, (f, reply, want)) in steps.into_iter().enumerate() {
            assert!(t.follow(&seg(f, 1, 1), reply), "step {i}");
            assert_eq!(t.state, want, "step {i}");
        }
        assert!(t.assured);
        assert!(reopens(t.state, &seg(SYN, 9, 0), false));
    }

    #[test]
    fn a_reset_must_fit() {
        let mut t = Tcp { state: Established, acked: [Some(100), Some(200)], ..Tcp::default() };
        t.follow(&seg(RST, 55, 0), true);
        assert_eq!(t.state, Established);
        t.follow(&seg(RST, 100, 0), true);
        assert_eq!(t.state, Close);
    }

    #[test]
    fn what_began_before_is_picked_up() {
        let mut t = Tcp::default();
        assert!(seg(ACK, 1, 1).begins() && !seg(RST, 1, 1).begins());
        assert!(t.follow(&seg(ACK, 1, 1), false));
        assert_eq!((t.state, t.timeout(false)), (Established, 300));
        assert!(!Tcp::default().follow(&seg(SYN | ACK, 1, 1), false));
    }
}
