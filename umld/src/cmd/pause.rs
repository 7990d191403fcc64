//! `umld pause` and `umld resume`.

use serde_json::json;

use crate::cmd::start::{check, method};
use crate::failure::{Failure, Result};
use crate::state::{Store, process_started};
use crate::wire::Reply;
use crate::{holder, instance, mconsole};

/// Pauses or resumes each.
pub fn run(names: &[String], pause: bool) -> Result<u8> {
    super::each(names, |store, name| one(store, name, pause))
}

/// Pauses or resumes one.
pub fn one(store: &Store, name: &str, pause: bool) -> Result {
    let i = instance::find(store, name)?;
    let pid = i.running()?;
    if i.has_holder() {
        let mut c = holder::connect(store, name)?;
        let lost =
            |e: std::io::Error| Failure::other(format!("the holder of \"{name}\" is gone: {e}"));
        c.call(&method(if pause { "Pause" } else { "Resume" }), json!({})).map_err(lost)?;
        return check(c.receive::<Reply>().map_err(lost)?).map(|_| ());
    }
    mconsole::request(&i.console()?, if pause { "stop" } else { "go" })?;
    // Nobody keeps a machine that was started by hand; a mark tells the list.
    let mark = store.base.join(format!(".paused.{name}"));
    if pause {
        let _ = std::fs::create_dir_all(&store.base);
        let text = format!("{pid} {}", process_started(pid).unwrap_or_default());
        let _ = std::fs::write(mark, text);
    } else {
        let _ = std::fs::remove_file(mark);
    }
    Ok(())
}
