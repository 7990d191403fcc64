//! Images from archives, layers and directories: what is in them is what was put in. debugfs(8) looks.

mod common;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Done, World};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// cap_net_raw=ep, as the host's kernel keeps it (VFS_CAP_REVISION_2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An archive that is made entry by entry.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Layer {
        Layer(Builder::new(Vec::new()))
    }

    fn put(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Layer {
        let mut h = Header::new_gnu();
        h.set_entry_type(kind);
        h.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        h.set_uid(7);
        h.set_gid(8);
        h.set_mtime(1_000_000_000);
        h.set_size(data.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        }
        let done = if link.is_empty() {
            self.0.append_data(&mut h, path, data)
        } else {
            self.0.append_link(&mut h, path, link)
        };
        done.unwrap();
        self
    }

    fn dir(self, path: &str) -> Layer {
        self.put(EntryType::Directory, path, "", b"")
    }

    fn file(self, path: &str, text: &str) -> Layer {
        self.put(EntryType::Regular, path, "", text.as_bytes())
    }

    /// An attribute of the next entry.
    fn xattr(mut self, name: &str, value: &[u8]) -> Layer {
        let name = format!("SCHILY.xattr.{name}");
        self.0.append_pax_extensions([(name.as_str(), value)]).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    w.write_all(bytes).unwrap();
    w.finish().unwrap()
}

/// By a program; none when it is not installed.
fn compressed(program: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut c = Command::new(program);
    let child = c.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.status.success());
    Some(out.stdout)
}

