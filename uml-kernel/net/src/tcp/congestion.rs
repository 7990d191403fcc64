//! Congestion control: Reno (RFC 5681) and CUBIC (RFC 9438). Windows are in bytes.

use crate::time::{SEC, Time};

/// The algorithms that TCP_CONGESTION can choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    #[default]
    Cubic,
    Reno,
}

impl Algorithm {
    /// By the name of TCP_CONGESTION.
    pub fn by_name(name: &[u8]) -> Option<Algorithm> {
        match name {
            b"cubic" => Some(Algorithm::Cubic),
            b"reno" => Some(Algorithm::Reno),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Cubic => "cubic",
            Algorithm::Reno => "reno",
        }
    }
}

/// Initial window in segments (RFC 6928).
pub const INITIAL_WINDOW: u64 = 10;

/// Multiplicative decrease of CUBIC.
const BETA: f64 = 0.7;
/// CUBIC's scaling constant, segments per second cubed.
const C: f64 = 0.4;

/// State of congestion control.
#[derive(Clone, Debug)]
pub struct Congestion {
    pub algorithm: Algorithm,
    pub cwnd: u64,
    pub ssthresh: u64,
    /// Bytes acknowledged towards the next additive increase.
    credit: u64,
    /// CUBIC: window before the last reduction, segments.
    w_max: f64,
    /// When the present growth epoch began; 0 when it has not.
    epoch: Time,
    /// Window at the epoch's start and Reno's estimate, segments.
    w_start: f64,
    w_est: f64,
    k: f64,
    before: Option<Saved>,
    /// HyStart (RFC 9406): rounds by sequence, smallest RTT of this and the last round.
    round_end: u64,
    round_min: u64,
    last_round_min: u64,
    round_samples: u32,
    /// Conservative slow start rounds left; 0 in plain slow start.
    css_rounds: u32,
    css_baseline: u64,
}

#[derive(Clone, Debug)]
struct Saved {
    cwnd: u64,
    ssthresh: u64,
    w_max: f64,
    epoch: Time,
    w_start: f64,
    k: f64,
}

impl Congestion {
    /// A new connection's state.
    pub fn new(algorithm: Algorithm, mss: u64) -> Congestion {
        Congestion {
            algorithm,
            cwnd: INITIAL_WINDOW * mss,
            ssthresh: u64::MAX / 2,
            credit: 0,
            w_max: 0.0,
            epoch: Time(0),
            w_start: 0.0,
            w_est: 0.0,
            k: 0.0,
            before: None,
            round_end: 0,
            round_min: u64::MAX,
            last_round_min: u64::MAX,
            round_samples: 0,
            css_rounds: 0,
            css_baseline: u64::MAX,
        }
    }

    /// Below the slow start threshold.
    pub fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Loss: remembers the state for an undo and sets the threshold; the caller moves the window.
    pub fn reduce(&mut self, mss: u64) {
        self.before = Some(Saved {
            cwnd: self.cwnd,
            ssthresh: self.ssthresh,
            w_max: self.w_max,
            epoch: self.epoch,
            w_start: self.w_start,
            k: self.k,
        });
        self.css_rounds = 0;
        match self.algorithm {
            Algorithm::Reno => self.ssthresh = (self.cwnd / 2).max(2 * mss),
            Algorithm::Cubic => {
                let w = self.cwnd as f64 / mss as f64;
                // Fast convergence (RFC 9438 4.7).
                self.w_max = if w < self.w_max { w * (1.0 + BETA) / 2.0 } else { w };
                self.epoch = Time(0);
                self.ssthresh = ((self.cwnd as f64 * BETA) as u64).max(2 * mss);
            }
        }
    }

    /// The last reduction was for nothing: reordering or a late acknowledgement.
    pub fn undo(&mut self) {
        if let Some(s) = self.before.take() {
            self.cwnd = self.cwnd.max(s.cwnd);
            self.ssthresh = s.ssthresh;
            (self.w_max, self.epoch, self.w_start, self.k) = (s.w_max, s.epoch, s.w_start, s.k);
        }
    }

    /// The reduction stands.
    pub fn forget_undo(&mut self) {
        self.before = None;
    }

    /// The connection was idle for longer than its timeout (RFC 9293 3.8.3, RFC 5681 4.1).
    pub fn after_idle(&mut self, mss: u64, timeouts: u64) {
        let restart = (INITIAL_WINDOW * mss).min(self.cwnd);
        self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
        for _ in 0..timeouts.min(32) {
            if self.cwnd <= restart {
                break;
            }
            self.cwnd /= 2;
        }
        self.cwnd = self.cwnd.max(restart);
        self.epoch = Time(0);
    }

