//! The command line. The texts here are those of `--help`, of the completions and of umld(1).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::spec::values::{Size, Time, Wait};

/// Runs User Mode Linux machines: a Linux kernel as an ordinary process, without root or KVM.
#[derive(Debug, Parser)]
#[command(
    name = "umld",
    version,
    propagate_version = true,
    after_help = "Exit statuses are listed in umld(1): 0 success, 2 usage, 3 stopped, 4 no such instance, 5 in use, \
                  69 host facility missing, 70 guest panic, 75 timeout, 77 permission, 78 bad vm.toml, 125-127 as env(1)."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

// Made once.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a machine in the foreground: that of a vm.toml, or a shell or command on the host's own userland.
    ///
    /// Without a file, the host's files are visible read-only under a throw-away layer in memory: nothing the guest does
    /// changes them. Exits with the status of the command, 128+n when signal n ended it.
    Run(Run),
    /// Starts instances from vm.toml files or by name.
    Start(Start),
    /// Stops instances: Ctrl-Alt-Del, then halt, then SIGTERM, then SIGKILL, each with its time.
    Stop(Stop),
    /// Stops instances and starts them again.
    Restart(Restart),
    /// Sends a signal to the kernel processes; SIGKILL by default.
    Kill(Kill),
    /// Pauses instances: nothing in them runs until they are resumed.
    Pause(Names),
    /// Resumes paused instances.
    Resume(Names),
    /// Lists instances, also those started by hand.
    #[command(visible_alias = "ls")]
    List(Listing),
    /// Shows what instances do; exits with 3 when one is stopped. With -f, a fleet.
    Status(StatusArgs),
    /// Prints the complete vm.toml of an instance.
    Show(Show),
    /// Connects to a console. The detach key is Ctrl-].
    Console(Console),
    /// Prints what an instance's consoles, its kernel or its supervisor said.
    Logs(Logs),
    /// Runs a command in a running guest of the built-in kernel; exits with its status.
    Exec(Exec),
    /// Copies files between the host and an instance (NAME:PATH), running or stopped.
    Cp(Cp),
    /// Sends a command to the kernel's management console; without one, starts a dialogue.
    Mconsole(Mconsole),
    /// Writes the packets of an interface of the guest to a file or a pipe, for tcpdump and Wireshark.
    ///
    /// Packets of both directions, in the pcap format, until the limit, Ctrl-C or the machine's end: `umld capture NAME |
    /// tcpdump -nr -`. A reader that is too slow loses packets, which are counted, and does not slow the guest down. The
    /// guest does not notice. Not with stock kernels.
    Capture(Capture),
    /// Defines an instance without starting it.
    Create(Create),
    /// Makes new instances on the disks of another, with copy-on-write files and addresses of their own, and without its ports
    /// of the host.
    ///
    /// What the other has changed since its disks were made is copied into each: that takes milliseconds where it is little, or
    /// where the host's filesystem shares blocks between files (btrfs, XFS, bcachefs), and else as long as the host writes it.
    /// The copies are flushed together before the first of the clones is there; a clone is there complete or not at all.
    Clone(CloneArgs),
    /// Keeps the present contents of a stopped instance's copy-on-write disks under a name.
    Snapshot(Snapshot),
    /// Brings a stopped instance's disks back to a snapshot.
    Restore(Restore),
    /// Merges the changes of a stopped instance's copy-on-write disks into their backing files.
    Merge(Merge),
    /// Writes a stopped instance with its disks to a file.
    Export(Export),
    /// Makes an instance from an exported file.
    Import(Import),
    /// Gives a stopped instance another name.
    Rename(Rename),
    /// Forgets instances and their logs, snapshots and own copy-on-write files. Images stay.
    Rm(Rm),
    /// Prints what happened to instances.
    Events(Events),
    /// Shows CPU and memory that running instances take.
    Top(Top),
    /// Prints figures of all instances as OpenMetrics text.
    Metrics,
    /// Examines the host: what is missing, and how to get it.
    Doctor(Format),
    /// Networks of the host.
    #[command(subcommand)]
    Net(NetCommand),
    /// Checks vm.toml files.
    Check(Files),
    /// Prints the exact kernel command line of a vm.toml or an instance.
    Explain(Explain),
    /// Prints the JSON Schema of vm.toml.
    Schema,
    /// Prints completions for a shell, to be put where it looks for them.
    Completions(Completions),
    /// Disk images.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Brings a fleet up.
    Up(Fleet),
    /// Takes a fleet down.
    Down(Fleet),
    /// Runs the daemon: autostart, order, control socket.
    Daemon(Daemon),
    /// Prints a manual page made from this command line.
    #[command(hide = true)]
    Manual {
        /// umld.1 or vm.toml.5
        page: String,
    },
    /// Keeps one instance; started by umld itself.
    #[command(hide = true)]
    Holder {
        /// The instance.
        name: String,
        /// Take over this kernel process.
        #[arg(long)]
        adopt: Option<i32>,
        /// Descriptors that come on standard input.
        #[arg(long, default_value_t = 0)]
        kept: usize,
        /// A service manager sees what is printed.
        #[arg(long)]
        foreground: bool,
    },
    /// Writes systemd units for autostarted instances; run by systemd.
    #[command(hide = true)]
    Generator {
        /// Directories given by systemd.
        dirs: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct Run {
    /// A vm.toml. Default: the host's own userland.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: Option<PathBuf>,

    /// Memory of the machine (a number with K, M or G). Default: half of the host's; with a file, what it says.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub mem: Option<Size>,

    /// CPUs of the machine. Default: all the host gives this process.
    #[arg(long, value_name = "N")]
    pub ncpus: Option<usize>,

    /// How guest programs run: notify, trap or ptrace. Default: the best that works here.
    #[arg(long, value_name = "NAME", value_parser = ["notify", "trap", "ptrace"])]
    pub platform: Option<String>,

    /// Host directory that becomes the root.
    #[arg(long, value_name = "DIR", default_value = "/", conflicts_with = "file")]
    pub root: PathBuf,

    /// Working directory in the guest. Default: the present one if it is below the root.
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    pub cwd: Option<PathBuf>,

    /// Name of the machine.
    #[arg(long, value_name = "UMID")]
    pub umid: Option<String>,

    /// Network of the guest: a mode of vm.toml(5), with options of the transport. `user` is internet through this user's
    /// own sockets, `none` is no interface. Default: user,loopback=0, which does not lead to services that listen only on
    /// the host's loopback.
    #[arg(long, value_name = "MODE[,KEY=VALUE...]", conflicts_with = "file")]
    pub net: Option<String>,

    /// A port of the host that leads to one of the guest, as in vm.toml(5); may be repeated.
    #[arg(short, long, value_name = "[ADDRESS:]PORT:PORT[/udp]", conflicts_with = "file")]
    pub publish: Vec<String>,

    /// Further words for the kernel's command line; may be repeated.
    #[arg(long = "append", value_name = "WORD", allow_hyphen_values = true)]
    pub append: Vec<String>,

    /// Print the kernel's messages.
    #[arg(short, long)]
    pub verbose: bool,

    /// Command to run instead of a shell, with its arguments.
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

fn wait(s: &str) -> Result<Wait, String> {
    Wait::parse(s)
}

fn size(s: &str) -> Result<Size, String> {
    Size::parse(s)
}

fn time(s: &str) -> Result<Time, String> {
    Time::parse(s)
}

#[derive(Debug, Args)]
pub struct Start {
    /// vm.toml files, or names of instances.
    #[arg(required = true, value_name = "FILE|NAME")]
    pub what: Vec<PathBuf>,
    /// When a start is done: none, boot, login, ready or port:N. Default: what the file says, else boot.
    #[arg(long, value_name = "WHAT", value_parser = wait)]
    pub wait: Option<Wait>,
    /// How long that may take. Default: what the file says, else 90s.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub timeout: Option<Time>,
    /// Connect to the console at once.
    #[arg(long)]
    pub console: bool,
    /// Stay as the parent of the one instance: for service managers.
    #[arg(long, conflicts_with_all = ["console", "wait"])]
    pub foreground: bool,
}

#[derive(Debug, Args)]
pub struct Stop {
    /// Names of instances.
    #[arg(required_unless_present = "all", value_name = "NAME")]
    pub names: Vec<String>,
    /// Stop every running instance.
    #[arg(short, long, conflicts_with = "names")]
    pub all: bool,
    /// Time for the guest's own shutdown after Ctrl-Alt-Del; 0 leaves it out.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub cad: Option<Time>,
    /// Time for the kernel's halt; 0 leaves it out.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub halt: Option<Time>,
    /// Time after SIGTERM; 0 leaves it out.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub term: Option<Time>,
    /// Leave the guest's own shutdown out.
    #[arg(long, conflicts_with = "cad")]
    pub now: bool,
}

#[derive(Debug, Args)]
pub struct Restart {
    /// Names of instances.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Leave the guest's own shutdown out.
    #[arg(long)]
    pub now: bool,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// Names of instances.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Signal by name or number.
    #[arg(short, long, default_value = "KILL")]
    pub signal: String,
}

#[derive(Debug, Args)]
pub struct Names {
    /// Names of instances.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Format {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Print only names.
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Listing {
    #[command(flatten)]
    pub format: Format,
    /// Only those that run.
    #[arg(short, long)]
    pub running: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Names of instances. Default: all.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Those of a fleet.
    #[arg(short, long, value_name = "FILE", conflicts_with = "names")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Show {
    /// Name of the instance.
    pub name: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Console {
    /// Name of the instance.
    pub name: String,
    /// con0 to con15 or ssl0 to ssl62. Default: the first that umld holds.
    pub line: Option<String>,
    /// Only watch.
    #[arg(short, long)]
    pub watch: bool,
    /// Key that ends the connection: ^ and a character, or none.
    #[arg(long, value_name = "KEY", default_value = "^]")]
    pub detach_key: String,
}

#[derive(Debug, Args)]
pub struct Logs {
    /// Name of the instance.
    pub name: String,
    /// Go on printing what is added.
    #[arg(short, long)]
    pub follow: bool,
    /// Print only the last N lines at first.
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// What a console printed: the first one that umld holds, or the one named. This is the default.
    #[arg(long, value_name = "LINE", num_args = 0..=1, default_missing_value = "", group = "what", require_equals = true)]
    pub console: Option<String>,
    /// Messages of the kernel.
    #[arg(long, group = "what")]
    pub kernel: bool,
    /// Messages of the process that keeps the instance.
    #[arg(long, group = "what")]
    pub supervisor: bool,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// Name of the instance.
    pub name: String,
    /// Give the command a terminal even when standard input is none; with =never, give it none.
    #[arg(short, long, value_name = "WHEN", num_args = 0..=1, default_value = "auto", default_missing_value = "always", require_equals = true)]
    pub tty: When,
    /// User and group numbers, as UID[:GID].
    #[arg(short, long, value_name = "UID[:GID]", default_value = "0")]
    pub user: String,
    /// Working directory.
    #[arg(short = 'w', long, value_name = "DIR", default_value = "/")]
    pub cwd: String,
    /// Set a variable; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The command. Default: a shell.
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// When standard input and output are terminals.
    Auto,
    Always,
    Never,
}

#[derive(Debug, Args)]
pub struct Cp {
    /// What to copy: PATH or NAME:PATH.
    pub source: String,
    /// Where to: PATH or NAME:PATH.
    pub target: String,
}

#[derive(Debug, Args)]
pub struct Mconsole {
    /// Name of the instance.
    pub name: String,
    /// The command, as `umld mconsole NAME help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Capture {
    /// Name of the instance.
    pub name: String,
    /// An interface of the guest, or any. Default: the first that is up and is not the loopback.
    pub interface: Option<String>,
    /// The file; - is standard output.
    #[arg(short, long, value_name = "FILE", default_value = "-", value_hint = clap::ValueHint::FilePath)]
    pub write: PathBuf,
    /// Keep so many bytes of each packet; 0 or nothing keeps all.
    #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(..=262_144))]
    pub snaplen: Option<u32>,
    /// End after so many packets.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End before there are more bytes than this.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub size: Option<Size>,
}

#[derive(Debug, Args)]
pub struct Create {
    /// A vm.toml.
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// Name instead of the file's.
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct CloneArgs {
    /// The instance to take after.
    pub name: String,
    /// Names of the new ones.
    #[arg(required = true, value_name = "NEW")]
    pub new: Vec<String>,
    /// Start them.
    #[arg(long)]
    pub start: bool,
}

#[derive(Debug, Args)]
pub struct Snapshot {
    /// Name of the instance.
    pub name: String,
    /// Name of the snapshot. Default: the present time.
    #[arg(conflicts_with_all = ["list", "delete"])]
    pub tag: Option<String>,
    /// List the snapshots.
    #[arg(long)]
    pub list: bool,
    /// Delete one.
    #[arg(long, value_name = "TAG")]
    pub delete: Option<String>,
    /// Print JSON.
    #[arg(long, requires = "list")]
    pub json: bool,
    /// Print only names.
    #[arg(short, long, requires = "list", conflicts_with = "json")]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// Name of the instance.
    pub name: String,
    /// Name of the snapshot.
    pub tag: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressWhen {
    Auto,
    Plain,
    Json,
    None,
}

#[derive(Debug, Args)]
pub struct Merge {
    /// Name of the instance.
    pub name: String,
    /// Only this disk (ubda).
    pub disk: Option<String>,
    /// How to show progress.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub progress: ProgressWhen,
}

#[derive(Debug, Args)]
pub struct Export {
    /// Name of the instance.
    pub name: String,
    /// The file: a tar archive, compressed when it ends in .gz.
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct Import {
    /// The file.
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// Name of the new instance. Default: the exported one's.
    #[arg(long)]
    pub name: Option<String>,
    /// Accept files of this host that the archive names: another kernel, directories, sources of guest files.
    #[arg(long)]
    pub trust: bool,
}

#[derive(Debug, Args)]
pub struct Rename {
    /// Its name.
    pub old: String,
    /// Its new name.
    pub new: String,
}

#[derive(Debug, Args)]
pub struct Rm {
    /// Names of instances.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Stop those that run, with SIGKILL.
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Events {
    /// Only of these instances.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub json: bool,
    /// Print only the names of the instances, one for each event.
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    /// Go on printing what happens.
    #[arg(short, long)]
    pub follow: bool,
    /// Print only the last N of the past. Default: all, with --follow none.
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
}

#[derive(Debug, Args)]
pub struct Top {
    #[command(flatten)]
    pub format: Format,
    /// Number of times. Default: until interrupted on a terminal, else once.
    #[arg(short = 'n', long, value_name = "N")]
    pub iterations: Option<u64>,
    /// Time between.
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = time)]
    pub delay: Time,
}

#[derive(Debug, Args)]
pub struct Files {
    /// vm.toml files.
    #[arg(required = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Say nothing about those that are right.
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// A vm.toml, or the name of an instance.
    #[arg(value_name = "FILE|NAME")]
    pub what: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum NetCommand {
    /// Says what modes of [[net]] need of the host, what is missing, and the commands for root that give it.
    ///
    /// Exits with 69 when a mode that was named cannot be used.
    Doctor(NetDoctor),
}

#[derive(Debug, Args)]
pub struct NetDoctor {
    /// Modes, or vm.toml files with interfaces. Default: every mode.
    #[arg(value_name = "MODE|FILE")]
    pub what: Vec<PathBuf>,
    #[command(flatten)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// bash, elvish, fish, powershell or zsh.
    pub shell: clap_complete::Shell,
}

// Made once.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Builds an ext4 image without root.
    ///
    /// A suite is installed by mmdebstrap: as root, in a user namespace where the user has a range of numbers in /etc/subuid
    /// and /etc/subgid, and else in a machine of umld's own. Layers of an OCI layout are checked against their digests and
    /// put on top of each other with their whiteouts; of an index the first entry for linux/amd64 is taken.
    Build(ImageBuild),
    /// Lists images.
    List(Format),
    /// Shows an image: size, filesystem, what is free.
    Info(ImageInfo),
    /// Makes an image and its filesystem larger.
    Resize(ImageResize),
    /// Checks the filesystem of an image.
    Check(ImageName),
    /// Deletes images.
    Rm(ImageNames),
}

#[derive(Debug, Args)]
pub struct ImageBuild {
    /// Name of the image, or a path.
    pub name: String,
    /// Debian suite to install.
    #[arg(long, conflicts_with = "from")]
    pub suite: Option<String>,
    /// Mirror of the suite.
    #[arg(long, value_name = "URL", requires = "suite")]
    pub mirror: Option<String>,
    /// Further packages, separated by commas.
    #[arg(long, value_name = "LIST", requires = "suite")]
    pub include: Option<String>,
    /// A directory, a tar archive (alone or by gzip, xz or zstd), or an OCI layout with the userland. Owners, device nodes,
    /// capabilities of programs and user attributes are kept; what belongs to the calling user belongs to root, unless that
    /// is root.
    #[arg(long, value_name = "DIR|TAR|OCI-LAYOUT")]
    pub from: Option<PathBuf>,
    /// Size of the image.
    #[arg(long, default_value = "2G")]
    pub size: String,
    /// Host name.
    #[arg(long)]
    pub hostname: Option<String>,
    /// Password of root; - reads it from standard input. Default: root logs in without one on the consoles.
    #[arg(long, value_name = "PASSWORD")]
    pub root_password: Option<String>,
    /// Public key file for root's authorized_keys.
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,
    /// Leave fstab, gettys, network and host name as they are.
    #[arg(long)]
    pub as_is: bool,
    /// Replace an image of this name.
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct ImageInfo {
    /// Name or path.
    pub name: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ImageResize {
    /// Name or path.
    pub name: String,
    /// New size.
    pub size: String,
}

#[derive(Debug, Args)]
pub struct ImageName {
    /// Name or path.
    pub name: String,
}

#[derive(Debug, Args)]
pub struct ImageNames {
    /// Names or paths.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Fleet {
    /// fleet.toml.
    #[arg(short, long, value_name = "FILE", default_value = "fleet.toml")]
    pub file: PathBuf,
    /// Only these members.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// How many at a time. Default: twice the CPUs.
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,
    /// How to show progress.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub progress: ProgressWhen,
}

#[derive(Debug, Args)]
pub struct Daemon {
    /// Start no instances.
    #[arg(long)]
    pub no_autostart: bool,
    /// Start no instances, and end when none has been up for this time: as commands start it. Default: 30s.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = time)]
    pub on_demand: Option<Time>,
}
