//! The compressions of squashfs, each by a crate that keeps to safe bounds, but for LZO.

use std::io::Read;

use uml_abi::Result;
use uml_abi::errno::EIO;

use crate::squashfs::lzo;

/// Memory of the xz decoder in KiB: a dictionary of the largest block, and the decoder's own.
const XZ_MEMORY: u32 = 2048;

/// How an image is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// zlib.
    Gzip,
    /// LZO1X.
    Lzo,
    /// xz.
    Xz,
    /// lz4 blocks.
    Lz4,
    /// zstd.
    Zstd,
}

impl Codec {
    /// The codec of that number in the superblock, or the name of what is not supported (neither is it by Linux).
    pub(crate) fn by_number(n: u16) -> std::result::Result<Codec, String> {
        match n {
            1 => Ok(Codec::Gzip),
            2 => Err("compression lzma is not supported".into()),
            3 => Ok(Codec::Lzo),
            4 => Ok(Codec::Xz),
            5 => Ok(Codec::Lz4),
            6 => Ok(Codec::Zstd),
            n => Err(format!("unknown compression {n}")),
        }
    }

    /// Decompresses to at most `max` bytes. `EIO` for what is damaged or longer.
    pub(crate) fn decompress(self, src: &[u8], max: usize) -> Result<Vec<u8>> {
        match self {
            Codec::Gzip => gzip(src, max),
            Codec::Lzo => lzo::decompress(src, max),
            Codec::Xz => {
                let mut out = Vec::with_capacity(max);
                let r = lzma_rust2::XzReader::new_mem_limit(src, false, XZ_MEMORY);
                r.take(max as u64 + 1).read_to_end(&mut out).map_err(|_| EIO)?;
                if out.len() > max { Err(EIO) } else { Ok(out) }
            }
            Codec::Lz4 => {
                let mut out = vec![0; max];
                let n = lz4_flex::block::decompress_into(src, &mut out).map_err(|_| EIO)?;
                out.truncate(n);
                Ok(out)
            }
            Codec::Zstd => {
                let mut out = vec![0; max];
                let mut d = ruzstd::decoding::FrameDecoder::new();
                d.set_max_window_size(max.max(1 << 17) as u64);
                let n = d.decode_all(src, &mut out).map_err(|_| EIO)?;
                out.truncate(n);
                Ok(out)
            }
        }
    }
}

fn gzip(src: &[u8], max: usize) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(max);
    let mut d = flate2::Decompress::new(true);
    match d.decompress_vec(src, &mut out, flate2::FlushDecompress::Finish) {
        Ok(flate2::Status::StreamEnd) => Ok(out),
        _ => Err(EIO),
    }
}
