//! The keys of vm.toml. The descriptions here are those of vm.toml(5) and of the JSON Schema.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Size, Time, Wait};

/// One machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "vm.toml")]
pub struct VmFile {
    /// Another vm.toml whose keys hold where this file has none; relative to this file. Tables are merged key by
    /// key, disks, consoles and network interfaces by their `id`. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extends: Option<PathBuf>,
    /// The machine itself.
    #[serde(skip_serializing_if = "Vm::is_unset")]
    pub vm: Vm,
    /// Block devices, in the order of their ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<Disk>,
    /// Network interfaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub net: Vec<Net>,
    /// Consoles and serial lines. Default: `con0`, held by umld.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<Console>,
    /// Root, init, and what a start waits for.
    #[serde(skip_serializing_if = "Boot::is_unset")]
    pub boot: Boot,
    /// How the machine is stopped: the steps are tried in the order cad, halt, term, kill.
    #[serde(skip_serializing_if = "Stop::is_unset")]
    pub stop: Stop,
    /// Limits on what the machine takes from the host.
    #[serde(skip_serializing_if = "Resources::is_unset")]
    pub resources: Resources,
    /// Start at boot, restarts, order, watchdog.
    #[serde(skip_serializing_if = "Service::is_unset")]
    pub service: Service,
    /// What the guest finds.
    #[serde(skip_serializing_if = "Guest::is_unset")]
    pub guest: Guest,
}

/// The machine itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Vm {
    /// Name of the instance and its umid: at most 63 bytes, no slash, no leading dot. Default: the file's name
    /// without `.toml`; that of its directory when the file is called vm.toml.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `built-in`, or the path of another UML kernel. Default: `built-in`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Memory of the guest. Default: `512M`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem: Option<Size>,
    /// CPUs of the guest. Default: what the kernel takes by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ncpus: Option<u32>,
    /// Further words for the kernel's command line, put last. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Whether guest programs run under seccomp: `on`, `auto` or `off`. Default: what the kernel takes by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// How guest programs run, with the built-in kernel: `notify`, `trap` or `ptrace`. Default: the best that works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Host directory below which hostfs mounts of the guest are confined; for machines whose root is a disk. Default: the
    /// kernel's (`/`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostfs: Option<PathBuf>,
}

/// Values of `seccomp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[allow(missing_docs)]
pub enum Seccomp {
    On,
    Auto,
    Off,
}

/// Values of `platform`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[allow(missing_docs)]
pub enum Platform {
    Notify,
    Trap,
    Ptrace,
}

