//! `compare`: runs guest tests and system scripts on the host and in the guest and reports every difference.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;
use uml_tests::again::{self, Again};
use uml_tests::known::Known;
use uml_tests::plan::{self, Guest, PLATFORMS};
use uml_tests::report::{self, Tally};
use uml_tests::run::run;
use uml_tests::transcript::Transcript;

const USAGE: &str = "\
usage: compare [OPTIONS] [FAMILY[/CASE]...]

Runs `gt` on the host and in the guest and compares the transcripts; then the scripts in tests/guest/scripts likewise.

options:
  --platform NAME   default, trap, notify or ptrace; may be repeated (default: $UML_PLATFORM or `default`)
  --families-only   leave the scripts out
  --scripts-only    leave the families out
  --script NAME     only this script; may be repeated
  --seconds N       time for one family or script in the guest (default 900)

environment:
  UML_RUN           command that runs another one in the guest (default: target/release/umld run --);
                    the word {platform} in it stands for the options that select the platform
  UML_PLATFORM      platforms, separated by `|` or `,`

Exit status: 0 when nothing differs but what tests/guest/known-differences lists, 1 otherwise, 2 on wrong use.
";

struct Options {
    platforms: Vec<String>,
    families: bool,
    scripts: bool,
    script: Vec<String>,
    seconds: u64,
    names: Vec<String>,
}

fn options() -> Result<Option<Options>, String> {
    let mut o = Options {
        platforms: Vec::new(),
        families: true,
        scripts: true,
        script: Vec::new(),
        seconds: 900,
        names: Vec::new(),
    };
    let mut it = std::env::args().skip(1);
    while let Some(a) = it.next() {
        let mut value = |what: &str| it.next().ok_or(format!("{a} needs {what}"));
        match a.as_str() {
            "--help" | "-h" => return Ok(None),
            "--platform" => o.platforms.push(value("a platform")?),
            "--families-only" => o.scripts = false,
            "--scripts-only" => o.families = false,
            "--script" => {
                o.script.push(value("a script's name")?);
                o.families = false;
            }
            "--seconds" => {
                o.seconds = value("a number")?
                    .parse()
                    .map_err(|_| "--seconds needs a number".to_string())?;
            }
            w if w.starts_with('-') => return Err(format!("unknown option '{w}'")),
            w => o.names.push(w.into()),
        }
    }
    if o.platforms.is_empty() {
        let env = std::env::var("UML_PLATFORM").unwrap_or_else(|_| "default".into());
        o.platforms = env.split(['|', ',']).map(|s| s.trim().to_string()).collect();
    }
    if !o.names.is_empty() && o.script.is_empty() {
        o.scripts = false;
    }
    Ok(Some(o))
}

