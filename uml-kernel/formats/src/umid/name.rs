//! Names: the umid and the directory of all instances.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A valid umid: 1 to 63 bytes, usable as a file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Umid(String);

/// Why a name cannot be a umid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    Empty,
    TooLong {
        len: usize,
    },
    /// `.`, `..`, a slash, a NUL or another control character; or the prefix
    /// reserved for directories under construction.
    NotAFileName(String),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("umid is empty; give a name such as umid=debian"),
            Self::TooLong { len } => {
                write!(f, "umid of {len} bytes is too long, at most {} are allowed", Umid::MAX)
            }
            Self::NotAFileName(name) => write!(
                f,
                "umid {name:?} cannot be a directory name; use letters, digits, '.', '_' and '-'"
            ),
        }
    }
}

impl std::error::Error for NameError {}

impl Umid {
    /// Longest name in bytes.
    pub const MAX: usize = 63;
    /// Start of the names of directories under construction.
    pub(super) const TEMPORARY: &str = ".uml-new-";

    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > Self::MAX {
            return Err(NameError::TooLong { len: name.len() });
        }
        let bad = name == "."
            || name == ".."
            || name.starts_with(Self::TEMPORARY)
            || name.chars().any(|c| c == '/' || c.is_control());
        if bad { Err(NameError::NotAFileName(name.to_owned())) } else { Ok(Self(name.to_owned())) }
    }

    /// A random name of six letters and digits, as the stock kernel makes.
    pub fn random() -> io::Result<Self> {
        use std::io::Read;
        const ALPHABET: &[u8; 62] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut random = [0; 64];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        let name: String = random
            .iter()
            // Values above 4 * 62 would favour the first letters.
            .filter(|byte| **byte < 248)
            .filter_map(|byte| ALPHABET.get(usize::from(*byte) % 62))
            .map(|byte| char::from(*byte))
            .take(6)
            .collect();
        // 64 bytes yield six usable ones except with negligible probability.
        Self::new(&name).map_err(|error| io::Error::other(error.to_string()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Umid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no directory for instances. The display text starts with the
/// stock kernel's line where it has one.
#[derive(Debug)]
pub enum UmlDirError {
    NoHome,
    EmptyOption,
    TooLong { len: usize },
    Create { path: PathBuf, error: io::Error },
}

impl fmt::Display for UmlDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHome => f.write_str(
                "make_uml_dir: no value in environment for $HOME; set HOME or give uml_dir=<dir>",
            ),
            Self::EmptyOption => f.write_str("uml_dir can't be an empty string"),
            Self::TooLong { len } => {
                write!(f, "uml_dir of {len} bytes is too long, at most {} are allowed", UmlDir::MAX)
            }
            Self::Create { path, error } => {
                write!(f, "Failed to mkdir '{}/': {}", path.display(), crate::strerror(error))
            }
        }
    }
}

impl std::error::Error for UmlDirError {}

/// The directory that holds one directory per instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UmlDir(PathBuf);

impl UmlDir {
    /// Longest path in bytes, the final slash included.
    pub const MAX: usize = 511;

    /// The directory named by `uml_dir=` or the default `~/.uml`; a leading `~`
    /// is replaced by `home` (the value of `$HOME`). Nothing is created.
    pub fn resolve(option: Option<&OsStr>, home: Option<&OsStr>) -> Result<Self, UmlDirError> {
        let given = option.unwrap_or(OsStr::new("~/.uml")).as_bytes();
        if given.is_empty() {
            return Err(UmlDirError::EmptyOption);
        }
        let mut path = Vec::new();
        match given.strip_prefix(b"~") {
            Some(rest) => {
                let home = home.filter(|home| !home.is_empty()).ok_or(UmlDirError::NoHome)?;
                path.extend(home.as_bytes());
                path.extend(rest);
            }
            None => path.extend(given),
        }
        while path.len() > 1 && path.last() == Some(&b'/') {
            path.pop();
        }
        if path.len() + 1 > Self::MAX {
            return Err(UmlDirError::TooLong { len: path.len() + 1 });
        }
        Ok(Self(PathBuf::from(OsStr::from_bytes(&path))))
    }

    /// The default directory of the calling process's user.
    pub fn from_environment() -> Result<Self, UmlDirError> {
        Self::resolve(None, std::env::var_os("HOME").as_deref())
    }

    /// Creates the last component if it is missing.
    pub fn create(&self) -> Result<(), UmlDirError> {
        match std::fs::create_dir(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(UmlDirError::Create { path: self.0.clone(), error })
            }
            _ => Ok(()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directory of one instance.
    pub fn instance(&self, umid: &Umid) -> PathBuf {
        self.0.join(umid.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(Umid::new("debian-1.2_x").is_ok());
        assert!(Umid::new(&"x".repeat(63)).is_ok());
        assert_eq!(Umid::new(&"x".repeat(64)), Err(NameError::TooLong { len: 64 }));
        assert_eq!(Umid::new(""), Err(NameError::Empty));
        for bad in [".", "..", "a/b", "../x", "a\0b", "a\nb", ".uml-new-1"] {
            assert!(matches!(Umid::new(bad), Err(NameError::NotAFileName(_))), "{bad:?}");
        }
        let random = Umid::random().expect("urandom");
        assert!(random.as_str().len() == 6);
        assert!(random.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }

    #[test]
    fn directories() {
        let home = Some(OsStr::new("/home/u"));
        let dir = |option: Option<&str>, home| {
            UmlDir::resolve(option.map(OsStr::new), home).map(|dir| dir.path().to_owned())
        };
        assert_eq!(dir(None, home).expect("default"), Path::new("/home/u/.uml"));
        assert_eq!(dir(Some("~/m/"), home).expect("tilde"), Path::new("/home/u/m"));
        assert_eq!(dir(Some("/run/uml"), None).expect("plain"), Path::new("/run/uml"));
        assert_eq!(dir(Some("/"), None).expect("root"), Path::new("/"));
        assert!(matches!(dir(None, None), Err(UmlDirError::NoHome)));
        assert!(matches!(dir(Some(""), home), Err(UmlDirError::EmptyOption)));
        let long = "/".to_owned() + &"d".repeat(511);
        assert!(matches!(dir(Some(&long), home), Err(UmlDirError::TooLong { len: 513 })));
    }
}
