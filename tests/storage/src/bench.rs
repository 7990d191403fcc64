//! `storage-bench [--runs N] [--mib N] [--tree DIRECTORY] [--dir DIRECTORY] [--only native|ours|stock|moo]`: figures of
//! storage on the host's filesystem, in this kernel and in stock UML, in turns on the same host disk, and of uml_moo
//! against cp. Shown are the medians of the runs, with the load of the host before and after.
//!
//! "Cold" is cold on both levels: each phase is a boot of its own, and before it the image leaves the host's cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use storage_tests::asynchronous::evict;
use storage_tests::image::{self, text, tool};
use storage_tests::machine::{self, Start};
use storage_tests::suite::program;
use storage_tests::{broken_hosts, interchange};

/// Name, unit, least or most allowed against stock UML and against native.
const TARGETS: [(&str, Option<f64>, Option<f64>); 10] = [
    ("seq_write_fsync", Some(1.3), Some(0.8)),
    ("cold_read", Some(1.3), Some(0.8)),
    ("hot_read", None, Some(0.8)),
    ("small_files", Some(1.5), None),
    ("tar_x", Some(1.5), None),
    ("find_cold", Some(1.5), None),
    ("write_4k_fsync", None, Some(1.0 / 1.2)),
    ("rand_qd1", None, None),
    ("rand_qd32", Some(2.0), None),
    ("rand_32_threads", None, None),
];

const LIMIT: Duration = Duration::from_secs(900);

type Figures = BTreeMap<String, (f64, String)>;

fn collect(out: &str, into: &mut Figures) {
    for l in out.lines() {
        match l.split(' ').collect::<Vec<_>>()[..] {
            ["figure", name, value, unit] => {
                if let Ok(v) = value.parse() {
                    into.insert(name.into(), (v, unit.into()));
                }
            }
            ["failed", ..] => eprintln!("storage-bench: {l}"),
            _ => {}
        }
    }
}

struct Setup {
    dir: PathBuf,
    mib: u64,
    tar: PathBuf,
    measure: PathBuf,
}

/// Random reads and writes of 4 KiB past the cache, `depth` of them in flight: native asynchronous I/O of one program.
fn fio(file: &str, depth: u32) -> String {
    fio_of(
        &format!("rand_qd{depth}"),
        &format!("--filename={file} --ioengine=libaio --direct=1 --iodepth={depth}"),
    )
}

/// The same through the cache, by 32 threads.
fn fio_threads(file: &str) -> String {
    fio_of(
        "rand_32_threads",
        &format!("--filename={file} --ioengine=psync --thread --numjobs=32 --group_reporting"),
    )
}

fn fio_of(figure: &str, how: &str) -> String {
    format!(
        "fio --name=r --size=256m --rw=randrw --bs=4k {how} --norandommap --time_based --runtime=6 --output-format=terse --terse-version=3 | \
         awk -F';' '{{ printf \"figure {figure} %.0f IOPS\\n\", $8 + $49 }}'"
    )
}

impl Setup {
    /// Commands by boots; the third is for a COW disk. `disk` is what random accesses go to.
    fn phases(&self, at: &str, disk: &str) -> [String; 3] {
        let m = self.measure.display();
        let (mib, tar) = (self.mib, self.tar.display());
        [
            format!("{m} {at} write {mib}; {m} {at} tree {tar}"),
            format!("{m} {at} cold; {m} {at} find"),
            format!(
                "dd if=/dev/zero of={at}/fio bs=1M count=256 conv=fsync 2>/dev/null; {}; umount {at} 2>/dev/null; {}; {}",
                fio_threads(&format!("{at}/fio")),
                fio(disk, 1),
                fio(disk, 32)
            ),
        ]
    }

    fn native(&self) -> Result<Figures, String> {
        let at = self.dir.join("native");
        std::fs::create_dir(&at).map_err(|e| e.to_string())?;
        let mut f = Figures::new();
        for (n, p) in self.phases(text(&at), text(&at.join("fio"))).iter().enumerate() {
            if n == 1 {
                evict(&at.join("big"))?;
            }
            let out = Command::new("bash").args(["-c", p]).output().map_err(|e| e.to_string())?;
            collect(&String::from_utf8_lossy(&out.stdout), &mut f);
        }
        // The tree is in the host's cache of names.
        f.remove("find_cold");
        std::fs::remove_dir_all(&at).map_err(|e| e.to_string())?;
        Ok(f)
    }

