//! `/sys/kernel`.

use uml_abi::Result;

use super::{Computed, Item, Subject, empty};
use crate::cgroup;
use crate::synth::Spec;

pub fn spec(sys: &Subject) -> Spec {
    let sys = sys.clone();
    Computed::spec(move || {
        let fixed = |name: &str, v: &'static str| Item::text(name, move || Ok(v.to_string()));
        let s = sys.clone();
        let seqnum = move || -> Result<String> { Ok(s.kernel()?.devices.seqnum().to_string()) };
        Ok(vec![
            fixed("address_bits", "64"),
            Item::dir("cgroup", control_groups),
            fixed("cpu_byteorder", "little"),
            fixed("fscaps", "1"),
            fixed("kexec_crash_loaded", "0"),
            fixed("kexec_loaded", "0"),
            Item::dir("mm", empty),
            fixed("profiling", "0"),
            Item::text("uevent_seqnum", seqnum),
        ])
    })
}

/// Files that delegates may write and mount options (cgroups(7), /sys/kernel/cgroup).
fn control_groups() -> Spec {
    Computed::spec(|| {
        Ok(vec![
            Item::text("delegate", || Ok(cgroup::DELEGATED.join("\n"))),
            Item::text("features", || Ok(cgroup::OPTIONS.join("\n"))),
        ])
    })
}