/// A block device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// `ubda` to `ubdp`. Default: the first that is free, in the order of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The image, or the backing file when `cow` is given. Required. No `,` and no `:` may be in its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Copy-on-write file that takes the changes; made at the first start. Default: none, changes go to `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cow: Option<PathBuf>,
    /// The guest cannot write. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
    /// Every write is on the host's disk before it is done (O_SYNC). Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync: Option<bool>,
    /// What the guest discards is given back to the host. Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trim: Option<bool>,
    /// The file is not locked, for disks that several machines use with a cluster filesystem. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    /// Serial number that the guest sees. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Net {
    /// `vec0` and so on, `eth0` and so on with mode `switch`. Default: the first that is free, in the order of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `user`: a router inside the machine's own process, so that the guest reaches the network by the host's sockets,
    /// without any privilege. `tap`, `raw`, `hybrid`, `gre`, `l2tpv3`, `bess`, `fd`, `vde`: the kernel's transports of
    /// these names, see linux(1). `switch`: a port of a running uml_switch(1), by the kernel's `ethN=daemon`, which
    /// kernels after the 6.1 series other than the built-in one do not have. `none`: no interface, where a file extends one that has it. Default: `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// For mode `switch` in a member of a fleet: the name of one of the fleet's switches. Default: the only one, if the
    /// fleet has one and `options.socket` is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<String>,
    /// Ethernet address. Default: derived from the machine's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Ports of the host that lead to the guest, for mode `user`: `[HOST ADDRESS:]PORT:GUEST PORT[/udp]`, as `8080:80` or
    /// `0.0.0.0:53:53/udp`. Without an address only the host itself (127.0.0.1) gets through. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// IPv4 address and prefix length that the interface has before init runs, as `10.0.0.5/24`; for one
    /// interface of a machine, since the kernel sets it, or for several with umld's own init. Default: what the guest configures itself, by DHCP for instance; with mode `user` and umld's
    /// own init (the host's userland, `boot.command`) the address that the router would lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// IPv4 gateway, with `address`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Name servers that the guest's /etc/resolv.conf gets where umld's own init writes it (a root under a throw-away
    /// layer); the first two of IPv4 are in the guest's /proc/net/pnp in any case, if the kernel sets the address.
    /// Default: the router's with mode `user`, else none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// Further options of the transport, by name. For `user`: `net`, `gateway`, `dns`, `guest`, `net6`, `ipv6`,
    /// `loopback` (0: the gateway does not lead to the host's own services), `restrict` (1: nothing leaves but answers
    /// to forwarded ports), `dhcp`, `hostname`, `domain`, `nameserver`. All are described in linux(1). For `switch`: `socket`, the absolute path of the
    /// switch's control socket. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// A console or serial line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Console {
    /// `con0` to `con15`, `ssl0` to `ssl62`. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `held` (by umld: see `umld console` and `umld logs`), or a channel of the kernel: `null`, `none`, `port:N`, `pts`,
    /// `tty:PATH`, `xterm`. Default: `held`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Keep what a held line prints in a file for `umld logs`. Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<bool>,
    /// Size at which that file is set aside as `.1` and begun anew. Default: `16M`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_max: Option<Size>,
}

/// Root, init, and what a start waits for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Boot {
    /// `/dev/ubda` (a disk of this file), `host` (the host's own userland), or another directory of the host.
    /// Default: the first disk; `host` when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Type of the root filesystem. Default: found out by the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfstype: Option<String>,
    /// Mount options of the root. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootflags: Option<String>,
    /// Mount the root read-only at first. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
    /// Put a layer in memory over the root, so that nothing is changed (built-in kernel). Default: `true` for `host`,
    /// else `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay: Option<bool>,
    /// First program. Default: the usual ones of Linux.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Command that umld's own init runs in place of `init`, on the first console; the machine ends with it. Needs the
    /// built-in kernel and a root that is a directory of the host. Default: a shell, when `root` is `host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Initial RAM filesystem. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// When a start counts as done: `none`, `boot` (the kernel answers), `login` (a console shows `login:`), `ready` (the
    /// guest wrote `ready` or `READY=1` to /proc/mconsole), `port:N` (a TCP port of the host accepts). Default: `boot`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// How long `wait` may take. Default: `90s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Time>,
}

/// How the machine is stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// Time for the guest to shut down after Ctrl-Alt-Del; `0` leaves the step out. umld's own init sends SIGTERM to all processes,
    /// SIGHUP after half a second and SIGKILL after five. Default: `60s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cad: Option<Time>,
    /// Time for the kernel to halt at once; `0` leaves the step out. Default: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halt: Option<Time>,
    /// Time after SIGTERM; `0` leaves the step out. Default: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<Time>,
    /// Time after SIGKILL. Default: `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill: Option<Time>,
}

/// Limits on what the machine takes from the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Host CPUs it may run on, such as `0-1,4`. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<String>,
    /// Share of CPU time, 1 to 10000 (cgroup `cpu.weight`; without cgroups as a nice value). Default: `100`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// Most CPU time, as a percentage of one CPU: `150%` (cgroup `cpu.max`). Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_max: Option<String>,
    /// Most memory of all its processes (cgroup `memory.max`). Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<Size>,
    /// Share of disk time, 1 to 10000 (cgroup `io.weight`). Default: `100`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u32>,
    /// Most host processes and threads (cgroup `pids.max`, else RLIMIT_NPROC). Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks_max: Option<u64>,
    /// NUMA node whose CPUs it runs on. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa: Option<u32>,
    /// Directory for the guest's memory, best on a tmpfs, for kernels that keep it in a file; the built-in one does not.
    /// Default: the kernel's (TMPDIR, else /dev/shm).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpdir: Option<PathBuf>,
}