    fn guest(
        &self,
        name: &str,
        run: impl Fn(&str, &str) -> Result<String, String>,
    ) -> Result<Figures, String> {
        let base = self.dir.join(format!("{name}.img"));
        image::make(&base, self.mib * 2 + 2000, &["-t", "ext4", "-b", "4096"])?;
        let cow = self.dir.join(format!("{name}.cow"));
        let mut f = Figures::new();
        for (n, p) in self.phases("/mnt/d", "/dev/ubdb").iter().enumerate() {
            let disk = if n == 2 {
                format!("ubd1={},{}", cow.display(), base.display())
            } else {
                format!("ubd1={}", base.display())
            };
            evict(&base)?;
            let script = format!(
                "mkdir /mnt/d; mount /dev/ubdb /mnt/d 2>/dev/null || mount /dev/ubd1 /mnt/d; {p}; umount /mnt/d 2>/dev/null"
            );
            collect(&run(&disk, &script)?, &mut f);
        }
        std::fs::remove_file(&base).map_err(|e| e.to_string())?;
        std::fs::remove_file(&cow).map_err(|e| e.to_string())?;
        Ok(f)
    }

    /// uml_moo of a sparse image of 2 GiB with 64 MiB changed; seconds.
    fn moo(&self) -> Result<Vec<(String, f64)>, String> {
        let (base, cow, out) =
            (self.dir.join("m.img"), self.dir.join("m.cow"), self.dir.join("m.out"));
        tool("truncate", &["-s", "2G", text(&base)], &[0])?;
        for at in [0, 300, 900, 1500] {
            tool(
                "dd",
                &[
                    "if=/dev/urandom",
                    &format!("of={}", base.display()),
                    "bs=1M",
                    "count=64",
                    &format!("seek={at}"),
                    "conv=notrunc",
                ],
                &[0],
            )?;
        }
        tool("uml_mkcow", &[text(&cow), text(&base)], &[0])?;
        let script = "dd if=/dev/urandom of=/dev/ubdb bs=1M seek=290 count=64 conv=notrunc,fsync 2>/dev/null";
        let disks = [format!("ubd1={},{}", cow.display(), base.display())];
        machine::run(&Start { dir: &self.dir, disks: &disks, memory: 128, script }, LIMIT)?;
        let time = |words: &[&str]| -> Result<f64, String> {
            let mut best = f64::MAX;
            for _ in 0..3 {
                let _ = std::fs::remove_file(&out);
                let t = Instant::now();
                let o = Command::new(words[0])
                    .args(&words[1..])
                    .output()
                    .map_err(|e| format!("{}: {e}", words[0]))?;
                if !o.status.success() {
                    return Err(format!("{words:?}: {}", String::from_utf8_lossy(&o.stderr)));
                }
                best = best.min(t.elapsed().as_secs_f64());
            }
            Ok(best)
        };
        let ours = program("uml_moo").ok_or("uml_moo is not built")?;
        let mut v = vec![
            (
                "cp --sparse=always".to_owned(),
                time(&["cp", "--sparse=always", text(&base), text(&out)])?,
            ),
            ("uml_moo".to_owned(), time(&[text(&ours), text(&cow), text(&out)])?),
        ];
        let stock = Path::new("/usr/bin/uml_moo");
        if stock.exists() {
            v.push(("stock uml_moo".to_owned(), time(&[text(stock), text(&cow), text(&out)])?));
        }
        Ok(v)
    }
}

