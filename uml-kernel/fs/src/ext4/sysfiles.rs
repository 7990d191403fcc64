//! The attributes of `/sys/fs/ext4` (Documentation/ABI/testing/sysfs-fs-ext4): what is counted or recorded here.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_ext4::ErrorRecord;

use super::Shared;

/// What e2fsprogs asks for before they rely on it. `lazy_itable_init` is not there, because nobody writes zeros to inode tables in
/// the background: mke2fs(8) does so itself then.
pub(super) const FEATURES: &[&str] =
    &["batched_discard", "fast_commit", "meta_bg_resize", "metadata_csum_seed"];

/// Attributes of a filesystem.
pub(super) const NAMES: &[&str] = &[
    "delayed_allocation_blocks",
    "errors_count",
    "first_error_block",
    "first_error_errcode",
    "first_error_func",
    "first_error_ino",
    "first_error_line",
    "first_error_time",
    "last_error_block",
    "last_error_errcode",
    "last_error_func",
    "last_error_ino",
    "last_error_line",
    "last_error_time",
];

/// The text of the attribute `name`.
pub(super) fn text(shared: &Shared, name: &str) -> Result<String> {
    let e = &shared.engine;
    if name == "delayed_allocation_blocks" {
        return Ok(e.promised_blocks().to_string());
    }
    let (count, first, last) = e.errors_found()?;
    match (name, name.strip_prefix("first_error_"), name.strip_prefix("last_error_")) {
        ("errors_count", ..) => Ok(count.to_string()),
        (_, Some(field), _) => part(&first, field),
        (_, _, Some(field)) => part(&last, field),
        _ => Err(ENOENT),
    }
}

fn part(r: &ErrorRecord, field: &str) -> Result<String> {
    Ok(match field {
        "block" => r.block.to_string(),
        "errcode" => r.code.to_string(),
        "func" => String::from_utf8_lossy(&r.func).into_owned(),
        "ino" => r.ino.to_string(),
        "line" => r.line.to_string(),
        "time" => r.time.to_string(),
        _ => return Err(ENOENT),
    })
}
