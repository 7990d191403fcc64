//! Sizes of host terminals, the masters of pseudo-terminals foremost, whose changes nobody announces to us.
//!
//! The host sends SIGWINCH to programs of the slave's session only. A helper in that session, as other terminals have, would take
//! the slave from the program it is for. So the size is looked at, while and only while somebody has given the terminal one.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use uml_base::pr_err;
use uml_host::reactor::{Interest, Reactor, Ready, Source, Token};
use uml_host::ticker::Ticker;

use crate::console::line::HostLine;

/// How long a new size may go unnoticed: a drag of a window's corner is followed without being waited for.
const LOOK: Duration = Duration::from_millis(200);

/// Looks at sizes now and then.
pub struct Sizes {
    ticker: Ticker,
    /// A look is due.
    armed: AtomicBool,
    lines: OnceLock<Vec<Weak<HostLine>>>,
    token: OnceLock<Token>,
}

impl Sizes {
    /// Not looking yet.
    pub fn new(reactor: &Reactor) -> io::Result<Arc<Sizes>> {
        let sizes = Arc::new(Sizes {
            ticker: Ticker::new()?,
            armed: AtomicBool::new(false),
            lines: OnceLock::new(),
            token: OnceLock::new(),
        });
        let source: Arc<dyn Source> = sizes.clone();
        let token = reactor.add(&sizes.ticker, Interest { read: true, write: false }, &source)?;
        let _ = sizes.token.set(token);
        Ok(sizes)
    }

    /// The lines to look at, once.
    pub fn follow(&self, lines: Vec<Weak<HostLine>>) {
        let _ = self.lines.set(lines);
    }

    /// Some line has a size that may change silently: looks again in a while.
    pub fn arm(&self) {
        if !self.armed.swap(true, Ordering::SeqCst)
            && let Err(e) = self.ticker.after(LOOK)
        {
            pr_err!("winch : sizes of ptys are not followed: {}", uml_formats::strerror(&e));
        }
    }
}

impl Source for Sizes {
    fn ready(&self, _: Ready) {
        self.ticker.clear();
        self.armed.store(false, Ordering::SeqCst);
        // Who still has such a size arms it again.
        for line in self.lines.get().into_iter().flatten().filter_map(Weak::upgrade) {
            line.follow_size();
        }
    }
}
