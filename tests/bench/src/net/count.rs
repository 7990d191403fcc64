//! Datagrams counted where they arrive, by the host's clock.
//!
//! What a guest says of its own speed is as good as its clock, and a flood can delay a tool's last report for as long as it
//! likes. So the receiving end's counter (`InDatagrams` of `/proc/net/snmp`: datagrams that programs were given) is looked at while
//! the flow is there, and the moment is the one at which this process has the number.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The counter at a moment.
pub type Sample = (Instant, u64);

/// A line and when it was read.
pub type Line = (Instant, String);

/// Between two looks at this host's counter.
const PERIOD: Duration = Duration::from_millis(100);

/// Datagrams of an interval without a flow: a tool's greeting, the answers of others.
const FEW: u64 = 100;

/// Prints the counter now and then beside what follows. The looks are rare: each is two programs.
const COUNTER: &str = "(while :; do grep '^Udp: [0-9]' /proc/net/snmp; sleep 0.4; done) & ";

/// The script of a server whose datagrams are counted.
pub fn server(command: &str) -> String {
    format!("{COUNTER}{command}")
}

/// The script of a client whose datagrams are counted; what it prints follows the counts.
pub fn client(command: &str) -> String {
    format!("{COUNTER}said=$({command}); kill $!; wait; printf '%s\\n' \"$said\"")
}

/// The number of a line of `/proc/net/snmp`.
fn datagrams(line: &str) -> Option<u64> {
    line.trim().strip_prefix("Udp: ")?.split(' ').next()?.parse().ok()
}

/// The counter's values among lines.
pub fn samples<'a>(lines: impl IntoIterator<Item = &'a Line>) -> Vec<Sample> {
    lines.into_iter().filter_map(|(at, l)| Some((*at, datagrams(l)?))).collect()
}

/// Datagrams a second while the flow was there. Its first and last interval are left out, as it did not fill them.
pub fn rate(samples: &[Sample]) -> Result<f64, String> {
    let flowing = |w: &[Sample]| w[1].1.saturating_sub(w[0].1) > FEW;
    let ends = (samples.windows(2).position(flowing), samples.windows(2).rposition(flowing));
    let (Some(first), Some(last)) = ends else {
        return Err(format!("no flow of datagrams arrived ({} samples)", samples.len()));
    };
    let (from, to) = (first + 1, last);
    if to <= from {
        return Err(format!("the flow ended within {} samples", last + 2 - first));
    }
    let seconds = samples[to].0.duration_since(samples[from].0).as_secs_f64();
    Ok((samples[to].1 - samples[from].1) as f64 / seconds)
}

/// What a child says, line by line as it comes; the channel ends with the output.
pub fn lines(out: impl Read + Send + 'static) -> Receiver<Line> {
    let (tx, rx) = channel();
    std::thread::spawn(move || {
        let mut out = BufReader::new(out);
        let mut bytes = Vec::new();
        while out.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let line = String::from_utf8_lossy(&bytes).into_owned();
            // Read to the end even when nobody listens any more: the child must not meet a closed pipe.
            let _ = tx.send((Instant::now(), line));
            bytes.clear();
        }
    });
    rx
}

/// Looks at the counter of the namespace that this process is in.
pub struct Here {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Sample>>>,
    thread: JoinHandle<()>,
}

impl Here {
    pub fn start() -> Here {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<Sample>>>::default());
        let (s, to) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                let text = std::fs::read_to_string("/proc/net/snmp").unwrap_or_default();
                let now = text.lines().find_map(datagrams);
                if let (Some(n), Ok(mut v)) = (now, to.lock()) {
                    v.push((Instant::now(), n));
                }
                std::thread::sleep(PERIOD);
            }
        });
        Here { stop, seen, thread }
    }

    pub fn finish(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.seen.lock().map(|v| v.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, values: &[(u64, u64)]) -> Vec<Sample> {
        values.iter().map(|(ms, n)| (start + Duration::from_millis(*ms), *n)).collect()
    }

    #[test]
    fn the_rate_is_that_of_the_whole_intervals() {
        // Idle, one greeting, half an interval, two whole ones, half of one, idle.
        let values = [
            (0, 7),
            (400, 8),
            (800, 20_008),
            (1200, 60_008),
            (1700, 110_008),
            (2100, 130_008),
            (2500, 130_009),
        ];
        let r = rate(&at(Instant::now(), &values)).unwrap();
        assert!((r - 100_000.0).abs() < 1.0, "{r}");
    }

    #[test]
    fn no_rate_without_a_flow() {
        let now = Instant::now();
        assert!(rate(&[]).is_err());
        assert!(rate(&at(now, &[(0, 5), (400, 6), (800, 6)])).unwrap_err().contains("no flow"));
        assert!(
            rate(&at(now, &[(0, 0), (400, 9000), (800, 18_000)])).unwrap_err().contains("ended")
        );
    }

    #[test]
    fn the_counter_is_found_among_other_lines() {
        let now = Instant::now();
        let said = ["Udp: InDatagrams NoPorts\n", "{\n", "Udp: 12 0 0 7 0\r\n", "UdpLite: 3 0\n"];
        let l: Vec<Line> = said.iter().map(|s| (now, s.to_string())).collect();
        assert_eq!(samples(&l), [(now, 12)]);
        let got: Vec<String> = lines(&b"a\nb"[..]).iter().map(|l| l.1).collect();
        assert_eq!(got, ["a\n", "b"]);
    }
}
