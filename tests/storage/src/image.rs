//! Images: making, copying, checking with e2fsck, reading with the engine.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use uml_ext4::{Ext4, FileStore, FileType, Options, ROOT_INO};

use crate::ops::Files;
use crate::suite::program;

/// Runs a program; its output, or an error with it when it fails with a status not in `allowed`.
pub fn tool(name: &str, args: &[&str], allowed: &[i32]) -> Result<String, String> {
    let path = program(name).ok_or_else(|| format!("{name} is not installed"))?;
    let out = Command::new(&path)
        .args(args)
        .env("LC_ALL", "C")
        .output()
        .map_err(|e| format!("{name}: {e}"))?;
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&out.stderr));
    match out.status.code() {
        Some(c) if allowed.contains(&c) => Ok(text),
        _ => Err(format!("{name} {} ended with {}:\n{text}", args.join(" "), out.status)),
    }
}

/// Text of a path.
pub fn text(p: &Path) -> &str {
    p.to_str().unwrap_or("not-utf8")
}

/// Makes a sparse image of `mib` MiB with a filesystem.
pub fn make(path: &Path, mib: u64, args: &[&str]) -> Result<(), String> {
    let f = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
    f.set_len(mib << 20).map_err(|e| format!("{}: {e}", path.display()))?;
    let all: Vec<&str> = ["-q", "-F"].iter().chain(args).copied().chain([text(path)]).collect();
    tool("mke2fs", &all, &[0]).map(drop)
}

/// Copies an image without writing its holes.
pub fn copy(from: &Path, to: &Path) -> Result<(), String> {
    tool("cp", &["--sparse=always", text(from), text(to)], &[0]).map(drop)
}

/// `e2fsck -fn` finds nothing.
pub fn check(path: &Path) -> Result<(), String> {
    tool("e2fsck", &["-fn", text(path)], &[0]).map(drop)
}

/// `e2fsck -p` replays the journal and repairs nothing that needs an answer; afterwards all is well.
pub fn preen(path: &Path) -> Result<(), String> {
    tool("e2fsck", &["-p", text(path)], &[0, 1])?;
    check(path)
}

/// Opens an image with the engine.
pub fn open(path: &Path, read_only: bool) -> Result<Ext4, String> {
    let f = File::options().read(true).write(!read_only).open(path);
    let f = f.map_err(|e| format!("{}: {e}", path.display()))?;
    let store = FileStore::new(f, !read_only).map_err(|e| format!("{}: {e}", path.display()))?;
    let opts = Options { read_only, ..Options::default() };
    Ext4::open(Arc::new(store), opts).map_err(|e| format!("mount of {}: {e}", path.display()))
}

/// Mounts an image with the engine, which replays the journal, and unmounts it; it is clean then.
pub fn replay(path: &Path) -> Result<(), String> {
    open(path, false)?.unmount().map_err(|e| format!("unmount of {}: {e}", path.display()))?;
    check(path)
}

/// The contents of a regular file.
pub fn contents(fs: &Ext4, ino: u32) -> Result<Vec<u8>, String> {
    let size = fs.attr(ino).map_err(|e| format!("inode {ino}: {e}"))?.size;
    let mut v = vec![0; size as usize];
    let n = fs.read(ino, 0, &mut v).map_err(|e| format!("reading inode {ino}: {e}"))?;
    if n as u64 == size {
        Ok(v)
    } else {
        Err(format!("inode {ino} has {size} bytes, of which {n} can be read"))
    }
}

/// The files `f0`, `f1`... of directory `name` of the root, as a worker of the load makes them; `None` without such a
/// directory.
pub fn worker_files(fs: &Ext4, name: &str) -> Result<Option<Files>, String> {
    let dir = match fs.lookup(ROOT_INO, name.as_bytes()) {
        Ok(d) => d,
        Err(e) if e == uml_abi::errno::ENOENT => return Ok(None),
        Err(e) => return Err(format!("{name}: {e}")),
    };
    let mut found = Vec::new();
    fs.readdir(dir, 0, &mut |e| {
        if e.file_type == FileType::Regular {
            found.push((String::from_utf8_lossy(e.name).into_owned(), e.ino));
        }
        true
    })
    .map_err(|e| format!("{name}: {e}"))?;
    let mut files = Files::new();
    for (n, ino) in found {
        if let Some(k) = n.strip_prefix('f').and_then(|k| k.parse().ok()) {
            files.insert(k, contents(fs, ino)?);
        }
    }
    Ok(Some(files))
}
