//! The manual pages: every page in `man/` is clean to the linter, and those
//! of these tools name every option.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Bench, OUR_MOO};

fn manual() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../man")
}

#[test]
fn pages_are_clean() {
    let pages: Vec<PathBuf> = fs::read_dir(manual())
        .expect("man/")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| {
            let section = path.extension().and_then(|extension| extension.to_str());
            section
                .is_some_and(|section| section.len() == 1 && section.as_bytes()[0].is_ascii_digit())
        })
        .collect();
    assert!(pages.len() >= 5, "{pages:?}");
    let Ok(output) =
        Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).args(&pages).output()
    else {
        eprintln!("SKIPPED: mandoc is missing (Debian package mandoc)");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_option_of_uml_moo_is_described() {
    let help = Bench::new(&[]).run(OUR_MOO, &["--help"]).ok().stdout;
    let page = fs::read_to_string(manual().join("uml_moo.1")).expect("page");
    let items: Vec<&str> = page.lines().filter(|line| line.starts_with(".It Fl")).collect();
    let mut seen = 0;
    for word in help.split(|c: char| c.is_whitespace() || "[],=|".contains(c)) {
        let Some(name) = word.strip_prefix('-').filter(|name| !name.is_empty()) else { continue };
        seen += 1;
        let described = items.iter().any(|item| item.split_whitespace().any(|part| part == name));
        assert!(described, "option -{name} is missing in uml_moo(1)");
    }
    assert!(seen >= 10, "the help text lists its options");
}
