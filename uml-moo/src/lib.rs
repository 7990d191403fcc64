//! `uml_moo` and `uml_mkcow`: the tools for copy-on-write disk images.
//!
//! The format and the merge plan come from `uml_formats::cow`; here are
//! command lines, messages, safe output, progress and speed.
//!
//! * [`args`] – command line. [`source`] – the COW and its backing file,
//!   opened, locked and checked.
//! * [`copy`] – merge into a new file; [`output`] – which appears under its
//!   name only when complete. [`in_place`] – merge into the backing file,
//!   restartable through [`marker`].
//! * [`report`] – `--info` and `--check`; [`checksum`] – `--verify`.
//! * [`mkcow`] – all of `uml_mkcow`.
//!
//! Messages and exit statuses of the classic invocations are those of the
//! classic tools, first line for first line; a second line says more. No locks.
#![forbid(unsafe_code)]

pub mod args;
pub mod checksum;
pub mod copy;
pub mod failure;
pub mod in_place;
pub mod marker;
pub mod mkcow;
pub mod output;
pub mod progress;
pub mod report;
pub mod source;

use std::io::Write;

use args::{Action, Options};
use failure::Failure;
use progress::Progress;
use source::{Access, Source};

/// Runs `uml_moo` with a parsed command line; `program` is the name for messages.
pub fn run(program: &str, options: &Options) -> Result<(), Failure> {
    let warn = |text: &str| {
        // Nothing can be done when stderr is closed.
        let _ = writeln!(std::io::stderr(), "{program}: {text}");
    };
    let backing = options.backing.as_deref();
    match &options.action {
        Action::Info => report::info(&options.cow, backing, options.json),
        Action::Check => report::check(&options.cow, backing, options.json),
        Action::Checksum => {
            let source = Source::open(&options.cow, backing, Access::Read, &warn)?;
            let mut progress = Progress::new(options.progress, "verify", source.total());
            let crc = checksum::merged(&source, &mut progress)?;
            progress.finish();
            report::print_checksum(&source, crc, options.json)
        }
        Action::Copy { target } => {
            let source = Source::open(&options.cow, backing, Access::Read, &warn)?;
            copy::merge(&source, target, options, &warn)
        }
        Action::InPlace => {
            let source = Source::open(&options.cow, backing, Access::MergeInto, &warn)?;
            in_place::merge(&source, options, &warn)
        }
    }
}
