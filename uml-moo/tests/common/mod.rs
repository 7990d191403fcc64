//! Fixtures for the tests of both tools.
#![allow(dead_code)] // each test program uses a part of it

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use uml_formats::cow::{self, BitmapPolicy, ByteOrder, Header, Image, Version};
use uml_formats::store::MemStore;

pub const OUR_MOO: &str = env!("CARGO_BIN_EXE_uml_moo");
pub const OUR_MKCOW: &str = env!("CARGO_BIN_EXE_uml_mkcow");

/// A directory with a backing file `b`.
pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub fn new(backing: &[u8]) -> Self {
        let bench = Self { dir: tempfile::tempdir().expect("tempdir") };
        fs::write(bench.path("b"), backing).expect("backing");
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("dir").join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("read")
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path())
            .expect("list")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("name"))
            .collect();
        names.sort();
        names
    }

    /// Makes a COW file of `b`; `None` as contents discards the sector.
    pub fn cow(&self, name: &str, version: Version, align: u32, changes: &[(u64, Option<u8>)]) {
        let stat = cow::stat_backing(&self.path("b")).expect("stat");
        let order = if version == Version::V1 { ByteOrder::Little } else { ByteOrder::Big };
        let header =
            Header { version, order, alignment: align, ..cow::new_header(&self.path("b"), &stat) };
        let layout = header.layout().expect("layout");
        let mut bytes = header.encode().expect("header");
        bytes.resize(layout.file_size() as usize, 0);
        let store = MemStore::new(bytes);
        let below = MemStore::new(Vec::new());
        let image = Image::new(header, &store, below, BitmapPolicy::WriteThrough).expect("image");
        for (sector, contents) in changes {
            match contents {
                Some(byte) => image.write_at(&[*byte; 512], sector * 512),
                None => image.discard(*sector, 1),
            }
            .expect("change");
        }
        fs::write(self.path(name), store.snapshot()).expect("cow");
    }

    /// Runs a tool in the directory; `LC_ALL=C` fixes the system's texts.
    pub fn run(&self, tool: impl AsRef<OsStr>, arguments: &[&str]) -> Run {
        // Called by its bare name, which appears in usage texts.
        let name = Path::new(tool.as_ref()).file_name().expect("name").to_owned();
        Run::from(
            Command::new(tool)
                .arg0(name)
                .args(arguments)
                .current_dir(self.dir.path())
                .env("LC_ALL", "C")
                .output()
                .expect("tool runs"),
        )
    }

    /// Runs a tool that is killed when it writes beyond `blocks` file blocks.
    pub fn run_limited(&self, tool: &str, blocks: u64, arguments: &str) -> Output {
        Command::new("sh")
            .args(["-c", &format!("ulimit -c 0 && ulimit -f {blocks} && exec {tool} {arguments}")])
            .current_dir(self.dir.path())
            .output()
            .expect("sh runs")
    }
}

/// What a tool did.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self {
            status: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Run {
    pub fn ok(self) -> Self {
        assert_eq!(self.status, Some(0), "{self:?}");
        self
    }

    /// The first line on stderr.
    pub fn first_line(&self) -> &str {
        self.stderr.lines().next().unwrap_or("")
    }
}

/// A backing file with zero and non-zero sectors.
pub fn backing(sectors: usize) -> Vec<u8> {
    (0..sectors * 512)
        .map(|at| if at / 512 % 5 < 2 { 0 } else { (at / 512 % 250) as u8 + 1 })
        .collect()
}

/// Changes that cover: first, last, runs, zero over zero, zero over data, discard.
pub fn some_changes(sectors: u64) -> Vec<(u64, Option<u8>)> {
    let mut changes = vec![(0, Some(9)), (1, Some(0)), (2, Some(0)), (3, None), (5, None)];
    changes.extend((20..70).map(|sector| (sector, Some(sector as u8))));
    changes.extend((70..90).map(|sector| (sector, Some(0))));
    changes.extend((sectors / 2..sectors / 2 + 33).step_by(2).map(|sector| (sector, Some(77))));
    changes.push((sectors - 1, Some(0)));
    changes
}

/// The merged contents a correct tool produces.
pub fn merged(backing: &[u8], changes: &[(u64, Option<u8>)]) -> Vec<u8> {
    let mut disk = backing[..backing.len() / 512 * 512].to_vec();
    for (sector, contents) in changes {
        let at = *sector as usize * 512;
        disk[at..at + 512].fill(contents.unwrap_or(0));
    }
    disk
}

/// Path of a classic tool, or `None` with a line that says so.
pub fn stock(name: &str) -> Option<PathBuf> {
    let path = Path::new("/usr/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is missing (Debian package uml-utilities)", path.display());
    None
}
