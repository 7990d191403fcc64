//! Frames written to a capture file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use uml_formats::pcap::{LinkType, SNAP_LEN, file_header, record_header};

/// A capture file being written.
pub struct Capture {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Capture {
    /// Creates the file, replacing one that is there.
    pub fn create(path: &Path) -> io::Result<Capture> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&file_header(LinkType::Ethernet, SNAP_LEN))?;
        file.flush()?;
        Ok(Capture { path: path.to_owned(), file })
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a frame with the present time.
    pub fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let stored = frame.len().min(SNAP_LEN as usize);
        self.file.write_all(&record_header(now.as_nanos() as u64, stored, frame.len()))?;
        self.file.write_all(&frame[..stored])
    }

    /// Brings what was added into the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
