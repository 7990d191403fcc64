//! A second look at a case that differed: is it the guest, the host, or a moment?
//!
//! A difference counts as a failure when it comes back. One that does not, and a case that the host itself answers in several
//! ways, is told as unsteady, with what differed.

use std::time::Duration;

use crate::plan::Guest;
use crate::run::run;
use crate::transcript::{Transcript, differences};

/// How often a case runs again on each side.
pub const TIMES: usize = 3;
/// Time for one case: several times what the slowest takes, so that one that hangs costs little.
const CASE_SECONDS: &str = "20";

/// What the second look showed.
#[derive(Debug, PartialEq, Eq)]
pub enum Again {
    /// The host answers always the same, and the guest differed from it once more: how.
    Differs(Vec<String>),
    /// The host's own runs differ from each other.
    HostVaries,
    /// Every run on both sides gave the same.
    Agrees,
}

/// The command line that runs a family or a case with `gt`.
pub fn gt_command(gt: &str, privilege: &str, what: &str) -> Vec<String> {
    [gt, "run", "--timeout", CASE_SECONDS, "--privilege", privilege, what]
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Runs `case` [`TIMES`] times on each side.
pub fn look(
    gt: &str,
    privilege: &str,
    case: &str,
    guest: &Guest,
    limit: Duration,
) -> Result<Again, String> {
    let argv = gt_command(gt, privilege, case);
    let one = |argv: &[String]| -> Result<Vec<String>, String> {
        let out = run(argv, limit)?;
        let t = Transcript::parse(&String::from_utf8_lossy(&out.stdout));
        Ok(t.cases.get(case).cloned().unwrap_or_default())
    };
    let (mut host, mut there) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        host.push(one(&argv)?);
        there.push(one(&guest.command(&argv))?);
    }
    Ok(judge(&host, &there))
}

fn judge(host: &[Vec<String>], guest: &[Vec<String>]) -> Again {
    let Some(first) = host.first() else { return Again::HostVaries };
    if host.iter().any(|h| h != first) {
        return Again::HostVaries;
    }
    match guest.iter().find(|g| *g != first) {
        Some(g) => Again::Differs(differences(first, g)),
        None => Again::Agrees,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(values: &[&str]) -> Vec<Vec<String>> {
        values.iter().map(|v| vec![format!("x: {v}")]).collect()
    }

    #[test]
    fn what_comes_back_is_a_difference() {
        let d = judge(&runs(&["1", "1", "1"]), &runs(&["1", "2", "1"]));
        assert_eq!(d, Again::Differs(vec!["host:  x: 1\nguest: x: 2".into()]));
    }

    #[test]
    fn a_host_that_varies_says_nothing_about_the_guest() {
        assert_eq!(judge(&runs(&["1", "2", "1"]), &runs(&["3", "3", "3"])), Again::HostVaries);
    }

    #[test]
    fn what_does_not_come_back_agrees() {
        assert_eq!(judge(&runs(&["1", "1", "1"]), &runs(&["1", "1", "1"])), Again::Agrees);
    }
}
