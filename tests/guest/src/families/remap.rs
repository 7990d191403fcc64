//! mremap, madvise, mincore, msync, brk, memfd and its seals, mlock, process_vm_readv.

use super::memory::*;
use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    mremap_grow_shrink, mremap_move, mremap_fixed, mremap_dontunmap, mremap_errors, mremap_shared_duplicate, madvise_dontneed, madvise_forms, madvise_fork, mincore, msync, brk, memfd, memfd_seals, memfd_seal_rules, mlock, mlock_limits, process_vm, remap_file_pages,
}

fn mremap_grow_shrink() {
    let p = anon(4);
    set_byte(p, 1);
    set_byte(unsafe { p.add(3 * PAGE) }, 4);
    say("shrink in place", mremap(p, 4 * PAGE, 2 * PAGE, 0, 0).0 as usize == p as usize);
    say("tail gone", touch(unsafe { p.add(3 * PAGE) }, false));
    say("grow into the free place", mremap(p, 2 * PAGE, 4 * PAGE, 0, 0).0 as usize == p as usize);
    say("new pages are zero", get_byte(unsafe { p.add(3 * PAGE) }));
    say("old kept", get_byte(p));
    // Something in the way.
    let r = mmap(p as usize + 4 * PAGE, PAGE, RW, ANON | libc::MAP_FIXED, -1, 0);
    unsafe { libc::mprotect(r.0 as *mut _, PAGE, RO) };
    say("cannot grow in place", mremap(p, 4 * PAGE, 6 * PAGE, 0, 0).ok());
    let q = mremap(p, 4 * PAGE, 6 * PAGE, libc::MREMAP_MAYMOVE, 0);
    say("may move", q.ok());
    say("moved", q.0 as usize != p as usize);
    say("content moved", get_byte(q.0 as *mut u8));
    say("old place empty", touch(p, false));
}

fn mremap_move() {
    // Contents and private copies of a file mapping move along.
    put("f", &[b'f'; 4 * PAGE]);
    let fd = open("f", libc::O_RDONLY).fd();
    let p = mmap(0, 2 * PAGE, RW, libc::MAP_PRIVATE, fd, PAGE as i64).0 as *mut u8;
    set_byte(p, b'c');
    let guard = mmap(p as usize + 2 * PAGE, PAGE, RO, ANON | libc::MAP_FIXED_NOREPLACE, -1, 0);
    let _ = guard;
    let q = mremap(p, 2 * PAGE, 3 * PAGE, libc::MREMAP_MAYMOVE, 0).0 as *mut u8;
    say("copied page", get_byte(q) as char);
    say("file page", get_byte(unsafe { q.add(PAGE) }) as char);
    say("page that is new", get_byte(unsafe { q.add(2 * PAGE) }) as char);
    // Part of a mapping.
    let p = anon(4);
    for i in 0..4 {
        set_byte(unsafe { p.add(i * PAGE) }, i as u8);
    }
    let q = mremap(unsafe { p.add(PAGE) }, PAGE, 2 * PAGE, libc::MREMAP_MAYMOVE, 0).0 as *mut u8;
    say("a middle page moved", get_byte(q));
    say("hole left", touch(unsafe { p.add(PAGE) }, false));
    say("neighbour stays", get_byte(unsafe { p.add(2 * PAGE) }));
}

fn mremap_fixed() {
    let p = anon(2);
    set_byte(p, 1);
    let t = anon(4);
    set_byte(t, 9);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    say(
        "to a place in use",
        mremap(p, 2 * PAGE, 2 * PAGE, flags, t as usize).0 as usize == t as usize,
    );
    say("content", get_byte(t));
    say("old gone", touch(p, false));
    say("overlap", mremap(t, 2 * PAGE, 2 * PAGE, flags, t as usize + PAGE).ok());
    say("not aligned", mremap(t, 2 * PAGE, 2 * PAGE, flags, t as usize + 5).ok());
    say("fixed without maymove", mremap(t, PAGE, PAGE, libc::MREMAP_FIXED, 0x1000_0000).ok());
    say("to kernel half", mremap(t, PAGE, PAGE, flags, 0xffff_8000_0000_0000).ok());
}

