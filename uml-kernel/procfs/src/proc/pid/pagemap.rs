//! `/proc/<pid>/pagemap`: refused. It shows physical page numbers, and the guest's memory has none.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::FileOps;

use super::Target;
use crate::synth::{Regular, Spec};

struct Refused;

impl Regular for Refused {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        Err(EPERM)
    }
}

pub fn file(_: &Target) -> Spec {
    Spec::file(0, Refused)
}
