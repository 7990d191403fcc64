//! What umld keeps of instances: one directory each below `~/.uml/.umld`.
//!
//! The kernel makes and removes `~/.uml/<umid>` itself, at every boot and halt; what must outlast that is beside it.
//! Every file here is plain text or JSON; `lock` is held (flock) by the holder as long as it runs, so no file can
//! claim that an instance is up when it is not.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, User, geteuid};
use serde::{Deserialize, Serialize};
use uml_formats::umid::UmlDir;

use crate::failure::{Context, Failure, Result, code};

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Store {
    /// Directory of the kernels' own directories.
    pub uml: UmlDir,
    /// Directory of ours.
    pub base: PathBuf,
}

impl Store {
    /// That of the calling user; nothing is created. Another user's is refused with status 77 to everybody but root:
    /// the sockets in it serve nobody else.
    pub fn open() -> Result<Store> {
        let uml = UmlDir::from_environment()
            .map_err(|e| Failure::new(code::UNAVAILABLE, e.to_string()))?;
        let base = uml.path().join(".umld");
        let store = Store { uml, base };
        let whose = stranger(store.uml.path()).or_else(|| stranger(&store.base));
        match whose.filter(|_| !geteuid().is_root()) {
            Some(owner) => Err(Failure::new(
                code::PERMISSION,
                format!(
                    "{} belongs to {}: only that user and root reach the machines in it",
                    store.uml.path().display(),
                    user_name(owner)
                ),
            )),
            None => {
                crate::cmd::rename::complete(&store);
                Ok(store)
            }
        }
    }

    /// That below another directory than `~/.uml`.
    #[cfg(test)]
    pub fn at(home: &Path) -> Store {
        use uml_formats::umid::UmlDir;
        let uml = UmlDir::resolve(Some(home.as_os_str()), None);
        let uml = uml.unwrap_or_else(|e| panic!("{e}"));
        let base = uml.path().join(".umld");
        Store { uml, base }
    }

    /// Refuses to make anything in another user's directory. Root reaches the machines in it, but what root starts or
    /// makes there its owner could not use.
    pub fn owned(&self) -> Result {
        owned(&self.base)
    }

    /// Makes the directory. `~/.uml` is made with the usual permissions, what is ours is private.
    pub fn create(&self) -> Result {
        use std::os::unix::fs::DirBuilderExt;
        self.owned()?;
        std::fs::create_dir_all(self.uml.path()).at("cannot make", self.uml.path())?;
        let made = std::fs::DirBuilder::new().mode(0o700).create(&self.base);
        match made {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Failure::io("cannot make", &self.base, &e))
            }
            _ => Ok(()),
        }
    }

    /// The directory of an instance, existing or not.
    pub fn dir(&self, name: &str) -> Dir {
        Dir { name: name.to_owned(), path: self.base.join(name) }
    }

    /// Every instance umld knows, by name.
    pub fn names(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.base) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            r => r.at("cannot list", &self.base)?,
        };
        let mut names: Vec<String> = entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|n| !n.starts_with('.') && self.base.join(n).join("vm.toml").is_file())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The file with the events of all instances.
    pub fn events(&self) -> PathBuf {
        self.base.join(".events")
    }

    /// Directory of images made by `umld image`.
    pub fn images(&self) -> PathBuf {
        self.base.join(".images")
    }

    /// Directory of a switch that fleets have.
    pub fn switch(&self, name: &str) -> PathBuf {
        self.base.join(".switches").join(name)
    }

    /// Control socket of the daemon.
    pub fn control(&self) -> PathBuf {
        self.base.join(".control")
    }

    /// Where holders send descriptors for the daemon to keep.
    pub fn keep(&self) -> PathBuf {
        self.base.join(".keep")
    }

    /// Appends an event.
    pub fn event(&self, e: &Event) {
        let mut line = serde_json::to_string(e).unwrap_or_default();
        line.push('\n');
        let append = || -> std::io::Result<()> {
            let path = self.events();
            if std::fs::metadata(&path).is_ok_and(|m| m.len() > EVENTS_MAX) {
                std::fs::rename(&path, path.with_extension("1"))?;
            }
            File::options().append(true).create(true).open(path)?.write_all(line.as_bytes())
        };
        if let Err(e) = append() {
            eprintln!("umld: event not recorded: {}", uml_formats::strerror(&e));
        }
    }
}

