//! CRC-32 of sparse contents; holes are accounted for without reading zeros.

use std::fs::File;
use std::path::Path;

use crc32fast::Hasher;
use uml_formats::cow::Segment;
use uml_formats::store::{Store, read_zero_filled};

use crate::failure::Failure;
use crate::progress::Progress;
use crate::source::Source;

const CHUNK: u64 = 1 << 20;

/// A checksum under construction.
pub struct SparseCrc {
    hasher: Hasher,
    /// Entry k is the checksum of 2^k zero bytes.
    zeros: Vec<Hasher>,
    buf: Vec<u8>,
}

impl Default for SparseCrc {
    fn default() -> Self {
        let mut one = Hasher::new();
        one.update(&[0]);
        let mut zeros = vec![one];
        for power in 1..64 {
            let mut twice: Hasher = zeros[power - 1].clone();
            twice.combine(&zeros[power - 1]);
            zeros.push(twice);
        }
        Self { hasher: Hasher::new(), zeros, buf: Vec::new() }
    }
}

impl SparseCrc {
    /// Appends `count` zero bytes.
    pub fn zeros(&mut self, count: u64) {
        for (power, zeros) in self.zeros.iter().enumerate() {
            if count >> power & 1 == 1 {
                self.hasher.combine(zeros);
            }
        }
    }

    /// Appends a range of a file.
    pub fn file(
        &mut self,
        file: &File,
        path: &Path,
        offset: u64,
        len: u64,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut at = 0;
        while at < len {
            let part = (len - at).min(CHUNK);
            self.buf.resize(part as usize, 0);
            read_zero_filled(file, &mut self.buf, offset + at)
                .map_err(|error| Failure::io("Reading data", path, &error))?;
            self.hasher.update(&self.buf);
            progress.advance(part);
            at += part;
        }
        Ok(())
    }

    /// The checksum of everything appended.
    pub fn finish(self) -> u32 {
        self.hasher.finalize()
    }
}

/// Checksum of the merged view.
pub fn merged(source: &Source, progress: &mut Progress) -> Result<u32, Failure> {
    let mut crc = SparseCrc::default();
    for segment in source.segments() {
        let segment =
            segment.map_err(|error| Failure::io("Reading data", &source.cow_path, &error))?;
        let len = segment.range().end - segment.range().start;
        match segment {
            Segment::Zero { .. } => {
                crc.zeros(len);
                progress.advance(len);
            }
            Segment::Backing { start, .. } => {
                crc.file(&source.backing, &source.backing_path, start, len, progress)?;
            }
            Segment::Cow { offset, .. } => {
                crc.file(&source.cow, &source.cow_path, offset, len, progress)?;
            }
        }
    }
    Ok(crc.finish())
}

/// Checksum of the first `total` bytes of a file.
pub fn plain(
    file: &File,
    path: &Path,
    total: u64,
    progress: &mut Progress,
) -> Result<u32, Failure> {
    let failed = |error| Failure::io("Reading data", path, &error);
    let mut crc = SparseCrc::default();
    let mut at = 0;
    while at < total {
        let data = match Store::next_data(file, at).map_err(failed)? {
            Some(data) if data.start < total => data.start..data.end.min(total),
            _ => total..total,
        };
        crc.zeros(data.start - at);
        progress.advance(data.start - at);
        crc.file(file, path, data.start, data.end - data.start, progress)?;
        at = data.end;
    }
    Ok(crc.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_count_like_zeros() {
        let mut crc = SparseCrc::default();
        crc.hasher.update(b"head");
        crc.zeros(1_234_567);
        crc.hasher.update(b"tail");
        let mut plain = b"head".to_vec();
        plain.resize(4 + 1_234_567, 0);
        plain.extend(b"tail");
        assert_eq!(crc.finish(), crc32fast::hash(&plain));
    }
}
