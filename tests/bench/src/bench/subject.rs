//! The places to run in and the command line for each.

use crate::{Options, root, stock};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A place to run `ubench` in.
pub struct Subject {
    pub name: String,
    /// Words before the words for `ubench`.
    pub prefix: Vec<String>,
    /// Directory for the file metrics, as the subject sees it.
    pub dir: String,
    /// Name of the kernel process for the memory figures; nothing for the host itself.
    pub kernel: Option<&'static str>,
    /// Whether one start runs all groups of words, separated by `++` (a guest of its own), or each is started alone.
    pub as_init: bool,
}

/// The platforms of this kernel and what selects each.
const PLATFORMS: &[(&str, &[&str])] = &[
    ("default", &[]),
    ("trap", &["--platform", "trap"]),
    ("notify", &["--platform", "notify"]),
    ("ptrace", &["--platform", "ptrace"]),
];

/// Directory of the built programs: this one's own.
fn built() -> PathBuf {
    std::env::current_exe().ok().and_then(|p| p.parent().map(Path::to_path_buf)).unwrap_or_default()
}

pub fn ubench() -> String {
    built().join("ubench").display().to_string()
}

fn words(w: &[&str]) -> Vec<String> {
    w.iter().map(ToString::to_string).collect()
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|d| d.join(name).is_file())
}

/// The subjects asked for that exist here; the others are named on standard error.
pub fn choose(o: &Options) -> Result<Vec<Subject>, String> {
    if !Path::new(&ubench()).is_file() {
        return Err(format!("{} is not built; run `cargo build --release -p uml-bench`", ubench()));
    }
    let mut names: Vec<String> = Vec::new();
    for s in &o.subjects {
        match s.as_str() {
            "all" => names.extend(words(&[
                "native",
                "native-pinned",
                "ours-default",
                "ours-trap",
                "ours-notify",
                "ours-ptrace",
                "stock-seccomp-pinned",
                "stock-seccomp",
                "stock-ptrace-pinned",
                "stock-ptrace",
                "runsc",
            ])),
            "ours" => names.extend(PLATFORMS.iter().map(|(n, _)| format!("ours-{n}"))),
            n => names.push(n.into()),
        }
    }
    let mut out = Vec::new();
    for n in names {
        match make(&n, o)? {
            Ok(s) => out.push(s),
            Err(why) => eprintln!("bench: {n} left out: {why}"),
        }
    }
    if out.is_empty() { Err("no subject is left".into()) } else { Ok(out) }
}

/// The outer error is wrong use, the inner one says why a subject is absent.
fn make(name: &str, o: &Options) -> Result<Result<Subject, String>, String> {
    let tmp = std::env::var("TMPDIR").unwrap_or_else(|_| "/tmp".into());
    let subject = |prefix: Vec<String>, kernel| Subject {
        name: name.into(),
        prefix,
        dir: tmp.clone(),
        kernel,
        as_init: false,
    };
    Ok(match name {
        "native" => Ok(subject(vec![ubench()], None)),
        "native-pinned" => Ok(subject(words(&["taskset", "-c", "0", &ubench()]), None)),
        "runsc" if !on_path("runsc") => Err("runsc is not installed".into()),
        "runsc" => {
            let w = ["runsc", "--rootless", "--network=none", "do", "--force-overlay", &ubench()];
            Ok(subject(words(&w), Some("runsc-sandbox")))
        }
        n if n.starts_with("stock-") => {
            let parts: Vec<&str> = n.split('-').skip(1).collect();
            let mode = match parts.first() {
                Some(&"seccomp") => "on",
                Some(&"ptrace") => "off",
                _ => return Err(format!("unknown subject '{n}'")),
            };
            stock::prepare(&o.stock).map(|()| Subject {
                name: n.into(),
                prefix: stock::command(&o.stock, mode, parts.get(1) == Some(&"pinned"), &ubench()),
                dir: "/var/tmp".into(),
                kernel: Some("linux.uml"),
                as_init: true,
            })
        }
        n if n.starts_with("ours-") => {
            let Some((_, args)) = PLATFORMS.iter().find(|(p, _)| n[5..] == **p) else {
                return Err(format!("unknown subject '{n}'"));
            };
            let template = match std::env::var("UML_RUN") {
                Ok(t) => words(&t.split_whitespace().collect::<Vec<_>>()),
                Err(_) => {
                    let umld = [built().join("umld"), root().join("target/release/umld")];
                    match umld.iter().find(|p| p.is_file()) {
                        Some(p) => words(&[&p.display().to_string(), "run", "--"]),
                        None => return Ok(Err("umld is not built".into())),
                    }
                }
            };
            let mut prefix = template;
            let at = prefix.len() - usize::from(prefix.last().is_some_and(|w| w == "--"));
            prefix.splice(at..at, args.iter().map(ToString::to_string));
            prefix.push(ubench());
            // The kernel runs from the program that started it.
            Ok(subject(prefix, Some("umld")))
        }
        n => return Err(format!("unknown subject '{n}'; see --help")),
    })
}

impl Subject {
    /// The whole command for some words of `ubench`.
    pub fn command(&self, words: &[String]) -> Command {
        let mut c = Command::new(&self.prefix[0]);
        c.args(&self.prefix[1..]).args(words);
        c.stdin(std::process::Stdio::null());
        c
    }
}
