//! Notifications: kernel to a listening socket.

use std::fmt;

use super::{MAGIC, MAX_DATA, VERSION, field};

const HEADER: usize = 16;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationKind {
    /// The console socket is ready; the payload is its path with a NUL.
    Socket,
    /// Kernel panic; the payload is the message with a NUL.
    Panic,
    /// The watchdog saw no sign of life; no payload.
    Hang,
    /// A guest program wrote to `/proc/mconsole`; the payload is verbatim.
    User,
    /// A type this version does not know.
    Other(u32),
}

impl NotificationKind {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Self::Socket => 0,
            Self::Panic => 1,
            Self::Hang => 2,
            Self::User => 3,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Socket,
            1 => Self::Panic,
            2 => Self::Hang,
            3 => Self::User,
            other => Self::Other(other),
        }
    }

    /// A stable word for listings: `socket`, `panic`, `hang`, `user`, `other`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Panic => "panic",
            Self::Hang => "hang",
            Self::User => "user",
            Self::Other(_) => "other",
        }
    }
}

/// One notification datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub kind: NotificationKind,
    pub payload: Vec<u8>,
}

/// A datagram that is not a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotifyError {
    Short { len: usize },
    Magic { found: u32 },
    Version { found: u32 },
    Length { announced: u32, present: usize },
}

impl fmt::Display for NotifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { len } => {
                write!(f, "notification of {len} bytes is too short, expected at least {HEADER}")
            }
            Self::Magic { found } => {
                write!(f, "notification has magic {found:#x}, expected {MAGIC:#x}")
            }
            Self::Version { found } => {
                write!(f, "notification has version {found}, expected {VERSION}")
            }
            Self::Length { announced, present } => {
                write!(f, "notification announces {announced} bytes but holds {present}")
            }
        }
    }
}

impl std::error::Error for NotifyError {}

impl Notification {
    /// The datagram; a payload beyond 512 bytes is cut, as in the stock kernel.
    pub fn encode(&self) -> Vec<u8> {
        let payload = self.payload.get(..MAX_DATA).unwrap_or(&self.payload);
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend(VERSION.to_ne_bytes());
        bytes.extend(self.kind.number().to_ne_bytes());
        bytes.extend((payload.len() as u32).to_ne_bytes());
        bytes.extend(payload);
        bytes
    }

    /// Decodes a datagram. The watchdog helper of 64-bit stock builds sends its
    /// magic as a 64-bit number; that layout is recognised too.
    pub fn decode(datagram: &[u8]) -> Result<Self, NotifyError> {
        let Some(data) = datagram.get(HEADER..) else {
            return Err(NotifyError::Short { len: datagram.len() });
        };
        if field(datagram, 0) != MAGIC {
            return Err(NotifyError::Magic { found: field(datagram, 0) });
        }
        let version = field(datagram, 4);
        if version == 0 && datagram.len() == 24 && field(datagram, 8) == VERSION {
            let kind = NotificationKind::from_number(field(datagram, 12));
            return Ok(Self { kind, payload: Vec::new() });
        }
        if version != VERSION {
            return Err(NotifyError::Version { found: version });
        }
        let announced = field(datagram, 12);
        match data.get(..announced as usize) {
            Some(payload) if payload.len() <= MAX_DATA => Ok(Self {
                kind: NotificationKind::from_number(field(datagram, 8)),
                payload: payload.to_vec(),
            }),
            _ => Err(NotifyError::Length { announced, present: data.len() }),
        }
    }

    /// The payload as text: without a final NUL or newline, undecodable bytes replaced.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.payload);
        text.trim_end_matches(['\0', '\n']).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ready_notification_has_the_size_seen_on_the_wire() {
        let path = b"/root/.uml/t1/mconsole\0".to_vec();
        let notification = Notification { kind: NotificationKind::Socket, payload: path };
        assert_eq!(notification.encode().len(), 39);
        assert_eq!(Notification::decode(&notification.encode()).as_ref(), Ok(&notification));
        assert_eq!(notification.text(), "/root/.uml/t1/mconsole");
    }

    #[test]
    fn the_stock_watchdog_layout_is_understood() {
        let mut bytes = u64::from(MAGIC).to_le_bytes().to_vec();
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(2u32.to_le_bytes());
        bytes.extend([0; 8]);
        let hang = Notification::decode(&bytes).expect("watchdog layout");
        assert_eq!(hang.kind, NotificationKind::Hang);
    }

    proptest! {
        #[test]
        fn any_datagram_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..700),
                                    with_header in any::<bool>()) {
            let mut bytes = bytes;
            if with_header && bytes.len() >= 16 {
                bytes[..4].copy_from_slice(&MAGIC.to_ne_bytes());
                bytes[4..8].copy_from_slice(&VERSION.to_ne_bytes());
            }
            if let Ok(notification) = Notification::decode(&bytes) {
                prop_assert!(notification.payload.len() <= MAX_DATA);
            }
        }

        #[test]
        fn notifications_round_trip(number in any::<u32>(),
                                    payload in proptest::collection::vec(any::<u8>(), 0..=512)) {
            let kind = NotificationKind::from_number(number);
            let notification = Notification { kind, payload };
            prop_assert_eq!(Notification::decode(&notification.encode()), Ok(notification));
        }
    }
}
