//! Landlock and moving files: which right each of two directories needs, when EACCES and when EXDEV.

use super::domains::{bind_mount, own_mounts};
use super::landlock::*;
use crate::sys::*;
use crate::{c, cases};

cases! { same_directory, between, gaining, children, layered, exchange, links, whole_mounts: root }

fn tree() {
    for d in ["a/d", "b/d", "a/in/deep", "c"] {
        std::fs::create_dir_all(d).unwrap();
    }
    for f in ["a/f", "b/g", "a/in/f", "a/in/deep/f", "f"] {
        put(f, b"");
    }
}

fn rename2(from: &str, to: &str, flags: u32) -> R {
    let (from, to) = (cstr(from), cstr(to));
    let at = libc::AT_FDCWD;
    c!(libc::syscall(libc::SYS_renameat2, at, from.as_ptr(), at, to.as_ptr(), flags))
}

fn link(from: &str, to: &str) -> R {
    let (from, to) = (cstr(from), cstr(to));
    c!(libc::link(from.as_ptr(), to.as_ptr()))
}

/// Every move between the places of the tree, each on a fresh one, as a task with these layers of rules.
fn moves(layers: &[(u64, &[(&str, u64)])], list: &[(&str, &str)]) {
    for (from, to) in list {
        for (how, flags) in [("rename", 0), ("exchange", 2), ("link", 99)] {
            let _ = std::fs::remove_dir_all("t");
            std::fs::create_dir("t").unwrap();
            apart(|| {
                std::env::set_current_dir("t").unwrap();
                tree();
                no_new_privs();
                for (handled, rules) in layers {
                    let rs = ruleset(*handled, 0, 0);
                    for (path, access) in *rules {
                        let r = beneath(rs, path, *access);
                        assert!(r.is_ok(), "{path}: {r}");
                    }
                    assert!(restrict(rs).is_ok());
                }
                let r = if flags == 99 { link(from, to) } else { rename2(from, to, flags) };
                say(&format!("{how} {from} {to}"), r);
            });
        }
    }
}

const NAMES: u64 = MAKE_REG | MAKE_DIR | REMOVE_FILE | REMOVE_DIR;

fn same_directory() {
    let list = [
        ("a/f", "a/new"),
        ("a/f", "a/f"),
        ("a/d", "a/new"),
        ("a/f", "a/d"),
        ("a/none", "a/f"),
        ("a/d", "a/in"),
        ("f", "new"),
    ];
    for (what, access) in [
        ("make and remove", NAMES),
        ("make", MAKE_REG | MAKE_DIR),
        ("remove", REMOVE_FILE | REMOVE_DIR),
        ("files", MAKE_REG | REMOVE_FILE),
    ] {
        say("granted", what);
        moves(&[(NAMES, &[("a", access)])], &list);
    }
    say("handled", "reading only");
    moves(&[(READ, &[("a", READ)])], &list);
}

const BETWEEN: [(&str, &str); 9] = [
    ("a/f", "b/new"),
    ("a/f", "b/g"),
    ("a/d", "b/new"),
    ("a/d", "b/d"),
    ("b/g", "a/new"),
    ("a/in/f", "a/new"),
    ("a/f", "a/in/new"),
    ("a/f", "c/new"),
    ("a/in/f", "a/in/deep/new"),
];

fn between() {
    let list = &BETWEEN;
    for (what, handled, rules) in [
        ("reading without REFER", READ, &[("a", READ), ("b", READ)][..]),
        ("REFER on both", REFER, &[("a", REFER), ("b", REFER)]),
        ("REFER on one", REFER, &[("a", REFER)]),
        ("REFER on the other", REFER, &[("b", REFER)]),
        ("REFER above", REFER, &[(".", REFER)]),
        ("REFER at the top", REFER, &[("/", REFER)]),
        ("names and REFER", REFER | NAMES, &[("a", REFER | NAMES), ("b", REFER | NAMES)]),
        ("names without REFER", REFER | NAMES, &[("a", NAMES), ("b", NAMES)]),
        ("REFER without names", REFER | NAMES, &[("a", REFER), ("b", REFER)]),
        (
            "no making in b",
            REFER | NAMES,
            &[("a", REFER | NAMES), ("b", REFER | REMOVE_FILE | REMOVE_DIR)],
        ),
        (
            "no removing in a",
            REFER | NAMES,
            &[("a", REFER | MAKE_REG | MAKE_DIR), ("b", REFER | NAMES)],
        ),
        ("names above, REFER below", REFER | NAMES, &[(".", NAMES), ("a", REFER), ("b", REFER)]),
    ] {
        say("rules", what);
        moves(&[(handled, rules)], list);
    }
}

