//! What programs do to files whose data is in the page cache, whatever filesystem they are of.

use uml_abi::Result;
use uml_core::file::Advice;
use uml_core::io::Sink;
use uml_pagecache::{CachedFile, Readahead};

use crate::transfer;

/// Reads at `*off`, which advances.
pub(crate) fn read(
    data: &CachedFile,
    ahead: &Readahead,
    off: &mut u64,
    dst: &mut dyn Sink,
) -> Result<usize> {
    transfer::read_through(
        off,
        dst,
        |off, len, dst| data.read_view(off, len, ahead, |view, n| dst.put_view(view, off, n)),
        |off, buf| data.read(off, buf, ahead),
    )
}

/// posix_fadvise(2) of a range; a length of 0 means up to the end.
pub(crate) fn advise(data: &CachedFile, ahead: &Readahead, off: u64, len: u64, advice: Advice) {
    match advice {
        Advice::Normal | Advice::Sequential => ahead.set_random(false),
        Advice::Random => ahead.set_random(true),
        Advice::WillNeed => data.read_ahead(off, len),
        Advice::DontNeed => {
            // As Linux: changed pages are written, clean ones go.
            let _ = data.write_back_range(off, if len == 0 { u64::MAX } else { len });
            data.drop_cached(off, len);
        }
        Advice::NoReuse => {}
    }
}
