//! What the keys mean together: required ones, ranges, combinations. Every complaint names its place in the file.

use std::path::Path;

use super::load::Loaded;
use super::vm::{Disk, VmFile};
use crate::failure::{Failure, Result};
use crate::state::Store;

/// Highest serial line that may be configured; the last one is for kernel messages.
pub const LAST_SERIAL: u32 = 62;

impl Loaded {
    /// A complaint about the value at `path` (as `disk[0].file`), in the file that has it; else where the table is that lacks it.
    pub fn complain(&self, path: &str, message: &str) -> Failure {
        let mut at = path;
        loop {
            if let Some(s) = self.sources.iter().find(|s| s.has(at)) {
                return s.report(s.locate(at), message);
            }
            let Some(up) = at.rfind(['.', '[']) else { break };
            at = &at[..up];
        }
        match self.sources.first() {
            Some(s) => s.report(None, message),
            None => Failure::new(crate::failure::code::CONFIG, format!("{path}: {message}")),
        }
    }
}

/// The unit letter's number of `ubda`, `ubd0`.
pub fn disk_unit(id: &str) -> Option<u32> {
    let unit = id.strip_prefix("ubd")?;
    match unit.as_bytes() {
        [c @ b'a'..=b'p'] => Some(u32::from(c - b'a')),
        _ => unit.parse().ok().filter(|n| *n < 16),
    }
}

/// Each disk with its unit: those with an id keep it, the others take what is free.
pub fn disk_units(vm: &VmFile) -> Vec<(u32, &Disk)> {
    let taken: Vec<u32> =
        vm.disk.iter().filter_map(|d| d.id.as_deref().and_then(disk_unit)).collect();
    let mut free = (0..16).filter(|n| !taken.contains(n));
    vm.disk
        .iter()
        .filter_map(|d| {
            let unit = match d.id.as_deref() {
                Some(id) => disk_unit(id),
                None => free.next(),
            };
            unit.map(|u| (u, d))
        })
        .collect()
}

/// A console id as family and number.
pub fn line(id: &str) -> Option<(&'static str, u32)> {
    let (family, rest, last) = match id.strip_prefix("con") {
        Some(rest) => ("con", rest, 15),
        None => ("ssl", id.strip_prefix("ssl")?, LAST_SERIAL),
    };
    rest.parse().ok().filter(|n| *n <= last).map(|n| (family, n))
}

/// A list of CPUs such as `0-1,4`.
pub fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut out = Vec::new();
    for part in text.split(',') {
        let (a, b) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let (a, b): (usize, usize) = (a.parse().ok()?, b.parse().ok()?);
        if a > b || b >= 4096 {
            return None;
        }
        out.extend(a..=b);
    }
    Some(out)
}

/// `150%` as a part of one CPU in thousandths.
pub fn cpu_share(text: &str) -> Option<u64> {
    let n: f64 = text.trim().strip_suffix('%')?.trim().parse().ok()?;
    (n > 0.0 && n < 1e6).then_some((n * 10.0).round() as u64)
}

/// Whether a name can be an instance's: a umid that does not start with a dot or a dash, of plain characters.
pub fn name(text: &str) -> std::result::Result<(), String> {
    uml_formats::umid::Umid::new(text).map_err(|e| e.to_string())?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.starts_with(['.', '-']) || !text.chars().all(plain) {
        return Err(format!(
            "name \"{text}\" cannot be used; expected letters, digits, '.', '_' and '-', not first '.' or '-'"
        ));
    }
    Ok(())
}

/// Checks everything that needs no look at the host but whether files exist.
pub fn check(l: &Loaded) -> Result {
    let vm = &l.vm;
    name(&l.name).map_err(|e| l.complain("vm.name", &e))?;
    if vm.vm.ncpus == Some(0) {
        return Err(l.complain("vm.ncpus", "0 CPUs are too few; expected 1 or more"));
    }
    if vm.vm.memory().0 < 8 << 20 {
        return Err(l.complain("vm.mem", "too little memory for a machine; expected at least 8M"));
    }
    if let Some(k) = vm.vm.kernel.as_deref().filter(|_| !vm.vm.is_built_in()) {
        use std::os::unix::fs::PermissionsExt;
        match std::fs::metadata(k) {
            Ok(m) if m.is_file() && m.permissions().mode() & 0o111 != 0 => {}
            Ok(_) => {
                let text = format!("{k} is not a program; expected a UML kernel or \"built-in\"");
                return Err(l.complain("vm.kernel", &text));
            }
            Err(e) => {
                let text = format!("{k}: {}", uml_formats::strerror(&e));
                return Err(l.complain("vm.kernel", &text));
            }
        }
        if vm.vm.platform.is_some() {
            return Err(l.complain("vm.platform", "only the built-in kernel has platforms"));
        }
    }
    if let Some(d) = vm.vm.hostfs.as_ref().filter(|d| !d.is_dir()) {
        return Err(l.complain("vm.hostfs", &format!("{} is not a directory", d.display())));
    }
    disks(l)?;
    super::net::check(l)?;
    consoles(l)?;
    boot(l)?;
    resources(l)?;
    service(l)?;
    guest(l)
}

