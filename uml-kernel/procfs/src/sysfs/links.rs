//! `/sys/{block,bus,class,dev}`: links into `/sys/devices`.

use std::collections::BTreeSet;
use std::sync::Arc;

use uml_abi::Result;
use uml_core::device::{Device, Subsystem};

use super::{Computed, Item, Subject};
use crate::synth::Spec;

/// Classes that are there without devices.
const CLASSES: [&str; 5] = ["block", "mem", "misc", "net", "tty"];
const BUSES: [&str; 2] = ["cpu", "platform"];

fn devices(sys: &Subject) -> Result<Vec<Arc<Device>>> {
    Ok(sys.kernel()?.devices.list())
}

/// Last component of a device's path: its name with `!` for `/`.
fn leaf(d: &Device) -> String {
    d.path.rsplit('/').next().unwrap_or_default().to_string()
}

fn link(up: usize, d: &Device) -> Item {
    Item::Link(leaf(d), format!("{}devices/{}", "../".repeat(up), d.path))
}

/// Whole disks.
pub fn block(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let disk = |d: &&Arc<Device>| {
            d.spec.subsystem == Subsystem::Class("block") && d.spec.devtype != Some("partition")
        };
        Ok(devices(&sys)?.iter().filter(disk).map(|d| link(1, d)).collect())
    })
}

fn names(sys: &Subject, fixed: &[&'static str], class: bool) -> Result<Vec<&'static str>> {
    let mut set: BTreeSet<&'static str> = fixed.iter().copied().collect();
    for d in devices(sys)? {
        match d.spec.subsystem {
            Subsystem::Class(n) if class => set.insert(n),
            Subsystem::Bus(n) if !class => set.insert(n),
            _ => continue,
        };
    }
    Ok(set.into_iter().collect())
}

pub fn class(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let one = |name: &'static str| {
            let sys = sys.clone();
            Item::dir(name, move || members(&sys, Subsystem::Class(name), 2))
        };
        Ok(names(&sys, &CLASSES, true)?.into_iter().map(one).collect())
    })
}

fn members(sys: &Subject, subsystem: Subsystem, up: usize) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let all = devices(&sys)?;
        Ok(all.iter().filter(|d| d.spec.subsystem == subsystem).map(|d| link(up, d)).collect())
    })
}

pub fn bus(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let one = |name: &'static str| {
            let sys = sys.clone();
            Item::dir(name, move || one_bus(&sys, name))
        };
        Ok(names(&sys, &BUSES, false)?.into_iter().map(one).collect())
    })
}

fn one_bus(sys: &Subject, bus: &'static str) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let (a, b) = (sys.clone(), sys.clone());
        let devices = move || match bus {
            "cpu" => super::cpu::links(&a),
            _ => members(&a, Subsystem::Bus(bus), 3),
        };
        Ok(vec![Item::dir("devices", devices), Item::dir("drivers", move || drivers(&b, bus))])
    })
}

fn drivers(sys: &Subject, bus: &'static str) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let mut set = BTreeSet::new();
        for d in devices(&sys)? {
            if d.spec.subsystem == Subsystem::Bus(bus) {
                set.extend(d.spec.driver);
            }
        }
        let one = |driver: &'static str| {
            let sys = sys.clone();
            Item::dir(driver, move || bound(&sys, bus, driver))
        };
        Ok(set.into_iter().map(one).collect())
    })
}

fn bound(sys: &Subject, bus: &'static str, driver: &'static str) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let ours = |d: &&Arc<Device>| {
            d.spec.subsystem == Subsystem::Bus(bus) && d.spec.driver == Some(driver)
        };
        Ok(devices(&sys)?.iter().filter(ours).map(|d| link(4, d)).collect())
    })
}

/// By number: `/sys/dev/block/98:0`.
pub fn dev(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let one = |name: &'static str, kind: u32| {
            let sys = sys.clone();
            Item::dir(name, move || by_number(&sys, kind))
        };
        Ok(vec![one("block", libc::S_IFBLK), one("char", libc::S_IFCHR)])
    })
}

fn by_number(sys: &Subject, kind: u32) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let item = |d: &Arc<Device>| {
            let (k, dev) = d.dev()?;
            let name = format!("{}:{}", dev.major, dev.minor);
            (k == kind).then(|| Item::Link(name, format!("../../devices/{}", d.path)))
        };
        Ok(devices(&sys)?.iter().filter_map(item).collect())
    })
}
