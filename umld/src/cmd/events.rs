//! `umld events`.

use std::fs::File;
use std::io::{BufRead, BufReader};

use crate::cli::Events;
use crate::cmd::logs::Watch;
use crate::failure::{Context, Result};
use crate::state::{Event, Store};

/// Prints them.
pub fn run(a: &Events) -> Result<u8> {
    let store = Store::open()?;
    let path = store.events();
    std::fs::create_dir_all(&store.base).at("cannot make", &store.base)?;
    let file = File::options()
        .append(true)
        .read(true)
        .create(true)
        .open(&path)
        .at("cannot open", &path)?;
    let watch = a.follow.then(|| Watch::new(&path)).transpose()?;
    let mut reader = BufReader::new(file);
    let mut past: Vec<String> = Vec::new();
    let mut line = String::new();
    let wanted = |line: &str| {
        let e: Option<Event> = serde_json::from_str(line).ok();
        e.filter(|e| a.names.is_empty() || a.names.contains(&e.name))
    };
    while reader.read_line(&mut line).at("cannot read", &path)? > 0 {
        past.extend(wanted(&line).map(|e| text(&e, a)));
        line.clear();
    }
    let keep = a.lines.unwrap_or(if a.follow { 0 } else { usize::MAX }).min(past.len());
    super::print(&past[past.len() - keep..].concat())?;
    let Some(watch) = watch else { return Ok(0) };
    loop {
        while reader.read_line(&mut line).at("cannot read", &path)? > 0 {
            // A line is written in one piece; half of one means that the rest comes at once.
            if !line.ends_with('\n') {
                break;
            }
            if let Some(e) = wanted(&line) {
                super::print(&text(&e, a))?;
            }
            line.clear();
        }
        watch.wait()?;
        use std::os::unix::fs::MetadataExt;
        let new = std::fs::metadata(&path).map(|m| m.ino()).ok();
        if new.is_some() && new != reader.get_ref().metadata().map(|m| m.ino()).ok() {
            reader = BufReader::new(File::open(&path).at("cannot read", &path)?);
        }
    }
}

fn text(e: &Event, a: &Events) -> String {
    if a.json {
        return serde_json::to_string(e).unwrap_or_default() + "\n";
    }
    if a.quiet {
        return format!("{}\n", e.name);
    }
    format!("{} {} {} {}", stamp(e.time), e.name, e.event, e.detail).trim_end().to_owned() + "\n"
}

/// Seconds since 1970 as `2026-11-28 19:32:16Z` (days from civil, proleptic Gregorian calendar).
pub fn stamp(time: f64) -> String {
    let secs = time.max(0.0) as i64;
    let (days, s) = (secs / 86400, secs % 86400);
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn stamps() {
        assert_eq!(super::stamp(0.0), "1970-01-01 00:00:00Z");
        assert_eq!(super::stamp(951_827_696.0), "2000-02-29 12:34:56Z");
        assert_eq!(super::stamp(1_795_894_336.5), "2026-11-28 19:32:16Z");
    }
}
