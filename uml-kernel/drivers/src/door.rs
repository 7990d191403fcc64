//! The door: the socket `exec` beside `mconsole`, through which the machine's owner runs programs in the guest. No agent in
//! the guest is needed. The protocol is that of `uml_formats::door`.
//!
//! One thread listens, two or three serve each caller. Only the user the kernel runs as, and root, may call
//! (SO_PEERCRED). What a caller sends is untrusted all the same: bounded, checked, and no more than execve(2) of root in
//! the guest could do.

mod call;
mod terminal;

use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use uml_base::{pr_err, pr_warn};
use uml_core::kernel::Kernel;
use uml_formats::door::Frame;
use uml_formats::unix_path::SocketPath;
use uml_host::fdpass::peer_uid;

/// Callers at a time.
const MAX_CALLERS: usize = 256;
/// How long a caller may take to send its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// A listening door.
pub struct Door {
    kernel: Arc<Kernel>,
    owner: u32,
    callers: AtomicUsize,
    /// Callers that were refused for who they are.
    strangers: AtomicUsize,
}

impl Door {
    /// Binds `path` and starts to listen.
    pub fn open(kernel: &Arc<Kernel>, path: &Path) -> io::Result<()> {
        let short = SocketPath::new(path)?;
        let listener = UnixListener::bind(short.as_path())?;
        let door = Arc::new(Door {
            kernel: kernel.clone(),
            owner: uml_host::process::uid(),
            callers: AtomicUsize::new(0),
            strangers: AtomicUsize::new(0),
        });
        std::thread::Builder::new().name("door".into()).spawn(move || door.listen(&listener))?;
        Ok(())
    }

    fn listen(self: &Arc<Door>, listener: &UnixListener) {
        loop {
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Out of descriptors or memory: that passes.
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ECONNABORTED)
                    ) =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(e) => return pr_err!("door: accept failed, door closed: {e}"),
            }
        }
    }

    fn admit(self: &Arc<Door>, stream: UnixStream) {
        // What is told to the refused fits into the buffer of a fresh socket.
        let refuse = |frame: Frame| drop((&stream).write_all(&frame.encode()));
        match peer_uid(&stream) {
            Ok(uid) if uid == self.owner || uid == 0 => {}
            who => {
                refuse(Frame::Denied);
                let n = self.strangers.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                // Told the first time and then ever more rarely: nobody can flood the log.
                return match who {
                    _ if !n.is_power_of_two() => {}
                    Ok(uid) => pr_warn!("door: caller of uid {uid} refused ({n} so far)"),
                    Err(e) => {
                        pr_warn!("door: caller without credentials refused: {e} ({n} so far)");
                    }
                };
            }
        }
        if self.callers.fetch_add(1, Ordering::SeqCst) >= MAX_CALLERS {
            self.callers.fetch_sub(1, Ordering::SeqCst);
            refuse(Frame::Failed(libc::EAGAIN, format!("more than {MAX_CALLERS} callers")));
            return pr_warn!("door: more than {MAX_CALLERS} callers, one refused");
        }
        let door = self.clone();
        let served = std::thread::Builder::new().name("door".into()).spawn(move || {
            let run = || call::serve(&door.kernel, stream);
            // A bug here must not cost the machine the door.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                pr_err!("door: internal error");
            }
            door.callers.fetch_sub(1, Ordering::SeqCst);
        });
        if let Err(e) = served {
            self.callers.fetch_sub(1, Ordering::SeqCst);
            pr_warn!("door: caller refused: {e}");
        }
    }
}
