//! `/proc/swaps`: there is no swap; the host swaps. poll(2) works, and never reports a change.

use uml_abi::Result;
use uml_base::WaitQueue;
use uml_core::file::FileOps;

use super::fs::Subject;
use crate::synth::{Regular, Seen, Spec, TextFile, WatchedText};

pub fn file(_: &Subject) -> Spec {
    Spec::file(0, Swaps)
}

struct Swaps;

impl Regular for Swaps {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        let text = TextFile::new(|_, out| {
            out.raw(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
            Ok(())
        });
        Ok(Box::new(WatchedText::new(text, WaitQueue::shared(), || 0, Seen::ByPoll)))
    }
}
