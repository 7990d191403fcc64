//! The door: a stream socket `exec` beside `mconsole` through which the owner of an instance runs programs in its
//! guest. It belongs to this kernel; the stock one has nothing like it.
//!
//! The caller sends a [`Request`], with the descriptors of standard input, output and error (`SCM_RIGHTS`) on its first byte
//! unless it asks for a terminal. Then both sides send [`Frame`]s, until the kernel's `Exit`, `Failed` or `Denied`. The last
//! two may come before the request is read, and the connection be closed then.

/// Name of the socket in the instance's directory.
pub const NAME: &str = "exec";
/// First bytes of a request.
pub const MAGIC: [u8; 8] = *b"UMLDOOR1";
/// Longest request, descriptors aside: arguments and environment may take as much as execve(2) allows.
pub const MAX_REQUEST: usize = 8 << 20;
/// Longest payload of a frame.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The program, looked up in the `PATH` of `env` when it has no slash, and its arguments.
    pub args: Vec<Vec<u8>>,
    /// `NAME=VALUE`.
    pub env: Vec<Vec<u8>>,
    /// Working directory in the guest.
    pub cwd: Vec<u8>,
    /// User and group in the guest.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// Rows and columns when it shall have a terminal.
    pub terminal: Option<(u16, u16)>,
}

/// What goes over the socket after the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of the terminal, either way.
    Data(Vec<u8>),
    /// To the guest: the window has this many rows and columns now.
    Resize(u16, u16),
    /// To the guest: this signal for the program's process group.
    Signal(i32),
    /// From the guest: the program ended with this wait status (wait(2)).
    Exit(i32),
    /// From the guest: it was not started, for this error number and reason.
    Failed(i32, String),
    /// From the guest, whatever was or will be asked: the caller is neither the machine's owner nor root.
    Denied,
}

/// Why bytes are no request or frame.
pub type Malformed = &'static str;

fn field(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

/// Splits a tag or kind, a 32-bit length and that many bytes off; none when they are not complete.
fn take(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((*tag, value, rest))
}

fn number(value: &[u8]) -> Result<u32, Malformed> {
    value.try_into().map(u32::from_le_bytes).map_err(|_| "a number is not 4 bytes long")
}

fn pair(value: &[u8]) -> Result<(u16, u16), Malformed> {
    match value {
        [a, b, c, d] => Ok((u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]))),
        _ => Err("a window size is not 4 bytes long"),
    }
}

fn pair_bytes(rows: u16, cols: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (rows.to_le_bytes(), cols.to_le_bytes());
    [a, b, c, d]
}

impl Request {
    /// Bytes before the body: the magic and the body's length.
    pub const HEAD: usize = 12;

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for a in &self.args {
            field(&mut body, 1, a);
        }
        for e in &self.env {
            field(&mut body, 2, e);
        }
        field(&mut body, 3, &self.cwd);
        field(&mut body, 4, &self.uid.to_le_bytes());
        field(&mut body, 5, &self.gid.to_le_bytes());
        if let Some((rows, cols)) = self.terminal {
            field(&mut body, 6, &pair_bytes(rows, cols));
        }
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend(body);
        out
    }

    /// Length of the body after this head.
    pub fn body_len(head: &[u8; Self::HEAD]) -> Result<usize, Malformed> {
        let Some(len) = head.strip_prefix(&MAGIC) else { return Err("not a request of the door") };
        match number(len)? as usize {
            n if n <= MAX_REQUEST => Ok(n),
            _ => Err("the request is too long"),
        }
    }

    /// Reads a body. Strings must not have NUL bytes in them; unknown tags are errors.
    pub fn decode(mut body: &[u8]) -> Result<Request, Malformed> {
        let mut r = Request::default();
        while !body.is_empty() {
            let (tag, value, rest) = take(body).ok_or("the request is cut off")?;
            body = rest;
            if tag <= 3 && value.contains(&0) {
                return Err("a string with a NUL byte");
            }
            match tag {
                1 => r.args.push(value.to_vec()),
                2 => r.env.push(value.to_vec()),
                3 => r.cwd = value.to_vec(),
                4 => r.uid = number(value)?,
                5 => r.gid = number(value)?,
                6 => r.terminal = Some(pair(value)?),
                _ => return Err("a field of unknown kind"),
            }
        }
        if r.args.first().is_none_or(|a| a.is_empty()) { Err("no program is named") } else { Ok(r) }
    }
}

