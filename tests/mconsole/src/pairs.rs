//! Our and the stock client with our and the stock kernels: every command, success and error, must look alike to a script.
//!
//! The pair of the stock client and the stock kernel is the model; the others are compared with it field by field: exit
//! status, `OK` or `ERR`, text. Where a text holds what differs by nature (a release, an address), the rule of its line says what is
//! compared of it.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use storage_tests::suite::{Verdict, program};
use uml_formats::mconsole::{HELP, MAGIC};

use crate::machine::{Kernel, Machine, PATIENCE, Start};
use crate::request::{self, Client};

/// The first program: counts Ctrl-Alt-Del and otherwise waits.
const INIT: &str = "echo 0 > /proc/sys/kernel/ctrl-alt-del; trap 'echo cad' INT; echo up
    while :; do sleep 1000 & wait; done";

/// What of an answer is compared.
#[derive(Clone, Copy)]
enum Rule {
    /// All.
    Exact,
    /// The first line.
    First,
    /// What the function makes of it.
    Of(fn(&str) -> String),
    /// The same of a long text. Stock kernels drop what the client does not read at once, the end of the answer too; then
    /// there is nothing to compare.
    Dump(fn(&str) -> String),
}

use Rule::{Dump, Exact, First, Of};

fn first(text: &str) -> String {
    text.lines().take(1).collect()
}

fn two(text: &str) -> String {
    text.lines().take(2).collect::<Vec<_>>().join("\n")
}

/// Number of fields, and those that every machine has alike.
fn version(text: &str) -> String {
    let f: Vec<&str> = text.split(' ').collect();
    let machine = f.last().copied().unwrap_or_default();
    format!("{} {} {machine} {}", f.first().unwrap_or(&""), f.get(1).unwrap_or(&""), f.len() >= 5)
}

/// The stock text at the start.
fn help(text: &str) -> String {
    if text.starts_with(HELP) { "the stock text".into() } else { text.into() }
}

fn decimal(text: &str) -> String {
    if text.parse::<u64>().is_ok() { "a number".into() } else { text.into() }
}

/// `\n1.63 3.27\n`.
fn uptime(text: &str) -> String {
    let numbers = text.split_whitespace().filter(|w| w.parse::<f64>().is_ok()).count();
    format!("{numbers} numbers, {} lines", text.lines().count())
}

