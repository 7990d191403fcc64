//! `bench-net`: what a guest's network does, beside the host's own stack and stock UML, in one run.
//!
//! Everything happens in a network namespace of its own: the host's end of each interface with `iperf3 -s` behind it, and guests at the
//! other end. TCP is measured by iperf3 with CUBIC on both ends, latency by ping. Small packets are those of iperf3's UDP mode, counted
//! where they arrive.
//!
//! [`count`] does that, [`connect`] counts connections, [`behind`] is for other routers of users without privileges, [`forward`] measures routers, [`loss`] is a wire that loses packets, [`wires`] are the connections that can be measured and what they need of the host, [`place`] starts programs natively, in
//! our kernel and in stock UML, [`measure`] reads what iperf3 and ping print. Needs root (or `unshare -r`, then without stock UML), iproute2, iperf3, ping.
#![forbid(unsafe_code)]

mod behind;
mod connect;
mod count;
mod forward;
mod loss;
mod measure;
mod place;
mod wires;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use measure::What;
use place::Place;
use wires::WIRES;

const USAGE: &str = "\
usage: bench-net [OPTIONS]

options:
  --places LIST   comma separated, of: native, ours, stock, stock-pinned, slirp4netns, pasta (default: all)
  --wires LIST    of: tap, raw, hybrid, gre, l2tpv3, bess, user, forward, loss, sockets (default: all)
  --rounds N      rounds of each figure (default 3)
  --seconds N     length of a transfer (default 3; datagrams are counted from 2 on)
  --json FILE     where the figures go as JSON
";

/// Says that the namespace is entered.
const INSIDE: &str = "--inside";

struct Options {
    places: Vec<String>,
    wires: Vec<String>,
    rounds: usize,
    seconds: u32,
    json: Option<PathBuf>,
    inside: bool,
}

fn options() -> Result<Option<Options>, String> {
    let list = |t: String| t.split(',').map(String::from).collect::<Vec<_>>();
    let mut o = Options {
        places: Place::NAMES.iter().map(|n| (*n).into()).collect(),
        wires: WIRES.iter().map(|w| w.name.into()).collect(),
        rounds: 3,
        seconds: 3,
        json: None,
        inside: false,
    };
    let mut it = std::env::args().skip(1);
    while let Some(a) = it.next() {
        let mut value = || it.next().ok_or(format!("{a} needs a value"));
        let number =
            |v: String| v.parse::<u32>().map_err(|_| format!("{a}: '{v}' is not a number"));
        match a.as_str() {
            "--help" | "-h" => return Ok(None),
            "--places" => o.places = list(value()?),
            "--wires" => o.wires = list(value()?),
            "--rounds" => o.rounds = number(value()?)?.max(1) as usize,
            "--seconds" => o.seconds = number(value()?)?.max(1),
            "--json" => o.json = Some(value()?.into()),
            INSIDE => o.inside = true,
            w => return Err(format!("unknown option '{w}'")),
        }
    }
    for p in &o.places {
        if !Place::NAMES.contains(&p.as_str()) {
            return Err(format!("unknown place '{p}'; known: {}", Place::NAMES.join(", ")));
        }
    }
    for w in &o.wires {
        if !WIRES.iter().any(|k| k.name == w) {
            return Err(format!("unknown wire '{w}'"));
        }
    }
    Ok(Some(o))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // What this program is besides, in places where figures are made.
    let other = match words.split_first().map(|(a, b)| (a.as_str(), b)) {
        Some((loss::RELAY, ends)) => Some(loss::relay(ends)),
        Some((connect::CLIENT, rest)) => Some(connect::client(rest)),
        _ => None,
    };
    if let Some(done) = other {
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                println!("{e}");
                ExitCode::FAILURE
            }
        };
    }
    let o = match options() {
        Ok(Some(o)) => o,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("bench-net: {e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let done = if o.inside { run(&o) } else { enter() };
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("bench-net: {e}");
            ExitCode::FAILURE
        }
    }
}

/// This program again, in a network namespace of its own.
fn enter() -> Result<ExitCode, String> {
    use std::os::unix::fs::MetadataExt;
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let s = Command::new("unshare")
        .arg(if root { "-n" } else { "-rn" })
        .arg(me)
        .args(std::env::args_os().skip(1))
        .arg(INSIDE)
        .status()
        .map_err(|e| format!("unshare: {e}"))?;
    Ok(ExitCode::from(s.code().unwrap_or(1).clamp(0, 255) as u8))
}

/// Figures by wire and what is measured, then by place: medians of the rounds, and what went wrong.
type Row = BTreeMap<String, Result<f64, String>>;

fn run(o: &Options) -> Result<ExitCode, String> {
    wires::ip("link set lo up")?;
    let mut places = Vec::new();
    for name in &o.places {
        match Place::of(name) {
            Ok(p) => places.push(p),
            Err(why) => eprintln!("bench-net: {name} left out: {why}"),
        }
    }
    let mut rows: Vec<(String, &What, Row)> = Vec::new();
    for wire in WIRES.iter().filter(|w| o.wires.iter().any(|n| n == w.name)) {
        for what in wire.measured {
            let mut row = Row::new();
            for place in places.iter().filter(|p| wire.serves(p)) {
                eprintln!("bench-net: {} {} {}", wire.name, what.name(), place.name);
                let rounds: Result<Vec<f64>, String> =
                    (0..o.rounds).map(|_| wire.measure(place, *what, o.seconds)).collect();
                row.insert(place.name.clone(), rounds.map(median));
            }
            rows.push((wire.name.into(), what, row));
        }
    }
    print(&rows, &places);
    if let Some(path) = &o.json {
        let all: Vec<_> = rows
            .iter()
            .map(|(w, what, row)| {
                let figures: BTreeMap<_, _> = row.iter().map(|(p, r)| (p, r.clone().ok())).collect();
                serde_json::json!({"wire": w, "what": what.name(), "unit": what.unit(), "figures": figures})
            })
            .collect();
        let text = format!("{:#}\n", serde_json::Value::from(all));
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let bad = rows.iter().flat_map(|r| r.2.values()).any(|r| r.is_err());
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The table: each figure with its ratio to the native one, ours also with that to the better of stock UML's two.
fn print(rows: &[(String, &What, Row)], places: &[Place]) {
    let mut errors = Vec::new();
    print!("{:<8} {:<12} {:<7}", "wire", "what", "unit");
    for p in places {
        print!(" {:>20}", p.name);
    }
    println!(" {:>12}", "ours/stock");
    for (wire, what, row) in rows {
        print!("{wire:<8} {:<12} {:<7}", what.name(), what.unit());
        let get = |n: &str| row.get(n).and_then(|r| r.as_ref().ok()).copied();
        for p in places {
            let text = match row.get(&p.name) {
                None => "-".into(),
                Some(Err(e)) => {
                    errors.push(format!("{wire} {} {}: {e}", what.name(), p.name));
                    "failed".into()
                }
                Some(Ok(v)) => match get("native").filter(|_| p.name != "native") {
                    Some(n) => format!("{v:.2} ({:.2}x)", v / n),
                    None => format!("{v:.2}"),
                },
            };
            print!(" {text:>20}");
        }
        let stock = [get("stock"), get("stock-pinned")].into_iter().flatten();
        let best =
            if what.more_is_better() { stock.reduce(f64::max) } else { stock.reduce(f64::min) };
        match (get("ours"), best) {
            (Some(o), Some(s)) => println!(" {:>11.2}x", o / s),
            _ => println!(" {:>12}", "-"),
        }
    }
    for e in errors {
        println!("{e}");
    }
}
