//! The socket and the thread behind it.

use std::cell::{Cell, RefCell};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use uml_base::{pr_err, pr_warn};
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_formats::mconsole::{
    CAPTURE_CHUNK, Received, VERSION_0_REPLY, lookup, receive, split_reply,
};
use uml_formats::unix_path::SocketPath;
use uml_host::datagram::{Inbox, Receiver, Sender};
use uml_net::stack::Stack;
use uml_procfs::ProcFs;

use crate::command;
use crate::sysrq::Sysrq;
use crate::traffic::Captures;

/// How long a client that does not read its answer may hold up the console.
const PATIENCE: Duration = Duration::from_secs(2);
/// Datagrams of an answer that are kept to be sent at once.
const TOGETHER: usize = 16;

/// What the console works on.
pub struct Parts {
    pub kernel: Arc<Kernel>,
    /// For `proc`: read through a mount of its own, so that the guest need not have one.
    pub proc: Arc<ProcFs>,
    pub sysrq: Arc<Sysrq>,
    /// The initial network namespace, for `net` and `capture`.
    pub net: Arc<Stack>,
}

/// What became of datagrams, since boot.
#[derive(Debug, Default)]
pub struct Counters {
    /// Commands carried out, unknown ones included.
    pub served: AtomicU64,
    /// From somebody else than the owner or root.
    pub strangers: AtomicU64,
    /// Without the magic number or with an impossible length.
    pub malformed: AtomicU64,
    /// Answers that were given up: no address, or not read in time.
    pub unanswered: AtomicU64,
}

/// A running console.
pub struct Server {
    receiver: Receiver,
    owner: u32,
    pub(crate) parts: Parts,
    pub counters: Counters,
    /// Running captures.
    pub captures: Captures,
    /// Who reads for `proc`.
    pub(crate) reader: OnceLock<Arc<Task>>,
}

impl Server {
    /// Binds the console's socket to `path` and starts to answer.
    pub fn start(path: &Path, parts: Parts) -> io::Result<Arc<Server>> {
        let short = SocketPath::new(path)?;
        let receiver = Receiver::bind(short.as_path(), PATIENCE)?;
        let owner = uml_host::process::uid();
        let (counters, reader) = (Counters::default(), OnceLock::new());
        let captures = Captures::new(&parts.net);
        let server = Arc::new(Server { receiver, owner, parts, counters, captures, reader });
        let me = server.clone();
        std::thread::Builder::new().name("mconsole".into()).spawn(move || me.serve())?;
        Ok(server)
    }

    fn serve(&self) {
        let mut inbox = Inbox::default();
        loop {
            match self.receiver.receive(&mut inbox) {
                Ok(letters) => letters.for_each(|(bytes, sender)| self.datagram(bytes, &sender)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The host is short of memory: that passes.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS)) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(e) => return pr_err!("mconsole: receive failed, console closed: {e}"),
            }
        }
    }

    /// Checks one datagram and carries it out.
    fn datagram(&self, bytes: &[u8], sender: &Sender) {
        let client =
            Client { server: self, sender, gone: Cell::new(false), unsent: RefCell::default() };
        match sender.credentials {
            Some(c) if c.uid == self.owner || c.uid == 0 => {}
            who => {
                self.refuse(
                    &self.counters.strangers,
                    &match who {
                        Some(c) => format!("request of pid {} (uid {}) ignored", c.pid, c.uid),
                        None => "request of an unknown sender ignored".into(),
                    },
                );
                return;
            }
        }
        let (text, other_version) = match receive(bytes) {
            Received::BadMagic => {
                self.refuse(&self.counters.malformed, "request without magic number refused");
                return client.send([VERSION_0_REPLY.to_vec()], true);
            }
            Received::TooLarge { len } => {
                let what = format!("request with a length of {len} refused");
                self.refuse(&self.counters.malformed, &what);
                return client.reply(1, Received::TOO_LARGE.as_bytes(), false);
            }
            Received::Command { text, other_version } => (text, other_version),
        };
        if other_version.is_some() {
            // The stock kernel complains and goes on, so such a client gets two answers.
            client.reply(1, Received::WRONG_VERSION.as_bytes(), false);
        }
        self.counters.served.fetch_add(1, Ordering::Relaxed);
        let run = || match lookup(&text) {
            Some((command, rest)) => command::run(command, rest, &client),
            None => client.fail(Received::UNKNOWN_COMMAND),
        };
        // A bug in one command must not cost the operator the console.
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            let shown = String::from_utf8_lossy(&text).into_owned();
            pr_err!("mconsole: internal error in request {shown:?}");
            client.fail("Internal error; see the kernel log");
        }
    }

    /// Counts a refusal; logs the first one and then ever more rarely, so that nobody can flood the log.
    fn refuse(&self, counter: &AtomicU64, what: &str) {
        let n = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if n.is_power_of_two() {
            pr_warn!("mconsole: {what} ({n} so far)");
        }
    }
}

/// The client of the present request.
pub struct Client<'a> {
    server: &'a Server,
    sender: &'a Sender,
    /// It cannot be answered or does not read: no further attempt is made.
    gone: Cell<bool>,
    /// The beginning of an answer. What announces no further datagram sends it, so that a client that waits is woken once and
    /// a command that ends the machine has been answered.
    unsent: RefCell<Vec<Vec<u8>>>,
}

impl Client<'_> {
    /// The machine.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.server.parts.kernel
    }

    pub(crate) fn server(&self) -> &Server {
        self.server
    }

    /// Success with a text.
    pub fn ok(&self, text: impl AsRef<[u8]>) {
        self.reply(0, text.as_ref(), false);
    }

    /// The general error with a text.
    pub fn fail(&self, text: impl AsRef<[u8]>) {
        self.reply(1, text.as_ref(), false);
    }

    /// One text; `more` announces a further one.
    pub fn reply(&self, err: i32, text: &[u8], more: bool) {
        self.send(split_reply(err, text, more), !more);
    }

    /// Captured console output, then the empty text that ends the answer.
    pub fn output(&self, text: &[u8]) {
        for chunk in text.chunks(CAPTURE_CHUNK) {
            self.reply(0, chunk, true);
        }
        self.ok("");
    }

    /// False once an answer could not be delivered: the rest need not be made.
    pub fn listens(&self) -> bool {
        !self.gone.get()
    }

    fn send(&self, datagrams: impl IntoIterator<Item = Vec<u8>>, last: bool) {
        if self.gone.get() {
            return;
        }
        let mut unsent = self.unsent.borrow_mut();
        for d in datagrams {
            if unsent.len() >= TOGETHER {
                self.flush(&mut unsent);
            }
            unsent.push(d);
        }
        if last {
            self.flush(&mut unsent);
        }
    }

    fn flush(&self, unsent: &mut Vec<Vec<u8>>) {
        if !self.gone.get() && self.server.receiver.reply(self.sender, unsent).is_err() {
            self.gone.set(true);
            self.server.counters.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        unsent.clear();
    }
}
