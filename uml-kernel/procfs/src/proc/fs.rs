//! The filesystem type, its mount options and the root directory.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::kernel::Kernel;
use uml_core::ns::PidNs;
use uml_core::task::access::{Ids, may_access_as};
use uml_core::task::{Cred, Task};
use uml_core::vfs::{FsType, SuperBlock};

use super::pid::{PidDir, Target};
use super::root;
use super::sources::Sources;
use crate::synth::{Directory, Entry, Rows, Spec, SynthFs};

/// PROC_SUPER_MAGIC.
const MAGIC: u64 = 0x9fa0;

/// The type `proc`.
#[derive(Default)]
pub struct ProcFs {
    /// What other subsystems contribute.
    pub sources: Arc<Sources>,
}

/// What the files of an instance are made from.
pub type Subject = Arc<Mnt>;

/// One mounted instance.
pub struct Mnt {
    pub kernel: Weak<Kernel>,
    pub sources: Arc<Sources>,
    /// Whose processes it shows, by the numbers they have there.
    pub pid_ns: Arc<PidNs>,
    /// `hidepid=`: 0, 1, 2 or 4 (proc(5)).
    hidepid: AtomicU8,
    /// `gid=`: members see everything.
    gid: AtomicU32,
    /// `subset=pid`: only processes are shown.
    only_processes: AtomicBool,
}

/// `hidepid=` values.
const NO_ACCESS: u8 = 1;
const INVISIBLE: u8 = 2;
const NOT_PTRACEABLE: u8 = 4;

impl Mnt {
    fn set_options(&self, data: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(data).map_err(|_| EINVAL)?;
        let (mut hidepid, mut gid, mut subset) = (None, None, false);
        for opt in text.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            match opt.split_once('=') {
                Some(("hidepid", v)) => {
                    hidepid = Some(match v {
                        "0" | "off" => 0,
                        "1" | "noaccess" => NO_ACCESS,
                        "2" | "invisible" => INVISIBLE,
                        "4" | "ptraceable" => NOT_PTRACEABLE,
                        _ => return Err(EINVAL),
                    });
                }
                Some(("gid", v)) => gid = Some(v.parse::<u32>().map_err(|_| EINVAL)?),
                Some(("subset", v)) if v.split('+').all(|w| w == "pid") => subset = true,
                _ => return Err(EINVAL),
            }
        }
        if subset {
            self.only_processes.store(true, Ordering::Relaxed);
        }
        if let Some(h) = hidepid {
            self.hidepid.store(h, Ordering::Relaxed);
        }
        if let Some(g) = gid {
            self.gid.store(g, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether `subset=` keeps a file of the top directory away.
    fn leaves_out(&self, name: &[u8]) -> bool {
        self.only_processes.load(Ordering::Relaxed) && !matches!(name, b"self" | b"thread-self")
    }

    fn options(&self) -> String {
        let mut s = String::new();
        match self.hidepid.load(Ordering::Relaxed) {
            NO_ACCESS => s.push_str(",hidepid=noaccess"),
            INVISIBLE => s.push_str(",hidepid=invisible"),
            NOT_PTRACEABLE => s.push_str(",hidepid=ptraceable"),
            _ => {}
        }
        let gid = self.gid.load(Ordering::Relaxed);
        if gid != 0 {
            s.push_str(&format!(",gid={gid}"));
        }
        if self.only_processes.load(Ordering::Relaxed) {
            s.push_str(",subset=pid");
        }
        s
    }

    /// Whether someone with `cred` is kept from `target`, and how: `EPERM` for entering its directory,
    /// `ENOENT` when not even its existence is shown.
    pub fn hides(&self, cred: &Cred, target: &Task) -> Option<uml_abi::Errno> {
        let level = self.hidepid.load(Ordering::Relaxed);
        if level == 0 {
            return None;
        }
        // Group 0 is what an absent `gid=` means.
        let exempt = cred.in_group(self.gid.load(Ordering::Relaxed)) && level != NOT_PTRACEABLE;
        if exempt || may_access_as(cred, target, Ids::Fs) {
            return None;
        }
        Some(if level == NO_ACCESS { EPERM } else { ENOENT })
    }
}

impl FsType for ProcFs {
    fn name(&self) -> &'static str {
        "proc"
    }

    fn user_mountable(&self) -> bool {
        true
    }

    fn mount(
        &self,
        task: &Task,
        _source: &[u8],
        _flags: u64,
        data: &[u8],
    ) -> Result<Arc<dyn SuperBlock>> {
        Ok(self.instance_in(&task.kernel(), &task.process.pid_ns, data)?)
    }
}

impl ProcFs {
    /// A new instance for `kernel` with mount options `data` (the kernel's own, as mconsole's `proc` uses).
    pub fn instance(&self, kernel: &Arc<Kernel>, data: &[u8]) -> Result<Arc<SynthFs>> {
        self.instance_in(kernel, &PidNs::initial(), data)
    }

