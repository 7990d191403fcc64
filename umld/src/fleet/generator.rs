//! The systemd generator (systemd.generator(7)): units for the vm.toml files in /etc/uml, or ~/.config/uml for a user's
//! manager, that have `autostart`.

use std::path::{Path, PathBuf};

use crate::failure::{Context, Result};
use crate::spec::check::cpu_share;
use crate::spec::vm::Restart;
use crate::spec::{self, VmFile};

/// That of the system, which tests move elsewhere.
fn system() -> PathBuf {
    std::env::var_os("UMLD_ETC").map_or("/etc/uml".into(), PathBuf::from)
}

/// That of the user.
fn user() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
    Some(config.or_else(home)?.join("uml"))
}

/// Where the files are that units are made of.
pub fn directories() -> Vec<PathBuf> {
    user().into_iter().chain([system()]).collect()
}

/// Called with the directories for units of normal, early and late priority.
pub fn run(dirs: &[PathBuf]) -> Result<u8> {
    let Some(out) = dirs.first() else { return Ok(0) };
    // A user's manager passes directories below its own run directory.
    let own = std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|d| out.starts_with(d));
    let dir = user().filter(|_| own).unwrap_or_else(system);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    for f in files {
        if spec::check::name(&f.file_stem().unwrap_or_default().to_string_lossy()).is_err() {
            continue;
        }
        // One wrong file must not keep the others from starting.
        match spec::load(&f) {
            Ok(l) => unit(out, &f, &l.vm)?,
            Err(e) => eprintln!("umld-generator: {e}"),
        }
    }
    Ok(0)
}

fn unit(out: &Path, file: &Path, vm: &VmFile) -> Result {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let unit = format!("uml@{stem}.service");
    let drop_in = out.join(format!("{unit}.d"));
    std::fs::create_dir_all(&drop_in).at("cannot make", &drop_in)?;
    let conf = drop_in.join("50-umld.conf");
    std::fs::write(&conf, properties(file, vm)).at("cannot write", &conf)?;
    if vm.service.autostart == Some(true) {
        let wants = out.join("uml.target.wants");
        std::fs::create_dir_all(&wants).at("cannot make", &wants)?;
        let link = wants.join(&unit);
        let _ = std::fs::remove_file(&link);
        let target = ["/usr/lib/systemd/system", "/usr/lib/systemd/user"]
            [usize::from(out.starts_with("/run/user"))];
        std::os::unix::fs::symlink(Path::new(target).join("uml@.service"), &link)
            .at("cannot make", &link)?;
    }
    Ok(())
}

/// What the file says, as properties of its unit.
fn properties(file: &Path, vm: &VmFile) -> String {
    let mut t = format!(
        "# made by umld-generator from {}\n[Unit]\nSourcePath={}\n",
        file.display(),
        file.display()
    );
    for a in &vm.service.after {
        t += &format!("Wants=uml@{a}.service\nAfter=uml@{a}.service\n");
    }
    t += &format!(
        "[Service]\nExecStart=\nExecStart=/usr/bin/umld start --foreground {}\n",
        file.display()
    );
    let r = &vm.resources;
    let s = vm.stop.times();
    // Longer than umld's own steps together, so that the manager never comes first.
    let stop = (s.cad + s.halt + s.term + s.kill).as_secs() + 10;
    t += &format!("TimeoutStopSec={stop}\nTimeoutStartSec={}\n", vm.boot.wait().1.as_secs() + 10);
    // What is said of restarts is umld's to do; the unit has only to leave alone what is to stay down.
    if vm.service.restart == Some(Restart::No) {
        t += "Restart=no\n";
    }
    if let Some(w) = r.cpu_weight {
        t += &format!("CPUWeight={w}\n");
    }
    if let Some(q) = r.cpu_max.as_deref().and_then(cpu_share) {
        t += &format!("CPUQuota={}%\n", q.div_ceil(10));
    }
    if let Some(m) = r.memory_max {
        t += &format!("MemoryMax={}\n", m.0);
    }
    if let Some(w) = r.io_weight {
        t += &format!("IOWeight={w}\n");
    }
    if let Some(n) = r.tasks_max {
        t += &format!("TasksMax={n}\n");
    }
    if let Some(c) = &r.cpus {
        t += &format!("AllowedCPUs={c}\n");
    }
    t
}