/// When the machine is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
#[allow(missing_docs)]
pub enum Restart {
    #[default]
    No,
    OnFailure,
    Always,
}

/// Start at boot, restarts, order, watchdog.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// `umld daemon` starts it, or the systemd generator's unit. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autostart: Option<bool>,
    /// Start it again when it ends without being asked to: `no`, `on-failure` (a status other than 0, a signal, a panic),
    /// `always`. Default: `no`; for systemd's uml@.service, which starts again what failed, too, the default is that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Time before a restart; doubled for each one in a row. Default: `1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_delay: Option<Time>,
    /// Longest such time. Default: `60s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_delay_max: Option<Time>,
    /// Restarts within `restart_window` after which it is a crash loop and stays down. Default: `5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_limit: Option<u32>,
    /// See `restart_limit`. Default: `10min`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_window: Option<Time>,
    /// Machines that are started first, and stopped later. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// The guest must write `watchdog` or `WATCHDOG=1` to /proc/mconsole this often once it did so; otherwise it is killed
    /// and counts as failed. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<Time>,
}

/// What the guest finds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Guest {
    /// Its host name: written to /etc/hostname of an ext4 root disk, or set by umld's own init. Default: unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Environment of its init. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Files that are written before each start. The root must be an ext4 disk, or umld's own init must run. Default:
    /// none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<GuestFile>,
}

/// A file for the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuestFile {
    /// Absolute path in the guest. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its contents. Either this or `source`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// A file of the host with its contents; relative to this file. Either this or `content`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// Permissions, octal. Default: `0644`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

macro_rules! unset {
    ($($t:ty),*) => {
        $(impl $t {
            fn is_unset(&self) -> bool {
                *self == Self::default()
            }
        })*
    };
}
unset!(Vm, Boot, Stop, Resources, Service, Guest);

/// `kernel` for the one inside this program.
pub const BUILT_IN: &str = "built-in";

impl Vm {
    /// True for the kernel inside this program.
    pub fn is_built_in(&self) -> bool {
        self.kernel.as_deref().is_none_or(|k| k == BUILT_IN)
    }

    /// Memory of the guest.
    pub fn memory(&self) -> Size {
        self.mem.unwrap_or(Size(512 << 20))
    }
}

fn or(t: Option<Time>, seconds: u64) -> Duration {
    t.map_or(Duration::from_secs(seconds), |t| t.0)
}

impl Boot {
    /// What a start waits for, and for how long.
    pub fn wait(&self) -> (Wait, Duration) {
        (self.wait.unwrap_or(Wait::Boot), or(self.timeout, 90))
    }
}

/// The times of [`Stop`] with their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StopTimes {
    pub cad: Duration,
    pub halt: Duration,
    pub term: Duration,
    pub kill: Duration,
}

impl Stop {
    /// With defaults.
    pub fn times(&self) -> StopTimes {
        StopTimes {
            cad: or(self.cad, 60),
            halt: or(self.halt, 10),
            term: or(self.term, 10),
            kill: or(self.kill, 5),
        }
    }
}

/// The restart policy with its defaults.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct RestartPolicy {
    pub when: Restart,
    pub delay: Duration,
    pub delay_max: Duration,
    pub limit: u32,
    pub window: Duration,
}

impl Service {
    /// With defaults.
    pub fn policy(&self) -> RestartPolicy {
        RestartPolicy {
            when: self.restart.unwrap_or_default(),
            delay: or(self.restart_delay, 1),
            delay_max: or(self.restart_delay_max, 60),
            limit: self.restart_limit.unwrap_or(5),
            window: or(self.restart_window, 600),
        }
    }
}

impl Console {
    /// True when umld holds the line.
    pub fn is_held(&self) -> bool {
        self.channel.as_deref().is_none_or(|c| c == "held")
    }
}