    fn instance_in(
        &self,
        kernel: &Arc<Kernel>,
        pid_ns: &Arc<PidNs>,
        data: &[u8],
    ) -> Result<Arc<SynthFs>> {
        let mnt = Arc::new(Mnt {
            kernel: Arc::downgrade(kernel),
            sources: self.sources.clone(),
            pid_ns: pid_ns.clone(),
            hidepid: AtomicU8::new(0),
            gid: AtomicU32::new(0),
            only_processes: AtomicBool::new(false),
        });
        mnt.set_options(data)?;
        let (root, remount, show) = (mnt.clone(), mnt.clone(), mnt);
        let make_root = move || {
            let files = Rows::new(root::ROWS, root.clone());
            Spec::dir(Root { mnt: root.clone(), files })
        };
        Ok(SynthFs::with_options(
            kernel,
            "proc",
            MAGIC,
            make_root,
            Some(Box::new(move |data| remount.set_options(data))),
            Some(Box::new(move || show.options())),
        ))
    }
}

/// `/proc`.
struct Root {
    mnt: Arc<Mnt>,
    files: Rows<Subject>,
}

/// A pid as a name: decimal without leading zeros.
pub fn parse_pid(name: &[u8]) -> Option<i32> {
    if name.is_empty() || name[0] == b'0' || !name.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

impl Directory for Root {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        match parse_pid(name) {
            Some(n) => {
                let pid = self.mnt.pid_ns.kernel_pid(n).ok_or(ENOENT)?;
                PidDir::spec(Target::process(&self.mnt, pid).ok_or(ENOENT)?)
            }
            None if self.mnt.leaves_out(name) => Err(ENOENT),
            None => match self.files.lookup(name) {
                Err(ENOENT) => self.mnt.sources.file(name),
                found => found,
            },
        }
    }

    fn list(&self, reader: &Task) -> Result<Vec<Entry>> {
        let mut out = self.files.list(reader)?;
        out.extend(self.mnt.sources.files());
        out.retain(|e| !self.mnt.leaves_out(&e.name));
        let cred = reader.cred();
        let kernel = reader.kernel();
        let hide = self.mnt.hidepid.load(Ordering::Relaxed) >= INVISIBLE;
        let tree = kernel.tree.read();
        for (pid, p) in tree.processes() {
            if hide {
                let rep = p.threads.values().next().unwrap_or(&p.leader);
                if rep.process.pid != reader.process.pid && self.mnt.hides(&cred, rep).is_some() {
                    continue;
                }
            }
            let shown = self.mnt.pid_ns.show(pid);
            if shown == 0 {
                continue;
            }
            let mut e = Entry::new(shown.to_string(), libc::S_IFDIR);
            e.ino = Some(Target::ino(&p.leader));
            out.push(e);
        }
        Ok(out)
    }

    fn links(&self) -> u32 {
        self.files.links()
    }
}
