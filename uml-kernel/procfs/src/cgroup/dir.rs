//! The directory of a group.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::cgroup::{CPU, Cgroup, IO, MEMORY, PIDS};
use uml_core::file::File;
use uml_core::task::Task;
use uml_core::vfs::NewNode;

use super::attrs::FileAccess;
use super::file::OpenedIn;
use super::{Subject, core_files, cpu, file, io, members, memory, pids, pressure};
use crate::synth::{Body, Directory, Entry, Node, Part, Row, Spec};

/// A group: interface files and the groups below.
pub struct GroupDir(Subject);

impl GroupDir {
    /// As an inode.
    pub fn spec(s: Subject) -> Spec {
        let access = FileAccess::new(&s, "", 0o755);
        let ino = s.group.id;
        Spec::dir(GroupDir(s)).mode(0o755).ino(ino).access(access)
    }

    /// Tables of the files that the group has.
    fn tables(&self) -> Vec<&'static [Row<Subject>]> {
        let g = &self.0.group;
        let mut v = vec![core_files::ROWS, cpu::ROWS, pressure::SWITCH];
        if g.pressure.is_enabled() {
            v.push(pressure::ROWS);
            if g.parent.is_none() {
                v.push(pressure::ROOT);
            }
        }
        if g.parent.is_none() || g.controllers() & MEMORY != 0 {
            v.push(memory::EVERY);
        }
        if g.parent.is_none() || g.controllers() & IO != 0 {
            v.push(io::ROWS);
        }
        if g.parent.is_some() {
            v.push(core_files::BELOW_ROOT);
            if g.controllers() & CPU != 0 {
                v.push(cpu::LIMITS);
            }
            if g.controllers() & MEMORY != 0 {
                v.push(memory::ROWS);
            }
            if g.controllers() & IO != 0 {
                v.push(io::LIMITS);
            }
            if g.controllers() & PIDS != 0 {
                v.push(pids::ROWS);
            }
        }
        v
    }

    fn row(&self, name: &[u8]) -> Option<&'static Row<Subject>> {
        self.tables().into_iter().flatten().find(|r| r.name.as_bytes() == name)
    }
}

/// The group whose directory an open file is, when `task` may start a process in it.
pub fn to_join(task: &Task, file: &File) -> Result<Arc<Cgroup>> {
    match file.inode().as_any().downcast_ref::<Node>().map(Node::body) {
        Some(Body::Dir(d)) => d.cgroup_for(task).ok_or(EBADF)?,
        _ => Err(EBADF),
    }
}

impl Directory for GroupDir {
    fn cgroup_for(&self, task: &Task) -> Option<Result<Arc<Cgroup>>> {
        let s = &self.0;
        if s.group.is_removed() {
            return Some(Err(ENOENT));
        }
        let cred = task.cred();
        let opened = OpenedIn::default();
        opened.set(task);
        let from = task.kernel().cgroups.of_task(task);
        let allowed = s
            .control
            .attrs
            .may_write(&s.group, "cgroup.procs", &cred)
            .and_then(|()| members::may_enter(s, &from, &cred, opened.border(s)));
        Some(allowed.map(|()| s.group.clone()))
    }

    fn cgroup(&self) -> Option<&Arc<Cgroup>> {
        Some(&self.0.group)
    }

    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        if self.0.group.is_removed() {
            return Err(ENOENT);
        }
        if let Some(row) = self.row(name) {
            let access = FileAccess::new(&self.0, row.name, row.mode & 0o7777);
            return Ok(file::spec(&self.0, row).access(access));
        }
        let group = self.0.group.child(name).ok_or(ENOENT)?;
        Ok(GroupDir::spec(Subject { group, ..self.0.clone() }))
    }

    fn list(&self, _: &Task) -> Result<Vec<Entry>> {
        if self.0.group.is_removed() {
            return Ok(Vec::new());
        }
        let rows = self.tables().into_iter().flatten();
        let mut v: Vec<Entry> = rows.map(|r| Entry::new(r.name, libc::S_IFREG)).collect();
        for c in self.0.group.children() {
            v.push(Entry { name: c.name.clone(), kind: libc::S_IFDIR, ino: Some(c.id) });
        }
        Ok(v)
    }

    fn keeps(&self, name: &[u8]) -> bool {
        // Files come and go with their controllers, groups with mkdir and rmdir.
        self.row(name).is_some() || self.0.group.child(name).is_some()
    }

    fn links(&self) -> u32 {
        2 + self.0.group.children().len() as u32
    }

    fn mkdir(&self, name: &[u8], node: &NewNode) -> Result<()> {
        let kernel = self.0.control.kernel()?;
        let g = kernel.cgroups.create(&self.0.group, name)?;
        self.0.control.attrs.made(&g, node.mode & 0o7777, node.uid, node.gid);
        Ok(())
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        // Interface files are no obstacle, and cannot be removed themselves.
        let g = self.0.group.child(name).ok_or(ENOTDIR)?;
        self.0.control.kernel()?.cgroups.remove(&g)?;
        self.0.control.attrs.removed(&g);
        Ok(())
    }
}

/// A file that poll(2) and inotify(7) watch needs its own kind of inode; it is marked so in its table.
pub const fn watched(name: &'static str, make: fn(&Subject) -> Spec) -> Row<Subject> {
    Row { name, mode: libc::S_IFREG | 0o444, part: Part::Node(make) }
}
