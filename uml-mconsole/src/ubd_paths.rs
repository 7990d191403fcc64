//! File names in `config ubd...=` made absolute, as the kernel's working
//! directory differs from the client's.

use std::path::Path;

use uml_formats::cow::absolutize;

/// Rewrites file and backing file of a `config ubd` command; returns the
/// command and warnings about names that stay as they are.
///
/// Other than the stock client this leaves `config ubd=sync` and serial
/// numbers alone, and knows both separators of the kernel.
pub fn absolute_paths(command: &str) -> (String, Vec<String>) {
    let unchanged = || (command.to_owned(), Vec::new());
    let Some(argument) = command.strip_prefix("config").map(str::trim_start) else {
        return unchanged();
    };
    let Some((device, value)) = argument.split_once('=') else { return unchanged() };
    if !device.starts_with("ubd") || device == "ubd" || device.contains(char::is_whitespace) {
        return unchanged();
    }
    let mut warnings = Vec::new();
    let head = &command[..command.len() - value.len()];
    let mut result = head.to_owned();
    for (index, part) in value.split_inclusive([',', ':']).enumerate() {
        let name = part.trim_end_matches([',', ':']);
        // The third field is the serial number.
        if index < 2 && !name.is_empty() {
            result.push_str(&absolute(name, &mut warnings));
            result.push_str(&part[name.len()..]);
        } else {
            result.push_str(part);
        }
    }
    (result, warnings)
}

fn absolute(name: &str, warnings: &mut Vec<String>) -> String {
    match absolutize(Path::new(name)) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(error) => {
            let directory = Path::new(name).parent().unwrap_or(Path::new(name));
            warnings.push(format!(
                "absolutize : Can't cd to '{}', {}",
                directory.display(),
                nix::errno::Errno::from_raw(match &error {
                    uml_formats::cow::CreateError::Directory { error, .. } => {
                        error.raw_os_error().unwrap_or(nix::libc::ENOENT)
                    }
                    other => other.errno(),
                })
                .desc()
            ));
            name.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_absolute_and_the_rest_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let dir = dir.path().canonicalize().expect("dir");
        let at = |name: &str| dir.join(name).display().to_string();
        let here = std::env::current_dir().and_then(|dir| dir.canonicalize()).expect("cwd");
        let cases = [
            (format!("config ubd0={}/./img", at("")), format!("config ubd0={}", at("img"))),
            ("config ubd1r=img".into(), format!("config ubd1r={}/img", here.display())),
            (
                format!("configubd0={0}:{1},SER,IAL", at("c"), at("b")),
                format!("configubd0={0}:{1},SER,IAL", at("c"), at("b")),
            ),
            (format!("config ubd0={},,S1", at("f")), format!("config ubd0={},,S1", at("f"))),
        ];
        for (command, expected) in cases {
            assert_eq!(absolute_paths(&command), (expected, vec![]), "{command}");
        }
        for command in [
            "config ubd=sync",
            "config ubd0",
            "config con0=pts",
            "version",
            "config ubd0=",
            "log ubd0=x",
        ] {
            assert_eq!(absolute_paths(command), (command.to_owned(), vec![]));
        }
        let (command, warnings) = absolute_paths("config ubd0=/nowhere/x,/nor/here");
        assert_eq!(command, "config ubd0=/nowhere/x,/nor/here");
        assert_eq!(
            warnings,
            [
                "absolutize : Can't cd to '/nowhere', No such file or directory",
                "absolutize : Can't cd to '/nor', No such file or directory"
            ]
        );
    }
}
