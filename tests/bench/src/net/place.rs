//! Where programs run: beside the server, in our kernel, in stock UML.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The address of a guest's interface, and the two of a wire.
pub const SERVER: &str = "10.7.0.1";
pub const CLIENT: &str = "10.7.0.2";

/// Seconds for one figure.
const LIMIT: &str = "60";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Native,
    Ours,
    Stock {
        pinned: bool,
    },
    /// A namespace of the host behind another router for users without privileges.
    Behind(Router),
}

/// Routers that are compared with `transport=user`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Router {
    Slirp4netns,
    Pasta,
}

/// A place that exists here.
pub struct Place {
    pub name: String,
    pub kind: Kind,
    /// Our `umld`, or the root with stock UML.
    program: PathBuf,
    /// For files that a guest reads.
    pub scratch: PathBuf,
}

impl Place {
    pub const NAMES: &[&str] = &["native", "ours", "stock", "stock-pinned", "slirp4netns", "pasta"];

    /// The error says what is missing.
    pub fn of(name: &str) -> Result<Place, String> {
        let (kind, program) = match name {
            "native" => (Kind::Native, PathBuf::new()),
            "slirp4netns" | "pasta" => {
                let there = Command::new(name).arg("--version").output();
                there.map_err(|e| format!("{name}: {e}"))?;
                let router = if name == "pasta" { Router::Pasta } else { Router::Slirp4netns };
                (Kind::Behind(router), PathBuf::new())
            }
            "ours" => {
                let me = std::env::current_exe().map_err(|e| e.to_string())?;
                let umld = me.with_file_name("umld");
                if !umld.is_file() {
                    return Err("umld is not built".into());
                }
                (Kind::Ours, umld)
            }
            _ => {
                let root = storage_tests::interchange::stock_root()
                    .ok_or("no stock UML in tests/cache/stock-sid (tests/run makes it)")?;
                (Kind::Stock { pinned: name == "stock-pinned" }, root)
            }
        };
        let scratch = PathBuf::from(format!("/var/tmp/bench-net.{}", std::process::id()));
        std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
        Ok(Place { name: name.into(), kind, program, scratch })
    }

    /// Runs a command behind the interfaces that `transports` describe, the first with the address `own` unless that is empty;
    /// its output is piped.
    pub fn start(
        &self,
        transports: &[String],
        own: &str,
        command: &[String],
    ) -> Result<Child, String> {
        let c = match self.kind {
            Kind::Native | Kind::Behind(_) => {
                return Err("a native program has no interface of its own".into());
            }
            Kind::Ours => self.ours(transports, own, command),
            Kind::Stock { pinned } => self.stock(transports, own, command, pinned)?,
        };
        // Whatever gets stuck is a failed figure, not the end of the run.
        let mut bounded = Command::new("timeout");
        bounded.args(["-k", "5", LIMIT]).arg(c.get_program()).args(c.get_args());
        bounded.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        bounded.spawn().map_err(|e| format!("{}: {e}", self.name))
    }

    fn ours(&self, transports: &[String], own: &str, command: &[String]) -> Command {
        let mut c = Command::new(&self.program);
        c.args(["run", "--mem", "512M", "--net"]);
        match transports {
            // The router gives the address.
            [user] if user.starts_with("user") => {
                c.arg(user);
            }
            _ => {
                c.arg("none");
            }
        }
        for (n, t) in transports.iter().enumerate().filter(|(_, t)| !t.starts_with("user")) {
            c.arg("--append").arg(format!("vec{n}:transport={t}"));
        }
        if !own.is_empty() {
            c.arg("--append").arg(format!("ip={own}:::255.255.255.0::vec0:off"));
        }
        c.arg("--").args(command);
        c
    }

    fn stock(
        &self,
        transports: &[String],
        own: &str,
        command: &[String],
        pinned: bool,
    ) -> Result<Command, String> {
        let init = self.scratch.join(format!("init-{own}"));
        let address = match own {
            "" => String::new(),
            own => format!("ip addr add {own}/24 dev vec0\nip link set vec0 up"),
        };
        let body = format!(
            "#!/bin/bash\nexport PATH=/usr/sbin:/sbin:/usr/bin:/bin LC_ALL=C\nmount -t proc proc /proc\nmount -t sysfs s /sys\n\
             mount -t tmpfs tmp /tmp\nip link set lo up\n{address}\n{}\npoweroff -f\n",
            quoted(command)
        );
        std::fs::write(&init, body).map_err(|e| format!("{}: {e}", init.display()))?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))
            .map_err(|e| format!("{}: {e}", init.display()))?;
        let enter = storage_tests::interchange::entered(&self.program, &self.scratch);
        let mut c = match pinned {
            true => {
                let mut c = Command::new("taskset");
                c.args(["-c", "0"]).arg(enter.get_program()).args(enter.get_args());
                c
            }
            false => enter,
        };
        c.args(["mem=512M", "quiet", "console=tty0", "root=/dev/root", "rootfstype=hostfs"]);
        c.args(["hostfs=/host", "rw", "con=null", "con0=null,fd:1", "ssl=null", "seccomp=on"]);
        for (n, t) in transports.iter().enumerate() {
            c.arg(format!("vec{n}:transport={t}"));
        }
        c.arg(format!("init={}", init.display()));
        Ok(c)
    }
}

/// Words as a shell reads them again.
fn quoted(words: &[String]) -> String {
    let quote = |w: &String| format!("'{}'", w.replace('\'', "'\\''"));
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

impl Drop for Place {
    fn drop(&mut self) {
        // Another place may have it still; the last one succeeds.
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}
