//! Fleets: fleet.toml ([`spec`]), its switches and links ([`net`]) and their processes ([`switch`]), many instances at a
//! time ([`work`]), and the units for systemd ([`generator`]).

pub mod generator;
pub mod net;
pub mod spec;
pub mod switch;
pub mod work;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use work::Task;

use crate::cli::{Fleet, Format};
use crate::cmd::{create, start, stop};
use crate::failure::{Failure, Result, code};
use crate::instance;
use crate::state::Store;

/// Instances at a time when nothing else is said.
pub fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(4, |n| n.get() * 2)
}

/// `umld up`.
pub fn up(a: &Fleet) -> Result<u8> {
    let fleet = spec::load(&a.file)?.only(&a.names)?;
    let store = Store::open()?;
    let tasks: Vec<Task> = fleet
        .members
        .iter()
        .map(|(l, after)| Task { name: l.name.clone(), after: after.clone() })
        .collect();
    let jobs = a.jobs.or(fleet.jobs).unwrap_or_else(default_jobs);
    let of = |s: &net::Switch| Task { name: s.name.clone(), after: BTreeSet::new() };
    let switches: Vec<Task> = fleet.switches.iter().map(of).collect();
    let status = work::each(&switches, jobs, a.progress, "starting", |name| {
        let s = fleet.switches.iter().find(|s| s.name == name);
        switch::up(&store, s.ok_or_else(|| Failure::other("no such switch"))?)
    });
    if status != 0 {
        return Ok(status);
    }
    Ok(work::each(&tasks, jobs, a.progress, "starting", |name| {
        let (loaded, _) = fleet
            .members
            .iter()
            .find(|(l, _)| l.name == name)
            .ok_or_else(|| Failure::other("no such member"))?;
        match create::define(&store, loaded, None) {
            Err(e) if e.code == code::BUSY => return Ok("was running already".into()),
            r => r?,
        }
        start::start(&store, name, None, None)?;
        let s = store.dir(name).status();
        let took =
            s.booted.zip(s.started).map_or(String::new(), |(b, a)| format!(" in {:.2} s", b - a));
        Ok(format!("up{took}"))
    }))
}

/// `umld down`.
pub fn down(a: &Fleet) -> Result<u8> {
    let fleet = spec::load(&a.file)?.only(&a.names)?;
    let store = Store::open()?;
    // The other way round: what comes after something is stopped before it.
    let tasks: Vec<Task> = fleet
        .members
        .iter()
        .map(|(l, _)| Task {
            name: l.name.clone(),
            after: fleet
                .members
                .iter()
                .filter(|(_, a)| a.contains(&l.name))
                .map(|(o, _)| o.name.clone())
                .collect(),
        })
        .collect();
    let jobs = a.jobs.or(fleet.jobs).unwrap_or_else(default_jobs);
    let status = work::each(&tasks, jobs, a.progress, "stopping", |name| stop_if_up(&store, name));
    // A member that is not meant may come back to its switch.
    if status != 0 || !a.names.is_empty() {
        return Ok(status);
    }
    let of = |s: &net::Switch| Task { name: s.name.clone(), after: BTreeSet::new() };
    let switches: Vec<Task> = fleet.switches.iter().map(of).collect();
    Ok(work::each(&switches, jobs, a.progress, "stopping", |name| switch::down(&store, name)))
}

/// Stops an instance by its own times, when it runs.
pub fn stop_if_up(store: &Store, name: &str) -> Result<String> {
    match instance::find(store, name) {
        Ok(i) if i.pid.is_some() || i.has_holder() => {
            stop::stop_one(store, &i, &stop::times_of(&i), &mut |_, _| {})
        }
        Ok(_) => Ok("was down".into()),
        Err(e) if e.code == code::NO_INSTANCE => Ok("was down".into()),
        Err(e) => Err(e),
    }
}

/// `umld status -f`.
pub fn status(file: &Path, format: &Format) -> Result<u8> {
    let fleet = spec::load(file)?;
    let store = Store::open()?;
    let wanted: BTreeSet<&str> = fleet.members.iter().map(|(l, _)| l.name.as_str()).collect();
    let list: Vec<_> =
        instance::all(&store)?.into_iter().filter(|i| wanted.contains(i.name.as_str())).collect();
    let up = list.iter().filter(|i| i.pid.is_some()).count();
    let switches: Vec<switch::Report> =
        fleet.switches.iter().map(|s| switch::report(&store, &s.name)).collect();
    if format.json {
        let processes = instance::Processes::now();
        let members = list.iter().map(|i| crate::cmd::status::json_of(i, &processes));
        let all: Vec<Value> = members.chain(switches.iter().map(|s| json!(s))).collect();
        let text = serde_json::to_string_pretty(&all).unwrap_or_default();
        crate::cmd::print(&format!("{text}\n"))?;
    } else if format.quiet {
        crate::cmd::status::show(&list, false, true)?;
        let lines = switches.iter().map(|s| format!("{} {}\n", s.name, s.state));
        crate::cmd::print(&lines.collect::<String>())?;
    } else {
        let rows: Vec<Vec<String>> = wanted
            .iter()
            .map(|n| match list.iter().find(|i| i.name == **n) {
                Some(i) => vec![
                    i.name.clone(),
                    i.state.name().into(),
                    i.pid.map_or("-".into(), |p| p.to_string()),
                    i.uptime.map_or("-".into(), crate::cmd::span),
                    if i.pid.is_none() { i.status.reason.clone() } else { String::new() },
                ],
                None => vec![(*n).to_owned(), "never started".into()],
            })
            .collect();
        crate::cmd::print(&crate::cmd::table(&["NAME", "STATE", "PID", "UP", ""], &rows))?;
        crate::cmd::print(&format!("{up} of {} are up\n", wanted.len()))?;
        if !switches.is_empty() {
            let rows: Vec<Vec<String>> = switches.iter().map(switch::Report::row).collect();
            let head = ["SWITCH", "STATE", "PID", "UP", "PORTS", "CONTROL SOCKET"];
            crate::cmd::print(&format!("\n{}", crate::cmd::table(&head, &rows)))?;
        }
    }
    let all_up = up == wanted.len() && switches.iter().all(switch::Report::is_up);
    Ok(if all_up { 0 } else { code::STOPPED })
}
