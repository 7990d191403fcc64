//! What an image is made from: a stream of tar entries, whatever it comes from.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::writer::Writer;
use crate::failure::{Context, Failure, Result, code};

mod compression;

use compression::{Compression, XZ_MEMORY, Zstd};

/// Longest index or manifest of an OCI layout.
const MAX_JSON: u64 = 4 << 20;

/// Copies a directory, a tar archive or an OCI layout into an image.
pub fn copy(from: &Path, to: &mut Writer) -> Result {
    if from.join("oci-layout").is_file() {
        return oci(from, to);
    }
    if from.is_dir() {
        return to.directory(from);
    }
    let file = File::open(from).at("cannot read", from)?;
    tar(file, from, to, false)
}

/// A tar archive, compressed by gzip, xz or zstd, or not: its first bytes tell.
pub fn tar(mut file: impl Read, shown: &Path, to: &mut Writer, whiteouts: bool) -> Result {
    let mut magic = Vec::new();
    (&mut file).take(6).read_to_end(&mut magic).at("cannot read", shown)?;
    let compression = Compression::of(&magic);
    let all = std::io::Cursor::new(magic).chain(file);
    let reader = BufReader::with_capacity(256 << 10, all);
    match compression {
        Compression::None => archive(reader, shown, to, whiteouts),
        Compression::Gzip => {
            archive(flate2::read::MultiGzDecoder::new(reader), shown, to, whiteouts)
        }
        Compression::Xz => {
            let r = lzma_rust2::XzReader::new_mem_limit(reader, true, XZ_MEMORY);
            archive(r, shown, to, whiteouts)
        }
        Compression::Zstd => archive(Zstd::new(reader), shown, to, whiteouts),
        Compression::Bzip2 => Err(Failure::other(format!(
            "{}: a bzip2 archive; expected tar, alone or by gzip, xz or zstd: unpack it first with bzip2 -d",
            shown.display()
        ))),
    }
}

/// Entries from a stream.
pub fn archive(reader: impl Read, shown: &Path, to: &mut Writer, whiteouts: bool) -> Result {
    let mut a = ::tar::Archive::new(reader);
    for e in a.entries().at("cannot read", shown)? {
        let e = e.at("cannot read", shown)?;
        to.entry(e, whiteouts)
            .map_err(|f| Failure { text: format!("{}: {f}", shown.display()), ..f })?;
    }
    Ok(())
}

/// An OCI image layout (image-spec, image-layout.md): the layers of the first manifest for this machine in order, with
/// whiteouts.
fn oci(dir: &Path, to: &mut Writer) -> Result {
    let index = json(File::open(dir.join("index.json")), &dir.join("index.json"))?;
    let mut manifest = index;
    let mut seen = BTreeSet::new();
    // An index may lead to another one.
    while let Some(list) = manifest.get("manifests").and_then(Value::as_array) {
        let next = list.iter().find(|m| for_this_machine(m)).ok_or_else(|| {
            let there: Vec<String> = list.iter().map(platform).collect();
            Failure::other(format!(
                "{}: no image for linux/amd64 in it; there are: {}",
                dir.display(),
                if there.is_empty() { "none".into() } else { there.join(", ") }
            ))
        })?;
        let blob = Blob::of(dir, next)?;
        if !seen.insert(blob.path.clone()) {
            return Err(Failure::other(format!(
                "{}: its indexes go round in a circle",
                dir.display()
            )));
        }
        let mut r = blob.open()?;
        manifest = json(Ok(&mut r), &blob.path)?;
        r.finish()?;
    }
    let layers = manifest
        .get("layers")
        .and_then(Value::as_array)
        .ok_or_else(|| Failure::other(format!("{}: the manifest has no layers", dir.display())))?;
    for l in layers {
        let blob = Blob::of(dir, l)?;
        to.begin_layer();
        let mut r = blob.open()?;
        tar(&mut r, &blob.path, to, true)?;
        r.finish()?;
    }
    Ok(())
}

/// `os/architecture` of an index's entry.
fn platform(entry: &Value) -> String {
    let part = |key: &str| entry.pointer(key).and_then(Value::as_str).unwrap_or("any").to_owned();
    format!("{}/{}", part("/platform/os"), part("/platform/architecture"))
}

fn for_this_machine(entry: &Value) -> bool {
    let is = |key: &str, wanted: &str| entry.pointer(key).is_none_or(|v| v == wanted);
    is("/platform/architecture", "amd64") && is("/platform/os", "linux")
}

fn json(file: std::io::Result<impl Read>, path: &Path) -> Result<Value> {
    let file = file.at("cannot read", path)?;
    serde_json::from_reader(file.take(MAX_JSON))
        .map_err(|e| Failure::other(format!("{}: {e}", path.display())))
}

/// What a descriptor (image-spec, descriptor.md) names.
struct Blob {
    path: PathBuf,
    /// Its digest, in hexadecimal, by an algorithm that we know.
    sha256: Option<String>,
    size: Option<u64>,
}

impl Blob {
    fn of(dir: &Path, descriptor: &Value) -> Result<Blob> {
        let digest = descriptor.get("digest").and_then(Value::as_str).unwrap_or_default();
        match digest.split_once(':') {
            Some((algorithm, hex))
                if !hex.is_empty()
                    && algorithm.chars().all(|c| c.is_ascii_alphanumeric())
                    && hex.chars().all(|c| c.is_ascii_hexdigit()) =>
            {
                Ok(Blob {
                    path: dir.join("blobs").join(algorithm).join(hex),
                    sha256: (algorithm == "sha256").then(|| hex.to_ascii_lowercase()),
                    size: descriptor.get("size").and_then(Value::as_u64),
                })
            }
            _ => Err(Failure::new(
                code::FAILURE,
                format!("{}: \"{digest}\" is no digest", dir.display()),
            )),
        }
    }

    fn open(&self) -> Result<Verified<'_>> {
        let file = File::open(&self.path).at("cannot read", &self.path)?;
        Ok(Verified { blob: self, file, hash: Sha256::new(), read: 0 })
    }
}

/// Reads a blob and computes what it should be.
struct Verified<'a> {
    blob: &'a Blob,
    file: File,
    hash: Sha256,
    read: u64,
}

impl Read for Verified<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buf)?;
        self.hash.update(buf.get(..n).unwrap_or_default());
        self.read += n as u64;
        Ok(n)
    }
}

impl Verified<'_> {
    /// Reads to the end and compares.
    fn finish(mut self) -> Result {
        std::io::copy(&mut self, &mut std::io::sink()).at("cannot read", &self.blob.path)?;
        let shown = self.blob.path.display();
        if let Some(size) = self.blob.size.filter(|s| *s != self.read) {
            let text = format!("{shown} has {} bytes, its descriptor says {size}", self.read);
            return Err(Failure::other(text));
        }
        let is: String = self.hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        match &self.blob.sha256 {
            Some(wanted) if *wanted != is => {
                Err(Failure::other(format!("{shown} is damaged: its SHA-256 is {is}")))
            }
            _ => Ok(()),
        }
    }
}