fn mremap_dontunmap() {
    let p = anon(2);
    set_byte(p, 5);
    let q = mremap(p, 2 * PAGE, 2 * PAGE, libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP, 0);
    say("moved", q.is_ok() && q.0 as usize != p as usize);
    say("content", get_byte(q.0 as *mut u8));
    say("old place is mapped and empty", get_byte(p));
    say(
        "sizes must match",
        mremap(p, PAGE, 2 * PAGE, libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP, 0).ok(),
    );
    say("needs maymove", mremap(p, PAGE, PAGE, libc::MREMAP_DONTUNMAP, 0).ok());
}

fn mremap_errors() {
    let p = anon(2);
    say("not aligned", mremap(unsafe { p.add(1) }, PAGE, PAGE, 0, 0));
    say("new size 0", mremap(p, PAGE, 0, libc::MREMAP_MAYMOVE, 0));
    say("unknown flag", mremap(p, PAGE, PAGE, 8, 0));
    unsafe { libc::munmap(p.cast(), 2 * PAGE) };
    say("not mapped", mremap(p, PAGE, 2 * PAGE, libc::MREMAP_MAYMOVE, 0));
    let p = anon(2);
    unsafe { libc::mprotect(p.cast(), PAGE, RO) };
    say("over two mappings, growing", mremap(p, 2 * PAGE, 3 * PAGE, libc::MREMAP_MAYMOVE, 0));
    say("old size 0 of private", mremap(p, 0, PAGE, libc::MREMAP_MAYMOVE, 0));
    say("huge", mremap(p, PAGE, 1 << 48, libc::MREMAP_MAYMOVE, 0));
}

fn mremap_shared_duplicate() {
    let p = mmap(0, PAGE, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0).0 as *mut u8;
    let q = mremap(p, 0, PAGE, libc::MREMAP_MAYMOVE, 0);
    say("old size 0 of shared duplicates", q.is_ok() && q.0 as usize != p as usize);
    set_byte(p, 77);
    say("same memory", get_byte(q.0 as *mut u8));
}

