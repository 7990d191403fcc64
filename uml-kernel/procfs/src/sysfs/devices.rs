//! `/sys/devices`.

use std::collections::BTreeMap;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::device::{Attribute, Device, Entry, Subsystem};
use uml_core::task::Task;

use super::{Computed, Item, PAGE, Subject, cpu, empty, node};
use crate::synth::{Spec, Text, TextFn};

/// Directories that exist without devices.
const FIXED: [&str; 3] = ["platform", "system", "virtual"];

/// The directory `path` below `/sys/devices`.
pub fn spec(sys: &Subject, path: &str) -> Spec {
    let (sys, path) = (sys.clone(), path.to_string());
    Computed::spec(move || items(&sys, &path))
}

fn items(sys: &Subject, path: &str) -> Result<Vec<Item>> {
    let kernel = sys.kernel()?;
    let below = if path.is_empty() { String::new() } else { format!("{path}/") };
    let mut out: BTreeMap<String, Item> = BTreeMap::new();
    for d in kernel.devices.list() {
        let Some(name) = d.path.strip_prefix(&below).and_then(|r| r.split('/').next()) else {
            continue;
        };
        let (sys, child) = (sys.clone(), format!("{below}{name}"));
        out.entry(name.to_string()).or_insert_with(|| Item::dir(name, move || spec(&sys, &child)));
    }
    if path.is_empty() {
        for name in FIXED {
            let sys = sys.clone();
            let make = move || if name == "system" { system(&sys) } else { spec(&sys, name) };
            out.insert(name.to_string(), Item::dir(name, make));
        }
    }
    if let Some(d) = kernel.devices.get(path) {
        for item in own(&d, sys) {
            out.insert(item.name().to_string(), item);
        }
    }
    Ok(out.into_values().collect())
}

fn system(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let (a, b) = (sys.clone(), sys.clone());
        Ok(vec![Item::dir("cpu", move || cpu::spec(&a)), Item::dir("node", move || node::spec(&b))])
    })
}

/// What a device's directory has besides the devices below it.
fn own(d: &Arc<Device>, sys: &Subject) -> Vec<Item> {
    let depth = d.path.split('/').count();
    let top = "../".repeat(depth + 1);
    let mut v = vec![uevent(d, sys), Item::dir("power", empty)];
    if let Some((_, dev)) = d.dev() {
        v.push(Item::text("dev", move || Ok(format!("{}:{}", dev.major, dev.minor))));
    }
    match d.spec.subsystem {
        Subsystem::Class(c) => {
            v.push(Item::Link("subsystem".into(), format!("{top}class/{c}")));
            if let Some(p) = &d.spec.parent
                && p.spec.subsystem != d.spec.subsystem
            {
                // PARENT/CLASS/NAME to PARENT.
                let name = p.path.rsplit('/').next().unwrap_or_default();
                v.push(Item::Link("device".into(), format!("../../../{name}")));
            }
            if c == "block" {
                v.push(Item::dir("holders", empty));
                if d.spec.devtype != Some("partition") {
                    v.push(Item::dir("slaves", empty));
                }
            }
        }
        Subsystem::Bus(b) => {
            v.push(Item::Link("subsystem".into(), format!("{top}bus/{b}")));
            if let Some(driver) = d.spec.driver {
                v.push(Item::Link("driver".into(), format!("{top}bus/{b}/drivers/{driver}")));
            }
        }
    }
    for a in &d.spec.attributes {
        match a.name.split_once('/') {
            None => v.push(Item::File(a.name.into(), attribute(d, a))),
            Some((dir, _)) if !v.iter().any(|i| i.name() == dir) => {
                let (d, prefix) = (d.clone(), format!("{dir}/"));
                v.push(Item::dir(dir, move || group(&d, &prefix)));
            }
            Some(_) => {}
        }
    }
    for (n, f) in d.spec.folders.iter().enumerate() {
        let Some(entries) = (f.entries)() else { continue };
        if f.name.is_empty() {
            v.extend(entries.into_iter().map(entry));
        } else {
            let d = d.clone();
            v.push(Item::dir(f.name, move || folder(&d, n)));
        }
    }
    v
}