fn words(text: &str) -> String {
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// The words of a stock `sysrq: HELP :` that every kernel must list.
fn letters(text: &str) -> String {
    let stock = "loglevel(0-9) reboot(b) crash(c) terminate-all-tasks(e) memory-full-oom-kill(f) kill-all-tasks(i) \
                 thaw-filesystems(j) show-memory-usage(m) nice-all-RT-tasks(n) poweroff(o) show-registers(p) \
                 show-all-timers(q) sync(s) show-task-states(t) unmount(u) show-blocked-tasks(w)";
    let missing: Vec<&str> =
        stock.split(' ').filter(|w| !text.split_whitespace().any(|t| &t == w)).collect();
    format!("{} missing {missing:?}", text.starts_with("sysrq: HELP : "))
}

/// `Stack:`, three rows of four words, `Call Trace:`, frames.
fn stack(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let hex = |l: &&&str| l.split_whitespace().all(|w| u64::from_str_radix(w, 16).is_ok());
    let rows = lines.iter().skip(1).take_while(hex).map(|l| l.split_whitespace().count());
    let rows: Vec<usize> = rows.collect();
    let frames = &lines[lines.len().min(2 + rows.len())..];
    let framed = frames.iter().filter(|l| l.starts_with(" [<")).count();
    format!(
        "{:?} {rows:?} {:?} {} {}",
        lines.first(),
        lines.get(1 + rows.len()),
        framed > 0,
        frames.len() - framed
    )
}

/// In order; `user` marks what only a kernel that can run programs answers alike.
const COMMANDS: &[(&str, Rule, bool)] = &[
    ("version", Of(version), false),
    ("help", Of(help), false),
    ("nonsense", Exact, false),
    ("Version", Exact, false),
    ("config", Exact, false),
    ("config nosuch0", Exact, false),
    ("config nosuch0=x", Exact, false),
    ("remove", Exact, false),
    ("remove nosuch0", Exact, false),
    ("config mem", Of(decimal), false),
    ("config mem=-1M", Exact, false),
    ("config mem=+1M", Exact, false),
    ("config mem=3M", Exact, false),
    ("config mem=-x", Exact, false),
    ("config mem=-1Mx", Exact, false),
    ("config memx=-1M", Exact, false),
    ("remove mem", Exact, false),
    ("remove mem0", Exact, false),
    ("config ubd1", Exact, false),
    ("config ubd1=./image", Exact, false),
    ("config ubd1", Exact, false),
    ("config ubdb", Exact, false),
    ("config ubd1=image", Exact, false),
    ("remove ubd1", Exact, false),
    ("remove ubd1", Exact, false),
    ("config ubd1", Exact, false),
    ("config ubd2=missing", Exact, false),
    ("config ubd3z=image", Exact, false),
    ("config ubd3rsctdrr=image", Exact, false),
    ("config ubd5d=a,image", Exact, false),
    ("config ubd16=image", Exact, false),
    ("config ubd16", Exact, false),
    ("config ubd!=image", Exact, false),
    ("remove ubd16", Exact, false),
    ("remove ubd!", Exact, false),
    ("config con1", Exact, false),
    ("config con1=pts", Exact, false),
    ("config con1", Exact, false),
    ("config con1=nosuch", Exact, false),
    ("config con1", Exact, false),
    ("config con1=null", Exact, false),
    ("config con1=none", Exact, false),
    ("remove con1", Exact, false),
    ("config con1=null", Exact, false),
    ("remove con1", Exact, false),
    ("config con1", Exact, false),
    ("config con1=null", Exact, false),
    ("config con0=pts", Exact, true),
    ("config con16", Exact, false),
    ("config con16=null", Exact, false),
    ("config con", Exact, false),
    ("config conx", Exact, false),
    ("config con=null", Exact, false),
    ("config con1x=null", Exact, false),
    ("remove con16", Exact, false),
    ("remove con", Exact, false),
    ("config ssl2", Exact, false),
    ("config ssl64", Exact, false),
    ("config ssl64=null", Exact, false),
    ("config ssl2=port:9x", Exact, false),
    ("config ssl2", Exact, false),
    ("config ssl2=null", Exact, false),
    ("config vec0", Exact, false),
    ("config vec0=x", Exact, false),
    ("config vecx:transport=tap", Exact, false),
    ("config vec3:transport=tap,ifname=nosuch", Exact, false),
    ("config vec3:transport=tap,ifname=nosuch", Exact, false),
    ("config vec4:a=b=c", Exact, false),
    ("remove vec3", Exact, false),
    ("remove vec3", Exact, false),
    ("remove vec", Exact, false),
    ("sysrq h", Of(letters), false),
    ("sysrq", Of(letters), false),
    ("sysrq 9", Exact, false),
    ("sysrq 7", Exact, false),
    ("sysrq j", First, false),
    ("sysrq m", Dump(two), false),
    ("sysrq n", Exact, false),
    ("sysrq p", Dump(first), false),
    ("sysrq q", Dump(first), false),
    ("sysrq s", First, false),
    ("sysrq w", Dump(first), false),
    ("stack", Exact, false),
    ("stack x", Exact, false),
    ("stack 0", Exact, false),
    ("stack 99999", Exact, false),
    ("stack 1", Dump(stack), false),
    ("go", Exact, false),
    ("stop", Exact, false),
    ("stop", Exact, false),
    ("version", Of(version), false),
    ("stack 1", Dump(stack), false),
    ("proc uptime", Of(uptime), false),
    ("config con1", Exact, false),
    ("go", Exact, false),
    ("go", Exact, false),
    ("log hello from outside", Exact, false),
    ("log", Exact, false),
    ("proc version", Of(words), false),
    ("proc uptime", Of(uptime), false),
    ("proc nosuch", Exact, false),
    ("proc", Exact, false),
    ("proc kmsg", Exact, false),
    ("proc sys/kernel/ctrl-alt-del", Exact, true),
    ("cad", Exact, true),
];

/// `[    1.234567] ` at the start of lines is no part of what is compared.
fn without_stamps(text: &str) -> String {
    let stamp = |l: &str| -> Option<usize> {
        let (t, _) = l.strip_prefix('[')?.split_once("] ")?;
        t.trim().parse::<f64>().ok().map(|_| t.len() + 3)
    };
    text.split_inclusive('\n').map(|l| &l[stamp(l).unwrap_or(0)..]).collect()
}

/// Status, `OK` or `ERR`, and what the rule takes of the text.
fn fields(status: Option<i32>, stdout: &str, rule: Rule) -> String {
    let (head, text) = stdout.split_once(' ').unwrap_or((stdout, ""));
    let text = without_stamps(text.strip_suffix('\n').unwrap_or(text));
    let kept = match rule {
        Exact => text,
        First => first(&text),
        Of(f) | Dump(f) => f(&text),
    };
    format!("{status:?} {head} {kept:?}")
}

/// What stands for an answer whose end the kernel lost.
const LOST: &str = "lost";

fn client(
    m: &Machine,
    client: &Path,
    dir: &Path,
    command: &str,
    seconds: &str,
) -> Result<(Option<i32>, String), String> {
    let out = Command::new("timeout")
        .arg(seconds)
        .arg(client)
        .arg(&m.umid)
        .args(command.split(' '))
        .current_dir(dir)
        .env("HOME", &m.home)
        .env("LC_ALL", "C")
        .output()
        .map_err(|e| format!("{}: {e}", client.display()))?;
    Ok((out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned()))
}

/// The transcript of one pair.
fn transcript(m: &mut Machine, program: &Path, dir: &Path) -> Result<Vec<String>, String> {
    let user = m.kernel != Kernel::Stock61;
    let mut all = Vec::new();
    for (command, rule, needs_user) in COMMANDS {
        if *needs_user && !user {
            continue;
        }
        let long = m.kernel != Kernel::Ours && matches!(rule, Dump(_));
        let (mut status, mut stdout) =
            client(m, program, dir, command, if long { "2" } else { "30" })?;
        // A busy stock kernel prints later than it answers, now and then.
        if long && (status == Some(124) || stdout.trim_end() == "OK") {
            all.push(format!("{command}: {LOST}"));
            continue;
        }
        // The stock kernel, and what it starts, look into a new disk for a moment.
        let scanned = m.kernel != Kernel::Ours && *command == "remove ubd1";
        let deadline = Instant::now() + PATIENCE;
        while scanned && status == Some(240) && Instant::now() < deadline {
            (status, stdout) = client(m, program, dir, command, "30")?;
        }
        if *command == "cad" {
            m.line(|l| l == "cad")?;
        }
        if *command == "log hello from outside" {
            m.line(|l| l.ends_with("hello from outside"))?;
        }
        all.push(format!("{command}: {}", fields(status, &stdout, *rule)));
    }
    Ok(all)
}

/// Datagrams in, datagrams out; the number of answers to expect. They are the same bytes from every kernel.
fn datagrams() -> Vec<(&'static str, Vec<u8>, usize)> {
    let of = |t: &str| request::of(t.as_bytes());
    vec![
        ("no magic", b"version".to_vec(), 0),
        ("foreign byte order", request::raw(MAGIC.swap_bytes(), 2, 2, b"go"), 0),
        ("length 512", request::raw(MAGIC, 2, 512, &[b'g'; 512]), 1),
        ("length 2^32-1", request::raw(MAGIC, 2, u32::MAX, b"go"), 1),
        ("length 511", request::raw(MAGIC, 2, 511, &[b'x'; 512]), 1),
        ("version 3", request::raw(MAGIC, 3, 2, b"go"), 2),
        ("shorter length", request::raw(MAGIC, 2, 3, b"version"), 1),
        ("leading blank", of(" go"), 1),
        ("prefix", of("gopher"), 1),
        ("no blank", of("configubd1"), 1),
        ("other case", of("STOP"), 1),
        ("one character after log", of("logXtext"), 1),
        ("removal", of("remove ubd5xyz"), 1),
        ("bad option", of("config"), 1),
    ]
}

fn exchange(m: &Machine) -> Result<Vec<(String, Vec<Vec<u8>>)>, String> {
    let mut all = Vec::new();
    for (what, datagram, answers) in datagrams() {
        let c = Client::new(&m.socket)?;
        c.send(&datagram).map_err(|e| format!("{what}: {e}"))?;
        let mut got = Vec::new();
        if answers == 0 {
            got.push(c.receive().map_err(|e| format!("{what}: {e}"))?);
        }
        for _ in 0..answers {
            got.extend(c.replies().map_err(|e| format!("{what}: {e}"))?.iter().map(|r| r.encode()));
        }
        all.push((what.to_owned(), got));
    }
    Ok(all)
}

/// Everything about one kernel: the transcripts of both clients, the datagrams, a restart and the end.
struct Facts {
    by_client: Vec<(&'static str, Vec<String>)>,
    datagrams: Vec<(String, Vec<Vec<u8>>)>,
    end: Vec<String>,
}

fn facts(kernel: Kernel, dir: &Path, clients: &[(&'static str, &Path)]) -> Result<Facts, String> {
    let dir = dir.join(kernel.name().replace([' ', '.'], "-"));
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    std::fs::write(dir.join("image"), [0; 65536]).map_err(|e| e.to_string())?;
    let mut m = Machine::start(&Start {
        kernel,
        dir: &dir,
        umid: "pair",
        memory: 128,
        script: INIT,
        options: &[],
    })?;
    let mut by_client = Vec::new();
    for (name, program) in clients {
        let lines = transcript(&mut m, program, &dir).map_err(|e| format!("{name} client: {e}"))?;
        // Its own directory is the one thing in the answers that has the kernel's name.
        let here = dir.to_string_lossy().into_owned();
        by_client.push((*name, lines.iter().map(|l| l.replace(&here, "HERE")).collect()));
    }
    let datagrams = exchange(&m)?;
    let mut end = Vec::new();
    let (last, first) = (clients[clients.len() - 1].1, clients[0].1);
    if kernel != Kernel::Stock61 {
        end.push(format!("reboot {:?}", client(&m, last, &dir, "reboot", "30")?));
        m.line(|l| l == "up")?;
    }
    end.push(format!("halt {:?} {}", client(&m, first, &dir, "halt", "30")?, m.wait()?));
    Ok(Facts { by_client, datagrams, end })
}

/// The lines of `b` that differ from those of the same command of `a`, by name of the pair.
fn differences(a: &[String], b: &[String], name: &str, out: &mut Vec<String>) {
    let mut at = 0;
    for line in b {
        let command = line.split(": ").next().unwrap_or_default();
        // The model may know more commands (6.1 runs no programs); order is the same.
        while a.get(at).is_some_and(|l| l.split(": ").next() != Some(command)) {
            at += 1;
        }
        match a.get(at) {
            Some(l) if l == line => {}
            Some(l) if [l, line].iter().any(|l| l.ends_with(LOST)) => {}
            other => out.push(format!("{name}: {line}\n    instead of {other:?}")),
        }
        at += 1;
    }
}

/// The four pairs, and the two of 6.1 where it is.
pub fn clients_and_kernels(dir: &Path) -> Verdict {
    let Some(ours) = program("uml_mconsole") else {
        return Verdict::Failed("uml_mconsole is not built".into());
    };
    let stock = Path::new("/usr/bin/uml_mconsole");
    if !stock.exists() {
        return Verdict::Skipped(format!("{} is missing (package uml-utilities)", stock.display()));
    }
    if let Some(why) = Kernel::Stock.missing() {
        return Verdict::Skipped(why);
    }
    let clients: [(&'static str, &Path); 2] = [("stock", stock), ("our", &ours)];
    let compare = || -> Result<(), String> {
        let model = facts(Kernel::Stock, dir, &clients)?;
        let mut kernels = vec![Kernel::Ours];
        match Kernel::Stock61.missing() {
            None => kernels.push(Kernel::Stock61),
            Some(why) => println!("        without 6.1: {why}"),
        }
        let mut reference = model.by_client[0].1.clone();
        for (line, other) in reference.iter_mut().zip(&model.by_client[1].1) {
            if line.ends_with(LOST) {
                other.clone_into(line);
            }
        }
        let mut wrong = Vec::new();
        differences(&reference, &model.by_client[1].1, "our client, stock 7.2", &mut wrong);
        for kernel in kernels {
            let f = facts(kernel, dir, &clients)?;
            for (client, lines) in &f.by_client {
                let name = format!("{client} client, {}", kernel.name());
                differences(&reference, lines, &name, &mut wrong);
            }
            for ((what, a), (_, b)) in model.datagrams.iter().zip(&f.datagrams) {
                if a != b {
                    wrong.push(format!("{}, {what}: {b:?}\n    instead of {a:?}", kernel.name()));
                }
            }
            let (a, b) = (&model.end, &f.end);
            if a.last() != b.last() || (kernel == Kernel::Ours && a != b) {
                wrong.push(format!("{}: {b:?}\n    instead of {a:?}", kernel.name()));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("\n  {}", wrong.join("\n  "))) }
    };
    compare().into()
}