fn madvise_dontneed() {
    let p = anon(3);
    for i in 0..3 {
        set_byte(unsafe { p.add(i * PAGE) }, 1);
    }
    say("anonymous", c!(libc::madvise(p.add(PAGE).cast(), PAGE, libc::MADV_DONTNEED)));
    say(
        "zero now",
        format!(
            "{} {} {}",
            get_byte(p),
            get_byte(unsafe { p.add(PAGE) }),
            get_byte(unsafe { p.add(2 * PAGE) })
        ),
    );
    put("f", &[b'f'; PAGE]);
    let fd = open("f", libc::O_RDWR).fd();
    let q = mmap(0, PAGE, RW, libc::MAP_PRIVATE, fd, 0).0 as *mut u8;
    set_byte(q, b'c');
    say("private file", c!(libc::madvise(q.cast(), PAGE, libc::MADV_DONTNEED)));
    say("file again", get_byte(q) as char);
    let s = mmap(0, PAGE, RW, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    set_byte(s, b's');
    say("shared", c!(libc::madvise(s.cast(), PAGE, libc::MADV_DONTNEED)));
    say("kept", get_byte(s) as char);
}

fn madvise_forms() {
    let p = anon(4);
    let adv = |name: &str, a: i32| say(name, c!(libc::madvise(p.cast(), PAGE, a)));
    for (n, a) in [
        ("NORMAL", 0),
        ("RANDOM", 1),
        ("SEQUENTIAL", 2),
        ("WILLNEED", 3),
        ("DONTNEED", 4),
        ("FREE", 8),
        ("REMOVE on private", 9),
        ("DONTFORK", 10),
        ("DOFORK", 11),
        ("DONTDUMP", 16),
        ("DODUMP", 17),
        ("WIPEONFORK", 18),
        ("KEEPONFORK", 19),
        ("COLD", 20),
        ("PAGEOUT", 21),
        ("POPULATE_READ", 22),
        ("POPULATE_WRITE", 23),
        ("unknown", 77),
        ("negative", -1),
    ] {
        adv(n, a);
    }
    say("not aligned", c!(libc::madvise(p.add(1).cast(), PAGE, 0)));
    say("length 0", c!(libc::madvise(p.cast(), 0, 4)));
    unsafe { libc::munmap(p.add(PAGE).cast(), PAGE) };
    set_byte(unsafe { p.add(2 * PAGE) }, 3);
    say("over a hole", c!(libc::madvise(p.cast(), 3 * PAGE, 4)));
    say("but done after it", get_byte(unsafe { p.add(2 * PAGE) }));
    let z = mmap(0, PAGE, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0).0 as *mut u8;
    set_byte(z, 7);
    say("REMOVE on shared", c!(libc::madvise(z.cast(), PAGE, libc::MADV_REMOVE)));
    say("zero", get_byte(z));
    put("f", &[b'f'; 2 * PAGE]);
    let fd = open("f", libc::O_RDWR).fd();
    let f = mmap(0, 2 * PAGE, RW, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    say("REMOVE in a file", c!(libc::madvise(f.cast(), PAGE, libc::MADV_REMOVE)));
    let mut b = [1u8; 1];
    unsafe { libc::pread(fd, b.as_mut_ptr().cast(), 1, 10) };
    say("zero in mapping and file", format!("{} {}", get_byte(f), b[0]));
    say("the rest stays", get_byte(unsafe { f.add(PAGE) }) as char);
    let n = mmap(0, PAGE, libc::PROT_NONE, ANON, -1, 0);
    say("DONTNEED without access", c!(libc::madvise(n.0 as *mut _, PAGE, 4)));
    say("POPULATE_READ without access", c!(libc::madvise(n.0 as *mut _, PAGE, 22)));
}

fn madvise_fork() {
    let p = anon(2);
    set_byte(p, 5);
    set_byte(unsafe { p.add(PAGE) }, 6);
    unsafe {
        libc::madvise(p.cast(), PAGE, libc::MADV_DONTFORK);
        libc::madvise(p.add(PAGE).cast(), PAGE, libc::MADV_WIPEONFORK);
    }
    say("DONTFORK in child", touch(p, false));
    say("WIPEONFORK in child", in_child(|| get_byte(unsafe { p.add(PAGE) }) as i32));
    say("in parent", get_byte(unsafe { p.add(PAGE) }));
}

fn mincore() {
    let p = anon(4);
    let mut v = [9u8; 4];
    set_byte(unsafe { p.add(PAGE) }, 1);
    say("call", c!(libc::mincore(p.cast(), 4 * PAGE, v.as_mut_ptr())));
    say("touched page is resident", v[1] & 1);
    say("untouched is not", v[0] & 1);
    say("not aligned", c!(libc::mincore(p.add(1).cast(), PAGE, v.as_mut_ptr())));
    say("bad vector", sc!(libc::SYS_mincore, p, PAGE, 8));
    unsafe { libc::munmap(p.add(2 * PAGE).cast(), PAGE) };
    say("hole", c!(libc::mincore(p.cast(), 4 * PAGE, v.as_mut_ptr())));
    say("length 0", c!(libc::mincore(p.cast(), 0, v.as_mut_ptr())));
}

fn msync() {
    put("f", &[b'.'; 2 * PAGE]);
    let fd = open("f", libc::O_RDWR).fd();
    let p = mmap(0, 2 * PAGE, RW, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    set_byte(p, b'X');
    say("MS_SYNC", c!(libc::msync(p.cast(), 2 * PAGE, libc::MS_SYNC)));
    say("MS_ASYNC", c!(libc::msync(p.cast(), 2 * PAGE, libc::MS_ASYNC)));
    say("MS_INVALIDATE", c!(libc::msync(p.cast(), 2 * PAGE, libc::MS_INVALIDATE)));
    say("both", c!(libc::msync(p.cast(), PAGE, libc::MS_SYNC | libc::MS_ASYNC)));
    say("none", c!(libc::msync(p.cast(), PAGE, 0)));
    say("unknown", c!(libc::msync(p.cast(), PAGE, 64)));
    say("not aligned", c!(libc::msync(p.add(7).cast(), PAGE, libc::MS_SYNC)));
    unsafe { libc::munmap(p.add(PAGE).cast(), PAGE) };
    say("hole", c!(libc::msync(p.cast(), 2 * PAGE, libc::MS_SYNC)));
    say("file", std::fs::read("f").unwrap()[0] as char);
}

fn brk() {
    let call = |a: usize| sc!(libc::SYS_brk, a).0 as usize;
    let b = call(0);
    say("query is not 0", b != 0);
    let up = (b + 0x1_0000 + 123) & !7;
    say("grow to a byte address", call(up) == up);
    let p = (b + 0x8000) as *mut u8;
    say("zero", get_byte(p));
    set_byte(p, 1);
    say("shrink", call(b) == b);
    say("grow again", call(up) == up);
    say("fresh zero", get_byte(p));
    say("too far keeps the old", call(1 << 46) == up);
    say("below the start keeps the old", call(4096) == up);
    let s = in_child(|| {
        set_byte(p, 3);
        0
    });
    say("after fork", format!("{s} {}", get_byte(p)));
    let l = libc::rlimit { rlim_cur: 0x2_0000, rlim_max: libc::RLIM_INFINITY };
    unsafe { libc::setrlimit(libc::RLIMIT_DATA, &l) };
    say("over RLIMIT_DATA keeps the old", call(up + (8 << 20)) == up);
}

fn memfd() {
    let fd = c!(libc::memfd_create(c"name".as_ptr(), libc::MFD_CLOEXEC));
    say("make", fd.ok());
    let fd = fd.fd();
    say("cloexec", c!(libc::fcntl(fd, libc::F_GETFD)));
    say("name", std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().to_str().unwrap());
    say("write", write(fd, b"content"));
    say("size", c!(libc::lseek(fd, 0, libc::SEEK_END)));
    let p = mmap(0, PAGE, RW, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    say("mapped", quoted(unsafe { std::slice::from_raw_parts(p, 7) }));
    say("grow", c!(libc::ftruncate(fd, 100_000)));
    let st = stat(fd);
    say("link count", st.st_nlink);
    say("mode", format!("{:o}", st.st_mode));
    say("opened again by /proc", open(&format!("/proc/self/fd/{fd}"), libc::O_RDONLY).ok());
    say("long name", c!(libc::memfd_create(cstr(&"n".repeat(249)).as_ptr(), 0)).ok());
    say("longer name", c!(libc::memfd_create(cstr(&"n".repeat(250)).as_ptr(), 0)).ok());
    say("bad flag", c!(libc::memfd_create(c"x".as_ptr(), 0x100)).ok());
    say("seals without ALLOW_SEALING", c!(libc::fcntl(fd, libc::F_GET_SEALS)));
    say("add seal", c!(libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_GROW)));
    put("plain", b"");
    let plain = open("plain", libc::O_RDWR).fd();
    let r = c!(libc::fcntl(plain, libc::F_GET_SEALS));
    say("seals of a file are refused or SEAL_SEAL", r.is(libc::EINVAL) || r.0 == 1);
}

fn memfd_seals() {
    let fd = c!(libc::memfd_create(c"s".as_ptr(), libc::MFD_ALLOW_SEALING)).fd();
    unsafe { libc::ftruncate(fd, 8192) };
    let add = |s: i32| c!(libc::fcntl(fd, libc::F_ADD_SEALS, s));
    say("none", c!(libc::fcntl(fd, libc::F_GET_SEALS)));
    say("SHRINK", add(libc::F_SEAL_SHRINK));
    say("shrink", c!(libc::ftruncate(fd, 4096)));
    say("grow", c!(libc::ftruncate(fd, 12288)));
    say("GROW", add(libc::F_SEAL_GROW));
    say("grow", c!(libc::ftruncate(fd, 16384)));
    say("write beyond the end", c!(libc::pwrite(fd, b"x".as_ptr().cast(), 1, 12288)));
    say("write inside", c!(libc::pwrite(fd, b"x".as_ptr().cast(), 1, 0)));
    let p = mmap(0, PAGE, RW, libc::MAP_SHARED, fd, 0);
    say("WRITE while mapped writable", add(libc::F_SEAL_WRITE));
    unsafe { libc::munmap(p.0 as *mut _, PAGE) };
    say("WRITE", add(libc::F_SEAL_WRITE));
    say("write", c!(libc::pwrite(fd, b"x".as_ptr().cast(), 1, 0)));
    say("map shared writable", mmap(0, PAGE, RW, libc::MAP_SHARED, fd, 0).ok());
    say("map private writable", mmap(0, PAGE, RW, libc::MAP_PRIVATE, fd, 0).ok());
    let ro = mmap(0, PAGE, RO, libc::MAP_SHARED, fd, 0);
    say("map shared read-only", ro.ok());
    say("mprotect it to write", c!(libc::mprotect(ro.0 as *mut _, PAGE, RW)));
    say("punch", c!(libc::fallocate(fd, 3, 0, 4096)));
    say("SEAL", add(libc::F_SEAL_SEAL));
    say("another", add(libc::F_SEAL_FUTURE_WRITE));
    say("seals", format!("{:#x}", c!(libc::fcntl(fd, libc::F_GET_SEALS)).0));
}

fn memfd_seal_rules() {
    let fd = c!(libc::memfd_create(c"s".as_ptr(), libc::MFD_ALLOW_SEALING)).fd();
    unsafe { libc::ftruncate(fd, 8192) };
    say("unknown seal", c!(libc::fcntl(fd, libc::F_ADD_SEALS, 0x100)));
    let ro = open(&format!("/proc/self/fd/{fd}"), libc::O_RDONLY).fd();
    say(
        "through a read-only descriptor",
        c!(libc::fcntl(ro, libc::F_ADD_SEALS, libc::F_SEAL_GROW)),
    );
    let p = mmap(0, PAGE, RW, libc::MAP_SHARED, fd, 0).0 as *mut u8;
    say(
        "FUTURE_WRITE while mapped",
        c!(libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE)),
    );
    set_byte(p, 1);
    say("old mapping still writes", get_byte(p));
    say("write", write(fd, b"x"));
    say("new writable mapping", mmap(0, PAGE, RW, libc::MAP_SHARED, fd, 0).ok());
    let x = c!(libc::memfd_create(c"x".as_ptr(), 0x8));
    say("MFD_NOEXEC_SEAL", x.ok());
    say("its seals", format!("{:#x}", c!(libc::fcntl(x.fd(), libc::F_GET_SEALS)).0));
    say("its mode", format!("{:o}", stat(x.fd()).st_mode & 0o777));
    say("chmod +x", c!(libc::fchmod(x.fd(), 0o755)));
}

fn mlock() {
    let p = anon(4);
    say("mlock", c!(libc::mlock(p.cast(), 4 * PAGE)));
    let mut v = [0u8; 4];
    unsafe { libc::mincore(p.cast(), 4 * PAGE, v.as_mut_ptr()) };
    say("resident", v.iter().all(|b| b & 1 == 1));
    let locked = || {
        let s = std::fs::read_to_string("/proc/self/status").unwrap();
        s.lines()
            .find(|l| l.starts_with("VmLck"))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .to_string()
    };
    say("VmLck kB", locked());
    say("madvise DONTNEED of locked", c!(libc::madvise(p.cast(), PAGE, libc::MADV_DONTNEED)));
    say("munlock part", c!(libc::munlock(p.cast(), PAGE)));
    say("VmLck kB", locked());
    say("in a child", in_child(|| (locked() == "0") as i32));
    say("unmap gives back", c!(libc::munmap(p.cast(), 4 * PAGE)));
    say("VmLck kB", locked());
    say("mlock of a hole", c!(libc::mlock(p.cast(), PAGE)));
    let q = anon(2);
    say("mlock2 ONFAULT", sc!(libc::SYS_mlock2, q, 2 * PAGE, 1));
    unsafe { libc::mincore(q.cast(), 2 * PAGE, v.as_mut_ptr()) };
    say("not resident yet", v[0] & 1);
    say("mlock2 bad flag", sc!(libc::SYS_mlock2, q, PAGE, 2));
    say("mlockall bad flag", c!(libc::mlockall(8)));
    say("mlockall 0", c!(libc::mlockall(0)));
    say("munlockall", c!(libc::munlockall()));
    say("VmLck kB", locked());
}

fn mlock_limits() {
    let l = libc::rlimit { rlim_cur: 8192, rlim_max: 8192 };
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &l) };
    let p = anon(4);
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        say("two pages", c!(libc::mlock(p.cast(), 2 * PAGE)));
        say("a third", c!(libc::mlock(p.add(2 * PAGE).cast(), PAGE)));
        say(
            "MAP_LOCKED over the limit",
            mmap(0, 4 * PAGE, RW, ANON | libc::MAP_LOCKED, -1, 0).ok(),
        );
        say("mlockall", c!(libc::mlockall(libc::MCL_CURRENT)));
    }
}

