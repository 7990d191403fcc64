//! Headers and geometry of all COW versions, against hand-made bytes.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use uml_formats::cow::{ByteOrder, Header, HeaderError, MAX_HEADER, Version};

fn header(version: Version, size: u64, alignment: u32) -> Header {
    let order = if version == Version::V1 { ByteOrder::Little } else { ByteOrder::Big };
    Header {
        version,
        order,
        mtime: 0x6b04_98d6,
        size,
        sector_size: 512,
        alignment,
        backing: PathBuf::from("/tmp/b"),
    }
}

fn bytes_at(bytes: &[u8], parts: &[(usize, &[u8])]) {
    for (at, part) in parts {
        assert_eq!(&bytes[*at..*at + part.len()], *part, "at offset {at}");
    }
}

const MTIME: [u8; 4] = [0x6b, 0x04, 0x98, 0xd6];
const MIB: [u8; 8] = [0, 0, 0, 0, 0, 0x10, 0, 0];
const SECTOR: [u8; 4] = [0, 0, 2, 0];

#[test]
fn fields_lie_where_the_format_puts_them() {
    let v1 = header(Version::V1, 1 << 20, 512).encode().expect("v1");
    assert_eq!(v1.len(), 280);
    bytes_at(&v1, &[(0, b"MOOO\x01\0\0\0/tmp/b\0"), (264, &[0xd6, 0x98, 0x04, 0x6b])]);
    bytes_at(&v1, &[(268, &[0, 0, 0x10, 0, 0, 0, 0, 0]), (276, &[0, 2, 0, 0])]);

    let v2 = header(Version::V2, 1 << 20, 512).encode().expect("v2");
    assert_eq!(v2.len(), 4120);
    bytes_at(&v2, &[(0, b"OOOM\0\0\0\x02/tmp/b\0"), (4104, &MTIME), (4108, &MIB)]);
    bytes_at(&v2, &[(4116, &SECTOR)]);

    let v3 = header(Version::V3, 1 << 20, 4096).encode().expect("v3");
    assert_eq!(v3.len(), 4128);
    bytes_at(&v3, &[(0, b"OOOM\0\0\0\x03"), (8, &MTIME), (12, &MIB), (20, &SECTOR)]);
    bytes_at(&v3, &[(24, &[0, 0, 0x10, 0]), (28, &[0; 4]), (32, b"/tmp/b\0")]);

    let broken = header(Version::V3Broken, 1 << 20, 4096).encode().expect("64-bit v3");
    assert_eq!(broken.len(), 4136);
    bytes_at(&broken, &[(0, b"OOOM\0\0\0\x03"), (8, &MTIME), (12, &[0; 4]), (16, &MIB)]);
    bytes_at(&broken, &[(24, &SECTOR), (28, &[0, 0, 0x10, 0]), (32, &[0; 4])]);
    bytes_at(&broken, &[(36, b"/tmp/b\0"), (4132, &[0; 4])]);
}

#[test]
fn geometry_of_the_worked_examples() {
    let areas = |header: Header| {
        let layout = header.layout().expect("valid");
        (layout.bitmap_offset, layout.bitmap_len, layout.data_offset, layout.file_size())
    };
    let mib = 1 << 20;
    assert_eq!(areas(header(Version::V1, mib, 512)), (280, 256, 1024, 1024 + mib));
    assert_eq!(areas(header(Version::V2, mib, 512)), (4120, 256, 4608, 4608 + mib));
    assert_eq!(areas(header(Version::V3, mib, 4096)), (8192, 256, 12288, 12288 + mib));
    assert_eq!(areas(header(Version::V3, mib, 512)), (4608, 256, 5120, 5120 + mib));
    assert_eq!(areas(header(Version::V3Broken, mib, 4096)), (8192, 256, 12288, 12288 + mib));
    assert_eq!(areas(header(Version::V3, 8 * mib, 4096)), (8192, 2048, 12288, 8_400_896));
    assert_eq!(areas(header(Version::V3, 0, 4096)), (8192, 0, 8192, 8192));
    assert_eq!(areas(header(Version::V3, 1300, 4096)), (8192, 1, 12288, 13588));
    // Versions 1 and 2 round the bitmap down: 3 sectors have no bit at all.
    let old = header(Version::V1, 1300, 512).layout().expect("valid");
    assert_eq!((old.bitmap_len, old.sectors, old.mapped_sectors()), (0, 3, 0));
}

