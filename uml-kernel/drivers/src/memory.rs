//! Memory as a device of the management console: `config mem=-64M` takes some from the machine, `config mem=+64M` gives it back.

use std::sync::{Arc, Weak};

use uml_core::configure::{Configurable, Outcome, Refusal};
use uml_core::kernel::Kernel;
use uml_core::memory;

use crate::number;

/// The machine's memory.
pub(crate) struct Memory(Weak<Kernel>);

/// What to do with how many bytes.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Take(u64),
    Give(u64),
}

fn invalid(text: &str) -> Refusal {
    Refusal::errno(libc::EINVAL, text)
}

/// Parses what follows `mem`: `=-SIZE` or `=+SIZE`.
fn parse(text: &str) -> Result<Change, Refusal> {
    let increment = text.strip_prefix('=').ok_or_else(|| invalid("Expected '=' after 'mem'"))?;
    let (sign, size) = match increment.as_bytes() {
        [sign @ (b'-' | b'+'), ..] => (*sign, &increment[1..]),
        _ => return Err(invalid("Expected increment to start with '-' or '+'")),
    };
    let bytes = number::size(size).ok_or_else(|| invalid("Failed to parse memory increment"))?;
    Ok(if sign == b'-' { Change::Take(bytes) } else { Change::Give(bytes) })
}

impl Memory {
    pub(crate) fn of(kernel: &Arc<Kernel>) -> Arc<Memory> {
        Arc::new(Memory(Arc::downgrade(kernel)))
    }
}

impl Configurable for Memory {
    fn prefix(&self) -> &'static str {
        "mem"
    }

    /// As in the stock kernel it is no error when there is less to take or to give than was asked for.
    fn set(&self, text: &str) -> Outcome {
        let change = parse(text)?;
        if let Some(kernel) = self.0.upgrade() {
            match change {
                Change::Take(bytes) => memory::take(&kernel, bytes),
                Change::Give(bytes) => memory::give(&kernel, bytes),
            };
        }
        Ok(String::new())
    }

    /// The bytes that the machine has at present.
    fn get(&self, _: &str) -> Option<Outcome> {
        let kernel = self.0.upgrade()?;
        let present = kernel.mem_bytes.saturating_sub(kernel.memory.taken());
        Some(Ok(present.to_string()))
    }

    fn remove(&self, _: &str) -> Outcome {
        Err(Refusal::errno(libc::EBUSY, "Memory doesn't support the remove operation"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn increments_have_a_sign_and_a_size() {
        assert_eq!(parse("=-16M"), Ok(Change::Take(16 << 20)));
        assert_eq!(parse("=+0x10k"), Ok(Change::Give(16 << 10)));
        for (text, says) in [
            ("x=-1M", "Expected '=' after 'mem'"),
            ("=1M", "Expected increment to start with '-' or '+'"),
            ("=", "Expected increment to start with '-' or '+'"),
            ("=-", "Failed to parse memory increment"),
            ("=-x", "Failed to parse memory increment"),
            ("=-1Mx", "Failed to parse memory increment"),
        ] {
            assert_eq!(parse(text), Err(Refusal { err: -22, text: says.into() }), "{text}");
        }
    }

    #[test]
    fn memory_is_taken_as_far_as_it_is_free_and_given_back_as_far_as_it_was_taken() {
        let kernel = Kernel::new(64 << 20, 1);
        let mem = Memory::of(&kernel);
        let size = || mem.get("").and_then(Result::ok).expect("a number");
        assert_eq!(size(), (64u64 << 20).to_string());
        assert_eq!(mem.set("=-16M"), Ok(String::new()));
        assert_eq!(size(), (48u64 << 20).to_string());
        let m = kernel.memory_info();
        assert_eq!((m.total, m.free), (64 << 20, 48 << 20));
        assert_eq!(mem.set("=-5000"), Ok(String::new()), "whole pages");
        assert_eq!(kernel.memory.taken(), (16 << 20) + 4096);
        assert_eq!(mem.set("=-1T"), Ok(String::new()));
        assert_eq!(kernel.memory_info().free, 0);
        assert_eq!(mem.set("=+1T"), Ok(String::new()));
        assert_eq!(size(), (64u64 << 20).to_string());
        let e = mem.remove("0").expect_err("refused");
        assert_eq!((e.err, &e.text[..]), (-16, "Memory doesn't support the remove operation"));
    }
}
