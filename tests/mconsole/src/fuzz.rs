//! `mconsole-fuzz [--seconds N] [--seed S] [TARGET...]`: what arrives on the sockets, made wrong.
//!
//! Every round follows from its target and seed alone, so a failure is repeated with `--seed S --seconds 0 TARGET`. `request`, `reply`
//! and `notification` are the decoders; `server` is the kernel's console with its devices, in this process and without a guest, so
//! that commands that end or stop a machine can be tried too. A round fails when something panics, an answer breaks the protocol's
//! rules, or hangs ([`storage_tests::fuzzing`]).

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use mconsole_tests::request::Client;
use mconsole_tests::wrong;
use storage_tests::fuzzing::Plan;
use storage_tests::ops::Random;
use uml_core::kernel::Kernel;
use uml_drivers::console::{ConsoleOptions, Consoles};
use uml_drivers::ubd::Ubd;
use uml_drivers::vector::Vectors;
use uml_formats::mconsole::{
    COMMANDS, MAX_DATA, Notification, NotificationKind, Received, Reply, ReplyAssembler, argument,
    log_text, lookup, receive, split_reply,
};
use uml_host::reactor::Reactor;
use uml_mconsole_kernel::{Parts, Server, Sysrq};
use uml_tty::devices::TerminalLayer;

const TARGETS: [&str; 4] = ["request", "reply", "notification", "server"];

fn main() -> ExitCode {
    let plan = match Plan::read("mconsole-fuzz", &TARGETS) {
        Ok(p) => p,
        Err(status) => return status,
    };
    let dir = match tempfile::Builder::new().prefix("mf").tempdir() {
        Ok(d) => d,
        Err(e) => {
            eprintln!("mconsole-fuzz: no temporary directory: {e}");
            return ExitCode::FAILURE;
        }
    };
    // Started by the first round that needs it.
    let mut served = None;
    plan.run(|target, seed| {
        let mut r = Random::new(seed);
        match target {
            "request" => request_round(&mut r),
            "reply" => reply_round(&mut r),
            "notification" => notification_round(&mut r),
            _ => {
                let s = match served.take() {
                    Some(s) => s,
                    None => Served::start(dir.path())?,
                };
                served.insert(s).round(&mut r)
            }
        }
    })
}

fn request_round(r: &mut Random) -> Result<(), String> {
    let d = wrong::request(r);
    let Received::Command { text, .. } = receive(&d) else { return Ok(()) };
    if text.len() >= MAX_DATA
        || !d.windows(text.len().max(1)).any(|w| w == text) && !text.is_empty()
    {
        return Err(format!("{d:?} became {text:?}"));
    }
    let Some((command, rest)) = lookup(&text) else { return Ok(()) };
    let whole = [command.name().as_bytes(), rest].concat();
    if !COMMANDS.contains(&command) || whole != text {
        return Err(format!("{text:?} is not {command:?}"));
    }
    if !rest.ends_with(argument(rest)) || !rest.ends_with(log_text(rest)) {
        return Err(format!("the argument of {text:?} comes from elsewhere"));
    }
    Ok(())
}

fn reply_round(r: &mut Random) -> Result<(), String> {
    // What a kernel says arrives whole, in datagrams of the protocol's size.
    let text: Vec<u8> = (0..r.below(3000)).map(|_| 1 + r.below(255) as u8).collect();
    let err = r.number() as i32;
    let mut whole = ReplyAssembler::default();
    let mut answer = None;
    for d in split_reply(err, &text, false) {
        if d.len() > 12 + MAX_DATA || answer.is_some() {
            return Err(format!("a datagram of {} bytes", d.len()));
        }
        let one = Reply::decode(&d).map_err(|e| e.to_string())?;
        answer = whole.push(one);
        // The same, damaged: refused or short.
        let mut bad = d;
        wrong::damage(&mut bad, r);
        if let Ok(got) = Reply::decode(&bad)
            && got.text.len() > MAX_DATA
        {
            return Err(format!("{bad:?} has {} bytes of text", got.text.len()));
        }
    }
    match answer {
        Some(a) if (a.err, &a.text) == (err, &text) => Ok(()),
        other => Err(format!("{text:?} became {other:?}")),
    }
}

