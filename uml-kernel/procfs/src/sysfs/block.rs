//! Attributes of block devices (Documentation/ABI/stable/sysfs-block): what the driver's
//! [`BlockDevice`] says.

use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::device::Attribute;
use uml_core::kernel::Kernel;
use uml_core::registry::BlockDevice;
use uml_core::vfs::Dev;

/// Largest discard or write-zeroes request, in bytes (spec of the ubd driver).
const DISCARD_MAX: u64 = 32 << 10;
/// Largest read or write request, in KiB.
const MAX_SECTORS_KB: u64 = 127;

type Get = fn(&dyn BlockDevice) -> String;

fn attribute(kernel: &Weak<Kernel>, dev: Dev, name: &'static str, get: Get) -> Attribute {
    let kernel = kernel.clone();
    Attribute::new(name, move |out| {
        let d: Arc<dyn BlockDevice> = find(&kernel, dev)?;
        out.extend_from_slice(get(&*d).as_bytes());
        out.push(b'\n');
        Ok(())
    })
}

fn find(kernel: &Weak<Kernel>, dev: Dev) -> Result<Arc<dyn BlockDevice>> {
    kernel.upgrade().ok_or(ENODEV)?.vfs.registry.block_device(dev).map_err(|_| ENODEV)
}

fn discard(d: &dyn BlockDevice, n: u64) -> String {
    if d.can_discard() { n.to_string() } else { "0".into() }
}

fn stat(d: &dyn BlockDevice) -> String {
    let f = d.stats().fields();
    f.iter().map(|n| format!("{n:>8}")).collect::<Vec<_>>().join(" ")
}

fn inflight(d: &dyn BlockDevice) -> String {
    let [reads, others] = d.stats().in_flight;
    format!("{reads:>8} {others:>8}")
}

/// What disks and partitions have.
const COMMON: &[(&str, Get)] = &[
    ("alignment_offset", |_| "0".into()),
    ("discard_alignment", |_| "0".into()),
    ("inflight", inflight),
    ("ro", |d| u8::from(d.read_only()).to_string()),
    ("size", |d| (d.size() / 512).to_string()),
    ("stat", stat),
];

const PARTITION: &[(&str, Get)] = &[
    ("partition", |d| d.partition().map_or(0, |p| p.0).to_string()),
    ("start", |d| (d.partition().map_or(0, |p| p.1) / 512).to_string()),
];

const DISK: &[(&str, Get)] = &[
    ("capability", |_| "0".into()),
    ("ext_range", |_| "16".into()),
    ("hidden", |_| "0".into()),
    ("range", |_| "16".into()),
    ("removable", |_| "0".into()),
    ("serial", |d| d.serial().unwrap_or_else(|| "(null)".into())),
    ("queue/dax", |_| "0".into()),
    ("queue/discard_granularity", |d| discard(d, 512)),
    ("queue/discard_max_bytes", |d| discard(d, DISCARD_MAX)),
    ("queue/discard_max_hw_bytes", |d| discard(d, DISCARD_MAX)),
    ("queue/discard_zeroes_data", |_| "0".into()),
    ("queue/fua", |_| "0".into()),
    ("queue/hw_sector_size", |d| d.block_size().to_string()),
    ("queue/logical_block_size", |d| d.block_size().to_string()),
    ("queue/max_hw_sectors_kb", |_| MAX_SECTORS_KB.to_string()),
    ("queue/max_sectors_kb", |_| MAX_SECTORS_KB.to_string()),
    ("queue/max_segments", |_| "64".into()),
    ("queue/minimum_io_size", |d| d.block_size().to_string()),
    ("queue/nr_requests", |_| "64".into()),
    ("queue/optimal_io_size", |_| "0".into()),
    ("queue/physical_block_size", |d| d.block_size().to_string()),
    ("queue/read_ahead_kb", |_| "128".into()),
    ("queue/rotational", |_| "0".into()),
    ("queue/scheduler", |_| "[none]".into()),
    ("queue/write_cache", |_| "write back".into()),
    ("queue/write_same_max_bytes", |_| "0".into()),
    ("queue/write_zeroes_max_bytes", |d| discard(d, DISCARD_MAX)),
    ("queue/zoned", |_| "none".into()),
];

/// The attributes of the device with number `dev`.
pub fn attributes(kernel: &Weak<Kernel>, dev: Dev, partition: bool) -> Vec<Attribute> {
    let own = if partition { PARTITION } else { DISK };
    let all = COMMON.iter().chain(own);
    all.map(|(name, get)| attribute(kernel, dev, name, *get)).collect()
}
