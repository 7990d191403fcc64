//! tmpfs and overlay against a simple model of a file tree: random operations, same results, same tree.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use proptest::prelude::*;
use uml_abi::errno::*;
use uml_abi::{Errno, Result};
use uml_core::kernel::Kernel;
use uml_core::task::{Cred, Task};
use uml_core::vfs::{Inode, SuperBlock};
use uml_fs::overlay::{Layers, OverlayFs};

#[derive(Clone, Debug)]
enum Op {
    Mkdir(usize),
    Write(usize, u16, Vec<u8>),
    Truncate(usize, u16),
    Unlink(usize),
    Rmdir(usize),
    Rename(usize, usize),
    Link(usize, usize),
}

/// Paths of up to three components over a small alphabet.
fn paths() -> Vec<String> {
    let mut v = Vec::new();
    for a in ["a", "b"] {
        v.push(format!("/{a}"));
        for b in ["c", "d"] {
            v.push(format!("/{a}/{b}"));
            for c in ["e", "f"] {
                v.push(format!("/{a}/{b}/{c}"));
            }
        }
    }
    v
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Dir(BTreeMap<String, Node>),
    /// Index into the files, so that names can share one.
    File(usize),
}

struct Model {
    root: BTreeMap<String, Node>,
    files: Vec<Vec<u8>>,
    /// Directories with a lower part cannot be renamed.
    merged: Vec<String>,
}

impl Model {
    fn dir(&mut self, path: &str) -> Result<(&mut BTreeMap<String, Node>, String)> {
        let mut parts: Vec<&str> = path[1..].split('/').collect();
        let last = parts.pop().unwrap().to_string();
        let mut d = &mut self.root;
        for p in parts {
            match d.get_mut(p) {
                None => return Err(ENOENT),
                Some(Node::File(_)) => return Err(ENOTDIR),
                Some(Node::Dir(m)) => d = m,
            }
        }
        Ok((d, last))
    }

    fn get(&mut self, path: &str) -> Result<Option<Node>> {
        let (d, n) = self.dir(path)?;
        Ok(d.get(&n).cloned())
    }

    fn apply(&mut self, op: &Op, paths: &[String]) -> Result<()> {
        match op {
            Op::Mkdir(p) => {
                let (d, n) = self.dir(&paths[*p])?;
                if d.contains_key(&n) {
                    return Err(EEXIST);
                }
                d.insert(n, Node::Dir(BTreeMap::new()));
            }
            Op::Write(p, off, data) => {
                let next = self.files.len();
                let (d, n) = self.dir(&paths[*p])?;
                let at = match d.get(&n) {
                    Some(Node::Dir(_)) => return Err(EISDIR),
                    Some(Node::File(i)) => *i,
                    None => {
                        d.insert(n, Node::File(next));
                        self.files.push(Vec::new());
                        next
                    }
                };
                let f = &mut self.files[at];
                let end = usize::from(*off) + data.len();
                if !data.is_empty() {
                    f.resize(f.len().max(end), 0);
                    f[usize::from(*off)..end].copy_from_slice(data);
                }
            }
            Op::Truncate(p, len) => match self.get(&paths[*p])?.ok_or(ENOENT)? {
                Node::Dir(_) => return Err(EISDIR),
                Node::File(i) => self.files[i].resize(usize::from(*len), 0),
            },
            Op::Unlink(p) => {
                let (d, n) = self.dir(&paths[*p])?;
                match d.get(&n) {
                    None => return Err(ENOENT),
                    Some(Node::Dir(_)) => return Err(EISDIR),
                    Some(Node::File(_)) => d.remove(&n),
                };
            }
            Op::Rmdir(p) => {
                let (d, n) = self.dir(&paths[*p])?;
                match d.get(&n) {
                    None => return Err(ENOENT),
                    Some(Node::File(_)) => return Err(ENOTDIR),
                    Some(Node::Dir(m)) if !m.is_empty() => return Err(ENOTEMPTY),
                    Some(Node::Dir(_)) => d.remove(&n),
                };
                self.merged.retain(|m| m != &paths[*p]);
            }
            Op::Rename(a, b) => return self.rename(&paths[*a], &paths[*b]),
            Op::Link(a, b) => {
                let src = self.get(&paths[*a])?.ok_or(ENOENT)?;
                let (d, n) = self.dir(&paths[*b])?;
                if d.contains_key(&n) {
                    return Err(EEXIST);
                }
                if matches!(src, Node::Dir(_)) {
                    return Err(EPERM);
                }
                d.insert(n, src);
            }
        }
        Ok(())
    }