fn disks(l: &Loaded) -> Result {
    let mut seen: Vec<u32> = Vec::new();
    if l.vm.disk.len() > 16 {
        return Err(l.complain("disk[16]", "more than 16 disks"));
    }
    for (i, d) in l.vm.disk.iter().enumerate() {
        let at = |key: &str| format!("disk[{i}].{key}");
        if let Some(id) = &d.id {
            let unit = disk_unit(id).ok_or_else(|| {
                l.complain(&at("id"), &format!("no such disk \"{id}\"; expected ubda to ubdp"))
            })?;
            if seen.contains(&unit) {
                return Err(l.complain(&at("id"), &format!("a second disk \"{id}\"")));
            }
            seen.push(unit);
        }
        let Some(file) = &d.file else {
            return Err(
                l.complain(&format!("disk[{i}]"), "a disk needs `file`, the path of its image")
            );
        };
        for (key, path) in [("file", Some(file)), ("cow", d.cow.as_ref())] {
            let Some(path) = path else { continue };
            let text = path.to_string_lossy();
            if text.contains([',', ':']) || text.chars().any(char::is_whitespace) {
                let m = "the kernel's command line cannot carry a path with ',', ':' or blanks";
                return Err(l.complain(&at(key), m));
            }
        }
        if !file.exists() {
            let text = format!("there is no file {}{}", file.display(), image_hint(file));
            return Err(l.complain(&at("file"), &text));
        }
        if let Some(cow) = &d.cow {
            if d.readonly == Some(true) {
                return Err(l.complain(&at("cow"), "a read-only disk has no use for a cow file"));
            }
            if !cow.parent().is_some_and(|p| p.is_dir()) {
                let text = format!("the directory of {} does not exist", cow.display());
                return Err(l.complain(&at("cow"), &text));
            }
        }
        if let Some(s) = &d.serial
            && (s.len() > 20 || s.contains([',', ':']) || s.chars().any(|c| !c.is_ascii_graphic()))
        {
            let m = "expected at most 20 printable characters without ',' and ':'";
            return Err(l.complain(&at("serial"), m));
        }
    }
    Ok(())
}

fn consoles(l: &Loaded) -> Result {
    let mut seen = Vec::new();
    for (i, c) in l.vm.console.iter().enumerate() {
        let Some(id) = &c.id else {
            return Err(
                l.complain(&format!("console[{i}]"), "a console needs `id`, such as \"con0\"")
            );
        };
        let at = format!("console[{i}].id");
        let parsed = line(id).ok_or_else(|| {
            let m = format!(
                "no such line \"{id}\"; expected con0 to con15 or ssl0 to ssl{LAST_SERIAL}"
            );
            l.complain(&at, &m)
        })?;
        if seen.contains(&parsed) {
            return Err(l.complain(&at, &format!("a second \"{id}\"")));
        }
        seen.push(parsed);
        let Some(ch) = c.channel.as_deref() else { continue };
        let known = ["held", "null", "none", "pts", "pty", "xterm"].contains(&ch)
            || ch.strip_prefix("port:").is_some_and(|n| n.parse::<u16>().is_ok_and(|n| n > 0))
            || ch.strip_prefix("tty:").is_some_and(|p| p.starts_with('/'));
        if !known || ch.contains([',', ' ']) {
            let m = format!(
                "no such channel \"{ch}\"; expected held, null, none, port:N, pts, tty:/PATH or xterm"
            );
            return Err(l.complain(&format!("console[{i}].channel"), &m));
        }
    }
    Ok(())
}

