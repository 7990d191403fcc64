//! `umld show`: the complete vm.toml.

use crate::cli::Show;
use crate::cmd::print;
use crate::failure::{Context, Failure, Result};
use crate::instance;
use crate::spec;
use crate::state::Store;

/// Prints it, with a comment that names the file it came from.
pub fn run(a: &Show) -> Result<u8> {
    let store = Store::open()?;
    let i = instance::find(&store, &a.name)?;
    if !i.dir.exists() {
        let text = format!("instance \"{}\" was started by hand: it has no vm.toml", a.name);
        return Err(Failure::other(text));
    }
    if a.json {
        let (_, vm): (_, spec::VmFile) = spec::load::read(&i.dir.spec())?;
        let text = serde_json::to_string_pretty(&vm).map_err(|e| Failure::other(e.to_string()))?;
        return print(&(text + "\n"));
    }
    let text = std::fs::read_to_string(i.dir.spec()).at("cannot read", &i.dir.spec())?;
    let from = match std::fs::read_to_string(i.dir.source()) {
        Ok(s) => format!("# from {s}, which the next start reads again\n"),
        Err(_) => format!("# {}\n", i.dir.spec().display()),
    };
    print(&(from + &text))
}
