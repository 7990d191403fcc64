//! `umld kill`.

use std::str::FromStr;

use nix::sys::signal::Signal;

use crate::cli::Kill;
use crate::failure::{Failure, Result, code};
use crate::instance;
use crate::process::Process;

/// Sends a signal to the kernel process of each.
pub fn run(a: &Kill) -> Result<u8> {
    let upper = a.signal.to_uppercase();
    let name = if upper.starts_with("SIG") { upper.clone() } else { format!("SIG{upper}") };
    let number = match (upper.parse::<i32>(), Signal::from_str(&name)) {
        (Ok(n), _) if Signal::try_from(n).is_ok() => n,
        (_, Ok(s)) => s as i32,
        _ => {
            let text =
                format!("\"{}\" is no signal; expected a name such as TERM, or a number", a.signal);
            return Err(Failure::new(code::USAGE, text));
        }
    };
    let signal = rustix::process::Signal::from_named_raw(number)
        .ok_or_else(|| Failure::new(code::USAGE, format!("signal {number} cannot be sent")))?;
    super::each(&a.names, |store, name| {
        let i = instance::find(store, name)?;
        let process = Process::open(i.running()?).map_err(|_| i.is_stopped())?;
        process.signal(signal).map_err(|e| {
            Failure::new(crate::failure::status_of(&e), format!("signal to \"{name}\": {e}"))
        })
    })
}
