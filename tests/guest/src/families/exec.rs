//! execve, execveat, scripts, unknown formats, argument limits, what survives an exec, /proc/self/exe.

use crate::sys::*;
use crate::{c, cases, sc};
use std::ffi::CString;
use std::process::ExitCode;

cases! {
    arguments_and_environment, empty_argv, errors, scripts, script_argument_shapes, script_nesting, unknown_formats, bad_elf,
    close_on_exec, signals_over_exec, ids_and_state_over_exec, execveat_forms, argument_limits, proc_self_exe, text_busy, exec_by_thread,
    deleted_program, memory_replaced, not_executable: root,
}

/// Executes this program with a role; `setup` runs in the child before. Gives the child's status.
fn exec_role(args: &[&str], env: &[&str], setup: impl FnOnce()) -> String {
    in_child(|| {
        setup();
        let r = execve("/proc/self/exe", &[&["gt", "--role"], args].concat(), env);
        say("execve failed", r);
        99
    })
}

fn vec_of(list: &[&str]) -> (Vec<CString>, Vec<*const libc::c_char>) {
    let owned: Vec<CString> = list.iter().map(|s| cstr(s)).collect();
    let mut p: Vec<_> = owned.iter().map(|s| s.as_ptr()).collect();
    p.push(std::ptr::null());
    (owned, p)
}

fn execve(path: &str, argv: &[&str], env: &[&str]) -> R {
    let (_a, ap) = vec_of(argv);
    let (_e, ep) = vec_of(env);
    let p = cstr(path);
    c!(libc::execve(p.as_ptr(), ap.as_ptr(), ep.as_ptr()))
}

/// `execve` in a child: the errno when it fails, the status when it ran.
fn try_exec(path: &str, argv: &[&str]) -> String {
    let (r, w) = pipe();
    let pid = child(|| {
        let e = execve(path, argv, &[]);
        write(w, e.to_string().as_bytes());
        98
    });
    close(w);
    let msg = read(r, 100).unwrap_or_default();
    close(r);
    let s = reap(pid);
    if msg.is_empty() { s } else { String::from_utf8_lossy(&msg).into_owned() }
}

fn script(path: &str, text: &str) {
    put(path, text.as_bytes());
    let p = cstr(path);
    unsafe { libc::chmod(p.as_ptr(), 0o755) };
}

/// Copy of this program under another name.
fn copy_self(path: &str) {
    std::fs::copy("/proc/self/exe", path).expect("copying the program");
    let p = cstr(path);
    unsafe { libc::chmod(p.as_ptr(), 0o755) };
}

fn arguments_and_environment() {
    say(
        "plain",
        exec_role(
            &["args", "a", "", "b c", "\u{e9}"],
            &["X=1", "EMPTY=", "NOEQUALS", "X=2"],
            || {},
        ),
    );
    say("no environment", exec_role(&["args"], &[], || {}));
}

fn empty_argv() {
    // Since 5.18 an empty list becomes one empty string.
    let s = in_child(|| {
        let sh = c"/bin/sh".as_ptr();
        let none = [std::ptr::null::<libc::c_char>()];
        unsafe { libc::dup2(0, 0) };
        let r = c!(libc::execve(sh, none.as_ptr(), none.as_ptr()));
        say("execve", r);
        1
    });
    say("sh with an empty argv reads end of file", s);
    let s = in_child(|| {
        let r = sc!(libc::SYS_execve, c"/bin/sh".as_ptr(), 0, 0);
        say("execve", r);
        1
    });
    say("null argv", s);
}

