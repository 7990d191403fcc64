//! `capture`: packets of an interface of the initial network namespace to a file of the host.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use uml_formats::mconsole::argument;
use uml_formats::pcap::SNAP_LEN;

use crate::server::Client;
use crate::traffic::Wanted;

const USAGE: &str = "usage: capture | capture start <interface>|any [snaplen=n] [count=n] [size=n] <file> | capture stop <number>";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    List,
    Start(Wanted),
    Stop(u32),
}

pub fn run(rest: &[u8], client: &Client<'_>) {
    let captures = &client.server().captures;
    match parse(rest) {
        Err(text) => client.fail(text),
        Ok(Asked::List) => client.ok(captures.describe()),
        Ok(Asked::Start(wanted)) => match captures.start(wanted) {
            Ok(number) => client.ok(format!("{number}\n")),
            Err(text) => client.fail(text),
        },
        Ok(Asked::Stop(number)) => match captures.stop(number) {
            Some(text) => client.ok(text + "\n"),
            None => client.fail(format!("There is no capture {number}")),
        },
    }
}

/// The first word and what follows the white space after it.
fn word(b: &[u8]) -> (&[u8], &[u8]) {
    let b = argument(b);
    let end = b.iter().position(u8::is_ascii_whitespace).unwrap_or(b.len());
    (&b[..end], argument(&b[end..]))
}

fn parse(rest: &[u8]) -> Result<Asked, String> {
    match word(rest) {
        (b"", _) => Ok(Asked::List),
        (b"start", rest) => start(rest),
        (b"stop", rest) => match word(rest) {
            (n, b"") => number(n).ok_or_else(|| USAGE.into()).map(|n| Asked::Stop(n as u32)),
            _ => Err(USAGE.into()),
        },
        _ => Err(USAGE.into()),
    }
}

fn start(rest: &[u8]) -> Result<Asked, String> {
    let (interface, mut rest) = word(rest);
    let interface = std::str::from_utf8(interface).map_err(|_| USAGE)?;
    let mut w = Wanted {
        interface: (interface != "any").then(|| interface.to_owned()),
        snap_len: SNAP_LEN,
        count: None,
        size: None,
        file: PathBuf::new(),
    };
    // The file's name is the rest of the line: there may be blanks in it.
    loop {
        let (option, after) = word(rest);
        let Some((name, value)) =
            option.iter().position(|c| *c == b'=').map(|at| option.split_at(at))
        else {
            break;
        };
        let value = &value[1..];
        let bad = || format!("Not a number: {}", String::from_utf8_lossy(option));
        match name {
            b"snaplen" => {
                let n = number(value).filter(|n| *n <= u64::from(SNAP_LEN));
                let n = n.ok_or_else(|| format!("snaplen is from 0 to {SNAP_LEN}"))?;
                // As with tcpdump(1).
                w.snap_len = if n == 0 { SNAP_LEN } else { n as u32 };
            }
            b"count" => w.count = Some(number(value).filter(|n| *n > 0).ok_or_else(bad)?),
            b"size" => w.size = Some(bytes(value).ok_or_else(bad)?),
            _ => break,
        }
        rest = after;
    }
    if interface.is_empty() || rest.is_empty() {
        return Err(USAGE.into());
    }
    w.file = PathBuf::from(OsStr::from_bytes(rest.trim_ascii_end()));
    if !w.file.is_absolute() {
        return Err("The file must be given with its whole path".into());
    }
    Ok(Asked::Start(w))
}

/// A decimal number and nothing else.
fn number(b: &[u8]) -> Option<u64> {
    let t = std::str::from_utf8(b).ok()?;
    if t.starts_with('+') { None } else { t.parse().ok() }
}

/// A number with K, M or G.
fn bytes(b: &[u8]) -> Option<u64> {
    let (digits, shift) = match b.split_last()? {
        (b'k' | b'K', d) => (d, 10),
        (b'm' | b'M', d) => (d, 20),
        (b'g' | b'G', d) => (d, 30),
        _ => (b, 0),
    };
    number(digits)?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let want = |interface: Option<&str>, snap_len, count, size, file: &str| {
            let interface = interface.map(str::to_owned);
            Ok(Asked::Start(Wanted { interface, snap_len, count, size, file: file.into() }))
        };
        assert_eq!(parse(b""), Ok(Asked::List));
        assert_eq!(parse(b" stop 7 "), Ok(Asked::Stop(7)));
        assert_eq!(
            parse(b" start lo /a b=c.pcap"),
            want(Some("lo"), SNAP_LEN, None, None, "/a b=c.pcap")
        );
        let all = b"start any snaplen=96 count=5 size=2k /x";
        assert_eq!(parse(all), want(None, 96, Some(5), Some(2048), "/x"));
        assert_eq!(parse(b"start lo snaplen=0 /x"), want(Some("lo"), SNAP_LEN, None, None, "/x"));
        for bad in [
            "start",
            "start lo",
            "start lo x.pcap",
            "start lo count=0 /x",
            "start lo count=+1 /x",
            "start lo size= /x",
            "start lo snaplen=262145 /x",
            "start lo size=99999999999999999999G /x",
            "stop",
            "stop x",
            "stop 1 2",
            "begin",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
