//! `umld list`.

use crate::cli::Listing;
use crate::cmd::{print, span, table};
use crate::daemon::demand;
use crate::failure::{Failure, Result};
use crate::instance;
use crate::state::Store;

/// Prints them.
pub fn run(a: &Listing) -> Result<u8> {
    let store = Store::open()?;
    let mut list = demand::heal_all(&store, instance::all(&store)?);
    if a.running {
        list.retain(|i| i.pid.is_some());
    }
    if a.format.json {
        let text =
            serde_json::to_string_pretty(&list).map_err(|e| Failure::other(e.to_string()))?;
        return print(&(text + "\n"));
    }
    if a.format.quiet {
        return print(&list.iter().map(|i| format!("{}\n", i.name)).collect::<String>());
    }
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|i| {
            vec![
                i.name.clone(),
                i.state.name().to_owned() + if i.managed { "" } else { " (by hand)" },
                i.pid.map_or("-".into(), |p| p.to_string()),
                i.uptime.map_or("-".into(), span),
                if i.managed { i.status.kernel.clone() } else { String::new() },
            ]
        })
        .collect();
    print(&table(&["NAME", "STATE", "PID", "UP", "KERNEL"], &rows))
}
