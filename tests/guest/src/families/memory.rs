//! mmap, munmap, mprotect, file and shared mappings, copy on write, limits, /proc/self/maps.

use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};

cases! {
    anonymous, mmap_errors, fixed, fixed_noreplace, hints, file_private, file_shared, coherence, file_offsets, file_permissions, shared_anonymous_fork, cow_after_fork, cow_of_file, munmap_forms, mprotect_forms, mprotect_execute, protection_none_reserve, as_limit, truncate_under_mapping, growsdown, big_sparse, write_to_text, maps_file, populate, many_mappings, execute_generated, read_into_mapping, zero_page, handed_over, mapping_under_signals, pagemap, locking_fills, locking_all_root: root,
}

pub(super) const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

pub(super) const RO: i32 = libc::PROT_READ;

pub(super) const ANON: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

pub(super) const PAGE: usize = 4096;

pub(super) fn mmap(addr: usize, len: usize, prot: i32, flags: i32, fd: i32, off: i64) -> R {
    c!(libc::mmap(addr as *mut _, len, prot, flags, fd, off))
}

pub(super) fn anon(pages: usize) -> *mut u8 {
    let r = mmap(0, pages * PAGE, RW, ANON, -1, 0);
    assert!(r.is_ok(), "mmap: {r}");
    r.0 as *mut u8
}

pub(super) fn get_byte(p: *mut u8) -> u8 {
    unsafe { p.read_volatile() }
}

pub(super) fn set_byte(p: *mut u8, v: u8) {
    unsafe { p.write_volatile(v) }
}

/// How a child ends that touches an address.
pub(super) fn touch(p: *mut u8, write: bool) -> String {
    in_child(|| {
        set_action(libc::SIGSEGV, libc::SIG_DFL);
        set_action(libc::SIGBUS, libc::SIG_DFL);
        if write {
            set_byte(p, 1);
        } else {
            std::hint::black_box(get_byte(p));
        }
        0
    })
}

fn anonymous() {
    let p = anon(4);
    say("page aligned", p as usize % PAGE);
    say("zero", (0..4 * PAGE).all(|i| get_byte(unsafe { p.add(i) }) == 0));
    for i in 0..4 * PAGE {
        set_byte(unsafe { p.add(i) }, i as u8);
    }
    say("keeps", (0..4 * PAGE).all(|i| get_byte(unsafe { p.add(i) }) == i as u8));
    say("length rounded up", {
        let r = mmap(0, 1, RW, ANON, -1, 0).0 as *mut u8;
        set_byte(unsafe { r.add(4095) }, 1);
        true
    });
    say("unmap", c!(libc::munmap(p.cast(), 4 * PAGE)));
    say("touch after unmap", touch(p, false));
}

fn mmap_errors() {
    put("f", b"hello");
    let fd = open("f", libc::O_RDWR).fd();
    say("length 0", mmap(0, 0, RW, ANON, -1, 0).ok());
    say("length huge", mmap(0, usize::MAX, RW, ANON, -1, 0).ok());
    say("length 2^47", mmap(0, 1 << 47, RW, ANON, -1, 0).ok());
    say("no type", mmap(0, PAGE, RW, libc::MAP_ANONYMOUS, -1, 0).ok());
    say(
        "private and shared is MAP_SHARED_VALIDATE",
        mmap(0, PAGE, RW, libc::MAP_ANONYMOUS | 3, -1, 0).ok(),
    );
    say("bad fd", mmap(0, PAGE, RW, libc::MAP_PRIVATE, 999, 0).ok());
    say("offset not aligned", sc!(libc::SYS_mmap, 0, PAGE, RW, libc::MAP_PRIVATE, fd, 100).ok());
    say(
        "offset overflow",
        mmap(0, 2 * PAGE, RW, libc::MAP_PRIVATE, fd, 0x7fff_ffff_ffff_f000).ok(),
    );
    say("fixed not aligned", mmap(0x1000_0001, PAGE, RW, ANON | libc::MAP_FIXED, -1, 0).ok());
    say(
        "fixed in kernel half",
        mmap(0xffff_8000_0000_0000, PAGE, RW, ANON | libc::MAP_FIXED, -1, 0).ok(),
    );
    say(
        "fixed across the top",
        mmap(0x7fff_ffff_f000, 2 * PAGE, RW, ANON | libc::MAP_FIXED, -1, 0).ok(),
    );
    say("fixed at 0 as user", mmap(0, PAGE, RW, ANON | libc::MAP_FIXED, -1, 0).ok());
    say("directory", {
        let d = open(".", libc::O_RDONLY).fd();
        mmap(0, PAGE, RO, libc::MAP_PRIVATE, d, 0).ok()
    });
    say("pipe", mmap(0, PAGE, RO, libc::MAP_PRIVATE, pipe().0, 0).ok());
    say("O_PATH", mmap(0, PAGE, RO, libc::MAP_PRIVATE, open("f", libc::O_PATH).fd(), 0).ok());
    say(
        "validate with unknown flag",
        mmap(0, PAGE, RW, libc::MAP_SHARED_VALIDATE | 0x2000_0000, fd, 0).ok(),
    );
    say(
        "unknown flag without validate",
        mmap(0, PAGE, RW, libc::MAP_PRIVATE | 0x2000_0000, fd, 0).ok(),
    );
}

