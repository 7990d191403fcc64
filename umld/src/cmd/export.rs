//! `umld export`: an instance with its disks in one tar archive.
//!
//! Members: `vm.toml` (paths are names of members), `disk<N>.img` (what the guest sees of disk N: copy-on-write layers
//! merged), sparse. A file that is complete has its name; before, it has another.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use uml_formats::cow::{BitmapPolicy, Device, DeviceSpec, open_device};

use crate::cli::Export;
use crate::cmd::take_down;
use crate::failure::{Context, Failure, Result, code};
use crate::spec::vm::Disk;
use crate::spec::{self, VmFile};
use crate::state::Store;

/// Writes the archive.
pub fn run(a: &Export) -> Result<u8> {
    let store = Store::open()?;
    let down = take_down(&store, &a.name, "exported")?;
    let (_, mut vm): (_, VmFile) = spec::load::read(&down.instance.dir.spec())?;
    let mut partial = a.file.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = File::create(&partial).at("cannot make", &partial)?;
    let written = if a.file.extension().is_some_and(|e| e == "gz") {
        let gz = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        pack(&mut vm, gz).and_then(|gz| gz.finish().at("cannot write", &partial))
    } else {
        pack(&mut vm, file)
    };
    let done = written.and_then(|f| {
        f.sync_all().at("cannot write", &partial)?;
        std::fs::rename(&partial, &a.file).at("cannot make", &a.file)
    });
    if done.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    done.map(|()| 0)
}

fn pack<W: Write>(vm: &mut VmFile, out: W) -> Result<W> {
    let mut tar = tar::Builder::new(out);
    let failed =
        |e: std::io::Error| Failure::other(format!("archive: {}", uml_formats::strerror(&e)));
    let mut disks = Vec::new();
    for (k, d) in vm.disk.iter_mut().enumerate() {
        let source = open(d)?;
        let name = format!("disk{k}.img");
        d.file = Some(name.clone().into());
        d.cow = None;
        disks.push((name, source));
    }
    let text = toml::to_string_pretty(vm).map_err(|e| Failure::other(e.to_string()))?;
    let mut put = |name: &str, size: u64, data: &mut dyn Read| {
        let mut h = tar::Header::new_gnu();
        h.set_size(size);
        h.set_mode(0o600);
        h.set_mtime(crate::state::now() as u64);
        tar.append_data(&mut h, name, data)
    };
    put("vm.toml", text.len() as u64, &mut text.as_bytes()).map_err(failed)?;
    for (name, mut source) in disks {
        put(&name, source.size, &mut source).map_err(failed)?;
    }
    tar.into_inner().map_err(failed)
}

/// A disk as the guest sees it, read from the start.
struct Contents {
    device: Device,
    size: u64,
    at: u64,
}

fn open(d: &Disk) -> Result<Contents> {
    let file = d.file.clone().unwrap_or_default();
    let (file, backing) = match &d.cow {
        Some(c) if c.exists() => (c.clone(), Some(file)),
        _ => (file, None),
    };
    if let Some(who) = crate::holder::launch::locked_by(&file, true) {
        return Err(Failure::new(
            code::BUSY,
            format!("disk {} is in use by {who}", file.display()),
        ));
    }
    let name = file.display().to_string();
    let spec = DeviceSpec {
        file,
        backing,
        read_only: true,
        sync: false,
        shared: false,
        plain: false,
        policy: BitmapPolicy::OnFlush,
    };
    let device =
        open_device(&spec, &mut |_| {}).map_err(|e| Failure::other(format!("disk {name}: {e}")))?;
    let size = match &device {
        Device::Plain { size, .. } => *size,
        Device::Cow { image, .. } => image.disk_size(),
    };
    Ok(Contents { device, size, at: 0 })
}

impl Read for Contents {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = usize::try_from(self.size - self.at).unwrap_or(buf.len()).min(buf.len());
        match &self.device {
            Device::Plain { file, .. } => {
                // A length that is no multiple of a sector ends in zeros.
                let mut done = 0;
                while done < n {
                    match file.read_at(&mut buf[done..n], self.at + done as u64)? {
                        0 => {
                            buf[done..n].fill(0);
                            break;
                        }
                        m => done += m,
                    }
                }
            }
            Device::Cow { image, .. } => image.read_at(&mut buf[..n], self.at)?,
        }
        self.at += n as u64;
        Ok(n)
    }
}

/// The path of a member below a directory, when it is a plain name.
pub fn member(path: &Path) -> Option<&str> {
    path.to_str().filter(|p| !p.contains('/') && !p.starts_with('.') && !p.is_empty())
}
