//! Every system call with bad pointers and extreme integers, from a table.
//!
//! A row names the call and what each argument is. For every pointer argument the call is made with each kind of bad pointer
//! while the others are good; for every integer with each extreme. Each call runs in a child of its own, with no way to wait for
//! ever: what comes back is an errno, `ok`, or how the child ended.

use crate::cases;
use crate::sc;
use crate::sys::*;

cases! {
    bad_pointers_files, bad_pointers_paths, bad_pointers_memory_and_processes, bad_pointers_signals_and_time, bad_pointers_sockets_and_events,
    bad_pointers_ipc, integers_files, integers_processes, integers_sockets_and_events, all_calls_with_minus_one, all_calls_with_zero, all_calls_with_bad_pointers,
    calls_not_offered, numbers_beyond_the_table,
}

/// What an argument is.
#[derive(Clone, Copy)]
enum A {
    /// A fixed value.
    V(i64),
    /// An integer that is also tried at its extremes.
    I(i64),
    /// A pointer to this many zeroed, writable bytes.
    P(usize),
    /// A path that exists.
    Path,
    /// A name that does not exist yet.
    New,
    /// A pointer that may be null in a good call, tried bad too, to this many zeroed bytes.
    O(usize),
    /// A descriptor of a memfd: its offsets have no limit that depends on a filesystem's block size.
    Memory,
    /// Descriptors: of a file, a pipe's read end with data, its write end, a socket with data, an epoll, a directory.
    File,
    PipeR,
    PipeW,
    Sock,
    Epoll,
    Dir,
    /// An iovec of one element that points to good memory.
    Iov,
}
use A::*;

type Row = (&'static str, i64, &'static [A]);

struct Places {
    good: *mut u8,
    read_only: usize,
    half: usize,
    unmapped: usize,
    file: i32,
    memory: i32,
    pipe: (i32, i32),
    sock: i32,
    epoll: i32,
    dir: i32,
    iov: [usize; 2],
    path: std::ffi::CString,
    new: std::ffi::CString,
}

fn places() -> Places {
    let map = |n: usize, prot: i32| unsafe {
        libc::mmap(std::ptr::null_mut(), n, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
            as usize
    };
    let good = map(1 << 16, 3) as *mut u8;
    let read_only = map(8192, 1);
    let two = map(12288, 3);
    unsafe { libc::munmap((two + 4096) as *mut _, 8192) };
    let _ = std::fs::remove_file("file");
    put("file", &[b'f'; 100]);
    std::fs::create_dir_all("dir").unwrap();
    let pipe = pipe();
    write(pipe.1, &[b'p'; 64]);
    let mut s = [0; 2];
    unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0, s.as_mut_ptr())
    };
    write(s[1], b"datagram");
    let epoll = unsafe { libc::epoll_create1(0) };
    let mut ev = libc::epoll_event { events: 1, u64: 7 };
    unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, pipe.0, &mut ev) };
    Places {
        good,
        read_only,
        // Three bytes before the end of the mapped page: any structure crosses into the hole.
        half: two + 4096 - 3,
        unmapped: two + 4096,
        file: open("file", libc::O_RDWR).fd(),
        memory: unsafe { libc::memfd_create(c"m".as_ptr(), 0) },
        pipe,
        sock: s[0],
        epoll,
        dir: open("dir", libc::O_RDONLY).fd(),
        iov: [0, 16],
        path: cstr("file"),
        new: cstr("new-name"),
    }
}

