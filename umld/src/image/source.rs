//! What an image is made from: a stream of tar entries, whatever it comes from.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::writer::Writer;
use crate::failure::{Context, Failure, Result, code};

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

/// A tar archive, compressed by gzip or not.
pub fn tar(mut file: File, shown: &Path, to: &mut Writer, whiteouts: bool) -> Result {
    let mut magic = [0; 6];
    let n = file.read(&mut magic).at("cannot read", shown)?;
    file.seek(SeekFrom::Start(0)).at("cannot read", shown)?;
    let known: [(&[u8], &str); 3] =
        [(&[0xfd, b'7', b'z'], "xz"), (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"), (b"BZh", "bzip2")];
    if let Some((_, kind)) = known.iter().find(|(m, _)| magic[..n].starts_with(m)) {
        let text = format!(
            "{}: a {kind} archive; expected tar or tar.gz: unpack it first with {kind} -d",
            shown.display()
        );
        return Err(Failure::other(text));
    }
    let reader = BufReader::with_capacity(256 << 10, file);
    if magic.starts_with(&[0x1f, 0x8b]) {
        archive(flate2::read::MultiGzDecoder::new(reader), shown, to, whiteouts)
    } else {
        archive(reader, shown, to, whiteouts)
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

/// An OCI image layout (image-spec, image-layout.md): the first manifest's layers in order, with whiteouts.
fn oci(dir: &Path, to: &mut Writer) -> Result {
    let index = json(&dir.join("index.json"))?;
    let mut manifest = index;
    let mut seen = BTreeSet::new();
    // An index may lead to another one.
    while let Some(list) = manifest.get("manifests").and_then(Value::as_array) {
        let amd64 = |m: &&Value| m.pointer("/platform/architecture").is_none_or(|a| a == "amd64");
        let next = list.iter().find(amd64).ok_or_else(|| {
            Failure::other(format!("{}: no image for amd64 in it", dir.display()))
        })?;
        let path = blob(dir, next)?;
        if !seen.insert(path.clone()) {
            return Err(Failure::other(format!(
                "{}: its indexes go round in a circle",
                dir.display()
            )));
        }
        manifest = json(&path)?;
    }
    let layers = manifest
        .get("layers")
        .and_then(Value::as_array)
        .ok_or_else(|| Failure::other(format!("{}: the manifest has no layers", dir.display())))?;
    for l in layers {
        let path = blob(dir, l)?;
        let kind = l.get("mediaType").and_then(Value::as_str).unwrap_or_default();
        if kind.contains("zstd") {
            return Err(Failure::other(format!(
                "{}: a layer compressed by zstd; expected gzip",
                path.display()
            )));
        }
        tar(File::open(&path).at("cannot read", &path)?, &path, to, true)?;
    }
    Ok(())
}

fn json(path: &Path) -> Result<Value> {
    let file = File::open(path).at("cannot read", path)?;
    serde_json::from_reader(file.take(MAX_JSON))
        .map_err(|e| Failure::other(format!("{}: {e}", path.display())))
}

/// The file a descriptor names by its digest.
fn blob(dir: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor.get("digest").and_then(Value::as_str).unwrap_or_default();
    match digest.split_once(':') {
        Some((algorithm, hex))
            if !hex.is_empty()
                && algorithm.chars().all(|c| c.is_ascii_alphanumeric())
                && hex.chars().all(|c| c.is_ascii_hexdigit()) =>
        {
            Ok(dir.join("blobs").join(algorithm).join(hex))
        }
        _ => Err(Failure::new(
            code::FAILURE,
            format!("{}: \"{digest}\" is no digest", dir.display()),
        )),
    }
}