fn process_vm() {
    let p = anon(3);
    for i in 0..3 * PAGE {
        set_byte(unsafe { p.add(i) }, (i / 7) as u8);
    }
    let go = Event::new();
    let done = Event::new();
    let pid = child(|| {
        done.post();
        go.wait();
        get_byte(unsafe { p.add(100) }) as i32
    });
    done.wait();
    let mut buf = vec![0u8; 3 * PAGE];
    let l = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let r = libc::iovec { iov_base: p.cast(), iov_len: buf.len() };
    say("readv", c!(libc::process_vm_readv(pid, &l, 1, &r, 1, 0)));
    say("same", buf.iter().enumerate().all(|(i, b)| *b == (i / 7) as u8));
    unsafe { libc::munmap(p.add(2 * PAGE).cast(), PAGE) };
    let r1 = libc::iovec { iov_base: unsafe { p.add(100).cast() }, iov_len: 1 };
    let x = libc::iovec { iov_base: b"\x42".as_ptr() as *mut _, iov_len: 1 };
    say("writev", c!(libc::process_vm_writev(pid, &x, 1, &r1, 1, 0)));
    say("own memory untouched", get_byte(unsafe { p.add(100) }) != 0x42);
    say("own hole", c!(libc::process_vm_readv(getpid(), &l, 1, &r, 1, 0)));
    say("flags", c!(libc::process_vm_readv(pid, &l, 1, &r, 1, 1)));
    say("nobody", c!(libc::process_vm_readv(i32::MAX, &l, 1, &r, 1, 0)));
    go.post();
    say("child sees", reap(pid));
}

