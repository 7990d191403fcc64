//! `/sys/fs`: what types of filesystems can do, and the attributes of mounted ones.

use std::sync::Arc;

use uml_abi::errno::*;

use super::{Computed, Item, Subject, empty};
use crate::proc::on_devices;
use crate::synth::Spec;

/// Types that have a directory, as long as they are there at all.
const TYPES: [&str; 1] = ["ext4"];

pub fn spec(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let mut items = vec![Item::dir("cgroup", empty)];
        let kernel = sys.kernel()?;
        for kind in TYPES {
            let there = kernel.vfs.registry.fs(kind.as_bytes());
            if let Some(features) = there.ok().and_then(|t| t.sys_features()) {
                let sys = sys.clone();
                items.push(Item::dir(kind, move || of_type(&sys, kind, features)));
            }
        }
        Ok(items)
    })
}

/// The features of a type, and its mounted filesystems by the names of their devices.
fn of_type(sys: &Subject, kind: &'static str, features: &'static [&'static str]) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let supported = move || {
            let file = |f: &&'static str| Item::text(*f, || Ok("supported".into()));
            Computed::spec(move || Ok(features.iter().map(file).collect()))
        };
        let mut items = vec![Item::dir("features", supported)];
        let here = |t: Option<(&str, _)>| t.is_some_and(|(t, _)| t == kind);
        for (device, sb) in on_devices(&*sys.kernel()?, |s| here(s.sys_files())) {
            let (names, sb) = (sb.sys_files().map_or(&[][..], |f| f.1), Arc::downgrade(&sb));
            let attributes = move || {
                let sb = sb.clone();
                Computed::spec(move || {
                    let file = |name: &&'static str| {
                        let (name, sb) = (*name, sb.clone());
                        Item::text(name, move || sb.upgrade().ok_or(ENODEV)?.sys_text(name))
                    };
                    Ok(names.iter().map(file).collect())
                })
            };
            items.push(Item::dir(device, attributes));
        }
        Ok(items)
    })
}
