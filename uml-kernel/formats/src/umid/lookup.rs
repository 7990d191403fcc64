//! Finding instances: for clients and for the in-use test.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::{PID_NAME, SOCKET_NAME, Umid, UmlDir};

/// What a pid file says.
#[derive(Debug)]
pub(super) enum PidFile {
    Pid(i32),
    Missing,
    Unopened(io::Error),
    Unread(io::Error),
    Empty,
    NotANumber,
}

/// Reads at most 10 bytes, as the stock kernel does.
pub(super) fn read_pid_file(directory: &Path) -> PidFile {
    let file = match std::fs::File::open(directory.join(PID_NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return PidFile::Missing,
        Err(error) => return PidFile::Unopened(error),
    };
    let mut text = Vec::new();
    if let Err(error) = file.take(10).read_to_end(&mut text) {
        return PidFile::Unread(error);
    }
    if text.is_empty() {
        return PidFile::Empty;
    }
    match parse_number(&text) {
        Some(pid) => PidFile::Pid(pid),
        None => PidFile::NotANumber,
    }
}

/// The number at the start of `text`: decimal, octal after `0`, hexadecimal
/// after `0x`, like strtol(3) with base 0. Only positive numbers are pids.
fn parse_number(text: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(text.trim_ascii_start()).ok()?;
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', next, ..] if next.is_ascii_hexdigit() => (text.get(2..)?, 16),
        [b'0', ..] => (text, 8),
        _ => (text, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    i32::from_str_radix(digits.get(..end)?, radix).ok().filter(|pid| *pid > 0)
}

/// Whether a process with this pid exists, ours to signal or not.
pub(super) fn process_alive(pid: i32) -> bool {
    pid > 0 && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

/// The host pid recorded in an instance's directory.
pub fn read_pid(directory: &Path) -> Option<i32> {
    match read_pid_file(directory) {
        PidFile::Pid(pid) => Some(pid),
        _ => None,
    }
}

/// An instance directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub umid: String,
    pub directory: PathBuf,
    /// From its pid file.
    pub pid: Option<i32>,
    /// That process exists.
    pub alive: bool,
    /// The management socket exists.
    pub socket: Option<PathBuf>,
}

impl Instance {
    fn read(umid: String, directory: PathBuf) -> Instance {
        let pid = read_pid(&directory);
        let socket = directory.join(SOCKET_NAME);
        let is_socket = socket.metadata().is_ok_and(|meta| meta.file_type().is_socket());
        Instance {
            umid,
            pid,
            alive: pid.is_some_and(process_alive),
            socket: is_socket.then_some(socket),
            directory,
        }
    }
}

impl UmlDir {
    /// All instance directories, sorted by name; empty if `uml_dir` does not exist.
    pub fn list(&self) -> io::Result<Vec<Instance>> {
        let entries = match std::fs::read_dir(self.path()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut instances = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(umid) = entry.file_name().into_string() else { continue };
            if umid.starts_with('.') || !entry.file_type()?.is_dir() {
                continue;
            }
            instances.push(Instance::read(umid, entry.path()));
        }
        instances.sort_by(|a, b| a.umid.cmp(&b.umid));
        Ok(instances)
    }

    /// The instance directory of this name, without a look at the others.
    pub fn find(&self, umid: &str) -> Option<Instance> {
        let umid = Umid::new(umid).ok()?;
        let directory = self.instance(&umid);
        directory.is_dir().then(|| Instance::read(umid.as_str().to_owned(), directory))
    }
}

/// A path tried by [`find_socket`] that does not exist.
#[derive(Debug)]
pub struct Candidate {
    pub path: PathBuf,
    pub error: io::Error,
}

/// Finds the socket for a name given by a user, in the stock client's order:
/// `$HOME/.uml/<name>/mconsole`, `/tmp/uml/<name>/mconsole`, `<name>` itself.
/// Returns the socket and the instance's pid when its directory is known.
pub fn find_socket(
    name: &OsStr,
    home: Option<&OsStr>,
) -> Result<(PathBuf, Option<i32>), Vec<Candidate>> {
    let mut directories = Vec::new();
    if let Some(home) = home {
        directories.push(Path::new(home).join(".uml"));
    }
    directories.push(PathBuf::from("/tmp/uml"));
    let mut missing = Vec::new();
    for directory in directories {
        // A full path is not looked for below the directory it names.
        if name.as_bytes().starts_with(directory.as_os_str().as_bytes()) {
            continue;
        }
        let instance = directory.join(Path::new(name));
        let path = instance.join(SOCKET_NAME);
        match path.metadata() {
            Ok(_) => return Ok((path, read_pid(&instance))),
            Err(error) => missing.push(Candidate { path, error }),
        }
    }
    let path = PathBuf::from(name);
    match path.metadata() {
        // An instance directory is as good as its socket.
        Ok(meta) if meta.is_dir() && path.join(SOCKET_NAME).exists() => {
            let pid = read_pid(&path);
            Ok((path.join(SOCKET_NAME), pid))
        }
        Ok(_) => {
            let pid = path.parent().and_then(read_pid);
            Ok((path, pid))
        }
        Err(error) => {
            missing.push(Candidate { path, error });
            Err(missing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_strtol_with_base_0() {
        let cases: [(&[u8], Option<i32>); 9] = [
            (b"123\n", Some(123)),
            (b" 42 x", Some(42)),
            (b"010\n", Some(8)),
            (b"0x1f", Some(31)),
            (b"0", None),
            (b"-5", None),
            (b"abc", None),
            (b"9999999999", None),
            (b"\xff\xfe", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_number(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sockets_are_found_by_name_directory_and_path() {
        let temp = tempfile::tempdir().expect("tempdir");
        let home = Some(temp.path().as_os_str());
        let instance = temp.path().join(".uml/box");
        std::fs::create_dir_all(&instance).expect("mkdir");
        std::fs::write(instance.join("pid"), "77\n").expect("pid");
        let _bound = std::os::unix::net::UnixDatagram::bind(instance.join("mconsole"));
        let socket = instance.join("mconsole");
        for name in [OsStr::new("box"), instance.as_os_str(), socket.as_os_str()] {
            assert_eq!(find_socket(name, home).expect("found"), (socket.clone(), Some(77)));
        }
        let missing = find_socket(OsStr::new("nobox"), home).expect_err("absent");
        assert_eq!(missing.len(), 3);
        let dir = UmlDir::resolve(None, home).expect("dir");
        let listed = dir.list().expect("list");
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].umid.as_str(), listed[0].pid), ("box", Some(77)));
        assert!(listed[0].socket.is_some());
    }
}