/// What debugfs says to a request; none when it is not installed.
fn debugfs(image: &Path, request: &str) -> Option<String> {
    let mut c = Command::new("debugfs");
    c.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(["-R", request]).arg(image);
    let out = c.output().ok()?;
    Some(String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

fn is_clean(image: &Path) {
    let mut c = Command::new("e2fsck");
    c.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").arg("-fn").arg(image);
    let done = Done::from(c.output().unwrap());
    assert_eq!(done.status, 0, "{}{}", done.out, done.err);
}

/// An image by `umld image build --as-is`.
fn build(w: &World, from: &str, to: &str) -> Done {
    w.run(&["image", "build", "--as-is", "--force", "--size", "24M", "--from", from, to])
}

#[test]
fn archives_by_any_compression_keep_everything() {
    let w = World::new();
    if debugfs(Path::new("/dev/null"), "quit").is_none() {
        return eprintln!("skipped: debugfs is not installed");
    }
    let value: Vec<u8> = (0..200).map(|i| b'a' + i % 26).collect();
    let tar = Layer::new()
        .dir("./")
        .dir("dev")
        .put(EntryType::Char, "dev/null", "", b"")
        .put(EntryType::Block, "dev/block", "", b"")
        .put(EntryType::Fifo, "dev/fifo", "", b"")
        .xattr("security.capability", &CAPABILITY)
        .file("ping", "program")
        .xattr("user.long", &value)
        .file("noted", &"text ".repeat(1000))
        .put(EntryType::Symlink, "link", "ping", b"")
        .put(EntryType::Link, "same", "noted", b"")
        .xattr("user.dir", b"d")
        .dir("etc")
        .bytes();
    let mut forms = vec![("plain", tar.clone()), ("gz", gzip(&tar))];
    // Archives of several streams, as pigz, pxz and pzstd write them.
    let (front, back) = tar.split_at(700);
    forms.push(("gz2", [gzip(front), gzip(back)].concat()));
    for program in ["xz", "zstd"] {
        let Some(whole) = compressed(program, &tar) else { continue };
        forms.push((program, whole));
        let mut both = compressed(program, front).unwrap();
        if program == "zstd" {
            // A skippable frame of three bytes (RFC 8878).
            both.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        }
        both.extend(compressed(program, back).unwrap());
        forms.push((if program == "xz" { "xz2" } else { "zstd2" }, both));
    }
    for (name, bytes) in &forms {
        std::fs::write(w.path("a.tar"), bytes).unwrap();
        build(&w, "a.tar", "./a.img").ok();
        let image = w.path("a.img");
        is_clean(&image);
        let ask = |r: &str| debugfs(&image, r).unwrap();
        let stat = ask("stat /dev/null");
        assert!(stat.contains("Type: character special"), "{name}: {stat}");
        assert!(stat.contains("Device major/minor number: 01:03"), "{name}: {stat}");
        for path in ["/dev/null", "/dev/fifo", "/link", "/ping", "/etc"] {
            let stat = ask(&format!("stat {path}"));
            assert!(stat.contains("User:     7") && stat.contains("Group:     8"), "{stat}");
            // 2001-09-09 01:46:40 UTC.
            assert!(stat.contains("mtime: 0x3b9aca00"), "{name}: {path}: {stat}");
        }
        assert!(ask("stat /dev/block").contains("Type: block special"));
        assert!(ask("stat /dev/fifo").contains("Type: FIFO"));
        assert!(ask("stat /same").contains("Links: 2"));
        let got = ask("ea_get -x /ping security.capability");
        assert!(got.contains("01 00 00 02 00 20 00 00"), "{name}: {got}");
        assert!(ask("ea_get /noted user.long").contains(std::str::from_utf8(&value).unwrap()));
        assert!(ask("ea_get /etc user.dir").contains("\"d\""));
        assert!(ask("cat /noted").contains(&"text ".repeat(1000)));
    }
    // One that is cut off, and one by a compression that we do not know.
    for (name, bytes) in forms {
        std::fs::write(w.path("a.tar"), &bytes[..bytes.len() - bytes.len() / 3]).unwrap();
        let err = build(&w, "a.tar", "./b.img").fails(1);
        assert!(err.contains("a.tar"), "{name}: {err}");
    }
    std::fs::write(w.path("a.tar"), b"BZh91AY&SY").unwrap();
    assert!(build(&w, "a.tar", "./b.img").fails(1).contains("bzip2"));
    assert!(!w.path("b.img").exists());
}

/// A layout that is made blob by blob.
struct Layout<'a>(&'a World);

impl Layout<'_> {
    /// The descriptor of a blob.
    fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        let dir = self.0.path("oci/blobs/sha256");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(&hex), bytes).unwrap();
        let media = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": media, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    }

    fn manifest(&self, layers: &[Value]) -> Value {
        let config = self.blob("config.v1+json", b"{}");
        let m = json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.blob("manifest.v1+json", m.to_string().as_bytes())
    }

    fn index(&self, manifests: &[Value]) {
        self.0.write("oci/oci-layout", "{\"imageLayoutVersion\": \"1.0.0\"}");
        self.0.write(
            "oci/index.json",
            &json!({"schemaVersion": 2, "manifests": manifests}).to_string(),
        );
    }
}

fn with_platform(mut descriptor: Value, os: &str, architecture: &str) -> Value {
    descriptor["platform"] = json!({"os": os, "architecture": architecture});
    descriptor
}

