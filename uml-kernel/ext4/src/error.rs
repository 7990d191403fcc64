//! Why a mount is refused, and what happens when damage is found later.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use uml_abi::Errno;
use uml_abi::errno::{EBADMSG, EBUSY, EFBIG, EINVAL, EIO, ENOMEM, ENOSPC, EROFS, EUCLEAN};

/// Damaged metadata (Linux's `EFSCORRUPTED`).
pub const EFSCORRUPTED: Errno = EUCLEAN;
/// A metadata checksum does not match (Linux's `EFSBADCRC`).
pub const EFSBADCRC: Errno = EBADMSG;

/// Why [`crate::Ext4::open`] refused.
#[derive(Debug)]
pub enum MountError {
    /// No ext2/3/4 superblock, or one that contradicts itself or the device.
    NotExt4(String),
    /// Features that this engine cannot even read, by `tune2fs` name.
    Unreadable(Vec<String>),
    /// Features that allow only a read-only mount, by `tune2fs` name.
    Unwritable(Vec<String>),
    /// The journal lives on another device.
    ExternalJournal,
    /// The journal cannot be used; the text says why.
    Journal(String),
    /// Metadata needed for mounting is damaged; the text says what.
    Corrupt(String),
    /// Multi-mount protection says that somebody else has it; the text says who.
    InUse(String),
    /// The block store failed.
    Io(Errno),
}

impl MountError {
    /// The errno mount(2) returns for this refusal.
    pub fn errno(&self) -> Errno {
        match self {
            MountError::NotExt4(_) | MountError::Unreadable(_) | MountError::ExternalJournal => {
                EINVAL
            }
            MountError::Unwritable(_) => EROFS,
            MountError::Journal(_) | MountError::Corrupt(_) => EFSCORRUPTED,
            MountError::InUse(_) => EBUSY,
            MountError::Io(e) => *e,
        }
    }
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountError::NotExt4(why) => write!(f, "not a usable ext2/ext3/ext4 filesystem: {why}"),
            MountError::Unreadable(n) => {
                write!(f, "unsupported filesystem features: {}", n.join(", "))
            }
            MountError::Unwritable(n) => write!(
                f,
                "features that allow only a read-only mount: {} (mount with -o ro)",
                n.join(", ")
            ),
            MountError::ExternalJournal => {
                write!(f, "the journal is on an external device, which is not supported")
            }
            MountError::Journal(why) => write!(f, "journal: {why}"),
            MountError::Corrupt(why) => write!(f, "damaged metadata: {why}; run e2fsck"),
            MountError::InUse(why) => write!(f, "multi-mount protection: {why}"),
            MountError::Io(e) => write!(f, "block device: {e}"),
        }
    }
}

impl std::error::Error for MountError {}

impl From<Errno> for MountError {
    fn from(e: Errno) -> MountError {
        MountError::Io(e)
    }
}

/// The `errors=` mount option (mount(8), ext4(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// Record the error in the superblock and go on.
    Continue,
    /// Refuse all further changes.
    RemountRo,
    /// Refuse further changes; the owner of the filesystem must panic.
    Panic,
}

/// One piece of damage or one fatal I/O error found while mounted.
#[derive(Clone, Debug)]
pub struct FsError {
    /// What was wrong, for the kernel log.
    pub what: String,
    /// The inode concerned, or 0.
    pub ino: u32,
    /// The block concerned, or 0.
    pub block: u64,
    /// What the operation that met it returned.
    pub errno: Errno,
    /// The policy in force; on [`ErrorPolicy::Panic`] the owner must panic.
    pub policy: ErrorPolicy,
}

impl FsError {
    /// The number that the superblock has for [`FsError::errno`] (`s_first_error_errcode`), 1 for what has none.
    pub(crate) fn code(&self) -> u8 {
        match self.errno {
            EIO => 2,
            ENOMEM => 3,
            EFSBADCRC => 4,
            EFSCORRUPTED => 5,
            ENOSPC => 6,
            EROFS => 8,
            EFBIG => 9,
            _ => 1,
        }
    }
}

/// Receiver of [`FsError`]s; called with internal locks held, so it must not
/// call back into the filesystem.
pub type ErrorHook = Arc<dyn Fn(&FsError) + Send + Sync>;

/// Errors that the superblock does not tell of yet.
#[derive(Clone, Debug)]
pub(crate) struct Unrecorded {
    pub(crate) count: u32,
    pub(crate) first: FsError,
    pub(crate) last: FsError,
}

/// Collects errors and carries out the policy.
pub(crate) struct ErrorSink {
    policy: AtomicU8,
    hook: Option<ErrorHook>,
    /// Set once changes are refused, by request or by policy.
    pub(crate) read_only: AtomicBool,
    pending: Mutex<Option<Unrecorded>>,
}

impl ErrorSink {
    pub(crate) fn new(policy: ErrorPolicy, hook: Option<ErrorHook>, read_only: bool) -> ErrorSink {
        ErrorSink {
            policy: AtomicU8::new(policy as u8),
            hook,
            read_only: AtomicBool::new(read_only),
            pending: Mutex::new(None),
        }
    }

    pub(crate) fn policy(&self) -> ErrorPolicy {
        match self.policy.load(Ordering::Relaxed) {
            0 => ErrorPolicy::Continue,
            1 => ErrorPolicy::RemountRo,
            _ => ErrorPolicy::Panic,
        }
    }

    pub(crate) fn set_policy(&self, p: ErrorPolicy) {
        self.policy.store(p as u8, Ordering::Relaxed);
    }

    /// Reports damage and returns the errno to fail with.
    pub(crate) fn report(&self, errno: Errno, what: &str, ino: u32, block: u64) -> Errno {
        let policy = self.policy();
        let err = FsError { what: what.to_owned(), ino, block, errno, policy };
        if policy != ErrorPolicy::Continue {
            self.read_only.store(true, Ordering::Release);
        }
        if let Some(h) = &self.hook {
            h(&err);
        }
        match &mut *self.lock() {
            Some(p) => {
                p.count = p.count.saturating_add(1);
                p.last = err;
            }
            none => *none = Some(Unrecorded { count: 1, first: err.clone(), last: err }),
        }
        errno
    }

    fn lock(&self) -> MutexGuard<'_, Option<Unrecorded>> {
        self.pending.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes the unrecorded errors: the caller records them.
    pub(crate) fn take_pending(&self) -> Option<Unrecorded> {
        self.lock().take()
    }

    /// The unrecorded errors.
    pub(crate) fn pending(&self) -> Option<Unrecorded> {
        self.lock().clone()
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.lock().is_some()
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }
}