    /// HyStart++: an RTT sample while data up to `snd_nxt` is outstanding and up to `una` acknowledged.
    pub fn rtt_sample(&mut self, rtt: u64, una: u64, snd_nxt: u64) {
        const MIN_ETA: u64 = 4_000_000;
        const MAX_ETA: u64 = 16_000_000;
        if self.algorithm != Algorithm::Cubic || !self.in_slow_start() {
            return;
        }
        if una >= self.round_end {
            self.round_end = snd_nxt;
            self.last_round_min = self.round_min;
            self.round_min = u64::MAX;
            self.round_samples = 0;
            if self.css_rounds > 0 {
                self.css_rounds -= 1;
                if self.css_rounds == 0 {
                    self.ssthresh = self.cwnd;
                    return;
                }
            }
        }
        self.round_min = self.round_min.min(rtt);
        self.round_samples += 1;
        if self.round_samples < 8 || self.last_round_min == u64::MAX {
            return;
        }
        if self.css_rounds == 0 {
            let eta = (self.last_round_min / 8).clamp(MIN_ETA, MAX_ETA);
            if self.round_min >= self.last_round_min.saturating_add(eta) {
                self.css_baseline = self.round_min;
                self.css_rounds = 5;
            }
        } else if self.round_min < self.css_baseline {
            self.css_rounds = 0;
        }
    }

    /// `acked` bytes were newly acknowledged while the window was what limited sending.
    pub fn on_ack(&mut self, mut acked: u64, mss: u64, now: Time, rtt: u64) {
        if self.in_slow_start() {
            let divisor = if self.css_rounds > 0 { 4 } else { 1 };
            let grow = (acked / divisor).min(self.ssthresh - self.cwnd);
            self.cwnd += grow;
            acked = acked.saturating_sub(grow * divisor);
            if acked == 0 || self.in_slow_start() {
                return;
            }
        }
        match self.algorithm {
            Algorithm::Reno => {
                self.credit += acked;
                while self.credit >= self.cwnd {
                    self.credit -= self.cwnd;
                    self.cwnd += mss;
                }
            }
            Algorithm::Cubic => self.cubic(acked, mss, now, rtt),
        }
    }

    fn cubic(&mut self, acked: u64, mss: u64, now: Time, rtt: u64) {
        let m = mss as f64;
        let w = self.cwnd as f64 / m;
        if self.epoch == Time(0) {
            self.epoch = now;
            self.w_start = w;
            self.w_est = w;
            if self.w_max < w {
                self.w_max = w;
                self.k = 0.0;
            } else {
                self.k = ((self.w_max - w) / C).cbrt();
            }
        }
        let t = now.since(self.epoch) as f64 / SEC as f64 + rtt as f64 / SEC as f64;
        let target = (C * (t - self.k).powi(3) + self.w_max).clamp(w, w * 1.5);
        // Reno-friendly region (RFC 9438 4.3).
        let alpha = if self.w_est >= self.w_max { 1.0 } else { 3.0 * (1.0 - BETA) / (1.0 + BETA) };
        self.w_est += alpha * (acked as f64 / m) / w;
        let want = target.max(self.w_est);
        if want > w {
            let grow = (want - w) / w * acked as f64;
            // At most what slow start would do.
            self.cwnd += (grow as u64).min(acked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MS;

    fn ten_rounds(algorithm: Algorithm) -> Congestion {
        let mss = 1460;
        let mut c = Congestion::new(algorithm, mss);
        c.cwnd = 100 * mss;
        c.reduce(mss);
        c.cwnd = c.ssthresh;
        let mut now = Time(SEC);
        for _ in 0..10 {
            for _ in 0..c.cwnd / mss {
                c.on_ack(mss, mss, now, 10 * MS);
            }
            now = now + 10 * MS;
        }
        c
    }

    #[test]
    fn windows_grow_as_the_algorithms_say() {
        let reno = ten_rounds(Algorithm::Reno);
        assert_eq!(reno.cwnd / 1460, 60);
        let cubic = ten_rounds(Algorithm::Cubic);
        assert!((70..100).contains(&(cubic.cwnd / 1460)), "{}", cubic.cwnd / 1460);
    }

    #[test]
    fn an_undo_restores_the_window() {
        let mut c = Congestion::new(Algorithm::Cubic, 1000);
        c.cwnd = 50_000;
        c.reduce(1000);
        c.cwnd = c.ssthresh;
        assert_eq!(c.cwnd, 35_000);
        c.undo();
        assert_eq!(c.cwnd, 50_000);
        assert!(c.in_slow_start());
    }

    #[test]
    fn cubic_passes_its_old_maximum_in_time() {
        let mss = 1000;
        let mut c = Congestion::new(Algorithm::Cubic, mss);
        c.cwnd = 1000 * mss;
        c.reduce(mss);
        c.cwnd = c.ssthresh;
        let k = (300.0f64 / C).cbrt();
        let mut now = Time(SEC);
        let rtt = 100 * MS;
        while now.since(Time(SEC)) < (k * 1.05 * SEC as f64) as u64 {
            for _ in 0..c.cwnd / mss {
                c.on_ack(mss, mss, now, rtt);
            }
            now = now + rtt;
        }
        let w = c.cwnd / mss;
        assert!((950..1100).contains(&w), "{w}");
    }
}
