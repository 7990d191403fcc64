//! What a command that failed says, and the status it exits with.

use std::fmt;
use std::io;
use std::path::Path;

/// Exit statuses of umld, as the table of umld(1) has them.
pub mod code {
    /// Everything else that went wrong.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The instance is stopped.
    pub const STOPPED: u8 = 3;
    /// There is no such instance.
    pub const NO_INSTANCE: u8 = 4;
    /// The instance runs already, or a file is locked.
    pub const BUSY: u8 = 5;
    /// The host lacks something.
    pub const UNAVAILABLE: u8 = 69;
    /// The guest panicked.
    pub const PANIC: u8 = 70;
    /// Something took too long.
    pub const TIMEOUT: u8 = 75;
    /// Not allowed.
    pub const PERMISSION: u8 = 77;
    /// vm.toml is wrong.
    pub const CONFIG: u8 = 78;
    /// `exec` and `run` could not start.
    pub const CANNOT_RUN: u8 = 125;
    /// The command exists but cannot be executed.
    pub const NOT_EXECUTABLE: u8 = 126;
    /// There is no such command.
    pub const NOT_FOUND: u8 = 127;
    /// `run` under systemd (RestartForceExitStatus=133) or without a file: the guest asked for a reboot.
    pub const REBOOT: u8 = 133;

    /// The table of umld(1): status and meaning.
    pub const TABLE: &[(u8, &str)] = &[
        (0, "success"),
        (FAILURE, "another failure, named on standard error"),
        (USAGE, "the command line is wrong"),
        (STOPPED, "the instance is stopped"),
        (NO_INSTANCE, "there is no such instance"),
        (BUSY, "the instance runs already, or a disk or file is locked"),
        (UNAVAILABLE, "a facility of the host is missing"),
        (PANIC, "the guest panicked"),
        (TIMEOUT, "something did not happen in time"),
        (PERMISSION, "not allowed"),
        (CONFIG, "vm.toml or fleet.toml is wrong"),
        (CANNOT_RUN, "run, exec: the command could not be started"),
        (NOT_EXECUTABLE, "run, exec: the command cannot be executed"),
        (NOT_FOUND, "run, exec: there is no such command"),
        (REBOOT, "run without a file or under systemd: the guest asked for a reboot"),
    ];
}

/// Why a command failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Exit status.
    pub code: u8,
    /// What to tell the user; several lines are allowed.
    pub text: String,
}

/// What commands return.
pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with a status.
    pub fn new(code: u8, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }

    /// A failure without a status of its own.
    pub fn other(text: impl Into<String>) -> Failure {
        Failure::new(code::FAILURE, text)
    }

    /// An operation on a file failed; "permission denied" has its own status.
    pub fn io(what: &str, path: &Path, e: &io::Error) -> Failure {
        let text = format!("{what} {}: {}", path.display(), uml_formats::strerror(e));
        Failure::new(status_of(e), text)
    }
}

/// The exit status that fits a host error.
pub fn status_of(e: &io::Error) -> u8 {
    match e.kind() {
        io::ErrorKind::PermissionDenied => code::PERMISSION,
        io::ErrorKind::TimedOut => code::TIMEOUT,
        _ => code::FAILURE,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// Adds what was done to a host error.
pub trait Context<T> {
    /// `what path: reason`.
    fn at(self, what: &str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|e| Failure::io(what, path, &e))
    }
}
