//! `/sys/devices/system/node`: one memory node.

use super::{Computed, Item, Subject};
use crate::proc::cpu_mask;
use crate::synth::Spec;

pub fn spec(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let zero = |name: &str| Item::text(name, || Ok("0".into()));
        let s = sys.clone();
        Ok(vec![
            zero("has_cpu"),
            zero("has_memory"),
            zero("has_normal_memory"),
            Item::dir("node0", move || node0(&s)),
            zero("online"),
            zero("possible"),
        ])
    })
}

fn node0(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let k = sys.kernel()?;
        let n = k.ncpus;
        let mut words = vec![0u64; n.div_ceil(64)];
        (0..n).for_each(|c| words[c / 64] |= 1 << (c % 64));
        let (mask, list) = cpu_mask(&words, n);
        let s = sys.clone();
        let meminfo = move || {
            let m = s.kernel()?.memory_info();
            let lines = [
                ("MemTotal", m.total),
                ("MemFree", m.free),
                ("MemUsed", m.total.saturating_sub(m.free)),
                ("FilePages", m.cached.cached),
                ("Shmem", m.cached.shmem),
                ("Dirty", m.cached.dirty),
            ];
            let line = |(name, v): &(&str, u64)| {
                let name = format!("{name}:");
                format!("Node 0 {name:<16}{:>8} kB", v >> 10)
            };
            Ok(lines.iter().map(line).collect::<Vec<_>>().join("\n"))
        };
        let mut v = vec![
            Item::text("cpulist", move || Ok(list.clone())),
            Item::text("cpumap", move || Ok(mask.clone())),
            Item::text("distance", || Ok("10".into())),
            Item::text("meminfo", meminfo),
        ];
        let link = |c| Item::Link(format!("cpu{c}"), format!("../../cpu/cpu{c}"));
        v.extend((0..n).map(link));
        Ok(v)
    })
}