fn entry(e: Entry) -> Item {
    match e {
        Entry::Link(name, to) => Item::Link(name, to),
        Entry::File(a) => {
            let (mode, name) = (a.mode(), a.name);
            let (show, store) = (a.show, a.store);
            let writable = store.is_some();
            let mut file = TextFn::new(move |_: &Task, out: &mut Text| {
                show.as_ref().ok_or(EIO)?(out.bytes_mut())
            })
            .sized(PAGE);
            if writable {
                file = file.writable(move |_, data| store.as_ref().ok_or(EIO)?(data));
            }
            Item::File(name.into(), Spec::file(mode, file))
        }
    }
}

/// The directory of a device whose entries come and go.
fn folder(d: &Arc<Device>, n: usize) -> Spec {
    let d = d.clone();
    Computed::spec(move || {
        let f = d.spec.folders.get(n).ok_or(ENOENT)?;
        Ok((f.entries)().ok_or(ENOENT)?.into_iter().map(entry).collect())
    })
}

/// Attributes in a directory of their own (`queue/`).
fn group(d: &Arc<Device>, prefix: &str) -> Spec {
    let (d, prefix) = (d.clone(), prefix.to_string());
    Computed::spec(move || {
        let item = |a: &Attribute| {
            let name = a.name.strip_prefix(&prefix)?;
            Some(Item::File(name.into(), attribute(&d, a)))
        };
        Ok(d.spec.attributes.iter().filter_map(item).collect())
    })
}

fn attribute(d: &Arc<Device>, a: &Attribute) -> Spec {
    let name = a.name;
    let (r, w) = (d.clone(), d.clone());
    let show = move |_: &Task, out: &mut Text| {
        let show = r.attribute(name).and_then(|a| a.show.as_ref()).ok_or(EIO)?;
        show(out.bytes_mut())
    };
    let mut file = TextFn::new(show).sized(PAGE);
    if a.store.is_some() {
        file = file.writable(move |_, data| {
            let store = w.attribute(name).and_then(|a| a.store.as_ref()).ok_or(EIO)?;
            store(data)
        });
    }
    Spec::file(a.mode(), file)
}

const ACTIONS: [&str; 8] =
    ["add", "remove", "change", "move", "online", "offline", "bind", "unbind"];

/// `uevent`: reading gives the device's variables, writing makes a synthetic uevent
/// (Documentation/ABI/testing/sysfs-uevent): `ACTION [UUID [KEY=VALUE]...]`.
fn uevent(d: &Arc<Device>, sys: &Subject) -> Item {
    let (r, w, sys) = (d.clone(), d.clone(), sys.clone());
    let file = TextFn::new(move |_, out| {
        for (k, v) in r.environment() {
            writeln!(out, "{k}={v}");
        }
        Ok(())
    })
    .writable(move |_, data| {
        let words = crate::synth::words(data)?;
        let (first, rest) = words.split_first().ok_or(EINVAL)?;
        let action = ACTIONS.iter().find(|a| *a == first).ok_or(EINVAL)?;
        let mut extra = vec![];
        match rest.split_first() {
            None => extra.push(("SYNTH_UUID".to_string(), "0".to_string())),
            Some((uuid, args)) => {
                let hex = |c: char| c.is_ascii_hexdigit() || c == '-';
                if uuid.len() != 36 || !uuid.chars().all(hex) {
                    return Err(EINVAL);
                }
                extra.push(("SYNTH_UUID".to_string(), (*uuid).to_string()));
                for a in args {
                    let (k, v) = a.split_once('=').ok_or(EINVAL)?;
                    let good = |s: &str| s.chars().all(|c| c.is_ascii_alphanumeric());
                    if k.is_empty() || !good(k) || !good(v) {
                        return Err(EINVAL);
                    }
                    extra.push((format!("SYNTH_ARG_{k}"), v.to_string()));
                }
            }
        }
        let extra: Vec<(&str, String)> =
            extra.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        sys.kernel()?.devices.emit(&w, action, &extra);
        Ok(())
    });
    Item::File("uevent".into(), Spec::file(0o644, file.sized(PAGE)))
}
