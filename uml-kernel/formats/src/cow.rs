//! Copy-on-write disk images.
//!
//! A COW file is a header, a bitmap and a sparse data area as large as the
//! backing file. Sector *i* of the virtual disk lives in the data area when
//! bit *i* is set, else in the backing file at the same offset. The formats
//! are described in cow(5).
//!
//! * [`Header`], [`Layout`] – decode, validate, encode (versions 1, 2, 3 and
//!   the 64-bit variant of 3).
//! * [`create`] – a new, empty COW file; [`absolutize`] – the path stored in it.
//! * [`resolve_backing`], [`check_backing`] – which backing file is used and
//!   whether it is still the one the COW was made for.
//! * [`Image`] – reads, writes, discards and flushes a virtual disk.
//! * [`open_device`] – the complete opening sequence of a ubd device.
//! * [`Segments`], [`changed_runs`] – the merged view by source, in constant
//!   memory, for merging and checking.

mod backing;
mod bitmap;
mod create;
mod device;
mod header;
mod image;
mod merge;

pub use backing::{
    BackingChoice, BackingStat, Mismatch, check_backing, resolve_backing, stat_backing,
};
pub use bitmap::CHUNK_LIMIT_DEFAULT;
pub use create::{CreateError, absolutize, create, new_header, rewrite_header};
pub use device::{Device, DeviceError, DeviceSpec, Note, SIZE_UNKNOWN, Severity, open_device};
pub use header::{ByteOrder, Header, HeaderError, Layout, MAX_HEADER, Version, read_header};
pub use image::{BitmapPolicy, Image, Run, Source};
pub use merge::{ChangedRuns, Segment, Segments, changed_runs};

/// Sector size of every COW file created today, in bytes.
pub const SECTOR_SIZE: u32 = 512;
/// Alignment of bitmap and data area in created files: the page size of x86.
pub const ALIGNMENT: u32 = 4096;
