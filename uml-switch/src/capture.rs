//! Frames written to a file in the pcap format (the classic one, version 2.4, microseconds).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC: u32 = 0xa1b2_c3d4;
const SNAP_LEN: u32 = 65535;
const LINKTYPE_ETHERNET: u32 = 1;

/// A capture file being written.
pub struct Capture {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Capture {
    /// Creates the file, replacing one that is there.
    pub fn create(path: &Path) -> io::Result<Capture> {
        let mut file = BufWriter::new(File::create(path)?);
        for word in [MAGIC, 4 << 16 | 2, 0, 0, SNAP_LEN, LINKTYPE_ETHERNET] {
            file.write_all(&word.to_ne_bytes())?;
        }
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
        let words = [now.as_secs() as u32, now.subsec_micros(), stored as u32, frame.len() as u32];
        for word in words {
            self.file.write_all(&word.to_ne_bytes())?;
        }
        self.file.write_all(&frame[..stored])
    }

    /// Brings what was added into the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
