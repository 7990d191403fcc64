//! Mount options.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::pr_err;

/// Options of one overlay.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub lower: Vec<Vec<u8>>,
    pub upper: Option<Vec<u8>>,
    pub work: Option<Vec<u8>>,
    pub shown: String,
}

/// Splits at `sep`; a backslash takes the next byte as it is.
fn split(text: &[u8], sep: u8) -> Vec<Vec<u8>> {
    let mut out = vec![Vec::new()];
    let mut bytes = text.iter();
    while let Some(&b) = bytes.next() {
        let Some(last) = out.last_mut() else { break };
        if b == b'\\' {
            // Only the separators are meant; other uses stay as written for the next level.
            match bytes.next() {
                Some(&n) if n == sep || n == b'\\' => last.push(n),
                Some(&n) => last.extend([b, n]),
                None => last.push(b),
            }
        } else if b == sep {
            out.push(Vec::new());
        } else {
            last.push(b);
        }
    }
    out
}

/// Reads the option text.
pub(crate) fn parse(data: &[u8]) -> Result<Options> {
    let mut o = Options::default();
    for opt in split(data, b',').into_iter().filter(|o| !o.is_empty()) {
        let eq = opt.iter().position(|b| *b == b'=').unwrap_or(opt.len());
        let (key, value) = (&opt[..eq], opt.get(eq + 1..).unwrap_or_default());
        let text = String::from_utf8_lossy(&opt).into_owned();
        let known = match key {
            b"lowerdir" if !value.is_empty() => {
                o.lower = split(value, b':');
                // "::" separates data-only layers, which need metacopy.
                !o.lower.iter().any(Vec::is_empty)
            }
            b"lowerdir+" if !value.is_empty() => {
                o.lower.push(value.to_vec());
                true
            }
            b"upperdir" if !value.is_empty() => {
                o.upper = Some(value.to_vec());
                true
            }
            b"workdir" if !value.is_empty() => {
                o.work = Some(value.to_vec());
                true
            }
            b"redirect_dir" => matches!(value, b"off" | b"nofollow"),
            b"index" | b"metacopy" | b"nfs_export" => value == b"off",
            b"xino" => matches!(value, b"on" | b"auto"),
            b"userxattr" | b"volatile" | b"default_permissions" => true,
            _ => false,
        };
        if !known {
            pr_err!("overlayfs: unrecognized mount option \"{text}\" or missing value");
            return Err(EINVAL);
        }
        o.shown.push(',');
        o.shown.push_str(&text);
    }
    if o.lower.is_empty() {
        pr_err!("overlayfs: missing 'lowerdir'");
        return Err(EINVAL);
    }
    Ok(o)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_can_be_escaped() {
        let o = parse(b"lowerdir=/a\\:b:/c,upperdir=/u\\,v,workdir=/w").unwrap();
        assert_eq!(o.lower, [b"/a:b".to_vec(), b"/c".to_vec()]);
        assert_eq!(o.upper.as_deref(), Some(&b"/u,v"[..]));
        assert_eq!(parse(b"upperdir=/u"), Err(EINVAL));
        assert_eq!(parse(b"lowerdir=/a,frob"), Err(EINVAL));
        assert_eq!(parse(b"lowerdir=/a,redirect_dir=on"), Err(EINVAL));
    }
}