fn fixed() {
    let p = anon(4);
    set_byte(p, 1);
    set_byte(unsafe { p.add(PAGE) }, 2);
    set_byte(unsafe { p.add(2 * PAGE) }, 3);
    let r = mmap(p as usize + PAGE, PAGE, RW, ANON | libc::MAP_FIXED, -1, 0);
    say("at the place", r.0 as usize == p as usize + PAGE);
    say("replaced", get_byte(unsafe { p.add(PAGE) }));
    say("neighbours", format!("{} {}", get_byte(p), get_byte(unsafe { p.add(2 * PAGE) })));
}

fn fixed_noreplace() {
    let p = anon(3);
    unsafe { libc::munmap(p.add(PAGE).cast(), PAGE) };
    let at = |pages: usize, off: usize| {
        mmap(p as usize + off, pages * PAGE, RW, ANON | libc::MAP_FIXED_NOREPLACE, -1, 0).ok()
    };
    say("over a mapping", at(1, 0));
    say("overlapping", at(2, PAGE));
    say("in the hole", at(1, PAGE));
}

fn hints() {
    let p = anon(1);
    let r = mmap(p as usize, PAGE, RW, ANON, -1, 0);
    say("taken hint gives another place", r.0 as usize != p as usize);
    unsafe { libc::munmap(p.cast(), PAGE) };
    say("free hint is taken", mmap(p as usize, PAGE, RW, ANON, -1, 0).0 as usize == p as usize);
    say("MAP_32BIT", mmap(0, PAGE, RW, ANON | libc::MAP_32BIT, -1, 0).0 < 1 << 31);
    let r = mmap(0x5555_0000_0123, PAGE, RW, ANON, -1, 0);
    say("unaligned hint is rounded", r.0 as usize % PAGE);
    say("hint beyond the end", mmap(0x7fff_ffff_ffff_f000, PAGE, RW, ANON, -1, 0).ok());
}

fn file_private() {
    put("f", b"hello world");
    let fd = open("f", libc::O_RDONLY).fd();
    let p = mmap(0, PAGE, RW, libc::MAP_PRIVATE, fd, 0).0 as *mut u8;
    close(fd);
    say("content", quoted(unsafe { std::slice::from_raw_parts(p, 11) }));
    say("rest of page", (11..PAGE).all(|i| get_byte(unsafe { p.add(i) }) == 0));
    set_byte(p, b'J');
    say("file unchanged", get("f"));
    say("own copy", get_byte(p) as char);
}

