//! What went wrong, in the words scripts know and in words that help.

use std::io::{self, Write};

use uml_formats::strerror;

/// An error of a run; the exit status is 1.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Line the classic tool prints on stdout.
    pub stdout: Option<String>,
    /// Line the classic tool prints on stderr.
    pub line: Option<String>,
    /// What, with which value, and what to do; printed after the program's name.
    pub detail: Option<String>,
}

impl Failure {
    /// A classic line and an explanation.
    pub fn new(line: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { stdout: None, line: Some(line.into()), detail: Some(detail.into()) }
    }

    /// A case the classic tool does not know.
    pub fn plain(detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..Self::default() }
    }

    /// A failed system call: `<what>: <strerror>` and the file it concerned.
    pub fn io(what: &str, file: &std::path::Path, error: &io::Error) -> Self {
        let hint = match error.raw_os_error() {
            Some(nix::libc::ENOSPC | nix::libc::EDQUOT) => "; make room and run it again",
            Some(nix::libc::EACCES | nix::libc::EPERM) => "; check its permissions",
            Some(nix::libc::ENOENT) => "; check the path",
            Some(nix::libc::EINVAL) => "; it must be a regular file or a block device",
            Some(nix::libc::EFBIG) => "; the file system cannot hold a file of this size",
            _ => "",
        };
        Self::new(
            format!("{what}: {}", strerror(error)),
            format!("\"{}\": {}{hint}", file.display(), strerror(error)),
        )
    }

    /// Prints everything where it belongs.
    pub fn print(&self, program: &str) {
        // Nothing can be done about closed streams; the exit status remains.
        if let Some(line) = &self.stdout {
            let _ = writeln!(io::stdout(), "{line}");
        }
        let mut stderr = io::stderr().lock();
        if let Some(line) = &self.line {
            let _ = writeln!(stderr, "{line}");
        }
        if let Some(detail) = &self.detail {
            let _ = writeln!(stderr, "{program}: {detail}");
        }
    }
}
