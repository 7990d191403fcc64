//! Replay of fast commits. The stock kernel writes them; here the records are
//! made by hand from the format's description.

mod common;

use common::*;

fn crc32c(mut crc: u32, data: &[u8]) -> u32 {
    for b in data {
        crc ^= u32::from(*b);
        for _ in 0..8 {
            crc = if crc & 1 != 0 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    crc
}

/// One block of the fast-commit area.
struct Area {
    bytes: Vec<u8>,
}

impl Area {
    fn new(tid: u32) -> Area {
        let mut a = Area { bytes: Vec::new() };
        a.tlv(9, &[0u32.to_le_bytes(), tid.to_le_bytes()].concat());
        a
    }

    fn tlv(&mut self, tag: u16, value: &[u8]) {
        self.bytes.extend(tag.to_le_bytes());
        self.bytes.extend((value.len() as u16).to_le_bytes());
        self.bytes.extend(value);
    }

    fn finish(mut self, tid: u32, bs: usize) -> Vec<u8> {
        // The tail's length reaches to the end of the block.
        let rest = bs - self.bytes.len() - 4;
        self.bytes.extend(8u16.to_le_bytes());
        self.bytes.extend((rest as u16).to_le_bytes());
        self.bytes.extend(tid.to_le_bytes());
        let crc = crc32c(0, &self.bytes);
        self.bytes.extend(crc.to_le_bytes());
        self.bytes.resize(bs, 0);
        self.bytes
    }
}

fn be(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(b[at..at + 4].try_into().unwrap())
}

fn dentry(parent: u32, ino: u32, name: &str) -> Vec<u8> {
    [&parent.to_le_bytes()[..], &ino.to_le_bytes(), name.as_bytes()].concat()
}

#[test]
fn creates_extends_and_unlinks() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let src = tmp.path().join("src");
    std::fs::create_dir(&src).unwrap();
    std::fs::write(src.join("old"), vec![b'o'; 5000]).unwrap();
    std::fs::write(src.join("pattern"), vec![b'p'; 4096]).unwrap();
    let args = ["-t", "ext4", "-b", "4096", "-O", "fast_commit", "-J", "size=4"];
    let img = mkfs(tmp.path(), "fc", &args, 16, Some(&src));
    let mut image = std::fs::read(&img).unwrap();
    let bs = 4096;

    // Where the journal is, and its superblock.
    let fs = open_ro(mem(&img));
    let journal = fs.map(8, 0, 1).unwrap();
    let old = resolve(&fs, "old");
    let pattern = resolve(&fs, "pattern");
    let pattern_at = fs.map(pattern, 0, 1).unwrap().physical.unwrap();
    let jsb_at = journal.physical.unwrap() as usize * bs;
    let maxlen = be(&image, jsb_at + 0x10);
    let sequence = be(&image, jsb_at + 0x18);
    // Turn fast commits on in the journal, as the kernel does when mounting.
    let fc = 64u32;
    let area_at = fs.map(8, (maxlen - fc + 1).into(), 1).unwrap().physical.unwrap() as usize * bs;
    drop(fs);
    image[jsb_at + 0x28..jsb_at + 0x2c].copy_from_slice(&0x20u32.to_be_bytes());
    image[jsb_at + 0x54..jsb_at + 0x58].copy_from_slice(&fc.to_be_bytes());
    // The filesystem needs recovery.
    let flags = u32::from_le_bytes(image[1024 + 0x60..1024 + 0x64].try_into().unwrap()) | 4;
    image[1024 + 0x60..1024 + 0x64].copy_from_slice(&flags.to_le_bytes());
    let sum = crc32c(!0, &image[1024..1024 + 0x3fc]);
    image[1024 + 0x3fc..2048].copy_from_slice(&sum.to_le_bytes());

    // A new file "fresh", inode 200, one block of data near the end.
    let data_block = 4000u32;
    image[data_block as usize * bs..][..bs].copy_from_slice(&[b'f'; 4096]);
    let mut raw = vec![0u8; 160];
    raw[0..2].copy_from_slice(&0o100644u16.to_le_bytes());
    raw[4..8].copy_from_slice(&4000u32.to_le_bytes());
    raw[0x1a..0x1c].copy_from_slice(&1u16.to_le_bytes());
    raw[0x20..0x24].copy_from_slice(&0x80000u32.to_le_bytes());
    raw[0x80..0x82].copy_from_slice(&32u16.to_le_bytes());
    let mut a = Area::new(sequence);
    a.tlv(6, &[&200u32.to_le_bytes()[..], &raw].concat());
    a.tlv(3, &dentry(2, 200, "fresh"));
    let mut range = 200u32.to_le_bytes().to_vec();
    range.extend(0u32.to_le_bytes());
    range.extend(1u16.to_le_bytes());
    range.extend(0u16.to_le_bytes());
    range.extend(data_block.to_le_bytes());
    a.tlv(1, &range);
    // "old" loses its second block.
    let del = [old.to_le_bytes(), 1u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
    a.tlv(2, &del);
    let at = area_at;
    let area = a.finish(sequence, bs);
    image[at..at + bs].copy_from_slice(&area);

    // Read-only: replayed in memory, the disk untouched.
    let check = |fs: &uml_ext4::Ext4| {
        assert_eq!(fs.replay_report().fast_commits, 4);
        let f = resolve(fs, "fresh");
        assert_eq!(f, 200);
        same(&read_all(fs, f), &[b'f'; 4000], "fresh");
        let mut want = vec![b'o'; 5000];
        want[4096..].fill(0);
        same(&read_all(fs, old), &want, "old");
        same(&read_all(fs, pattern), &[b'p'; 4096], "pattern");
    };
    let store = std::sync::Arc::new(uml_ext4::MemStore::new(image.clone()));
    check(&open_ro(store.clone()));
    assert!(store.snapshot() == image, "a read-only mount wrote");
    // For real, and e2fsck has nothing to say afterwards.
    let fs = open(store.clone());
    check(&fs);
    assert_ne!(fs.map(200, 0, 1).unwrap().physical, Some(pattern_at));
    fs.unmount().unwrap();
    assert_clean_bytes(tmp.path(), &store.snapshot(), "fast commit");
    // A damaged tail means that nothing happened.
    image[at + 40] ^= 1;
    let fs = open_ro(std::sync::Arc::new(uml_ext4::MemStore::new(image)));
    assert_eq!(fs.replay_report().fast_commits, 0);
    assert_eq!(fs.lookup(2, b"fresh"), Err(uml_abi::errno::ENOENT));
}
