//! Taking and giving back a umid.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::lookup::{PidFile, process_alive, read_pid_file};
use super::{PID_NAME, SOCKET_NAME, Umid, UmlDir};

/// Directories this process holds. A pid file with our own pid and no entry
/// here is a leftover: of the kernel before a reboot in place, or of a machine
/// in an earlier life of this container, where pids repeat. Accessed with the
/// lock on `uml_dir` held.
static HELD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// How long another start may hold the lock on `uml_dir`.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const PATH_MAX: usize = 255;

/// Another process has the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    pub umid: Umid,
    pub pid: i32,
}

/// Why a name was not obtained. The display text is the line for the log.
#[derive(Debug)]
pub enum ClaimError {
    InUse(InUse),
    /// The stale directory could not be emptied (for example, it has a subdirectory).
    Stale {
        path: PathBuf,
        error: io::Error,
    },
    Create {
        path: PathBuf,
        error: io::Error,
    },
    PathTooLong {
        path: PathBuf,
    },
    Lock {
        path: PathBuf,
        error: io::Error,
    },
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = |error: &io::Error| error.raw_os_error().unwrap_or(0);
        match self {
            Self::InUse(InUse { umid, pid }) => {
                write!(f, "umid \"{umid}\" is already in use by pid {pid}")
            }
            Self::Stale { path, error } => write!(
                f,
                "is_umdir_used - remove_files_and_dir failed with err = {} (stale directory \
                 '{}'; remove it by hand)",
                code(error),
                path.display()
            ),
            Self::Create { path, error } => {
                write!(f, "Failed to create '{}' - err = {}", path.display(), code(error))
            }
            Self::PathTooLong { path } => write!(
                f,
                "instance directory '{}' is longer than {PATH_MAX} bytes; use a shorter uml_dir",
                path.display()
            ),
            Self::Lock { path, error } => write!(
                f,
                "cannot lock '{}': {}; another instance may be starting",
                path.display(),
                crate::strerror(error)
            ),
        }
    }
}

impl std::error::Error for ClaimError {}

/// A name taken for this process, with its directory.
#[derive(Debug)]
pub struct Claim {
    umid: Umid,
    dir: UmlDir,
    path: PathBuf,
    pid: i32,
}

/// Takes `wanted`, or a random name when it is absent or cannot be had. `log`
/// receives the lines the kernel prints on the way.
pub fn claim_or_random(
    dir: &UmlDir,
    wanted: Option<&Umid>,
    log: &mut dyn FnMut(String),
) -> Result<Claim, ClaimError> {
    if let Some(umid) = wanted {
        match dir.claim(umid, log) {
            Ok(claim) => return Ok(claim),
            Err(error) => {
                log(error.to_string());
                log(format!("Failed to initialize umid \"{umid}\", trying with a random umid"));
            }
        }
    }
    loop {
        let umid = Umid::random()
            .map_err(|error| ClaimError::Create { path: dir.path().to_owned(), error })?;
        // An existing directory belongs to somebody else, stale or not.
        if dir.instance(&umid).symlink_metadata().is_ok() {
            continue;
        }
        match dir.claim(&umid, log) {
            Err(ClaimError::InUse(_)) => {}
            result => return result,
        }
    }
}