/// The arguments of a good call.
fn good_args(row: &Row, p: &mut Places) -> [usize; 6] {
    let mut a = [0usize; 6];
    let mut next = p.good as usize;
    p.iov[0] = p.good as usize + 0x8000;
    for (i, k) in row.2.iter().enumerate() {
        a[i] = match *k {
            V(v) | I(v) => v as usize,
            P(n) | O(n) => {
                let at = next;
                next += n.next_multiple_of(64);
                at
            }
            Path => p.path.as_ptr() as usize,
            New => p.new.as_ptr() as usize,
            Memory => p.memory as usize,
            File => p.file as usize,
            PipeR => p.pipe.0 as usize,
            PipeW => p.pipe.1 as usize,
            Sock => p.sock as usize,
            Epoll => p.epoll as usize,
            Dir => p.dir as usize,
            Iov => p.iov.as_ptr() as usize,
        };
    }
    a
}

/// Makes one call in a child with a fresh set of objects; a call that waits is ended by an alarm and says so.
fn attempt(row: &Row, change: impl FnOnce(&mut [usize; 6], &Places)) -> String {
    let (r, w) = pipe();
    let pid = child(|| {
        let me = getpid();
        let mut p = places();
        let mut a = good_args(row, &mut p);
        change(&mut a, &p);
        unsafe { libc::alarm(3) };
        let x = sc!(row.1, a[0], a[1], a[2], a[3], a[4], a[5]);
        // A row that forks has two processes here; the new one is silent.
        if x.0 != 0 || getpid() == me {
            write(w, x.ok().as_bytes());
        }
        // Without the exit handlers: the call may have broken anything.
        unsafe { libc::syscall(libc::SYS_exit_group, 0) };
        0
    });
    close(w);
    let s = reap(pid);
    let t = read(r, 100).unwrap_or_default();
    close(r);
    let _ = std::fs::remove_file("new-name");
    let _ = std::fs::remove_dir("new-name");
    if t.is_empty() { s } else { String::from_utf8_lossy(&t).into_owned() }
}

fn pointers(rows: &[Row]) {
    for row in rows {
        for (i, k) in row.2.iter().enumerate() {
            if !matches!(k, P(_) | O(_) | Path | New | Iov) {
                continue;
            }
            let mut out = Vec::new();
            for kind in
                ["null", "low", "unmapped", "half", "read-only", "kernel", "non-canonical", "top"]
            {
                if kind == "read-only" && matches!(k, Path | New | Iov) {
                    continue;
                }
                let r = attempt(row, |a, p| {
                    a[i] = match kind {
                        "null" => 0,
                        "low" => 8,
                        "unmapped" => p.unmapped,
                        "half" => {
                            if matches!(k, Path | New) {
                                unsafe {
                                    std::ptr::copy(
                                        c"abc".as_ptr().cast::<u8>(),
                                        p.half as *mut u8,
                                        3,
                                    )
                                };
                            }
                            p.half
                        }
                        "read-only" => p.read_only,
                        "kernel" => 0xffff_8000_0000_1000,
                        "non-canonical" => 0x8000_0000_0000_0000,
                        _ => usize::MAX - 2,
                    }
                });
                out.push(format!("{kind} {r}"));
            }
            say(&format!("{} arg {}", row.0.trim_start_matches("SYS_"), i + 1), out.join(", "));
        }
    }
}

fn integers(rows: &[Row]) {
    for row in rows {
        for (i, k) in row.2.iter().enumerate() {
            if !matches!(k, I(_)) {
                continue;
            }
            let mut out = Vec::new();
            for (n, v) in [
                ("0", 0i64),
                ("-1", -1),
                ("i32max", i32::MAX.into()),
                ("i32min", i32::MIN.into()),
                ("u32max", u32::MAX.into()),
                ("i64max", i64::MAX),
                ("i64min", i64::MIN),
                ("bit32", 1 << 32),
            ] {
                out.push(format!("{n} {}", attempt(row, |a, _| a[i] = v as usize)));
            }
            say(&format!("{} arg {}", row.0.trim_start_matches("SYS_"), i + 1), out.join(", "));
        }
    }
}

macro_rules! rows {
    ($($name:ident $args:expr;)*) => { &[$((stringify!($name), libc::$name, &$args)),*] };
}

const AT: A = V(libc::AT_FDCWD as i64);

