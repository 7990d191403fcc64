//! Which instance is addressed.

use std::ffi::OsStr;
use std::path::PathBuf;

use uml_formats::strerror;
use uml_formats::umid::find_socket;

/// A management socket found for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As given by the user; shown in the prompt.
    pub name: String,
    pub socket: PathBuf,
    /// Host pid of the instance, if its directory is known.
    pub pid: Option<i32>,
}

impl Target {
    /// Looks where the stock client looks; the error names every place.
    pub fn find(name: &str) -> Result<Self, String> {
        let home = std::env::var_os("HOME");
        find_socket(OsStr::new(name), home.as_deref())
            .map(|(socket, pid)| Self { name: name.to_owned(), socket, pid })
            .map_err(|tried| {
                let tried: Vec<String> = tried
                    .iter()
                    .map(|candidate| {
                        let (path, error) = (candidate.path.display(), strerror(&candidate.error));
                        format!("  {path}: {error}")
                    })
                    .collect();
                format!(
                    "no instance \"{name}\"; looked for\n{}\numl_mconsole without arguments lists \
                     the running instances",
                    tried.join("\n")
                )
            })
    }
}