impl UmlDir {
    /// Takes a name for the calling process: creates the directory with its
    /// pid file, replacing a stale one. `log` receives remarks about damaged
    /// pid files.
    pub fn claim(&self, umid: &Umid, log: &mut dyn FnMut(String)) -> Result<Claim, ClaimError> {
        let path = self.instance(umid);
        // The longest name inside is the socket's.
        if path.as_os_str().len() + 1 + SOCKET_NAME.len() > PATH_MAX {
            return Err(ClaimError::PathTooLong { path });
        }
        let _lock = self.lock()?;
        self.remove_abandoned_temporaries();
        if path.symlink_metadata().is_ok() {
            if let Some(pid) = used_by(&path, log) {
                return Err(ClaimError::InUse(InUse { umid: umid.clone(), pid }));
            }
            remove_files_and_dir(&path)
                .map_err(|error| ClaimError::Stale { path: path.clone(), error })?;
        }
        let pid = std::process::id() as i32;
        match self.install(&path, pid) {
            Ok(()) => {
                held(|held| held.insert(path.clone()));
                Ok(Claim { umid: umid.clone(), dir: self.clone(), path, pid })
            }
            // A stock kernel, which takes no lock, was faster.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(nix::libc::ENOTEMPTY | nix::libc::EEXIST)
                ) =>
            {
                let pid = used_by(&path, log).unwrap_or(0);
                Err(ClaimError::InUse(InUse { umid: umid.clone(), pid }))
            }
            Err(error) => Err(ClaimError::Create { path, error }),
        }
    }

    /// Builds the directory under a temporary name and moves it into place.
    fn install(&self, path: &Path, pid: i32) -> io::Result<()> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let serial = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = self.path().join(format!("{}{pid}-{serial}", Umid::TEMPORARY));
        DirBuilder::new().mode(0o777).create(&temporary)?;
        let result = File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(temporary.join(PID_NAME))
            .and_then(|mut file| writeln!(file, "{pid}"))
            // Fails when `path` exists and is not empty.
            .and_then(|()| std::fs::rename(&temporary, path));
        if result.is_err() {
            let _ = remove_files_and_dir(&temporary);
        }
        result
    }

    /// Directories that a start killed half-way left under construction.
    fn remove_abandoned_temporaries(&self) {
        let Ok(entries) = std::fs::read_dir(self.path()) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let pid = name
                .to_str()
                .and_then(|name| name.strip_prefix(Umid::TEMPORARY))
                .and_then(|rest| rest.split('-').next())
                .and_then(|pid| pid.parse().ok());
            if pid.is_some_and(|pid| !process_alive(pid)) {
                let _ = remove_files_and_dir(&entry.path());
            }
        }
    }

    /// Serialises starts and removals in this directory.
    fn lock(&self) -> Result<Flock<File>, ClaimError> {
        let failed = |error: io::Error| ClaimError::Lock { path: self.path().to_owned(), error };
        let deadline = Instant::now() + LOCK_PATIENCE;
        let mut file = File::open(self.path()).map_err(failed)?;
        let mut fallback = false;
        loop {
            use nix::errno::Errno;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, Errno::EAGAIN | Errno::EINTR)) if Instant::now() < deadline => {
                    file = back;
                    // flock(2) has no timed wait; holders keep it for microseconds.
                    std::thread::sleep(Duration::from_millis(2));
                }
                // NFS locks only what is open for writing, so no directories.
                Err((_, Errno::EBADF | Errno::EINVAL | Errno::EISDIR)) if !fallback => {
                    fallback = true;
                    file = File::options()
                        .write(true)
                        .create(true)
                        .truncate(false)
                        .mode(0o600)
                        .open(self.path().join(".lock"))
                        .map_err(failed)?;
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            }
        }
    }
}

impl Claim {
    pub fn umid(&self) -> &Umid {
        &self.umid
    }

    /// The instance's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the management socket belongs.
    pub fn socket_path(&self) -> PathBuf {
        self.path.join(SOCKET_NAME)
    }

    /// Removes the directory, if it still is this process's. Dropping a claim
    /// removes nothing: after a crash the directory stays, as it should.
    pub fn remove(self) -> io::Result<()> {
        let _lock = self.dir.lock().map_err(|error| io::Error::other(error.to_string()))?;
        held(|held| held.remove(&self.path));
        match read_pid_file(&self.path) {
            PidFile::Pid(pid) if pid != self.pid => Ok(()),
            _ => match remove_files_and_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            },
        }
    }
}

fn held<T>(action: impl FnOnce(&mut BTreeSet<PathBuf>) -> T) -> T {
    action(&mut HELD.lock().unwrap_or_else(PoisonError::into_inner))
}

fn in_use(path: &Path, pid: i32) -> bool {
    if pid == std::process::id() as i32 {
        return held(|held| held.contains(path));
    }
    process_alive(pid)
}

/// The live process that owns an instance directory, by the stock rules.
fn used_by(path: &Path, log: &mut dyn FnMut(String)) -> Option<i32> {
    let file = path.join(PID_NAME);
    let name = file.display();
    match read_pid_file(path) {
        PidFile::Pid(pid) => in_use(path, pid).then_some(pid),
        PidFile::Missing => None,
        PidFile::Unopened(error) => {
            let err = error.raw_os_error().unwrap_or(0);
            log(format!("is_umdir_used : couldn't open pid file '{name}', err = {err}"));
            None
        }
        PidFile::Unread(error) => {
            let err = error.raw_os_error().unwrap_or(0);
            log(format!("is_umdir_used : couldn't read pid file '{name}', err = {err}"));
            None
        }
        PidFile::Empty => {
            log(format!("is_umdir_used : couldn't read pid file '{name}', 0-byte read"));
            None
        }
        PidFile::NotANumber => {
            let errno = nix::libc::EINVAL;
            log(format!("is_umdir_used : couldn't parse pid file '{name}', errno = {errno}"));
            None
        }
    }
}

