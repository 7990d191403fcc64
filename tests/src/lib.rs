//! Runs the same program on the host and in the guest and compares what both say.
//!
//! Key types: [`transcript::Transcript`] (what `gt` printed, by case), [`plan::Guest`] (how to start a command in the guest on one
//! platform), [`run::Outcome`] (how a command ended), [`report::Tally`] (passed, failed, skipped). [`known`] holds the list of cases that
//! are known to differ, which may only shrink.
//!
//! Neighbours: `tests/guest` (the programs and scripts), `tests/run` (which calls the `compare` binary). Tests of single crates do not
//! belong here, nor do benchmarks (`tests/bench`).
#![forbid(unsafe_code)]

pub mod again;
pub mod known;
pub mod plan;
pub mod report;
pub mod run;
pub mod transcript;
