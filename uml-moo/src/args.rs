//! Command line of `uml_moo`, compatible with the classic one.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::progress::ProgressMode;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Copy {
        target: PathBuf,
    },
    InPlace,
    Check,
    Info,
    /// `--verify` without a merge: print the checksum of the merged view.
    Checksum,
}

/// A parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub action: Action,
    pub cow: PathBuf,
    /// `-b`: use this backing file instead of the one named in the COW file.
    pub backing: Option<PathBuf>,
    /// Compare the merged result with its sources.
    pub verify: bool,
    pub json: bool,
    pub progress: ProgressMode,
}

/// Outcome of parsing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    Run(Options),
    Help,
    Version,
    /// Print the usage text, and the reason if there is one, and fail.
    Usage(Option<String>),
}

/// The name this program was called by.
pub fn program_name(argv0: Option<OsString>, default: &str) -> String {
    argv0
        .as_deref()
        .map(Path::new)
        .and_then(Path::file_name)
        .and_then(OsStr::to_str)
        .unwrap_or(default)
        .to_owned()
}

/// The classic usage text.
pub fn usage(program: &str) -> String {
    format!(
        "{program} usage:\n\
         \t{program} [ -b <actual backing file> ] <COW file> <new backing file>\n\
         \t{program} [ -b <actual backing file> ] -d <COW file>\n\
         Creates a new filesystem image from the COW file and its backing file.\n\
         Specifying -d will cause a destructive, in-place merge of the COW file into\n\
         its current backing file\n\
         Specifying -b overrides the backing_file specified in the COW file.  This is\n\
         needed when dealing with a COW file that was created inside a chroot jail.\n\
         {program} supports version 1,2 and 3 COW files.\n"
    )
}

/// The usage text and what the classic tool does not have.
pub fn help(program: &str) -> String {
    format!(
        "{}\n\
         Other operations (neither file is changed):\n\
         \t{program} [ -b <file> ] --info [ --json ] <COW file>\n\
         \t{program} [ -b <file> ] --check [ --json ] <COW file>\n\
         \t{program} [ -b <file> ] --verify [ --json ] <COW file>\n\
         Options:\n\
         \t--verify\twith a merge: read the result back and compare checksums;\n\
         \t\t\talone: print the CRC-32 of the merged contents\n\
         \t--progress=auto|plain|json|none\n\
         \t\t\thow to report progress on stderr (default: auto, a bar on terminals)\n\
         \t--help, --version\n\
         See uml_moo(1).\n",
        usage(program)
    )
}

/// Parses the arguments after the program's name.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Parsed {
    match parse_options(arguments) {
        Ok(parsed) => parsed,
        Err(reason) => Parsed::Usage(reason),
    }
}

fn parse_options(mut arguments: impl Iterator<Item = OsString>) -> Result<Parsed, Option<String>> {
    let (mut names, mut backing) = (Vec::new(), None);
    let (mut in_place, mut info, mut check) = (false, false, false);
    let (mut verify, mut json) = (false, false);
    let mut progress = ProgressMode::Auto;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("-d") => in_place = true,
            Some("-b") => match arguments.next() {
                Some(file) => backing = Some(PathBuf::from(file)),
                None => return Err(Some("-b needs the name of a backing file".to_owned())),
            },
            Some("--info") => info = true,
            Some("--check") => check = true,
            Some("--verify") => verify = true,
            Some("--json") => json = true,
            Some("--help" | "-h") => return Ok(Parsed::Help),
            Some("--version" | "-V") => return Ok(Parsed::Version),
            Some("--") => names.extend(arguments.by_ref()),
            Some(text) if text.starts_with("--progress=") => {
                let mode = text.trim_start_matches("--progress=");
                progress = ProgressMode::from_name(mode).ok_or_else(|| {
                    Some(format!("--progress={mode}: unknown mode; use auto, plain, json or none"))
                })?;
            }
            Some(text) if text.starts_with('-') && text.len() > 1 => {
                return Err(Some(format!(
                    "unknown option {text}; write ./{text} or put -- before a file of that name"
                )));
            }
            _ => names.push(argument),
        }
    }
    let mut names = names.into_iter().map(PathBuf::from);
    let cow = names.next().ok_or(None)?;
    let target = names.next();
    if let Some(extra) = names.next() {
        return Err(Some(format!("unexpected argument \"{}\"", extra.display())));
    }
    let alone = info || check || (verify && target.is_none() && !in_place);
    if u8::from(in_place) + u8::from(info) + u8::from(check) > 1 {
        return Err(Some("only one of -d, --info and --check can be given".to_owned()));
    }
    if json && !alone {
        return Err(Some("--json goes with --info, --check or a lone --verify".to_owned()));
    }
    if (info || check) && verify {
        return Err(Some("--verify goes with a merge or alone".to_owned()));
    }
    let action = match target {
        Some(extra) if in_place || info || check => {
            return Err(Some(format!(
                "unexpected argument \"{}\": a new backing file is written only without -d, \
                 --info and --check",
                extra.display()
            )));
        }
        Some(target) => Action::Copy { target },
        None if in_place => Action::InPlace,
        None if info => Action::Info,
        None if check => Action::Check,
        None if verify => Action::Checksum,
        None => return Err(None),
    };
    Ok(Parsed::Run(Options { action, cow, backing, verify, json, progress }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Parsed {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn action(line: &str) -> Option<(Action, PathBuf, Option<PathBuf>)> {
        match parsed(line) {
            Parsed::Run(options) => Some((options.action, options.cow, options.backing)),
            _ => None,
        }
    }

    #[test]
    fn classic_forms() {
        let copy = Action::Copy { target: "out".into() };
        assert_eq!(action("cow out"), Some((copy.clone(), "cow".into(), None)));
        assert_eq!(action("-b real cow out"), Some((copy, "cow".into(), Some("real".into()))));
        let in_place = Action::InPlace;
        assert_eq!(action("-d cow"), Some((in_place.clone(), "cow".into(), None)));
        let with_backing = Some((in_place, "cow".into(), Some("real".into())));
        assert_eq!(action("-d -b real cow"), with_backing);
        assert_eq!(action("-b real -d cow"), with_backing);
    }

    #[test]
    fn incomplete_lines_give_the_usage() {
        for line in ["", "cow", "-d", "-b real", "--info"] {
            assert_eq!(parsed(line), Parsed::Usage(None), "{line}");
        }
    }

    #[test]
    fn contradictions_are_explained() {
        let lines = [
            "-b",
            "--progress=x cow out",
            "-x cow",
            "-d cow out",
            "--info cow out",
            "-d --info cow",
            "a b c",
            "--json cow out",
            "--info --verify cow",
        ];
        for line in lines {
            assert!(matches!(parsed(line), Parsed::Usage(Some(_))), "{line}");
        }
    }

    #[test]
    fn new_forms() {
        assert_eq!(action("--verify cow").map(|found| found.0), Some(Action::Checksum));
        assert!(matches!(
            parsed("--verify --progress=json cow out"),
            Parsed::Run(Options { verify: true, progress: ProgressMode::Json, .. })
        ));
        assert_eq!(action("-- -d out").map(|found| found.1), Some("-d".into()));
    }
}
