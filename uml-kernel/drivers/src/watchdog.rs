//! `/dev/watchdog`: a process of the host that interrupts or announces a machine that no longer gives signs of life.
//!
//! The helper (this program itself, see [`helper`]) is started by the open, counts 60 s from each line that it gets, and ends at the
//! end of its input. While the device is open that is what writes and WDIOC_KEEPALIVE send; WDIOC_SETTIMEOUT sends another
//! time. Closing ends it, as in a kernel without CONFIG_WATCHDOG_NOWAYOUT (Documentation/watchdog/watchdog-api.rst).

pub mod helper;

use std::any::Any;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, pr_err};
use uml_core::ctx::Ctx;
use uml_core::file::{File, FileOps, Io};
use uml_core::io::{Source, take_vec};
use uml_core::kernel::Kernel;
use uml_core::registry::{CharDriver, DeviceNode, NodeOpen, Opened};
use uml_core::user::{read_obj, write_obj};
use uml_core::vfs::Dev;
use uml_formats::strerror;
use zerocopy::{Immutable, IntoBytes};

const MISC_MAJOR: u32 = 10;
const WATCHDOG_MINOR: u32 = 130;
/// Bytes of one write that are looked at; any number of them is one sign of life.
const STEP: usize = 4096;

const WDIOC_GETSUPPORT: u32 = 0x8028_5700;
const WDIOC_GETSTATUS: u32 = 0x8004_5701;
const WDIOC_GETBOOTSTATUS: u32 = 0x8004_5702;
const WDIOC_KEEPALIVE: u32 = 0x8004_5705;
const WDIOC_SETTIMEOUT: u32 = 0xc004_5706;
const WDIOC_GETTIMEOUT: u32 = 0x8004_5707;
const WDIOF_SETTIMEOUT: u32 = 0x80;
const WDIOF_KEEPALIVEPING: u32 = 0x8000;
/// Longest time, as of most of Linux's own watchdogs.
const LONGEST: u32 = 65_535;

/// `struct watchdog_info`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Info {
    options: u32,
    firmware: u32,
    identity: [u8; 32],
}

/// Enters the device. `notify` is the socket of `mconsole=notify:`, which a hang is announced to; without it the helper
/// interrupts this process.
pub fn register(kernel: &Kernel, notify: Option<&str>) -> Result<()> {
    let driver = Watchdog {
        helper: Arc::new(Mutex::new(Rank::LEAF, None)),
        program: std::env::current_exe().map_err(Errno::from)?,
        notify: notify.map(PathBuf::from),
    };
    let registry = &kernel.vfs.registry;
    let (major, minor) = (MISC_MAJOR, WATCHDOG_MINOR);
    registry.add_char("watchdog", major, minor, minor, Arc::new(driver))?;
    registry.add_node(DeviceNode {
        name: "watchdog".to_owned(),
        kind: libc::S_IFCHR,
        dev: Dev::new(major, minor),
        mode: 0o600,
        uid: 0,
        gid: 0,
    });
    Ok(())
}

/// A running helper. Its input is what it waits on.
struct Helper {
    child: Child,
    input: Option<ChildStdin>,
}

impl Drop for Helper {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.input.take());
        if let Err(e) = self.child.wait() {
            pr_err!("watchdog: {}", strerror(&e));
        }
    }
}

type Slot = Arc<Mutex<Option<Helper>>>;

struct Watchdog {
    /// One opener at a time has one.
    helper: Slot,
    program: PathBuf,
    notify: Option<PathBuf>,
}

impl Watchdog {
    fn start(&self) -> Result<Helper> {
        start(&self.program, self.notify.as_deref()).map_err(|e| {
            pr_err!("watchdog: cannot start '{}': {}", self.program.display(), strerror(&e));
            Errno::from(e)
        })
    }
}

fn start(program: &Path, notify: Option<&Path>) -> std::io::Result<Helper> {
    let mut c = Command::new(program);
    // A group of its own: Ctrl-C of the terminal that the machine was started from is not for it.
    c.arg0("linux").arg(helper::WORD).process_group(0);
    match notify {
        Some(socket) => c.arg("-mconsole").arg(socket),
        None => c.arg("-pid").arg(std::process::id().to_string()),
    };
    let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let helper = Helper { child, input };
    // It says with one byte that it is ready.
    output.ok_or(std::io::ErrorKind::BrokenPipe)?.read_exact(&mut [0])?;
    Ok(helper)
}