#[test]
fn layers_go_on_top_of_each_other_as_the_specification_says() {
    let w = World::new();
    if debugfs(Path::new("/dev/null"), "quit").is_none() {
        return eprintln!("skipped: debugfs is not installed");
    }
    let layout = Layout(&w);
    let first = Layer::new()
        .dir("dir")
        .file("dir/a", "a1")
        .file("dir/b", "b1")
        .dir("gone")
        .file("gone/file", "x")
        .dir("opaque")
        .file("opaque/old", "x")
        .dir("opaque/deep")
        .file("opaque/deep/old", "x")
        .file("original", "first")
        .dir("real")
        .file("real/inside", "x")
        .put(EntryType::Symlink, "becomes-dir", "real", b"")
        .dir("becomes-file")
        .file("becomes-file/x", "x")
        .dir("anew")
        .file("anew/old", "x")
        .bytes();
    // What the layer itself has stays, wherever in it the whiteout is.
    let second = Layer::new()
        .file("dir/.wh.a", "")
        .file("opaque/new", "new")
        .dir("opaque/deep")
        .file("opaque/deep/new", "new")
        .file("opaque/.wh..wh..opq", "")
        .file(".wh.gone", "")
        .put(EntryType::Link, "linked", "original", b"")
        .file(".wh.never-was", "")
        .file("anew/new", "new")
        .file(".wh.anew", "")
        .file(".wh..wh.plnk", "")
        .bytes();
    let third = Layer::new()
        .file("original", "third")
        .dir("becomes-dir")
        .file("becomes-dir/new", "new")
        .file("becomes-file", "now a file")
        .file("dir/a", "a3")
        .bytes();
    let second = match compressed("zstd", &second) {
        Some(z) => layout.blob("layer.v1.tar+zstd", &z),
        None => layout.blob("layer.v1.tar", &second),
    };
    let layers = [
        layout.blob("layer.v1.tar+gzip", &gzip(&first)),
        second,
        layout.blob("layer.v1.tar", &third),
    ];
    let ours = layout.manifest(&layers);
    let other =
        layout.manifest(&[layout.blob("layer.v1.tar", &Layer::new().file("arm", "").bytes())]);
    // As build tools write it: an index in the index, other machines and attestations before ours.
    let inner = json!({"schemaVersion": 2, "manifests": [
        with_platform(other.clone(), "linux", "arm64"),
        with_platform(other.clone(), "unknown", "unknown"),
        with_platform(other.clone(), "windows", "amd64"),
        with_platform(ours.clone(), "linux", "amd64"),
    ]});
    layout.index(&[layout.blob("index.v1+json", inner.to_string().as_bytes())]);
    build(&w, "oci", "./o.img").ok();
    let image = w.path("o.img");
    is_clean(&image);
    let names = |dir: &str| {
        let list = debugfs(&image, &format!("ls -p {dir}")).unwrap();
        let mut names: Vec<String> = list
            .lines()
            .filter_map(|l| l.split('/').nth(5).map(str::to_owned))
            .filter(|n| !n.starts_with('.') && n != "lost+found")
            .collect();
        names.sort();
        names.join(" ")
    };
    let cat = |path: &str| debugfs(&image, &format!("cat {path}")).unwrap();
    assert_eq!(names("/"), "anew becomes-dir becomes-file dir linked opaque original real");
    assert_eq!(names("/dir"), "a b");
    assert!(cat("/dir/a").contains("a3"));
    assert_eq!((names("/opaque"), names("/opaque/deep")), ("deep new".into(), "new".into()));
    assert_eq!((names("/anew"), names("/real")), ("new".into(), "inside".into()));
    assert_eq!(names("/becomes-dir"), "new");
    assert!(cat("/becomes-file").contains("now a file"));
    // A link across layers is to what the name was then.
    assert!(cat("/linked").contains("first") && cat("/original").contains("third"));

    layout.index(&[with_platform(other.clone(), "linux", "arm64")]);
    let err = build(&w, "oci", "./p.img").fails(1);
    assert!(err.contains("no image for linux/amd64") && err.contains("linux/arm64"), "{err}");
    // A blob that is not what its digest says.
    let digest = layers[2]["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let path = w.path("oci/blobs/sha256").join(digest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[512] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    layout.index(&[ours]);
    let err = build(&w, "oci", "./p.img").fails(1);
    assert!(err.contains("is damaged: its SHA-256 is"), "{err}");
    assert!(!w.path("p.img").exists());
}

#[test]
fn directories_keep_what_root_could_give_them() {
    let w = World::new();
    if debugfs(Path::new("/dev/null"), "quit").is_none() {
        return eprintln!("skipped: debugfs is not installed");
    }
    let root = nix::unistd::geteuid().is_root();
    let dir = w.path("from");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("file"), "text").unwrap();
    std::fs::hard_link(dir.join("file"), dir.join("sub/same")).unwrap();
    symlink("file", dir.join("link")).unwrap();
    let set = |file: &str, name: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(dir.join(file), name, value, flags)
    };
    let has_user = set("file", "user.note", b"hello").is_ok();
    if root {
        chown(dir.join("file"), Some(7), Some(8)).unwrap();
        let node = Command::new("mknod").arg(dir.join("null")).args(["c", "1", "3"]).status();
        assert!(node.unwrap().success());
        std::fs::write(dir.join("ping"), "program").unwrap();
        set("ping", "security.capability", &CAPABILITY).unwrap();
    }
    let look = |image: &Path, request: &str| debugfs(image, request).unwrap();
    build(&w, "from", "./d.img").ok();
    let image = w.path("d.img");
    is_clean(&image);
    let owner = if root { "User:     7" } else { "User:     0" };
    let stat = look(&image, "stat /file");
    assert!(stat.contains(owner) && stat.contains("Links: 2"), "{stat}");
    if has_user {
        assert!(look(&image, "ea_get /sub/same user.note").contains("hello"));
    }
    if !root {
        return eprintln!("skipped: devices and capabilities, and another user: needs root");
    }
    assert!(look(&image, "stat /null").contains("Device major/minor number: 01:03"));
    assert!(look(&image, "ea_get -x /ping security.capability").contains("00 20 00 00"));

    // As another user, whose files are root's in the image; one that is not readable is named.
    let (user, home) = (54_321, w.path("home"));
    std::fs::create_dir(&home).unwrap();
    for p in ["", "home", "from", "from/sub", "from/file"] {
        chown(w.path(p), Some(user), Some(user)).unwrap();
    }
    w.copy_of_umld();
    let by = |args: &[&str]| {
        let mut c = Command::new(w.path("umld"));
        c.env("HOME", &home).current_dir(w.path("")).uid(user).gid(user);
        Done::from(c.args(args).stdin(Stdio::null()).output().unwrap())
    };
    let command = ["image", "build", "--as-is", "--size", "24M", "--from", "from", "mine"];
    by(&command).ok();
    let image = home.join(".uml/.umld/.images/mine.img");
    is_clean(&image);
    assert!(look(&image, "stat /file").contains("User:     0"));
    let secret = dir.join("secret");
    std::fs::write(&secret, "").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut again = command.to_vec();
    again[7] = "other";
    assert!(by(&again).fails(77).contains("from/secret"));
}

