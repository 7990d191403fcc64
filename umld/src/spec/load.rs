//! Reading vm.toml: each file by itself, then what it extends, then everything together.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::check;
use super::diagnose::Source;
use super::vm::VmFile;
use crate::failure::{Context, Failure, Result, code};

/// Files that may extend one another in a row.
const DEPTH: usize = 16;
/// No configuration is longer.
const MAX_FILE: u64 = 4 << 20;

/// A complete machine: defaults of the extended files applied, paths absolute, checked.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The merged keys.
    pub vm: VmFile,
    /// Name of the instance.
    pub name: String,
    /// The file named by the user, then what it extends, in turn.
    pub sources: Vec<Source>,
}

/// Reads a machine. The failure has status 78, except that a file that cannot be read has that of the host's error.
pub fn load(path: &Path) -> Result<Loaded> {
    let path = std::path::absolute(path).at("cannot find", path)?;
    let mut sources = Vec::new();
    let merged = layers(&path, &mut sources)?;
    finish(merged, sources)
}

/// A machine from text that was generated, such as a fleet's.
pub fn from_table(table: Table, sources: Vec<Source>) -> Result<Loaded> {
    finish(table, sources)
}

fn finish(merged: Table, sources: Vec<Source>) -> Result<Loaded> {
    let first = sources.first().ok_or_else(|| Failure::other("no file"))?;
    let mut vm: VmFile =
        merged.try_into().map_err(|e: toml::de::Error| first.report(None, e.message()))?;
    vm.extends = None;
    let name = match &vm.vm.name {
        Some(n) => n.clone(),
        None => default_name(&first.path),
    };
    vm.vm.name = Some(name.clone());
    let loaded = Loaded { vm, name, sources };
    check::check(&loaded)?;
    Ok(loaded)
}

/// The file's name without `.toml`, or its directory's for vm.toml.
fn default_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if stem != "vm" {
        return stem;
    }
    path.parent().and_then(Path::file_name).map_or(stem, |d| d.to_string_lossy().into_owned())
}

/// Reads a TOML file of any shape with diagnostics.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<(Source, T)> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| {
        let mut f = Failure::io("cannot read", path, &e);
        if e.kind() == std::io::ErrorKind::NotFound {
            f.code = code::CONFIG;
        }
        f
    })?;
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|e| {
        Failure::new(code::CONFIG, format!("{}: {}", path.display(), uml_formats::strerror(&e)))
    })?;
    let source = Source { path: path.to_owned(), text };
    let value = toml::from_str(&source.text).map_err(|e| source.toml_error(&e))?;
    Ok((source, value))
}

/// The merged keys of a file and what it extends, not yet checked.
pub fn table(path: &Path) -> Result<(Table, Vec<Source>)> {
    let mut sources = Vec::new();
    let table = layers(path, &mut sources)?;
    Ok((table, sources))
}

/// Keys of vm.toml that stand in another file of `dir`: known ones, paths made absolute.
pub fn settings(set: &Table, dir: &Path) -> std::result::Result<Table, String> {
    let mut file: VmFile =
        set.clone().try_into().map_err(|e: toml::de::Error| e.message().to_owned())?;
    absolute_paths(&mut file, dir);
    Table::try_from(&file).map_err(|e| e.to_string())
}

fn layers(path: &Path, sources: &mut Vec<Source>) -> Result<Table> {
    let (source, mut file): (Source, VmFile) = read(path)?;
    let extends = file.extends.take();
    let dir = path.parent().unwrap_or(Path::new("/"));
    absolute_paths(&mut file, dir);
    let own =
        Table::try_from(&file).map_err(|e| Failure::other(format!("{}: {e}", path.display())))?;
    let Some(base) = extends else {
        sources.push(source);
        return Ok(own);
    };
    let base = absolute(&base, dir);
    let place = source.locate("extends");
    if sources.iter().any(|s| s.path == base) || base == path {
        return Err(source.report(place, "a file cannot extend itself, not even through others"));
    }
    if sources.len() >= DEPTH {
        return Err(source.report(place, &format!("more than {DEPTH} files extend one another")));
    }
    if !base.is_file() {
        let text = format!("there is no file {}", base.display());
        return Err(source.report(place, &text));
    }
    sources.push(source);
    let mut merged = layers(&base, sources)?;
    // The name belongs to one machine, not to what is built on it.
    if let Some(Value::Table(vm)) = merged.get_mut("vm") {
        vm.remove("name");
    }
    merge(&mut merged, own);
    Ok(merged)
}

/// `over` wins; tables are merged, arrays of tables by their `id`.
pub fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(b)), Value::Table(o)) => merge(b, o),
            (Some(Value::Array(b)), Value::Array(o)) if b.iter().all(Value::is_table) => {
                merge_list(b, o);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn merge_list(base: &mut Vec<Value>, over: Vec<Value>) {
    let id = |v: &Value| {
        let key = ["id", "path"].iter().find_map(|k| v.get(*k));
        key.and_then(Value::as_str).map(str::to_owned)
    };
    for value in over {
        let same = id(&value).and_then(|i| base.iter_mut().find(|b| id(b).as_ref() == Some(&i)));
        match (same, value) {
            (Some(Value::Table(b)), Value::Table(o)) => merge(b, o),
            (_, value) => base.push(value),
        }
    }
}

/// A path of a file in `dir`, absolute.
pub fn absolute(path: &Path, dir: &Path) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let path = match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    };
    // `..` is taken away so that the kernel's command line is short and says what it means.
    let mut out = PathBuf::new();
    for part in dir.join(path).components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

fn absolute_paths(f: &mut VmFile, dir: &Path) {
    let fix = |p: &mut Option<PathBuf>| {
        if let Some(path) = p {
            *path = absolute(path, dir);
        }
    };
    for d in &mut f.disk {
        fix(&mut d.file);
        fix(&mut d.cow);
    }
    for g in &mut f.guest.files {
        fix(&mut g.source);
    }
    fix(&mut f.boot.initrd);
    fix(&mut f.vm.hostfs);
    fix(&mut f.resources.tmpdir);
    if let Some(k) = f.vm.kernel.as_mut().filter(|k| *k != super::vm::BUILT_IN) {
        *k = absolute(Path::new(k.as_str()), dir).to_string_lossy().into_owned();
    }
    if let Some(r) = f.boot.root.as_mut().filter(|r| r.starts_with(['.', '~'])) {
        *r = absolute(Path::new(r.as_str()), dir).to_string_lossy().into_owned();
    }
}