fn notification_round(r: &mut Random) -> Result<(), String> {
    let payload: Vec<u8> = (0..r.below(600)).map(|_| r.number() as u8).collect();
    let kind = [
        NotificationKind::Socket,
        NotificationKind::Panic,
        NotificationKind::Hang,
        NotificationKind::User,
    ][r.below(4) as usize];
    let mut d = Notification { kind, payload: payload.clone() }.encode();
    let back = Notification::decode(&d).map_err(|e| e.to_string())?;
    if back.kind != kind || !payload.starts_with(&back.payload) {
        return Err(format!("{payload:?} became {back:?}"));
    }
    wrong::damage(&mut d, r);
    if let Ok(n) = Notification::decode(&d)
        && n.text().len() > 3 * d.len()
    {
        return Err(format!("{d:?} has the text {:?}", n.text()));
    }
    Ok(())
}

/// The kernel's console in this process. Power and panic do nothing here.
struct Served {
    client: Client,
    _server: Arc<Server>,
    _consoles: Arc<Consoles>,
}

impl Served {
    fn start(dir: &Path) -> Result<Served, String> {
        let text = |e: uml_abi::Errno| e.to_string();
        let kernel = Kernel::new(64 << 20, 2);
        let proc = uml_procfs::register(&kernel);
        let net = uml_inet::init(&kernel, &proc);
        let layer = TerminalLayer::install(&kernel).map_err(text)?;
        let reactor = Reactor::start().map_err(|e| e.to_string())?;
        let null = || vec!["=null".to_owned()];
        let options = ConsoleOptions { con: null(), ssl: null(), ..ConsoleOptions::default() };
        let consoles = Consoles::install(&kernel, &layer, &reactor, &options).map_err(text)?;
        let consoles = Arc::new(consoles);
        let disks = Ubd::install(&kernel, &[]).map_err(text)?;
        Vectors::install(&kernel, &net, &[]);
        uml_drivers::configure::register(&kernel, &disks, &consoles);
        let sysrq = Sysrq::new(&kernel);
        let socket = dir.join("mconsole");
        let server = Server::start(&socket, Parts { kernel, proc, sysrq, net });
        let server = server.map_err(|e| format!("{}: {e}", socket.display()))?;
        Ok(Served { client: Client::new(&socket)?, _server: server, _consoles: consoles })
    }

    fn round(&self, r: &mut Random) -> Result<(), String> {
        let d = wrong::request(r);
        self.client.send(&d)?;
        // Every datagram is answered: by a text, or by one datagram without a header.
        let first = self.client.receive()?;
        let shown = || String::from_utf8_lossy(&d).into_owned();
        if receive(&d) == Received::BadMagic {
            return if first.starts_with(b"ERR Version 0") {
                Ok(())
            } else {
                Err(format!("{:?} was answered with {first:?}", shown()))
            };
        }
        let mut reply = Reply::decode(&first).map_err(|e| format!("{:?}: {e}", shown()))?;
        while reply.more {
            let next = self.client.receive()?;
            reply = Reply::decode(&next).map_err(|e| format!("{:?}: {e}", shown()))?;
        }
        if reply.text.starts_with(b"Internal error") {
            return Err(format!("a panic in {:?}", shown()));
        }
        if matches!(receive(&d), Received::Command { other_version: Some(_), .. }) {
            // The complaint was the first answer; a second one is that of the command.
            while Reply::decode(&self.client.receive()?).map_err(|e| e.to_string())?.more {}
        }
        let next = self.client.ask("nonsense")?;
        if (next.err, next.text.as_str()) != (1, Received::UNKNOWN_COMMAND) {
            return Err(format!("after {:?} the console says {next:?}", shown()));
        }
        Ok(())
    }
}