fn main() -> ExitCode {
    let o = match options() {
        Ok(Some(o)) => o,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("compare: {e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match compare(&o) {
        Ok(t) => {
            println!("{}", t.line());
            ExitCode::from(u8::from(t.failed > 0))
        }
        Err(e) => {
            eprintln!("compare: {e}");
            ExitCode::from(2)
        }
    }
}

fn guests(o: &Options) -> Result<Vec<Guest>, String> {
    let template = match std::env::var("UML_RUN") {
        Ok(t) => t,
        Err(_) => format!("{} run --", plan::binary("umld", "umld")?.display()),
    };
    let names: Vec<&str> = o.platforms.iter().map(String::as_str).collect();
    if names == ["all"] {
        return PLATFORMS.iter().map(|(n, _)| Guest::new(n, &template)).collect();
    }
    names.iter().map(|n| Guest::new(n, &template)).collect()
}

fn compare(o: &Options) -> Result<Tally, String> {
    let list = plan::root().join("tests/guest/known-differences");
    let text = std::fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    let known = Known::parse(&text).map_err(|e| format!("{}: {e}", list.display()))?;
    let limit = Duration::from_secs(o.seconds);
    let mut tally = Tally::default();
    for guest in guests(o)? {
        if o.families {
            families(o, &guest, &known, limit, &mut tally)?;
        }
        if o.scripts {
            scripts(o, &guest, &known, limit, &mut tally)?;
        }
    }
    Ok(tally)
}

/// Whether this process is root; the guest's commands are root always, so otherwise only the cases for users compare.
fn root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

fn families(
    o: &Options,
    guest: &Guest,
    known: &Known,
    limit: Duration,
    tally: &mut Tally,
) -> Result<(), String> {
    let gt = plan::binary("gt", "guest-tests")?.display().to_string();
    let names = if o.names.is_empty() {
        let l = run(&[gt.clone(), "list".into()], limit)?;
        String::from_utf8_lossy(&l.stdout).lines().map(String::from).collect()
    } else {
        o.names.clone()
    };
    let privilege = if root() { "all" } else { "user" };
    for family in names {
        let argv = again::gt_command(&gt, privilege, &family);
        // Side by side: most cases wait more than they compute, and what differed for want of a processor agrees afterwards.
        let (host, there) = std::thread::scope(|s| {
            let there = s.spawn(|| run(&guest.command(&argv), limit));
            (run(&argv, limit), there.join())
        });
        let (host, there) = (host?, there.map_err(|_| "a thread of compare failed")??);
        if host.status != 0 {
            let text = String::from_utf8_lossy(&host.stderr).into_owned();
            tally.fail(&format!("{family} on the host"), &[text]);
            continue;
        }
        let text = |b: &[u8]| Transcript::parse(&String::from_utf8_lossy(b));
        for (case, mut diff) in text(&host.stdout).compare(&text(&there.stdout)) {
            let name = format!("{} {case}", guest.platform);
            if !diff.is_empty() && known.reason(&guest.platform, &case).is_none() {
                match again::look(&gt, privilege, &case, guest, limit)? {
                    Again::Differs(also) => diff.extend(also),
                    Again::HostVaries => {
                        tally.unsteady(&name, "the host's own runs differ", &diff);
                        continue;
                    }
                    Again::Agrees => {
                        let n = again::TIMES;
                        tally.unsteady(
                            &name,
                            &format!("agreed {n} times of {n} afterwards"),
                            &diff,
                        );
                        continue;
                    }
                }
            }
            if !diff.is_empty() && there.timed_out {
                diff.push(format!("(the guest was ended after {} s)", limit.as_secs()));
            }
            judge(&name, guest, &case, &diff, known, tally);
        }
        if there.status != 0 && there.stdout.is_empty() {
            let text = String::from_utf8_lossy(&there.stderr).into_owned();
            tally.fail(
                &format!("{} {family}: exit status {}", guest.platform, there.status),
                &[text],
            );
        }
    }
    Ok(())
}

fn judge(name: &str, guest: &Guest, case: &str, diff: &[String], known: &Known, tally: &mut Tally) {
    match (diff.is_empty(), known.reason(&guest.platform, case)) {
        (true, None) => tally.pass(),
        (false, None) => tally.fail(name, diff),
        (false, Some(why)) => tally.skip(name, &format!("known to differ: {why}")),
        (true, Some(_)) => {
            // Some listed cases differ only now and then, so agreement is told but is not a failure.
            tally.skip(
                name,
                "agrees now: take it out of tests/guest/known-differences if it stays so",
            );
        }
    }
}

fn scripts(
    o: &Options,
    guest: &Guest,
    known: &Known,
    limit: Duration,
    tally: &mut Tally,
) -> Result<(), String> {
    let dir = plan::root().join("tests/guest/scripts");
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|x| x == "sh"))
        .collect();
    files.sort();
    for file in files {
        let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        if !o.script.is_empty() && !o.script.contains(&stem) {
            continue;
        }
        let argv: Vec<String> = vec!["/bin/sh".into(), file.display().to_string()];
        let host = run(&argv, limit)?;
        let name = format!("{} script {stem}", guest.platform);
        if host.status == 77 {
            tally.skip(&name, String::from_utf8_lossy(&host.stderr).trim());
            continue;
        }
        if host.timed_out || host.status != 0 {
            let text = String::from_utf8_lossy(&host.stderr).into_owned();
            tally.fail(&format!("{name}: exit status {} on the host", host.status), &[text]);
            continue;
        }
        let there = run(&guest.command(&argv), limit)?;
        let mut diff = report::stream("stdout", &host.stdout, &there.stdout);
        diff.extend(report::stream("stderr", &host.stderr, &there.stderr));
        if host.status != there.status {
            diff.push(format!("exit status: host {}, guest {}", host.status, there.status));
        }
        judge(&name, guest, &format!("script/{stem}"), &diff, known, tally);
    }
    Ok(())
}
