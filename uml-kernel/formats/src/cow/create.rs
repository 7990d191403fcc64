//! Making a COW file and the absolute path it records.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::backing::{BackingStat, stat_backing};
use super::header::{ByteOrder, Header, HeaderError, Version};
use super::{ALIGNMENT, SECTOR_SIZE};
use crate::store::{Store, write_all};

/// Why no COW file was made.
#[derive(Debug)]
pub enum CreateError {
    /// The directory part of the backing path cannot be entered.
    Directory { path: PathBuf, error: io::Error },
    /// The backing file cannot be looked at.
    Backing { path: PathBuf, error: io::Error },
    /// Path too long, or a size no COW file can describe.
    Header { backing: PathBuf, error: HeaderError },
    /// Writing the COW file failed.
    Write(io::Error),
}

impl CreateError {
    /// The line the stock driver and `uml_mkcow` print first.
    pub fn stock_message(&self) -> Option<String> {
        Some(match self {
            Self::Directory { path, error } => format!(
                "absolutize : Can't cd to '{}' - errno = {}",
                path.display(),
                error.raw_os_error().unwrap_or(0)
            ),
            // The stock code reports the failed request as -1, whatever the errno was.
            Self::Backing { path, .. } => format!(
                "write_cow_header - backing file '{}' mtime request failed, err = 1",
                path.display()
            ),
            Self::Header { backing, error: HeaderError::PathTooLong { max, .. } } => format!(
                "Backing file name \"{}\" is too long - names are limited to {max} characters",
                backing.display()
            ),
            Self::Header { .. } | Self::Write(_) => return None,
        })
    }

    /// The errno the stock code returns.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Directory { .. } | Self::Header { .. } => nix::libc::EINVAL,
            Self::Backing { .. } => nix::libc::EPERM,
            Self::Write(error) => error.raw_os_error().unwrap_or(nix::libc::EIO),
        }
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, error } => write!(
                f,
                "directory of backing file \"{}\": {}; create it or correct the path",
                path.display(),
                crate::strerror(error)
            ),
            Self::Backing { path, error } => write!(
                f,
                "backing file \"{}\": {}; it must exist and be accessible",
                path.display(),
                crate::strerror(error)
            ),
            Self::Header { backing, error } => {
                write!(f, "backing file \"{}\": {error}", backing.display())
            }
            Self::Write(error) => write!(f, "writing COW file: {}", crate::strerror(error)),
        }
    }
}

impl std::error::Error for CreateError {}

/// The absolute form of a backing path as the stock programs store it: the
/// directory part resolved, the last component as given.
pub fn absolutize(path: &Path) -> Result<PathBuf, CreateError> {
    let failed = |error| CreateError::Directory { path: path.to_owned(), error };
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    Ok(std::fs::canonicalize(directory).map_err(failed)?.join(name))
}

/// The version 3 header of a new COW file.
pub fn new_header(backing: &Path, stat: &BackingStat) -> Header {
    Header {
        version: Version::V3,
        order: ByteOrder::Big,
        mtime: stat.mtime32(),
        size: stat.size,
        sector_size: SECTOR_SIZE,
        alignment: ALIGNMENT,
        backing: backing.to_owned(),
    }
}

/// Makes `cow`, opened for writing, a COW file of `backing`: writes the header
/// and sets the length. The bitmap of a file that was empty is then a hole;
/// contents of a file that was not empty are kept, as `uml_mkcow -f` does.
pub fn create<S: Store>(cow: &S, backing: &Path) -> Result<Header, CreateError> {
    let path = absolutize(backing)?;
    let stat =
        stat_backing(&path).map_err(|error| CreateError::Backing { path: path.clone(), error })?;
    let header = new_header(&path, &stat);
    let failed = |error| CreateError::Header { backing: path.clone(), error };
    let bytes = header.encode().map_err(failed)?;
    let layout = header.layout().map_err(failed)?;
    write_all(cow, &bytes, 0).map_err(CreateError::Write)?;
    // At least the header precedes the last byte, so this does not underflow.
    let last = layout.file_size().saturating_sub(1);
    write_all(cow, &[0], last).map_err(CreateError::Write)?;
    Ok(header)
}

/// Records another backing file in an existing COW file, keeping its version,
/// so that the layout stays valid.
pub fn rewrite_header<S: Store>(
    cow: &S,
    header: &Header,
    backing: &Path,
) -> Result<Header, CreateError> {
    let path = absolutize(backing)?;
    let header = Header { backing: path.clone(), ..header.clone() };
    let bytes = header.encode().map_err(|error| CreateError::Header { backing: path, error })?;
    write_all(cow, &bytes, 0).map_err(CreateError::Write)?;
    cow.sync_data().map_err(CreateError::Write)?;
    Ok(header)
}
