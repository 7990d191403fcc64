//! Expressions with a memory: counters, limits, quotas, number generators; and logging.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_net::Time;
use uml_net::time::{MS, SEC};

use super::{Expr, Operation, Reg, Step};
use crate::attr::{Attrs, Out, Outcome};
use crate::log;
use crate::machine::Machine;
use crate::model::{Counter, Table};

/// Counts packets and bytes.
#[derive(Default)]
pub struct Count(Counter);

impl Count {
    pub fn parse(a: &Attrs<'_>) -> Outcome<Count> {
        Ok(Count(Counter::new(a.be64(2)?.unwrap_or(0), a.be64(1)?.unwrap_or(0))))
    }
}

impl Operation for Count {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        let (packets, bytes) = self.0.get();
        o.be64(1, bytes);
        o.be64(2, packets);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        self.0.count(m.counted());
        Step::Next
    }

    fn fresh(&self) -> Option<Expr> {
        let (p, b) = self.0.get();
        Some(Arc::new(Count(Counter::new(p, b))))
    }

    fn counter(&self) -> Option<&Counter> {
        Some(&self.0)
    }
}

struct Bucket {
    tokens: u64,
    at: Time,
}

/// A token bucket over packets or bytes.
pub struct Limit {
    rate: u64,
    unit: u64,
    burst: u32,
    bytes: bool,
    inverted: bool,
    bucket: Mutex<Bucket>,
}

impl Limit {
    /// Packets at once when none are named.
    const BURST: u32 = 5;

    pub fn parse(a: &Attrs<'_>) -> Outcome<Limit> {
        let rate = a.need(1)?.be64()?;
        let unit = a.need(2)?.be64()?;
        let bytes = a.be32(4)?.unwrap_or(0);
        let mut burst = a.be32(3)?.unwrap_or(0);
        let flags = a.be32(5)?.unwrap_or(0);
        if rate == 0 || unit == 0 {
            return Err(EINVAL.into());
        }
        if unit.checked_mul(SEC).is_none() || rate > u64::MAX / 2 {
            return Err(EOVERFLOW.into());
        }
        if bytes > 1 || flags > 1 {
            return Err(EOPNOTSUPP.into());
        }
        if bytes == 0 && burst == 0 {
            burst = Limit::BURST;
        }
        Ok(Limit::new(rate, unit, burst, bytes == 1, flags == 1))
    }

    /// One packet each time that `rate` ths of `n` seconds have passed, and `burst` at once.
    pub fn every(n: u64, rate: u64, burst: u32) -> Limit {
        Limit::new(rate, n, burst, false, false)
    }

    fn new(rate: u64, unit: u64, burst: u32, bytes: bool, inverted: bool) -> Limit {
        let l = Limit {
            rate,
            unit,
            burst,
            bytes,
            inverted,
            bucket: Mutex::new(Rank::LEAF, Bucket { tokens: 0, at: Time(0) }),
        };
        l.bucket.lock().tokens = l.full();
        l
    }

    /// Nanoseconds of credit that `n` units cost.
    fn cost(&self, n: u64) -> u64 {
        let c = u128::from(self.unit) * u128::from(SEC) * u128::from(n) / u128::from(self.rate);
        u64::try_from(c).unwrap_or(u64::MAX)
    }

    fn full(&self) -> u64 {
        let extra = if self.bytes { self.rate } else { 0 };
        self.cost(extra.saturating_add(self.burst.into()))
    }

    /// Takes what a packet of so many bytes costs; false when that is not there.
    pub fn take(&self, len: usize, now: Time) -> bool {
        let cost = self.cost(if self.bytes { len as u64 } else { 1 });
        let mut b = self.bucket.lock();
        let tokens = b.tokens.saturating_add(now.since(b.at)).min(self.full());
        b.at = now;
        b.tokens = tokens;
        if cost > tokens {
            return false;
        }
        b.tokens = tokens - cost;
        true
    }
}

impl Operation for Limit {
    fn name(&self) -> &'static str {
        "limit"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be64(1, self.rate);
        o.be64(2, self.unit);
        o.be32(3, self.burst);
        o.be32(4, self.bytes.into());
        o.be32(5, self.inverted.into());
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        if self.take(m.counted(), m.now()) != self.inverted { Step::Next } else { Step::Break }
    }

    fn fresh(&self) -> Option<Expr> {
        Some(Arc::new(Limit::new(self.rate, self.unit, self.burst, self.bytes, self.inverted)))
    }
}

/// A number of bytes that may pass, or that must have passed.
pub struct Quota {
    bytes: u64,
    over: bool,
    used: AtomicU64,
}

impl Quota {
    pub fn parse(a: &Attrs<'_>) -> Outcome<Quota> {
        let bytes = a.need(1)?.be64()?;
        let flags = a.be32(2)?.unwrap_or(0);
        if bytes > i64::MAX as u64 {
            return Err(EOVERFLOW.into());
        }
        if flags & !1 != 0 {
            return Err(EOPNOTSUPP.into());
        }
        Ok(Quota { bytes, over: flags & 1 != 0, used: a.be64(4)?.unwrap_or(0).into() })
    }
}

