//! A filesystem in memory that says what the engine should have done.

use std::collections::BTreeMap;

use uml_abi::Errno;
use uml_abi::errno::*;
use uml_ext4::{Ext4, FallocateMode, NewInode, ROOT_INO, RenameMode, SetAttr, XattrMode};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Dir(BTreeMap<Vec<u8>, u32>),
    File(Vec<u8>),
    Link(Vec<u8>),
    Fifo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub links: u32,
    pub mode: u16,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, Debug)]
pub enum Op {
    Create(usize, u8),
    Mkdir(usize, u8),
    Symlink(usize, u8, u16),
    Fifo(usize, u8),
    Link(usize, usize, u8),
    Unlink(usize, u8),
    Rmdir(usize, u8),
    Rename(usize, u8, usize, u8, u8),
    Write(usize, u32, u16, u8),
    Truncate(usize, u32),
    Fallocate(usize, u8, u32, u32),
    SetXattr(usize, u8, u16),
    RemoveXattr(usize, u8),
    Chmod(usize, u16),
    Fsync(usize),
    Commit,
    Checkpoint,
    Many(usize, u8),
}

#[derive(Clone, Debug)]
pub struct Model {
    pub nodes: BTreeMap<u32, Node>,
    pub block: u64,
    pub extents: bool,
}

/// Names of different lengths; few enough to collide often.
pub fn name(n: u8) -> Vec<u8> {
    let base = format!("name{}", n % 24);
    let pad = [0, 3, 40, 150][usize::from(n % 4)];
    let mut v = base.into_bytes();
    v.extend(std::iter::repeat_n(b'.', pad));
    v
}

pub fn xattr_name(n: u8) -> Vec<u8> {
    format!("user.attribute{}", n % 5).into_bytes()
}

fn dir_node() -> Node {
    Node { kind: Kind::Dir(BTreeMap::new()), links: 2, mode: 0o755, xattrs: BTreeMap::new() }
}

pub const MAX_FILE: u64 = 1 << 20;

impl Model {
    pub fn new(block: u64, extents: bool) -> Model {
        let mut nodes = BTreeMap::new();
        // lost+found is in the root.
        let mut root = dir_node();
        root.links = 3;
        nodes.insert(ROOT_INO, root);
        Model { nodes, block, extents }
    }

    fn pick(&self, n: usize, f: impl Fn(&Kind) -> bool) -> Option<u32> {
        let v: Vec<u32> = self.nodes.iter().filter(|(_, x)| f(&x.kind)).map(|(i, _)| *i).collect();
        if v.is_empty() { None } else { Some(v[n % v.len()]) }
    }

    pub fn dir(&self, n: usize) -> u32 {
        self.pick(n, |k| matches!(k, Kind::Dir(_))).unwrap()
    }

    pub fn file(&self, n: usize) -> Option<u32> {
        self.pick(n, |k| matches!(k, Kind::File(_)))
    }

    pub fn any(&self, n: usize) -> u32 {
        self.pick(n, |_| true).unwrap()
    }

    fn entries(&self, d: u32) -> &BTreeMap<Vec<u8>, u32> {
        match &self.nodes[&d].kind {
            Kind::Dir(e) => e,
            _ => panic!("{d} is not a directory"),
        }
    }

    fn entries_mut(&mut self, d: u32) -> &mut BTreeMap<Vec<u8>, u32> {
        match &mut self.nodes.get_mut(&d).unwrap().kind {
            Kind::Dir(e) => e,
            _ => panic!("{d} is not a directory"),
        }
    }

    fn data(&mut self, f: u32) -> &mut Vec<u8> {
        match &mut self.nodes.get_mut(&f).unwrap().kind {
            Kind::File(d) => d,
            _ => panic!("{f} is not a file"),
        }
    }

    fn is_dir(&self, i: u32) -> bool {
        matches!(self.nodes[&i].kind, Kind::Dir(_))
    }

    fn below(&self, dir: u32, ancestor: u32) -> bool {
        dir == ancestor
            || self.entries(ancestor).values().any(|&c| self.is_dir(c) && self.below(dir, c))
    }

    fn add(&mut self, d: u32, name: Vec<u8>, ino: u32, node: Node) {
        if matches!(node.kind, Kind::Dir(_)) {
            self.nodes.get_mut(&d).unwrap().links += 1;
        }
        assert!(self.nodes.insert(ino, node).is_none(), "inode {ino} given out twice");
        self.entries_mut(d).insert(name, ino);
    }

