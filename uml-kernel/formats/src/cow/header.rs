//! Header codec and the geometry that follows from a header.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::store::{Store, read_up_to};

const MAGIC: u32 = 0x4f4f_4f4d;
const V1_SIZE: usize = 280;
const V2_SIZE: usize = 4120;
const V3_SIZE: usize = 4128;
const V3_BROKEN_SIZE: usize = 4136;
const V1_PATH: usize = 256;
const PATH: usize = 4096;

/// Bytes that must be read to decode a header of any version.
pub const MAX_HEADER: usize = V3_BROKEN_SIZE;

/// Which of the historic layouts a COW file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 280-byte header in the byte order of the machine that wrote it.
    V1,
    /// 4120-byte big-endian header.
    V2,
    /// 4128-byte big-endian header with alignment; what is created today.
    V3,
    /// Version 3 as some 64-bit builds wrote it until 2005: wider time field.
    V3Broken,
}

impl Version {
    /// The number in the header's version field.
    pub fn number(self) -> u32 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 | Self::V3Broken => 3,
        }
    }

    /// Bytes the header occupies.
    pub fn header_size(self) -> usize {
        match self {
            Self::V1 => V1_SIZE,
            Self::V2 => V2_SIZE,
            Self::V3 => V3_SIZE,
            Self::V3Broken => V3_BROKEN_SIZE,
        }
    }

    /// Longest backing path that fits, in bytes, without the final NUL.
    pub fn max_path(self) -> usize {
        if self == Self::V1 { V1_PATH - 1 } else { PATH - 1 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V3Broken => f.write_str("3 (64-bit layout)"),
            other => write!(f, "{}", other.number()),
        }
    }
}

/// Byte order of magic and version number (and of all fields in version 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
    fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }
    fn put32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
    fn put64(self, value: u64) -> [u8; 8] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

/// A decoded and validated COW header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub version: Version,
    /// Byte order of magic and version; new files are big-endian.
    pub order: ByteOrder,
    /// Modification time of the backing file, seconds, low 32 bits.
    pub mtime: u32,
    /// Size of the backing file, and of the virtual disk, in bytes.
    pub size: u64,
    /// Bytes per bitmap bit.
    pub sector_size: u32,
    /// Alignment of bitmap and data area (version 3; `sector_size` otherwise).
    pub alignment: u32,
    /// Backing file as stored.
    pub backing: PathBuf,
}

/// Why bytes are not a usable COW header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The magic number is missing: some other kind of file.
    NotCow,
    /// Fewer than the 8 bytes that hold magic and version.
    Short {
        len: usize,
    },
    /// The file ends within the header of its version.
    Truncated {
        version: Version,
        len: usize,
    },
    UnknownVersion(u32),
    /// Version 3 with alignment 0.
    ZeroAlignment,
    /// Version 3 with a format number other than 0 (bitmap).
    UnknownFormat(u32),
    /// Not a power of two between 512 and 65536.
    SectorSize(u32),
    /// The areas of the file would lie beyond the largest file offset.
    TooLarge {
        size: u64,
    },
    /// The backing path (given in bytes) does not fit in this version's header.
    PathTooLong {
        len: usize,
        max: usize,
    },
    /// The path contains a NUL byte.
    PathNul,
}

impl HeaderError {
    /// The line the stock driver and tools print, without a newline; `None`
    /// where they are silent or have no such check.
    pub fn stock_message(&self) -> Option<String> {
        Some(match self {
            Self::Short { .. } => "read_cow_header - short header".to_owned(),
            Self::Truncated { version, .. } => {
                format!("read_cow_header - failed to read V{} header", version.number())
            }
            Self::UnknownVersion(_) => "read_cow_header - invalid COW version".to_owned(),
            Self::ZeroAlignment => "read_cow_header - invalid COW header, align == 0".to_owned(),
            _ => return None,
        })
    }