impl Frame {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Frame::Data(d) => field(&mut out, 0, d),
            Frame::Resize(r, c) => field(&mut out, 1, &pair_bytes(*r, *c)),
            Frame::Signal(n) => field(&mut out, 2, &n.to_le_bytes()),
            Frame::Exit(n) => field(&mut out, 3, &n.to_le_bytes()),
            Frame::Failed(n, text) => {
                let text = text.as_bytes();
                let text = text.get(..MAX_PAYLOAD - 4).unwrap_or(text);
                field(&mut out, 4, &[n.to_le_bytes().as_slice(), text].concat());
            }
            Frame::Denied => field(&mut out, 5, &[]),
        }
        out
    }

    /// Takes the first complete frame from a buffer.
    pub fn decode(buffer: &mut Vec<u8>) -> Result<Option<Frame>, Malformed> {
        if let Some([_, a, b, c, d]) = buffer.first_chunk::<5>()
            && u32::from_le_bytes([*a, *b, *c, *d]) as usize > MAX_PAYLOAD
        {
            return Err("a frame is too long");
        }
        let Some((kind, value, rest)) = take(buffer) else { return Ok(None) };
        let integer = |v: &[u8]| number(v).map(u32::cast_signed);
        let frame = match kind {
            0 => Frame::Data(value.to_vec()),
            1 => {
                let (r, c) = pair(value)?;
                Frame::Resize(r, c)
            }
            2 => Frame::Signal(integer(value)?),
            3 => Frame::Exit(integer(value)?),
            4 => {
                let (n, text) = value.split_at_checked(4).ok_or("a failure without a number")?;
                Frame::Failed(integer(n)?, String::from_utf8_lossy(text).into_owned())
            }
            5 => Frame::Denied,
            _ => return Err("a frame of unknown kind"),
        };
        let used = buffer.len() - rest.len();
        buffer.drain(..used);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1u8.., 1..max)
    }

    proptest! {
        #[test]
        fn requests_survive(args in proptest::collection::vec(bytes(20), 1..5), env in proptest::collection::vec(bytes(20), 0..5),
                            cwd in bytes(30), uid: u32, gid: u32, terminal: Option<(u16, u16)>) {
            let r = Request { args, env, cwd, uid, gid, terminal };
            let b = r.encode();
            let (head, body) = b.split_first_chunk::<{ Request::HEAD }>().expect("head");
            prop_assert_eq!(Request::body_len(head), Ok(body.len()));
            prop_assert_eq!(Request::decode(body), Ok(r));
        }

        #[test]
        fn frames_survive_any_cut(d in proptest::collection::vec(any::<u8>(), 0..100), n: i32, cut in 0usize..200) {
            let frames = [Frame::Data(d), Frame::Resize(3, 500), Frame::Signal(n), Frame::Failed(n, "no".into()), Frame::Exit(n)];
            let all: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            let cut = cut.min(all.len());
            let mut buffer = all[..cut].to_vec();
            let mut got = Vec::new();
            while let Some(f) = Frame::decode(&mut buffer).expect("frame") { got.push(f); }
            buffer.extend_from_slice(&all[cut..]);
            while let Some(f) = Frame::decode(&mut buffer).expect("frame") { got.push(f); }
            prop_assert_eq!(got.as_slice(), frames.as_slice());
        }

        #[test]
        fn no_bytes_make_the_decoders_panic(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(&b);
            let _ = Frame::decode(&mut b.clone());
        }
    }
}
