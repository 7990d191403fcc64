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
    Block { syntax: "maxcpus=<n> nosmp", text: "At most n CPUs; one." },
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
    Block { syntax: "rdinit=<program>", text: "First program of the archive. Default: /init." },
    Block { syntax: "noinitrd", text: "Leaves the archive of initrd= alone." },
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
        syntax: "eth<n>=<transport>[,<field>...]",
        text: "Legacy network interface ethn. Transports: daemon, tuntap, mcast, ucast, vde, pcap. Fields: see linux(1).",
    },
    Block {
        syntax: "ip=<address>::<gateway>:<netmask>:<hostname>:<device>:off:<name-server>[:<name-server>]",
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
    Block {
        syntax: "stdio=<list>",
        text: "Which of the descriptors 0, 1 and 2, separated by commas, init gets itself instead of the console.",
    },
    Block { syntax: "strace", text: "Prints every system call of every program to the log." },
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
        syntax: "xterm=<emulator>,<title-switch>,<exec-switch>",
        text: "Terminal emulator of xterm channels. Default: xterm,-T,-e.",
    },
    Block {
        syntax: "mconsole=notify:<socket>",
        text: "Sends notifications of the management console to a socket of the host.",
    },
    Block {
        syntax: "stderr=1 earlyprintk",
        text: "Prints log messages on standard error too, from the first on.",
    },
    Block {
        syntax: "printk.time=<0|1>",
        text: "Whether lines of the log begin with the time. Default: 1.",
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cmdline::{EARLY, GENERIC};

    const MANUAL: &str = include_str!("../../man/linux.1");

    /// `mem` of `mem=<size>`, `--help`, `vec` of `vec<n>:...`.
    fn name(word: &str) -> &str {
        let end = |c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c));
        word.split(end).next().unwrap_or_default()
    }

    fn documented() -> BTreeSet<&'static str> {
        let words = BLOCKS.iter().flat_map(|b| b.syntax.split(' '));
        // Alternatives that stand alone, not those of a value.
        let words = words.flat_map(|w| match w.contains('=') {
            true => vec![w],
            false => w.split('|').collect(),
        });
        words.map(name).filter(|n| !n.is_empty()).collect()
    }

    #[test]
    fn help_has_what_the_parser_knows_and_nothing_else() {
        let known: BTreeSet<&str> = GENERIC.iter().chain(EARLY).copied().collect();
        let all = documented();
        // Words that are known only to be complained of.
        let refused = BTreeSet::from(["fake_ide", "udb"]);
        let missing: Vec<_> = known.difference(&all).filter(|n| !refused.contains(*n)).collect();
        let strange: Vec<_> = all.difference(&known).collect();
        assert!(missing.is_empty() && strange.is_empty(), "{missing:?} {strange:?}");
    }

    /// Words that have an entry of their own in linux(1), with what their macros begin with.
    #[test]
    fn the_manual_has_what_help_has_and_nothing_else() {
        let options = MANUAL.split(".Ss Vector transports").next().unwrap_or_default();
        let mut entries = BTreeSet::new();
        for line in options.lines().filter_map(|l| l.strip_prefix(".It ")) {
            // What follows a macro or a comma begins a word; what `Ns` ties to it ends it.
            let words: Vec<&str> = line.split(' ').collect();
            let begins = |w: &str| ["Cm", "Fl", ","].contains(&w);
            let tied = |k: usize| k > 1 && words[k - 2] == "Ns";
            let firsts = (1..words.len()).filter(|k| begins(words[k - 1]) && !tied(*k));
            entries.extend(firsts.map(|k| name(words[k])).filter(|n| !n.is_empty() && *n != "Cm"));
        }
        for n in documented() {
            let n = n.strip_prefix('-').unwrap_or(n);
            let mentioned = entries.contains(n) || MANUAL.contains(&format!(".Cm {n}\n"));
            assert!(mentioned, "linux(1) does not say what {n} does");
        }
        let all = documented();
        let fields = ["daemon", "tuntap", "mcast", "ucast", "vde", "pcap"];
        for e in entries.iter().filter(|e| !e.starts_with('-') && !fields.contains(e)) {
            assert!(all.contains(e), "linux(1) has {e:?}, --help has not");
        }
    }
}