impl Operation for Quota {
    fn name(&self) -> &'static str {
        "quota"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        let used = self.used.load(Ordering::Relaxed).min(self.bytes);
        o.be64(1, self.bytes);
        o.be64(4, used);
        o.be32(2, self.over.into());
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let n = m.counted() as u64;
        let over = self.used.fetch_add(n, Ordering::Relaxed).saturating_add(n) > self.bytes;
        if over == self.over { Step::Next } else { Step::Break }
    }

    fn fresh(&self) -> Option<Expr> {
        let used = self.used.load(Ordering::Relaxed).into();
        Some(Arc::new(Quota { bytes: self.bytes, over: self.over, used }))
    }
}

/// When a packet last came by.
#[derive(Default)]
pub struct Last {
    seen: AtomicU64,
}

impl Last {
    pub fn parse(_: &Attrs<'_>) -> Outcome<Last> {
        Ok(Last::default())
    }
}

impl Operation for Last {
    fn name(&self) -> &'static str {
        "last"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        // Ages need the present moment, which is not known here; what was seen counts as just now.
        let seen = self.seen.load(Ordering::Relaxed) != 0;
        o.be32(1, seen.into());
        o.be64(2, 0);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        self.seen.store((m.now().0 / MS).max(1), Ordering::Relaxed);
        Step::Next
    }

    fn fresh(&self) -> Option<Expr> {
        Some(Arc::new(Last::default()))
    }
}

/// Numbers one after the other, or random ones.
pub struct Numgen {
    dreg: Reg,
    modulus: u32,
    random: bool,
    offset: u32,
    next: AtomicU32,
}

impl Numgen {
    pub fn parse(a: &Attrs<'_>) -> Outcome<Numgen> {
        let dreg = Reg::parse(&a.need(1)?, 4)?;
        let modulus = a.need(2)?.be32()?;
        let kind = a.need(3)?.be32()?;
        let offset = a.be32(4)?.unwrap_or(0);
        if modulus == 0 {
            return Err(ERANGE.into());
        }
        if offset.checked_add(modulus - 1).is_none() {
            return Err(EOVERFLOW.into());
        }
        if kind > 1 {
            return Err(EINVAL.into());
        }
        Ok(Numgen { dreg, modulus, random: kind == 1, offset, next: 0.into() })
    }
}

impl Operation for Numgen {
    fn name(&self) -> &'static str {
        "numgen"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(1, self.dreg.number());
        o.be32(2, self.modulus);
        o.be32(3, self.random.into());
        o.be32(4, self.offset);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let n = if self.random {
            m.cx.stack().random() as u32 % self.modulus
        } else {
            let step = |n: u32| Some((n + 1) % self.modulus);
            self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or(0)
        };
        m.store(self.dreg, &(self.offset + n).to_ne_bytes());
        Step::Next
    }
}

/// Writes packets to the kernel's log. A group is for programs, of which none can listen yet: such packets only pass.
pub struct Log {
    prefix: Option<String>,
    group: Option<u16>,
    snaplen: Option<u32>,
    threshold: Option<u16>,
    level: Option<u32>,
    flags: Option<u32>,
}

impl Log {
    /// Warning.
    const LEVEL: u32 = 4;

    pub fn parse(a: &Attrs<'_>) -> Outcome<Log> {
        let prefix = a.get(2).map(|p| p.text(127)).transpose()?.map(str::to_owned);
        let group = a.get(1).map(|g| g.be16()).transpose()?;
        let mut level = a.be32(5)?;
        let flags = a.be32(6)?;
        if group.is_some() && (level.is_some() || flags.is_some()) {
            return Err(EINVAL.into());
        }
        if group.is_none() {
            level = level.or(Some(Log::LEVEL));
            if level.is_some_and(|l| l > 8) || flags.is_some_and(|f| f & !0x3f != 0) {
                return Err(EINVAL.into());
            }
        }
        let threshold = a.get(4).map(|t| t.be16()).transpose()?;
        Ok(Log { prefix, group, snaplen: a.be32(3)?, threshold, level, flags })
    }
}

impl Operation for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        if let Some(p) = &self.prefix {
            o.text(2, p);
        }
        if let Some(g) = self.group {
            o.put(1, &g.to_be_bytes());
            if let Some(n) = self.snaplen.filter(|n| *n != 0) {
                o.be32(3, n);
            }
            if let Some(n) = self.threshold.filter(|n| *n != 0) {
                o.put(4, &n.to_be_bytes());
            }
        } else {
            o.be32(5, self.level.unwrap_or(Log::LEVEL));
            if let Some(f) = self.flags.filter(|f| *f != 0) {
                o.be32(6, f);
            }
        }
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        if self.group.is_none() {
            log::packet(m, self.prefix.as_deref().unwrap_or(""), self.level.unwrap_or(Log::LEVEL));
        }
        Step::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_lets_its_burst_pass_and_then_its_rate() {
        let l = Limit::new(10, 1, 3, false, false);
        let mut now = Time(SEC);
        let passed = (0..10).filter(|_| l.take(100, now)).count();
        assert_eq!(passed, 3);
        now = now + 100 * MS;
        assert!(l.take(100, now));
        assert!(!l.take(100, now));
        now = now + 10 * SEC;
        assert_eq!((0..10).filter(|_| l.take(100, now)).count(), 3);
    }

    #[test]
    fn a_limit_of_bytes_counts_bytes() {
        let l = Limit::new(1000, 1, 500, true, false);
        let now = Time(SEC);
        assert!(l.take(1500, now));
        assert!(!l.take(1, now));
        assert!(l.take(100, now + 100 * MS));
    }
}