fn gaining() {
    let list = [
        ("a/f", "b/new"),
        ("b/g", "a/new"),
        ("a/d", "b/new"),
        ("b/d", "a/new"),
        ("a/in/f", "a/new"),
        ("a/f", "a/in/new"),
    ];
    let r = REFER;
    for (what, handled, rules) in [
        ("reading in b", r | READ, &[("a", r), ("b", r | READ)][..]),
        ("reading in both", r | READ, &[("a", r | READ), ("b", r | READ)]),
        ("listing in b", r | READ_DIR, &[("a", r), ("b", r | READ_DIR)]),
        ("more inside", r | READ, &[("a", r), ("a/in", r | READ)]),
        ("names in b", r | NAMES, &[("a", r | NAMES), ("b", r)]),
        ("execution above", r | EXECUTE, &[(".", r | EXECUTE), ("b", r)]),
        ("one each", r | READ | WRITE, &[("a", r | READ), ("b", r | WRITE)]),
        ("everything at the top", ALL, &[("/", ALL)]),
        ("everything but listing at the top", ALL, &[("/", ALL & !READ_DIR), ("b", READ_DIR)]),
        ("reading at the top, and in b", r | READ, &[("/", r | READ), ("b", READ)]),
    ] {
        say("rules", what);
        moves(&[(handled, rules)], &list);
    }
}

/// Rules about the moved file itself go with it.
fn children() {
    let list =
        [("a/f", "b/new"), ("b/g", "a/new"), ("a/d", "b/new"), ("a/f", "b/g"), ("a/d", "b/d")];
    let r = REFER;
    for (what, handled, rules) in [
        ("the file has it", r | READ, &[("a", r), ("b", r | READ), ("a/f", READ)][..]),
        (
            "the directory has it",
            r | READ | READ_DIR,
            &[("a", r), ("b", r | READ | READ_DIR), ("a/d", READ | READ_DIR)],
        ),
        (
            "the directory has some",
            r | READ | READ_DIR,
            &[("a", r), ("b", r | READ | READ_DIR), ("a/d", READ_DIR)],
        ),
        ("both have", r | WRITE, &[("a", r | WRITE), ("b", r), ("a/f", WRITE), ("b/g", WRITE)]),
        (
            "the target has",
            r | WRITE,
            &[("a", r | WRITE), ("b", r), ("b/g", WRITE), ("b/d", WRITE)],
        ),
    ] {
        say("rules", what);
        moves(&[(handled, rules)], &list);
    }
}

fn layered() {
    let list = [("a/f", "b/new"), ("b/g", "a/new"), ("a/in/f", "a/new"), ("a/f", "a/new")];
    let r = REFER;
    for (what, layers) in [
        (
            "two that agree",
            &[(r | READ, &[(".", r | READ)][..]), (r | WRITE, &[("a", r), ("b", r)])][..],
        ),
        ("the second says nothing of it", &[(r, &[(".", r)]), (WRITE, &[(".", WRITE)])]),
        ("the second is stricter", &[(r, &[(".", r)]), (r, &[("a", r)])]),
        (
            "names in different layers",
            &[
                (r | MAKE_REG, &[(".", r | MAKE_REG)]),
                (r | REMOVE_FILE, &[("a", r | REMOVE_FILE), ("b", r)]),
            ],
        ),
        (
            "gain in one layer",
            &[(r | READ, &[("a", r), ("b", r | READ)]), (r | READ, &[("a", r | READ), ("b", r)])],
        ),
        (
            "gain in no layer",
            &[(r | READ, &[("a", r | READ), ("b", r)]), (r | READ, &[("a", r | READ), ("b", r)])],
        ),
    ] {
        say("layers", what);
        moves(layers, &list);
    }
}

