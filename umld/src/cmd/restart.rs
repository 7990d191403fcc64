//! `umld restart`.

use std::path::Path;
use std::time::Duration;

use crate::cli::Restart;
use crate::cmd::{start, stop};
use crate::failure::{Failure, Result};
use crate::instance;

/// Stops and starts each.
pub fn run(a: &Restart) -> Result<u8> {
    super::each(&a.names, |store, name| {
        let i = instance::find(store, name)?;
        if !i.dir.exists() {
            let text = format!("instance \"{name}\" was started by hand: umld does not know how");
            return Err(Failure::other(text));
        }
        if i.pid.is_some() || i.has_holder() {
            let mut times = stop::times_of(&i);
            if a.now {
                times.cad = Duration::ZERO;
            }
            stop::stop_one(store, &i, &times, &mut |_, _| {})?;
        }
        start::define(store, Path::new(name))?;
        start::start(store, name, None, None)?;
        super::print(&format!("{name}\n")).map(|_| ())
    })
}
