//! Where the binaries are and how a command is started in the guest.

use std::path::{Path, PathBuf};

/// The platforms that a guest can run on and what selects each on the command line of `umld run`.
pub const PLATFORMS: &[(&str, &[&str])] = &[
    ("default", &[]),
    ("trap", &["--platform", "trap"]),
    ("notify", &["--platform", "notify"]),
    ("ptrace", &["--platform", "ptrace"]),
];

/// How to run a command in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    pub platform: String,
    /// Words before the command.
    pub prefix: Vec<String>,
}

impl Guest {
    /// The command for one platform. `template` is `UML_RUN`, words split at blanks, where `{platform}` stands for the words that select the
    /// platform; without that word they go before a final `--`, or to the end.
    pub fn new(platform: &str, template: &str) -> Result<Guest, String> {
        let args =
            PLATFORMS.iter().find(|(n, _)| *n == platform).map(|(_, a)| *a).ok_or_else(|| {
                let names: Vec<&str> = PLATFORMS.iter().map(|(n, _)| *n).collect();
                format!("unknown platform '{platform}'; known: {}", names.join(", "))
            })?;
        let words: Vec<&str> = template.split_whitespace().collect();
        if words.is_empty() {
            return Err(
                "UML_RUN is empty; it must be the command that runs another one in the guest"
                    .into(),
            );
        }
        let mut prefix: Vec<String> = Vec::new();
        let at = match words.iter().position(|w| *w == "{platform}") {
            Some(_) => None,
            None if words.last() == Some(&"--") => Some(words.len() - 1),
            None => Some(words.len()),
        };
        for (i, w) in words.iter().enumerate() {
            if at == Some(i) || *w == "{platform}" {
                prefix.extend(args.iter().map(ToString::to_string));
            }
            if *w != "{platform}" {
                prefix.push(w.to_string());
            }
        }
        if at == Some(words.len()) {
            prefix.extend(args.iter().map(ToString::to_string));
        }
        Ok(Guest { platform: platform.into(), prefix })
    }

    /// The whole command line of `command` in the guest.
    pub fn command(&self, command: &[String]) -> Vec<String> {
        self.prefix.iter().chain(command).cloned().collect()
    }
}

/// The repository's root: the directory above the one of this crate.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The build directory: `CARGO_TARGET_DIR` or `target`.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A built program, the release one preferred. The error says how to build it.
pub fn binary(name: &str, package: &str) -> Result<PathBuf, String> {
    for profile in ["release", "debug"] {
        let p = target().join(profile).join(name);
        if p.is_file() {
            return Ok(p);
        }
    }
    Err(format!(
        "{name} is not built in {}; run `cargo build --release -p {package}`",
        target().display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platform_words_go_before_the_separator() {
        let g = Guest::new("trap", "umld run --").unwrap();
        assert_eq!(g.command(&["sh".into()]), ["umld", "run", "--platform", "trap", "--", "sh"]);
    }

    #[test]
    fn a_place_can_be_named() {
        let g = Guest::new("ptrace", "wrap {platform} umld run --").unwrap();
        assert_eq!(g.prefix, ["wrap", "--platform", "ptrace", "umld", "run", "--"]);
    }

    #[test]
    fn without_separator_they_come_last() {
        assert_eq!(Guest::new("notify", "run").unwrap().prefix, ["run", "--platform", "notify"]);
        assert_eq!(Guest::new("default", "run").unwrap().prefix, ["run"]);
    }

    #[test]
    fn unknown_platforms_are_refused() {
        assert!(Guest::new("kvm", "x").unwrap_err().contains("trap, notify, ptrace"));
        assert!(Guest::new("trap", " ").unwrap_err().contains("UML_RUN"));
    }
}