    /// Whether the file carries the COW magic, so is a damaged COW file rather
    /// than something else.
    pub fn is_damaged_cow(&self) -> bool {
        !matches!(self, Self::NotCow | Self::Short { .. })
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCow => f.write_str("not a COW file (no COW magic number at offset 0)"),
            Self::Short { len } => {
                write!(f, "not a COW file: only {len} bytes, a COW header has at least {V1_SIZE}")
            }
            Self::Truncated { version, len } => write!(
                f,
                "damaged COW file: {len} bytes, but a version {version} header has {}",
                version.header_size()
            ),
            Self::UnknownVersion(version) => {
                write!(f, "COW version {version} is unknown; versions 1, 2 and 3 are supported")
            }
            Self::ZeroAlignment => {
                f.write_str("damaged COW header: alignment is 0, expected a value such as 4096")
            }
            Self::UnknownFormat(format) => {
                write!(f, "COW format {format} is unknown; only 0 (bitmap) is supported")
            }
            Self::SectorSize(size) => write!(
                f,
                "damaged COW header: sector size {size}, expected a power of two from 512 to 65536"
            ),
            Self::TooLarge { size } => write!(
                f,
                "damaged COW header: backing size {size} needs a COW file beyond the largest \
                 file offset"
            ),
            Self::PathTooLong { len, max } => write!(
                f,
                "backing file name of {len} bytes is too long, this COW version holds {max}"
            ),
            Self::PathNul => f.write_str("backing file name contains a NUL byte"),
        }
    }
}

impl std::error::Error for HeaderError {}

impl From<HeaderError> for io::Error {
    fn from(error: HeaderError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// Fixed-size field of a buffer whose length was checked; zeros if out of range.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

fn path_field(bytes: &[u8], at: usize, len: usize) -> PathBuf {
    let raw = bytes.get(at..at + len).unwrap_or_default();
    let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
    PathBuf::from(OsString::from_vec(raw.get(..end).unwrap_or_default().to_vec()))
}

/// Reads and decodes the header at the start of a file.
pub fn read_header<S: Store>(store: &S) -> io::Result<Result<Header, HeaderError>> {
    let mut buf = vec![0; MAX_HEADER];
    let len = read_up_to(store, &mut buf, 0)?;
    Ok(Header::decode(buf.get(..len).unwrap_or_default()))
}

impl Header {
    /// Decodes the first bytes (up to [`MAX_HEADER`]) of a file.
    ///
    /// Differences from the stock reader, all on input it cannot use: a
    /// version 1 header is read in the byte order of its magic number, and
    /// geometry that divides by zero or overflows is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() < 8 {
            return Err(HeaderError::Short { len: bytes.len() });
        }
        let magic = field::<4>(bytes, 0);
        let order = if u32::from_le_bytes(magic) == MAGIC {
            ByteOrder::Little
        } else if u32::from_be_bytes(magic) == MAGIC {
            ByteOrder::Big
        } else {
            return Err(HeaderError::NotCow);
        };
        let version = match order.u32(field(bytes, 4)) {
            1 => Version::V1,
            2 => Version::V2,
            // A proper version 3 header has the backing path at offset 32.
            3 if bytes.len() >= 36 && field::<4>(bytes, 32) == [0; 4] => Version::V3Broken,
            3 => Version::V3,
            other => return Err(HeaderError::UnknownVersion(other)),
        };
        if bytes.len() < version.header_size() {
            return Err(HeaderError::Truncated { version, len: bytes.len() });
        }
        // From version 2 on the fields are big-endian whatever the magic is.
        let fields = if version == Version::V1 { order } else { ByteOrder::Big };
        let u32_at = |at| fields.u32(field(bytes, at));
        let u64_at = |at| fields.u64(field(bytes, at));
        let (mtime, size, sector_size, alignment, format, path) = match version {
            Version::V1 => (u32_at(264), u64_at(268), u32_at(276), u32_at(276), 0, (8, V1_PATH)),
            Version::V2 => (u32_at(4104), u64_at(4108), u32_at(4116), u32_at(4116), 0, (8, PATH)),
            Version::V3 => (u32_at(8), u64_at(12), u32_at(20), u32_at(24), u32_at(28), (32, PATH)),
            Version::V3Broken => {
                (u32_at(8), u64_at(16), u32_at(24), u32_at(28), u32_at(32), (36, PATH))
            }
        };
        let header = Self {
            version,
            order,
            mtime,
            size,
            sector_size,
            alignment,
            backing: path_field(bytes, path.0, path.1),
        };
        if format != 0 {
            return Err(HeaderError::UnknownFormat(format));
        }
        header.layout()?;
        Ok(header)
    }