fn boot(l: &Loaded) -> Result {
    let b = &l.vm.boot;
    let root = super::cmdline::root(&l.vm);
    match &root {
        super::cmdline::Root::Disk(dev) => {
            let unit = dev.strip_prefix("/dev/").unwrap_or(dev);
            let base = unit.get(..4).and_then(disk_unit);
            if unit.starts_with("ubd") && base.is_none() {
                let text = format!("no such disk \"{dev}\"; expected /dev/ubda to /dev/ubdp");
                return Err(l.complain("boot.root", &text));
            }
            if !dev.starts_with("/dev/") && base.is_none() && !names_device(dev) {
                let text = format!(
                    "\"{dev}\" is no root; expected /dev/ubda, \"host\", or the absolute path of a directory"
                );
                return Err(l.complain("boot.root", &text));
            }
            if base.is_some() && !disk_units(&l.vm).iter().any(|(u, _)| Some(*u) == base) {
                let text = format!("root is {dev}, but there is no [[disk]] with that id");
                return Err(l.complain("boot.root", &text));
            }
        }
        super::cmdline::Root::Host(dir) => {
            if !dir.is_dir() {
                let text = format!("{} is not a directory", dir.display());
                return Err(l.complain("boot.root", &text));
            }
        }
    }
    let on_host = matches!(root, super::cmdline::Root::Host(_));
    if on_host && l.vm.vm.hostfs.as_ref().is_some_and(|d| d != Path::new("/")) {
        let m = "it would confine the root, which is a directory of the host, too; it is for roots on disks";
        return Err(l.complain("vm.hostfs", m));
    }
    if b.overlay == Some(true) && !l.vm.vm.is_built_in() {
        return Err(l.complain("boot.overlay", "only the built-in kernel has this overlay"));
    }
    if b.command.is_some() && (!l.vm.vm.is_built_in() || !on_host) {
        let m = "needs the built-in kernel and a root that is a directory of the host";
        return Err(l.complain("boot.command", m));
    }
    if b.command.is_some() && b.init.is_some() {
        return Err(l.complain("boot.command", "`init` and `command` exclude each other"));
    }
    if b.command.as_ref().is_some_and(Vec::is_empty) {
        return Err(l.complain("boot.command", "expected a program and its arguments"));
    }
    if b.init.as_ref().is_some_and(|i| !i.starts_with('/')) {
        return Err(l.complain("boot.init", "expected an absolute path in the guest"));
    }
    if let Some(i) = &b.initrd
        && !i.is_file()
    {
        return Err(l.complain("boot.initrd", &format!("there is no file {}", i.display())));
    }
    Ok(())
}

/// What else `root=` of the kernel takes: numbers, and `UUID=` and the like.
fn names_device(dev: &str) -> bool {
    let number = |t: &str| !t.is_empty() && t.chars().all(|c| c.is_ascii_hexdigit());
    dev.split_once(':').is_some_and(|(a, b)| number(a) && number(b))
        || number(dev)
        || ["UUID=", "PARTUUID=", "LABEL=", "PARTLABEL="].iter().any(|p| dev.starts_with(p))
}

/// How an image is made whose place is where `umld image` puts them.
fn image_hint(file: &Path) -> String {
    let images = Store::open().map(|s| s.images()).ok();
    let name = file.file_name().and_then(|n| n.to_str()?.strip_suffix(".img"));
    match name.filter(|_| file.parent() == images.as_deref()) {
        Some(n) => {
            format!("; an image of that name is made by: umld image build --suite bookworm {n}")
        }
        None => String::new(),
    }
}

fn resources(l: &Loaded) -> Result {
    let r = &l.vm.resources;
    if let Some(c) = &r.cpus
        && cpu_list(c).is_none()
    {
        return Err(l.complain("resources.cpus", "expected a list of CPUs such as \"0-1,4\""));
    }
    if let Some(c) = &r.cpu_max
        && cpu_share(c).is_none()
    {
        return Err(l.complain("resources.cpu_max", "expected a percentage of one CPU: \"150%\""));
    }
    for (key, v) in [("cpu_weight", r.cpu_weight), ("io_weight", r.io_weight)] {
        if v.is_some_and(|v| !(1..=10000).contains(&v)) {
            return Err(l.complain(&format!("resources.{key}"), "expected 1 to 10000"));
        }
    }
    if r.tasks_max == Some(0) {
        return Err(
            l.complain("resources.tasks_max", "a machine has some tasks; expected 1 or more")
        );
    }
    if let Some(d) = &r.tmpdir
        && !d.is_dir()
    {
        let text = format!("{} is not a directory", d.display());
        return Err(l.complain("resources.tmpdir", &text));
    }
    if r.tmpdir.is_some() && l.vm.vm.is_built_in() {
        let text =
            "the built-in kernel keeps the guest's memory in no directory; it is for other kernels";
        return Err(l.complain("resources.tmpdir", text));
    }
    Ok(())
}