/// The owner of a path if that is somebody else.
fn stranger(path: &Path) -> Option<Uid> {
    let owner = Uid::from_raw(std::fs::metadata(path).ok()?.uid());
    (owner != geteuid()).then_some(owner)
}

fn owned(base: &Path) -> Result {
    match stranger(base) {
        None => Ok(()),
        Some(owner) => Err(Failure::new(
            code::PERMISSION,
            format!(
                "{0} belongs to {1}, who could not use what {2} makes there; become that user for it: \
                 runuser -u {1} -- umld ...",
                base.display(),
                user_name(owner),
                user_name(geteuid()),
            ),
        )),
    }
}

/// A user's name, or number where it has none.
fn user_name(id: Uid) -> String {
    match User::from_uid(id) {
        Ok(Some(u)) => u.name,
        _ => format!("uid {id}"),
    }
}

/// Size at which the event file is begun anew.
const EVENTS_MAX: u64 = 8 << 20;
/// How long to wait for a lock that is about to be let go.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Something that happened to an instance. The JSON field names are stable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since 1970.
    pub time: f64,
    /// The instance.
    pub name: String,
    /// `start`, `boot`, `reboot`, `login`, `ready`, `pause`, `resume`, `stop`, `exit`, `panic`, `restart`, `crash-loop`, `watchdog`,
    /// `adopt`, `message`, `create`, `remove`, `snapshot`, `restore`.
    pub event: String,
    /// More, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// What an instance does. `stopped` and `failed` are for the last end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum State {
    #[default]
    Created,
    Starting,
    Running,
    Paused,
    Stopping,
    Restarting,
    Stopped,
    Failed,
}

impl State {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Starting => "starting",
            State::Running => "running",
            State::Paused => "paused",
            State::Stopping => "stopping",
            State::Restarting => "restarting",
            State::Stopped => "stopped",
            State::Failed => "failed",
        }
    }

    /// True while there is a holder.
    pub fn is_up(self) -> bool {
        !matches!(self, State::Created | State::Stopped | State::Failed)
    }
}

/// status.json: what the holder knows. The field names are stable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// What it does.
    pub state: State,
    /// Host pid of the kernel process.
    pub pid: Option<i32>,
    /// When that process was started by the host's clock ticks since boot: tells a reused pid.
    pub pid_started: u64,
    /// Host pid of the holder.
    pub holder: Option<i32>,
    /// When it was started, seconds since 1970.
    pub started: Option<f64>,
    /// When the kernel was up.
    pub booted: Option<f64>,
    /// When `login:` appeared.
    pub login: Option<f64>,
    /// When the guest said it is ready.
    pub ready: Option<f64>,
    /// When it ended.
    pub ended: Option<f64>,
    /// Exit status of the kernel process, 128+n for signal n.
    pub exit: Option<i32>,
    /// Why it ended, for people.
    pub reason: String,
    /// Last kernel messages before a failure.
    pub last_messages: Vec<String>,
    /// Restarts by policy since it was started.
    pub restarts: u32,
    /// How limits are enforced: `cgroup PATH`, `rlimits`, or nothing.
    pub resources: String,
    /// The kernel's program.
    pub kernel: String,
    /// Lines held by umld.
    pub lines: Vec<String>,
}

/// The directory of one instance.
#[derive(Clone, Debug)]
pub struct Dir {
    /// The instance.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
}

impl Dir {
    /// The complete vm.toml as last started or created.
    pub fn spec(&self) -> PathBuf {
        self.path.join("vm.toml")
    }

    /// Names the file the user wrote, if there is one.
    pub fn source(&self) -> PathBuf {
        self.path.join("source")
    }

    /// status.json.
    pub fn status_file(&self) -> PathBuf {
        self.path.join("status.json")
    }

    /// The holder's socket.
    pub fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    /// Where the kernel sends notifications.
    pub fn notify(&self) -> PathBuf {
        self.path.join("notify")
    }

    /// Held for the holder's life.
    pub fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// A log: `kernel`, `supervisor`, or a line's name.
    pub fn log(&self, what: &str) -> PathBuf {
        self.path.join(format!("{what}.log"))
    }

    /// Whether umld knows this instance.
    pub fn exists(&self) -> bool {
        self.spec().is_file()
    }

