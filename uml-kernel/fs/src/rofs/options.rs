//! Mount options (mount(8), "Mount options for fat", "for vfat", "for iso9660", "for squashfs").
//!
//! What is not understood is refused with `EINVAL` and a line in the log.

use std::fmt::Write;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::pr_err;
use uml_rofs::Charset;
use uml_rofs::iso9660::{self, NameMap};
use uml_rofs::vfat::{self, ShortNames};

use crate::rofs::Mounter;

/// Gives each option to `take`, which says whether it understood.
fn each(text: &str, fs: &str, mut take: impl FnMut(&str, &str) -> bool) -> Result<()> {
    for opt in text.split(',').filter(|o| !o.is_empty()) {
        let (key, value) = opt.split_once('=').unwrap_or((opt, ""));
        if !take(key, value) {
            pr_err!("{fs}: Unrecognized mount option \"{opt}\" or missing value");
            return Err(EINVAL);
        }
    }
    Ok(())
}

/// Sets what a value was made of; false when it could not be.
fn set<T>(to: &mut T, value: Option<T>) -> bool {
    let known = value.is_some();
    if let Some(v) = value {
        *to = v;
    }
    known
}

fn octal(v: &str) -> Option<u32> {
    u32::from_str_radix(v, 8).ok().filter(|m| *m <= 0o7777)
}

/// `utf8`, or `iocharset=`.
fn charset(key: &str, value: &str) -> Option<Charset> {
    match (key, value) {
        ("utf8", "" | "1" | "yes" | "true") => Some(Charset::Utf8),
        ("utf8", "0" | "no" | "false") => Some(Charset::Latin1),
        ("iocharset", v) => Charset::by_name(v),
        _ => None,
    }
}

fn charset_name(c: Charset) -> &'static str {
    match c {
        Charset::Utf8 => "utf8",
        Charset::Latin1 => "iso8859-1",
        Charset::Ascii => "ascii",
    }
}

/// Options of squashfs; as /proc/mounts shows them.
pub(crate) fn squashfs(text: &str) -> Result<String> {
    let mut errors = "continue";
    each(text, "SQUASHFS", |k, v| match (k, v) {
        ("errors", "continue") => set(&mut errors, Some("continue")),
        // Damage ends the machine: it is not carried out, so it is not promised.
        ("errors", "panic") => false,
        // Decompression happens in the thread that reads.
        ("threads", "single" | "multi" | "percpu") => true,
        _ => false,
    })?;
    Ok(format!(",errors={errors}"))
}

/// Options of vfat; as /proc/mounts shows them.
pub(crate) fn vfat(text: &str, m: Mounter) -> Result<(vfat::Options, String)> {
    let mut o = vfat::Options {
        uid: m.uid,
        gid: m.gid,
        file_mask: m.umask,
        dir_mask: m.umask,
        ..vfat::Options::default()
    };
    let mut check = "n";
    each(text, "FAT-fs", |k, v| match (k, v) {
        ("uid", v) => set(&mut o.uid, v.parse().ok()),
        ("gid", v) => set(&mut o.gid, v.parse().ok()),
        ("umask", v) => set(&mut o.file_mask, octal(v)) && set(&mut o.dir_mask, octal(v)),
        ("fmask", v) => set(&mut o.file_mask, octal(v)),
        ("dmask", v) => set(&mut o.dir_mask, octal(v)),
        ("utf8" | "iocharset", v) => set(&mut o.charset, charset(k, v)),
        ("codepage", "437") => true,
        ("shortname", v) => set(
            &mut o.short_names,
            match v {
                "mixed" => Some(ShortNames::Mixed),
                "winnt" => Some(ShortNames::Winnt),
                "lower" => Some(ShortNames::Lower),
                "win95" => Some(ShortNames::Win95),
                _ => None,
            },
        ),
        ("check", "s" | "strict") => {
            check = "s";
            o.strict = true;
            true
        }
        ("check", "n" | "normal" | "r" | "relaxed") => {
            check = if v.starts_with('r') { "r" } else { "n" };
            o.strict = false;
            true
        }
        ("showexec", "") => set(&mut o.show_exec, Some(true)),
        ("rodir", "") => set(&mut o.read_only_dirs, Some(true)),
        ("tz", "UTC") => set(&mut o.minutes_east, Some(0)),
        // Minutes that local time is ahead; at most a day (fat(5)).
        ("time_offset", v) => {
            let n = v.parse().ok().filter(|n: &i32| (-1440..=1440).contains(n));
            set(&mut o.minutes_east, n)
        }
        // What only matters for writing.
        (
            "quiet" | "flush" | "discard" | "nonumtail" | "sys_immutable" | "usefree" | "debug",
            "",
        ) => true,
        ("errors", "continue" | "remount-ro") => true,
        ("allow_utime", v) => octal(v).is_some(),
        _ => false,
    })?;
    let mut s = String::new();
    for (name, id) in [("uid", o.uid), ("gid", o.gid)] {
        if id != 0 {
            let _ = write!(s, ",{name}={id}");
        }
    }
    let _ = write!(s, ",fmask={:04o},dmask={:04o},codepage=437", o.file_mask, o.dir_mask);
    let _ = write!(s, ",iocharset={}", charset_name(o.charset));
    let names = match o.short_names {
        ShortNames::Mixed => "mixed",
        ShortNames::Winnt => "winnt",
        ShortNames::Lower => "lower",
        ShortNames::Win95 => "win95",
    };
    let _ = write!(s, ",shortname={names}");
    if check != "n" {
        let _ = write!(s, ",check={check}");
    }
    for (name, on) in [("showexec", o.show_exec), ("rodir", o.read_only_dirs)] {
        if on {
            let _ = write!(s, ",{name}");
        }
    }
    if o.minutes_east != 0 {
        let _ = write!(s, ",time_offset={}", o.minutes_east);
    }
    s.push_str(",errors=remount-ro");
    Ok((o, s))
}

