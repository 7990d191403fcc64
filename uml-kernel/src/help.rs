//! `--help` and `--showconfig`.

/// One documented option: its syntax and what it does.
struct Block {
    syntax: &'static str,
    text: &'static str,
}

const BLOCKS: &[Block] = &[
    Block { syntax: "--showconfig", text: "Prints the configuration this kernel was built with." },
    Block { syntax: "--help", text: "Prints this message." },
    Block { syntax: "--version", text: "Prints the version of the kernel." },
    Block {
        syntax: "mem=<size>",
        text: "Memory of the machine, as a number with an optional k, m or g.\nDefault: 64M.",
    },
    Block {
        syntax: "ncpus=<n>",
        text: "Number of CPUs: how many of the host's CPUs the machine uses.\nDefault: all the process may use.",
    },
    Block {
        syntax: "root=<device>",
        text: "The root filesystem: a disk such as /dev/ubda or 98:0, or /dev/root with rootfstype=hostfs\nand the host directory in rootflags=.",
    },
    Block {
        syntax: "rootfstype=<type> rootflags=<options> ro|rw",
        text: "Filesystem type, mount options and mode of the root filesystem.",
    },
    Block {
        syntax: "rootwait",
        text: "Waits until the root's disk is there, as the management console may add it (config ubd0=<file>).",
    },
    Block { syntax: "rootdelay=<seconds>", text: "Pauses before the root is mounted." },
    Block {
        syntax: "rootoverlay=tmpfs",
        text: "Covers the root with a writable layer in memory that is thrown away at the end.",
    },
    Block {
        syntax: "init=<program>",
        text: "First program to run. Words after -- are its arguments; unknown words and NAME=value words\nbecome its arguments and environment.",
    },
    Block {
        syntax: "initrd=<file>",
        text: "A cpio archive (gzip or plain) unpacked as the first root. Its /init (or what rdinit= names) is run;\nwithout one the root filesystem is mounted as usual.",
    },
    Block {
        syntax: "ubd<n><flags>=<file>[,<backing>[,<serial>]]",
        text: "Disk n (0-15 or a-p). With two files the first is a copy-on-write file over the second.\nFlags: r read-only, s synchronous, d plain image without looking for a COW header,\nc no host locking, t no discard.",
    },
    Block {
        syntax: "con[<n>]=<channel> ssl[<n>]=<channel>",
        text: "Host side of consoles and serial lines: null, none, fd:<n>, tty:<path>, pty, pts, port:<n>,\nxterm, or two of them, for input and output, separated by a comma.",
    },
    Block {
        syntax: "vec<n>:transport=<transport>[,<key>=<value>...]",
        text: "Network interface vecn. Transports: user (a router in this process, no privilege needed), tap, hybrid,\nraw, gre, l2tpv3, bess, fd, vde. Options: see linux(1).",
    },
    Block {
        syntax: "ip=<address>::<gateway>:<netmask>:<hostname>:<device>:off:<name server>[:<name server>]",
        text: "Configures an interface before init runs; name servers are in /proc/net/pnp. DHCP is left to the guest.",
    },
    Block {
        syntax: "hostfs=<directory>[,append]",
        text: "Confines hostfs mounts to a host directory.",
    },
    Block { syntax: "umid=<name>", text: "Name of this machine." },
    Block {
        syntax: "uml_dir=<directory>",
        text: "Where <umid>/pid and <umid>/mconsole are. Default: ~/.uml.",
    },
    Block {
        syntax: "seccomp=on|auto|off",
        text: "How guest programs run: on requires seccomp, auto takes the best way that works, off uses ptrace.",
    },
    Block {
        syntax: "platform=notify|trap|ptrace",
        text: "Runs guest programs in exactly this way.",
    },
    Block {
        syntax: "initargs=fd:<n>",
        text: "Reads further arguments and environment for init from a descriptor: a decimal count, that many\narguments, then NAME=value words, each ended by a NUL.",
    },
    Block { syntax: "quiet", text: "Suppresses informational messages." },
    Block {
        syntax: "loglevel=<n>",
        text: "Prints log messages more severe than level n (0-8) on the console.",
    },
    Block { syntax: "debug", text: "Prints every log message on the console." },
    Block {
        syntax: "console=tty<n>|ttyS<n>",
        text: "Lines that log messages are printed on. Default: tty0.",
    },
    Block {
        syntax: "ssl-non-raw",
        text: "Leaves host terminals behind serial lines in their own mode.",
    },
    Block {
        syntax: "xterm=<terminal emulator>,<title switch>,<exec switch>",
        text: "Terminal emulator of xterm channels. Default: xterm,-T,-e.",
    },
    Block {
        syntax: "mconsole=notify:<socket>",
        text: "Sends notifications of the management console to a socket of the host.",
    },
    Block {
        syntax: "stderr=1",
        text: "Prints log messages on standard error too, from the first on.",
    },
    Block {
        syntax: "panic=<n>",
        text: "Accepted and without effect: a panic ends the machine at once (status 134).",
    },
    Block { syntax: "noreboot", text: "A reboot exits instead of starting again." },
    Block {
        syntax: "rebootstatus=<n>",
        text: "With noreboot, the exit status when the guest asks for a reboot.",
    },
];

/// The text of `--help`.
pub fn text() -> String {
    let mut out = format!(
        "User Mode Linux v{}\n\tavailable at http://user-mode-linux.sourceforge.net/\n\n",
        uml_core::version::RELEASE
    );
    for b in BLOCKS {
        out.push_str(b.syntax);
        out.push('\n');
        for line in b.text.lines() {
            out.push_str("    ");
            out.push_str(line);
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

/// The text of `--showconfig`: what this build contains, in .config format.
pub fn config() -> String {
    let on = [
        "UML",
        "X86_64",
        "64BIT",
        "SMP",
        "BLK_DEV_UBD",
        "HOSTFS",
        "MCONSOLE",
        "SSL",
        "NULL_CHAN",
        "PTY_CHAN",
        "TTY_CHAN",
        "PROC_FS",
        "SYSFS",
        "TMPFS",
        "DEVTMPFS",
        "OVERLAY_FS",
        "EXT4_FS",
        "SQUASHFS",
        "VFAT_FS",
        "ISO9660_FS",
        "JOLIET",
        "UNIX",
        "UNIX98_PTYS",
        "BINFMT_ELF",
        "BINFMT_SCRIPT",
        "FUTEX",
        "EPOLL",
        "SIGNALFD",
        "TIMERFD",
        "EVENTFD",
        "SYSVIPC",
        "POSIX_MQUEUE",
        "INOTIFY_USER",
        "BLK_DEV_INITRD",
        "INET",
        "IPV6",
        "PACKET",
        "IP_PNP",
        "UML_NET_VECTOR",
    ];
    let off = ["MODULES", "SWAP", "IO_URING", "BPF_SYSCALL", "KEYS", "NUMA", "FANOTIFY", "QUOTA"];
    let mut out = String::from("#\n# User Mode Linux configuration\n#\n");
    for name in on {
        out.push_str(&format!("CONFIG_{name}=y\n"));
    }
    for name in off {
        out.push_str(&format!("# CONFIG_{name} is not set\n"));
    }
    out
}
