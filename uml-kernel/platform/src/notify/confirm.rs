//! Recognising the calls that notifications stand for.

use std::ops::Range;

use uml_stub::EVENT_NR;

use crate::hostcall::Call;
use crate::seccomp::filter::ARCH;
use crate::seccomp::notif::Notif;

/// Whether `n` is exactly `call`.
pub fn is(call: &Call, n: &Notif) -> bool {
    n.arch == ARCH && i64::from(n.nr) == call.nr && n.args == call.args
}

/// Where a call came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Guest,
    /// The stub's event call.
    Event,
    /// Another call from the stub's code.
    Stub,
}

pub fn origin(n: &Notif, code: &Range<u64>) -> Origin {
    if !code.contains(&n.ip) {
        Origin::Guest
    } else if n.nr == EVENT_NR as i32 && n.arch == ARCH {
        Origin::Event
    } else {
        Origin::Stub
    }
}