/// Where a user has no numbers of other users, mmdebstrap is root in a machine. Here it is a script that writes what it finds.
#[test]
fn a_suite_is_installed_by_a_user_without_a_range_of_numbers() {
    let w = World::new();
    if debugfs(Path::new("/dev/null"), "quit").is_none() {
        return eprintln!("skipped: debugfs is not installed");
    }
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let (user, home) = (54_321, w.path("home"));
    for d in ["home", "bin", "etc"] {
        std::fs::create_dir(w.path(d)).unwrap();
    }
    w.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    let script = w.write(
        "bin/mmdebstrap",
        &format!(
            "#!/bin/sh\n[ $(id -u) = 0 ] || {{ echo cannot be root >&2; exit 25; }}\n\
             case \"$*\" in *--mode=root*\" asuite -\") ;; *) echo \"asked for $*\" >&2; exit 1 ;; esac\n\
             [ \"$HOME\" = {0}/home ] || exit 2\ntar -C {0} --owner=0 --group=0 -cf - etc\n",
            w.path("").display().to_string().trim_end_matches('/')
        ),
    );
    w.copy_of_umld();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(w.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    chown(&home, Some(user), Some(user)).unwrap();
    let path = format!("{}:/usr/bin:/bin", w.path("bin").display());
    let mut c = Command::new(w.path("umld"));
    c.env("HOME", &home).env("PATH", path).current_dir(&home).uid(user).gid(user);
    c.args(["image", "build", "--suite", "asuite", "--size", "24M", "a"]);
    Done::from(c.stdin(Stdio::null()).output().unwrap()).ok();
    let image = home.join(".uml/.umld/.images/a.img");
    is_clean(&image);
    assert!(debugfs(&image, "cat /etc/passwd").unwrap().contains("root::0:0:"));
}
