//! `/sys/devices/system/cpu`. Topology is one package with a core for each CPU; caches are the host's.

use std::fs;

use uml_abi::Result;

use super::{Computed, Item, Subject, empty};
use crate::proc::cpu_mask;
use crate::synth::Spec;

/// Most CPUs the interface could have.
const KERNEL_MAX: usize = 1023;

fn count(sys: &Subject) -> Result<usize> {
    Ok(sys.kernel()?.ncpus)
}

fn range(n: usize) -> String {
    if n <= 1 { "0".into() } else { format!("0-{}", n - 1) }
}

fn fixed(name: &str, v: impl Into<String>) -> Item {
    let v = v.into();
    Item::text(name, move || Ok(v.clone()))
}

/// The list and the mask of every CPU.
fn everybody(n: usize) -> (String, String) {
    let mut words = vec![0u64; n.div_ceil(64)];
    for c in 0..n {
        words[c / 64] |= 1 << (c % 64);
    }
    let (mask, list) = cpu_mask(&words, n);
    (list, mask)
}

fn only(c: usize, n: usize) -> (String, String) {
    let mut words = vec![0u64; n.div_ceil(64)];
    words[c / 64] |= 1 << (c % 64);
    let (mask, list) = cpu_mask(&words, n);
    (list, mask)
}

pub fn spec(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let n = count(&sys)?;
        let mut v = vec![
            fixed("enabled", ""),
            fixed("isolated", ""),
            fixed("kernel_max", KERNEL_MAX.to_string()),
            fixed("offline", ""),
            fixed("online", range(n)),
            fixed("possible", range(n)),
            fixed("present", range(n)),
            Item::dir("smt", || {
                Computed::spec(|| Ok(vec![fixed("active", "0"), fixed("control", "notsupported")]))
            }),
        ];
        v.extend((0..n).map(|c| Item::dir(format!("cpu{c}"), move || one(c, n))));
        Ok(v)
    })
}

fn one(c: usize, n: usize) -> Spec {
    Computed::spec(move || {
        Ok(vec![
            Item::dir("cache", move || cache(c, n)),
            Item::Link("node0".into(), "../../node/node0".into()),
            Item::dir("power", empty),
            Item::Link("subsystem".into(), "../../../../bus/cpu".into()),
            Item::dir("topology", move || topology(c, n)),
            Item::text("uevent", || Ok("DRIVER=processor".into())),
        ])
    })
}

fn topology(c: usize, n: usize) -> Spec {
    Computed::spec(move || {
        let ((own_list, own), (all_list, all)) = (only(c, n), everybody(n));
        Ok(vec![
            fixed("core_cpus", own.clone()),
            fixed("core_cpus_list", own_list.clone()),
            fixed("core_id", c.to_string()),
            fixed("core_siblings", all.clone()),
            fixed("core_siblings_list", all_list.clone()),
            fixed("die_cpus", all.clone()),
            fixed("die_cpus_list", all_list.clone()),
            fixed("die_id", "0"),
            fixed("package_cpus", all),
            fixed("package_cpus_list", all_list),
            fixed("physical_package_id", "0"),
            fixed("thread_siblings", own),
            fixed("thread_siblings_list", own_list),
        ])
    })
}

/// Facts of a cache that are taken from the host as they are.
const CACHE_FACTS: [&str; 6] =
    ["coherency_line_size", "level", "number_of_sets", "size", "type", "ways_of_associativity"];

/// What the host says of cache `index`.
fn host_cache(index: usize, fact: &str) -> Option<String> {
    let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{fact}");
    fs::read_to_string(path).ok().map(|s| s.trim().to_string())
}

fn cache(c: usize, n: usize) -> Spec {
    Computed::spec(move || {
        let indices = (0..8).take_while(|i| host_cache(*i, "level").is_some());
        Ok(indices.map(|i| Item::dir(format!("index{i}"), move || one_cache(c, n, i))).collect())
    })
}

fn one_cache(c: usize, n: usize, index: usize) -> Spec {
    Computed::spec(move || {
        // The first two levels belong to a core, the last to all.
        let level = host_cache(index, "level").and_then(|l| l.parse().ok()).unwrap_or(0);
        let (list, mask) = if level >= 3 { everybody(n) } else { only(c, n) };
        let mut v = vec![fixed("shared_cpu_list", list), fixed("shared_cpu_map", mask)];
        for fact in CACHE_FACTS {
            if let Some(text) = host_cache(index, fact) {
                v.push(fixed(fact, text));
            }
        }
        Ok(v)
    })
}

/// `/sys/bus/cpu/devices`.
pub fn links(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let link = |c| Item::Link(format!("cpu{c}"), format!("../../../devices/system/cpu/cpu{c}"));
        Ok((0..count(&sys)?).map(link).collect())
    })
}
