//! `umld manual`: umld(1) from the command line, vm.toml(5) from the schema. The pages in `man/` are made by it; a test
//! compares them.

use std::fmt::Write;

use clap::CommandFactory;
use serde_json::Value;

use crate::cli::Cli;
use crate::failure::{Failure, Result, code};

/// Prints a page.
pub fn run(page: &str) -> Result<u8> {
    let text = match page {
        "umld.1" => umld(),
        "vm.toml.5" => vm_toml(),
        _ => return Err(Failure::new(code::USAGE, "expected umld.1 or vm.toml.5")),
    };
    super::print(&text)
}

/// Text as roff takes it.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = escaped
        .lines()
        .map(|l| if l.starts_with(['.', '\'']) { format!("\\&{l}") } else { l.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
}

/// Inline code of a description in bold.
fn described(text: &str) -> String {
    let mut out = String::new();
    for (k, part) in text.split('`').enumerate() {
        if k % 2 == 1 {
            out += &format!("\\fB{}\\fR", roff(part));
        } else {
            out += &roff(part);
        }
    }
    out
}

/// The same for a text of several paragraphs, which may have requests (lines that begin with a dot) in it; an empty line
/// begins a paragraph.
fn paragraphs(text: &str) -> String {
    let line = |l: &str| match l {
        "" => ".PP".to_owned(),
        l if l.starts_with('.') => l.to_owned(),
        l => described(l),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// About fleet.toml.
const FLEETS: &str = "A fleet.toml describes machines that belong together, for `umld up`, `umld down` and `umld status -f`.
.TP
`[fleet]`
What they have in common: `template`, the vm.toml they are made from; `count`, `first` and `name`, with `{n}` for the number; \
`jobs`, members started at a time; `cow`, false to give them no copy-on-write files of their own, nor their own name as host name; `hosts`, false to leave their \
/etc/hosts alone; `set`, keys of vm.toml that all have. Ports of the host (`ports`) that members would share are left out.
.TP
`[[member]]`
One of them, or one more: `name`, `template`, `after` (members that must be up first), `set`. The name is its host name too, \
unless `guest.hostname` is set for it, or in a template of its own.
.TP
`[[switch]]`
A virtual switch: `name`, `hub` (true sends every frame to every port), `network`. A member joins it by `[[net]]` with \
`switch = \"NAME\"`, or `mode = \"switch\"` alone where the fleet has one. `up` starts switches before members; `down` of the whole \
fleet ends those that nobody is on any more, and a member that is started later brings its switches up again. A switch that was killed is started again by `up`, and members that run join it \
again by themselves (not with stock kernels); under systemd it has a scope of its own, so that it outlives the unit of the member that started it.
.TP
`[[link]]`
A cable between two members, which get one more interface each: `between`, a list of two names; `name`; `network`.
.PP
With `network`, as in `\"10.9.0.0/24\"`, members get an address of it, in their order; those with an init of their own only one, as the kernel \
sets it, and none when they have another. The names of members \
with addresses on the fleet's switches are in the /etc/hosts of all whose root umld can write to: ext4 disks, and the host's \
userland under its throw-away layer.";

/// umld(1).
pub fn umld() -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let w = &mut out;
    let _ = writeln!(
        w,
        ".TH UMLD 1 2026-11-28 \"umld {}\" \"User Mode Linux\"",
        env!("CARGO_PKG_VERSION")
    );
    let _ = writeln!(w, ".SH NAME\numld \\- runs User Mode Linux machines");
    let _ = writeln!(w, ".SH SYNOPSIS\n.B umld\n.I COMMAND\n[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]");
    let about = "A machine is a Linux kernel that is an ordinary process: no root, no KVM. It is described by a vm.toml(5), started \
        with `umld start`, and known by its name (its umid) from then on. A small process, the holder, keeps each machine: its consoles, \
        its logs, its restarts. Commands, and the daemon, may come and go. The first command that starts a machine starts \
        the daemon, which takes over machines whose holder was killed, with their consoles, and ends when nothing has been up for half a minute; \
        systemd's umld.socket comes first where it is there. `umld daemon` runs one that stays, and starts what has autostart.\n\nMachines that were started by hand (linux umid=...), by this kernel \
        or the stock one, appear in the list and obey the commands that need nothing but their management console.";
    let _ = writeln!(w, ".SH DESCRIPTION\n{}", paragraphs(about));
    let cli = Cli::command();
    let _ = writeln!(w, ".SH COMMANDS");
    for c in cli.get_subcommands().filter(|c| !c.is_hide_set()) {
        command(w, c, "");
    }
    let _ = writeln!(w, ".SH FLEETS\n{}", paragraphs(FLEETS));
    let _ = writeln!(w, ".SH EXIT STATUS");
    for (n, what) in code::TABLE {
        let _ = writeln!(w, ".TP\n.B {n}\n{}", described(what));
    }
    let _ = writeln!(
        w,
        ".PP\n\\fBrun\\fR and \\fBexec\\fR exit with the status of the guest's command, 128+n when signal n ended it."
    );
    let _ = writeln!(w, ".SH FILES");
    for (path, what) in [
        (
            "~/.uml/NAME/",
            "the running kernel's own directory: pid, mconsole, exec (the door for umld exec)",
        ),
        ("~/.uml/.umld/NAME/vm.toml", "the complete description of the instance as last started"),
        ("~/.uml/.umld/NAME/source", "the file it came from, read again at each start"),
        ("~/.uml/.umld/NAME/status.json", "what the holder knows"),
        (
            "~/.uml/.umld/NAME/*.log",
            "kernel.log, supervisor.log, and one log for each held console",
        ),
        ("~/.uml/.umld/NAME/snapshots/", "snapshots, one directory each"),
        ("~/.uml/.umld/.events", "events of all instances, one JSON object a line"),
        (
            "~/.uml/.umld/.control",
            "the daemon's socket; org.usermodelinux.Machines for varlinkctl(1)",
        ),
        (
            "~/.uml/.umld/.keep, .daemon.log, .daemon.lock",
            "of the daemon: where holders give it their consoles to keep, what it says, its pid",
        ),
        ("~/.uml/.umld/.images/", "images made by umld image"),
        (
            "~/.uml/.umld/.switches/NAME/",
            "a switch of a fleet: its control socket ctl, for uml_switch -unix ctl --status; log; switch.toml",
        ),
        (
            "/etc/uml/*.toml, ~/.config/uml/*.toml",
            "machines of the systemd generator, as uml@NAME.service",
        ),
    ] {
        let _ = writeln!(w, ".TP\n.I {}\n{}", roff(path), roff(what));
    }
    let _ = writeln!(w, ".SH ENVIRONMENT");
    for (name, what) in [
        ("HOME", "everything is below ~/.uml"),
        ("UMLD_DAEMON", "no: commands do not start the daemon"),
        (
            "TMPDIR",
            "where stock kernels keep the guest's memory; see resources.tmpdir in vm.toml(5)",
        ),
        (
            "XDG_RUNTIME_DIR",
            "umld.sock in it, or in /run for root, is systemd's socket of the daemon",
        ),
        ("XDG_CONFIG_HOME", "uml/ in it has the user's machines for the systemd generator"),
    ] {
        let _ = writeln!(w, ".TP\n.B {name}\n{}", roff(what));
    }
    let _ = writeln!(w, ".SH SIGNALS");
    let signals = "The daemon ends on SIGTERM and leaves instances running; on SIGPWR it stops them first. A holder (`umld start --foreground`) stops its \
        instance on SIGTERM.";
    let _ = writeln!(w, "{}", described(signals));
    let _ = writeln!(w, ".SH EXAMPLES\n.nf");
    for l in [
        "umld run                              a shell on the host's userland, changes thrown away",
        "umld image build --suite bookworm debian",
        "umld start examples/debian.toml --wait=login --console",
        "umld exec debian -- apt-get update",
        "umld stop debian && umld snapshot debian clean",
        "umld clone debian web1 web2 --start",
    ] {
        let _ = writeln!(w, "{}", roff(l));
    }
    let _ = writeln!(
        w,
        ".fi\n.SH SEE ALSO\n.BR vm.toml (5),\n.BR uml_mconsole (1),\n.BR uml_moo (1),\n.BR mconsole (7)"
    );
    out
}

fn command(w: &mut String, c: &clap::Command, prefix: &str) {
    let name = format!("{prefix}{}", c.get_name());
    if c.has_subcommands() {
        for s in c.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
            command(w, s, &format!("{name} "));
        }
        return;
    }
    let usage = c.clone().bin_name(format!("umld {name}")).render_usage().to_string();
    let _ = writeln!(w, ".SS {}", roff(usage.trim_start_matches("Usage: ").trim()));
    let about = c.get_long_about().or(c.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(w, "{}", paragraphs(&about));
    for a in c
        .get_arguments()
        .filter(|a| !a.is_hide_set() && !["help", "version"].contains(&a.get_id().as_str()))
    {
        let value = a
            .get_value_names()
            .map(|v| v.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        let takes = a.get_action().takes_values();
        let mut names: Vec<String> = Vec::new();
        if let Some(s) = a.get_short() {
            names.push(format!("-{s}"));
        }
        if let Some(l) = a.get_long() {
            names.push(format!("--{l}"));
        }
        let mut head = if names.is_empty() {
            format!("\\fI{}\\fR", roff(&value.clone().unwrap_or_default()))
        } else {
            format!("\\fB{}\\fR", roff(&names.join(", ")))
        };
        if takes && !names.is_empty() {
            let value = roff(&value.unwrap_or_default());
            // One that may be left out, and stands behind "=" where it is not.
            head += &match a.is_require_equals_set() {
                true => format!("[=\\fI{value}\\fR]"),
                false => format!(" \\fI{value}\\fR"),
            };
        }
        let help = a.get_long_help().or(a.get_help()).map(ToString::to_string).unwrap_or_default();
        let default: Vec<String> =
            a.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
        let default = if default.is_empty() || !takes || help.contains("Default") {
            String::new()
        } else {
            format!(" Default: {}.", default.join(" "))
        };
        let _ = writeln!(w, ".TP\n{head}\n{}", described(&format!("{help}{default}")));
    }
}

/// vm.toml(5).
pub fn vm_toml() -> String {
    let schema =
        serde_json::to_value(schemars::schema_for!(crate::spec::VmFile)).unwrap_or_default();
    let mut out = String::new();
    let w = &mut out;
    let _ = writeln!(
        w,
        ".TH VM.TOML 5 2026-11-28 \"umld {}\" \"User Mode Linux\"",
        env!("CARGO_PKG_VERSION")
    );
    let _ = writeln!(w, ".SH NAME\nvm.toml \\- a User Mode Linux machine for umld(1)");
    let about = "One file describes one machine, in TOML. Every key may be left out unless it says otherwise; unknown keys are errors. Relative paths are relative to \
        the file. `umld check FILE` checks it, `umld explain FILE` prints the kernel's command line it stands for, `umld schema` prints a JSON Schema for editors. \
        Sizes are numbers with K, M, G or T; times are numbers with ms, s, min or h.";
    let _ = writeln!(w, ".SH DESCRIPTION\n{}", described(about));
    let empty = serde_json::Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let text = |v: &Value| {
        v.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ")
    };
    // In the order of a file, not of the alphabet.
    let order = [
        "extends",
        "vm",
        "disk",
        "net",
        "console",
        "boot",
        "stop",
        "resources",
        "service",
        "guest",
    ];
    let rest = properties.keys().map(String::as_str).filter(|k| !order.contains(k));
    for key in order.into_iter().chain(rest) {
        let Some(v) = properties.get(key) else { continue };
        let Some((target, list)) = target(v) else {
            let _ = writeln!(w, ".TP\n.B {}\n{}", roff(key), described(&text(v)));
            continue;
        };
        let head = if list { format!("[[{key}]]") } else { format!("[{key}]") };
        let _ = writeln!(w, ".SH {}\n{}", roff(&head), described(&text(v)));
        section(w, &schema, target, "");
    }
    let _ = writeln!(w, ".SH EXAMPLE\n.nf");
    for l in include_str!("../../../examples/debian.toml").lines() {
        let _ = writeln!(w, "{}", roff(l));
    }
    let _ = writeln!(w, ".fi\n.SH SEE ALSO\n.BR umld (1),\n.BR cow (5)");
    out
}

/// The definition a property refers to, and whether it is a list of them.
fn target(v: &Value) -> Option<(&str, bool)> {
    let direct = v.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"));
    if let Some(d) = direct {
        return Some((d, false));
    }
    let items = v.get("items")?.get("$ref")?.as_str()?.strip_prefix("#/$defs/")?;
    Some((items, true))
}

fn section(w: &mut String, schema: &Value, name: &str, prefix: &str) {
    let Some(p) = schema.pointer(&format!("/$defs/{name}/properties")).and_then(Value::as_object)
    else {
        return;
    };
    for (key, v) in p {
        let text =
            v.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
        let _ = writeln!(w, ".TP\n.B {}\n{}", roff(&format!("{prefix}{key}")), described(&text));
        if let Some((t, _)) = target(v) {
            section(w, schema, t, &format!("{key}."));
        }
    }
}
