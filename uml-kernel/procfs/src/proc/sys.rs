//! `/proc/sys` (proc_sys(5), sysctl(8)): a tree of tables over [`uml_core::sysctl::Sysctl`]. Other subsystems add
//! theirs with [`super::sources::Sources::add_sysctl`].

mod fs;
mod kernel;
mod net;
mod random;
mod vm;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Mutex;
use uml_core::kernel::Kernel;
use uml_core::ns::UtsNs;
use uml_core::sysctl::{Number, Sysctl};
use uml_core::task::{Cap, Task};

use super::fs::Subject;
use crate::synth::{Directory, Entry, Spec, Text, TextFn, parse_i64, words};

pub use random::uuid;

/// Where a value is and how it is written.
#[derive(Clone, Copy)]
enum Value {
    /// One number.
    Number(fn(&Sysctl) -> &Number),
    /// Several, separated by tabs; a write sets as many as it has.
    Numbers(fn(&Sysctl) -> &[Number]),
    /// A line of text of at most so many bytes.
    Line(fn(&Kernel) -> &Mutex<Vec<u8>>, usize),
    /// A line of the reader's uts namespace.
    Uts(fn(&UtsNs) -> &Mutex<Vec<u8>>, usize),
    /// A constant or something computed.
    Show(fn(&Subject, &Kernel, &mut Text) -> Result<()>),
    Both {
        show: fn(&Subject, &Kernel, &mut Text) -> Result<()>,
        store: fn(&Kernel, &Task, &[u8]) -> Result<()>,
    },
    Command(fn(&Kernel, &Task, &[u8]) -> Result<()>),
    Dir(&'static [Setting]),
}

/// An entry of a table.
struct Setting {
    name: &'static str,
    mode: u32,
    value: Value,
}

const fn number(name: &'static str, get: fn(&Sysctl) -> &Number) -> Setting {
    Setting { name, mode: 0o644, value: Value::Number(get) }
}

const fn numbers(name: &'static str, get: fn(&Sysctl) -> &[Number]) -> Setting {
    Setting { name, mode: 0o644, value: Value::Numbers(get) }
}

const fn line(name: &'static str, get: fn(&Kernel) -> &Mutex<Vec<u8>>, max: usize) -> Setting {
    Setting { name, mode: 0o644, value: Value::Line(get, max) }
}

const fn uts(name: &'static str, get: fn(&UtsNs) -> &Mutex<Vec<u8>>, max: usize) -> Setting {
    Setting { name, mode: 0o644, value: Value::Uts(get, max) }
}

const fn show(name: &'static str, show: fn(&Subject, &Kernel, &mut Text) -> Result<()>) -> Setting {
    Setting { name, mode: 0o444, value: Value::Show(show) }
}

const fn both(
    name: &'static str,
    show: fn(&Subject, &Kernel, &mut Text) -> Result<()>,
    store: fn(&Kernel, &Task, &[u8]) -> Result<()>,
) -> Setting {
    Setting { name, mode: 0o644, value: Value::Both { show, store } }
}

const fn command(name: &'static str, store: fn(&Kernel, &Task, &[u8]) -> Result<()>) -> Setting {
    Setting { name, mode: 0o200, value: Value::Command(store) }
}

const fn dir(name: &'static str, rows: &'static [Setting]) -> Setting {
    Setting { name, mode: 0o555, value: Value::Dir(rows) }
}

static ROOT: &[Setting] =
    &[dir("fs", fs::ROWS), dir("kernel", kernel::ROWS), dir("net", net::ROWS), dir("vm", vm::ROWS)];

pub fn root(s: &Subject) -> Spec {
    Spec::dir(Table { rows: ROOT, path: String::new(), subject: s.clone() })
}

/// A directory: a table and what other subsystems put there.
struct Table {
    rows: &'static [Setting],
    /// Below /proc/sys, with a slash at its end unless it is empty.
    path: String,
    subject: Subject,
}

/// The numbers of a write, at most `max`; `EINVAL` when there is none.
fn parse(data: &[u8], max: usize) -> Result<Vec<i64>> {
    let w = words(data)?;
    if w.is_empty() {
        return Err(EINVAL);
    }
    w.iter().take(max).map(|w| parse_i64(w).map_err(|_| EINVAL)).collect()
}

fn set_numbers(all: &[Number], data: &[u8]) -> Result<()> {
    let new = parse(data, all.len())?;
    for (n, v) in all.iter().zip(new) {
        n.set(v)?;
    }
    Ok(())
}

fn set_line(cell: &Mutex<Vec<u8>>, max: usize, data: &[u8]) {
    let end = data.iter().position(|b| *b == b'\n' || *b == 0).unwrap_or(data.len());
    *cell.lock() = data[..end.min(max)].to_vec();
}

impl Setting {
    fn spec(&self, parent: &Table) -> Spec {
        let subject = parent.subject.clone();
        let value = self.value;
        let file = match value {
            Value::Dir(rows) => {
                let path = format!("{}{}/", parent.path, self.name);
                return Spec::dir(Table { rows, path, subject });
            }
            Value::Number(get) => TextFn::new(move |t, out| {
                writeln!(out, "{}", get(&t.kernel().sysctl).get());
                Ok(())
            })
            .writable(move |t, data| {
                set_numbers(std::slice::from_ref(get(&t.kernel().sysctl)), data)
            }),
            Value::Numbers(get) => TextFn::new(move |t, out| {
                let kernel = t.kernel();
                let all: Vec<String> =
                    get(&kernel.sysctl).iter().map(|n| n.get().to_string()).collect();
                writeln!(out, "{}", all.join("\t"));
                Ok(())
            })
            .writable(move |t, data| set_numbers(get(&t.kernel().sysctl), data)),
            Value::Line(get, max) => TextFn::new(move |t, out| {
                let text = get(&t.kernel()).lock().clone();
                out.raw(&text);
                out.raw(b"\n");
                Ok(())
            })
            .writable(move |t, data| {
                set_line(get(&t.kernel()), max, data);
                Ok(())
            }),
            Value::Uts(get, max) => TextFn::new(move |t, out| {
                let text = get(&t.ns().uts).lock().clone();
                out.raw(&text);
                out.raw(b"\n");
                Ok(())
            })
            .writable(move |t, data| {
                let uts = t.ns().uts.clone();
                t.require_in(&uts.owner, Cap::SysAdmin)?;
                set_line(get(&uts), max, data);
                Ok(())
            }),
            Value::Show(show) => TextFn::new(move |t, out| show(&subject, &t.kernel(), out)),
            Value::Both { show, store } => {
                TextFn::new(move |t, out| show(&subject, &t.kernel(), out))
                    .writable(move |t, data| store(&t.kernel(), t, data))
            }
            Value::Command(store) => TextFn::command(move |t, data| store(&t.kernel(), t, data)),
        };
        Spec::file(self.mode, file)
    }
}

impl Directory for Table {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        if let Some(row) = self.rows.iter().find(|r| r.name.as_bytes() == name) {
            return Ok(row.spec(self));
        }
        let name = std::str::from_utf8(name).map_err(|_| ENOENT)?;
        let path = format!("{}{name}", self.path);
        let extra = &self.subject.sources;
        if let Some(spec) = extra.sysctl(&path) {
            return Ok(spec);
        }
        let below = format!("{path}/");
        if extra.sysctl_paths().iter().any(|p| p.starts_with(&below)) {
            return Ok(Spec::dir(Table { rows: &[], path: below, subject: self.subject.clone() }));
        }
        Err(ENOENT)
    }

    fn list(&self, _: &Task) -> Result<Vec<Entry>> {
        let kind = |v: &Value| match v {
            Value::Dir(_) => libc::S_IFDIR,
            _ => libc::S_IFREG,
        };
        let mut out: Vec<Entry> =
            self.rows.iter().map(|r| Entry::new(r.name, kind(&r.value))).collect();
        for p in self.subject.sources.sysctl_paths() {
            let Some(rest) = p.strip_prefix(&self.path) else { continue };
            let (name, kind) = match rest.split_once('/') {
                Some((dir, _)) => (dir, libc::S_IFDIR),
                None => (rest, libc::S_IFREG),
            };
            if !out.iter().any(|e| e.name == name.as_bytes()) {
                out.push(Entry::new(name, kind));
            }
        }
        Ok(out)
    }
}
