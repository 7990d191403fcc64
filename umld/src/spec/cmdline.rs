//! The kernel's command line a machine stands for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::check::{disk_units, line};
use super::vm::{Platform, Seccomp, VmFile};
use crate::guest_init;

/// Serial line that carries the kernel's messages and nothing else.
pub const LOG_LINE: u32 = 63;

/// Where the root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// A block device of the guest.
    Disk(String),
    /// A directory of the host.
    Host(PathBuf),
}

/// The root of a machine.
pub fn root(vm: &VmFile) -> Root {
    match vm.boot.root.as_deref() {
        Some("host") => Root::Host("/".into()),
        Some(dev) if dev.starts_with("/dev/") || !dev.starts_with('/') => Root::Disk(dev.into()),
        Some(dir) => Root::Host(dir.into()),
        None => match disk_units(vm).first() {
            Some((unit, _)) => Root::Disk(disk_name(*unit)),
            None => Root::Host("/".into()),
        },
    }
}

/// `/dev/ubda` of unit 0.
pub fn disk_name(unit: u32) -> String {
    let letter = u8::try_from(unit).map_or('?', |u| char::from(b'a' + u));
    format!("/dev/ubd{letter}")
}

/// Whether umld's own init runs: the built-in kernel on the host's userland, or a `command`.
pub fn own_init(vm: &VmFile) -> bool {
    let host = matches!(root(vm), Root::Host(_));
    let whole = root(vm) == Root::Host("/".into());
    vm.vm.is_built_in() && host && (vm.boot.command.is_some() || whole && vm.boot.init.is_none())
}

/// Whether a layer in memory is put over the root, so that nothing of it is changed.
pub fn overlaid(vm: &VmFile) -> bool {
    let whole = root(vm) == Root::Host("/".into());
    vm.boot.overlay.unwrap_or(vm.vm.is_built_in() && whole)
}

/// Lines that umld holds, in order: family and number.
pub fn held_lines(vm: &VmFile) -> Vec<(&'static str, u32)> {
    let mut lines: Vec<_> = vm
        .console
        .iter()
        .filter(|c| c.is_held())
        .filter_map(|c| c.id.as_deref().and_then(line))
        .collect();
    if !vm.console.iter().any(|c| c.id.as_deref() == Some("con0")) {
        lines.insert(0, ("con", 0));
    }
    lines
}

/// What the kernel process is given besides words.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    /// Descriptor of each held line, in the order of [`held_lines`].
    pub lines: Vec<i32>,
    /// Descriptor with the words for umld's own init.
    pub init_words: Option<i32>,
    /// Socket for notifications.
    pub notify: Option<PathBuf>,
}

/// The words of the command line without the program's name.
pub fn words(vm: &VmFile, name: &str, given: &Inherited) -> Result<Vec<OsString>, String> {
    let mut w: Vec<OsString> = Vec::new();
    let mut put = |s: String| w.push(s.into());
    put(format!("umid={name}"));
    put(format!("mem={}", vm.vm.memory().notation()));
    if let Some(n) = vm.vm.ncpus {
        put(format!("ncpus={n}"));
    }
    if let Some(s) = vm.vm.seccomp {
        let value = match s {
            Seccomp::On => "on",
            Seccomp::Auto => "auto",
            Seccomp::Off => "off",
        };
        put(format!("seccomp={value}"));
    }
    if let Some(p) = vm.vm.platform {
        let value = match p {
            Platform::Notify => "notify",
            Platform::Trap => "trap",
            Platform::Ptrace => "ptrace",
        };
        put(format!("platform={value}"));
    }
    if let Some(h) = &vm.vm.hostfs {
        put(format!("hostfs={}", h.display()));
    }
    for (unit, d) in disk_units(vm) {
        put(disk_word(unit, d));
    }
    for word in super::net::words(&vm.net, name, own_init(vm)) {
        put(word);
    }
    root_words(vm, &mut put)?;
    console_words(vm, given, &mut put);
    if let Some(n) = &given.notify {
        put(format!("mconsole=notify:{}", n.display()));
    }
    if let Some(i) = &vm.boot.initrd {
        put(format!("initrd={}", i.display()));
    }
    // umld's own init gets them with its orders.
    let env = vm.guest.env.iter().filter(|_| !own_init(vm));
    for (k, v) in env {
        let quote = if v.contains(char::is_whitespace) { "\"" } else { "" };
        put(format!("{k}={quote}{v}{quote}"));
    }
    if let Some(n) = given.init_words {
        put(format!("initargs=fd:{n}"));
    }
    if let Some(c) = &vm.vm.cmdline {
        w.extend(c.split_whitespace().map(OsString::from));
    }
    Ok(w)
}

