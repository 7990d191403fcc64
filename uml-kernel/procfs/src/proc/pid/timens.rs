//! `/proc/<pid>/timens_offsets` (time_namespaces(7)): offsets of the time namespace for the process's children.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::{FileOps, Io};
use uml_core::ns::time::Change;
use uml_core::task::{Cap, Task};
use uml_core::time::Clock;

use super::Target;
use crate::synth::{Regular, Spec, Text, TextFile, WholeFile};

fn show(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    let o = t.task()?.ns().time_for_children.offsets();
    for (name, ns) in [("monotonic", o.monotonic), ("boottime", o.boottime)] {
        let (s, n) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
        writeln!(out, "{name:<10} {s:10} {n:9}");
    }
    Ok(())
}

/// Takes digits off the front of `text`, after a sign where `signed`; `None` when there are none.
fn number(text: &mut &[u8], signed: bool) -> Option<i128> {
    *text = text.trim_ascii_start();
    let negative = signed && text.first() == Some(&b'-');
    let rest = &text[usize::from(negative)..];
    let digits = rest.iter().take_while(|c| c.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let mut v: i128 = 0;
    for d in &rest[..digits] {
        v = v.saturating_mul(10).saturating_add(i128::from(d - b'0'));
    }
    *text = &rest[digits..];
    Some(if negative { -v } else { v })
}

/// One line: a clock by name or number, seconds, nanoseconds; what follows does not matter.
fn parse(line: &[u8]) -> Result<Change> {
    let mut text = line.trim_ascii_start();
    // No name is longer, and none need end before the number begins.
    const LONGEST: usize = 9;
    let n = text.iter().take(LONGEST).take_while(|c| !c.is_ascii_whitespace()).count();
    let clock = match &text[..n] {
        b"monotonic" | b"1" => Clock::Monotonic,
        b"boottime" | b"7" => Clock::Boottime,
        _ => return Err(EINVAL),
    };
    text = &text[n..];
    let seconds = number(&mut text, true).ok_or(EINVAL)?;
    let nanoseconds = number(&mut text, false).ok_or(EINVAL)?;
    let nanoseconds = u32::try_from(nanoseconds).map_err(|_| EINVAL)?;
    if nanoseconds >= 1_000_000_000 {
        return Err(EINVAL);
    }
    let seconds = i64::try_from(seconds).map_err(|_| ERANGE)?;
    Ok(Change { clock, seconds, nanoseconds })
}

/// Two clocks can be set with one write; how much of `data` that takes.
fn parse_all(data: &[u8]) -> Result<(Vec<Change>, usize)> {
    let (mut changes, mut at) = (Vec::new(), 0);
    loop {
        let rest = &data[at..];
        let end = rest.iter().position(|c| *c == b'\n').unwrap_or(rest.len());
        changes.push(parse(&rest[..end])?);
        at = (at + end + 1).min(data.len());
        if changes.len() == 2 || at == data.len() {
            return Ok((changes, at));
        }
    }
}

/// The file.
pub fn file(t: &Target) -> Spec {
    Spec::file(0, Offsets(t.clone()))
}

struct Offsets(Target);

impl Regular for Offsets {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        let shown = self.0.clone();
        let text = TextFile::new(move |reader, out| show(&shown, reader, out));
        let target = self.0.clone();
        Ok(Box::new(WholeFile::new(text, Box::new(move |io, _, data| store(&target, io, data)))))
    }
}

/// The position stays: a further clock may follow.
fn store(target: &Target, io: &Io<'_>, data: &[u8]) -> Result<usize> {
    let (changes, taken) = parse_all(data)?;
    let ns = target.task()?.ns().time_for_children.clone();
    if !io.opener.capable_in(&ns.owner, Cap::SysTime) {
        return Err(EPERM);
    }
    let kernel = io.task.kernel();
    ns.change(&changes, &|clock| kernel.time.now(clock))?;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_linux_reads_them() {
        let change = |clock, seconds, nanoseconds| Change { clock, seconds, nanoseconds };
        let (m, b) = (Clock::Monotonic, Clock::Boottime);
        assert_eq!(parse_all(b"monotonic 1 2"), Ok((vec![change(m, 1, 2)], 13)));
        assert_eq!(parse_all(b"7 -3 0 rest\n"), Ok((vec![change(b, -3, 0)], 12)));
        let two = b"boottime 1 0\n1 2 0\nboottime 9 9\n";
        assert_eq!(parse_all(two), Ok((vec![change(b, 1, 0), change(m, 2, 0)], 19)));
        for bad in
            ["", "\n", "monotonic", "monotonic 1", "monotonic 1 -1", "monotonic +1 0", "x 1 0"]
        {
            assert_eq!(parse_all(bad.as_bytes()), Err(EINVAL), "{bad:?}");
        }
        assert_eq!(parse_all(b"1 0 1000000000"), Err(EINVAL));
        assert_eq!(parse_all(b"1 9223372036854775808 0"), Err(ERANGE));
    }
}
