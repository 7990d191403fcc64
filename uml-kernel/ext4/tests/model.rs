//! Random operations on every feature set, compared with a model in memory;
//! e2fsck judges the result.

mod common;

use common::model::{Model, Op, apply, compare};
use common::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn op() -> impl Strategy<Value = Op> {
    let pick = || 0usize..64;
    prop_oneof![
        6 => (pick(), any::<u8>()).prop_map(|(a, b)| Op::Create(a, b)),
        3 => (pick(), any::<u8>()).prop_map(|(a, b)| Op::Mkdir(a, b)),
        1 => (pick(), any::<u8>()).prop_map(|(a, b)| Op::Fifo(a, b)),
        2 => (pick(), any::<u8>(), any::<u16>()).prop_map(|(a, b, c)| Op::Symlink(a, b, c)),
        2 => (pick(), pick(), any::<u8>()).prop_map(|(a, b, c)| Op::Link(a, b, c)),
        4 => (pick(), any::<u8>()).prop_map(|(a, b)| Op::Unlink(a, b)),
        3 => (pick(), any::<u8>()).prop_map(|(a, b)| Op::Rmdir(a, b)),
        6 => (pick(), any::<u8>(), pick(), any::<u8>(), any::<u8>())
            .prop_map(|(a, b, c, d, e)| Op::Rename(a, b, c, d, e)),
        8 => (pick(), any::<u32>(), any::<u16>(), any::<u8>())
            .prop_map(|(a, b, c, d)| Op::Write(a, b, c, d)),
        3 => (pick(), 0u32..200, 0u16..200, any::<u8>())
            .prop_map(|(a, b, c, d)| Op::Write(a, b, c, d)),
        3 => (pick(), any::<u32>()).prop_map(|(a, b)| Op::Truncate(a, b)),
        6 => (pick(), any::<u8>(), any::<u32>(), any::<u32>())
            .prop_map(|(a, b, c, d)| Op::Fallocate(a, b, c, d)),
        3 => (pick(), any::<u8>(), any::<u16>()).prop_map(|(a, b, c)| Op::SetXattr(a, b, c)),
        2 => (pick(), any::<u8>()).prop_map(|(a, b)| Op::RemoveXattr(a, b)),
        1 => (pick(), any::<u16>()).prop_map(|(a, b)| Op::Chmod(a, b)),
        1 => pick().prop_map(Op::Fsync),
        1 => Just(Op::Commit),
        1 => Just(Op::Checkpoint),
        1 => (pick(), 1u8..120).prop_map(|(a, b)| Op::Many(a, b)),
    ]
}

fn check(name: &str, args: &[&str], cases: u32) {
    check_with(name, args, cases, open);
}

fn check_with(
    name: &str,
    args: &[&str],
    cases: u32,
    open: fn(std::sync::Arc<dyn uml_ext4::BlockStore>) -> uml_ext4::Ext4,
) {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let img = mkfs(tmp.path(), name, args, 12, None);
    let blank = std::fs::read(&img).unwrap();
    // EXT4_TEST_SCALE=20 runs twenty times the cases.
    let scale = std::env::var("EXT4_TEST_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    let mut runner = TestRunner::new(Config {
        cases: cases * scale,
        max_shrink_iters: 300,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&prop::collection::vec(op(), 1..160), |ops| {
        let store = std::sync::Arc::new(uml_ext4::MemStore::new(blank.clone()));
        let fs = open(store.clone());
        let info = fs.info();
        let extents = info.features.incompat(uml_ext4::features::incompat::EXTENTS);
        let mut m = Model::new(info.block_size.into(), extents);
        for o in &ops {
            apply(&fs, &mut m, o);
        }
        compare(&fs, &m);
        fs.unmount().unwrap();
        drop(fs);
        assert_clean_bytes(tmp.path(), &store.snapshot(), name);
        compare(&open_ro(store), &m);
        Ok(())
    });
    if let Err(e) = result {
        panic!("{name}: {e}");
    }
}

macro_rules! feature_sets {
    ($($test:ident: $i:expr, $cases:expr;)*) => {
        $(#[test]
        fn $test() {
            let (name, args) = MATRIX[$i];
            check(name, args, $cases);
        })*
    };
}

/// File contents through the journal, with a small log that is often emptied.
#[test]
fn journaled_data() {
    for i in [0, 1, 3, 5, 9] {
        let (name, args) = MATRIX[i];
        let args: Vec<&str> = args.iter().chain(&["-J", "size=4"]).copied().collect();
        check_with(name, &args, 8, open_journaled);
    }
}

feature_sets! {
    default_4k: 0, 10;
    default_1k: 1, 10;
    seed_orphan: 2, 5;
    blockmap: 3, 10;
    uninit_bg: 4, 5;
    inline_data: 5, 10;
    ext2: 6, 5;
    ext3: 7, 5;
    meta_bg: 8, 5;
    large_dir_ea_inode: 9, 8;
    small_inode: 10, 5;
    no_journal: 11, 5;
}