fn bad_pointers_files() {
    pointers(rows! {
        SYS_read [File, P(50), V(50)];
        SYS_write [File, P(50), V(50)];
        SYS_readv [File, Iov, V(1)];
        SYS_writev [File, Iov, V(1)];
        SYS_pread64 [File, P(50), V(50), V(0)];
        SYS_pwrite64 [File, P(50), V(50), V(0)];
        SYS_preadv [File, Iov, V(1), V(0)];
        SYS_pwritev [File, Iov, V(1), V(0)];
        SYS_fstat [File, P(144)];
        SYS_fstatfs [File, P(120)];
        SYS_getdents64 [Dir, P(1024), V(1024)];
        SYS_pipe2 [P(8), V(0)];
        SYS_flistxattr [File, P(64), V(64)];
        SYS_sendfile [PipeW, File, O(8), V(10)];
        SYS_splice [PipeR, V(0), File, O(8), V(10), V(0)];
        SYS_vmsplice [PipeW, Iov, V(1), V(0)];
        SYS_copy_file_range [File, O(8), File, O(8), V(0), V(0)];
        SYS_ioctl [PipeR, V(libc::FIONREAD as i64), P(4)];
        SYS_fcntl [File, V(libc::F_GETLK as i64), P(32)];
    });
    pointers(rows! {
        SYS_read [PipeR, P(50), V(50)];
        SYS_write [PipeW, P(50), V(50)];
        SYS_read [Sock, P(50), V(50)];
        SYS_readv [PipeR, Iov, V(1)];
    });
}

fn bad_pointers_paths() {
    pointers(rows! {
        SYS_open [Path, V(0), V(0)];
        SYS_openat [AT, Path, V(0), V(0)];
        SYS_openat2 [AT, Path, P(24), V(24)];
        SYS_stat [Path, P(144)];
        SYS_lstat [Path, P(144)];
        SYS_newfstatat [AT, Path, P(144), V(0)];
        SYS_statx [AT, Path, V(0), V(0x7ff), P(256)];
        SYS_statfs [Path, P(120)];
        SYS_access [Path, V(0)];
        SYS_mkdir [New, V(0o755)];
        SYS_rmdir [Path];
        SYS_unlink [Path];
        SYS_unlinkat [AT, Path, V(0)];
        SYS_rename [Path, New];
        SYS_renameat2 [AT, Path, AT, New, V(0)];
        SYS_link [Path, New];
        SYS_symlink [Path, New];
        SYS_readlink [Path, P(64), V(64)];
        SYS_chmod [Path, V(0o600)];
        SYS_chown [Path, V(-1), V(-1)];
        SYS_truncate [Path, V(0)];
        SYS_utimensat [AT, Path, O(32), V(0)];
        SYS_chdir [Path];
        SYS_getcwd [P(4096), V(4096)];
        SYS_mknod [New, V(0o600), V(0)];
        SYS_getxattr [Path, Path, P(64), V(64)];
        SYS_setxattr [Path, Path, P(4), V(4), V(0)];
    });
}

fn bad_pointers_memory_and_processes() {
    pointers(rows! {
        SYS_memfd_create [New, V(0)];
        SYS_wait4 [V(-1), O(4), V(1), O(144)];
        SYS_waitid [V(0), V(0), O(128), V(5), O(144)];
        SYS_execve [Path, O(16), O(16)];
        SYS_clone3 [P(88), V(88)];
        SYS_uname [P(390)];
        SYS_sysinfo [P(112)];
        SYS_getrlimit [V(7), P(16)];
        SYS_setrlimit [V(7), P(16)];
        SYS_prlimit64 [V(0), V(7), V(0), O(16)];
        SYS_getrusage [V(0), P(144)];
        SYS_times [O(32)];
        SYS_getresuid [P(4), P(4), P(4)];
        SYS_getresgid [P(4), P(4), P(4)];
        SYS_capget [P(8), O(24)];
        SYS_sched_getaffinity [V(0), V(128), P(128)];
        SYS_sched_setaffinity [V(0), V(128), P(128)];
        SYS_sched_getparam [V(0), P(4)];
        SYS_sched_setparam [V(0), P(4)];
        SYS_sched_getattr [V(0), P(56), V(56), V(0)];
        SYS_sched_rr_get_interval [V(0), P(16)];
        SYS_getrandom [P(32), V(32), V(0)];
        SYS_getcpu [O(4), O(4), V(0)];
        SYS_get_robust_list [V(0), P(8), P(8)];
        SYS_futex [P(4), V(0), V(1), O(16), V(0), V(0)];
        SYS_futex [P(4), V(1), V(1), V(0), V(0), V(0)];
    });
}

