//! Credentials and capabilities (credentials(7), capabilities(7)).

use std::sync::Arc;

use crate::landlock::Domain;
use crate::ns::UserNs;

/// Capability numbers of `<linux/capability.h>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cap {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
    Fsetid = 4,
    Kill = 5,
    Setgid = 6,
    Setuid = 7,
    Setpcap = 8,
    LinuxImmutable = 9,
    NetBindService = 10,
    NetBroadcast = 11,
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    IpcOwner = 15,
    SysModule = 16,
    SysRawio = 17,
    SysChroot = 18,
    SysPtrace = 19,
    SysPacct = 20,
    SysAdmin = 21,
    SysBoot = 22,
    SysNice = 23,
    SysResource = 24,
    SysTime = 25,
    SysTtyConfig = 26,
    Mknod = 27,
    Lease = 28,
    AuditWrite = 29,
    AuditControl = 30,
    Setfcap = 31,
    MacOverride = 32,
    MacAdmin = 33,
    Syslog = 34,
    WakeAlarm = 35,
    BlockSuspend = 36,
    AuditRead = 37,
    Perfmon = 38,
    Bpf = 39,
    CheckpointRestore = 40,
}

/// The highest capability number (`/proc/sys/kernel/cap_last_cap`).
pub const CAP_LAST: u8 = Cap::CheckpointRestore as u8;
/// Every capability.
pub const CAP_FULL: u64 = (1 << (CAP_LAST + 1)) - 1;

/// securebits of prctl(2) PR_SET_SECUREBITS.
pub const SECBIT_NOROOT: u32 = 1 << 0;
pub const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
pub const SECBIT_KEEP_CAPS: u32 = 1 << 4;
pub const SECBIT_NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;

/// Who a task acts as. Immutable; changes replace the whole value.
#[derive(Clone, Debug)]
pub struct Cred {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    /// Supplementary groups, sorted.
    pub groups: Arc<[u32]>,
    pub cap_effective: u64,
    pub cap_permitted: u64,
    pub cap_inheritable: u64,
    pub cap_bounding: u64,
    pub cap_ambient: u64,
    pub securebits: u32,
    pub no_new_privs: bool,
    /// Where the capabilities count (user_namespaces(7)).
    pub user_ns: Arc<UserNs>,
    /// What the task gave up (landlock(7)).
    pub landlock: Option<Arc<Domain>>,
}

impl Cred {
    /// Root with every capability: init and the kernel itself.
    pub fn root() -> Cred {
        Cred {
            uid: 0,
            euid: 0,
            suid: 0,
            fsuid: 0,
            gid: 0,
            egid: 0,
            sgid: 0,
            fsgid: 0,
            groups: Arc::new([]),
            cap_effective: CAP_FULL,
            cap_permitted: CAP_FULL,
            cap_inheritable: 0,
            cap_bounding: CAP_FULL,
            cap_ambient: 0,
            securebits: 0,
            no_new_privs: false,
            user_ns: UserNs::initial(),
            landlock: None,
        }
    }

    /// True when the capability is effective in the initial user namespace: for what belongs to the whole machine. What
    /// belongs to a namespace asks [`Cred::capable_in`], a file [`Cred::capable_over`].
    pub fn capable(&self, cap: Cap) -> bool {
        self.user_ns.is_initial() && self.cap_effective & (1 << cap as u8) != 0
    }

    /// True when `gid` is the filesystem group or a supplementary one.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.binary_search(&gid).is_ok()
    }

    /// As [`Cred::in_group`] with the effective group (setgid(2), chown(2) checks).
    pub fn in_egroup(&self, gid: u32) -> bool {
        self.egid == gid || self.groups.binary_search(&gid).is_ok()
    }
}
