//! `umld explain`: the kernel's command line.

use serde_json::json;

use crate::cli::Explain;
use crate::cmd::print;
use crate::cmd::start::is_file;
use crate::failure::{Failure, Result, code};
use crate::spec;
use crate::spec::cmdline::{Inherited, own_init, words};
use crate::state::Store;

/// Prints it as a shell would take it; descriptors that exist only at the start are `fd:N0`, `fd:N1` and so on.
pub fn run(a: &Explain) -> Result<u8> {
    let store = Store::open()?;
    let loaded = if is_file(&a.what) {
        spec::load(&a.what)?
    } else {
        let name = a.what.to_string_lossy();
        spec::load(&crate::instance::find(&store, &name)?.dir.spec())?
    };
    let vm = &loaded.vm;
    let given =
        Inherited { notify: Some(store.dir(&loaded.name).notify()), ..Inherited::default() };
    let mut list: Vec<String> = words(vm, &loaded.name, &given)
        .map_err(|e| Failure::new(code::CONFIG, e))?
        .into_iter()
        .map(|w| w.to_string_lossy().into_owned())
        .collect();
    if own_init(vm) {
        list.push("initargs=fd:N".into());
    }
    let command = crate::holder::launch::program(vm)?;
    let program = command.get_program().to_string_lossy().into_owned();
    if a.json {
        return print(&format!(
            "{}\n",
            json!({"program": program, "argv0": "linux", "arguments": list})
        ));
    }
    let mut text = quote(&program);
    if vm.vm.is_built_in() {
        text = format!("exec -a linux {text}");
    }
    for w in &list {
        text += " \\\n    ";
        text += &quote(w);
    }
    print(&(text + "\n"))
}

/// A word as a POSIX shell takes it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