    /// Drops one name of an inode; true when it was the last.
    fn drop_name(&mut self, ino: u32) -> bool {
        let n = self.nodes.get_mut(&ino).unwrap();
        n.links -= 1;
        if n.links == 0 || matches!(n.kind, Kind::Dir(_)) {
            self.nodes.remove(&ino);
            return true;
        }
        false
    }
}

fn expect<T>(got: Result<T, Errno>, want: Result<(), Errno>, op: &Op) -> Option<T> {
    match (got, want) {
        (Ok(v), Ok(())) => Some(v),
        (Err(ENOSPC), Ok(())) => None,
        (Err(e), Err(w)) if e == w => None,
        (got, want) => panic!("{op:?}: {:?} instead of {want:?}", got.map(|_| ())),
    }
}

/// Does an operation on both sides and compares the outcomes.
pub fn apply(fs: &Ext4, m: &mut Model, op: &Op) {
    let new = |mode| NewInode::new(mode, 1000, 100);
    let node = |kind, mode| Node { kind, links: 1, mode, xattrs: BTreeMap::new() };
    match op {
        Op::Create(d, n) | Op::Fifo(d, n) | Op::Mkdir(d, n) | Op::Symlink(d, n, _) => {
            let (d, n) = (m.dir(*d), name(*n));
            let want = if m.entries(d).contains_key(&n) { Err(EEXIST) } else { Ok(()) };
            let (got, made) = match op {
                Op::Create(..) => {
                    (fs.create(d, &n, &new(0o100644)), node(Kind::File(vec![]), 0o644))
                }
                Op::Fifo(..) => (fs.create(d, &n, &new(0o010600)), node(Kind::Fifo, 0o600)),
                Op::Mkdir(..) => (fs.mkdir(d, &n, &new(0o755)), dir_node()),
                Op::Symlink(_, _, len) => {
                    let t = vec![b't'; 1 + usize::from(*len) % 900];
                    (fs.symlink(d, &n, &t, &new(0)), node(Kind::Link(t), 0o777))
                }
                _ => unreachable!(),
            };
            if let Some(ino) = expect(got, want, op) {
                m.add(d, n, ino, made);
            }
        }
        Op::Many(d, k) => {
            let d = m.dir(*d);
            for i in 0..usize::from(*k) {
                let n = format!("one of many files, number {k}-{i}").into_bytes();
                let want = if m.entries(d).contains_key(&n) { Err(EEXIST) } else { Ok(()) };
                if let Some(ino) = expect(fs.create(d, &n, &new(0o100600)), want, op) {
                    m.add(d, n, ino, node(Kind::File(vec![]), 0o600));
                }
            }
        }
        Op::Link(f, d, n) => {
            let (f, d, n) = (m.any(*f), m.dir(*d), name(*n));
            let want = if m.is_dir(f) {
                Err(EPERM)
            } else if m.entries(d).contains_key(&n) {
                Err(EEXIST)
            } else {
                Ok(())
            };
            if expect(fs.link(f, d, &n), want, op).is_some() {
                m.nodes.get_mut(&f).unwrap().links += 1;
                m.entries_mut(d).insert(n, f);
            }
        }
        Op::Unlink(d, n) => {
            let (d, n) = (m.dir(*d), name(*n));
            let want = match m.entries(d).get(&n) {
                None => Err(ENOENT),
                Some(i) if m.is_dir(*i) => Err(EISDIR),
                Some(_) => Ok(()),
            };
            if let Some(u) = expect(fs.unlink(d, &n), want, op) {
                assert_eq!(m.entries_mut(d).remove(&n), Some(u.ino));
                assert_eq!(m.drop_name(u.ino), u.links == 0);
                if u.links == 0 {
                    fs.forget(u.ino).unwrap();
                }
            }
        }
        Op::Rmdir(d, n) => {
            let (d, n) = (m.dir(*d), name(*n));
            let want = match m.entries(d).get(&n) {
                None => Err(ENOENT),
                Some(i) if !m.is_dir(*i) => Err(ENOTDIR),
                Some(i) if !m.entries(*i).is_empty() => Err(ENOTEMPTY),
                Some(_) => Ok(()),
            };
            if let Some(u) = expect(fs.rmdir(d, &n), want, op) {
                m.entries_mut(d).remove(&n);
                m.nodes.get_mut(&d).unwrap().links -= 1;
                m.nodes.remove(&u.ino);
                fs.forget(u.ino).unwrap();
            }
        }
        Op::Rename(d1, n1, d2, n2, mode) => rename(fs, m, op, (*d1, *n1), (*d2, *n2), *mode),
        Op::Write(f, off, len, seed) => {
            let Some(f) = m.file(*f) else { return };
            let off = u64::from(*off) % MAX_FILE;
            let data: Vec<u8> =
                (0..u32::from(*len) + 1).map(|i| ((i * 7) >> 2) as u8 ^ seed).collect();
            if expect(fs.write(f, off, &data, false), Ok(()), op).is_some() {
                let d = m.data(f);
                let end = off as usize + data.len();
                if d.len() < end {
                    d.resize(end, 0);
                }
                d[off as usize..end].copy_from_slice(&data);
            }
        }
        Op::Truncate(f, size) => {
            let Some(f) = m.file(*f) else { return };
            let size = u64::from(*size) % MAX_FILE;
            if expect(fs.truncate(f, size), Ok(()), op).is_some() {
                m.data(f).resize(size as usize, 0);
            }
        }
        Op::Fallocate(f, mode, off, len) => fallocate(fs, m, op, *f, *mode, *off, *len),
        Op::SetXattr(f, n, len) => {
            let (f, n) = (m.any(*f), xattr_name(*n));
            let v = vec![b'x' ^ *len as u8; usize::from(*len) % 1500];
            if expect(fs.setxattr(f, &n, &v, XattrMode::Any), Ok(()), op).is_some() {
                m.nodes.get_mut(&f).unwrap().xattrs.insert(n, v);
            }
        }
        Op::RemoveXattr(f, n) => {
            let (f, n) = (m.any(*f), xattr_name(*n));
            let want = if m.nodes[&f].xattrs.contains_key(&n) { Ok(()) } else { Err(ENODATA) };
            if expect(fs.removexattr(f, &n), want, op).is_some() {
                m.nodes.get_mut(&f).unwrap().xattrs.remove(&n);
            }
        }
        Op::Chmod(f, mode) => {
            let f = m.any(*f);
            let mode = mode & 0o7777;
            let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
            if expect(fs.setattr(f, &set), Ok(()), op).is_some() {
                m.nodes.get_mut(&f).unwrap().mode = mode;
            }
        }
        Op::Fsync(f) => fs.fsync(m.any(*f)).unwrap(),
        Op::Commit => fs.commit().unwrap(),
        Op::Checkpoint => fs.checkpoint().unwrap(),
    }
}