fn bad_pointers_signals_and_time() {
    pointers(rows! {
        SYS_rt_sigaction [V(10), O(32), O(32), V(8)];
        SYS_rt_sigprocmask [V(0), O(8), O(8), V(8)];
        SYS_rt_sigpending [P(8), V(8)];
        SYS_rt_sigtimedwait [P(8), O(128), P(16), V(8)];
        SYS_sigaltstack [V(0), O(24)];
        SYS_signalfd4 [V(-1), P(8), V(8), V(0)];
        SYS_nanosleep [P(16), O(16)];
        SYS_clock_gettime [V(1), P(16)];
        SYS_clock_getres [V(1), O(16)];
        SYS_clock_nanosleep [V(1), V(0), P(16), O(16)];
        SYS_gettimeofday [O(16), O(8)];
        SYS_time [O(8)];
        SYS_getitimer [V(0), P(32)];
        SYS_setitimer [V(0), O(32), O(32)];
        SYS_timer_create [V(1), O(64), P(8)];
        SYS_adjtimex [P(208)];
    });
}

fn bad_pointers_sockets_and_events() {
    pointers(rows! {
        SYS_socketpair [V(1), V(1), V(0), P(8)];
        SYS_bind [Sock, P(110), V(10)];
        SYS_connect [Sock, P(110), V(10)];
        SYS_getsockname [Sock, P(110), P(4)];
        SYS_getsockopt [Sock, V(1), V(3), P(4), P(4)];
        SYS_setsockopt [Sock, V(1), V(2), P(4), V(4)];
        SYS_sendto [Sock, P(20), V(20), V(0), V(0), V(0)];
        SYS_recvfrom [Sock, P(20), V(20), V(0), O(110), O(4)];
        SYS_sendmsg [Sock, P(56), V(0)];
        SYS_recvmsg [Sock, P(56), V(0)];
        SYS_poll [P(8), V(1), V(0)];
        SYS_ppoll [P(8), V(1), P(16), O(8), V(8)];
        SYS_select [V(1), O(128), O(128), O(128), P(16)];
        SYS_epoll_ctl [Epoll, V(1), PipeW, P(12)];
        SYS_epoll_wait [Epoll, P(120), V(10), V(0)];
    });
}

fn bad_pointers_ipc() {
    pointers(rows! {
        SYS_mq_open [New, V(0), V(0), V(0)];
        SYS_mq_unlink [New];
        SYS_semop [V(0x7fff_ffff), P(6), V(1)];
        SYS_msgsnd [V(0x7fff_ffff), P(16), V(8), V(0o4000)];
        SYS_msgrcv [V(0x7fff_ffff), P(16), V(8), V(0), V(0o4000)];
        SYS_shmctl [V(0x7fff_ffff), V(2), P(112)];
    });
}

