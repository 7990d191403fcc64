//! `bench`: runs `ubench` and whole workloads natively, in this kernel on each platform, in stock UML and in gVisor, in one go, and prints
//! medians and ratios.
//!
//! Key types: [`subject::Subject`] (a place to run in), [`collect::Figures`] (metric by name), [`targets`] (what the project wants to
//! reach). What is absent (no `umld`, no root for stock UML, no `runsc`) is named and left out.
#![forbid(unsafe_code)]

mod collect;
mod memory;
mod stock;
mod subject;
mod table;
mod targets;

use collect::Figures;
use std::path::PathBuf;
use std::process::ExitCode;
use subject::Subject;

const USAGE: &str = "\
usage: bench [OPTIONS]

options:
  --subjects LIST   comma separated, of: native, native-pinned, ours (every platform), ours-NAME, stock-seccomp, stock-seccomp-pinned,
                    stock-ptrace, stock-ptrace-pinned, runsc, or `all` (default)
  --only LIST       only these metrics of ubench, comma separated
  --rounds N        rounds of each metric (default 5)
  --millis N        least time of one round (default 60)
  --no-workloads    only the micro-benchmarks
  --no-micro        only the workloads
  --no-boot         without boot time and memory
  --json FILE       where the figures go as JSON (default tests/cache/bench.json)
  --stock DIR       root with the Debian package user-mode-linux (default tests/cache/stock-sid; made with debootstrap when absent
                    and this is root)

environment:
  UML_RUN           command that runs another one in the guest (default: target/release/umld run --)
";

pub struct Options {
    pub subjects: Vec<String>,
    pub only: Option<String>,
    pub rounds: usize,
    pub millis: u64,
    pub micro: bool,
    pub workloads: bool,
    pub boot: bool,
    pub json: PathBuf,
    pub stock: PathBuf,
}

/// The repository's root.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map(PathBuf::from).unwrap_or(here)
}

fn options() -> Result<Option<Options>, String> {
    let mut o = Options {
        subjects: vec!["all".into()],
        only: None,
        rounds: 5,
        millis: 60,
        micro: true,
        workloads: true,
        boot: true,
        json: root().join("tests/cache/bench.json"),
        stock: root().join("tests/cache/stock-sid"),
    };
    let mut it = std::env::args().skip(1);
    while let Some(a) = it.next() {
        let mut value = || it.next().ok_or(format!("{a} needs a value"));
        let number =
            |v: String| v.parse::<u64>().map_err(|_| format!("{a}: '{v}' is not a number"));
        match a.as_str() {
            "--help" | "-h" => return Ok(None),
            "--subjects" => o.subjects = value()?.split(',').map(String::from).collect(),
            "--only" => o.only = Some(value()?),
            "--rounds" => o.rounds = number(value()?)?.max(1) as usize,
            "--millis" => o.millis = number(value()?)?.max(1),
            "--no-workloads" => o.workloads = false,
            "--no-micro" => o.micro = false,
            "--no-boot" => o.boot = false,
            "--json" => o.json = value()?.into(),
            "--stock" => o.stock = value()?.into(),
            w => return Err(format!("unknown option '{w}'")),
        }
    }
    Ok(Some(o))
}

fn main() -> ExitCode {
    let o = match options() {
        Ok(Some(o)) => o,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("bench: {e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let subjects = match subject::choose(&o) {
        Ok(s) => s,
        Err(e) => {
            eprintln!("bench: {e}");
            return ExitCode::from(2);
        }
    };
    let mut results: Vec<(String, Figures)> = Vec::new();
    for s in &subjects {
        eprintln!("bench: {} ...", s.name);
        results.push((s.name.clone(), measure(s, &o)));
    }
    print!("{}", table::render(&results));
    if let Err(e) = table::write_json(&o.json, &results) {
        eprintln!("bench: {}: {e}", o.json.display());
        return ExitCode::FAILURE;
    }
    println!("figures as JSON: {}", o.json.display());
    ExitCode::SUCCESS
}

/// Everything about one subject.
fn measure(s: &Subject, o: &Options) -> Figures {
    let mut f = Figures::default();
    let mut groups: Vec<Vec<String>> = Vec::new();
    if o.micro {
        let mut w: Vec<String> = [
            "run",
            "--rounds",
            &o.rounds.to_string(),
            "--millis",
            &o.millis.to_string(),
            "--dir",
            &s.dir,
        ]
        .iter()
        .map(ToString::to_string)
        .collect();
        if let Some(only) = &o.only {
            w.extend(["--only".into(), only.clone()]);
        }
        groups.push(w);
    }
    if o.workloads {
        for name in ["forks", "configure", "compile", "pipeline", "python"] {
            let script = root().join(format!("tests/bench/workloads/{name}.sh"));
            let words = [
                "time",
                &format!("workload_{name}"),
                "3",
                "/bin/sh",
                &script.display().to_string(),
            ];
            groups.push(words.iter().map(ToString::to_string).collect());
        }
    }
    if !groups.is_empty() {
        collect::run(s, &groups, &mut f);
    }
    if o.boot && s.kernel.is_some() {
        collect::boot(s, &mut f);
        memory::idle(s, &mut f);
    }
    f
}
