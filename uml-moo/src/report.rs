//! `--info`, `--check` and the output of `--verify`.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;
use uml_formats::cow::{self, ByteOrder, Version, changed_runs};
use uml_formats::host_lock::{LockKind, lock_holder};
use uml_formats::strerror;

use crate::failure::Failure;
use crate::marker;
use crate::source::{Source, changes, open_cow, open_input};

/// Everything `--info` says; the JSON field names are stable.
#[derive(Debug, Serialize)]
struct Info {
    file: String,
    version: u32,
    layout: &'static str,
    byte_order: &'static str,
    backing_file: String,
    backing_size: u64,
    backing_mtime: u32,
    sector_size: u32,
    alignment: u32,
    bitmap_offset: u64,
    bitmap_bytes: u64,
    data_offset: u64,
    file_size: u64,
    allocated_bytes: u64,
    changed_sectors: u64,
    changed_bytes: u64,
    changed_runs: u64,
    /// The file looked at: that of the header or of `-b`.
    actual_backing_file: String,
    backing_matches: bool,
    backing_problem: Option<String>,
    merge_interrupted: bool,
    locked_by_pid: Option<i32>,
    backing_locked_by_pid: Option<i32>,
}

fn collect(cow_path: &Path, actual_backing: Option<&Path>) -> Result<Info, Failure> {
    let (cow, header, layout) = open_cow(cow_path)?;
    let meta = cow.metadata().map_err(|error| Failure::io("COW file open", cow_path, &error))?;
    let changes = changes(&cow, &layout)
        .map_err(|error| Failure::io("Reading COW bitmap", cow_path, &error))?;
    let backing = actual_backing.unwrap_or(&header.backing);
    let stat = cow::stat_backing(backing);
    let backing_problem = match &stat {
        Ok(stat) => cow::check_backing(&header, stat).err().map(|mismatch| mismatch.to_string()),
        Err(error) => Some(format!("\"{}\": {}", backing.display(), strerror(error))),
    };
    let backing_locked_by_pid =
        open_input(backing, false).ok().and_then(|file| lock_holder(file, LockKind::Exclusive));
    Ok(Info {
        file: cow_path.display().to_string(),
        version: header.version.number(),
        layout: match header.version {
            Version::V1 => "v1",
            Version::V2 => "v2",
            Version::V3 => "v3",
            Version::V3Broken => "v3-64bit",
        },
        byte_order: match header.order {
            ByteOrder::Little => "little",
            ByteOrder::Big => "big",
        },
        backing_file: header.backing.display().to_string(),
        backing_size: header.size,
        backing_mtime: header.mtime,
        sector_size: header.sector_size,
        alignment: header.alignment,
        bitmap_offset: layout.bitmap_offset,
        bitmap_bytes: layout.bitmap_len,
        data_offset: layout.data_offset,
        file_size: meta.len(),
        allocated_bytes: meta.blocks().saturating_mul(512),
        changed_sectors: changes.sectors,
        changed_bytes: changes.sectors.saturating_mul(u64::from(layout.sector_size)),
        changed_runs: changes.runs,
        actual_backing_file: backing.display().to_string(),
        backing_matches: backing_problem.is_none(),
        backing_problem,
        merge_interrupted: stat.is_ok_and(|stat| marker::matches(cow_path, &header, &stat)),
        locked_by_pid: lock_holder(&cow, LockKind::Exclusive),
        backing_locked_by_pid,
    })
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::plain(format!("standard output: {}", strerror(&error))))
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::plain(format!("cannot write JSON: {error}")))?;
    print(&text)
}

