//! `/proc/tty`: terminal drivers and line disciplines.

use uml_abi::Result;
use uml_core::task::Task;
use uml_core::vfs::Dev;

use super::fs::Subject;
use crate::synth::{Row, Rows, Spec, Text};

pub static ROWS: &[Row<Subject>] = &[
    Row::dir("driver", 0o555, |s| Spec::dir(Rows::new(&[], s.clone()))),
    Row::text("drivers", 0o444, drivers),
    Row::text("ldiscs", 0o444, |_, _, out| {
        out.raw(b"n_tty       0\n");
        Ok(())
    }),
];

/// Driver, node, major, minors, type; shown when a driver has the major.
const DRIVERS: [(&str, &str, u32, u32, &str, &str); 7] = [
    ("/dev/tty", "/dev/tty", 5, 0, "0", "system:/dev/tty"),
    ("/dev/console", "/dev/console", 5, 1, "1", "system:console"),
    ("/dev/ptmx", "/dev/ptmx", 5, 2, "2", "system"),
    ("UML serial line", "/dev/ttyS", 4, 64, "64-127", "serial"),
    ("pty_slave", "/dev/pts", 136, 0, "0-1048575", "pty:slave"),
    ("pty_master", "/dev/ptm", 128, 0, "0-1048575", "pty:master"),
    ("UML console", "/dev/tty", 4, 0, "0-63", "console"),
];

fn drivers(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let kernel = task.kernel();
    for (driver, node, major, first, minors, kind) in DRIVERS {
        if kernel.vfs.registry.char_driver(Dev::new(major, first)).is_ok() {
            writeln!(out, "{driver:<20} {node:<10} {major:5} {minors:>7} {kind}");
        }
    }
    Ok(())
}