fn errors() {
    put("plain", b"hello");
    std::fs::create_dir("dir").unwrap();
    std::os::unix::fs::symlink("loop", "loop").unwrap();
    say("missing", try_exec("missing", &["x"]));
    say("directory", try_exec("dir", &["x"]));
    say("no x bit", try_exec("plain", &["x"]));
    say("component is a file", try_exec("plain/x", &["x"]));
    say("loop", try_exec("loop", &["x"]));
    say("empty path", try_exec("", &["x"]));
    say("long name", try_exec(&"n".repeat(256), &["x"]));
    say("long path", try_exec(&"n/".repeat(2048), &["x"]));
    say("device", try_exec("/dev/null", &["x"]));
    say("bad path pointer", sc!(libc::SYS_execve, 8, 0, 0));
    let (_o, p) = vec_of(&["x"]);
    say("bad argv", sc!(libc::SYS_execve, c"/bin/true".as_ptr(), 8, 0));
    say(
        "bad string in argv",
        sc!(libc::SYS_execve, c"/bin/true".as_ptr(), [8usize, 0].as_ptr(), 0),
    );
    say("bad envp", sc!(libc::SYS_execve, c"/bin/true".as_ptr(), p.as_ptr(), 8));
    say("after all these the caller lives", true);
}

fn scripts() {
    script("hello", "#!/bin/sh\necho \"0=$0 1=$1 #=$#\"\nexit 4\n");
    say("script", try_exec("./hello", &["ignored", "one", "two"]));
    script("noarg", "#!   /bin/sh   \necho spaces ok\n");
    say("blanks around the interpreter", try_exec("./noarg", &["x"]));
    script("tab", "#!\t/bin/sh\t-e\t\nfalse\nexit 0\n");
    say("tab and one argument", try_exec("./tab", &["x"]));
    script("missing-interp", "#!/nonexistent/interp\n");
    say("missing interpreter", try_exec("./missing-interp", &["x"]));
    script("interp-dir", "#!/\n");
    say("interpreter is a directory", try_exec("./interp-dir", &["x"]));
    script("interp-plain", "#!./plain\n");
    put("plain", b"data");
    say("interpreter is not executable", try_exec("./interp-plain", &["x"]));
    script("empty-interp", "#!\necho\n");
    say("no interpreter named", try_exec("./empty-interp", &["x"]));
    script("blank-interp", "#!   \n");
    say("only blanks", try_exec("./blank-interp", &["x"]));
    script("relative", "#!sub/sh2\n");
    std::fs::create_dir("sub").unwrap();
    std::os::unix::fs::symlink("/bin/true", "sub/sh2").unwrap();
    say("relative interpreter", try_exec("./relative", &["x"]));
    script("no-newline", "#!/bin/true");
    say("end of file ends the line", try_exec("./no-newline", &["x"]));
    script("nul", "#!/bin/true\0x\n");
    say("nul ends the line", try_exec("./nul", &["x"]));
}

fn script_argument_shapes() {
    copy_self("gt-copy");
    let cwd = std::env::current_dir().unwrap();
    let here = cwd.to_str().unwrap();
    // The remainder of the line is one argument, inner blanks kept.
    script("s1", "#!./gt-copy --role\n");
    say("argument without the role's name", try_exec("./s1", &["s1"]));
    script("s2", "#!/bin/echo one two  three \n");
    say("one argument with blanks", try_exec("./s2", &["argv0 is dropped", "tail"]));
    let long = format!("#!/bin/echo {}\n", "x".repeat(300));
    script("s3", &long);
    say("line longer than 256 is cut or refused", try_exec("./s3", &["s3"]));
    let long = format!("#!{here}/{}\n", "y".repeat(300));
    script("s4", &long);
    say("interpreter path cut", try_exec("./s4", &["s4"]));
}

fn script_nesting() {
    script("s0", "#!/bin/echo\n");
    for i in 1..=6 {
        script(&format!("s{i}"), &format!("#!./s{}\n", i - 1));
    }
    for i in 0..=6 {
        say(&format!("{i} levels"), try_exec(&format!("./s{i}"), &["a0", "arg"]));
    }
}

