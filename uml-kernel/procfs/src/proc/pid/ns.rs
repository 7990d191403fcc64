//! `/proc/<pid>/ns`: links to the namespaces (namespaces(7)).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ns::{Namespace, NsKind};
use uml_core::task::Task;
use uml_core::vfs::Path;

use super::Target;
use crate::synth::{Directory, Entry, Link, Spec};

const LINKS: [(&str, NsKind); 10] = [
    ("cgroup", NsKind::Cgroup),
    ("ipc", NsKind::Ipc),
    ("mnt", NsKind::Mnt),
    ("net", NsKind::Net),
    ("pid", NsKind::Pid),
    ("pid_for_children", NsKind::Pid),
    ("time", NsKind::Time),
    ("time_for_children", NsKind::Time),
    ("user", NsKind::User),
    ("uts", NsKind::Uts),
];

struct Namespaces(Target);

pub fn dir(t: &Target) -> Spec {
    Spec::dir(Namespaces(t.clone()))
}

impl Directory for Namespaces {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        let (found, kind) = LINKS.iter().find(|(n, _)| n.as_bytes() == name).ok_or(ENOENT)?;
        let children = found.ends_with("_for_children");
        let access = std::sync::Arc::new(super::FileAccess(self.0.clone()));
        Ok(Spec::link(NsLink { target: self.0.clone(), kind: *kind, children }).access(access))
    }

    fn list(&self, _: &Task) -> Result<Vec<Entry>> {
        Ok(LINKS.iter().map(|(n, _)| Entry::new(*n, libc::S_IFLNK)).collect())
    }
}

struct NsLink {
    target: Target,
    kind: NsKind,
    /// What the task's children get, not what it is in itself.
    children: bool,
}

impl NsLink {
    fn namespace(&self, t: &Task) -> Result<Namespace> {
        if self.children && self.kind == NsKind::Pid {
            let ns = t.ns().pid_for_children.clone();
            // A new pid namespace exists only once its init does.
            return ns.init().map(|_| Namespace::Pid(ns)).ok_or(ENOENT);
        }
        if self.children && self.kind == NsKind::Time {
            return Ok(Namespace::Time(t.ns().time_for_children.clone()));
        }
        Ok(Namespace::of(t, self.kind))
    }
}

impl Link for NsLink {
    fn readlink(&self, task: &Task) -> Result<Vec<u8>> {
        let t = self.target.inspect(task)?;
        Ok(self.namespace(&t)?.to_string().into_bytes())
    }

    fn follow(&self, task: &Task) -> Option<Result<Path>> {
        let path = || {
            let t = self.target.inspect(task)?;
            let kernel = self.target.kernel()?;
            Ok(kernel.nsfs().path(&kernel, &self.namespace(&t)?))
        };
        Some(path())
    }
}