fn remap_file_pages() {
    let fd = sc!(libc::SYS_memfd_create, c"m".as_ptr(), 0).fd();
    for page in 0..4u8 {
        write(fd, &vec![b'a' + page; PAGE]);
    }
    let p = c!(libc::mmap(std::ptr::null_mut(), 4 * PAGE, 3, libc::MAP_SHARED, fd, 0)).0 as *mut u8;
    let remap = |at: *mut u8, size: usize, prot: i32, page: usize, flags: i32| {
        sc!(libc::SYS_remap_file_pages, at, size, prot, page, flags)
    };
    let show = |name: &str| {
        let text: String = (0..4).map(|i| unsafe { *p.add(i * PAGE) } as char).collect();
        say(name, text);
    };
    say("first shows the last", remap(p, PAGE, 0, 3, 0));
    show("order");
    say("last shows the first", remap(unsafe { p.add(3 * PAGE) }, PAGE, 0, 0, libc::MAP_NONBLOCK));
    show("order");
    set_byte(p, b'z');
    show("written through");
    say("unaligned address", remap(p.wrapping_add(1), PAGE, 0, 1, 0));
    show("order");
    say("protection", remap(p, PAGE, 1, 0, 0));
    say("no size", remap(p, 0, 0, 0, 0));
    say("offset too far", remap(p, PAGE, 0, usize::MAX, 0));
    say("beyond the mapping", remap(unsafe { p.add(3 * PAGE) }, 2 * PAGE, 0, 0, 0));
    say("private", remap(anon(1), PAGE, 0, 0, 0));
}
