//! Directories given by a table.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;

use super::{Access, Directory, Entry, Spec, Text, TextBody};

/// What a row makes of its subject.
pub enum Part<S: 'static> {
    /// A read-only text.
    Text(fn(&S, &Task, &mut Text) -> Result<()>),
    /// A text that can be written.
    Setting {
        show: fn(&S, &Task, &mut Text) -> Result<()>,
        store: fn(&S, &Task, &[u8]) -> Result<()>,
    },
    /// A file that can only be written.
    Command(fn(&S, &Task, &[u8]) -> Result<()>),
    /// Anything else; the mode of the row is applied to it.
    Node(fn(&S) -> Spec),
}

/// One entry: name, permission bits, contents.
pub struct Row<S: 'static> {
    pub name: &'static str,
    /// S_IF* bits and permissions.
    pub mode: u32,
    pub part: Part<S>,
}

impl<S> Row<S> {
    /// A read-only text.
    pub const fn text(
        name: &'static str,
        mode: u32,
        show: fn(&S, &Task, &mut Text) -> Result<()>,
    ) -> Row<S> {
        Row { name, mode: libc::S_IFREG | mode, part: Part::Text(show) }
    }

    /// A text that can be written.
    pub const fn setting(
        name: &'static str,
        mode: u32,
        show: fn(&S, &Task, &mut Text) -> Result<()>,
        store: fn(&S, &Task, &[u8]) -> Result<()>,
    ) -> Row<S> {
        Row { name, mode: libc::S_IFREG | mode, part: Part::Setting { show, store } }
    }

    /// A file that can only be written.
    pub const fn command(
        name: &'static str,
        mode: u32,
        store: fn(&S, &Task, &[u8]) -> Result<()>,
    ) -> Row<S> {
        Row { name, mode: libc::S_IFREG | mode, part: Part::Command(store) }
    }

    /// A file of its own kind.
    pub const fn file(name: &'static str, mode: u32, make: fn(&S) -> Spec) -> Row<S> {
        Row { name, mode: libc::S_IFREG | mode, part: Part::Node(make) }
    }

    /// A directory.
    pub const fn dir(name: &'static str, mode: u32, make: fn(&S) -> Spec) -> Row<S> {
        Row { name, mode: libc::S_IFDIR | mode, part: Part::Node(make) }
    }

    /// A symbolic link.
    pub const fn link(name: &'static str, make: fn(&S) -> Spec) -> Row<S> {
        Row { name, mode: libc::S_IFLNK | 0o777, part: Part::Node(make) }
    }
}

/// A directory over a table.
pub struct Rows<S: 'static> {
    pub rows: &'static [Row<S>],
    pub subject: S,
    /// Ownership of the entries.
    pub access: Option<Arc<dyn Access>>,
    /// `st_size` of text files (sysfs shows a page, /proc nothing).
    pub file_size: u64,
}

impl<S: Clone + Send + Sync + 'static> Rows<S> {
    /// Entries owned by root.
    pub fn new(rows: &'static [Row<S>], subject: S) -> Rows<S> {
        Rows { rows, subject, access: None, file_size: 0 }
    }

    /// Entries owned as `access` says.
    pub fn owned(rows: &'static [Row<S>], subject: S, access: Arc<dyn Access>) -> Rows<S> {
        Rows { rows, subject, access: Some(access), file_size: 0 }
    }
}

impl<S: Clone + Send + Sync + 'static> Directory for Rows<S> {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        let row = self.rows.iter().find(|r| r.name.as_bytes() == name).ok_or(ENOENT)?;
        let text = |show, store| {
            let (s, size) = (self.subject.clone(), self.file_size);
            Spec::file(0, TextBody::new(s, show, store).sized(size))
        };
        let mut spec = match row.part {
            Part::Text(show) => text(Some(show), None),
            Part::Setting { show, store } => text(Some(show), Some(store)),
            Part::Command(store) => text(None, Some(store)),
            Part::Node(make) => make(&self.subject),
        };
        spec.mode = row.mode & 0o7777;
        if spec.access.is_none() {
            spec.access = self.access.clone();
        }
        Ok(spec)
    }

    fn list(&self, _: &Task) -> Result<Vec<Entry>> {
        Ok(self.rows.iter().map(|r| Entry::new(r.name, r.mode & libc::S_IFMT)).collect())
    }

    fn links(&self) -> u32 {
        let dirs = self.rows.iter().filter(|r| r.mode & libc::S_IFMT == libc::S_IFDIR).count();
        2 + dirs as u32
    }
}