fn rename(fs: &Ext4, m: &mut Model, op: &Op, from: (usize, u8), to: (usize, u8), mode: u8) {
    let (d1, n1, d2, n2) = (m.dir(from.0), name(from.1), m.dir(to.0), name(to.1));
    let mode = match mode % 5 {
        0 => RenameMode::NoReplace,
        1 => RenameMode::Exchange,
        _ => RenameMode::Replace,
    };
    let src = m.entries(d1).get(&n1).copied();
    let dst = m.entries(d2).get(&n2).copied();
    let want = match (src, dst) {
        (None, _) => Err(ENOENT),
        (Some(s), _) if m.is_dir(s) && m.below(d2, s) => Err(EINVAL),
        (Some(_), Some(_)) if mode == RenameMode::NoReplace => Err(EEXIST),
        (Some(_), None) if mode == RenameMode::Exchange => Err(ENOENT),
        (Some(s), Some(t)) if s == t => Ok(()),
        (Some(_), Some(t)) if mode == RenameMode::Exchange && m.is_dir(t) && m.below(d1, t) => {
            Err(EINVAL)
        }
        (Some(_), _) if mode == RenameMode::Exchange => Ok(()),
        (Some(s), Some(t)) => match (m.is_dir(s), m.is_dir(t)) {
            (true, false) => Err(ENOTDIR),
            (false, true) => Err(EISDIR),
            (true, true) if !m.entries(t).is_empty() => Err(ENOTEMPTY),
            _ => Ok(()),
        },
        _ => Ok(()),
    };
    let Some(gone) = expect(fs.rename(d1, &n1, d2, &n2, mode), want, op) else { return };
    let s = src.unwrap();
    if dst == Some(s) {
        return;
    }
    let move_link = |m: &mut Model, from: u32, to: u32| {
        m.nodes.get_mut(&from).unwrap().links -= 1;
        m.nodes.get_mut(&to).unwrap().links += 1;
    };
    if mode == RenameMode::Exchange {
        let t = dst.unwrap();
        m.entries_mut(d1).insert(n1, t);
        m.entries_mut(d2).insert(n2, s);
        if m.is_dir(s) {
            move_link(m, d1, d2);
        }
        if m.is_dir(t) {
            move_link(m, d2, d1);
        }
        return;
    }
    if let Some(t) = dst {
        let gone = gone.expect("a replaced inode");
        assert_eq!(gone.ino, t);
        if m.is_dir(t) {
            m.nodes.get_mut(&d2).unwrap().links -= 1;
        }
        if m.drop_name(t) {
            assert_eq!(gone.links, 0);
            fs.forget(t).unwrap();
        }
    }
    m.entries_mut(d1).remove(&n1);
    m.entries_mut(d2).insert(n2, s);
    if m.is_dir(s) {
        move_link(m, d1, d2);
    }
}