fn disk_word(unit: u32, d: &super::vm::Disk) -> String {
    let mut flags = String::new();
    for (on, letter) in [
        (d.readonly == Some(true), 'r'),
        (d.sync == Some(true), 's'),
        (d.shared == Some(true), 'c'),
        (d.trim == Some(false), 't'),
    ] {
        if on {
            flags.push(letter);
        }
    }
    let path = |p: &Option<PathBuf>| {
        p.as_deref().map(Path::to_string_lossy).unwrap_or_default().into_owned()
    };
    let mut word = format!("ubd{unit}{flags}=");
    match &d.cow {
        Some(_) => word += &format!("{},{}", path(&d.cow), path(&d.file)),
        None => word += &path(&d.file),
    }
    if let Some(s) = &d.serial {
        word += if d.cow.is_some() { "," } else { ",," };
        word += s;
    }
    word
}

/// A locally administered address that stays the same for a name.
pub fn mac_of(name: &str, index: usize) -> String {
    let h = crc32fast::hash(name.as_bytes()).to_be_bytes();
    format!("02:{:02x}:{:02x}:{:02x}:{:02x}:{index:02x}", h[0], h[1], h[2], h[3])
}

fn root_words(vm: &VmFile, put: &mut dyn FnMut(String)) -> Result<(), String> {
    let b = &vm.boot;
    let overlay = match root(vm) {
        Root::Disk(dev) => {
            put(format!("root={dev}"));
            if let Some(t) = &b.rootfstype {
                put(format!("rootfstype={t}"));
            }
            if let Some(f) = &b.rootflags {
                put(format!("rootflags={f}"));
            }
            b.overlay.unwrap_or(false)
        }
        Root::Host(dir) => {
            put("root=/dev/root".into());
            put("rootfstype=hostfs".into());
            let shown =
                dir.to_str().filter(|s| !s.contains(char::is_whitespace)).ok_or_else(|| {
                    format!("root {} has characters a command line cannot carry", dir.display())
                })?;
            put(format!("rootflags={shown}"));
            overlaid(vm)
        }
    };
    if overlay {
        put("rootoverlay=tmpfs".into());
    }
    put(if b.readonly == Some(true) { "ro" } else { "rw" }.into());
    if own_init(vm) {
        put(format!("init={}", guest_init::path_below(&root(vm))?));
    } else if let Some(i) = &b.init {
        put(format!("init={i}"));
    }
    Ok(())
}

fn console_words(vm: &VmFile, given: &Inherited, put: &mut dyn FnMut(String)) {
    put("con=null".into());
    put("ssl=null".into());
    for (k, (family, n)) in held_lines(vm).into_iter().enumerate() {
        // `explain` has no descriptors: it shows where one goes.
        match given.lines.get(k) {
            Some(fd) => put(format!("{family}{n}=fd:{fd}")),
            None => put(format!("{family}{n}=fd:N{k}")),
        }
    }
    for c in vm.console.iter().filter(|c| !c.is_held()) {
        if let (Some(id), Some(ch)) = (&c.id, &c.channel) {
            put(format!("{id}={ch}"));
        }
    }
    // Messages of the kernel go to the held log too. The last console= is /dev/console.
    put(format!("ssl{LOG_LINE}=null,fd:2"));
    put(format!("console=ttyS{LOG_LINE}"));
    let main = vm
        .console
        .first()
        .and_then(|c| c.id.as_deref())
        .and_then(line)
        .filter(|_| !vm.console.iter().any(|c| c.id.as_deref() == Some("con0")));
    match main {
        Some(("ssl", n)) => put(format!("console=ttyS{n}")),
        Some((_, n)) => put(format!("console=tty{n}")),
        None => put("console=tty0".into()),
    }
}