    /// The header's bytes, exactly [`Version::header_size`] long; the space
    /// after the path is zero.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderError> {
        self.layout()?;
        let path = self.backing.as_os_str().as_bytes();
        let max = self.version.max_path();
        if path.len() > max {
            return Err(HeaderError::PathTooLong { len: path.len(), max });
        }
        if path.contains(&0) {
            return Err(HeaderError::PathNul);
        }
        let mut bytes = Vec::with_capacity(MAX_HEADER);
        bytes.extend(self.order.put32(MAGIC));
        bytes.extend(self.order.put32(self.version.number()));
        let fields = if self.version == Version::V1 { self.order } else { ByteOrder::Big };
        let put_path = |bytes: &mut Vec<u8>, room: usize| {
            bytes.extend(path);
            bytes.resize(bytes.len() + room - path.len(), 0);
        };
        match self.version {
            Version::V1 | Version::V2 => {
                put_path(&mut bytes, max + 1);
                bytes.extend(fields.put32(self.mtime));
                bytes.extend(fields.put64(self.size));
                bytes.extend(fields.put32(self.sector_size));
            }
            Version::V3 => {
                bytes.extend(fields.put32(self.mtime));
                bytes.extend(fields.put64(self.size));
                bytes.extend(fields.put32(self.sector_size));
                bytes.extend(fields.put32(self.alignment));
                bytes.extend(fields.put32(0));
                put_path(&mut bytes, PATH);
            }
            Version::V3Broken => {
                bytes.extend(fields.put32(self.mtime));
                bytes.extend([0; 4]);
                bytes.extend(fields.put64(self.size));
                bytes.extend(fields.put32(self.sector_size));
                bytes.extend(fields.put32(self.alignment));
                bytes.extend(fields.put32(0));
                put_path(&mut bytes, PATH);
                bytes.extend([0; 4]);
            }
        }
        Ok(bytes)
    }

    /// Where bitmap and data lie.
    pub fn layout(&self) -> Result<Layout, HeaderError> {
        if !self.sector_size.is_power_of_two() || !(512..=65536).contains(&self.sector_size) {
            return Err(HeaderError::SectorSize(self.sector_size));
        }
        if self.alignment == 0 {
            return Err(HeaderError::ZeroAlignment);
        }
        self.checked_layout().ok_or(HeaderError::TooLarge { size: self.size })
    }

    fn checked_layout(&self) -> Option<Layout> {
        let ss = u64::from(self.sector_size);
        let align = u64::from(self.alignment);
        let header = self.version.header_size() as u64;
        let sectors = self.size.div_ceil(ss);
        let (bitmap_offset, bitmap_len, round) = match self.version {
            // Rounds down: the last sectors may have no bit (historic, fixed by the format).
            Version::V1 | Version::V2 => (header, self.size.checked_add(ss - 1)? / (8 * ss), ss),
            Version::V3 | Version::V3Broken => {
                (header.checked_next_multiple_of(align)?, sectors.div_ceil(8), align)
            }
        };
        let data_offset = bitmap_offset.checked_add(bitmap_len)?.checked_next_multiple_of(round)?;
        let disk = sectors.checked_mul(ss)?;
        // Keep every offset of the rounded disk valid as a signed file offset.
        i64::try_from(data_offset.checked_add(disk)?).ok()?;
        Some(Layout {
            sector_size: self.sector_size,
            size: self.size,
            sectors,
            bitmap_offset,
            bitmap_len,
            data_offset,
        })
    }

    /// The stored backing path as a string for messages.
    pub fn backing_str(&self) -> &OsStr {
        self.backing.as_os_str()
    }
}

/// Geometry of a COW file. All values in bytes unless said otherwise; every
/// sum of them fits a signed 64-bit file offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub sector_size: u32,
    /// Size of the backing file according to the header.
    pub size: u64,
    /// Sectors of the virtual disk, the last one possibly partial.
    pub sectors: u64,
    pub bitmap_offset: u64,
    pub bitmap_len: u64,
    pub data_offset: u64,
}

impl Layout {
    /// Size of the virtual disk: the backing size rounded up to whole sectors.
    pub fn disk_size(&self) -> u64 {
        self.sectors * u64::from(self.sector_size)
    }

    /// Length of a COW file as created.
    pub fn file_size(&self) -> u64 {
        self.data_offset + self.size
    }

    /// Sectors that have a bitmap bit; fewer than `sectors` only in versions 1 and 2.
    pub fn mapped_sectors(&self) -> u64 {
        self.sectors.min(self.bitmap_len.saturating_mul(8))
    }
}
