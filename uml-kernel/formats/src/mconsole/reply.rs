//! Replies: kernel to client.

use std::fmt;

use super::{MAX_DATA, field};

/// Bytes before a reply's text.
pub const REPLY_HEADER: usize = 12;
/// Most text in one datagram, without its NUL.
pub const REPLY_TEXT_MAX: usize = MAX_DATA - 1;
/// Console output captured for `sysrq` and `stack` is handed on in texts of
/// at most this many bytes (each is then split like any text).
pub const CAPTURE_CHUNK: usize = 512;

/// Encodes one text as the datagrams the protocol prescribes: `err` on the
/// first only, `more` set on all but the last, whose flag is `more`. An empty
/// text gives one datagram.
pub fn split_reply(err: i32, text: &[u8], more: bool) -> impl Iterator<Item = Vec<u8>> {
    let chunks = text.len().div_ceil(REPLY_TEXT_MAX).max(1);
    (0..chunks).map(move |index| {
        let start = index * REPLY_TEXT_MAX;
        let end = text.len().min(start + REPLY_TEXT_MAX);
        let chunk = text.get(start..end).unwrap_or_default();
        Reply {
            err: if index == 0 { err } else { 0 },
            more: more || index + 1 < chunks,
            text: chunk.to_vec(),
        }
        .encode()
    })
}

/// One reply datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 0 is success; 1 or a negative errno otherwise.
    pub err: i32,
    /// Another datagram of the same reply follows.
    pub more: bool,
    /// Text without its NUL.
    pub text: Vec<u8>,
}

/// A datagram that is not a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyError {
    Short {
        len: usize,
    },
    /// The text announced is longer than the datagram or the protocol's limit.
    Length {
        announced: u32,
        present: usize,
    },
    /// A plain-text answer, as sent to clients of protocol version 0.
    PlainText(Vec<u8>),
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { len } => {
                write!(f, "reply of {len} bytes is too short, expected at least {REPLY_HEADER}")
            }
            Self::Length { announced, present } => write!(
                f,
                "reply announces {announced} bytes of text but holds {present} (at most \
                 {MAX_DATA} are allowed)"
            ),
            Self::PlainText(text) => {
                write!(f, "reply without header: {}", String::from_utf8_lossy(text))
            }
        }
    }
}

impl std::error::Error for ReplyError {}

impl Reply {
    /// The datagram: header, text, NUL; not padded.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REPLY_HEADER + self.text.len() + 1);
        bytes.extend(self.err.to_ne_bytes());
        bytes.extend(u32::from(self.more).to_ne_bytes());
        bytes.extend((self.text.len() as u32 + 1).to_ne_bytes());
        bytes.extend(&self.text);
        bytes.push(0);
        bytes
    }

    /// Decodes a datagram from the kernel.
    pub fn decode(datagram: &[u8]) -> Result<Self, ReplyError> {
        if datagram.starts_with(b"ERR ") {
            return Err(ReplyError::PlainText(datagram.to_vec()));
        }
        let Some(data) = datagram.get(REPLY_HEADER..) else {
            return Err(ReplyError::Short { len: datagram.len() });
        };
        let announced = field(datagram, 8);
        let text = match data.get(..announced as usize) {
            Some(text) if text.len() <= MAX_DATA => text,
            _ => return Err(ReplyError::Length { announced, present: data.len() }),
        };
        // The NUL is counted; text ends at the first one, like a C string.
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        Ok(Self {
            err: field(datagram, 0) as i32,
            more: field(datagram, 4) != 0,
            text: text.get(..end).unwrap_or_default().to_vec(),
        })
    }
}

/// Puts the datagrams of one answer together again.
#[derive(Debug, Default)]
pub struct ReplyAssembler {
    err: i32,
    text: Vec<u8>,
}

impl ReplyAssembler {
    /// Adds a datagram. Returns the whole answer after its last one: the
    /// first error seen, and all text. (The stock client looks at the last
    /// datagram's error only and so takes a long error text for success.)
    pub fn push(&mut self, reply: Reply) -> Option<Reply> {
        if self.err == 0 {
            self.err = reply.err;
        }
        self.text.extend(reply.text);
        if reply.more {
            return None;
        }
        let whole = std::mem::take(self);
        Some(Reply { err: whole.err, more: false, text: whole.text })
    }

    /// The text received so far.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Bytes of text received so far.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether nothing has been received yet.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_match_those_seen_on_the_wire() {
        let sizes = |text: &[u8], more| -> Vec<usize> {
            split_reply(0, text, more).map(|datagram| datagram.len()).collect()
        };
        assert_eq!(sizes(super::super::HELP.as_bytes(), false), [524, 224]);
        assert_eq!(sizes(b"", false), [13]);
        assert_eq!(sizes(b"\n", true), [14]);
        assert_eq!(sizes(&[b'x'; 1006], true), [524, 508 - 1 + 1]);
        assert_eq!(sizes(&[b'x'; 511], false), [524]);
        assert_eq!(sizes(&[b'x'; 512], false), [524, 14]);
    }

    #[test]
    fn error_is_on_the_first_datagram_and_more_on_all_but_the_last() {
        let replies: Vec<Reply> = split_reply(-22, &[b'y'; 1200], false)
            .map(|datagram| Reply::decode(&datagram).expect("own encoding"))
            .collect();
        let flags: Vec<(i32, bool)> = replies.iter().map(|reply| (reply.err, reply.more)).collect();
        assert_eq!(flags, [(-22, true), (0, true), (0, false)]);
        assert!(split_reply(0, b"a", true).all(|d| Reply::decode(&d).expect("ok").more));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Reply::decode(&[0; 5]), Err(ReplyError::Short { len: 5 }));
        let mut bytes = Reply { err: 0, more: false, text: b"hello".to_vec() }.encode();
        bytes[8] = 200;
        assert_eq!(Reply::decode(&bytes), Err(ReplyError::Length { announced: 200, present: 6 }));
        assert!(matches!(
            Reply::decode(super::super::VERSION_0_REPLY),
            Err(ReplyError::PlainText(_))
        ));
    }

    proptest! {
        #[test]
        fn any_datagram_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            if let Ok(reply) = Reply::decode(&bytes) {
                prop_assert!(reply.text.len() <= MAX_DATA);
            }
        }

        #[test]
        fn texts_round_trip(err in any::<i32>(), text in proptest::collection::vec(1u8.., 0..3000)) {
            let mut assembler = ReplyAssembler::default();
            let mut whole = None;
            for datagram in split_reply(err, &text, false) {
                prop_assert!(whole.is_none());
                prop_assert!(datagram.len() <= 524);
                whole = assembler.push(Reply::decode(&datagram).expect("own encoding"));
            }
            prop_assert_eq!(whole, Some(Reply { err, more: false, text }));
        }
    }
}