fn file_shared() {
    put("f", b"hello world");
    let fd = open("f", libc::O_RDWR).fd();
    let p = mmap(0, PAGE, RW, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    close(fd);
    set_byte(p, b'J');
    set_byte(unsafe { p.add(20) }, b'!');
    say("file", get("f"));
    unsafe { libc::munmap(p.cast(), PAGE) };
    say("after unmap", get("f"));
    say("beyond the end is not in the file", std::fs::metadata("f").unwrap().len());
}

fn coherence() {
    put("f", &[b'.'; 3 * PAGE]);
    let fd = open("f", libc::O_RDWR).fd();
    let a = mmap(0, 3 * PAGE, RW, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    let b = mmap(0, 3 * PAGE, RO, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    let pr = mmap(0, 3 * PAGE, RW, libc::MAP_PRIVATE, fd, 0).0 as *mut u8;
    set_byte(unsafe { a.add(5000) }, b'a');
    say("other mapping", get_byte(unsafe { b.add(5000) }) as char);
    let mut one = [0u8];
    unsafe { libc::pread(fd, one.as_mut_ptr().cast(), 1, 5000) };
    say("pread", one[0] as char);
    unsafe { libc::pwrite(fd, b"w".as_ptr().cast(), 1, 6000) };
    say("pwrite seen by mapping", get_byte(unsafe { a.add(6000) }) as char);
    say("private mapping not written sees it", get_byte(unsafe { pr.add(6000) }) as char);
    let s = in_child(|| {
        set_byte(unsafe { a.add(7000) }, b'c');
        0
    });
    say("written by a child", format!("{s} {}", get_byte(unsafe { b.add(7000) }) as char));
    set_byte(unsafe { pr.add(1) }, b'p');
    unsafe { libc::pwrite(fd, b"zz".as_ptr().cast(), 2, 0) };
    say(
        "a private page that was written keeps its copy",
        format!("{} {}", get_byte(pr) as char, get_byte(unsafe { pr.add(1) }) as char),
    );
    let g = open("f", libc::O_RDWR).fd();
    unsafe { libc::pwrite(g, b"q".as_ptr().cast(), 1, 8000) };
    say("through another open", get_byte(unsafe { a.add(8000) }) as char);
}

fn file_offsets() {
    let mut b = vec![0u8; 3 * PAGE + 100];
    for (i, c) in b.chunks_mut(PAGE).enumerate() {
        c.fill(b'0' + i as u8);
    }
    put("f", &b);
    let fd = open("f", libc::O_RDWR).fd();
    let p = mmap(0, 2 * PAGE, RO, libc::MAP_SHARED, fd, 2 * PAGE as i64).0 as *mut u8;
    say("page 2", get_byte(p) as char);
    say("page 3", get_byte(unsafe { p.add(PAGE + 99) }) as char);
    say("after the end of file", get_byte(unsafe { p.add(PAGE + 100) }));
    let q = mmap(0, PAGE, RO, libc::MAP_SHARED, fd, 40 * PAGE as i64);
    say("wholly beyond the end", q.ok());
    say("touch it", touch(q.0 as *mut u8, false));
}

fn file_permissions() {
    put("f", b"x");
    let r = open("f", libc::O_RDONLY).fd();
    let w = open("f", libc::O_WRONLY).fd();
    say("shared write of read-only fd", mmap(0, PAGE, RW, libc::MAP_SHARED, r, 0).ok());
    say("private write of read-only fd", mmap(0, PAGE, RW, libc::MAP_PRIVATE, r, 0).ok());
    say("shared read of write-only fd", mmap(0, PAGE, RO, libc::MAP_SHARED, w, 0).ok());
    say("private read of write-only fd", mmap(0, PAGE, RO, libc::MAP_PRIVATE, w, 0).ok());
    let p = mmap(0, PAGE, RO, libc::MAP_SHARED, r, 0);
    say("mprotect to write", c!(libc::mprotect(p.0 as *mut _, PAGE, RW)));
    let p = mmap(0, PAGE, RO, libc::MAP_PRIVATE, r, 0);
    say("mprotect private to write", c!(libc::mprotect(p.0 as *mut _, PAGE, RW)));
}

fn shared_anonymous_fork() {
    let p = mmap(0, PAGE, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0).0 as *mut u8;
    let s = in_child(|| {
        set_byte(p, 42);
        0
    });
    say("child's write", format!("{s} {}", get_byte(p)));
    let go = Event::new();
    let pid = child(|| {
        go.wait();
        get_byte(unsafe { p.add(1) }) as i32
    });
    set_byte(unsafe { p.add(1) }, 17);
    go.post();
    say("parent's write", reap(pid));
    let d = open("/dev/zero", libc::O_RDWR).fd();
    let z = mmap(0, PAGE, RW, libc::MAP_SHARED, d, 0);
    say("shared /dev/zero", z.ok());
    in_child(|| {
        set_byte(z.0 as *mut u8, 5);
        0
    });
    say("is shared", get_byte(z.0 as *mut u8));
}

fn cow_after_fork() {
    let p = anon(256);
    for i in 0..256 {
        set_byte(unsafe { p.add(i * PAGE) }, i as u8);
    }
    let (go, done) = (Event::new(), Event::new());
    let pid = child(|| {
        let ok = (0..256).all(|i| get_byte(unsafe { p.add(i * PAGE) }) == i as u8);
        for i in 0..256 {
            set_byte(unsafe { p.add(i * PAGE) }, 255);
        }
        done.post();
        go.wait();
        // A grandchild over copied pages.
        let g = in_child(|| (0..256).all(|i| get_byte(unsafe { p.add(i * PAGE) }) == 255) as i32);
        (ok && g == "exit 1") as i32
    });
    done.wait();
    say("parent's pages", (0..256).all(|i| get_byte(unsafe { p.add(i * PAGE) }) == i as u8));
    for i in 0..256 {
        set_byte(unsafe { p.add(i * PAGE) }, 1);
    }
    go.post();
    say("child", reap(pid));
    // The kernel writes into a page shared by fork too.
    let (r, w) = pipe();
    let q = anon(1);
    set_byte(q, b'-');
    let hold = Event::new();
    let pid = child(|| {
        hold.wait();
        get_byte(q) as i32
    });
    write(w, b"K");
    unsafe { libc::read(r, q.cast(), 1) };
    say("read into a page of the fork", get_byte(q) as char);
    hold.post();
    say("child's stays", reap(pid) == format!("exit {}", b'-'));
}

fn cow_of_file() {
    put("f", &[b'f'; PAGE]);
    let fd = open("f", libc::O_RDONLY).fd();
    let p = mmap(0, PAGE, RW, libc::MAP_PRIVATE, fd, 0).0 as *mut u8;
    let s = in_child(|| {
        set_byte(p, b'c');
        get_byte(p) as i32
    });
    say("child wrote", s);
    say("parent reads the file", get_byte(p) as char);
    set_byte(p, b'p');
    let s = in_child(|| get_byte(p) as i32);
    say("child inherits the copy", s == format!("exit {}", b'p'));
    say("file", std::fs::read("f").unwrap()[0] as char);
}

fn munmap_forms() {
    let p = anon(5);
    say("middle", c!(libc::munmap(p.add(2 * PAGE).cast(), PAGE)));
    say("over the hole", c!(libc::munmap(p.add(PAGE).cast(), 3 * PAGE)));
    say("first stays", touch(p, true));
    say("last stays", touch(unsafe { p.add(4 * PAGE) }, true));
    say("nothing there", c!(libc::munmap(p.add(2 * PAGE).cast(), PAGE)));
    say("not aligned", c!(libc::munmap(p.add(1).cast(), PAGE)));
    say("length 0", c!(libc::munmap(p.cast(), 0)));
    say("length not aligned", c!(libc::munmap(p.cast(), 10)));
    say("whole page gone", touch(unsafe { p.add(100) }, false));
    say("kernel half", c!(libc::munmap(0xffff_8000_0000_0000usize as *mut _, PAGE)));
    say("wraps", c!(libc::munmap(PAGE as *mut _, usize::MAX & !4095)));
}

fn mprotect_forms() {
    let p = anon(4);
    set_byte(p, 9);
    say("read only", c!(libc::mprotect(p.cast(), PAGE, RO)));
    say("read", touch(p, false));
    say("write", touch(p, true));
    say("none", c!(libc::mprotect(p.cast(), PAGE, libc::PROT_NONE)));
    say("read", touch(p, false));
    say("back", c!(libc::mprotect(p.cast(), PAGE, RW)));
    say("content kept", get_byte(p));
    say("middle pages", c!(libc::mprotect(p.add(PAGE).cast(), 2 * PAGE, RO)));
    say("write to page 1", touch(unsafe { p.add(PAGE) }, true));
    say("write to page 3", touch(unsafe { p.add(3 * PAGE) }, true));
    unsafe { libc::munmap(p.add(2 * PAGE).cast(), PAGE) };
    say("over a hole", c!(libc::mprotect(p.cast(), 4 * PAGE, RO)));
    say("before the hole it was done", touch(p, true));
    say("after the hole not", touch(unsafe { p.add(3 * PAGE) }, true));
    say("not aligned", c!(libc::mprotect(p.add(1).cast(), PAGE, RO)));
    say("length 0", c!(libc::mprotect(p.cast(), 0, RO)));
    say("bad bits", c!(libc::mprotect(p.cast(), PAGE, 0x40)));
    say(
        "both grow flags",
        c!(libc::mprotect(p.cast(), PAGE, RO | libc::PROT_GROWSDOWN | libc::PROT_GROWSUP)),
    );
    say(
        "grows on a mapping that does not",
        c!(libc::mprotect(p.cast(), PAGE, RO | libc::PROT_GROWSDOWN)),
    );
}

fn mprotect_execute() {
    let p = anon(1);
    // mov eax, 7; ret
    unsafe { p.copy_from([0xb8, 7, 0, 0, 0, 0xc3].as_ptr(), 6) };
    let call = || {
        in_child(|| {
            set_action(libc::SIGSEGV, libc::SIG_DFL);
            let f: extern "C" fn() -> i32 = unsafe { std::mem::transmute(p) };
            f()
        })
    };
    say("without PROT_EXEC", call());
    say("mprotect", c!(libc::mprotect(p.cast(), PAGE, RO | libc::PROT_EXEC)));
    say("with", call());
    unsafe { libc::mprotect(p.cast(), PAGE, libc::PROT_EXEC) };
    say("execute only", call());
    unsafe { libc::mprotect(p.cast(), PAGE, RW) };
    say("and without again", call());
}

fn protection_none_reserve() {
    // 64 GiB of address space without memory, then a part of it used.
    let r = mmap(0, 64 << 30, libc::PROT_NONE, ANON | libc::MAP_NORESERVE, -1, 0);
    say("reserve", r.ok());
    let mid = (r.0 as usize + (32 << 30)) as *mut u8;
    say("use", c!(libc::mprotect(mid.cast(), PAGE, RW)));
    set_byte(mid, 1);
    say("works", get_byte(mid));
    say("next page", touch(unsafe { mid.add(PAGE) }, false));
    say("release", c!(libc::munmap(r.0 as *mut _, 64 << 30)));
}

pub(super) fn mremap(p: *mut u8, old: usize, new: usize, flags: i32, at: usize) -> R {
    sc!(libc::SYS_mremap, p, old, new, flags, at)
}

pub(super) fn stat(fd: i32) -> libc::stat {
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    unsafe { libc::fstat(fd, &mut st) };
    st
}

fn as_limit() {
    let s = in_child(|| {
        let now = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = now.split(' ').next().unwrap().parse().unwrap();
        let l = libc::rlimit { rlim_cur: pages * 4096 + (16 << 20), rlim_max: libc::RLIM_INFINITY };
        unsafe { libc::setrlimit(libc::RLIMIT_AS, &l) };
        say("8 MiB", mmap(0, 8 << 20, RW, ANON, -1, 0).ok());
        say("32 MiB", mmap(0, 32 << 20, RW, ANON, -1, 0).ok());
        say("PROT_NONE counts too", mmap(0, 32 << 20, libc::PROT_NONE, ANON, -1, 0).ok());
        let p = mmap(0, PAGE, RW, ANON, -1, 0).0 as *mut u8;
        say("mremap", mremap(p, PAGE, 32 << 20, libc::MREMAP_MAYMOVE, 0).ok());
        0
    });
    say("child", s);
}

fn truncate_under_mapping() {
    put("f", &[b'f'; 3 * PAGE]);
    let fd = open("f", libc::O_RDWR).fd();
    let p = mmap(0, 3 * PAGE, RW, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    let q = mmap(0, 3 * PAGE, RW, libc::MAP_PRIVATE, fd, 0).0 as *mut u8;
    set_byte(unsafe { q.add(2 * PAGE) }, b'c');
    unsafe { libc::ftruncate(fd, PAGE as i64 + 10) };
    say("byte before the end", get_byte(unsafe { p.add(PAGE + 9) }) as char);
    say("rest of the page zeroed", get_byte(unsafe { p.add(PAGE + 10) }));
    say("page beyond", touch(unsafe { p.add(2 * PAGE) }, false));
    say("private copy beyond", touch(unsafe { q.add(2 * PAGE) }, false));
    unsafe { libc::ftruncate(fd, 3 * PAGE as i64) };
    say("grown again reads zero", get_byte(unsafe { p.add(2 * PAGE) }));
    say("written beyond the end earlier is not seen", get_byte(unsafe { p.add(PAGE + 20) }));
}

fn growsdown() {
    let p = mmap(0x2000_0000_0000, PAGE, RW, ANON | libc::MAP_GROWSDOWN | libc::MAP_FIXED, -1, 0).0
        as *mut u8;
    say("page below appears", touch(unsafe { p.sub(PAGE) }, true));
    say("a hundred pages below too", touch(unsafe { p.sub(100 * PAGE) }, true));
    set_byte(unsafe { p.sub(PAGE) }, 1);
    let wall = mmap(p as usize - 600 * PAGE, PAGE, RO, ANON | libc::MAP_FIXED, -1, 0);
    say("mapping in the way", wall.ok());
    say("inside the guard gap", touch(unsafe { p.sub(590 * PAGE) }, true));
}

fn big_sparse() {
    let r = mmap(0, 8 << 30, RW, ANON | libc::MAP_NORESERVE, -1, 0);
    say("8 GiB", r.ok());
    let p = r.0 as *mut u8;
    for g in 0..8 {
        set_byte(unsafe { p.add(g << 30) }, g as u8);
    }
    say("touched at each GiB", (0..8).all(|g| get_byte(unsafe { p.add(g << 30) }) == g as u8));
    put("sparse", b"");
    let fd = open("sparse", libc::O_RDWR).fd();
    unsafe { libc::ftruncate(fd, 1 << 30) };
    let q = mmap(0, 1 << 30, RW, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    set_byte(unsafe { q.add((1 << 30) - 1) }, 7);
    let mut b = [0u8];
    unsafe { libc::pread(fd, b.as_mut_ptr().cast(), 1, (1 << 30) - 1) };
    say("sparse file by mapping", b[0]);
}

fn write_to_text() {
    let p = write_to_text as *mut u8;
    say("write to own code", touch(p, true));
    say("read own code", touch(p, false));
    // Copy on write of text after mprotect, as debuggers and linkers do.
    let page = (p as usize & !4095) as *mut libc::c_void;
    say("make it writable", c!(libc::mprotect(page, 2 * PAGE, RW | libc::PROT_EXEC)));
    say("write", touch(p, true));
}

fn maps_file() {
    put("mapped-file", &[0; 2 * PAGE]);
    let fd = open("mapped-file", libc::O_RDWR).fd();
    let p = mmap(0, 2 * PAGE, RO, libc::MAP_SHARED, fd, 0).0 as usize;
    let find = |a: usize| -> Option<Vec<String>> {
        let m = std::fs::read_to_string("/proc/self/maps").unwrap();
        m.lines()
            .find(|l| l.starts_with(&format!("{a:x}-")))
            .map(|l| l.split_whitespace().map(String::from).collect())
    };
    let f = find(p).unwrap();
    say("permissions", &f[1]);
    say("size", {
        let (a, b) = f[0].split_once('-').unwrap();
        usize::from_str_radix(b, 16).unwrap() - usize::from_str_radix(a, 16).unwrap()
    });
    say("offset", &f[2]);
    say("name", f[5].ends_with("/mapped-file"));
    say("inode is the file's", f[4] == stat(fd).st_ino.to_string());
    unsafe { libc::unlink(c"mapped-file".as_ptr()) };
    say("deleted", find(p).unwrap().last().unwrap() == "(deleted)");
    let q = mmap(p + PAGE, PAGE, RW, libc::MAP_PRIVATE | libc::MAP_FIXED, fd, 0).0 as usize;
    say(
        "split: private at the second page",
        format!("{} {}", find(q).unwrap()[1], find(q).unwrap()[2]),
    );
    let m = std::fs::read_to_string("/proc/self/maps").unwrap();
    for n in ["[stack]", "[heap]", "[vdso]"] {
        say(n, m.lines().filter(|l| l.ends_with(n)).count());
    }
    let sorted: Vec<u64> =
        m.lines().map(|l| u64::from_str_radix(l.split('-').next().unwrap(), 16).unwrap()).collect();
    say("ascending", sorted.is_sorted());
}

fn populate() {
    let r = mmap(0, 64 * PAGE, RW, ANON | libc::MAP_POPULATE, -1, 0);
    let mut v = [0u8; 64];
    unsafe { libc::mincore(r.0 as *mut _, 64 * PAGE, v.as_mut_ptr()) };
    say("all resident", v.iter().all(|b| b & 1 == 1));
    say("zero", (0..64).all(|i| get_byte((r.0 as usize + i * PAGE) as *mut u8) == 0));
}

fn many_mappings() {
    // Alternating protections make mappings that cannot be merged.
    let p = anon(4000);
    let mut ok = 0;
    for i in (0..4000).step_by(2) {
        ok += (unsafe { libc::mprotect(p.add(i * PAGE).cast(), PAGE, RO) } == 0) as i32;
    }
    say("split", ok);
    let n = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    say("mappings over 4000", n > 4000);
    let s = in_child(|| {
        set_byte(unsafe { p.add(PAGE) }, 1);
        0
    });
    say("fork with them", s);
    unsafe { libc::mprotect(p.cast(), 4000 * PAGE, RW) };
    let n = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    say("merged again", n < 200);
}

fn execute_generated() {
    // A JIT's way: two mappings of one memfd, one to write and one to execute.
    let fd = c!(libc::memfd_create(c"jit".as_ptr(), 0)).fd();
    unsafe { libc::ftruncate(fd, PAGE as i64) };
    let w = mmap(0, PAGE, RW, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    let x = mmap(0, PAGE, RO | libc::PROT_EXEC, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    let f: extern "C" fn() -> i32 = unsafe { std::mem::transmute(x) };
    let mut out = Vec::new();
    for i in 0..3u8 {
        unsafe { w.copy_from([0xb8, 10 + i, 0, 0, 0, 0xc3].as_ptr(), 6) };
        out.push(f());
    }
    say("results", format!("{out:?}"));
}

fn read_into_mapping() {
    // The kernel writes into a shared file mapping, and reads from one, of the same file.
    put("f", &[b'a'; 2 * PAGE]);
    let fd = open("f", libc::O_RDWR).fd();
    let p = mmap(0, 2 * PAGE, RW, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    set_byte(p, b'b');
    say("pread of the file into its own mapping", c!(libc::pread(fd, p.add(PAGE).cast(), 100, 0)));
    say("result", get_byte(unsafe { p.add(PAGE) }) as char);
    say("pwrite of the mapping into its own file", c!(libc::pwrite(fd, p.cast(), 50, 200)));
    say("result", get_byte(unsafe { p.add(200) }) as char);
    let ro = mmap(0, PAGE, RO, libc::MAP_PRIVATE, fd, 0).0 as *mut u8;
    say("read into a read-only mapping", c!(libc::pread(fd, ro.cast(), 10, 0)));
    let w = shared_words();
    say("word", w[0].load(SeqCst));
}

fn zero_page() {
    // Reading untouched memory and then writing must not leak into another mapping.
    let (a, b) = (anon(1), anon(1));
    say("read", get_byte(a) + get_byte(b));
    set_byte(a, 1);
    say("other still zero", get_byte(b));
    let s = in_child(|| {
        set_byte(b, 9);
        get_byte(b) as i32
    });
    say("child", s);
    say("parent", get_byte(b));
}

fn handed_over() {
    // One thread maps and then makes no call any more; another uses the memory at once.
    let (mut kept, mut read_only, mut gone, mut copied) = (0, 0, 0, 0);
    const ROUNDS: usize = 20;
    for _ in 0..ROUNDS {
        let (at, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|s| {
            s.spawn(|| {
                at.store(anon(4) as usize, SeqCst);
                while !over.load(SeqCst) {
                    std::hint::spin_loop();
                }
            });
            while at.load(SeqCst) == 0 {
                std::hint::spin_loop();
            }
            let p = at.load(SeqCst) as *mut u8;
            let page = |i: usize| unsafe { p.add(i * PAGE) };
            (0..4).for_each(|i| set_byte(page(i), 7));
            let child = in_child(|| i32::from(get_byte(page(0))));
            copied += usize::from(child == in_child(|| 7));
            unsafe {
                libc::mprotect(page(1).cast(), PAGE, RO);
                libc::munmap(page(3).cast(), PAGE);
            }
            kept += usize::from((0..3).all(|i| get_byte(page(i)) == 7));
            read_only += usize::from(touch(page(1), true) != touch(page(1), false));
            gone += usize::from(touch(page(3), false) != touch(page(2), false));
            over.store(true, SeqCst);
        });
    }
    say("copied by fork", copied == ROUNDS);
    say("kept", kept == ROUNDS);
    say("protected", read_only == ROUNDS);
    say("unmapped", gone == ROUNDS);
}

fn mapping_under_signals() {
    static TICKS: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn tick(_: i32) {
        TICKS.fetch_add(1, SeqCst);
    }
    set_action(libc::SIGALRM, tick as *const () as usize);
    let every = libc::timeval { tv_sec: 0, tv_usec: 500 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    put("f", &[b'f'; 2 * PAGE]);
    let fd = open("f", libc::O_RDONLY).fd();
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    let (mut good, mut rounds) = (0, 0);
    while TICKS.load(SeqCst) < 200 {
        rounds += 1;
        let p = anon(2);
        let fresh = get_byte(p) == 0;
        set_byte(p, 1);
        let f = mmap(p as usize, PAGE, RW, libc::MAP_PRIVATE | libc::MAP_FIXED, fd, PAGE as i64);
        let file = f.0 as usize == p as usize && get_byte(p) == b'f';
        let brk = unsafe { libc::sbrk(PAGE as isize) }.cast::<u8>();
        set_byte(brk, 3);
        good += usize::from(fresh && file && get_byte(brk) == 3);
        unsafe {
            libc::sbrk(-(PAGE as isize));
            libc::munmap(p.cast(), 2 * PAGE);
        }
    }
    let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: never, it_value: never };
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    say("every round", good == rounds);
}

/// /proc/self/pagemap: which pages are there.
fn pagemap() {
    use std::os::unix::fs::FileExt;
    let at = mmap(0, 4 * PAGE, RW, ANON, -1, 0).0 as usize;
    unsafe { (at as *mut u8).add(PAGE).write(1) };
    let f = std::fs::File::open("/proc/self/pagemap").unwrap();
    let mut b = [0u8; 32];
    let n = f.read_at(&mut b, (at / PAGE * 8) as u64).unwrap();
    let present: Vec<bool> = b.chunks(8).map(|e| e[7] & 0x80 != 0).collect();
    say("four pages", format!("{n} {present:?}"));
    say("half an entry", f.read_at(&mut b[..4], 0).err().map_or(0, |e| e.raw_os_error().unwrap()));
    say("off the grid", f.read_at(&mut b, 4).err().map_or(0, |e| e.raw_os_error().unwrap()));
    let set = &mut [0u8; 8];
    say("private file", {
        let len = std::fs::metadata("/proc/self/exe").unwrap().len() > PAGE as u64;
        let e = open_ro("/proc/self/exe");
        let m = mmap(0, PAGE, RO, libc::MAP_PRIVATE | libc::MAP_POPULATE, e, 0).0 as usize;
        f.read_at(set, (m / PAGE * 8) as u64).unwrap();
        format!("{len} present {} file {}", set[7] & 0x80 != 0, set[7] & 0x20 != 0)
    });
}

fn open_ro(path: &str) -> i32 {
    let p = std::ffi::CString::new(path).unwrap();
    c!(libc::open(p.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC)).fd()
}

/// Kilobytes of the area at `at` that are there.
fn resident(at: usize) -> String {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let head = format!("{at:x}-");
    let area = text.split_once(&head).unwrap().1;
    let field = |name: &str| {
        let line = area.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_string()
    };
    format!("{} of {} kB", field("Rss:"), field("Size:"))
}

/// Two pages between neighbours of another kind, which keep the area apart.
fn apart(prot: i32) -> usize {
    let whole = mmap(0, 4 * PAGE, libc::PROT_NONE, ANON, -1, 0).0 as usize;
    mmap(whole + PAGE, 2 * PAGE, prot, ANON | libc::MAP_FIXED, -1, 0);
    whole + PAGE
}

/// mlock(2): what is locked is there, but for the form that locks on a fault.
fn locking_fills() {
    let a = apart(RW);
    say("mlock", c!(libc::mlock(a as _, 2 * PAGE)));
    say("writable", resident(a));
    let a = apart(RW);
    say("mlock2 on fault", sc!(libc::SYS_mlock2, a, 2 * PAGE, 1));
    say("there", resident(a));
    unsafe { (a as *mut u8).write(1) };
    say("after a write", resident(a));
}

/// mlockall(2) likewise, of what there is and what comes.
fn locking_all_root() {
    let a = apart(RW);
    say("mlockall", c!(libc::mlockall(libc::MCL_CURRENT)));
    say("there", resident(a));
    say("later", resident(apart(RW)));
    say("future", c!(libc::mlockall(libc::MCL_FUTURE)));
    say("there", resident(apart(RW)));
    say("future on fault", c!(libc::mlockall(libc::MCL_FUTURE | libc::MCL_ONFAULT)));
    say("there", resident(apart(RW)));
    say("munlockall", c!(libc::munlockall()));
    say("there", resident(apart(RW)));
}
