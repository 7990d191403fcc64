//! `umld check`: are these files right?

use crate::cli::Files;
use crate::cmd::{complain, print};
use crate::failure::Result;

/// Checks every file; the status of the first that is wrong.
pub fn run(a: &Files) -> Result<u8> {
    let mut status = 0;
    for f in &a.files {
        let checked = if crate::fleet::spec::is_fleet(f) {
            crate::fleet::spec::load(f).map(|fleet| format!("a fleet of {}", fleet.members.len()))
        } else {
            crate::spec::load(f).map(|l| format!("instance \"{}\"", l.name))
        };
        match checked {
            Ok(what) if !a.quiet => {
                print(&format!("{}: {what}, all right\n", f.display()))?;
            }
            Ok(_) => {}
            Err(e) => {
                complain(&e);
                if status == 0 {
                    status = e.code;
                }
            }
        }
    }
    Ok(status)
}
