//! `umld top`.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Instant;

use serde_json::json;

use crate::cli::Top;
use crate::cmd::{print, span, table};
use crate::failure::Result;
use crate::instance;
use crate::spec::values::human;
use crate::state::Store;

/// Prints figures once or again and again.
pub fn run(a: &Top) -> Result<u8> {
    let store = Store::open()?;
    let screen = std::io::stdout().is_terminal() && !a.format.json;
    let mut left = a.iterations.unwrap_or(if screen { u64::MAX } else { 1 });
    let mut before: HashMap<String, (f64, Instant)> = HashMap::new();
    while left > 0 {
        let mut rows = Vec::new();
        let mut all = Vec::new();
        let processes = instance::Processes::now();
        for i in instance::all(&store)? {
            let Some(pid) = i.pid else { continue };
            let pids = processes.of(pid);
            let (memory, cpu) = instance::usage(&pids);
            let now = Instant::now();
            // The first round has only the mean since the start.
            let percent = match before.insert(i.name.clone(), (cpu, now)) {
                Some((old, at)) => {
                    (cpu - old) / now.duration_since(at).as_secs_f64().max(1e-3) * 100.0
                }
                None => cpu / i.uptime.unwrap_or(1.0).max(1e-3) * 100.0,
            };
            all.push(json!({"name": i.name, "pid": pid, "cpu_percent": percent.max(0.0), "cpu_seconds": cpu,
                "memory": memory, "processes": pids.len(), "uptime": i.uptime}));
            rows.push((
                percent,
                vec![
                    i.name,
                    format!("{:.1}", percent.max(0.0)),
                    format!("{cpu:.1}s"),
                    human(memory),
                    pids.len().to_string(),
                    i.uptime.map_or("-".into(), span),
                ],
            ));
        }
        rows.sort_by(|a, b| b.0.total_cmp(&a.0));
        let rows: Vec<Vec<String>> = rows.into_iter().map(|r| r.1).collect();
        if a.format.json {
            print(&format!("{}\n", json!(all)))?;
        } else if a.format.quiet {
            print(&rows.iter().map(|r| format!("{}\n", r[0])).collect::<String>())?;
        } else {
            let clear = if screen && left > 1 { "\x1b[H\x1b[2J" } else { "" };
            let text = table(&["NAME", "CPU%", "CPU", "MEMORY", "PROCESSES", "UP"], &rows);
            print(&format!("{clear}{text}"))?;
        }
        left -= 1;
        if left > 0 {
            std::thread::sleep(a.delay.0);
        }
    }
    Ok(0)
}
