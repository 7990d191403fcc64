//! `umld stop`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::Stop;
use crate::cmd::start::{check, method};
use crate::failure::{Failure, Result, code};
use crate::holder;
use crate::instance::{self, Instance};
use crate::process::Process;
use crate::spec;
use crate::spec::vm::StopTimes;
use crate::state::Store;
use crate::stop::{self, Step};
use crate::wire::Reply;

/// Stops each, saying what worked.
pub fn run(a: &Stop) -> Result<u8> {
    let names = if a.all {
        let store = Store::open()?;
        instance::all(&store)?.into_iter().filter(|i| i.pid.is_some()).map(|i| i.name).collect()
    } else {
        a.names.clone()
    };
    super::each(&names, |store, name| {
        let i = instance::find(store, name)?;
        let mut times = times_of(&i);
        for (over, t) in
            [(a.cad, &mut times.cad), (a.halt, &mut times.halt), (a.term, &mut times.term)]
        {
            if let Some(o) = over {
                *t = o.0;
            }
        }
        if a.now {
            times.cad = Duration::ZERO;
        }
        let how = stop_one(store, &i, &times, &mut |step, problem| {
            if let Some(p) = problem {
                eprintln!("umld: {name}: {}: {p}", step.name());
            }
        })?;
        super::print(&format!("{name}: {how}\n")).map(|_| ())
    })
}

/// What its file says, else the defaults.
pub fn times_of(i: &Instance) -> StopTimes {
    let vm = spec::load(&i.dir.spec()).map(|l| l.vm).unwrap_or_default();
    vm.stop.times()
}

/// Stops a running instance; says what worked.
pub fn stop_one(
    store: &Store,
    i: &Instance,
    times: &StopTimes,
    report: &mut dyn FnMut(Step, Option<String>),
) -> Result<String> {
    let restarting = i.has_holder();
    if i.pid.is_none() && !restarting {
        return Err(i.is_stopped());
    }
    if i.has_holder()
        && let Ok(mut c) = holder::connect(store, &i.name)
    {
        let lost = |e: std::io::Error| {
            Failure::other(format!("the holder of \"{}\" is gone: {e}", i.name))
        };
        c.call(&method("Stop"), json!({"times": times})).map_err(lost)?;
        loop {
            let reply = match c.receive::<Reply>() {
                Ok(r) => check(r)?,
                // Its last words got lost; what it wrote down counts.
                Err(_) if !i.dir.is_held() => return Ok(i.dir.status().reason),
                Err(e) => return Err(lost(e)),
            };
            if !reply.continues {
                let reason = reply.parameters.get("reason").and_then(Value::as_str);
                // The lock is free once the holder is gone: what follows may need it.
                let _ = c.receive::<Reply>();
                return Ok(reason.unwrap_or("stopped").to_owned());
            }
            let step = reply.parameters.get("step").cloned().unwrap_or_default();
            if let Ok(step) = serde_json::from_value(step) {
                let problem = reply.parameters.get("problem").and_then(Value::as_str);
                report(step, problem.map(str::to_owned));
            }
        }
    }
    let pid = i.running()?;
    let process = Process::open(pid).map_err(|_| i.is_stopped())?;
    let worked = stop::stop(&process, i.socket.as_deref(), times, report);
    match worked {
        Some(step) => Ok(step.worked()),
        None => Err(Failure::new(
            code::TIMEOUT,
            format!("not even SIGKILL ended instance \"{}\" (pid {pid}) in time", i.name),
        )),
    }
}