impl CharDriver for Watchdog {
    fn open(&self, req: &NodeOpen<'_>) -> Result<Opened> {
        if self.helper.lock().is_some() {
            return Err(EBUSY);
        }
        let mut started = Err(EIO);
        req.task.kernel().blocking(&mut || started = self.start());
        let started = started?;
        let mut slot = self.helper.lock();
        if slot.is_some() {
            drop(slot);
            // Somebody else was faster; ours ends.
            return Err(EBUSY);
        }
        *slot = Some(started);
        let seconds = AtomicU32::new(helper::TIMEOUT);
        let ops: Box<dyn FileOps> = Box::new(Opener { helper: self.helper.clone(), seconds });
        Ok(ops.into())
    }
}

/// The open device.
struct Opener {
    helper: Slot,
    /// Without a sign of life for so long the machine is taken for dead.
    seconds: AtomicU32,
}

impl Opener {
    /// A sign of life. A helper that is gone can do nothing any more: EIO.
    fn ping(&self) -> Result<()> {
        self.say("\n")
    }

    /// A line for the helper, which is a sign of life too.
    fn say(&self, line: &str) -> Result<()> {
        let mut slot = self.helper.lock();
        let input = slot.as_mut().and_then(|h| h.input.as_mut()).ok_or(EIO)?;
        // A pipe that the helper empties at once takes a line whole.
        input.write_all(line.as_bytes()).map_err(|_| EIO)
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let helper = self.helper.lock().take();
        drop(helper);
    }
}

impl FileOps for Opener {
    fn write(&self, _: &Io<'_>, _: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let n = take_vec(src, STEP)?.len();
        if n > 0 {
            self.ping()?;
        }
        Ok(n)
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, _: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        match cmd {
            WDIOC_GETSUPPORT => {
                let mut identity = [0; 32];
                let name = b"UML Hardware Watchdog";
                identity[..name.len()].copy_from_slice(name);
                let options = WDIOF_SETTIMEOUT | WDIOF_KEEPALIVEPING;
                let info = Info { options, firmware: 0, identity };
                write_obj(&cx.task, arg, &info)?;
            }
            WDIOC_GETSTATUS | WDIOC_GETBOOTSTATUS => write_obj(&cx.task, arg, &0u32)?,
            WDIOC_KEEPALIVE => self.ping()?,
            WDIOC_SETTIMEOUT => {
                let seconds: u32 = read_obj(&cx.task, arg)?;
                if !(1..=LONGEST).contains(&seconds) {
                    return Err(EINVAL);
                }
                self.say(&format!("{seconds}\n"))?;
                self.seconds.store(seconds, Ordering::Relaxed);
                // The time that is now in force.
                write_obj(&cx.task, arg, &seconds)?;
            }
            WDIOC_GETTIMEOUT => {
                write_obj(&cx.task, arg, &self.seconds.load(Ordering::Relaxed))?;
            }
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_helper_is_told_of_life_and_ends_with_the_device() {
        let dir = tempfile::tempdir().expect("dir");
        let (program, said) = (dir.path().join("helper"), dir.path().join("said"));
        let body = format!("#!/bin/sh\nprintf x; echo \"$@\" >{0}; cat >>{0}\n", said.display());
        fs::write(&program, body).expect("script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("mode");
        let helper = start(&program, Some(Path::new("/run/events"))).expect("starts");
        let slot: Slot = Arc::new(Mutex::new(Rank::LEAF, Some(helper)));
        let opener = Opener { helper: slot.clone(), seconds: AtomicU32::new(60) };
        assert_eq!((opener.ping(), opener.say("5\n")), (Ok(()), Ok(())));
        drop(opener);
        assert!(slot.lock().is_none());
        assert_eq!(
            fs::read_to_string(&said).expect("said"),
            "-watchdog -mconsole /run/events\n\n5\n"
        );
        let missing = start(Path::new("/nonexistent/helper"), None).err().map(|e| e.kind());
        assert_eq!(missing, Some(std::io::ErrorKind::NotFound));
    }
}
