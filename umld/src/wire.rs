//! Messages on umld's sockets: JSON objects ended by a NUL byte, shaped as Varlink's, and after an attach frames of
//! console bytes.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uml_formats::unix_path::SocketPath;

/// Longest message accepted.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Longest frame.
pub const MAX_FRAME: usize = 64 << 10;

/// A call.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Call {
    /// `interface.Method`.
    pub method: String,
    /// Arguments.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The caller wants several replies.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    /// The caller wants none.
    #[serde(default, skip_serializing_if = "is_false")]
    pub oneway: bool,
}

/// An answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    /// Results, or details of the error.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// More replies follow.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continues: bool,
    /// `interface.Error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(b: &bool) -> bool {
    !*b
}

/// An object from `key: value` pairs.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(m) => m,
        _ => Map::new(),
    }
}

/// The bytes of a message.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(message).unwrap_or_default();
    bytes.push(0);
    bytes
}

/// Takes the first complete message from a buffer. An error means that the peer does not speak this protocol.
pub fn decode<T: for<'a> Deserialize<'a>>(buffer: &mut Vec<u8>) -> Result<Option<T>, String> {
    let Some(end) = buffer.iter().position(|b| *b == 0) else {
        return if buffer.len() > MAX_MESSAGE { Err("message too long".into()) } else { Ok(None) };
    };
    let message = serde_json::from_slice(&buffer[..end]).map_err(|e| e.to_string());
    buffer.drain(..=end);
    message.map(Some)
}

/// The blocking side of a connection.
pub struct Connection {
    /// The socket.
    pub stream: UnixStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to a socket however long its path is.
    pub fn open(path: &Path) -> io::Result<Connection> {
        let short = SocketPath::new(path)?;
        let stream = UnixStream::connect(short.as_path())?;
        Ok(Connection { stream, buffer: Vec::new() })
    }

    /// Takes over a connected socket.
    pub fn new(stream: UnixStream) -> Connection {
        Connection { stream, buffer: Vec::new() }
    }

    /// Sends a call. Who closes the connection instead of reading it has said why, and that is read as the answer.
    pub fn call(&mut self, method: &str, parameters: Value) -> io::Result<()> {
        let call =
            Call { method: method.into(), parameters: object(parameters), ..Call::default() };
        tell(&mut self.stream, &encode(&call)).map(drop)
    }

    /// Waits for the next message.
    pub fn receive<T: for<'a> Deserialize<'a>>(&mut self) -> io::Result<T> {
        let invalid = |e: String| io::Error::new(io::ErrorKind::InvalidData, e);
        loop {
            if let Some(m) = decode(&mut self.buffer).map_err(invalid)? {
                return Ok(m);
            }
            let mut chunk = [0; 16384];
            let n = match self.stream.read(&mut chunk) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                r => r?,
            };
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&chunk[..n]);
        }
    }

    /// What was read beyond the last message.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }
}

/// Sends a frame to whoever may end first: false when nobody takes it any more. Their last words are there to be read
/// all the same, and say why.
pub fn tell(stream: &mut UnixStream, frame: &[u8]) -> io::Result<bool> {
    match stream.write_all(frame) {
        Err(e)
            if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
        {
            Ok(false)
        }
        sent => sent.map(|()| true),
    }
}

/// After an attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of the console, in either direction.
    Data(Vec<u8>),
    /// The viewer's window has this many rows and columns.
    Resize(u16, u16),
    /// The holder ends the connection; the reason is for people.
    End(String),
}

/// The bytes of a frame: kind, length (32 bits, little endian), payload.
pub fn encode_frame(f: &Frame) -> Vec<u8> {
    let (kind, payload) = match f {
        Frame::Data(d) => (0, d.clone()),
        Frame::Resize(r, c) => (1, [r.to_le_bytes(), c.to_le_bytes()].concat()),
        Frame::End(t) => (2, t.clone().into_bytes()),
    };
    let mut out = vec![kind];
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&payload);
    out
}

/// Takes the first complete frame from a buffer.
pub fn decode_frame(buffer: &mut Vec<u8>) -> Result<Option<Frame>, String> {
    let Some((kind, len)) = buffer
        .first_chunk::<5>()
        .map(|h| (h[0], u32::from_le_bytes([h[1], h[2], h[3], h[4]]) as usize))
    else {
        return Ok(None);
    };
    if len > MAX_FRAME {
        return Err(format!("a frame of {len} bytes"));
    }
    let Some(payload) = buffer.get(5..5 + len).map(<[u8]>::to_vec) else { return Ok(None) };
    buffer.drain(..5 + len);
    match (kind, payload.as_slice()) {
        (0, _) => Ok(Some(Frame::Data(payload))),
        (1, [a, b, c, d]) => {
            Ok(Some(Frame::Resize(u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]))))
        }
        (2, _) => Ok(Some(Frame::End(String::from_utf8_lossy(&payload).into_owned()))),
        _ => Err(format!("a frame of kind {kind}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_survive_any_cut(data in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let frames = [Frame::Data(data), Frame::Resize(24, 80), Frame::End("over".into())];
            let bytes: Vec<u8> = frames.iter().flat_map(encode_frame).collect();
            let cut = cut.min(bytes.len());
            let mut buffer = bytes[..cut].to_vec();
            let mut got = Vec::new();
            while let Some(f) = decode_frame(&mut buffer).unwrap() { got.push(f); }
            buffer.extend_from_slice(&bytes[cut..]);
            while let Some(f) = decode_frame(&mut buffer).unwrap() { got.push(f); }
            prop_assert_eq!(got.as_slice(), frames.as_slice());
        }

        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_frame(&mut bytes.clone());
            let _ = decode::<Call>(&mut bytes.clone());
        }
    }
}
