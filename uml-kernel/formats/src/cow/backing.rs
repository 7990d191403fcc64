//! Which backing file a COW uses, and whether it is still the right one.

use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::device::Note;
use super::header::Header;

/// What is compared of a backing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackingStat {
    /// Bytes; for a block device its capacity.
    pub size: u64,
    /// Modification time in seconds.
    pub mtime: i64,
    pub device: u64,
    pub inode: u64,
}

impl BackingStat {
    /// The modification time as a COW header holds it.
    pub fn mtime32(&self) -> u32 {
        // The format keeps the low 32 bits.
        self.mtime as u32
    }
}

/// Looks at a backing file without opening it (closing a descriptor would
/// drop the process's file locks on it).
pub fn stat_backing(path: &Path) -> io::Result<BackingStat> {
    let meta = std::fs::metadata(path)?;
    let size = if meta.file_type().is_block_device() {
        block_device_size(meta.rdev())?
    } else {
        meta.len()
    };
    Ok(BackingStat { size, mtime: meta.mtime(), device: meta.dev(), inode: meta.ino() })
}

fn block_device_size(rdev: u64) -> io::Result<u64> {
    let (major, minor) = (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size"))?;
    let sectors: u64 = text.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    // sysfs counts 512-byte units whatever the device's block size.
    sectors.checked_mul(512).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The backing file is not the one the COW file was made for.
#[derive(Debug)]
pub enum Mismatch {
    Size { header: u64, actual: u64 },
    Mtime { header: u32, actual: i64 },
    Stat { path: PathBuf, error: io::Error },
}

impl fmt::Display for Mismatch {
    /// The stock driver's line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { header, actual } => {
                write!(f, "Size mismatch ({header} vs {actual}) of COW header vs backing file")
            }
            Self::Mtime { header, actual } => {
                write!(f, "mtime mismatch ({header} vs {actual}) of COW header vs backing file")
            }
            Self::Stat { path, error } => write!(
                f,
                "Failed to get modification time of backing file \"{}\", err = {}",
                path.display(),
                error.raw_os_error().unwrap_or(0)
            ),
        }
    }
}

impl std::error::Error for Mismatch {}

impl Mismatch {
    /// What the user can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Size { .. } => {
                "the COW file belongs to a backing file of another size; name the right one"
            }
            Self::Mtime { .. } => {
                "the backing file was modified after the COW file was made, so the two may not \
                 fit together; if its contents are unchanged, restore its time stamp with \
                 touch -d @<header value>"
            }
            Self::Stat { .. } => "check that the path exists and is readable",
        }
    }
}

/// Compares size, then modification time (seconds) with the header.
pub fn check_backing(header: &Header, stat: &BackingStat) -> Result<(), Mismatch> {
    if header.size != stat.size {
        return Err(Mismatch::Size { header: header.size, actual: stat.size });
    }
    if header.mtime != stat.mtime32() {
        return Err(Mismatch::Mtime { header: header.mtime, actual: stat.mtime });
    }
    Ok(())
}

/// The outcome of [`resolve_backing`].
#[derive(Debug)]
pub struct BackingChoice {
    /// The file to use.
    pub path: PathBuf,
    /// The header must be rewritten to name `path`.
    pub switched: bool,
    /// What the file looks like, already checked against the header.
    pub stat: BackingStat,
}

/// Decides between the backing file named in the header and one `requested`
/// by the user, then checks the winner; `note` receives the driver's log lines.
pub fn resolve_backing(
    cow: &Path,
    header: &Header,
    requested: Option<&Path>,
    note: &mut dyn FnMut(Note),
) -> Result<BackingChoice, Mismatch> {
    let wanted = requested.filter(|wanted| wanted.as_os_str() != header.backing.as_os_str());
    if let Some(choice) = wanted.and_then(|wanted| try_switch(cow, header, wanted, note)) {
        return Ok(choice);
    }
    let stat = stat_backing(&header.backing)
        .map_err(|error| Mismatch::Stat { path: header.backing.clone(), error })
        .and_then(|stat| check_backing(header, &stat).map(|()| stat))
        .inspect_err(|mismatch| note(Note::error(mismatch.to_string())))?;
    Ok(BackingChoice { path: header.backing.clone(), switched: false, stat })
}

/// The requested file, if it differs from the header's and fits the header.
fn try_switch(
    cow: &Path,
    header: &Header,
    wanted: &Path,
    note: &mut dyn FnMut(Note),
) -> Option<BackingChoice> {
    let errno = |error: &io::Error| error.raw_os_error().unwrap_or(0);
    let stat = match stat_backing(wanted) {
        Ok(stat) => stat,
        Err(error) => {
            let (path, err) = (wanted.display(), errno(&error));
            note(Note::error(format!("Couldn't stat '{path}', err = {err}")));
            return None;
        }
    };
    match stat_backing(&header.backing) {
        Ok(named) if (named.device, named.inode) == (stat.device, stat.inode) => return None,
        Ok(_) => note(Note::error(format!(
            "Backing file mismatch - \"{}\" requested, \"{}\" specified in COW header of \"{}\"",
            wanted.display(),
            header.backing.display(),
            cow.display()
        ))),
        Err(error) => {
            let (path, err) = (header.backing.display(), errno(&error));
            note(Note::error(format!("Couldn't stat '{path}', err = {err}")));
        }
    }
    match check_backing(header, &stat) {
        Ok(()) => {
            note(Note::info(format!("Switching backing file to '{}'", wanted.display())));
            Some(BackingChoice { path: wanted.to_owned(), switched: true, stat })
        }
        Err(mismatch) => {
            note(Note::error(mismatch.to_string()));
            None
        }
    }
}
