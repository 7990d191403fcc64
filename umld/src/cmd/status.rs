//! `umld status`.

use serde_json::{Value, json};

use crate::cli::StatusArgs;
use crate::cmd::{print, span};
use crate::failure::{Result, code};
use crate::instance::{self, Instance, Processes};
use crate::spec::values::human;
use crate::state::{State, Store, now};

/// Prints them; status 3 when one is down, 70 when it panicked.
pub fn run(a: &StatusArgs) -> Result<u8> {
    if let Some(file) = &a.file {
        return crate::fleet::status(file, &a.format);
    }
    let store = Store::open()?;
    let list = if a.names.is_empty() {
        crate::daemon::demand::heal_all(&store, instance::all(&store)?)
    } else {
        a.names.iter().map(|n| instance::find(&store, n)).collect::<Result<Vec<_>>>()?
    };
    show(&list, a.format.json, a.format.quiet)?;
    let asked = !a.names.is_empty();
    Ok(list.iter().filter(|_| asked).map(exit_status).find(|s| *s != 0).unwrap_or(0))
}

/// What `umld status` exits with for an instance.
pub fn exit_status(i: &Instance) -> u8 {
    match i.pid {
        Some(_) => 0,
        None if i.status.state == State::Failed && i.status.reason.contains("kernel panic") => {
            code::PANIC
        }
        None => code::STOPPED,
    }
}

/// Everything about an instance. The field names are stable.
pub fn json_of(i: &Instance, processes: &Processes) -> Value {
    let mut v = json!(i.status);
    if let (Value::Object(all), Value::Object(more)) = (&mut v, json!(i)) {
        all.extend(more);
        if let Some(pid) = i.pid {
            let (memory, cpu) = instance::usage(&processes.of(pid));
            all.insert("memory".into(), json!(memory));
            all.insert("cpu_seconds".into(), json!(cpu));
        }
        all.insert("directory".into(), json!(i.dir.path));
    }
    v
}

/// Prints instances.
pub fn show(list: &[Instance], as_json: bool, quiet: bool) -> Result<u8> {
    let processes = Processes::now();
    if as_json {
        let all: Vec<Value> = list.iter().map(|i| json_of(i, &processes)).collect();
        return print(&format!("{}\n", serde_json::to_string_pretty(&all).unwrap_or_default()));
    }
    if quiet {
        return print(
            &list.iter().map(|i| format!("{} {}\n", i.name, i.state.name())).collect::<String>(),
        );
    }
    let mut text = String::new();
    for i in list {
        text += &format!(
            "{}: {}{}\n",
            i.name,
            i.state.name(),
            if i.managed { "" } else { ", started by hand" }
        );
        let mut line = |k: &str, v: String| text += &format!("  {k:<10} {v}\n");
        if let Some(pid) = i.pid {
            let all = processes.of(pid);
            let (memory, cpu) = instance::usage(&all);
            line("pid", format!("{pid} and {} processes", all.len() - 1));
            line("up", i.uptime.map_or("?".into(), span));
            line("memory", human(memory));
            line("cpu", format!("{cpu:.1} s"));
        }
        let s = &i.status;
        if i.managed {
            line("kernel", s.kernel.clone());
            if i.pid.is_none() && !s.reason.is_empty() {
                let ago = s.ended.map(|t| format!(", {} ago", span(now() - t))).unwrap_or_default();
                line("ended", format!("{}{ago}", s.reason));
            }
            if let (Some(b), Some(a)) = (s.booted, s.started) {
                line("boot", format!("{:.3} s", b - a));
            }
            if s.restarts > 0 {
                line("restarts", s.restarts.to_string());
            }
            if !s.resources.is_empty() {
                line("limits", s.resources.clone());
            }
            if !s.lines.is_empty() {
                line("consoles", s.lines.join(", "));
            }
            if i.pid.is_some() && s.holder.is_none() {
                line("note", "its holder was killed; umld daemon takes it over".into());
            }
            line("directory", i.dir.path.display().to_string());
        }
        if let Some(c) = &i.socket {
            line("mconsole", c.display().to_string());
        }
        for m in &s.last_messages {
            text += &format!("    {m}\n");
        }
    }
    print(&text)
}