fn main() -> ExitCode {
    match real() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("storage-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn real() -> Result<(), String> {
    let (mut mib, mut tree, mut place) = (1024, "/usr/share".to_owned(), "/var/tmp".to_owned());
    let mut only: Option<String> = None;
    let mut runs = 3u32;
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        let mut value = || args.next().ok_or(format!("{a} needs a value"));
        match a.as_str() {
            "--mib" => mib = value()?.parse().map_err(|_| "--mib needs a number")?,
            "--tree" => tree = value()?,
            "--dir" => place = value()?,
            "--runs" => runs = value()?.parse().map_err(|_| "--runs needs a number")?,
            "--only" => only = Some(value()?),
            _ => {
                return Err(format!(
                    "unknown option {a}; known: --runs N, --mib N, --tree DIRECTORY, --dir DIRECTORY, --only native|ours|stock|moo"
                ));
            }
        }
    }
    let measure = program("storage-measure").ok_or("storage-measure is not built")?;
    let tmp = tempfile::Builder::new()
        .prefix("uml-bench-")
        .tempdir_in(&place)
        .map_err(|e| e.to_string())?;
    let dir = tmp.path().to_owned();
    let tar = dir.join("tree.tar");
    tool("tar", &["cf", text(&tar), "-C", &tree, "."], &[0, 1])?;
    let s = Setup { dir: dir.clone(), mib, tar, measure };
    let wanted = |n: &str| only.as_deref().is_none_or(|o| o.split(',').any(|w| w == n));
    let stock_too = interchange::stock_root().is_some() && broken_hosts::is_root();
    if wanted("stock") && !stock_too {
        eprintln!(
            "storage-bench: without stock UML (needs root and UML_STOCK_ROOT or tests/cache/stock-sid)"
        );
    }
    println!("load before: {}", load());
    let mut all = Runs::new();
    for _ in 0..runs {
        let mut add = |who: &'static str, f: Figures| {
            for (m, (v, unit)) in f {
                all.entry((who, m)).or_insert_with(|| (Vec::new(), unit)).0.push(v);
            }
        };
        if wanted("native") {
            add("native", s.native()?);
        }
        if wanted("ours") {
            let ours = |disk: &str, script: &str| {
                let disks = [disk.to_owned()];
                machine::run(&Start { dir: &dir, disks: &disks, memory: 2048, script }, LIMIT)
            };
            add("ours", s.guest("ours", ours)?);
        }
        if wanted("stock") && stock_too {
            let stock = |disk: &str, script: &str| {
                interchange::stock(&dir, disk, 2048, script, None, LIMIT)
            };
            add("stock", s.guest("stock", stock)?);
        }
    }
    show(&all);
    if wanted("moo") {
        let times = s.moo()?;
        let of = |n: &str| times.iter().find(|t| t.0 == n).map(|t| t.1);
        for (name, seconds) in &times {
            println!("{name:<22} {seconds:>9.3} s");
        }
        if let (Some(cp), Some(own)) = (of("cp --sparse=always"), of("uml_moo")) {
            let mark = if own <= 1.2 * cp { "" } else { " MISSED" };
            println!("uml_moo takes {:.2} x cp{mark} (at most 1.2)", own / cp);
        }
        if let (Some(stock), Some(own)) = (of("stock uml_moo"), of("uml_moo")) {
            let mark = if stock >= 10.0 * own { "" } else { " MISSED" };
            println!(
                "uml_moo is {:.1} x as fast as the stock one{mark} (at least 10)",
                stock / own
            );
        }
    }
    println!("load after: {}", load());
    Ok(())
}

/// Values of all runs and their unit, by place and metric.
type Runs = BTreeMap<(&'static str, String), (Vec<f64>, String)>;

fn load() -> String {
    let l = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    l.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn median(values: &[f64]) -> f64 {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    match v.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => v[n / 2],
        n => (v[n / 2 - 1] + v[n / 2]) / 2.0,
    }
}

/// How many times better `a` is than `b`.
fn better(unit: &str, a: f64, b: f64) -> f64 {
    if matches!(unit, "MB/s" | "IOPS") { a / b } else { b / a }
}

fn show(all: &Runs) {
    let get = |who: &'static str, m: &str| {
        all.get(&(who, m.to_owned())).map(|(v, unit)| (median(v), unit.clone()))
    };
    println!(
        "{:<16} {:>10} {:>10} {:>10} unit   {:>16} {:>16}",
        "metric", "native", "ours", "stock", "x native", "x stock"
    );
    for (m, against_stock, against_native) in TARGETS {
        let row = ["native", "ours", "stock"].map(|w| get(w, m));
        let Some((_, unit)) = row.iter().flatten().next().cloned() else { continue };
        let cell =
            |v: &Option<(f64, String)>| v.as_ref().map_or("-".into(), |(v, _)| format!("{v:.1}"));
        let ratio = |other: &Option<(f64, String)>, want: Option<f64>| match (&row[1], other) {
            (Some((a, _)), Some((b, _))) => {
                let r = better(&unit, *a, *b);
                match want {
                    Some(w) if r < w => format!("{r:.2}/{w:.2} MISSED"),
                    Some(w) => format!("{r:.2}/{w:.2}"),
                    None => format!("{r:.2}"),
                }
            }
            _ => "-".into(),
        };
        println!(
            "{m:<16} {:>10} {:>10} {:>10} {unit:<6} {:>16} {:>16}",
            cell(&row[0]),
            cell(&row[1]),
            cell(&row[2]),
            ratio(&row[0], against_native),
            ratio(&row[2], against_stock)
        );
    }
}
