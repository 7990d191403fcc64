//! The kernel's command table.

/// A command of the management console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Version,
    Halt,
    Reboot,
    Config,
    Remove,
    Sysrq,
    Help,
    Cad,
    Stop,
    Go,
    Log,
    Proc,
    Stack,
    /// Not in the stock kernel: list of tasks.
    Ps,
    /// Not in the stock kernel: system call tracing of a task.
    Strace,
    /// Not in the stock kernel: memory figures.
    Mem,
    /// Not in the stock kernel: network interfaces.
    Net,
    /// Not in the stock kernel: packets of an interface to a file.
    Capture,
}

/// All commands in the order in which their names are tried as prefixes; the
/// stock thirteen first, so that they answer as they always did.
pub const COMMANDS: [Command; 18] = [
    Command::Version,
    Command::Halt,
    Command::Reboot,
    Command::Config,
    Command::Remove,
    Command::Sysrq,
    Command::Help,
    Command::Cad,
    Command::Stop,
    Command::Go,
    Command::Log,
    Command::Proc,
    Command::Stack,
    Command::Ps,
    Command::Strace,
    Command::Mem,
    Command::Net,
    Command::Capture,
];

impl Command {
    /// The word that starts it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Halt => "halt",
            Self::Reboot => "reboot",
            Self::Config => "config",
            Self::Remove => "remove",
            Self::Sysrq => "sysrq",
            Self::Help => "help",
            Self::Cad => "cad",
            Self::Stop => "stop",
            Self::Go => "go",
            Self::Log => "log",
            Self::Proc => "proc",
            Self::Stack => "stack",
            Self::Ps => "ps",
            Self::Strace => "strace",
            Self::Mem => "mem",
            Self::Net => "net",
            Self::Capture => "capture",
        }
    }

    /// Part of the stock kernel's set.
    pub fn is_stock(self) -> bool {
        !matches!(self, Self::Ps | Self::Strace | Self::Mem | Self::Net | Self::Capture)
    }
}

/// Finds the command a request starts with and returns it with the rest of
/// the request. A pure prefix test: `gopher` is `go`, ` go` is nothing.
pub fn lookup(text: &[u8]) -> Option<(Command, &[u8])> {
    COMMANDS.iter().find_map(|command| {
        text.strip_prefix(command.name().as_bytes()).map(|rest| (*command, rest))
    })
}

/// The argument of commands that skip white space after their name.
pub fn argument(rest: &[u8]) -> &[u8] {
    // isspace(3) of the C locale; `trim_ascii_start` lacks the vertical tab.
    let start = rest
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r'))
        .unwrap_or(rest.len());
    rest.get(start..).unwrap_or_default()
}

/// The text of `log`: exactly one character after the name is skipped,
/// whatever it is.
pub fn log_text(rest: &[u8]) -> &[u8] {
    rest.get(1..).unwrap_or_default()
}

/// The stock reply to `help`, 722 bytes.
pub const HELP: &str = "Commands: 
    version - Get kernel version 
    help - Print this message 
    halt - Halt UML 
    reboot - Reboot UML 
    config <dev>=<config> - Add a new device to UML;  
\tsame syntax as command line 
    config <dev> - Query the configuration of a device 
    remove <dev> - Remove a device from UML 
    sysrq <letter> - Performs the SysRq action controlled by the letter 
    cad - invoke the Ctrl-Alt-Del handler 
    stop - pause the UML; it will do nothing until it receives a 'go' 
    go - continue the UML after a 'stop' 
    log <string> - make UML enter <string> into the kernel log
    proc <file> - returns the contents of the UML's /proc/<file>
    stack <pid> - returns the stack of the specified pid
";

/// What this kernel's `help` lists after the stock text.
pub const HELP_MORE: &str = "    ps - list every task with its state and what it waits for
    mem - show where the memory is
    net - show network interfaces with their addresses and traffic
    strace <pid> on|off - print the system calls of a process to the kernel log
    strace <pid> -c - count the system calls of a process; again: show the counts
    capture - list running captures of packets
    capture start <interface>|any [snaplen=n] [count=n] [size=n] <file> - write
\tpackets, in and out, to a pcap file of the host
    capture stop <number> - end a capture
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_prefixes_in_table_order() {
        let name = |text: &[u8]| lookup(text).map(|(command, _)| command.name());
        assert_eq!(name(b"versionfoo"), Some("version"));
        assert_eq!(name(b"gopher"), Some("go"));
        assert_eq!(name(b" version"), None);
        assert_eq!(name(b"Version"), None);
        assert_eq!(name(b"ver"), None);
        assert_eq!(name(b""), None);
        let (command, rest) = lookup(b"configubd0").expect("config");
        assert_eq!((command, rest), (Command::Config, &b"ubd0"[..]));
    }

    #[test]
    fn no_added_command_hides_a_stock_one() {
        for command in COMMANDS {
            let found = lookup(command.name().as_bytes()).map(|(found, _)| found);
            assert_eq!(found, Some(command));
        }
    }

    #[test]
    fn arguments_skip_white_space_and_log_skips_one_byte() {
        assert_eq!(argument(b" \t\x0b ubd0=x "), b"ubd0=x ");
        assert_eq!(argument(b""), b"");
        assert_eq!(log_text(b"Xtext"), b"text");
        assert_eq!(log_text(b""), b"");
    }

    #[test]
    fn the_help_text_has_the_stock_length() {
        assert_eq!(HELP.len(), 722);
    }
}