/// Unlinks everything directly inside and removes the directory; fails at a
/// subdirectory, deliberately: nobody put one there by accident.
fn remove_files_and_dir(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        match std::fs::remove_file(entry?.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uml_dir() -> (tempfile::TempDir, UmlDir) {
        let temp = tempfile::tempdir().expect("tempdir");
        let dir = UmlDir::resolve(Some(temp.path().join("uml").as_os_str()), None).expect("dir");
        dir.create().expect("mkdir");
        dir.create().expect("existing is fine");
        (temp, dir)
    }

    fn quiet(line: String) {
        panic!("unexpected remark: {line}");
    }

    /// A pid that existed and is gone.
    fn dead_pid() -> u32 {
        let mut child = std::process::Command::new("true").spawn().expect("true(1)");
        let pid = child.id();
        child.wait().expect("wait");
        pid
    }

    #[test]
    fn claim_writes_the_pid_and_remove_takes_everything_away() {
        let (_temp, dir) = uml_dir();
        let umid = Umid::new("t1").expect("name");
        let claim = dir.claim(&umid, &mut quiet).expect("claim");
        let pid = std::fs::read_to_string(claim.path().join("pid")).expect("pid file");
        assert_eq!(pid, format!("{}\n", std::process::id()));
        std::fs::write(claim.socket_path(), "").expect("stand-in for the socket");
        let again = dir.claim(&umid, &mut quiet);
        assert!(matches!(&again, Err(ClaimError::InUse(used)) if used.pid == claim.pid));
        let path = claim.path().to_owned();
        claim.remove().expect("remove");
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 0);
    }

    #[test]
    fn stale_directories_are_taken_over() {
        let (_temp, dir) = uml_dir();
        let umid = Umid::new("t2").expect("name");
        let path = dir.instance(&umid);
        let cases =
            [Some(format!("{}\n", dead_pid())), Some(String::new()), Some("x".into()), None];
        for contents in cases {
            std::fs::create_dir(&path).expect("mkdir");
            std::fs::write(path.join("mconsole"), "").expect("old socket");
            if let Some(contents) = &contents {
                std::fs::write(path.join("pid"), contents).expect("pid file");
            }
            let mut lines = Vec::new();
            let claim = dir.claim(&umid, &mut |line| lines.push(line)).expect("takeover");
            assert!(!claim.socket_path().exists());
            let damaged = contents.is_some_and(|text| !text.ends_with('\n'));
            assert_eq!(lines.len(), usize::from(damaged), "{lines:?}");
            claim.remove().expect("remove");
        }
    }

    #[test]
    fn a_subdirectory_keeps_a_stale_directory_and_a_random_name_is_used() {
        let (_temp, dir) = uml_dir();
        let umid = Umid::new("t3").expect("name");
        std::fs::create_dir_all(dir.instance(&umid).join("sub")).expect("mkdir");
        let mut lines = Vec::new();
        let claim = claim_or_random(&dir, Some(&umid), &mut |line| lines.push(line));
        let claim = claim.expect("random name");
        assert_ne!(claim.umid(), &umid);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("is_umdir_used - remove_files_and_dir failed with err = "));
        assert_eq!(lines[1], "Failed to initialize umid \"t3\", trying with a random umid");
        assert!(dir.instance(&umid).join("sub").exists());
    }

    #[test]
    fn a_leftover_with_our_own_pid_is_stale() {
        let (_temp, dir) = uml_dir();
        let umid = Umid::new("reboot").expect("name");
        let path = dir.instance(&umid);
        std::fs::create_dir(&path).expect("mkdir");
        std::fs::write(path.join("pid"), format!("{}\n", std::process::id())).expect("pid");
        dir.claim(&umid, &mut quiet).expect("nobody holds it").remove().expect("remove");
    }

    #[test]
    fn removal_spares_a_directory_that_changed_hands() {
        let (_temp, dir) = uml_dir();
        let umid = Umid::new("t4").expect("name");
        let claim = dir.claim(&umid, &mut quiet).expect("claim");
        std::fs::write(claim.path().join("pid"), "1\n").expect("new owner");
        claim.remove().expect("nothing to do");
        assert!(dir.instance(&umid).join("pid").exists());
    }

    #[test]
    fn half_built_directories_of_dead_starts_are_cleared() {
        let (_temp, dir) = uml_dir();
        let left = dir.path().join(format!("{}{}-0", Umid::TEMPORARY, dead_pid()));
        std::fs::create_dir(&left).expect("mkdir");
        std::fs::write(left.join("pid"), "1\n").expect("pid");
        let umid = Umid::new("t5").expect("name");
        dir.claim(&umid, &mut quiet).expect("claim");
        assert!(!left.exists());
    }

    #[test]
    fn of_many_simultaneous_starts_over_a_stale_directory_one_wins() {
        let (_temp, dir) = uml_dir();
        let umid = Umid::new("race").expect("name");
        let dead = dead_pid();
        for _ in 0..20 {
            let path = dir.instance(&umid);
            std::fs::create_dir(&path).expect("mkdir");
            std::fs::write(path.join("pid"), format!("{dead}\n")).expect("pid");
            let barrier = std::sync::Barrier::new(32);
            let wins: Vec<Claim> = std::thread::scope(|scope| {
                let start = || {
                    barrier.wait();
                    dir.claim(&umid, &mut |_| {}).ok()
                };
                let threads: Vec<_> = (0..32).map(|_| scope.spawn(start)).collect();
                threads.into_iter().filter_map(|t| t.join().expect("no panic")).collect()
            });
            assert_eq!(wins.len(), 1);
            wins.into_iter().for_each(|claim| claim.remove().expect("remove"));
        }
    }
}
