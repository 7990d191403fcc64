//! `/dev/tty`, `/dev/console` and `/dev/ptmx`, and the entering of the terminal layer in the machine.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::FileOps;
use uml_core::kernel::Kernel;
use uml_core::registry::{CharDriver, DeviceNode, NodeOpen, Opened};
use uml_core::vfs::Dev;

use crate::devpts::{DevPtsType, PtmxDriver, PtsDriver};
use crate::file::TtyFile;
use crate::pty::PTS_MAJOR;
use crate::session::{self, Sessions};
use crate::tty::Tty;

/// Major number of /dev/tty, /dev/console and /dev/ptmx.
const TTYAUX_MAJOR: u32 = 5;
/// Group that owns terminals in Debian's and others' /dev (`tty`).
const TTY_GID: u32 = 5;

/// The terminal layer of a machine.
pub struct TerminalLayer {
    pub sessions: Arc<Sessions>,
    console: Mutex<Option<Arc<Tty>>>,
}

impl TerminalLayer {
    /// Enters devpts and the devices of this module in `kernel`.
    pub fn install(kernel: &Arc<Kernel>) -> Result<Arc<TerminalLayer>> {
        let sessions = Sessions::new(kernel);
        kernel.set_terminals(sessions.clone());
        kernel.hooks.on_exit_process.add(session::on_exit_process);
        let layer = Arc::new(TerminalLayer {
            sessions: sessions.clone(),
            console: Mutex::new(Rank::LEAF, None),
        });
        let registry = &kernel.vfs.registry;
        registry.add_fs(Arc::new(DevPtsType::new(&sessions)));
        registry.add_char("/dev/tty", TTYAUX_MAJOR, 0, 0, Arc::new(CurrentTty(layer.clone())))?;
        registry.add_char("/dev/console", TTYAUX_MAJOR, 1, 1, Arc::new(Console(layer.clone())))?;
        registry.add_char("/dev/ptmx", TTYAUX_MAJOR, 2, 2, Arc::new(PtmxDriver))?;
        // Each instance may number its slaves as it likes; they share the device numbers.
        registry.add_char("pts", PTS_MAJOR, 0, (1 << 20) - 1, Arc::new(PtsDriver))?;
        for (name, minor, mode, gid) in
            [("tty", 0, 0o666, TTY_GID), ("console", 1, 0o600, 0), ("ptmx", 2, 0o666, TTY_GID)]
        {
            registry.add_node(DeviceNode {
                name: name.to_owned(),
                kind: libc::S_IFCHR,
                dev: Dev::new(TTYAUX_MAJOR, minor),
                mode,
                uid: 0,
                gid,
            });
        }
        Ok(layer)
    }

    /// Sets what /dev/console opens.
    pub fn set_console(&self, tty: Arc<Tty>) {
        *self.console.lock() = Some(tty);
    }

    /// What /dev/console opens.
    pub fn console(&self) -> Option<Arc<Tty>> {
        self.console.lock().clone()
    }
}

/// `/dev/tty`: the controlling terminal of the opener (tty(4)).
struct CurrentTty(Arc<TerminalLayer>);

impl CharDriver for CurrentTty {
    fn open(&self, req: &NodeOpen<'_>) -> Result<Opened> {
        let tty = self.0.sessions.terminal_of(req.task).ok_or(ENXIO)?;
        let opening = tty.open(req.task, false, false)?;
        let ops: Box<dyn FileOps> = Box::new(TtyFile::new(tty, opening));
        Ok(ops.into())
    }
}

/// `/dev/console`: the first console line; never becomes a controlling terminal by open(2).
struct Console(Arc<TerminalLayer>);

impl CharDriver for Console {
    fn open(&self, req: &NodeOpen<'_>) -> Result<Opened> {
        let tty = self.0.console().ok_or(ENODEV)?;
        let opening = tty.open(req.task, true, false)?;
        let ops: Box<dyn FileOps> = Box::new(TtyFile::new(tty, opening));
        Ok(ops.into())
    }
}