fn integers_files() {
    integers(rows! {
        SYS_read [I(0), P(10), V(10)];
        SYS_write [I(999), P(10), V(10)];
        SYS_pread64 [File, P(10), V(10), I(0)];
        SYS_pwrite64 [PipeW, P(10), V(10), I(0)];
        SYS_lseek [Memory, I(0), V(0)];
        SYS_lseek [File, V(0), I(0)];
        SYS_ftruncate [PipeW, I(0)];
        SYS_fallocate [File, I(0), V(0), V(1)];
        SYS_fallocate [File, V(0), I(0), V(1)];
        SYS_fallocate [PipeR, V(0), V(0), I(1)];
        SYS_dup [I(0)];
        SYS_dup2 [File, I(5)];
        SYS_dup3 [File, V(60), I(0)];
        SYS_fcntl [File, I(1), V(0)];
        SYS_pipe2 [P(8), I(0)];
        SYS_readv [File, Iov, I(1)];
        SYS_openat [I(999), Path, V(0), V(0)];
        SYS_access [Path, I(0)];
        SYS_chmod [Path, I(0o600)];
        SYS_getdents64 [Dir, P(1024), I(1024)];
        SYS_readlink [Path, P(64), I(64)];
        SYS_getcwd [P(4096), I(4096)];
        SYS_flock [File, I(5)];
        SYS_ioctl [PipeR, I(0x541b), P(64)];
        SYS_splice [PipeR, V(0), PipeW, V(0), V(1), I(0)];
        SYS_memfd_create [New, I(0)];
    });
}

fn integers_processes() {
    integers(rows! {
        SYS_wait4 [I(5), V(0), V(1), V(0)];
        SYS_wait4 [V(5), V(0), I(1), V(0)];
        SYS_waitid [I(0), V(0), V(0), V(5), V(0)];
        SYS_getpriority [I(0), V(0)];
        SYS_setpriority [I(9), V(0), V(0)];
        SYS_getpgid [I(0)];
        SYS_getsid [I(0)];
        SYS_setpgid [I(0), V(0)];
        SYS_getrlimit [I(0), P(16)];
        SYS_getrusage [I(0), P(144)];
        SYS_sched_getparam [I(0), P(4)];
        SYS_sched_getaffinity [V(0), I(128), P(128)];
        SYS_getrandom [P(32), V(16), I(0)];
        SYS_getgroups [I(0), V(0)];
        SYS_tgkill [V(0x7fff_ffff), I(0), V(0)];
        SYS_kill [V(0x7fff_ffff), I(0)];
        SYS_rt_sigaction [I(10), V(0), V(0), V(8)];
        SYS_rt_sigaction [V(10), V(0), V(0), I(8)];
        SYS_rt_sigprocmask [I(0), P(8), V(0), V(8)];
        SYS_mprotect [P(4096), V(4096), I(3)];
        SYS_madvise [P(4096), V(4096), I(0)];
        SYS_mlock [P(4096), I(4096)];
        SYS_mincore [P(4096), I(4096), P(1)];
        SYS_clock_gettime [I(0), P(16)];
        SYS_clock_nanosleep [I(1), V(0), P(16), V(0)];
        SYS_timerfd_create [I(1), V(0)];
        SYS_timerfd_create [V(1), I(0)];
        SYS_personality [I(0)];
        SYS_ioprio_get [I(1), V(0)];
        SYS_membarrier [I(0), V(0), V(0)];
        SYS_pidfd_open [I(0), V(0)];
        SYS_futex [P(4), I(1), V(1), V(0), V(0), V(0)];
        SYS_close_range [V(500), I(600), V(0)];
        SYS_close_range [V(500), V(600), I(0)];
    });
}

