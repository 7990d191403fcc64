//! `/proc/<pid>/{uid_map,gid_map,projid_map,setgroups}` (user_namespaces(7)).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::{FileOps, Io};
use uml_core::ns::user::{IdKind, UserNs};
use uml_core::task::{Cap, Cred, Task};
use uml_core::vfs::Perm;
use uml_core::vfs::perm::MAY_WRITE;

use super::{FileAccess, Target};
use crate::synth::{Access, Regular, Spec, Text, TextBody, TextFile, WholeFile};

/// Longest text of a map (a page less its NUL).
const TEXT_MAX: usize = 4095;

fn show(ns: &Arc<UserNs>, reader: &Task, out: &mut Text, kind: IdKind) -> Result<()> {
    for (first, lower, count) in ns.rows(kind, &reader.cred().user_ns) {
        writeln!(out, "{first:10} {lower:10} {count:10}");
    }
    Ok(())
}

fn store(ns: &Arc<UserNs>, writer: &Task, opener: &Cred, data: &[u8], kind: IdKind) -> Result<()> {
    if data.len() > TEXT_MAX {
        return Err(EINVAL);
    }
    let text = std::str::from_utf8(data).map_err(|_| EINVAL)?;
    let mut rows = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [first, lower, count] = words[..] else { return Err(EINVAL) };
        let number = |w: &str| w.parse::<u32>().map_err(|_| EINVAL);
        rows.push((number(first)?, number(lower)?, number(count)?));
    }
    ns.set_map(kind, &rows, &writer.cred(), opener)
}

/// A map's file.
pub fn file(t: &Target, kind: IdKind) -> Spec {
    Spec::file(0, IdMap { target: t.clone(), kind })
}

struct IdMap {
    target: Target,
    kind: IdKind,
}

impl Regular for IdMap {
    /// Shows the map of the namespace that the process is in now. Who opens it counts when it is written: a descriptor handed to a
    /// privileged program carries no privilege.
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        let (ns, kind) = (self.target.task()?.cred().user_ns.clone(), self.kind);
        let shown = ns.clone();
        let text = TextFile::new(move |reader, out| show(&shown, reader, out, kind));
        let store = move |io: &Io<'_>, off: &mut u64, data: &[u8]| {
            store(&ns, io.task, io.opener, data, kind)?;
            *off += data.len() as u64;
            Ok(data.len())
        };
        Ok(Box::new(WholeFile::new(text, Box::new(store))))
    }
}

/// The file `setgroups`.
pub fn setgroups(t: &Target) -> Spec {
    let body = TextBody::new(t.clone(), Some(show_setgroups), Some(store_setgroups));
    Spec::file(0, body).access(Arc::new(SetgroupsAccess(FileAccess(t.clone()))))
}

/// Opening it for writing needs CAP_SYS_ADMIN in the namespace.
struct SetgroupsAccess(FileAccess);

impl Access for SetgroupsAccess {
    fn owner(&self) -> (u32, u32) {
        self.0.owner()
    }

    fn alive(&self) -> bool {
        self.0.alive()
    }

    fn permission(&self, cred: &Cred, mask: u32, perm: &Perm) -> Option<Result<()>> {
        let t = match self.0.0.task() {
            Ok(t) => t,
            Err(e) => return Some(Err(e)),
        };
        if mask & MAY_WRITE != 0 && !cred.capable_in(&t.cred().user_ns, Cap::SysAdmin) {
            return Some(Err(EACCES));
        }
        self.0.permission(cred, mask, perm)
    }
}

fn show_setgroups(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    let allowed = t.task()?.cred().user_ns.setgroups_allowed();
    out.raw(if allowed { b"allow\n" } else { b"deny\n" });
    Ok(())
}

/// Whether setgroups(2) is allowed; `deny` must come before the group map.
fn store_setgroups(t: &Target, _: &Task, data: &[u8]) -> Result<()> {
    let ns = t.task()?.cred().user_ns.clone();
    match data.trim_ascii_end() {
        b"allow" => ns.set_setgroups(true),
        b"deny" => ns.set_setgroups(false),
        _ => Err(EINVAL),
    }
}
