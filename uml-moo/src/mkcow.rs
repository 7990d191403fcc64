//! `uml_mkcow [-f] <COW file> <backing file>`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use uml_formats::cow::{changed_runs, create};
use uml_formats::host_lock::{LockError, LockKind, lock_file};
use uml_formats::strerror;

const EXIT_USAGE: u8 = 2;

fn usage(program: &str) -> String {
    format!(
        "{program} usage: \n\t{program} [-f] <COW file> <backing file>\n\
         \t-f forces overwrite of an existing COW file\n"
    )
}

fn say(text: &str) {
    // The exit status remains when stderr is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Runs with the arguments after the program's name; returns the exit status.
pub fn run(program: &str, arguments: Vec<OsString>) -> u8 {
    let first = arguments.first().and_then(|argument| argument.to_str());
    if arguments.len() == 1 && first == Some("--help") {
        print!("{}", usage(program));
        return 0;
    }
    if arguments.len() == 1 && first == Some("--version") {
        println!("uml_mkcow {}", env!("CARGO_PKG_VERSION"));
        return 0;
    }
    let force = first == Some("-f");
    let mut names = arguments.iter().skip(usize::from(force)).map(Path::new);
    let (Some(cow), Some(backing)) = (names.next(), names.next()) else {
        say(&usage(program));
        return EXIT_USAGE;
    };
    match make(program, cow, backing, force) {
        Ok(()) => 0,
        Err(()) => 1,
    }
}

fn make(program: &str, cow: &Path, backing: &Path, force: bool) -> Result<(), ()> {
    let existed = cow.symlink_metadata().is_ok();
    let mut options = File::options();
    options.read(true).write(true).mode(0o644).create(true).truncate(false);
    let file = options.create_new(!force).open(cow).map_err(|error| {
        say(&format!("open COW file: {}\n", strerror(&error)));
        let remedy = match error.kind() {
            io::ErrorKind::AlreadyExists => "; use -f to rewrite its header",
            _ => "",
        };
        say(&format!("{program}: \"{}\": {}{remedy}\n", cow.display(), strerror(&error)));
    })?;
    if let Err(error @ LockError::Held { .. }) = lock_file(&file, LockKind::Exclusive) {
        let cow = cow.display();
        say(&format!("{program}: \"{cow}\" is {error}: halt the machine that uses it first\n"));
        return Err(());
    }
    match create(&file, backing) {
        Ok(header) => {
            let old = header.layout().is_ok_and(|layout| {
                existed && changed_runs(&file, &layout).next().is_some_and(|run| run.is_ok())
            });
            if old {
                say(&format!(
                    "{program}: \"{}\" still has the changes made before; remove it first for an \
                     empty COW file\n",
                    cow.display()
                ));
            }
            Ok(())
        }
        Err(error) => {
            if let Some(line) = error.stock_message() {
                println!("{line}");
            }
            let errno = nix::errno::Errno::from_raw(error.errno());
            say(&format!("write_cow_header: {}\n{program}: {error}\n", errno.desc()));
            if !existed {
                // Only what this run made: an empty file nobody can use.
                let _ = std::fs::remove_file(cow);
            }
            Err(())
        }
    }
}
