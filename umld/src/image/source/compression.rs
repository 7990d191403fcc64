//! How an archive is compressed, told by its first bytes.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Most memory for xz, in KiB: what xz -9 needs.
pub const XZ_MEMORY: u32 = 100 << 10;
/// Largest window of zstd: that of zstd --ultra -22.
const ZSTD_WINDOW: u64 = 128 << 20;
/// First bytes of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What compressed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
    Bzip2,
}

impl Compression {
    /// By the first bytes of a file.
    pub fn of(magic: &[u8]) -> Compression {
        match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [b'B', b'Z', b'h', ..] => Compression::Bzip2,
            m if m.starts_with(&ZSTD) || skippable(m) => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// Whether a skippable frame (RFC 8878, 3.1.2) begins here, as those of pzstd.
fn skippable(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Frames of zstd, one after the other.
pub struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    /// A frame has begun.
    within: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Decompresses what `source` has.
    pub fn new(source: R) -> Zstd<R> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        Zstd { source, decoder, within: false }
    }

    /// Goes to the next frame with data; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = (&mut self.source).take(length.into());
                    if io::copy(&mut skipped, &mut io::sink())? < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(damaged(&e)),
            }
        }
        Ok(false)
    }
}

fn damaged(e: &FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {e}"))
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.within && self.decoder.can_collect() > 0 {
                return self.decoder.read(buf);
            }
            if !self.within || self.decoder.is_finished() {
                self.within = self.next()?;
                if !self.within {
                    return Ok(0);
                }
            }
            let some = BlockDecodingStrategy::UptoBlocks(1);
            self.decoder.decode_blocks(&mut self.source, some).map_err(|e| damaged(&e))?;
        }
    }
}
