//! The note beside a COW file that says an in-place merge has begun.
//!
//! Merging changes the backing file's time stamp, so an interrupted merge
//! would be refused when run again. The note, durable before the first byte
//! of the backing file changes, identifies the pair by header checksum, inode
//! and size; merging is idempotent, so starting over completes it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use uml_formats::cow::{BackingStat, Header};

const TITLE: &str = "uml_moo: in-place merge in progress; complete it with uml_moo -d";
/// More than any note has.
const MAX_LEN: u64 = 4096;

/// Where the note for a COW file lies.
pub fn path_for(cow: &Path) -> PathBuf {
    let mut name = cow.as_os_str().to_owned();
    name.push(".merging");
    PathBuf::from(name)
}

fn contents(header: &Header, stat: &BackingStat) -> String {
    // A header that was decoded can be encoded.
    let crc = crc32fast::hash(&header.encode().unwrap_or_default());
    format!("{TITLE}\nheader {crc:08x}\nbacking inode {} size {}\n", stat.inode, stat.size)
}

/// Whether a merge of exactly this pair was begun.
pub fn matches(cow: &Path, header: &Header, stat: &BackingStat) -> bool {
    let mut text = Vec::new();
    let read = File::open(path_for(cow)).and_then(|file| file.take(MAX_LEN).read_to_end(&mut text));
    read.is_ok() && text == contents(header, stat).into_bytes()
}

/// Writes the note and makes it durable.
pub fn write(cow: &Path, header: &Header, stat: &BackingStat) -> io::Result<()> {
    let path = path_for(cow);
    let mut file = File::create(&path)?;
    file.write_all(contents(header, stat).as_bytes())?;
    file.sync_all()?;
    sync_directory(&path)
}

/// Removes the note after the backing file was made durable.
pub fn remove(cow: &Path) -> io::Result<()> {
    let path = path_for(cow);
    fs::remove_file(&path)?;
    sync_directory(&path)
}

/// Makes a change of a directory entry durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent != Path::new("") => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
