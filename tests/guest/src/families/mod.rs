//! The families, one file each.

mod aio;
mod cgroups;
mod clone;
mod content;
mod datagram;
mod domains;
mod events;
mod exec;
mod faults;
mod files;
mod futex;
mod handles;
mod identity;
mod inet;
mod intercept;
mod ipc;
mod ipoptions;
mod jobs;
mod landlock;
mod limits;
mod locks;

mod memory;
mod namespaces;
mod netlink;
mod paths;
mod permissions;
mod pipes;
mod pointers;
mod pressure;
mod process;
mod procfs;
mod procpid;
mod ptrace;
mod refer;
mod remap;
mod restart;
mod rights;
mod secret;
mod sigio;
mod signals;
mod sockopt;
mod threads;
mod time;
mod timens;
mod timestamping;
mod tty;
mod udplite;
mod unix;
mod unixoptions;

use crate::runner::Family;
use std::process::ExitCode;

macro_rules! families {
    ($($name:ident),* $(,)?) => { vec![$(Family { name: stringify!($name), cases: $name::CASES }),*] };
}

/// Every family in the order `gt list` shows.
pub fn all() -> Vec<Family> {
    families![
        process,
        ptrace,
        clone,
        exec,
        signals,
        restart,
        intercept,
        faults,
        threads,
        futex,
        memory,
        remap,
        secret,
        pipes,
        files,
        content,
        paths,
        handles,
        permissions,
        landlock,
        domains,
        refer,
        locks,
        aio,
        sigio,
        events,
        time,
        timens,
        unix,
        inet,
        ipoptions,
        sockopt,
        udplite,
        timestamping,
        rights,
        unixoptions,
        tty,
        jobs,
        identity,
        namespaces,
        cgroups,
        netlink,
        limits,
        ipc,
        procfs,
        procpid,
        pressure,
        pointers
    ]
}

/// What the program does when a case executes it again.
pub fn role(args: &[String]) -> ExitCode {
    if let Some((first, rest)) = args.split_first()
        && first == "timens"
    {
        return timens::role(rest);
    }
    exec::role(args).unwrap_or(ExitCode::from(2))
}