    fn rename(&mut self, a: &str, b: &str) -> Result<()> {
        self.dir(a)?;
        self.dir(b)?;
        let src = self.get(a)?.ok_or(ENOENT)?;
        if b.starts_with(&format!("{a}/")) {
            return Err(EINVAL);
        }
        if a.starts_with(&format!("{b}/")) {
            return Err(ENOTEMPTY);
        }
        if a == b {
            return Ok(());
        }
        let dst = self.get(b)?;
        if let (Node::File(x), Some(Node::File(y))) = (&src, &dst)
            && x == y
        {
            return Ok(());
        }
        match (&src, &dst) {
            (Node::Dir(_), Some(Node::File(_))) => return Err(ENOTDIR),
            (Node::File(_), Some(Node::Dir(_))) => return Err(EISDIR),
            _ => {}
        }
        if self.merged.iter().any(|m| m == a) {
            return Err(EXDEV);
        }
        if let Some(Node::Dir(m)) = &dst
            && !m.is_empty()
        {
            return Err(ENOTEMPTY);
        }
        let (d, n) = self.dir(a)?;
        d.remove(&n);
        let (d, n) = self.dir(b)?;
        d.insert(n, src);
        self.merged.retain(|m| m != b);
        Ok(())
    }

    /// The tree as path -> contents (`None` for directories).
    fn tree(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        fn go(
            m: &Model,
            at: &str,
            d: &BTreeMap<String, Node>,
            out: &mut BTreeMap<String, Option<Vec<u8>>>,
        ) {
            for (n, node) in d {
                let p = format!("{at}/{n}");
                match node {
                    Node::Dir(sub) => {
                        out.insert(p.clone(), None);
                        go(m, &p, sub, out);
                    }
                    Node::File(i) => {
                        out.insert(p, Some(m.files[*i].clone()));
                    }
                }
            }
        }
        let mut out = BTreeMap::new();
        go(self, "", &self.root, &mut out);
        out
    }
}

fn real(t: &Arc<Task>, op: &Op, paths: &[String]) -> Result<()> {
    let sh = Sh(t);
    match op {
        Op::Mkdir(p) => sh.mkdir(&paths[*p]),
        Op::Write(p, off, data) => {
            let f = sh.open(&paths[*p], libc::O_WRONLY | libc::O_CREAT)?;
            let mut src = uml_core::io::BufSource::new(data);
            f.write_at(t, u64::from(*off), &mut src).map(drop)
        }
        Op::Truncate(p, len) => {
            let p = sh.look(&paths[*p], 0)?;
            uml_core::vfs::attr::truncate(t, &p, u64::from(*len))
        }
        Op::Unlink(p) => sh.unlink(&paths[*p]),
        Op::Rmdir(p) => sh.rmdir(&paths[*p]),
        Op::Rename(a, b) => sh.mv(&paths[*a], &paths[*b]),
        Op::Link(a, b) => sh.link(&paths[*a], &paths[*b]),
    }
}

