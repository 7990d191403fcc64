//! Requests: client to kernel.

use std::fmt;

use super::{MAGIC, MAX_DATA, VERSION, field};

const HEADER: usize = 12;
const DATAGRAM: usize = HEADER + MAX_DATA;

/// A command on its way to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    text: Vec<u8>,
}

/// Why a command cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    TooLong {
        len: usize,
    },
    /// The kernel treats the text as a C string; the rest would be ignored.
    Nul {
        at: usize,
    },
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len } => write!(
                f,
                "command of {len} bytes is too long, the protocol allows {}",
                Request::MAX_TEXT
            ),
            Self::Nul { at } => write!(f, "command contains a NUL byte at position {at}"),
        }
    }
}

impl std::error::Error for RequestError {}

impl Request {
    /// Longest command in bytes.
    pub const MAX_TEXT: usize = MAX_DATA - 1;

    /// A request for this command line.
    pub fn new(text: impl Into<Vec<u8>>) -> Result<Self, RequestError> {
        let text = text.into();
        if text.len() > Self::MAX_TEXT {
            return Err(RequestError::TooLong { len: text.len() });
        }
        if let Some(at) = text.iter().position(|byte| *byte == 0) {
            return Err(RequestError::Nul { at });
        }
        Ok(Self { text })
    }

    /// The command line.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The datagram: always 524 bytes, zero padded, as the stock client sends it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DATAGRAM);
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend(VERSION.to_ne_bytes());
        bytes.extend((self.text.len() as u32).to_ne_bytes());
        bytes.extend(&self.text);
        bytes.resize(DATAGRAM, 0);
        bytes
    }
}

/// What the kernel makes of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// No magic number: answer [`super::VERSION_0_REPLY`] and drop.
    BadMagic,
    /// Answer err 1 with [`Received::TOO_LARGE`] and drop.
    TooLarge { len: u32 },
    /// A command. With `other_version`, answer err 1 with
    /// [`Received::WRONG_VERSION`] first and then execute it all the same.
    Command { text: Vec<u8>, other_version: Option<u32> },
}

impl Received {
    pub const TOO_LARGE: &str = "Request too large";
    pub const WRONG_VERSION: &str = "This driver only supports version 2 clients";
    pub const UNKNOWN_COMMAND: &str = "Unknown command";
}

/// Checks a datagram in the protocol's order: magic, length, version. Bytes a
/// short datagram lacks count as zero; the command ends at the announced
/// length or at a NUL, whichever comes first.
pub fn receive(datagram: &[u8]) -> Received {
    if field(datagram, 0) != MAGIC {
        return Received::BadMagic;
    }
    let len = field(datagram, 8);
    if len as usize >= MAX_DATA {
        return Received::TooLarge { len };
    }
    let data = datagram.get(HEADER..).unwrap_or_default();
    let data = data.get(..len as usize).unwrap_or(data);
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let version = field(datagram, 4);
    Received::Command {
        text: data.get(..end).unwrap_or_default().to_vec(),
        other_version: (version != VERSION).then_some(version),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{COMMANDS, lookup};
    use super::*;
    use proptest::prelude::*;

    fn raw(magic: u32, version: u32, len: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(magic.to_ne_bytes());
        bytes.extend(version.to_ne_bytes());
        bytes.extend(len.to_ne_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn the_order_of_checks_is_magic_length_version() {
        assert_eq!(receive(&raw(MAGIC.swap_bytes(), 2, 600, b"")), Received::BadMagic);
        assert_eq!(receive(b"version"), Received::BadMagic);
        assert_eq!(receive(b""), Received::BadMagic);
        assert_eq!(receive(&raw(MAGIC, 1, 512, &[b'a'; 512])), Received::TooLarge { len: 512 });
        assert_eq!(
            receive(&raw(MAGIC, 3, 7, b"version")),
            Received::Command { text: b"version".to_vec(), other_version: Some(3) }
        );
        assert_eq!(
            receive(&raw(MAGIC, 2, 511, &[b'a'; 512])),
            Received::Command { text: vec![b'a'; 511], other_version: None }
        );
    }

    #[test]
    fn the_announced_length_cuts_the_command_and_short_datagrams_do_not_replay() {
        let text = |datagram: &[u8]| match receive(datagram) {
            Received::Command { text, .. } => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(text(&raw(MAGIC, 2, 3, b"version")), b"ver");
        assert_eq!(text(&raw(MAGIC, 2, 100, b"go")), b"go");
        assert_eq!(text(&MAGIC.to_ne_bytes()), b"");
        assert_eq!(text(&raw(MAGIC, 2, 9, b"go\0version")), b"go");
    }

    #[test]
    fn unsendable_commands_are_named() {
        assert_eq!(Request::new(vec![b'x'; 512]), Err(RequestError::TooLong { len: 512 }));
        assert_eq!(Request::new(&b"a\0b"[..]), Err(RequestError::Nul { at: 1 }));
    }

    proptest! {
        #[test]
        fn any_datagram_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..700),
                                    with_magic in any::<bool>()) {
            let mut bytes = bytes;
            if with_magic && bytes.len() >= 12 {
                bytes[..4].copy_from_slice(&MAGIC.to_ne_bytes());
                bytes[10] = 0;
                bytes[11] = 0;
            }
            if let Received::Command { text, .. } = receive(&bytes) {
                prop_assert!(text.len() < MAX_DATA);
                if let Some((command, rest)) = lookup(&text) {
                    prop_assert!(COMMANDS.contains(&command));
                    prop_assert!(text.ends_with(rest));
                }
            }
        }

        #[test]
        fn requests_round_trip(text in proptest::collection::vec(1u8.., 0..=511)) {
            let datagram = Request::new(text.clone()).expect("valid").encode();
            prop_assert_eq!(datagram.len(), 524);
            prop_assert_eq!(receive(&datagram), Received::Command { text, other_version: None });
        }
    }
}
