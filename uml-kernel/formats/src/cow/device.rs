//! The opening sequence of a ubd device: mode, locks, header, backing file.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::backing::{resolve_backing, stat_backing};
use super::create::{create, rewrite_header};
use super::header::{Header, HeaderError, read_header};
use super::image::{BitmapPolicy, Image};

/// What a disk is refused with whose file, or backing file, is missing.
pub const SIZE_UNKNOWN: &str = "Couldn't determine size of device's file";
use crate::host_lock::{LockError, LockKind, lock_file};
use crate::store::Store;

/// How loud a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Info,
    Error,
}

/// A line for the kernel log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub severity: Severity,
    pub text: String,
}

impl Note {
    pub(super) fn info(text: String) -> Self {
        Self { severity: Severity::Info, text }
    }
    pub(super) fn error(text: String) -> Self {
        Self { severity: Severity::Error, text }
    }
}

/// A device as configured.
#[derive(Clone, Debug)]
pub struct DeviceSpec {
    /// The file, or the COW file when `backing` is given.
    pub file: PathBuf,
    pub backing: Option<PathBuf>,
    /// Flag `r`.
    pub read_only: bool,
    /// Flag `s` or `ubd=sync`.
    pub sync: bool,
    /// Flag `c`: no host file lock.
    pub shared: bool,
    /// Flag `d`: do not look for a COW header.
    pub plain: bool,
    pub policy: BitmapPolicy,
}

/// An opened device. Its locks last as long as its files are open.
#[derive(Debug)]
pub enum Device {
    /// An image used directly. `size` in bytes, rounded up to 512.
    Plain {
        file: File,
        size: u64,
        read_only: bool,
    },
    Cow {
        image: Box<Image>,
        read_only: bool,
    },
}

/// Why a device was not opened.
#[derive(Debug)]
pub struct DeviceError {
    /// For the guest and for mconsole replies, positive.
    pub errno: i32,
    /// The driver's error string; stock replies carry it.
    pub text: String,
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for DeviceError {}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

struct Opening<'a> {
    spec: &'a DeviceSpec,
    note: &'a mut dyn FnMut(Note),
}

/// Opens, locks and validates what `spec` names; `note` receives the driver's
/// log lines (the stock texts) in order.
///
/// One deliberate difference: a file that carries the COW magic but is damaged
/// is refused even when named without a backing file, where the stock driver
/// would write to it as a plain image. Flag `d` still allows that.
pub fn open_device(spec: &DeviceSpec, note: &mut dyn FnMut(Note)) -> Result<Device, DeviceError> {
    let mut opening = Opening { spec, note };
    match &spec.backing {
        Some(_) if spec.plain => Err(DeviceError {
            errno: libc::EINVAL,
            text: "Can't specify both 'd' and a cow file".to_owned(),
        }),
        Some(backing) => opening.open_cow(backing),
        None => opening.open_single(),
    }
}

