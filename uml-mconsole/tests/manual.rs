//! uml_mconsole(1) and mconsole(7) name everything there is.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use uml_formats::mconsole::COMMANDS;
use uml_mconsole::args::Args;
use uml_mconsole::local;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../man").join(name);
    fs::read_to_string(path).expect("page")
}

fn described(page: &str, macro_name: &str, name: &str) -> bool {
    let start = format!(".It {macro_name} ");
    page.lines()
        .filter_map(|line| line.strip_prefix(&start))
        .any(|rest| rest.split_whitespace().any(|word| word == name))
}

#[test]
fn options_and_local_commands_are_described() {
    let page = page("uml_mconsole.1");
    for option in Args::command().get_opts() {
        let name = format!("-{}", option.get_long().expect("long options only"));
        assert!(described(&page, "Fl", &name), "-{name}");
    }
    for name in local::NAMES {
        assert!(described(&page, "Cm", name), "{name}");
    }
}

#[test]
fn kernel_commands_are_described() {
    let page = page("mconsole.7");
    for command in COMMANDS {
        assert!(described(&page, "Cm", command.name()), "{}", command.name());
    }
}
