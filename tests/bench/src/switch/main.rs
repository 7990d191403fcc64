//! Packet rates of Ethernet switches for machines: ours, the stock `uml_switch`, `vde_switch`.
//!
//! `switch-bench [ROUNDS] [SECONDS]`: half of the ports send to the other half, one station each. The switches take
//! turns in each round; what is printed are medians, and how many times as many frames ours carries.
#![forbid(unsafe_code)]

mod client;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use client::{Client, Load, measure};

/// A switch that can be run.
struct Kind {
    name: &'static str,
    program: PathBuf,
    vde: bool,
}

fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file())
}

/// A running switch in a directory of its own; both go with it.
struct Running {
    child: Child,
    dir: PathBuf,
    control: PathBuf,
    vde: bool,
}

impl Running {
    fn start(kind: &Kind) -> std::io::Result<Running> {
        let dir = std::env::temp_dir().join(format!("switch-bench-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir)?;
        let mut c = Command::new(&kind.program);
        let control = if kind.vde {
            // As a daemon it asks no terminal for commands; its default is fewer ports.
            c.args(["-n", "130", "-d", "-s"]).arg(dir.join("vde"));
            c.arg("-p").arg(dir.join("pid")).arg("-M").arg(dir.join("mgmt"));
            dir.join("vde/ctl")
        } else {
            c.arg("-unix").arg(dir.join("ctl"));
            dir.join("ctl")
        };
        c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = c.spawn()?;
        if kind.vde {
            child.wait()?;
        }
        let run = Running { child, dir, control, vde: kind.vde };
        for _ in 0..200 {
            if std::os::unix::net::UnixStream::connect(&run.control).is_ok() {
                return Ok(run);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(std::io::Error::other(format!("{} does not come up", kind.name)))
    }

    fn join(&self, n: usize) -> std::io::Result<Client> {
        if self.vde {
            Client::vde(&self.control, &self.dir.join(format!("c{n}")))
        } else {
            Client::uml(&self.control)
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Ok(pid) = std::fs::read_to_string(self.dir.join("pid")) {
            let _ = Command::new("kill").arg(pid.trim()).status();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    match v.len() {
        0 => 0.0,
        n => v[n / 2],
    }
}

/// Frames a second to the ports that read; the last receiver does not when `stalled`.
fn rate(kind: &Kind, load: &Load) -> std::io::Result<f64> {
    let run = Running::start(kind)?;
    let clients = (0..load.ports).map(|n| run.join(n)).collect::<std::io::Result<Vec<_>>>()?;
    measure(clients, load)
}

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let number = |a: Option<String>, d: u64| a.and_then(|a| a.parse().ok()).unwrap_or(d);
    let rounds = number(args.next(), 5) as usize;
    let time = Duration::from_secs(number(args.next(), 2));
    let own = std::env::current_exe()?.with_file_name("uml_switch");
    let mut kinds = vec![Kind { name: "ours", program: own, vde: false }];
    let stock = [("uml_switch", false), ("vde_switch", true)];
    for (name, vde) in stock {
        match installed(name) {
            Some(program) => kinds.push(Kind { name, program, vde }),
            None => eprintln!("{name} is not installed"),
        }
    }
    if !Path::new(&kinds[0].program).is_file() {
        return Err(std::io::Error::other("build uml_switch first: cargo build --release"));
    }
    println!("thousand frames a second, medians of {rounds} rounds of {time:?}");
    for ports in [2, 64] {
        for size in [60, 1514] {
            let load = Load { ports, size, stalled: false, counted: ports / 2, time };
            let mut all = vec![Vec::new(); kinds.len()];
            for _ in 0..rounds {
                for (k, v) in kinds.iter().zip(&mut all) {
                    v.push(rate(k, &load)?);
                }
            }
            let m: Vec<f64> = all.iter_mut().map(|v| median(v)).collect();
            print!("{ports:2} ports {size:4} bytes:");
            for (n, (k, v)) in kinds.iter().zip(&m).enumerate() {
                print!("  {} {:.0}", k.name, v / 1e3);
                if n > 0 {
                    print!(" (ours x {:.2})", m[0] / v.max(1.0));
                }
            }
            println!();
        }
    }
    for k in &kinds {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            for (stalled, v) in [(false, &mut without), (true, &mut with)] {
                v.push(rate(k, &Load { ports: 8, size: 1514, stalled, counted: 3, time })?);
            }
        }
        let (with, without) = (median(&mut with), median(&mut without));
        println!(
            "8 ports, one does not read, {}: the others {:.0}, else {:.0} ({:+.1} %)",
            k.name,
            with / 1e3,
            without / 1e3,
            (with / without.max(1.0) - 1.0) * 100.0
        );
    }
    Ok(())
}