#[test]
fn byte_orders() {
    // Magic and version in little-endian order, fields big-endian all the same.
    let mut bytes = header(Version::V3, 1 << 20, 4096).encode().expect("v3");
    bytes[..8].copy_from_slice(b"MOOO\x03\0\0\0");
    let decoded = Header::decode(&bytes).expect("v3 with little-endian magic");
    assert_eq!((decoded.order, decoded.size), (ByteOrder::Little, 1 << 20));
    let big = Header { order: ByteOrder::Big, ..header(Version::V1, 1 << 20, 512) };
    assert_eq!(Header::decode(&big.encode().expect("v1")), Ok(big));
}

#[test]
fn damaged_headers_are_named() {
    let good = header(Version::V3, 1 << 20, 4096).encode().expect("v3");
    let patched = |at: usize, patch: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        Header::decode(&bytes)
    };
    assert_eq!(Header::decode(b"OOOM"), Err(HeaderError::Short { len: 4 }));
    assert_eq!(Header::decode(&[0; 4136]), Err(HeaderError::NotCow));
    let truncated = HeaderError::Truncated { version: Version::V3, len: 100 };
    assert_eq!(Header::decode(&good[..100]), Err(truncated.clone()));
    assert_eq!(
        truncated.stock_message().as_deref(),
        Some("read_cow_header - failed to read V3 header")
    );
    assert_eq!(patched(4, &[0, 0, 0, 4]), Err(HeaderError::UnknownVersion(4)));
    assert_eq!(patched(24, &[0; 4]), Err(HeaderError::ZeroAlignment));
    assert_eq!(patched(20, &[0; 4]), Err(HeaderError::SectorSize(0)));
    assert_eq!(patched(20, &[0, 0, 2, 1]), Err(HeaderError::SectorSize(513)));
    assert_eq!(patched(28, &[0, 0, 0, 1]), Err(HeaderError::UnknownFormat(1)));
    assert_eq!(patched(12, &[0xff; 8]), Err(HeaderError::TooLarge { size: u64::MAX }));
    let mut long = header(Version::V1, 512, 512);
    long.backing = Path::new("/").join("x".repeat(255));
    assert_eq!(long.encode(), Err(HeaderError::PathTooLong { len: 256, max: 255 }));
}

fn any_version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V1), Just(Version::V2), Just(Version::V3), Just(Version::V3Broken)]
}

proptest! {
    #[test]
    fn headers_round_trip(version in any_version(), mtime in any::<u32>(), size in 0u64..1 << 50,
                          sector in 9u32..17, alignment in 1u32.., path in "/[a-z/]{0,200}") {
        let sector_size = 1 << sector;
        let v3 = matches!(version, Version::V3 | Version::V3Broken);
        let header = Header {
            version, order: ByteOrder::Big, mtime, size, sector_size,
            alignment: if v3 { alignment } else { sector_size },
            backing: PathBuf::from(path),
        };
        let bytes = header.encode().expect("valid");
        prop_assert_eq!(bytes.len(), version.header_size());
        prop_assert_eq!(Header::decode(&bytes), Ok(header));
    }

    /// Whatever the bytes are, decoding ends with an answer whose geometry
    /// cannot overflow. Two of three inputs get a valid magic and version.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64),
                              fill in any::<u8>(), len in 0usize..=MAX_HEADER,
                              shape in 0u8..3, version in 0u8..5) {
        let mut bytes = bytes;
        bytes.resize(len.max(bytes.len()), fill);
        if shape > 0 && bytes.len() >= 8 {
            let magic = if shape == 1 { [b'O', b'O', b'O', b'M', 0, 0, 0, version] }
                        else { [b'M', b'O', b'O', b'O', version, 0, 0, 0] };
            bytes[..8].copy_from_slice(&magic);
        }
        if let Ok(header) = Header::decode(&bytes) {
            let layout = header.layout().expect("decode validates geometry");
            prop_assert!(layout.bitmap_offset >= header.version.header_size() as u64);
            prop_assert!(layout.data_offset >= layout.bitmap_offset + layout.bitmap_len);
            prop_assert!(i64::try_from(layout.data_offset + layout.disk_size()).is_ok());
            prop_assert!(header.backing.as_os_str().len() <= header.version.max_path() + 1);
        }
    }
}
