//! Pressure stall information: the files of /proc/pressure, triggers and their events.

use crate::sys::*;
use crate::{c, cases, sc};
use std::os::unix::fs::MetadataExt;

cases! {
    pressure_files, trigger_errors, trigger_polled, cpu_stalls, groups: root,
}

fn text(p: &str) -> String {
    std::fs::read_to_string(p).unwrap_or_else(|e| errno_name(e.raw_os_error().unwrap()))
}

/// The line with its numbers replaced.
fn shape(line: &str) -> String {
    let word = |w: &str| match w.split_once('=') {
        Some(("total", v)) if v.parse::<u64>().is_ok() => "total=N".to_string(),
        Some((k, v)) => match v.split_once('.') {
            Some((whole, part))
                if part.len() == 2 && whole.parse::<u32>().is_ok_and(|n| n <= 100) =>
            {
                format!("{k}=N")
            }
            _ => w.into(),
        },
        None => w.into(),
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn total(file: &str) -> u64 {
    let t = text(file);
    t.lines().next().and_then(|l| l.split_once("total=")?.1.parse().ok()).unwrap()
}

fn pressure_files() {
    let m = std::fs::metadata("/proc/pressure").unwrap();
    say("directory", format!("{:o}", m.mode()));
    for name in ["cpu", "io", "memory"] {
        let path = format!("/proc/pressure/{name}");
        let m = std::fs::metadata(&path).unwrap();
        say(name, format!("{:o} {} {} {}", m.mode(), m.uid(), m.gid(), m.size()));
        for l in text(&path).lines() {
            say(name, shape(l));
        }
        let before = total(&path);
        say("grows only", total(&path) >= before);
        let fd = open(&path, 0).fd();
        let n = read(fd, 1000).unwrap().len() as i64;
        say("end", read(fd, 10).unwrap().is_empty());
        say("seek", c!(libc::lseek(fd, 5, libc::SEEK_SET)));
        say("rest", read(fd, 1000).unwrap().len() as i64 <= n);
    }
    let cpu = text("/proc/pressure/cpu");
    say("full of the processors", cpu.lines().nth(1).unwrap());
}

fn trigger_errors() {
    let path = "/proc/pressure/memory";
    let try_it = |s: &[u8]| write(open(path, libc::O_RDWR).fd(), s);
    for s in [
        "some 100000 2000000\n",
        "some 100000 2000000\0",
        "full 100000 2000000\n",
        "some 2000000 2000000\n",
        "some 1 10000000\n",
        "some 2000001 2000000\n",
        "some 100000 1000000\n",
        "some 100000 2500000\n",
        "some 100000 3000000\n",
        "some 100000 10000001\n",
        "some 100000 12000000\n",
        "some 0 2000000\n",
        "some 100000 0\n",
        "some 100000\n",
        "some\n",
        "none 100000 2000000\n",
        " some 100000 2000000\n",
        "some  100000\t 2000000\n",
        "some100000 2000000\n",
        "some 100000 2000000 more\n",
        "some 100000 2000000x\n",
        "some x100000 2000000\n",
        "some -1 2000000\n",
        "some 4294967296 2000000\n",
        "some 4294967297 2000000\n",
        "some 100000 20000001",
        "some 100000 2000000",
        "SOME 100000 2000000\n",
        "some 0000000100000 00002000000\n",
        "some 0000000100000 000002000000\n",
        "\n",
        "x",
    ] {
        say(&format!("{s:?}"), try_it(s.as_bytes()));
    }
    say("nothing", try_it(b""));
    let fd = open(path, libc::O_RDWR).fd();
    say("bad pointer", sc!(libc::SYS_write, fd, 8, 20));
    say("first", write(fd, b"some 100000 2000000\n"));
    say("second", write(fd, b"some 100000 2000000\n"));
    say("worse", write(fd, b"nonsense\n"));
    say("read", shape(text(path).lines().next().unwrap()));
    say("read through it", read(fd, 4).map_or_else(|e| e.to_string(), |b| quoted(&b)));
    say("for reading", write(open(path, libc::O_RDONLY).fd(), b"some 100000 2000000\n"));
    say("truncated", open(path, libc::O_WRONLY | libc::O_TRUNC).ok());
}

fn poll(fd: i32, events: i16, timeout: i32) -> String {
    let mut p = libc::pollfd { fd, events, revents: 0 };
    let r = c!(libc::poll(&mut p, 1, timeout));
    format!("{r} {:#x}", p.revents)
}

fn trigger_polled() {
    let all = libc::POLLIN | libc::POLLOUT | libc::POLLPRI;
    let fd = open("/proc/pressure/memory", libc::O_RDWR).fd();
    say("without a trigger", poll(fd, all, 0));
    say("again", poll(fd, all, 0));
    say("for nothing", poll(fd, 0, 0));
    write(fd, b"full 2000000 2000000\n");
    say("with one", poll(fd, all, 0));
    say("the event", poll(fd, libc::POLLPRI, 10));
    let e = c!(libc::epoll_create1(0)).fd();
    let mut event = libc::epoll_event { events: libc::EPOLLPRI as u32, u64: 0 };
    say("epoll", c!(libc::epoll_ctl(e, libc::EPOLL_CTL_ADD, fd, &mut event)));
    say("no event", c!(libc::epoll_wait(e, &mut event, 1, 0)));
}

/// More programs than processors want to run.
fn cpu_stalls() {
    let path = "/proc/pressure/cpu";
    let before = total(path);
    let fd = open(path, libc::O_RDWR).fd();
    say("trigger", write(fd, b"some 50000 2000000\n"));
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) } + 6;
    let all: Vec<i32> = (0..count)
        .map(|_| {
            child(|| {
                loop {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    say("event", poll(fd, libc::POLLPRI, 30_000));
    for pid in all {
        unsafe { libc::kill(pid, libc::SIGKILL) };
        reap(pid);
    }
    say("more than the threshold", total(path) - before >= 50_000);
}

/// The files of a control group.
fn groups() {
    let group = super::clone::own_cgroup("pressure");
    let path = |name: &str| format!("{group}/{name}");
    let put = |name: &str, s: &str| write(open(&path(name), libc::O_WRONLY).fd(), s.as_bytes());
    let modes = |name: &str| {
        std::fs::metadata(path(name)).map_or("none".into(), |m| format!("{:o}", m.mode()))
    };
    for name in ["cgroup.pressure", "io.pressure", "memory.pressure"] {
        say(name, modes(name));
    }
    say("of the root", std::fs::metadata("cg/cgroup.pressure").is_ok());
    for l in text(&path("memory.pressure")).lines().chain(text(&path("io.pressure")).lines()) {
        say("line", l);
    }
    for s in [
        "some 100000 2000000",
        "some 100000 2000000\n",
        "full 1 2000000",
        "some 1",
        "none",
        "some 3 2",
    ] {
        say(&format!("{s:?}"), put("memory.pressure", s));
    }
    let fd = open(&path("io.pressure"), libc::O_RDWR).fd();
    say("without a trigger", poll(fd, libc::POLLPRI, 0));
    say("first", write(fd, b"some 2000000 2000000"));
    say("second", write(fd, b"some 2000000 2000000"));
    say("the event", poll(fd, libc::POLLPRI, 10));
    say("switch", text(&path("cgroup.pressure")).trim());
    for s in ["2", "-1", "x", "", "0 1", "0\n"] {
        say(&format!("switch {s:?}"), put("cgroup.pressure", s));
    }
    say("off", text(&path("cgroup.pressure")).trim());
    say("files", format!("{} {}", modes("io.pressure"), modes("memory.pressure")));
    say("on", put("cgroup.pressure", "1"));
    say("files", format!("{} {}", modes("io.pressure"), modes("memory.pressure")));
    say("again", shape(text(&path("memory.pressure")).lines().next().unwrap()));
    close(fd);
    say("rmdir", c!(libc::rmdir(cstr(&group).as_ptr())));
}
