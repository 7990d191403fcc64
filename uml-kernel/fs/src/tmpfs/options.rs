//! Mount options (tmpfs(5)).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::pr_err;

const PAGE: u64 = uml_mm::PAGE;

/// Options of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes; `None` is no limit.
    pub size: Option<u64>,
    pub inodes: Option<u64>,
    pub mode: Option<u32>,
    pub uid: u32,
    pub gid: u32,
    /// Memory of the machine, for sizes in percent.
    pub total: u64,
    /// The options as given, for /proc/mounts.
    pub shown: Vec<String>,
}

/// A number with an optional k, m, g, t suffix.
fn number(v: &str) -> Option<u64> {
    let (digits, shift) = match v.as_bytes().last()? {
        b'k' | b'K' => (&v[..v.len() - 1], 10),
        b'm' | b'M' => (&v[..v.len() - 1], 20),
        b'g' | b'G' => (&v[..v.len() - 1], 30),
        b't' | b'T' => (&v[..v.len() - 1], 40),
        _ => (v, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl Options {
    /// Size limit in pages.
    pub fn pages(&self) -> u64 {
        self.size.map_or(u64::MAX, |s| s.div_ceil(PAGE))
    }

    /// Applies the option text; `EINVAL`, with a line in the log, for what is not understood.
    pub fn parse(mut self, data: &[u8]) -> Result<Options> {
        let text = std::str::from_utf8(data).map_err(|_| EINVAL)?;
        for opt in text.split(',').filter(|o| !o.is_empty()) {
            if self.one(opt).is_none() {
                pr_err!("tmpfs: Bad mount option \"{opt}\"");
                return Err(EINVAL);
            }
        }
        Ok(self)
    }

    fn one(&mut self, opt: &str) -> Option<()> {
        let (key, value) = opt.split_once('=').unwrap_or((opt, ""));
        // Zero means "no limit" for the three limits.
        let limit = |n: u64| (n != 0).then_some(n);
        match key {
            "size" => {
                let bytes = match value.strip_suffix('%') {
                    Some(p) => {
                        let pct = p.parse::<u64>().ok()?;
                        (u128::from(self.total) * u128::from(pct) / 100).try_into().ok()?
                    }
                    None => number(value)?,
                };
                self.size = limit(bytes.checked_next_multiple_of(PAGE)?);
            }
            "nr_blocks" => self.size = limit(number(value)?.checked_mul(PAGE)?),
            "nr_inodes" => self.inodes = limit(number(value)?),
            "mode" => self.mode = Some(u32::from_str_radix(value, 8).ok()? & 0o7777),
            "uid" => self.uid = value.parse().ok()?,
            "gid" => self.gid = value.parse().ok()?,
            // Placement hints: memory is the host's to place.
            "huge" if matches!(value, "never" | "always" | "within_size" | "advise") => {}
            "mpol" | "inode32" | "inode64" | "noswap" => {}
            _ => return None,
        }
        self.shown.retain(|o| o.split_once('=').map_or(o.as_str(), |p| p.0) != key);
        match key {
            "size" | "nr_blocks" => {
                self.shown.retain(|o| !o.starts_with("size="));
                if let Some(s) = self.size {
                    self.shown.push(format!("size={}k", s >> 10));
                }
            }
            "mode" => {
                // The one that a tmpfs has by itself is not shown.
                let mode = self.mode.filter(|m| *m != 0o1777);
                self.shown.extend(mode.map(|m| format!("mode={m:03o}")));
            }
            _ => self.shown.push(opt.to_string()),
        }
        Some(())
    }

    /// What /proc/mounts shows, each with a leading comma.
    pub fn show(&self) -> String {
        self.shown.iter().map(|o| format!(",{o}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_suffixes_and_percentages() {
        let base = Options { total: 1 << 30, ..Options::default() };
        let o = base.clone().parse(b"size=10%,nr_inodes=5k,mode=700,uid=3").unwrap();
        assert_eq!(o.size, Some(((1u64 << 30) / 10).next_multiple_of(4096)));
        assert_eq!((o.inodes, o.mode, o.uid), (Some(5120), Some(0o700), 3));
        assert_eq!(base.clone().parse(b"size=1m").unwrap().show(), ",size=1024k");
        assert_eq!(base.clone().parse(b"size=0").unwrap().pages(), u64::MAX);
        for bad in ["size=x", "size=99999999999999999999", "mode=9", "frob", "uid=-1"] {
            assert_eq!(base.clone().parse(bad.as_bytes()), Err(EINVAL), "{bad}");
        }
    }
}
