//! Listing, examining, growing, checking and deleting images.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;

use super::build::run_quietly;
use super::path;
use crate::cli::Format;
use crate::cmd::doctor::command;
use crate::cmd::{print, table};
use crate::disk_fs::DiskFs;
use crate::failure::{Context, Failure, Result, code};
use crate::holder::launch::locked_by;
use crate::spec::values::{Size, human};
use crate::spec::vm::Disk;
use crate::state::Store;

/// Lists the images below `~/.uml/.umld/.images`.
pub fn list(a: &Format) -> Result<u8> {
    let store = Store::open()?;
    let mut found: Vec<(String, u64, u64)> = std::fs::read_dir(store.images())
        .into_iter()
        .flatten()
        .filter_map(|e| {
            let e = e.ok()?;
            let name = e.file_name().into_string().ok()?.strip_suffix(".img")?.to_owned();
            let m = e.metadata().ok()?;
            Some((name, m.len(), m.blocks() * 512))
        })
        .collect();
    found.sort();
    if a.json {
        let all: Vec<_> = found
            .iter()
            .map(|(n, s, u)| json!({"name": n, "size": s, "used": u, "path": path(&store, n)}))
            .collect();
        return print(&format!("{}\n", json!(all)));
    }
    if a.quiet {
        return print(&found.iter().map(|f| format!("{}\n", f.0)).collect::<String>());
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(n, s, u)| {
            vec![n.clone(), human(*s), human(*u), path(&store, n).display().to_string()]
        })
        .collect();
    print(&table(&["NAME", "SIZE", "ON DISK", "PATH"], &rows))
}

fn existing(name: &str) -> Result<std::path::PathBuf> {
    let p = path(&Store::open()?, name);
    if p.is_file() {
        return Ok(p);
    }
    Err(Failure::new(code::NO_INSTANCE, format!("there is no image {}", p.display())))
}

fn free(p: &Path) -> Result {
    match locked_by(p, false) {
        Some(who) => Err(Failure::new(code::BUSY, format!("{} is in use by {who}", p.display()))),
        None => Ok(()),
    }
}

/// Shows one.
pub fn info(name: &str, as_json: bool) -> Result<u8> {
    let p = existing(name)?;
    let meta = p.metadata().at("cannot read", &p)?;
    let fs = DiskFs::open(&Disk { file: Some(p.clone()), ..Disk::default() }, false)?;
    let s = fs.statfs()?;
    let block = u64::from(s.block_size);
    let os = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|f| {
        let text = String::from_utf8_lossy(&fs.read(f, 64 << 10).ok()?).into_owned();
        let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
        Some(line.trim_matches('"').chars().filter(|c| !c.is_control()).collect::<String>())
    });
    fs.close()?;
    if as_json {
        let v = json!({"path": p, "size": meta.len(), "on_disk": meta.blocks() * 512, "blocks": s.blocks, "block_size": s.block_size,
            "free": s.free * block, "inodes": s.inodes, "free_inodes": s.free_inodes, "system": os});
        return print(&format!("{v}\n"));
    }
    let mut text = format!(
        "path        {}\nsize        {}, {} on disk\n",
        p.display(),
        human(meta.len()),
        human(meta.blocks() * 512)
    );
    text += &format!(
        "filesystem  {} in blocks of {block}, {} free\n",
        human(s.blocks * block),
        human(s.free * block)
    );
    text += &format!("files       {} of {}\n", s.inodes - s.free_inodes, s.inodes);
    if let Some(os) = os {
        text += &format!("system      {os}\n");
    }
    print(&text)
}

/// Makes one larger.
pub fn resize(name: &str, size: &str) -> Result<u8> {
    let p = existing(name)?;
    let size = Size::parse(size).map_err(|e| Failure::new(code::USAGE, e))?;
    free(&p)?;
    let old = p.metadata().at("cannot read", &p)?.len();
    if size.0 < old {
        let text = format!(
            "{} has {} already; images only grow, what they do not use takes no room on the host",
            p.display(),
            human(old)
        );
        return Err(Failure::new(code::USAGE, text));
    }
    fsck(&p, true)?;
    let file = File::options().write(true).open(&p).at("cannot open", &p)?;
    file.set_len(size.0).at("cannot enlarge", &p)?;
    let mut c = command("resize2fs", "e2fsprogs")?;
    if let Err(e) = run_quietly(c.arg(&p), "resize2fs") {
        let _ = file.set_len(old);
        return Err(e);
    }
    Ok(0)
}

/// Runs e2fsck; with `repair` it mends what can be mended without asking.
fn fsck(p: &Path, repair: bool) -> Result<String> {
    let mut c = command("e2fsck", "e2fsprogs")?;
    c.args(if repair { ["-f", "-p"] } else { ["-f", "-n"] }).arg(p);
    let out = c.output().map_err(|e| Failure::other(format!("cannot run e2fsck: {e}")))?;
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    match out.status.code() {
        Some(0) => Ok(text),
        Some(1 | 2) if repair => Ok(text),
        s => {
            let s = s.map_or("a signal".into(), |s| format!("status {s}"));
            Err(Failure::other(format!("e2fsck ended with {s}:\n{text}")))
        }
    }
}

/// Checks one, changing nothing.
pub fn check(name: &str) -> Result<u8> {
    let p = existing(name)?;
    free(&p)?;
    let text = fsck(&p, false)?;
    print(&(text.lines().last().unwrap_or_default().to_owned() + "\n"))
}

/// Deletes images that no instance uses.
pub fn rm(names: &[String]) -> Result<u8> {
    crate::cmd::each(names, |store, name| {
        let p = existing(name)?;
        free(&p)?;
        let same = |f: &Path| f.canonicalize().ok() == p.canonicalize().ok();
        for other in store.names()? {
            let Ok((_, vm)) =
                crate::spec::load::read::<crate::spec::VmFile>(&store.dir(&other).spec())
            else {
                continue;
            };
            if vm.disk.iter().any(|d| d.file.as_deref().is_some_and(same)) {
                return Err(Failure::new(
                    code::BUSY,
                    format!(
                        "{} is the disk of instance \"{other}\"; remove that first",
                        p.display()
                    ),
                ));
            }
        }
        std::fs::remove_file(&p).at("cannot remove", &p)
    })
}