fn integers_sockets_and_events() {
    integers(rows! {
        SYS_socket [I(1), V(1), V(0)];
        SYS_socket [V(1), I(1), V(0)];
        SYS_socket [V(1), V(1), I(0)];
        SYS_listen [Sock, I(1)];
        SYS_shutdown [Sock, I(0)];
        SYS_getsockopt [Sock, I(1), V(3), P(4), P(4)];
        SYS_getsockopt [Sock, V(1), I(3), P(64), P(4)];
        SYS_setsockopt [Sock, V(1), V(2), P(4), I(4)];
        SYS_bind [Sock, P(110), I(10)];
        SYS_sendto [Sock, P(20), V(20), V(0), P(110), I(10)];
        SYS_poll [P(8), I(1), V(0)];
        SYS_select [I(1), V(0), V(0), V(0), P(16)];
        SYS_epoll_create1 [I(0)];
        SYS_epoll_ctl [Epoll, I(1), PipeW, P(12)];
        SYS_epoll_wait [Epoll, P(120), I(1), V(0)];
        SYS_eventfd2 [I(0), V(0)];
        SYS_eventfd2 [V(0), I(0)];
        SYS_inotify_init1 [I(0)];
        SYS_signalfd4 [V(-1), P(8), I(8), V(0)];
    });
}

/// Calls that are left out of the runs over all numbers: they would end or stop the test, wait for ever, change the host, depend on how
/// it was built, or are refused by design in the guest.
const SKIP: &[i64] = &[
    libc::SYS_rt_sigreturn,
    libc::SYS_pause,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_alarm,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_reboot,
    libc::SYS_sync,
    libc::SYS_vhangup,
    libc::SYS_setsid,
    libc::SYS_ptrace,
    libc::SYS_syslog,
    libc::SYS_seccomp,
    libc::SYS_prctl,
    libc::SYS_arch_prctl,
    libc::SYS_set_tid_address,
    libc::SYS_restart_syscall,
    libc::SYS_close_range,
    libc::SYS_rt_sigsuspend,
    libc::SYS_ppoll,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_setgroups,
    // Would leave objects behind that outlive the process.
    libc::SYS_shmget,
    libc::SYS_semget,
    libc::SYS_msgget,
    // Refused or absent in some kernels.
    libc::SYS__sysctl,
    174,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    177,
    178,
    libc::SYS_nfsservctl,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS_modify_ldt,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_kexec_load,
    320,
    libc::SYS_lookup_dcookie,
    libc::SYS_io_setup,
    libc::SYS_io_destroy,
    libc::SYS_io_getevents,
    libc::SYS_io_submit,
    libc::SYS_io_cancel,
    333,
    libc::SYS_remap_file_pages,
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_get_mempolicy,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_perf_event_open,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_pkey_mprotect,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    335,
    425,
    426,
    427,
    443,
    448,
    450,
    453,
];

/// Calls that the guest answers with ENOSYS, as kernels without them do: process_madvise, cachestat, statmount, listmount, those of security
/// modules, mseal.
const NOT_OFFERED: &[i64] = &[440, 451, 457, 458, 459, 460, 461, 462];

/// Last number compared (mseal, Linux 6.10).
const LAST: i64 = 462;

fn all_calls(value: usize) {
    for n in 0..=LAST {
        if SKIP.contains(&n) || NOT_OFFERED.contains(&n) || (336..424).contains(&n) {
            continue;
        }
        one_call(n, value);
    }
}

fn one_call(n: i64, value: usize) {
    // A number instead of a name: the numbers are the interface.
    let row: Row = ("", n, &[]);
    let r = attempt(&row, |a, _| *a = [value; 6]);
    say(&format!("call {n}"), r);
}

fn calls_not_offered() {
    for n in NOT_OFFERED {
        one_call(*n, 0);
    }
}

fn all_calls_with_minus_one() {
    all_calls(usize::MAX);
}

fn all_calls_with_zero() {
    all_calls(0);
}

fn all_calls_with_bad_pointers() {
    all_calls(0xffff_8000_0000_1000);
}

fn numbers_beyond_the_table() {
    for n in [400i64, 423, 600, 1000, 0x4000_0000, 0x4000_0001, 0x7fff_ffff, -1, i64::MAX, i64::MIN]
    {
        say(&format!("call {n}"), attempt(&("", n, &[]), |a, _| *a = [0; 6]));
    }
}