fn unknown_formats() {
    script("text", "echo not a script\n");
    say("text without #!", try_exec("./text", &["x"]));
    script("empty", "");
    say("empty file", try_exec("./empty", &["x"]));
    script("hash", "#");
    say("one byte", try_exec("./hash", &["x"]));
    // The shells' answer to ENOEXEC is to interpret the file.
    let s = std::process::Command::new("/bin/sh").args(["-c", "./text"]).output().unwrap();
    say("through sh", quoted(&s.stdout));
}

/// A header of 64 bytes and one load segment; `edit` breaks it.
fn elf(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut b = vec![0u8; 4096];
    b[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    b[16..20].copy_from_slice(&[2, 0, 62, 0]);
    b[20..24].copy_from_slice(&1u32.to_le_bytes());
    b[24..32].copy_from_slice(&0x40_0080u64.to_le_bytes()); // entry
    b[32..40].copy_from_slice(&64u64.to_le_bytes()); // phoff
    b[52..54].copy_from_slice(&64u16.to_le_bytes());
    b[54..56].copy_from_slice(&56u16.to_le_bytes());
    b[56..58].copy_from_slice(&1u16.to_le_bytes());
    let p = 64;
    b[p..p + 4].copy_from_slice(&1u32.to_le_bytes());
    b[p + 4..p + 8].copy_from_slice(&5u32.to_le_bytes());
    b[p + 16..p + 24].copy_from_slice(&0x40_0000u64.to_le_bytes());
    b[p + 24..p + 32].copy_from_slice(&0x40_0000u64.to_le_bytes());
    b[p + 32..p + 40].copy_from_slice(&4096u64.to_le_bytes());
    b[p + 40..p + 48].copy_from_slice(&4096u64.to_le_bytes());
    b[p + 48..p + 56].copy_from_slice(&4096u64.to_le_bytes());
    // mov $60,%eax; mov $33,%edi; syscall
    b[0x80..0x8c].copy_from_slice(&[0xb8, 60, 0, 0, 0, 0xbf, 33, 0, 0, 0, 0x0f, 0x05]);
    edit(&mut b);
    b
}

fn bad_elf() {
    let run = |name: &str, b: Vec<u8>| {
        // Written by a child, so that no fork of this process holds the file open for writing.
        in_child(|| {
            put("prog", &b);
            0
        });
        let p = cstr("prog");
        unsafe { libc::chmod(p.as_ptr(), 0o755) };
        say(name, try_exec("./prog", &["prog"]));
        std::fs::remove_file("prog").unwrap();
    };
    let put16 =
        |o: usize, v: u16| move |b: &mut Vec<u8>| b[o..o + 2].copy_from_slice(&v.to_le_bytes());
    let put64 =
        |o: usize, v: u64| move |b: &mut Vec<u8>| b[o..o + 8].copy_from_slice(&v.to_le_bytes());
    run("good: exits 33", elf(|_| {}));
    run("magic", elf(|b| b[1] = b'e'));
    run("only the magic", elf(|b| b.truncate(4)));
    run("half a header", elf(|b| b.truncate(40)));
    run("header without table", elf(|b| b.truncate(64)));
    run("wrong machine", elf(put16(18, 183)));
    run("relocatable file", elf(put16(16, 1)));
    run("core file", elf(put16(16, 4)));
    run("program header size", elf(put16(54, 55)));
    run("no program headers", elf(put16(56, 0)));
    run("65535 program headers", elf(put16(56, 65535)));
    run("table beyond the end", elf(put64(32, 1 << 40)));
    run("table at the top", elf(put64(32, u64::MAX)));
    run("entry not mapped", elf(put64(24, 0x7000_0000)));
    run("entry in kernel half", elf(put64(24, 0xffff_8000_0000_0000)));
    run("segment in kernel half", elf(put64(64 + 16, 0xffff_8000_0000_0000)));
    run("file size over memory size", elf(put64(64 + 32, 8192)));
    run("memory size is huge", elf(put64(64 + 40, 1 << 62)));
    run("file offset not congruent", elf(put64(64 + 8, 8)));
    run("segment beyond end of file", elf(put64(64 + 8, 1 << 20)));
    run(
        "interpreter missing",
        elf(|b| {
            b[56..58].copy_from_slice(&2u16.to_le_bytes());
            let q = 120;
            b[q..q + 4].copy_from_slice(&3u32.to_le_bytes());
            b[q + 8..q + 16].copy_from_slice(&0x200u64.to_le_bytes());
            b[q + 32..q + 40].copy_from_slice(&8u64.to_le_bytes());
            b[0x200..0x208].copy_from_slice(b"/no/such");
            b[0x207] = 0;
        }),
    );
    run(
        "interpreter not terminated",
        elf(|b| {
            b[56..58].copy_from_slice(&2u16.to_le_bytes());
            let q = 120;
            b[q..q + 4].copy_from_slice(&3u32.to_le_bytes());
            b[q + 8..q + 16].copy_from_slice(&0x200u64.to_le_bytes());
            b[q + 32..q + 40].copy_from_slice(&8u64.to_le_bytes());
            b[0x200..0x208].copy_from_slice(b"/no/such");
        }),
    );
    run(
        "stack only, nothing loaded",
        elf(|b| b[64..68].copy_from_slice(&0x6474_e551u32.to_le_bytes())),
    );
}

fn close_on_exec() {
    let keep = open("/dev/null", libc::O_RDONLY).fd();
    let gone = open("/dev/null", libc::O_RDONLY | libc::O_CLOEXEC).fd();
    let later = open("/dev/null", libc::O_RDONLY).fd();
    unsafe {
        libc::dup2(keep, 40);
        libc::dup3(keep, 41, libc::O_CLOEXEC);
        libc::fcntl(later, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::dup2(later, 42);
        libc::dup2(gone, 43);
        libc::dup3(keep, 44, libc::O_CLOEXEC);
        libc::fcntl(44, libc::F_SETFD, 0);
    }
    say(
        "40 kept, 41 closed, 42 43 44 kept",
        exec_role(&["fds", "40", "41", "42", "43", "44"], &[], || {}),
    );
    say("a failed exec closes nothing", {
        try_exec("./missing", &["x"]);
        c!(libc::fcntl(41, libc::F_GETFD))
    });
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn signals_over_exec() {
    let s = exec_role(&["signals"], &[], || {
        on_signal(libc::SIGUSR1, nothing, 0);
        set_action(libc::SIGUSR2, libc::SIG_IGN);
        set_action(libc::SIGCHLD, libc::SIG_IGN);
        mask(libc::SIG_BLOCK, &[libc::SIGTERM, libc::SIGUSR1]);
        unsafe {
            libc::raise(libc::SIGTERM);
            let mut st: libc::stack_t = std::mem::zeroed();
            let mem = Box::leak(vec![0u8; 65536].into_boxed_slice());
            st.ss_sp = mem.as_mut_ptr().cast();
            st.ss_size = mem.len();
            libc::sigaltstack(&st, std::ptr::null_mut());
            libc::alarm(500);
        }
    });
    say("status", s);
}

fn ids_and_state_over_exec() {
    std::fs::create_dir("d").unwrap();
    let (r, w) = pipe();
    let pid = child(|| {
        unsafe {
            libc::umask(0o027);
            libc::chdir(c"d".as_ptr());
            libc::nice(3);
            libc::prctl(libc::PR_SET_NAME, c"before".as_ptr());
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1);
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0);
            libc::dup2(w, 9);
        }
        execve("/proc/self/exe", &["gt", "--role", "state"], &[]);
        99
    });
    close(w);
    let got = read(r, 100).unwrap();
    say("status", reap(pid));
    say("same pid", String::from_utf8_lossy(&got) == pid.to_string());
}

fn execveat_forms() {
    copy_self("gt-copy");
    script("sh-script", "#!/bin/echo\n");
    std::os::unix::fs::symlink("gt-copy", "link").unwrap();
    let dir = open(".", libc::O_RDONLY | libc::O_DIRECTORY).fd();
    let file = open("gt-copy", libc::O_RDONLY | libc::O_CLOEXEC).fd();
    let path = open("gt-copy", libc::O_PATH).fd();
    let scr = open("sh-script", libc::O_RDONLY | libc::O_CLOEXEC).fd();
    let scr_kept = open("sh-script", libc::O_RDONLY).fd();
    unsafe { libc::dup2(scr_kept, 50) };
    let (_o, argv) = vec_of(&["gt", "--role", "exit", "14"]);
    let (_e, env) = vec_of(&[]);
    let at = |name: &str, fd: i32, p: &str, flags: i32| {
        let p = cstr(p);
        let s = in_child(|| {
            let r = sc!(libc::SYS_execveat, fd, p.as_ptr(), argv.as_ptr(), env.as_ptr(), flags);
            say("  failed", r);
            0
        });
        say(name, s);
    };
    at("directory and name", dir, "gt-copy", 0);
    at("AT_FDCWD", libc::AT_FDCWD, "gt-copy", 0);
    at("AT_EMPTY_PATH", file, "", libc::AT_EMPTY_PATH);
    at("AT_EMPTY_PATH with O_PATH", path, "", libc::AT_EMPTY_PATH);
    at("empty without flag", file, "", 0);
    at("follows links", dir, "link", 0);
    at("AT_SYMLINK_NOFOLLOW", dir, "link", libc::AT_SYMLINK_NOFOLLOW);
    at("bad flag", dir, "gt-copy", 0x10);
    at("bad descriptor", 999, "gt-copy", 0);
    at("script by close-on-exec descriptor", scr, "", libc::AT_EMPTY_PATH);
    at("script by descriptor 50", 50, "", libc::AT_EMPTY_PATH);
}

fn argument_limits() {
    // One string: 32 pages (131072 bytes) with its terminator.
    let ok = "a".repeat(131_071);
    let over = "a".repeat(131_072);
    say("longest string", try_exec("/bin/true", &["true", &ok]));
    say("one more", try_exec("/bin/true", &["true", &over]));
    // All strings together: a quarter of the stack limit.
    let s = in_child(|| {
        let lim = libc::rlimit { rlim_cur: 1 << 20, rlim_max: libc::RLIM_INFINITY };
        unsafe { libc::setrlimit(libc::RLIMIT_STACK, &lim) };
        let k100 = "b".repeat(100_000);
        say("200 kB with 1 MiB of stack", try_exec("/bin/true", &["true", &k100, &k100]));
        say("300 kB with 1 MiB of stack", try_exec("/bin/true", &["true", &k100, &k100, &k100]));
        0
    });
    say("child", s);
    let many: Vec<String> = (0..20_000).map(|i| i.to_string()).collect();
    let mut args = vec!["gt", "--role", "count"];
    args.extend(many.iter().map(String::as_str));
    say("20000 arguments", try_exec("/proc/self/exe", &args));
}

fn proc_self_exe() {
    copy_self("gt-copy");
    let cwd = std::env::current_dir().unwrap();
    let link = in_child(|| {
        let c = cwd.to_str().unwrap();
        execve("./gt-copy", &["gt", "--role", "exe", c], &[]);
        1
    });
    say("status", link);
    say("link is absolute", std::fs::read_link("/proc/self/exe").is_ok_and(|p| p.is_absolute()));
    say("open by the link", open("/proc/self/exe", libc::O_RDONLY).ok());
    say("open for writing", open("/proc/self/exe", libc::O_WRONLY));
}

fn text_busy() {
    copy_self("gt-copy");
    let hold = Event::new();
    let ready = Event::new();
    let pid = child(|| {
        unsafe {
            libc::dup2(hold.r, 10);
            libc::dup2(ready.w, 11);
        }
        execve("./gt-copy", &["gt", "--role", "hold"], &[]);
        1
    });
    ready.wait();
    say("write a running program", open("gt-copy", libc::O_WRONLY));
    say("truncate it", c!(libc::truncate(c"gt-copy".as_ptr(), 0)));
    say("read it", open("gt-copy", libc::O_RDONLY).ok());
    say("unlink it", c!(libc::unlink(c"gt-copy".as_ptr())));
    hold.post();
    say("it still ends well", reap(pid));
    copy_self("gt2");
    let w = open("gt2", libc::O_WRONLY).fd();
    say("execute a file open for writing", try_exec("./gt2", &["gt", "--role", "exit", "3"]));
    close(w);
    say("after close", try_exec("./gt2", &["gt", "--role", "exit", "3"]));
}

fn exec_by_thread() {
    // The executing thread becomes the leader, the other threads are gone, the pid stays.
    let (r, w) = pipe();
    let pid = child(|| {
        unsafe { libc::dup2(w, 9) };
        for _ in 0..3 {
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            });
        }
        let t = std::thread::spawn(|| {
            execve("/proc/self/exe", &["gt", "--role", "threads"], &[]);
        });
        let _ = t.join();
        99
    });
    close(w);
    let got = read(r, 100).unwrap();
    say("status", reap(pid));
    say("same pid", String::from_utf8_lossy(&got) == pid.to_string());
}