/// `uml_moo --info`.
pub fn info(cow: &Path, backing: Option<&Path>, json: bool) -> Result<(), Failure> {
    let info = collect(cow, backing)?;
    if json {
        return print_json(&info);
    }
    let yes_no = |value: bool| if value { "yes" } else { "no" };
    let pid = |pid: Option<i32>| pid.map_or("nobody".to_owned(), |pid| format!("process {pid}"));
    let lines = [
        ("COW file", info.file),
        ("version", format!("{} ({}, {}-endian)", info.version, info.layout, info.byte_order)),
        ("backing file", info.backing_file),
        ("backing size", format!("{} bytes", info.backing_size)),
        ("backing mtime", format!("{} seconds since 1970", info.backing_mtime)),
        ("sector size", format!("{} bytes", info.sector_size)),
        ("alignment", format!("{} bytes", info.alignment)),
        ("bitmap", format!("{} bytes at offset {}", info.bitmap_bytes, info.bitmap_offset)),
        ("data", format!("at offset {}", info.data_offset)),
        ("file size", format!("{} bytes, {} on disk", info.file_size, info.allocated_bytes)),
        (
            "changed",
            format!(
                "{} sectors ({} bytes) in {} places",
                info.changed_sectors, info.changed_bytes, info.changed_runs
            ),
        ),
        (
            "backing file fits",
            info.backing_problem.unwrap_or_else(|| yes_no(info.backing_matches).to_owned()),
        ),
        ("merge interrupted", yes_no(info.merge_interrupted).to_owned()),
        ("COW file locked by", pid(info.locked_by_pid)),
        ("backing locked by", pid(info.backing_locked_by_pid)),
    ];
    let text: Vec<String> =
        lines.iter().map(|(name, value)| format!("{:<20}{value}", format!("{name}:"))).collect();
    print(&text.join("\n"))
}

/// Result of `--check`; the JSON field names are stable.
#[derive(Debug, Serialize)]
struct Check {
    file: String,
    ok: bool,
    problems: Vec<String>,
}

/// `uml_moo --check`: exit status 0 only if a merge would go through.
pub fn check(cow: &Path, backing: Option<&Path>, json: bool) -> Result<(), Failure> {
    let problems = problems(cow, backing)?;
    let result = Check { file: cow.display().to_string(), ok: problems.is_empty(), problems };
    if json {
        print_json(&result)?;
    } else if result.ok {
        print(&format!("{}: ok", result.file))?;
    } else {
        for problem in &result.problems {
            print(&format!("{}: {problem}", result.file))?;
        }
    }
    if result.ok { Ok(()) } else { Err(Failure::default()) }
}

fn problems(cow_path: &Path, backing: Option<&Path>) -> Result<Vec<String>, Failure> {
    let mut problems = Vec::new();
    let (cow, header, layout) = match open_cow(cow_path) {
        Ok(opened) => opened,
        // A file that cannot be opened was not checked; a bad one was.
        Err(failure) if failure.line.as_deref() == Some("Reading COW header failed") => {
            return Ok(failure.detail.into_iter().collect());
        }
        Err(failure) => return Err(failure),
    };
    let info = collect(cow_path, backing)?;
    if info.merge_interrupted {
        problems.push("an in-place merge was interrupted; complete it with uml_moo -d".to_owned());
    } else {
        problems.extend(info.backing_problem);
    }
    if let Some(pid) = info.locked_by_pid {
        problems.push(format!("in use by process {pid}"));
    }
    let bitmap_end = layout.bitmap_offset + layout.bitmap_len;
    if info.file_size < bitmap_end {
        problems.push(format!(
            "truncated: {} bytes, the bitmap ends at byte {bitmap_end}",
            info.file_size
        ));
    }
    let sector = u64::from(layout.sector_size);
    let mut last = 0;
    for run in changed_runs(&cow, &layout) {
        let run = run.map_err(|error| Failure::io("Reading COW bitmap", cow_path, &error))?;
        last = (run.end * sector).min(layout.size);
    }
    if last > 0 && info.file_size < layout.data_offset + last {
        problems.push(format!(
            "truncated: {} bytes, changed sectors reach up to byte {}",
            info.file_size,
            layout.data_offset + last
        ));
    }
    if layout.mapped_sectors() < layout.sectors {
        problems.push(format!(
            "the last {} sectors have no bitmap bit (a limit of version {}); they cannot be \
             written, merging is not affected",
            layout.sectors - layout.mapped_sectors(),
            header.version
        ));
    }
    Ok(problems)
}

/// The checksum line: `crc32 <hex>  <bytes>  <COW file>`.
pub fn print_checksum(source: &Source, crc: u32, json: bool) -> Result<(), Failure> {
    let file = source.cow_path.display().to_string();
    if json {
        return print_json(&serde_json::json!({
            "file": file,
            "backing_file": source.backing_path.display().to_string(),
            "bytes": source.total(),
            "crc32": format!("{crc:08x}"),
        }));
    }
    print(&format!("crc32 {crc:08x}  {}  {file}", source.total()))
}
