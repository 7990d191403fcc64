//! `/proc/<pid>/{mounts,mountinfo,mountstats}` (proc_pid_mountinfo(5)). poll(2) reports changes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_core::file::FileOps;
use uml_core::task::Task;
use uml_core::vfs::mount::*;
use uml_core::vfs::{Mount, MountNs, Path};

use super::Target;
use crate::synth::{Regular, Seen, Spec, Text, TextFile, WatchedText};

/// What breaks a line or a field.
const SPECIAL: &[u8] = b" \t\n#";

type Line = fn(&Arc<Mount>, &[u8], &Task, &mut Text);

struct Table {
    target: Target,
    line: Line,
}

pub fn mounts(t: &Target) -> Spec {
    Spec::file(0, Table { target: t.clone(), line: mounts_line })
}

pub fn mountinfo(t: &Target) -> Spec {
    Spec::file(0, Table { target: t.clone(), line: mountinfo_line })
}

pub fn mountstats(t: &Target) -> Spec {
    Spec::file(0, Table { target: t.clone(), line: mountstats_line })
}

impl Regular for Table {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        let task = self.target.task()?;
        super::links::living(&task).map_err(|_| uml_abi::errno::EINVAL)?;
        let (ns, root) = (task.fs().mounts(), task.fs().root());
        let (line, shown, counted) = (self.line, ns.clone(), ns.clone());
        let text = TextFile::new(move |reader, out| render(&shown, &root, line, reader, out));
        let generation = move || counted.generation.load(Ordering::SeqCst);
        // Shows the namespace and root that the target had when the file was opened.
        Ok(Box::new(WatchedText::new(text, ns.changed.clone(), generation, Seen::ByPoll)))
    }
}

fn render(ns: &Arc<MountNs>, root: &Path, line: Line, reader: &Task, out: &mut Text) -> Result<()> {
    let kernel = reader.kernel();
    for m in ns.mounts() {
        let name = kernel.vfs.path_name(&m.root_path(), root);
        if name.reachable {
            line(&m, &name.bytes, reader, out);
        }
    }
    Ok(())
}

fn flags(m: &Mount, out: &mut Text) {
    let f = m.flags();
    let names = [
        (MNT_NOSUID, "nosuid"),
        (MNT_NODEV, "nodev"),
        (MNT_NOEXEC, "noexec"),
        (MNT_NOATIME, "noatime"),
        (MNT_NODIRATIME, "nodiratime"),
        (MNT_RELATIME, "relatime"),
        (MNT_NOSYMFOLLOW, "nosymfollow"),
    ];
    for (bit, name) in names {
        if f & bit != 0 {
            write!(out, ",{name}");
        }
    }
}

fn source(m: &Mount) -> &[u8] {
    if m.source.is_empty() { b"none" } else { &m.source }
}

fn mounts_line(m: &Arc<Mount>, point: &[u8], _: &Task, out: &mut Text) {
    out.mangled(source(m), SPECIAL);
    out.raw(b" ");
    out.mangled(point, SPECIAL);
    write!(out, " {} {}", m.sb.fs_type(), if m.read_only() { "ro" } else { "rw" });
    flags(m, out);
    out.raw(m.sb.show_options().as_bytes());
    out.raw(b" 0 0\n");
}

/// The part of the filesystem that the mount shows, as a path.
fn visible_part(m: &Mount, out: &mut Text) {
    let mut parts = Vec::new();
    let mut d = m.root.clone();
    while let (Some(up), name) = d.place() {
        parts.push(name);
        d = up;
    }
    if parts.is_empty() {
        out.raw(b"/");
    }
    for p in parts.iter().rev() {
        out.raw(b"/");
        out.mangled(p, SPECIAL);
    }
    if m.root.is_deleted() {
        out.raw(b"//deleted");
    }
}

fn mountinfo_line(m: &Arc<Mount>, point: &[u8], reader: &Task, out: &mut Text) {
    let parent = m.parent().map_or(m.id, |p| p.mnt.id);
    let dev = m.sb.dev();
    write!(out, "{} {parent} {}:{} ", m.id, dev.major, dev.minor);
    match m.sb.root_name(reader, &*m.root.inode) {
        Some(name) => out.mangled(&name, SPECIAL),
        None => visible_part(m, out),
    }
    out.raw(b" ");
    out.mangled(point, SPECIAL);
    out.raw(if m.flags() & MNT_RDONLY != 0 { b" ro" } else { b" rw" });
    flags(m, out);
    let p = m.propagation();
    if p.group != 0 {
        write!(out, " shared:{}", p.group);
    }
    if p.master != 0 {
        write!(out, " master:{}", p.master);
    }
    if p.unbindable {
        out.raw(b" unbindable");
    }
    write!(out, " - {} ", m.sb.fs_type());
    out.mangled(source(m), SPECIAL);
    out.raw(if m.sb.read_only() { b" ro" } else { b" rw" });
    out.raw(m.sb.show_options().as_bytes());
    out.raw(b"\n");
}

fn mountstats_line(m: &Arc<Mount>, point: &[u8], _: &Task, out: &mut Text) {
    if m.source.is_empty() {
        out.raw(b"no device");
    } else {
        out.raw(b"device ");
        out.mangled(&m.source, SPECIAL);
    }
    out.raw(b" mounted on ");
    out.mangled(point, SPECIAL);
    writeln!(out, " with fstype {}", m.sb.fs_type());
}