    /// Makes the directory.
    pub fn create(&self) -> Result {
        use std::os::unix::fs::DirBuilderExt;
        self.path.parent().map_or(Ok(()), owned)?;
        // The parent (`~/.uml`) is made with the usual permissions, what is ours is private.
        if let Some(uml) = self.path.parent().and_then(Path::parent) {
            std::fs::create_dir_all(uml).at("cannot make", uml)?;
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .at("cannot make", &self.path)
    }

    /// status.json; the default when there is none or it is unreadable.
    pub fn status(&self) -> Status {
        let mut s: Status = std::fs::read(self.status_file())
            .ok()
            .and_then(|t| serde_json::from_slice(&t).ok())
            .unwrap_or_default();
        if s.state.is_up() && !self.is_held() {
            // The holder was killed. The kernel may live on.
            let alive = s.pid.is_some_and(|p| process_started(p) == Some(s.pid_started));
            if !alive {
                s.state = State::Failed;
                s.reason = "its holder was killed, and it ended unobserved, with a status that nobody knows".into();
                s.pid = None;
            }
            s.holder = None;
        }
        s
    }

    /// Writes status.json so that readers see the old or the new one.
    pub fn save_status(&self, s: &Status) -> Result {
        let text = serde_json::to_string_pretty(s).unwrap_or_default();
        self.replace("status.json", text.as_bytes())
    }

    /// Writes a file of this directory in one step.
    pub fn replace(&self, name: &str, contents: &[u8]) -> Result {
        let path = self.path.join(name);
        let temporary = self.path.join(format!(".{name}.{}", std::process::id()));
        std::fs::write(&temporary, contents).at("cannot write", &temporary)?;
        std::fs::rename(&temporary, &path).at("cannot write", &path)
    }

    /// Takes the lock; a failure with status 5 when another process keeps it. A holder whose instance has stopped lets
    /// go of it a moment later, and whoever looks whether it is held has it for an instant: both are waited for.
    pub fn take_lock(&self) -> Result<Flock<File>> {
        self.lock_for(FlockArg::LockExclusiveNonblock)
    }

    /// Removes what is here of something that was killed before it was an instance. Whoever makes one has the lock until
    /// then.
    pub fn clear_rest(&self) -> Result {
        if self.exists() || !self.path.is_dir() {
            return Ok(());
        }
        let _lock = self.take_lock()?;
        if self.exists() {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.path).at("cannot remove", &self.path)
    }

    /// Takes it together with others who only read; the same failure when somebody changes the instance or runs it.
    pub fn share_lock(&self) -> Result<Flock<File>> {
        self.lock_for(FlockArg::LockSharedNonblock)
    }

    fn lock_for(&self, how: FlockArg) -> Result<Flock<File>> {
        let path = self.lock();
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .at("cannot open", &path)?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match Flock::lock(file, how) {
                Ok(lock) => return Ok(lock),
                Err((back, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                    file = back;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                    return Err(Failure::new(
                        code::BUSY,
                        format!("instance \"{}\" is in use by another umld", self.name),
                    ));
                }
                Err((_, e)) => return Err(Failure::io("cannot lock", &path, &e.into())),
            }
        }
    }

    /// Whether a holder runs.
    pub fn is_held(&self) -> bool {
        let Ok(file) = File::open(self.lock()) else { return false };
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
    }
}

/// When a process was started, in clock ticks since the host's boot; none when there is no such process, or only its
/// zombie.
pub fn process_started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = &stat[stat.rfind(')')? + 2..];
    let fields: Vec<&str> = rest.split(' ').collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Opens a log for appending, setting a full one aside.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    max: u64,
}

impl LogFile {
    /// Opens or creates it.
    pub fn open(path: PathBuf, max: u64) -> Result<LogFile> {
        let file =
            File::options().append(true).create(true).open(&path).at("cannot open", &path)?;
        let len = file.metadata().map_or(0, |m| m.len());
        Ok(LogFile { path, file, len, max })
    }

    /// Its last bytes.
    pub fn last(&self, most: usize) -> Vec<u8> {
        use std::io::{Read, Seek, SeekFrom};
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut f| {
            f.seek(SeekFrom::Start(self.len.saturating_sub(most as u64)))?;
            f.take(most as u64).read_to_end(&mut bytes)
        });
        read.map_or(Vec::new(), |_| bytes)
    }

    /// Appends; what cannot be written is lost, because nothing must stop the console.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.len + bytes.len() as u64 > self.max && self.len > 0 {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            if std::fs::rename(&self.path, old).is_ok()
                && let Ok(f) = File::options().append(true).create(true).open(&self.path)
            {
                self.file = f;
                self.len = 0;
            }
        }
        if self.file.write_all(bytes).is_ok() {
            self.len += bytes.len() as u64;
        }
    }
}