fn deleted_program() {
    copy_self("gt-copy");
    let cwd = std::env::current_dir().unwrap();
    let s = in_child(|| {
        execve("./gt-copy", &["gt", "--role", "deleted", cwd.to_str().unwrap()], &[]);
        1
    });
    say("status", s);
}

fn memory_replaced() {
    // A mapping made before is gone, and the address space starts afresh.
    let p = unsafe {
        libc::mmap(
            0x10_0000_0000usize as *mut _,
            4096,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    say("mapped", p as usize == 0x10_0000_0000);
    say("status", exec_role(&["unmapped"], &[], || {}));
}

fn not_executable() {
    // Root needs at least one x bit too.
    script("s", "#!/bin/true\n");
    unsafe { libc::chmod(c"s".as_ptr(), 0o644) };
    say("no x bit, as root", try_exec("./s", &["s"]));
    unsafe { libc::chmod(c"s".as_ptr(), 0o601) };
    say("x for others only, as root", try_exec("./s", &["s"]));
    copy_self("suid");
    std::os::unix::fs::chown("suid", Some(1), Some(2)).unwrap();
    unsafe { libc::chmod(c"suid".as_ptr(), 0o6755) };
    say("set-id by root", try_exec("./suid", &["suid", "--role", "ids"]));
    let s = in_child(|| {
        unsafe {
            libc::setgroups(0, std::ptr::null());
            libc::setresgid(7, 7, 7);
            libc::setresuid(7, 7, 7);
        }
        say("set-id by uid 7", try_exec("./suid", &["suid", "--role", "ids"]));
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        say("set-id with no_new_privs", try_exec("./suid", &["suid", "--role", "ids"]));
        0
    });
    say("child", s);
}

/// The roles this family executes itself with.
pub fn role(args: &[String]) -> Option<ExitCode> {
    let ids = || unsafe {
        let (mut r, mut e, mut s) = (0, 0, 0);
        libc::getresuid(&mut r, &mut e, &mut s);
        let (mut rg, mut eg, mut sg) = (0, 0, 0);
        libc::getresgid(&mut rg, &mut eg, &mut sg);
        format!("uid {r} {e} {s} gid {rg} {eg} {sg}, secure {}", libc::getauxval(libc::AT_SECURE))
    };
    let code = match args.first().map(String::as_str)? {
        "args" => {
            for (i, a) in args.iter().enumerate() {
                say(&format!("arg {i}"), quoted(a.as_bytes()));
            }
            unsafe extern "C" {
                static environ: *const *const libc::c_char;
            }
            let mut n = 0;
            unsafe {
                while !(*environ.add(n)).is_null() {
                    let s = std::ffi::CStr::from_ptr(*environ.add(n));
                    say(&format!("env {n}"), quoted(s.to_bytes()));
                    n += 1;
                }
            }
            0
        }
        "exit" => args[1].parse().unwrap(),
        "count" => {
            say("count", args.len() - 1);
            say("last", args.last().unwrap());
            0
        }
        "fds" => {
            for a in &args[1..] {
                let n: i32 = a.parse().unwrap();
                say(a, c!(libc::fcntl(n, libc::F_GETFD)));
            }
            0
        }
        "signals" => {
            unsafe {
                let mut sa: libc::sigaction = std::mem::zeroed();
                for s in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD] {
                    libc::sigaction(s, std::ptr::null(), &mut sa);
                    let how = match sa.sa_sigaction {
                        libc::SIG_DFL => "default",
                        libc::SIG_IGN => "ignored",
                        _ => "handler",
                    };
                    say(&signal_name(s), how);
                }
                let mut set = sigset(&[]);
                libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
                let m = [libc::SIGTERM, libc::SIGUSR1, libc::SIGINT]
                    .map(|s| libc::sigismember(&set, s));
                say("blocked TERM USR1 INT", format!("{m:?}"));
                libc::sigpending(&mut set);
                say("pending TERM", libc::sigismember(&set, libc::SIGTERM));
                let left = libc::alarm(0);
                say("alarm kept", (400..=500).contains(&left));
            }
            0
        }
        "state" => {
            unsafe {
                write(9, getpid().to_string().as_bytes());
                say("umask", format!("{:o}", libc::umask(0)));
                say("cwd", std::env::current_dir().unwrap().ends_with("d"));
                say("nice", c!(libc::getpriority(libc::PRIO_PROCESS, 0)));
                let mut sig = 0;
                libc::prctl(libc::PR_GET_PDEATHSIG, &mut sig);
                say("pdeathsig", sig);
                say("no_new_privs", libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
                say("keepcaps", libc::prctl(libc::PR_GET_KEEPCAPS));
                let mut name = [0u8; 16];
                libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
                say("comm is the file's name", quoted(name.split(|b| *b == 0).next().unwrap()));
                say("dumpable", libc::prctl(libc::PR_GET_DUMPABLE));
            }
            0
        }
        "exe" => {
            let l = std::fs::read_link("/proc/self/exe").unwrap();
            say("exe", l == std::path::Path::new(&args[1]).join("gt-copy"));
            let execfn =
                unsafe { std::ffi::CStr::from_ptr(libc::getauxval(libc::AT_EXECFN) as *const _) };
            say("AT_EXECFN", quoted(execfn.to_bytes()));
            let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
            say("comm", comm.trim_end());
            0
        }
        "hold" => {
            write(11, b"x");
            let _ = read(10, 1);
            5
        }
        "threads" => {
            write(9, getpid().to_string().as_bytes());
            say("tid is pid", gettid() == getpid());
            say("threads", std::fs::read_dir("/proc/self/task").unwrap().count());
            6
        }
        "deleted" => {
            std::fs::remove_file("gt-copy").unwrap();
            let l = std::fs::read_link("/proc/self/exe").unwrap();
            say("exe", l.to_str().unwrap() == format!("{}/gt-copy (deleted)", args[1]));
            say("still opens", open("/proc/self/exe", libc::O_RDONLY).ok());
            0
        }
        "unmapped" => {
            let r = sc!(libc::SYS_mincore, 0x10_0000_0000usize, 4096, [0u8; 1].as_mut_ptr());
            say("old mapping", r);
            0
        }
        "ids" => {
            say("ids", ids());
            0
        }
        _ => return None,
    };
    Some(ExitCode::from(code))
}