fn fallocate(fs: &Ext4, m: &mut Model, op: &Op, f: usize, mode: u8, off: u32, len: u32) {
    let Some(f) = m.file(f) else { return };
    let bs = m.block;
    let (mut off, mut len) = (u64::from(off) % MAX_FILE, 1 + u64::from(len) % (MAX_FILE / 8));
    let mode = match mode % 6 {
        0 => FallocateMode::Allocate { keep_size: false },
        1 => FallocateMode::Allocate { keep_size: true },
        2 => FallocateMode::PunchHole,
        3 => FallocateMode::ZeroRange { keep_size: off % 2 == 0 },
        4 => FallocateMode::Collapse,
        _ => FallocateMode::Insert,
    };
    let size = m.data(f).len() as u64;
    let mut want = Ok(());
    if matches!(mode, FallocateMode::Collapse | FallocateMode::Insert) {
        off = off % size.max(1) / bs * bs;
        len = len.div_ceil(bs) * bs;
        let bad = match mode {
            FallocateMode::Collapse => off + len >= size,
            _ => off >= size || size + len > 2 * MAX_FILE,
        };
        if bad && size + len > 2 * MAX_FILE {
            return;
        }
        if bad {
            want = Err(EINVAL);
        }
    }
    if !m.extents && mode != FallocateMode::PunchHole {
        want = Err(EOPNOTSUPP);
    }
    if expect(fs.fallocate(f, mode, off, len, false), want, op).is_none() {
        // A partly done allocation may have grown the file.
        let now = fs.attr(f).unwrap().size as usize;
        if want.is_ok() && now > m.data(f).len() {
            m.data(f).resize(now, 0);
        }
        return;
    }
    let d = m.data(f);
    let (s, e) = (off as usize, (off + len) as usize);
    let zero = |d: &mut Vec<u8>| {
        let e = e.min(d.len());
        if s < e {
            d[s..e].fill(0);
        }
    };
    match mode {
        FallocateMode::Allocate { keep_size: false } if d.len() < e => d.resize(e, 0),
        FallocateMode::Allocate { .. } => {}
        FallocateMode::PunchHole => zero(d),
        FallocateMode::ZeroRange { keep_size } => {
            zero(d);
            if !keep_size && d.len() < e {
                d.resize(e, 0);
            }
        }
        FallocateMode::Collapse => {
            d.drain(s..e);
        }
        FallocateMode::Insert => {
            d.splice(s..s, std::iter::repeat_n(0, len as usize));
        }
    }
}

/// Compares everything the filesystem holds with the model.
pub fn compare(fs: &Ext4, m: &Model) {
    for (ino, node) in &m.nodes {
        let a = fs.attr(*ino).unwrap();
        assert_eq!(a.links, node.links, "links of {ino}");
        if *ino != ROOT_INO {
            assert_eq!(a.mode & 0o7777, node.mode, "mode of {ino}");
        }
        match &node.kind {
            Kind::Dir(e) => {
                let got: Vec<(Vec<u8>, u32)> = super::list(fs, *ino)
                    .into_iter()
                    .filter(|x| x.0 != b"lost+found")
                    .map(|x| (x.0, x.1))
                    .collect();
                let want: Vec<(Vec<u8>, u32)> = e.iter().map(|(n, i)| (n.clone(), *i)).collect();
                assert_eq!(got.len(), want.len(), "entries of {ino}");
                assert_eq!(got, want, "entries of {ino}");
                for (n, i) in e {
                    assert_eq!(fs.lookup(*ino, n), Ok(*i));
                }
            }
            Kind::File(d) => super::same(&super::read_all(fs, *ino), d, &format!("file {ino}")),
            Kind::Link(t) => super::same(&fs.readlink(*ino).unwrap(), t, "link"),
            Kind::Fifo => {}
        }
        let mut names = fs.listxattr(*ino).unwrap();
        names.sort();
        assert_eq!(names, node.xattrs.keys().cloned().collect::<Vec<_>>(), "xattrs of {ino}");
        for (n, v) in &node.xattrs {
            super::same(&fs.getxattr(*ino, n).unwrap(), v, "xattr");
        }
    }
}