impl Opening<'_> {
    fn error(&mut self, text: String) {
        (self.note)(Note::error(text));
    }

    fn fail(&mut self, path: &Path, errno: i32) -> DeviceError {
        self.error(format!("Failed to open '{}', errno = {errno}", path.display()));
        DeviceError {
            errno,
            text: format!(
                "cannot open \"{}\": {}",
                path.display(),
                nix::errno::Errno::from_raw(errno).desc()
            ),
        }
    }

    /// Opens read-write, falling back to read-only where writing is not allowed.
    fn open(&self, path: &Path) -> io::Result<(File, bool)> {
        let mut options = OpenOptions::new();
        options.read(true);
        if self.spec.sync {
            options.custom_flags(libc::O_SYNC);
        }
        if !self.spec.read_only {
            match options.clone().write(true).open(path) {
                Err(error) if matches!(errno_of(&error), libc::EROFS | libc::EACCES) => {}
                result => return result.map(|file| (file, false)),
            }
        }
        options.open(path).map(|file| (file, true))
    }

    fn lock(&mut self, path: &Path, file: &File, read_only: bool) -> Result<(), DeviceError> {
        if self.spec.shared {
            let text = format!("Not locking \"{}\" on the host", path.display());
            (self.note)(Note::info(text));
            return Ok(());
        }
        let kind = if read_only { LockKind::Shared } else { LockKind::Exclusive };
        let Err(error) = lock_file(file, kind) else { return Ok(()) };
        if let LockError::Held { pid } = error {
            self.error(format!("F_SETLK failed, file already locked by pid {pid}"));
        }
        let errno = error.errno();
        self.error(format!("Failed to lock '{}', err = {errno}", path.display()));
        Err(DeviceError { errno, text: format!("\"{}\" is {error}", path.display()) })
    }

    fn open_single(&mut self) -> Result<Device, DeviceError> {
        let path = &self.spec.file;
        let (file, read_only) = match self.open(path) {
            Ok(opened) => opened,
            Err(error) if errno_of(&error) == libc::ENOENT => {
                return Err(self.size_unknown(path, &error));
            }
            Err(error) => return Err(self.fail(path, errno_of(&error))),
        };
        self.lock(path, &file, read_only)?;
        if !self.spec.plain {
            match read_header(&file).map_err(|error| self.fail(path, errno_of(&error)))? {
                Ok(header) => return self.with_header(file, read_only, header, None),
                Err(error) => self.plain_allowed(path, &error)?,
            }
        }
        let size = Store::size(&file).map_err(|error| self.size_unknown(path, &error))?;
        let size = size.checked_next_multiple_of(512).ok_or(DeviceError {
            errno: libc::EFBIG,
            text: format!("\"{}\" is too large", path.display()),
        })?;
        Ok(Device::Plain { file, size, read_only })
    }

    fn plain_allowed(&mut self, path: &Path, error: &HeaderError) -> Result<(), DeviceError> {
        if let Some(line) = error.stock_message() {
            self.error(line);
        }
        if !error.is_damaged_cow() {
            return Ok(());
        }
        let text =
            format!("\"{}\": {error}; use flag 'd' if it really is a plain image", path.display());
        self.error(text.clone());
        Err(DeviceError { errno: libc::EINVAL, text })
    }

    fn size_unknown(&mut self, path: &Path, error: &io::Error) -> DeviceError {
        let errno = errno_of(error);
        self.error(format!("Couldn't stat \"{}\" : err = {errno}", path.display()));
        DeviceError { errno, text: SIZE_UNKNOWN.to_owned() }
    }

    fn open_cow(&mut self, backing: &Path) -> Result<Device, DeviceError> {
        let path = &self.spec.file;
        stat_backing(backing).map_err(|error| self.size_unknown(backing, &error))?;
        let (file, read_only) = match self.open(path) {
            Ok(opened) => opened,
            Err(error) if errno_of(&error) == libc::ENOENT && !self.spec.read_only => {
                return self.create_cow(backing);
            }
            Err(error) => return Err(self.fail(path, errno_of(&error))),
        };
        self.lock(path, &file, read_only)?;
        let header = read_header(&file).map_err(|error| self.fail(path, errno_of(&error)))?;
        match header {
            Ok(header) => self.with_header(file, read_only, header, Some(backing)),
            Err(error) => {
                if let Some(line) = error.stock_message() {
                    self.error(line);
                }
                let name = path.display();
                self.error(format!(
                    "Failed to read COW header from COW file \"{name}\", errno = {}",
                    libc::EINVAL
                ));
                Err(DeviceError { errno: libc::EINVAL, text: format!("\"{name}\": {error}") })
            }
        }
    }

    fn create_cow(&mut self, backing: &Path) -> Result<Device, DeviceError> {
        let path = self.spec.file.as_path();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o644);
        if self.spec.sync {
            options.custom_flags(libc::O_SYNC);
        }
        let file = options.open(path).map_err(|error| {
            let errno = errno_of(&error);
            let text = format!("Open of COW file '{}' failed, errno = {errno}", path.display());
            self.error(text.clone());
            DeviceError { errno, text }
        })?;
        self.lock(path, &file, false)?;
        (self.note)(Note::info(format!(
            "Creating \"{}\" as COW file for \"{}\"",
            path.display(),
            backing.display()
        )));
        let header = match create(&file, backing) {
            Ok(header) => header,
            Err(error) => {
                // A file without a header would be refused at the next start.
                let _ = std::fs::remove_file(path);
                if let Some(line) = error.stock_message() {
                    self.error(line);
                }
                return Err(DeviceError { errno: error.errno(), text: error.to_string() });
            }
        };
        self.with_header(file, false, header, Some(backing))
    }

    fn with_header(
        &mut self,
        cow: File,
        read_only: bool,
        mut header: Header,
        requested: Option<&Path>,
    ) -> Result<Device, DeviceError> {
        let path = self.spec.file.as_path();
        let choice = resolve_backing(path, &header, requested, self.note).map_err(|mismatch| {
            DeviceError { errno: libc::EINVAL, text: format!("{mismatch}: {}", mismatch.remedy()) }
        })?;
        if choice.switched && !read_only {
            header = rewrite_header(&cow, &header, &choice.path).map_err(|error| {
                if let Some(line) = error.stock_message() {
                    self.error(line);
                }
                DeviceError { errno: error.errno(), text: error.to_string() }
            })?;
        }
        let backing = File::options()
            .read(true)
            // A header may name anything: opening a FIFO must not wait for a writer.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&choice.path)
            .map_err(|error| self.fail(&choice.path, errno_of(&error)))?;
        self.lock(&choice.path, &backing, true)?;
        let image = Image::new(header, cow, backing, self.spec.policy).map_err(|error| {
            DeviceError { errno: libc::EINVAL, text: format!("\"{}\": {error}", path.display()) }
        })?;
        Ok(Device::Cow { image: Box::new(image), read_only })
    }
}
