//! The top of the tree.

use super::{Computed, Item, Subject, devices, empty, filesystems, kernel, links};
use crate::synth::Spec;

pub fn spec(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let dir = |name: &str, make: fn(&Subject) -> Spec| {
            let s = sys.clone();
            Item::dir(name, move || make(&s))
        };
        Ok(vec![
            dir("block", links::block),
            dir("bus", links::bus),
            dir("class", links::class),
            dir("dev", links::dev),
            dir("devices", |s| devices::spec(s, "")),
            dir("firmware", |_| empty()),
            dir("fs", filesystems::spec),
            dir("kernel", kernel::spec),
            dir("module", |_| empty()),
            dir("power", |_| empty()),
        ])
    })
}
