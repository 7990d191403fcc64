//! `mconsole-bench`: requests of eight clients at once while the guest compiles; ours and stock in one run.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mconsole_tests::machine::{Kernel, Machine, Start};
use mconsole_tests::request::Client;

const USAGE: &str = "\
usage: mconsole-bench [--requests N] [--clients N] [--json FILE]

Sends N requests (default 10000) from N clients (default 8) to the management console of this kernel and of the stock one
(tests/cache/stock-sid, as root; left out when absent) while the guest compiles. Figures as a table, and as JSON in FILE
(default tests/cache/mconsole-bench.json). Exit status 1 when this kernel lost a request.
";

/// Two compilers in a row, for ever; each says when it is through.
const SCRIPT: &str = r#"
cd /tmp
{ for i in $(seq 1 400); do echo "int f$i(int x) { int a[16]; for (int i = 0; i < 16; i++) a[i] = x * i + $i; return a[x & 15] ^ f$i; }"; done
} | sed 's/ \^ f[0-9]*//' > work.c
(while :; do gcc -O2 -c -o work1.o work.c && echo compiled; done) &
(while :; do gcc -O2 -c -o work2.o work.c && echo compiled; done) &
echo up
wait
"#;

/// What clients ask, in turn.
const REQUESTS: [&str; 4] = ["version", "config con0", "proc uptime", "stack 1"];

struct Options {
    requests: usize,
    clients: usize,
    json: PathBuf,
}

fn options() -> Result<Option<Options>, String> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cache");
    let mut o = Options { requests: 10_000, clients: 8, json: cache.join("mconsole-bench.json") };
    let mut it = std::env::args().skip(1);
    while let Some(a) = it.next() {
        let mut value = || it.next().ok_or(format!("{a} needs a value"));
        let number = |v: String| match v.parse::<usize>() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(format!("{a}: '{v}' is not a number above 0")),
        };
        match a.as_str() {
            "--help" | "-h" => return Ok(None),
            "--requests" => o.requests = number(value()?)?,
            "--clients" => o.clients = number(value()?)?,
            "--json" => o.json = value()?.into(),
            w => return Err(format!("unknown option '{w}'")),
        }
    }
    Ok(Some(o))
}

struct Figures {
    kernel: &'static str,
    answered: usize,
    lost: usize,
    seconds: f64,
    compilations: usize,
    /// Sorted.
    latencies: Vec<Duration>,
}

impl Figures {
    /// In microseconds, as [`Figures::part`].
    fn mean(&self) -> f64 {
        let sum: Duration = self.latencies.iter().sum();
        sum.as_secs_f64() * 1e6 / self.latencies.len().max(1) as f64
    }

    /// In microseconds; 0 when nothing was answered.
    fn part(&self, numerator: usize, denominator: usize) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (self.latencies.len() * numerator / denominator).min(last);
        self.latencies.get(at).map_or(0.0, |d| d.as_secs_f64() * 1e6)
    }
}

/// One client's requests: latencies of those that were answered, and how many were not.
fn client(socket: &Path, requests: usize) -> Result<(Vec<Duration>, usize), String> {
    let mut c = Client::new(socket)?;
    let (mut all, mut lost) = (Vec::with_capacity(requests), 0);
    for n in 0..requests {
        c.patience(Duration::from_secs(10))?;
        let began = Instant::now();
        match c.ask(REQUESTS[n % REQUESTS.len()]) {
            Ok(a) if a.err == 0 => all.push(began.elapsed()),
            Ok(a) => return Err(format!("{}: {a:?}", REQUESTS[n % REQUESTS.len()])),
            Err(_) => {
                lost += 1;
                // A late answer shall not be taken for that of the next request.
                c = Client::new(socket)?;
            }
        }
    }
    Ok((all, lost))
}

fn measure(kernel: Kernel, o: &Options, dir: &Path) -> Result<Figures, String> {
    let dir = dir.join(kernel.name().replace([' ', '.'], "-"));
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    let start =
        Start { kernel, dir: &dir, umid: "load", memory: 512, script: SCRIPT, options: &[] };
    let mut m = Machine::start(&start)?;
    // Measured while it works, not while it begins.
    m.line(|l| l == "compiled")?;
    let began = Instant::now();
    let parts: Vec<Result<(Vec<Duration>, usize), String>> = std::thread::scope(|s| {
        let socket = &m.socket;
        let share = |n: usize| o.requests / o.clients + usize::from(n < o.requests % o.clients);
        let threads: Vec<_> =
            (0..o.clients).map(|n| s.spawn(move || client(socket, share(n)))).collect();
        let joined = |t: std::thread::ScopedJoinHandle<'_, _>| {
            t.join().unwrap_or_else(|_| Err("a client panicked".to_owned()))
        };
        threads.into_iter().map(joined).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    // It still works.
    m.line(|l| l == "compiled")?;
    let compilations = m.times("compiled");
    let (mut latencies, mut lost) = (Vec::new(), 0);
    for p in parts {
        let (l, n) = p?;
        latencies.extend(l);
        lost += n;
    }
    latencies.sort();
    let answered = latencies.len();
    Ok(Figures { kernel: kernel.name(), answered, lost, seconds, compilations, latencies })
}

fn write_json(file: &Path, all: &[Figures]) -> std::io::Result<()> {
    let of = |f: &Figures| {
        let figures = serde_json::json!({
            "answered": f.answered,
            "lost": f.lost,
            "seconds": f.seconds,
            "compilations": f.compilations,
            "median_us": f.part(1, 2),
            "mean_us": f.mean(),
            "p99_us": f.part(99, 100),
            "longest_us": f.part(1, 1),
        });
        (f.kernel.to_owned(), figures)
    };
    let all: serde_json::Map<String, serde_json::Value> = all.iter().map(of).collect();
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(file, format!("{:#}\n", serde_json::Value::Object(all)))
}

fn main() -> ExitCode {
    let o = match options() {
        Ok(Some(o)) => o,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("mconsole-bench: {e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let run = || -> Result<bool, String> {
        let dir = tempfile::Builder::new().prefix("mb").tempdir_in("/var/tmp");
        let dir = dir.map_err(|e| format!("/var/tmp: {e}"))?;
        let mut all = Vec::new();
        println!(
            "{:<10} {:>8} {:>5} {:>9} {:>10} {:>10} {:>10} {:>11} {:>13}",
            "kernel",
            "answered",
            "lost",
            "seconds",
            "median us",
            "mean us",
            "p99 us",
            "longest us",
            "compilations"
        );
        for kernel in [Kernel::Ours, Kernel::Stock] {
            if let Some(why) = kernel.missing() {
                println!("{:<10} left out: {why}", kernel.name());
                continue;
            }
            let f = measure(kernel, &o, dir.path())?;
            println!(
                "{:<10} {:>8} {:>5} {:>9.2} {:>10.0} {:>10.0} {:>10.0} {:>11.0} {:>13}",
                f.kernel,
                f.answered,
                f.lost,
                f.seconds,
                f.part(1, 2),
                f.mean(),
                f.part(99, 100),
                f.part(1, 1),
                f.compilations
            );
            all.push(f);
        }
        write_json(&o.json, &all).map_err(|e| format!("{}: {e}", o.json.display()))?;
        println!("figures as JSON: {}", o.json.display());
        Ok(all.iter().all(|f| f.kernel != Kernel::Ours.name() || f.lost == 0))
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("mconsole-bench: this kernel lost requests");
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("mconsole-bench: {e}");
            ExitCode::FAILURE
        }
    }
}
