//! `uml_switch`: an Ethernet switch for User Mode Linux machines and the host.
//!
//! * [`args`] – command line. [`listen`] – control sockets. [`serve`] – the loop that moves frames.
//! * [`engine`] – where a frame goes, with [`fdb`], the table of addresses, and [`vlan`]; pure.
//! * [`port`] – a client's socket or a TAP interface, its backlog and counters; [`capture`] – its frames as pcap.
//! * [`manage`] – `--status` and the like, asked and answered. [`say`] – messages.
//!
//! The protocol and the rules are those of the classic `uml_switch` (see uml_switch(1)), with these differences: every
//! client gets a data socket of its own, which is connected to the client, so that nobody can send in its name and a
//! client that stops reading fills only its own queue; all addresses of a port are forgotten when it closes; SIGTERM
//! cleans up too.
//!
//! Neighbours: `uml-formats` (protocol) and `uml-host` (batched datagrams, TAP) below. A network stack does not belong
//! here. No locks: one thread owns the switch; messages and questions travel through channels.
#![forbid(unsafe_code)]

pub mod args;
pub mod capture;
pub mod engine;
pub mod fdb;
pub mod listen;
pub mod manage;
pub mod port;
pub mod say;
pub mod serve;
pub mod vlan;

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::ExitCode;

use args::{Options, Parsed};
use nix::sys::signal::{SigSet, Signal, raise};
use serve::{End, Switch};

/// The program `uml_switch` with these words, the first being its name.
pub fn main(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let program = words.next().unwrap_or_else(|| "uml_switch".into());
    let program = program.to_string_lossy().into_owned();
    let result = match args::parse(words) {
        Parsed::Serve(options) => run(&program, &options),
        Parsed::Ask { control, ask } => manage::ask(&control, &ask).map(|text| print!("{text}")),
        Parsed::Help => {
            let name = Path::new(&program).file_name().unwrap_or_default();
            print!("{}", args::help(&name.to_string_lossy()));
            Ok(())
        }
        Parsed::Version => {
            println!("uml_switch {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Parsed::Usage(reason) => {
            eprint!("{}", args::usage(&program));
            match reason {
                Some(reason) => Err(reason),
                None => return ExitCode::FAILURE,
            }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the switch until it is told to end. Returns normally at the end of standard input; a signal ends the process
/// as the signal would. Errors are messages for the user.
pub fn run(program: &str, options: &Options) -> Result<(), String> {
    if options.compat_data.is_some() {
        println!("Control protocol 0 compatibility");
    }
    if options.hub {
        println!("{program} will be a hub instead of a switch");
    }
    let passed = uml_host::activation::sockets();
    let setup = serve::set_up(options, passed)?;
    let mut line = format!("{program} attached to unix socket");
    match &options.compat_data {
        Some(data) => {
            line += &format!("s '{}' and '{}'", options.control.display(), data.display());
        }
        None => line += &format!(" '{}'", options.control.display()),
    }
    for tap in options.tap.iter().chain(options.taps.iter().map(|t| &t.name)) {
        line += &format!(" tap device '{tap}'");
    }
    println!("{line}");
    if options.daemon {
        nix::unistd::daemon(false, true).map_err(|e| format!("daemon: {}", e.desc()))?;
    }
    let mut switch = Switch::start(program, options, setup)?;
    tell_service_manager("READY=1");
    let end = switch.run()?;
    tell_service_manager("STOPPING=1");
    switch.finish(&end);
    if let End::Signal(signal) = end {
        die_by(signal);
    }
    Ok(())
}

/// sd_notify(3), when a service manager asks for it.
fn tell_service_manager(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_encoded_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    // A manager that does not listen needs no telling.
    let _ = address
        .and_then(|a| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &a).map(|_| ()));
}

/// Ends the process by the signal that asked for it, so that whoever waits sees it.
fn die_by(signal: Signal) {
    let mut mask = SigSet::empty();
    mask.add(signal);
    // Should it fail, the caller exits in the ordinary way.
    let _ = mask.thread_unblock().and_then(|()| raise(signal));
}
