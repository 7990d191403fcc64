//! Random pairs merge as a model says; random bytes never crash the tool.

mod common;

use std::fs;

use common::{Bench, OUR_MOO, merged};
use proptest::prelude::*;
use uml_formats::cow::Version;

fn kind() -> impl Strategy<Value = (Version, u32)> {
    prop_oneof![
        Just((Version::V1, 512)),
        Just((Version::V2, 512)),
        Just((Version::V3, 4096)),
        Just((Version::V3, 1)),
        Just((Version::V3Broken, 4096)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn merges_follow_the_model(
        (version, align) in kind(),
        // Multiples of 8, so that every sector of versions 1 and 2 has a bit.
        groups in 1u64..600,
        fill in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 1..9),
        seeds in proptest::collection::vec(
            (any::<u64>(), 1u64..40, proptest::option::of(prop_oneof![Just(0u8), any::<u8>()])), 0..30),
    ) {
        let sectors = groups * 8;
        let below: Vec<u8> =
            (0..sectors as usize * 512).map(|at| fill[at / 512 / 3 % fill.len()]).collect();
        let changes: Vec<(u64, Option<u8>)> = seeds
            .iter()
            .flat_map(|(seed, count, contents)| {
                let first = seed % sectors;
                (first..sectors.min(first + count)).map(move |sector| (sector, *contents))
            })
            .collect();
        let expected = merged(&below, &changes);
        let bench = Bench::new(&below);
        bench.cow("c", version, align, &changes);
        bench.run(OUR_MOO, &["--verify", "c", "out"]).ok();
        prop_assert!(bench.read("out") == expected, "copy");
        bench.run(OUR_MOO, &["--verify", "-d", "c"]).ok();
        prop_assert!(bench.read("b") == expected, "in place");
    }

    #[test]
    fn any_cow_file_is_survived(
        version in 0u8..5,
        fields in proptest::collection::vec(any::<u8>(), 28),
        zero_size in any::<bool>(),
        len in 0usize..20_000,
        fill in any::<u8>(),
    ) {
        let bench = Bench::new(&[1; 512]);
        let mut bytes = vec![b'O', b'O', b'O', b'M', 0, 0, 0, version];
        bytes.extend(&fields[..24]);
        if zero_size {
            bytes[12..18].fill(0);
        }
        bytes.extend(b"b\0");
        bytes.resize(len.max(8), fill);
        fs::write(bench.path("c"), bytes).expect("cow");
        for arguments in
            [vec!["--info", "c"], vec!["--check", "c"], vec!["-b", "b", "c", "out"], vec!["-d", "c"]]
        {
            let run = bench.run(OUR_MOO, &arguments);
            prop_assert!(matches!(run.status, Some(0 | 1)), "{arguments:?}: {run:?}");
        }
    }
}