fn exchange() {
    let list = [
        ("a/f", "b/g"),
        ("a/d", "b/d"),
        ("a/f", "b/d"),
        ("a/f", "b/none"),
        ("a/none", "b/g"),
        ("a/f", "a/d"),
    ];
    for (what, rules) in [
        ("files only in a", &[("a", REFER | MAKE_REG | REMOVE_FILE), ("b", REFER | NAMES)][..]),
        ("files only in b", &[("a", REFER | NAMES), ("b", REFER | MAKE_REG | REMOVE_FILE)]),
        ("no making in a", &[("a", REFER | REMOVE_FILE | REMOVE_DIR), ("b", REFER | NAMES)]),
        ("no removing in b", &[("a", REFER | NAMES), ("b", REFER | MAKE_REG | MAKE_DIR)]),
    ] {
        say("rules", what);
        moves(&[(REFER | NAMES, rules)], &list);
    }
}

fn links() {
    tree();
    let rs = ruleset(REFER | NAMES, 0, 0);
    beneath(rs, "a", REFER | MAKE_REG);
    beneath(rs, "b", REFER | NAMES);
    let fd = open("a/f", libc::O_RDONLY).fd();
    enter(rs);
    say("from a", link("a/f", "b/h"));
    say("within b", link("b/g", "b/i"));
    say("to a", link("b/g", "a/i"));
    say("onto something", link("a/f", "b/g"));
    say("of a directory", link("a/d", "b/dd"));
    say("to nowhere", link("a/f", "c/f"));
    say("from nowhere", link("f", "a/new"));
    let at = cstr(&format!("/proc/self/fd/{fd}"));
    let follow = libc::AT_SYMLINK_FOLLOW;
    say("by descriptor", c!(libc::linkat(-100, at.as_ptr(), -100, c"b/j".as_ptr(), follow)));
    say(
        "by descriptor to nowhere",
        c!(libc::linkat(-100, at.as_ptr(), -100, c"c/j".as_ptr(), follow)),
    );
    let m = c!(libc::memfd_create(c"m".as_ptr(), 0)).fd();
    let at = cstr(&format!("/proc/self/fd/{m}"));
    say("another mount", c!(libc::linkat(-100, at.as_ptr(), -100, c"b/m".as_ptr(), follow)));
}

/// The mount is where both sides meet.
fn whole_mounts() {
    own_mounts();
    for d in ["disk/x", "disk/y", "view", "above"] {
        std::fs::create_dir_all(d).unwrap();
    }
    put("disk/x/f", b"");
    bind_mount("disk", "view");
    let try_it = |what: &str, rules: &[(&str, u64)]| {
        apart(|| {
            let rs = ruleset(REFER | READ, 0, 0);
            for (p, access) in rules {
                beneath(rs, p, *access);
            }
            enter(rs);
            say(&format!("{what}: inside"), rename2("view/x/f", "view/y/f", 0));
            say(&format!("{what}: back"), rename2("view/y/f", "view/x/f", 0));
            say(&format!("{what}: by the original"), rename2("disk/x/f", "disk/y/f", 0));
            say(&format!("{what}: back"), rename2("disk/y/f", "disk/x/f", 0));
            say(&format!("{what}: across"), rename2("view/x/f", "disk/y/f", 0));
        });
        let _ = std::fs::rename("disk/y/f", "disk/x/f");
    };
    try_it("on the mount", &[("view", REFER)]);
    try_it("above the mount", &[(".", REFER)]);
    try_it("on the original", &[("disk", REFER)]);
    try_it("on both ends", &[("disk/x", REFER), ("view/y", REFER)]);
    try_it("gain above", &[(".", REFER | READ), ("view/y", READ)]);
    try_it("gain inside", &[(".", REFER), ("view/y", READ)]);
}
