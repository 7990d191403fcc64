//! Questions to the router's name server: they go to the host's, one after the other until one answers.

use std::collections::VecDeque;
use std::net::SocketAddr;

use uml_net::packet::Data;

use crate::flows::Id;
use crate::limits;
use crate::nat::Nat;
use crate::outside::Outside;
use crate::udp::Udp;

struct Question {
    id: u16,
    message: Vec<u8>,
    /// Who was asked last, and how many before.
    asked: SocketAddr,
    tried: usize,
}

/// Questions that wait for an answer.
#[derive(Default)]
pub(crate) struct Questions(VecDeque<Question>);

/// Bytes of the fixed header (RFC 1035 4.1.1).
const HEADER: usize = 12;

fn number(b: &[u8]) -> Option<u16> {
    if b.len() < HEADER {
        return None;
    }
    Some(u16::from_be_bytes([b[0], b[1]]))
}

impl Questions {
    /// True when this is the answer to one of them, which is settled by it.
    pub fn answered(&mut self, from: SocketAddr, bytes: &[u8]) -> bool {
        let Some(id) = number(bytes) else { return false };
        match self.0.iter().position(|q| q.id == id && q.asked == from) {
            Some(i) => self.0.remove(i).is_some(),
            None => false,
        }
    }
}

/// The answer of a server that cannot help (RFC 1035 4.1.1, SERVFAIL).
fn failure(question: &[u8]) -> Option<Vec<u8>> {
    number(question)?;
    let mut b = question.to_vec();
    // A response; recursion is offered; no records but the question.
    b[2] |= 0x80;
    b[3] = 0x80 | 2;
    b[6..12].fill(0);
    // What follows the question (an OPT record) is cut off.
    let mut at = HEADER;
    for _ in 0..u16::from_be_bytes([b[4], b[5]]) {
        loop {
            match b.get(at) {
                Some(0) => {
                    at += 1;
                    break;
                }
                Some(n) if n & 0xc0 == 0 => at += 1 + usize::from(*n),
                _ => return None,
            }
        }
        at += 4;
    }
    if at > b.len() {
        return None;
    }
    b.truncate(at);
    Some(b)
}

impl<O: Outside> Nat<O> {
    /// Asks a name server. A question that comes again goes to the next one.
    pub(crate) fn ask(&mut self, id: Id, u: &mut Udp<O::Socket>, data: &Data) {
        let message = data.part(0, limits::QUESTION).to_vec();
        let Some(n) = number(&message) else { return };
        let again = u.questions.0.iter().position(|q| q.id == n && q.message == message);
        let tried = again.and_then(|i| u.questions.0.remove(i)).map_or(0, |q| q.tried + 1);
        let servers = self.resolvers();
        let tried = if servers.is_empty() { 0 } else { tried % servers.len() };
        self.ask_from(id, u, n, message, &servers, tried);
    }

    /// Asks from the `tried`th server on; when none can be asked the answer is a failure.
    fn ask_from(
        &mut self,
        id: Id,
        u: &mut Udp<O::Socket>,
        n: u16,
        message: Vec<u8>,
        servers: &[SocketAddr],
        tried: usize,
    ) {
        let data = Data::copy_of(&message);
        for (i, server) in servers.iter().enumerate().skip(tried) {
            match self.udp_send(id, u, &data, *server, 64) {
                Ok(()) | Err(uml_abi::errno::EAGAIN) => {
                    if u.questions.0.len() >= limits::QUESTIONS {
                        u.questions.0.pop_front();
                    }
                    u.questions.0.push_back(Question { id: n, message, asked: *server, tried: i });
                    return;
                }
                Err(_) => {}
            }
        }
        if let Some(b) = failure(&message) {
            let dns = SocketAddr::new(self.wire.dns(u.guest.is_ipv4()), 53);
            self.wire.udp(dns, u.guest, Data::copy_of(&b));
        }
    }

    /// A name server could not be reached: what it was asked goes to the next. False when it was none.
    pub(crate) fn dns_trouble(&mut self, id: Id, u: &mut Udp<O::Socket>, to: SocketAddr) -> bool {
        let all = std::mem::take(&mut u.questions.0);
        let (failed, rest): (VecDeque<_>, VecDeque<_>) =
            all.into_iter().partition(|q| q.asked == to);
        u.questions.0 = rest;
        let hit = !failed.is_empty();
        let servers = if hit { self.resolvers() } else { Vec::new() };
        for q in failed {
            self.ask_from(id, u, q.id, q.message, &servers, q.tried + 1);
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_failure_keeps_the_question() {
        let mut q = vec![0x12, 0x34, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        q.extend_from_slice(b"\x03www\x07example\x00\x00\x01\x00\x01");
        let len = q.len();
        q.extend_from_slice(&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        let f = failure(&q).unwrap();
        assert_eq!(f.len(), len);
        assert_eq!(&f[..12], &[0x12, 0x34, 0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(f[12..], q[12..len]);
    }

    proptest! {
        #[test]
        fn any_question_is_survived(b in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(f) = failure(&b) {
                prop_assert!(f.len() <= b.len());
            }
        }
    }
}
