//! Owners and modes of groups and their files.

use std::collections::HashMap;
use std::sync::Arc;

use uml_abi::Result;
use uml_base::{Mutex, Rank};
use uml_core::cgroup::Cgroup;
use uml_core::task::Cred;
use uml_core::vfs::perm::{MAY_WRITE, check_mode};
use uml_core::vfs::{Perm, SetAttr};

use super::Subject;
use crate::synth::Access;

/// Of one group: who made it, and what was changed since.
#[derive(Default)]
struct Group {
    owner: (u32, u32),
    /// By file name; the directory itself is the empty name.
    files: HashMap<String, (u32, u32, u32)>,
}

/// By group id.
pub struct Attrs(Mutex<HashMap<u64, Group>>);

impl Default for Attrs {
    fn default() -> Self {
        Attrs(Mutex::new(Rank::LEAF, HashMap::new()))
    }
}

impl Attrs {
    /// A group was made by `uid` and `gid` with directory permissions `mode`.
    pub fn made(&self, group: &Cgroup, mode: u32, uid: u32, gid: u32) {
        let files = HashMap::from([(String::new(), (mode, uid, gid))]);
        self.0.lock().insert(group.id, Group { owner: (uid, gid), files });
    }

    /// A group was removed.
    pub fn removed(&self, group: &Cgroup) {
        self.0.lock().remove(&group.id);
    }

    fn get(&self, group: &Cgroup, file: &str, mode: u32) -> (u32, u32, u32) {
        let all = self.0.lock();
        let Some(g) = all.get(&group.id) else { return (mode, 0, 0) };
        g.files.get(file).copied().unwrap_or((mode, g.owner.0, g.owner.1))
    }

    fn change(&self, group: &Cgroup, file: &str, mode: u32, attr: &SetAttr) {
        let (m, u, g) = self.get(group, file, mode);
        let new =
            (attr.mode.map_or(m, |m| m & 0o7777), attr.uid.unwrap_or(u), attr.gid.unwrap_or(g));
        let mut all = self.0.lock();
        all.entry(group.id).or_default().files.insert(file.to_string(), new);
    }

    /// Whether `cred` may write the file `file` (mode 0644 by default) of `group`.
    pub fn may_write(&self, group: &Cgroup, file: &str, cred: &Cred) -> Result<()> {
        let (mode, uid, gid) = self.get(group, file, 0o644);
        check_mode(cred, &Perm { mode: libc::S_IFREG | mode, uid, gid }, MAY_WRITE)
    }
}

/// Ownership of one file of a group.
pub struct FileAccess {
    subject: Subject,
    name: &'static str,
    /// Permission bits until somebody changes them.
    mode: u32,
}

impl FileAccess {
    /// Of the file `name`; the empty name is the directory.
    pub fn new(subject: &Subject, name: &'static str, mode: u32) -> Arc<FileAccess> {
        Arc::new(FileAccess { subject: subject.clone(), name, mode })
    }

    fn get(&self) -> (u32, u32, u32) {
        let s = &self.subject;
        s.control.attrs.get(&s.group, self.name, self.mode)
    }
}

impl Access for FileAccess {
    fn owner(&self) -> (u32, u32) {
        let (_, uid, gid) = self.get();
        (uid, gid)
    }

    fn alive(&self) -> bool {
        !self.subject.group.is_removed()
    }

    fn mode(&self) -> Option<u32> {
        Some(self.get().0)
    }

    fn change(&self, attr: &SetAttr) -> Result<()> {
        let s = &self.subject;
        s.control.attrs.change(&s.group, self.name, self.mode, attr);
        Ok(())
    }
}
