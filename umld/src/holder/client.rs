//! One connection to the holder.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use crate::wire::{Frame, Reply, encode, encode_frame};

/// Bytes kept for a peer that does not read; a viewer that lags further is cut off.
const OUTPUT_MAX: usize = 1 << 20;

/// What the peer is here for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It makes calls.
    Calls,
    /// It sees a line, by index, and types unless it only watches.
    Viewer {
        /// Index of the line.
        line: usize,
        /// Only watches.
        watch: bool,
    },
    /// It waits for one of the things of [`Await`].
    Waits(Await),
    /// It wants to hear how a stop goes.
    Stops,
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Await {
    Boot,
    Login,
    Ready,
    Exit,
}

/// A connected peer.
pub struct Client {
    /// The socket, non-blocking.
    pub stream: UnixStream,
    /// What it is here for.
    pub mode: Mode,
    /// Unparsed input.
    pub input: Vec<u8>,
    output: Vec<u8>,
    /// It closed its side without reading; what it sent before is still there.
    deaf: bool,
    /// To be closed once the output is written.
    pub closing: bool,
    /// Gone.
    pub dead: bool,
}

impl Client {
    /// A new connection.
    pub fn new(stream: UnixStream) -> io::Result<Client> {
        stream.set_nonblocking(true)?;
        let (input, output) = (Vec::new(), Vec::new());
        Ok(Client {
            stream,
            mode: Mode::Calls,
            input,
            output,
            deaf: false,
            closing: false,
            dead: false,
        })
    }

    /// Sends a reply.
    pub fn reply(&mut self, r: &Reply) {
        self.push(&encode(r));
    }

    /// Sends a frame.
    pub fn frame(&mut self, f: &Frame) {
        self.push(&encode_frame(f));
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.deaf {
            return;
        }
        if self.output.len() + bytes.len() > OUTPUT_MAX {
            self.dead = true;
            return;
        }
        self.output.extend_from_slice(bytes);
        self.flush();
    }

    /// Writes as far as the peer takes it.
    pub fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return self.dead = true,
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // A viewer may type and leave at once. The end comes after its last word.
                    self.deaf = true;
                    self.output.clear();
                }
            }
        }
        if self.closing {
            self.dead = true;
        }
    }

    /// Whether output is pending.
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads what there is.
    pub fn fill(&mut self) {
        let mut chunk = [0; 16384];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.dead = true,
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.dead = true,
            }
            if self.input.len() > crate::wire::MAX_MESSAGE {
                return self.dead = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_peer_that_did_not_listen_is_heard() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut c = Client::new(ours).unwrap();
        theirs.write_all(b"word").unwrap();
        drop(theirs);
        c.frame(&Frame::Data(vec![0; 1000]));
        assert!(!c.dead && !c.wants_write());
        c.frame(&Frame::Data(vec![0; 1000]));
        c.fill();
        assert!(c.dead);
        assert_eq!(c.input, b"word");
    }
}
