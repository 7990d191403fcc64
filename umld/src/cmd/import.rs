//! `umld import`: an instance from an exported archive. Its disks become plain images in the instance's directory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::cli::Import;
use crate::cmd::export::member;
use crate::cmd::{create, print};
use crate::failure::{Context, Failure, Result, code};
use crate::instance;
use crate::spec::{self, VmFile};
use crate::state::Store;

/// Longest vm.toml accepted.
const MAX_SPEC: u64 = 1 << 20;

/// Reads the archive.
pub fn run(a: &Import) -> Result<u8> {
    let store = Store::open()?;
    let mut file = File::open(&a.file).at("cannot read", &a.file)?;
    let mut magic = [0; 2];
    let gz = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    file.seek(SeekFrom::Start(0)).at("cannot read", &a.file)?;
    let reader: Box<dyn Read> =
        if gz { Box::new(flate2::read::GzDecoder::new(file)) } else { Box::new(file) };
    let mut archive = tar::Archive::new(reader);
    let bad = |e: std::io::Error| {
        Failure::other(format!("{}: {}", a.file.display(), uml_formats::strerror(&e)))
    };
    let wrong =
        |what: &str| Failure::other(format!("{} is no export of umld: {what}", a.file.display()));
    let mut entries = archive.entries().map_err(bad)?;
    let mut first = entries.next().ok_or_else(|| wrong("it is empty"))?.map_err(bad)?;
    if first.path().map_err(bad)?.as_ref() != Path::new("vm.toml") || first.size() > MAX_SPEC {
        return Err(wrong("it does not begin with vm.toml"));
    }
    let mut text = String::new();
    first.read_to_string(&mut text).map_err(bad)?;
    let mut vm: VmFile = toml::from_str(&text).map_err(|e| wrong(e.message()))?;
    if let Some(key) = names_host_files(&vm).filter(|_| !a.trust) {
        let text = format!(
            "it names files of this host ({key}); --trust accepts that from somebody you trust"
        );
        return Err(Failure::new(code::PERMISSION, format!("{}: {text}", a.file.display())));
    }
    let name = a
        .name
        .clone()
        .or(vm.vm.name.clone())
        .ok_or_else(|| wrong("it has no name; give --name"))?;
    spec::check::name(&name).map_err(|e| Failure::new(code::USAGE, e))?;
    if instance::all(&store)?.iter().any(|i| i.name == name) {
        return Err(Failure::new(
            code::BUSY,
            format!("there is an instance \"{name}\" already; give another --name"),
        ));
    }
    vm.vm.name = Some(name.clone());
    let dir = store.dir(&name);
    dir.clear_rest()?;
    dir.create()?;
    let _lock = dir.take_lock()?;
    let unpack = || -> Result {
        for entry in entries {
            let mut e = entry.map_err(bad)?;
            let path = e.path().map_err(bad)?.into_owned();
            let disk = vm.disk.iter_mut().find(|d| d.file.as_deref() == Some(&path));
            let (Some(disk), Some(member)) = (disk, member(&path)) else {
                return Err(wrong(&format!("it has an unexpected member {}", path.display())));
            };
            let target = dir.path.join(member);
            write_sparse(&mut e, &target)?;
            disk.file = Some(target);
        }
        let text = toml::to_string_pretty(&vm).map_err(|e| Failure::other(e.to_string()))?;
        // Read and checked as any other, so that an archive cannot say more than a file.
        let temporary = dir.path.join("imported.toml");
        std::fs::write(&temporary, text).at("cannot write", &temporary)?;
        let loaded = spec::load(&temporary)?;
        std::fs::remove_file(&temporary).at("cannot remove", &temporary)?;
        create::write(&store, &dir, &loaded, None)
    };
    if let Err(e) = unpack() {
        let _ = std::fs::remove_dir_all(&dir.path);
        return Err(e);
    }
    print(&format!("{name}\n"))
}

/// A key by which an archive could make this host run or hand out something of its own.
fn names_host_files(vm: &VmFile) -> Option<&'static str> {
    let root_on_host = vm
        .boot
        .root
        .as_deref()
        .is_some_and(|r| r == "host" || r.starts_with('/') && !r.starts_with("/dev/ubd"));
    [
        ("vm.kernel", !vm.vm.is_built_in()),
        ("vm.hostfs", vm.vm.hostfs.is_some()),
        ("vm.cmdline", vm.vm.cmdline.is_some()),
        ("boot.root", root_on_host || vm.disk.is_empty()),
        ("boot.initrd", vm.boot.initrd.is_some()),
        (
            "console.channel",
            vm.console.iter().any(|c| !c.is_held() && c.channel.as_deref() != Some("null")),
        ),
        ("resources.tmpdir", vm.resources.tmpdir.is_some()),
        ("guest.files.source", vm.guest.files.iter().any(|f| f.source.is_some())),
    ]
    .into_iter()
    .find_map(|(key, bad)| bad.then_some(key))
}

/// Writes a file, leaving holes for zeros.
pub fn write_sparse(from: &mut dyn Read, path: &Path) -> Result {
    let file = File::create_new(path).at("cannot make", path)?;
    let mut buf = vec![0; 64 << 10];
    let mut at = 0u64;
    loop {
        let mut n = 0;
        while n < buf.len() {
            match from.read(&mut buf[n..]).at("cannot read for", path)? {
                0 => break,
                m => n += m,
            }
        }
        if n == 0 {
            break;
        }
        if buf[..n].iter().any(|b| *b != 0) {
            file.write_all_at(&buf[..n], at).at("cannot write", path)?;
        }
        at += n as u64;
    }
    file.set_len(at).and_then(|()| file.sync_all()).at("cannot write", path)
}
