//! Unpacking cpio archives.

mod common;

use std::io::Write;
use std::sync::Arc;

use common::*;
use proptest::prelude::*;
use uml_core::task::Cred;
use uml_core::vfs::SuperBlock;
use uml_fs::initramfs::{Error, unpack};
use uml_fs::tmpfs::TmpFs;

fn member(name: &str, mode: u32, ino: u32, nlink: u32, data: &[u8]) -> Vec<u8> {
    let mut out = b"070701".to_vec();
    let fields =
        [ino, mode, 3, 4, nlink, 1000, data.len() as u32, 8, 1, 5, 6, name.len() as u32 + 1, 0];
    for f in fields {
        out.extend_from_slice(format!("{f:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn archive() -> Vec<u8> {
    let mut a = Vec::new();
    a.extend(member(".", 0o040755, 1, 2, b""));
    a.extend(member("bin", 0o040750, 2, 2, b""));
    a.extend(member("bin/sh", 0o100755, 3, 2, b""));
    a.extend(member("bin/bash", 0o100755, 3, 2, b"#!program"));
    a.extend(member("link", 0o120777, 4, 1, b"bin/sh"));
    a.extend(member("null", 0o020666, 5, 1, b""));
    a.extend(member("TRAILER!!!", 0, 0, 1, b""));
    a
}

fn into(image: &[u8], limit: u64) -> (Arc<uml_core::task::Task>, Result<usize, Error>) {
    let k = kernel();
    let fs: Arc<TmpFs> = tmpfs(&k);
    let r = unpack(image, &fs.root(), limit).map(|s| s.members);
    (task_on(&k, fs, Cred::root()), r)
}

fn check(t: &Arc<uml_core::task::Task>) {
    let sh = Sh(t);
    assert_eq!(sh.read("/link").unwrap(), "#!program");
    let m = sh.stat("/bin/sh").unwrap();
    assert_eq!((m.nlink, m.mode, m.uid, m.gid, m.mtime.sec), (2, 0o100755, 3, 4, 1000));
    assert_eq!(sh.stat("/bin").unwrap().mtime.sec, 1000);
    assert_eq!(sh.lstat("/null").unwrap().rdev, uml_core::vfs::Dev::new(5, 6));
}

#[test]
fn plain_gzip_and_several_archives() {
    let (t, r) = into(&archive(), 0);
    assert_eq!(r, Ok(6));
    check(&t);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&archive()).unwrap();
    let gz = gz.finish().unwrap();
    let (t, r) = into(&gz, 1 << 20);
    assert_eq!(r, Ok(6));
    check(&t);
    // An uncompressed one first (microcode), zeros between, then a compressed one.
    let mut both = member("kernel", 0o040755, 9, 2, b"");
    both.extend(member("TRAILER!!!", 0, 0, 1, b""));
    both.resize(both.len() + 300, 0);
    both.extend(&gz);
    let (t, r) = into(&both, 1 << 20);
    assert_eq!(r, Ok(7));
    check(&t);
    assert_eq!(into(&gz, 100).1, Err(Error::TooBig { limit: 100 }));
}

#[test]
fn errors_name_what_is_wrong() {
    let a = archive();
    assert!(matches!(into(&a[..a.len() - 130], 0).1, Err(Error::Truncated { .. })));
    assert!(matches!(into(b"garbage in", 0).1, Err(Error::Magic { offset: 0, .. })));
    let xz = into(b"\xfd7zXZ\0......", 0).1.unwrap_err();
    assert_eq!(
        xz.to_string(),
        "compression method xz at offset 0 is not supported; use gzip or none"
    );
    let mut up = member("../escape", 0o100644, 1, 1, b"x");
    up.extend(member("TRAILER!!!", 0, 0, 1, b""));
    assert!(matches!(into(&up, 0).1, Err(Error::Create { .. })));
    let mut through = member("l", 0o120777, 1, 1, b"/");
    through.extend(member("l/f", 0o100644, 2, 1, b"x"));
    assert!(matches!(into(&through, 0).1, Err(Error::Create { .. })));
}

proptest! {
    #[test]
    fn damaged_archives_never_panic(at in 0usize..900, byte in any::<u8>(), cut in 0usize..900) {
        let mut a = archive();
        let n = a.len();
        a[at % n] = byte;
        a.truncate(n - cut % n);
        let _ = into(&a, 1 << 16);
    }
}
