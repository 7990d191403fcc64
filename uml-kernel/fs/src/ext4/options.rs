//! Mount options (ext4(5)).

use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::pr_err;
use uml_ext4::{ErrorPolicy, Options as Engine};
use uml_pagecache::VolumeConfig;

/// When the blocks of written data are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataMode {
    /// At writeback.
    Delayed,
    /// By write(2) (`nodelalloc`).
    NoDelay,
}

/// Options as understood.
#[derive(Default)]
pub(crate) struct Options {
    pub engine: Engine,
    /// `commit=`.
    pub flusher: VolumeConfig,
    /// `data=`, when it was given: whether file contents go through the journal.
    pub data: Option<bool>,
    /// `nodelalloc`.
    pub no_delay: bool,
    /// `noacl`.
    pub no_acl: bool,
    /// `grpid` and its other names, when one was given.
    pub bsd_groups: Option<bool>,
    /// `sync`.
    pub sync: bool,
    pub shown: String,
}

/// Reads the option text; `EINVAL`, with a line in the log, for what is not understood.
pub(crate) fn parse(data: &[u8]) -> Result<Options> {
    let text = std::str::from_utf8(data).map_err(|_| EINVAL)?;
    let mut o = Options::default();
    for opt in text.split(',').filter(|o| !o.is_empty()) {
        let (key, value) = opt.split_once('=').unwrap_or((opt, ""));
        let known = match (key, value) {
            ("errors", "continue") => set(&mut o.engine.errors, ErrorPolicy::Continue),
            ("errors", "remount-ro") => set(&mut o.engine.errors, ErrorPolicy::RemountRo),
            ("errors", "panic") => set(&mut o.engine.errors, ErrorPolicy::Panic),
            ("noload" | "norecovery", "") => {
                o.engine.noload = true;
                true
            }
            ("barrier", "" | "1") => {
                o.engine.barrier = true;
                true
            }
            ("nobarrier", "") | ("barrier", "0") => {
                o.engine.barrier = false;
                true
            }
            ("discard", "") => {
                o.engine.discard = true;
                true
            }
            ("nodiscard", "") => {
                o.engine.discard = false;
                true
            }
            // The engine always orders data before the metadata that shows it, which is more than
            // writeback promises.
            ("data", "ordered" | "writeback") => {
                o.data = Some(false);
                true
            }
            ("data", "journal") => {
                o.data = Some(true);
                o.engine.journal_data = true;
                true
            }
            ("commit", v) => match v.parse::<u32>() {
                Ok(n) => {
                    // 0 is the default, as on Linux.
                    let n = if n == 0 { 5 } else { n };
                    o.flusher.interval = Duration::from_secs(n.into());
                    true
                }
                Err(_) => false,
            },
            ("acl", "") => {
                o.no_acl = false;
                true
            }
            ("noacl", "") => {
                o.no_acl = true;
                true
            }
            ("delalloc", "") => {
                o.no_delay = false;
                true
            }
            ("nodelalloc", "") => {
                o.no_delay = true;
                true
            }
            ("grpid" | "bsdgroups", "") => {
                o.bsd_groups = Some(true);
                true
            }
            ("nogrpid" | "sysvgroups", "") => {
                o.bsd_groups = Some(false);
                true
            }
            // What is so anyway.
            (
                "user_xattr" | "block_validity" | "lazytime" | "nolazytime" | "auto_da_alloc"
                | "noauto_da_alloc" | "i_version" | "init_itable" | "noinit_itable" | "noquota",
                "",
            ) => true,
            ("stripe" | "inode_readahead_blks" | "max_batch_time" | "min_batch_time", v) => {
                v.parse::<u64>().is_ok()
            }
            _ => false,
        };
        if !known {
            pr_err!("EXT4-fs: Unrecognized mount option \"{opt}\" or missing value");
            return Err(EINVAL);
        }
        o.shown.push(',');
        o.shown.push_str(opt);
    }
    Ok(o)
}

fn set(to: &mut Option<ErrorPolicy>, p: ErrorPolicy) -> bool {
    *to = Some(p);
    true
}