fn real_tree(t: &Arc<Task>) -> BTreeMap<String, Option<Vec<u8>>> {
    let sh = Sh(t);
    let mut out = BTreeMap::new();
    let mut todo = vec![String::new()];
    while let Some(at) = todo.pop() {
        let dir = if at.is_empty() { "/" } else { &at };
        for (name, ino) in sh.ls_ino(dir).unwrap() {
            let p = format!("{at}/{name}");
            let m = sh.lstat(&p).unwrap();
            assert_eq!(m.ino, ino, "{p}");
            if m.is_dir() {
                out.insert(p.clone(), None);
                todo.push(p);
            } else {
                let f = sh.open(&p, libc::O_RDONLY).unwrap();
                let mut sink = uml_core::io::VecSink::new(1 << 20);
                f.read_at(t, 0, &mut sink).unwrap();
                assert_eq!(sink.data.len() as u64, m.size, "{p}");
                out.insert(p, Some(sink.data));
            }
        }
    }
    out
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let n = paths().len();
    let p = 0..n;
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 4000usize..9000).prop_map(|(b, n)| vec![b; n]),
    ];
    let op = prop_oneof![
        3 => p.clone().prop_map(Op::Mkdir),
        4 => (p.clone(), 0u16..60000, data).prop_map(|(p, o, d)| Op::Write(p, o, d)),
        1 => (p.clone(), any::<u16>()).prop_map(|(p, l)| Op::Truncate(p, l)),
        2 => p.clone().prop_map(Op::Unlink),
        2 => p.clone().prop_map(Op::Rmdir),
        4 => (p.clone(), p.clone()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => (p.clone(), p).prop_map(|(a, b)| Op::Link(a, b)),
    ];
    prop::collection::vec(op, 1..60)
}

fn compare(t: &Arc<Task>, model: &mut Model, ops: &[Op]) -> std::result::Result<(), TestCaseError> {
    let paths = paths();
    for op in ops {
        let want: std::result::Result<(), Errno> = model.apply(op, &paths);
        let got = real(t, op, &paths);
        prop_assert_eq!(got, want, "{:?}", op);
    }
    prop_assert_eq!(real_tree(t), model.tree());
    Ok(())
}

/// A machine that goes with its case: a thousand of them would hold more descriptors than a user may have.
fn machine() -> Arc<Kernel> {
    Kernel::new(64 << 20, 2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn tmpfs_is_a_file_tree(ops in ops()) {
        let k = machine();
        let t = root_task(&k);
        let mut model = Model { root: BTreeMap::new(), files: Vec::new(), merged: Vec::new() };
        compare(&t, &mut model, &ops)?;
    }

    #[test]
    fn an_overlay_is_a_file_tree_and_leaves_the_lower_one_alone(ops in ops()) {
        let k = machine();
        let lower = tmpfs(&k);
        let lt = task_on(&k, lower.clone(), Cred::root());
        let sh = Sh(&lt);
        sh.mkdir("/a").unwrap();
        sh.mkdir("/a/c").unwrap();
        sh.write("/a/c/e", "lower e").unwrap();
        sh.write("/a/d", "lower d").unwrap();
        let before = real_tree(&lt);
        let lower_root: Arc<dyn Inode> = lower.root();
        let upper = tmpfs(&k);
        let ut = task_on(&k, upper.clone(), Cred::root());
        Sh(&ut).mkdir("/u").unwrap();
        Sh(&ut).mkdir("/w").unwrap();
        let find = |n: &str| upper.root().dir().unwrap().lookup(n.as_bytes()).unwrap();
        let layers = Layers { lower: vec![lower_root], upper: Some((find("u"), find("w"))) };
        let o = OverlayFs::new(&k, layers, String::new()).unwrap();
        let t = task_on(&k, o, Cred::root());
        let file = |i| Node::File(i);
        let c = BTreeMap::from([("e".to_string(), file(0))]);
        let a = BTreeMap::from([("c".to_string(), Node::Dir(c)), ("d".to_string(), file(1))]);
        let mut model = Model {
            root: BTreeMap::from([("a".to_string(), Node::Dir(a))]),
            files: vec![b"lower e".to_vec(), b"lower d".to_vec()],
            merged: vec!["/a".into(), "/a/c".into()],
        };
        compare(&t, &mut model, &ops)?;
        prop_assert_eq!(real_tree(&lt), before);
    }
}
