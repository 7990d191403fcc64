//! The server's side of a telnet connection (RFC 854, 855; ECHO 857, SGA 858, NAWS 1073) as a state machine
//! without I/O.

use uml_tty::termios::WinSize;

const SE: u8 = 240;
const EOF: u8 = 236;
const BREAK: u8 = 243;
const IP: u8 = 244;
const AYT: u8 = 246;
const EC: u8 = 247;
const EL: u8 = 248;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const IAC: u8 = 255;

const ECHO: u8 = 1;
const SGA: u8 = 3;
const NAWS: u8 = 31;

/// Longest subnegotiation that is kept; what follows is dropped.
const MAX_SUB: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Data,
    /// After a carriage return: its companion (NUL or LF) is dropped.
    Cr,
    Iac,
    /// After WILL, WONT, DO or DONT.
    Option(u8),
    Sub,
    SubIac,
}

/// What received bytes mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Typed characters.
    pub data: Vec<u8>,
    /// Answers to send as they are.
    pub reply: Vec<u8>,
    /// The client's window changed.
    pub size: Option<WinSize>,
}

/// Protocol state of one connection.
#[derive(Debug)]
pub struct Telnet {
    state: State,
    sub: Vec<u8>,
    /// The last byte sent was a carriage return.
    sent_cr: bool,
}

impl Default for Telnet {
    fn default() -> Telnet {
        Telnet { state: State::Data, sub: Vec::new(), sent_cr: false }
    }
}

impl Telnet {
    /// What a server sends first: it echoes, characters come one by one, and it wants the window's size.
    pub fn greeting() -> Vec<u8> {
        vec![IAC, WILL, ECHO, IAC, WILL, SGA, IAC, DO, SGA, IAC, DO, NAWS]
    }

    /// Interprets bytes from the client.
    pub fn receive(&mut self, bytes: &[u8]) -> Received {
        let mut out = Received::default();
        for &b in bytes {
            self.state = match (self.state, b) {
                (State::Cr, 0 | b'\n') => State::Data,
                (State::Data | State::Cr, IAC) => State::Iac,
                (State::Data | State::Cr, b) => {
                    out.data.push(b);
                    if b == b'\r' { State::Cr } else { State::Data }
                }
                (State::Iac, WILL | WONT | DO | DONT) => State::Option(b),
                (State::Iac, SB) => {
                    self.sub.clear();
                    State::Sub
                }
                (State::Iac, command) => {
                    match command {
                        IAC => out.data.push(IAC),
                        IP | BREAK => out.data.push(0x03),
                        EC => out.data.push(0x7f),
                        EL => out.data.push(0x15),
                        EOF => out.data.push(0x04),
                        AYT => out.reply.extend_from_slice(b"\r\n[yes]\r\n"),
                        _ => {}
                    }
                    State::Data
                }
                (State::Option(verb), option) => {
                    answer(verb, option, &mut out.reply);
                    State::Data
                }
                (State::Sub, IAC) => State::SubIac,
                (State::SubIac, SE) => {
                    out.size = self.window().or(out.size);
                    State::Data
                }
                (State::Sub, b) | (State::SubIac, b) => {
                    if self.sub.len() < MAX_SUB {
                        self.sub.push(b);
                    }
                    State::Sub
                }
            };
        }
        out
    }

    /// The size that a finished NAWS subnegotiation tells.
    fn window(&self) -> Option<WinSize> {
        match *self.sub.as_slice() {
            [NAWS, wh, wl, hh, hl] => {
                let (cols, rows) = (u16::from_be_bytes([wh, wl]), u16::from_be_bytes([hh, hl]));
                Some(WinSize { rows, cols, ..WinSize::default() })
            }
            _ => None,
        }
    }

    /// Encodes terminal output for the client.
    pub fn encode(&mut self, data: &[u8], out: &mut Vec<u8>) {
        for &b in data {
            // A carriage return alone is followed by NUL (RFC 854, "The NVT printer and keyboard").
            if std::mem::take(&mut self.sent_cr) && b != b'\n' {
                out.push(0);
            }
            out.push(b);
            if b == IAC {
                out.push(IAC);
            }
            self.sent_cr = b == b'\r';
        }
    }
}

/// Answers a request about an option: what the greeting asked for needs none, all else is refused.
fn answer(verb: u8, option: u8, reply: &mut Vec<u8>) {
    match (verb, option) {
        (DO | DONT, ECHO | SGA) | (WILL | WONT, SGA | NAWS) => {}
        (DO, o) => reply.extend_from_slice(&[IAC, WONT, o]),
        (WILL, o) => reply.extend_from_slice(&[IAC, DONT, o]),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_commands_and_options() {
        let mut t = Telnet::default();
        let r = t.receive(b"ls\r\0x\r\ny\xff\xff\xff\xf4\xff\xf7");
        assert_eq!(r.data, b"ls\rx\ry\xff\x03\x7f");
        let r = t.receive(&[IAC, DO, 24, IAC, WILL, 39, IAC, DO, ECHO, IAC, WONT, 5, IAC, AYT]);
        assert_eq!(r.reply, [&[IAC, WONT, 24, IAC, DONT, 39][..], b"\r\n[yes]\r\n"].concat());
        assert!(r.data.is_empty());
    }

    #[test]
    fn window_size_even_with_doubled_bytes_and_in_pieces() {
        let mut t = Telnet::default();
        let bytes = [IAC, SB, NAWS, 0, IAC, IAC, 0, 24, IAC, SE];
        for b in &bytes[..9] {
            assert_eq!(t.receive(&[*b]), Received::default());
        }
        let size = t.receive(&bytes[9..]).size;
        assert_eq!(size, Some(WinSize { rows: 24, cols: 255, ..WinSize::default() }));
        assert_eq!(t.receive(&[IAC, SB, NAWS, 1, IAC, SE]).size, None);
    }

    /// The client's view of an encoded stream.
    fn decode(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut i = 0;
        while i < bytes.len() {
            out.push(bytes[i]);
            i += match bytes[i..] {
                [IAC, IAC, ..] | [b'\r', 0, ..] => 2,
                _ => 1,
            };
        }
        out
    }

    proptest! {
        #[test]
        fn output_survives_in_any_pieces(
            data in prop::collection::vec(prop_oneof![Just(IAC), Just(b'\r'), Just(b'\n'), any::<u8>()], 0..200),
            chunk in 1usize..20,
        ) {
            // A NUL that follows a carriage return cannot be told from the protocol's own.
            let data: Vec<u8> = data.into_iter().filter(|b| *b != 0).collect();
            let (mut t, mut out) = (Telnet::default(), Vec::new());
            for c in data.chunks(chunk) {
                t.encode(c, &mut out);
            }
            prop_assert_eq!(decode(&out), data);
        }

        #[test]
        fn any_input_is_bounded(data in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut t = Telnet::default();
            let r = t.receive(&data);
            prop_assert!(r.data.len() <= data.len());
            prop_assert!(r.reply.len() <= 6 * data.len());
            prop_assert!(t.sub.len() <= MAX_SUB);
        }
    }
}