/// Options of iso9660; as /proc/mounts shows them.
pub(crate) fn iso9660(text: &str) -> Result<(iso9660::Options, String)> {
    let mut o = iso9660::Options::default();
    let mut shown = String::new();
    each(text, "ISOFS", |k, v| {
        let known = match (k, v) {
            ("norock", "") => set(&mut o.no_rock, Some(true)),
            ("nojoliet", "") => set(&mut o.no_joliet, Some(true)),
            ("map", "n" | "normal") => set(&mut o.map, Some(NameMap::Normal)),
            ("map", "o" | "off") => set(&mut o.map, Some(NameMap::Off)),
            ("check", "r" | "relaxed") => set(&mut o.relaxed, Some(Some(true))),
            ("check", "s" | "strict") => set(&mut o.relaxed, Some(Some(false))),
            ("uid", v) => set(&mut o.uid, v.parse().ok().map(Some)),
            ("gid", v) => set(&mut o.gid, v.parse().ok().map(Some)),
            ("mode", v) => set(&mut o.mode, octal(v).map(Some)),
            ("dmode", v) => set(&mut o.dir_mode, octal(v).map(Some)),
            ("overriderockperm", "") => set(&mut o.override_permissions, Some(true)),
            ("hide", "") => set(&mut o.hide, Some(true)),
            ("unhide", "") => {
                (o.hide, o.show_associated) = (false, true);
                true
            }
            ("showassoc", "") => set(&mut o.show_associated, Some(true)),
            ("cruft", "") => set(&mut o.cruft, Some(true)),
            ("utf8" | "iocharset", v) => set(&mut o.charset, charset(k, v)),
            ("sbsector", v) => set(&mut o.session_sector, v.parse().ok()),
            // The first session of what is no drive.
            ("session", "0") => true,
            // zisofs is not expanded in any case; the block size is the image's.
            ("nocompress", "") => true,
            ("block", "512" | "1024" | "2048") => true,
            _ => false,
        };
        if known {
            shown.push(',');
            shown.push_str(k);
            if !v.is_empty() {
                shown.push('=');
                shown.push_str(v);
            }
        }
        known
    })?;
    Ok((o, shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vfat_options() {
        let m = Mounter { uid: 0, gid: 3, umask: 0o022 };
        let (o, s) = vfat("umask=077,fmask=0137,shortname=win95,iocharset=iso8859-1", m).unwrap();
        assert_eq!((o.file_mask, o.dir_mask, o.gid), (0o137, 0o077, 3));
        assert_eq!(
            s,
            ",gid=3,fmask=0137,dmask=0077,codepage=437,iocharset=iso8859-1,shortname=win95,errors=remount-ro"
        );
        for bad in ["umask=9", "iocharset=koi8-r", "codepage=850", "errors=panic", "nothing"] {
            assert_eq!(vfat(bad, m).err(), Some(EINVAL), "{bad}");
        }
    }

    #[test]
    fn other_options() {
        let (o, s) = iso9660("norock,map=off,uid=5,mode=0444").unwrap();
        assert!(o.no_rock && o.map == NameMap::Off && o.uid == Some(5) && o.mode == Some(0o444));
        assert_eq!(s, ",norock,map=off,uid=5,mode=0444");
        assert_eq!(iso9660("map=a").err(), Some(EINVAL));
        assert_eq!(squashfs("errors=continue,threads=single").unwrap(), ",errors=continue");
        assert_eq!(squashfs("errors=panic").err(), Some(EINVAL));
    }
}