fn service(l: &Loaded) -> Result {
    if l.vm.service.watchdog.is_some_and(|t| t.0.is_zero()) {
        return Err(l.complain(
            "service.watchdog",
            "no guest can be that quick; expected a time such as \"30s\"",
        ));
    }
    for (i, a) in l.vm.service.after.iter().enumerate() {
        name(a).map_err(|e| l.complain(&format!("service.after[{i}]"), &e))?;
        if *a == l.name {
            return Err(
                l.complain(&format!("service.after[{i}]"), "a machine cannot wait for itself")
            );
        }
    }
    Ok(())
}

/// Words that the kernel takes for its own options, so that they cannot be variables of init.
const KERNEL_WORDS: [&str; 24] = [
    "mem",
    "umid",
    "uml_dir",
    "root",
    "rootfstype",
    "rootflags",
    "rootoverlay",
    "init",
    "rdinit",
    "initrd",
    "initargs",
    "console",
    "hostfs",
    "seccomp",
    "platform",
    "ncpus",
    "xterm",
    "stdio",
    "loglevel",
    "panic",
    "mconsole",
    "stderr",
    "rebootstatus",
    "dtb",
];

fn is_kernel_word(name: &str) -> bool {
    let line = name.trim_end_matches(|c: char| c.is_ascii_digit());
    KERNEL_WORDS.contains(&name)
        || ["con", "ssl", "vec", "eth"].contains(&line)
        || name.starts_with("ubd")
}

/// Whether sethostname(2) and what reads /etc/hostname take it.
pub fn is_host_name(h: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    (1..=64).contains(&h.len()) && h.chars().all(plain)
}

fn guest(l: &Loaded) -> Result {
    let g = &l.vm.guest;
    if let Some(k) = g.env.keys().find(|k| is_kernel_word(k)) {
        return Err(l.complain(
            &format!("guest.env.{k}"),
            "this is an option of the kernel, not a variable for init",
        ));
    }
    if let Some(h) = &g.hostname {
        if !is_host_name(h) {
            let m = "expected 1 to 64 letters, digits, '-' and '.'";
            return Err(l.complain("guest.hostname", m));
        }
    }
    for (k, v) in &g.env {
        let bad_name =
            k.is_empty() || k.contains(['=', '.', '"']) || k.chars().any(char::is_whitespace);
        if bad_name || v.contains(['"', '\n', '\0']) {
            let m = "the kernel's command line cannot carry this name or value";
            return Err(l.complain(&format!("guest.env.{k}"), m));
        }
    }
    for (i, f) in g.files.iter().enumerate() {
        let at = |key: &str| format!("guest.files[{i}].{key}");
        let path = f.path.as_deref().unwrap_or_default();
        let parts_ok = path.split('/').skip(1).all(|p| !p.is_empty() && p != "." && p != "..");
        if !path.starts_with('/') || !parts_ok {
            return Err(l.complain(&at("path"), "expected an absolute path in the guest"));
        }
        match (&f.content, &f.source) {
            (Some(_), None) => {}
            (None, Some(s)) if s.is_file() => {}
            (None, Some(s)) => {
                let text = format!("there is no file {}", s.display());
                return Err(l.complain(&at("source"), &text));
            }
            _ => {
                return Err(l.complain(
                    &format!("guest.files[{i}]"),
                    "expected either `content` or `source`",
                ));
            }
        }
        if let Some(m) = &f.mode
            && u32::from_str_radix(m, 8).map_or(true, |m| m > 0o7777)
        {
            return Err(l.complain(&at("mode"), "expected octal permissions such as \"0644\""));
        }
    }
    let own_init = super::cmdline::own_init(&l.vm);
    let disk = matches!(super::cmdline::root(&l.vm), super::cmdline::Root::Disk(_));
    if (!g.files.is_empty() || g.hostname.is_some()) && !disk && !own_init {
        let key = if g.hostname.is_some() { "guest.hostname" } else { "guest.files" };
        let m = "needs a root on a disk, or umld's own init (`boot.command`)";
        return Err(l.complain(key, m));
    }
    Ok(())
}
