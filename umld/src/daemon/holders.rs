//! The holders that live, and the instances of those that were killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::keep::Keeper;
use crate::holder::{self, Adopt};
use crate::instance::{self, Instance};
use crate::process::Process;
use crate::state::{Event, Store};
use crate::wire::Connection;

/// What the daemon knows of holders.
pub struct Holders {
    /// Those that live, by instance.
    known: BTreeMap<String, Process>,
    /// Instances that could not be taken over: told once.
    given_up: BTreeSet<(String, i32)>,
    news: News,
    /// Their descriptors.
    pub keeper: Keeper,
}

impl Holders {
    /// Finds all there are.
    pub fn new(store: &Store, keeper: Keeper) -> Holders {
        let news = News::from_now(store);
        let (known, given_up) = (BTreeMap::new(), BTreeSet::new());
        let mut h = Holders { known, given_up, news, keeper };
        h.look_at_all(store);
        h
    }

    /// Whether no instance has a holder.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What to wait for: one of these becomes readable when its holder is gone.
    pub fn processes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.known.values().map(AsFd::as_fd)
    }

    /// Looks at those whose place in [`Holders::processes`] is given.
    pub fn look_at_ended(&mut self, store: &Store, places: &[usize]) {
        let names: Vec<String> = self.known.keys().cloned().collect();
        for name in places.iter().filter_map(|p| names.get(*p)) {
            self.look_at(store, name);
        }
    }

    /// Looks at those of which there are events.
    pub fn look_at_news(&mut self, store: &Store) {
        match self.news.names(store) {
            Some(names) => names.iter().for_each(|n| self.look_at(store, n)),
            None => self.look_at_all(store),
        }
    }

    /// Looks at every instance.
    pub fn look_at_all(&mut self, store: &Store) {
        match store.names() {
            Ok(names) => names.iter().for_each(|n| self.look_at(store, n)),
            Err(e) => eprintln!("umld: {e}"),
        }
    }

    fn look_at(&mut self, store: &Store, name: &str) {
        let found = instance::look_up(store, name).filter(|i| i.managed && i.status.state.is_up());
        let holder = found.as_ref().and_then(|i| i.status.holder);
        let stays = |p: &Process| Some(p.pid) == holder && !p.wait(Duration::ZERO);
        if !self.known.get(name).is_some_and(stays) {
            self.known.remove(name);
        }
        match found {
            Some(Instance { status, .. }) if status.holder.is_some() => {
                self.meet(store, name, holder)
            }
            Some(Instance { pid: Some(pid), .. }) => self.adopt(store, name, pid),
            // Between two restarts the holder has the consoles and no kernel.
            _ => self.keeper.drop(name),
        }
    }

    fn meet(&mut self, store: &Store, name: &str, holder: Option<i32>) {
        if self.known.contains_key(name) {
            return;
        }
        let Some(process) = holder.and_then(|h| Process::open(h).ok()) else { return };
        self.known.insert(name.into(), process);
        self.keeper.take_in();
        if !self.keeper.has(name) {
            // It was there before us. It sends what it has to our socket.
            let asked = Connection::open(&store.dir(name).control()).and_then(|mut c| {
                c.stream.write_all(&crate::wire::encode(&crate::wire::Call {
                    method: format!("{}.Lend", holder::INTERFACE),
                    oneway: true,
                    ..Default::default()
                }))
            });
            if let Err(e) = asked {
                eprintln!("umld: the holder of \"{name}\" does not answer: {e}");
            }
        }
    }

    fn adopt(&mut self, store: &Store, name: &str, pid: i32) {
        let key = (name.to_owned(), pid);
        if self.given_up.contains(&key) {
            return;
        }
        // Sent by a holder that was killed right after.
        self.keeper.take_in();
        match holder::spawn(store, name, Some(Adopt { pid, kept: self.keeper.of(name) })) {
            Ok(()) => {
                eprintln!("umld: took over \"{name}\", kernel pid {pid}");
                let holder = instance::look_up(store, name).and_then(|i| i.status.holder);
                self.meet(store, name, holder);
            }
            Err(e) => {
                eprintln!("umld: cannot take over \"{name}\": {e}");
                self.given_up.insert(key);
            }
        }
    }
}

/// The events that are new since the last look.
struct News(Option<BufReader<File>>);

impl News {
    fn from_now(store: &Store) -> News {
        let mut file = File::open(store.events()).ok();
        let end = file.as_mut().map(|f| f.seek(SeekFrom::End(0)));
        News(file.filter(|_| matches!(end, Some(Ok(_)))).map(BufReader::new))
    }

    /// Names in them; none when some may have been missed.
    fn names(&mut self, store: &Store) -> Option<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let reader = self.0.as_mut()?;
        let mut line = String::new();
        // A line is written in one piece.
        while reader.read_line(&mut line).ok()? > 0 {
            names.insert(serde_json::from_str::<Event>(&line).ok()?.name);
            line.clear();
        }
        let inode = |m: std::fs::Metadata| m.ino();
        let same = std::fs::metadata(store.events()).map(inode).ok()
            == reader.get_ref().metadata().map(inode).ok();
        if !same {
            *self = News::from_now(store);
            return None;
        }
        Some(names)
    }
}
