//! The COW file and its backing file: opened, locked, checked.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use uml_formats::cow::{
    self, BackingStat, Header, Layout, Mismatch, Segments, changed_runs, read_header,
};
use uml_formats::host_lock::{LockError, LockKind, lock_file};
use uml_formats::store::Store;
use uml_formats::strerror;

use crate::failure::Failure;
use crate::marker;

/// What will be done with the backing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// In-place merge.
    MergeInto,
}

/// Both files of a disk. The locks last as long as this value.
#[derive(Debug)]
pub struct Source {
    pub cow_path: PathBuf,
    pub cow: File,
    pub header: Header,
    pub layout: Layout,
    pub backing_path: PathBuf,
    pub backing: File,
    pub stat: BackingStat,
    /// An interrupted in-place merge of this pair is being continued.
    pub resuming: bool,
}

/// Amount of change in a COW file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub sectors: u64,
    pub runs: u64,
    /// End of the last changed sector.
    pub end: u64,
}

/// Opens a file without waiting: a COW header may name a FIFO, or a terminal.
pub fn open_input(path: &Path, write: bool) -> io::Result<File> {
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let file = File::options().read(true).write(write).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
        return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
    }
    Ok(file)
}

/// Opens a COW file and decodes its header, with the classic messages.
pub fn open_cow(path: &Path) -> Result<(File, Header, Layout), Failure> {
    let cow =
        open_input(path, false).map_err(|error| Failure::io("COW file open", path, &error))?;
    let header = read_header(&cow)
        .map_err(|error| Failure::io("Reading COW header failed", path, &error))?;
    let unusable = |error: cow::HeaderError| Failure {
        stdout: error.stock_message(),
        line: Some("Reading COW header failed".to_owned()),
        detail: Some(format!("\"{}\": {error}", path.display())),
    };
    let header = header.map_err(unusable)?;
    let layout = header.layout().map_err(unusable)?;
    Ok((cow, header, layout))
}

/// Counts what changed; costs nothing for holes in the bitmap.
pub fn changes(cow: &File, layout: &Layout) -> io::Result<Changes> {
    changed_runs(cow, layout).try_fold(Changes::default(), |sum, run| {
        let run = run?;
        Ok(Changes {
            sectors: sum.sectors + (run.end - run.start),
            runs: sum.runs + 1,
            end: run.end,
        })
    })
}

impl Source {
    /// Opens the pair in the order of the classic checks; nothing is written.
    pub fn open(
        cow_path: &Path,
        actual_backing: Option<&Path>,
        access: Access,
        warn: &dyn Fn(&str),
    ) -> Result<Self, Failure> {
        let (cow, header, layout) = open_cow(cow_path)?;
        lock(&cow, cow_path, LockKind::Shared, warn)?;
        let backing_path = actual_backing.unwrap_or(&header.backing).to_owned();
        let stat = cow::stat_backing(&backing_path)
            .map_err(|error| Failure::io("Stating backing file", &backing_path, &error))?;
        let resuming = match cow::check_backing(&header, &stat) {
            Ok(()) => false,
            Err(mismatch) => {
                let interrupted = marker::matches(cow_path, &header, &stat);
                if access == Access::MergeInto && interrupted {
                    true
                } else {
                    return Err(mismatched(cow_path, &backing_path, &mismatch, interrupted));
                }
            }
        };
        let backing = open_input(&backing_path, access == Access::MergeInto)
            .map_err(|error| Failure::io("Opening backing file", &backing_path, &error))?;
        same_file(&cow, &backing, &backing_path)?;
        let kind = match access {
            Access::Read => LockKind::Shared,
            Access::MergeInto => LockKind::Exclusive,
        };
        lock(&backing, &backing_path, kind, warn)?;
        let source = Self {
            cow_path: cow_path.to_owned(),
            cow,
            header,
            layout,
            backing_path,
            backing,
            stat,
            resuming,
        };
        source.check_complete()?;
        Ok(source)
    }

    /// Refuses a truncated COW file rather than merging zeros for lost data.
    fn check_complete(&self) -> Result<(), Failure> {
        let len = Store::size(&self.cow)
            .map_err(|error| Failure::io("Reading COW bitmap", &self.cow_path, &error))?;
        let bitmap_end = self.layout.bitmap_offset + self.layout.bitmap_len;
        let truncated = |what: &str, needed: u64| {
            Failure::new(
                format!("{what}: file is truncated"),
                format!(
                    "\"{}\" has {len} bytes, but its changed sectors reach up to byte {needed}; \
                     restore the file from a backup",
                    self.cow_path.display()
                ),
            )
        };
        if len < bitmap_end {
            return Err(truncated("Reading COW bitmap", bitmap_end));
        }
        let changes = self.changes()?;
        let end = (changes.end * u64::from(self.layout.sector_size)).min(self.total());
        if changes.sectors > 0 && len < self.layout.data_offset + end {
            return Err(truncated("Reading data", self.layout.data_offset + end));
        }
        Ok(())
    }

    /// Counts what changed.
    pub fn changes(&self) -> Result<Changes, Failure> {
        changes(&self.cow, &self.layout)
            .map_err(|error| Failure::io("Reading COW bitmap", &self.cow_path, &error))
    }

    /// Bytes of the merged result: whole sectors only, as the classic tool does it.
    pub fn total(&self) -> u64 {
        let sector = u64::from(self.layout.sector_size);
        self.layout.size / sector * sector
    }

    /// The merged result by origin.
    pub fn segments(&self) -> Segments<'_, File, File> {
        Segments::new(&self.cow, &self.backing, &self.layout, self.total())
    }
}

fn mismatched(cow: &Path, backing: &Path, mismatch: &Mismatch, interrupted: bool) -> Failure {
    let hint = if interrupted {
        format!(
            "an in-place merge of \"{}\" was interrupted; complete it with uml_moo -d",
            cow.display()
        )
    } else {
        mismatch.remedy().to_owned()
    };
    Failure::new(format!("{mismatch} \"{}\"", backing.display()), hint)
}

fn same_file(cow: &File, backing: &File, path: &Path) -> Result<(), Failure> {
    let id = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    if id(cow).is_some() && id(cow) == id(backing) {
        return Err(Failure::plain(format!(
            "\"{}\" is the COW file itself; -b must name the backing file",
            path.display()
        )));
    }
    Ok(())
}

/// Keeps running machines away; refuses when one is there already.
fn lock(file: &File, path: &Path, kind: LockKind, warn: &dyn Fn(&str)) -> Result<(), Failure> {
    match lock_file(file, kind) {
        Ok(()) => Ok(()),
        Err(error @ LockError::Held { .. }) => Err(Failure::plain(format!(
            "\"{}\" is {error}: a running machine uses it; halt that machine first",
            path.display()
        ))),
        Err(LockError::Io(error)) => {
            warn(&format!(
                "\"{}\" cannot be locked on this file system ({}); make sure that no machine \
                 uses it",
                path.display(),
                strerror(&error)
            ));
            Ok(())
        }
    }
}
