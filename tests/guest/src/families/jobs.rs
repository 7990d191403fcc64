//! Terminals and processes: controlling terminals, signals by keys, foreground and background, window size, hangup.

use super::tty::*;
use crate::sys::*;
use crate::{c, cases};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

cases! {
    signals_by_keys, signals_flush, window_size, controlling_terminal, background_read, background_write, foreground_groups, hangup_by_master, hangup_by_leader, session_rules, dev_tty,
}

static LAST: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(s: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    LAST.store(s, SeqCst);
}

fn signals_by_keys() {
    let (m, keep) = ptys();
    let w = shared_words();
    for (key, sig, n) in
        [(3u8, libc::SIGINT, "INTR"), (0x1c, libc::SIGQUIT, "QUIT"), (0x1a, libc::SIGTSTP, "SUSP")]
    {
        w[0].store(0, SeqCst);
        let pid = session(m, |_| {
            on_signal(sig, note, 0);
            publish(&w[0], 1);
            while LAST.load(SeqCst) == 0 {
                pause_poll();
            }
            LAST.load(SeqCst)
        });
        await_change(&w[0], 0);
        write(m, &[key]);
        say(n, reap(pid) == format!("exit {sig}"));
    }
    say("echo", drain(m, 6));
    // Without ISIG the keys are data.
    change(keep, |t| t.c_lflag &= !(libc::ISIG | libc::ICANON | libc::ECHO));
    say("without ISIG", typed(m, keep, b"\x03", 10));
}

fn signals_flush() {
    let (m, keep) = ptys();
    no_echo(keep);
    let w = shared_words();
    let pid = session(m, |s| {
        on_signal(libc::SIGINT, note, 0);
        publish(&w[0], 1);
        while LAST.load(SeqCst) == 0 {
            pause_poll();
        }
        say("input before INTR is flushed", read_text(s, 100));
        change(s, |t| t.c_lflag |= libc::NOFLSH);
        LAST.store(0, SeqCst);
        publish(&w[0], 2);
        while LAST.load(SeqCst) == 0 {
            pause_poll();
        }
        say("with NOFLSH it stays", read_text(s, 100));
        0
    });
    await_change(&w[0], 0);
    write(m, b"lost\x03kept\n");
    await_change(&w[0], 1);
    write(m, b"a\x03b\n");
    say("status", reap(pid));
}

fn window_size() {
    let (m, s) = ptys();
    let get = |fd: i32| {
        let mut w: libc::winsize = unsafe { std::mem::zeroed() };
        let r = c!(libc::ioctl(fd, libc::TIOCGWINSZ, &mut w));
        format!("{r} {}x{} {}x{}", w.ws_row, w.ws_col, w.ws_xpixel, w.ws_ypixel)
    };
    say("fresh", get(s));
    let ws = libc::winsize { ws_row: 40, ws_col: 132, ws_xpixel: 1, ws_ypixel: 2 };
    say("set by master", c!(libc::ioctl(m, libc::TIOCSWINSZ, &ws)));
    say("slave", get(s));
    let w = shared_words();
    let pid = session(m, |_| {
        mask(libc::SIG_BLOCK, &[libc::SIGWINCH]);
        publish(&w[0], 1);
        signal_name(
            c!(libc::sigwaitinfo(&sigset(&[libc::SIGWINCH]), std::ptr::null_mut())).0 as i32,
        )
        .len() as i32
    });
    await_change(&w[0], 0);
    c!(libc::ioctl(m, libc::TIOCSWINSZ, &ws));
    let other = libc::winsize { ws_row: 41, ..ws };
    say("same size sends nothing; another does", c!(libc::ioctl(m, libc::TIOCSWINSZ, &other)));
    say("SIGWINCH", reap(pid) == "exit 8");
    say("set by slave", c!(libc::ioctl(s, libc::TIOCSWINSZ, &ws)));
    say("master", get(m));
    say("not a terminal", c!(libc::ioctl(0, libc::TIOCGWINSZ, &ws)));
}

fn controlling_terminal() {
    let (m, s) = ptys();
    let st = in_child(|| {
        unsafe { libc::setsid() };
        say("before", open("/dev/tty", libc::O_RDWR));
        say("O_NOCTTY keeps it so", {
            open(&slave_name(m), libc::O_RDWR | libc::O_NOCTTY);
            open("/dev/tty", libc::O_RDWR)
        });
        say("TIOCSCTTY", c!(libc::ioctl(s, libc::TIOCSCTTY, 0)));
        say("again", c!(libc::ioctl(s, libc::TIOCSCTTY, 0)));
        say("/dev/tty", open("/dev/tty", libc::O_RDWR).ok());
        say("tcgetsid", unsafe { libc::tcgetsid(s) } == getpid());
        say("tcgetpgrp", unsafe { libc::tcgetpgrp(s) } == getpid());
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let f: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        say("proc: tty_nr is set, tpgid is the group", f[4] != "0" && f[5] == getpid().to_string());
        let k = in_child(|| {
            unsafe { libc::setsid() };
            say("another session: TIOCSCTTY", c!(libc::ioctl(s, libc::TIOCSCTTY, 0)));
            0
        });
        say("child", k);
        say("TIOCNOTTY", {
            set_action(libc::SIGHUP, libc::SIG_IGN);
            c!(libc::ioctl(s, libc::TIOCNOTTY, 0))
        });
        say("after", open("/dev/tty", libc::O_RDWR));
        0
    });
    say("status", st);
    let k = in_child(|| {
        open(&slave_name(m), libc::O_RDWR);
        say("not a leader", open("/dev/tty", libc::O_RDWR));
        0
    });
    say("without a session of its own: open does not give one", k);
}

fn background_read() {
    let (m, _k) = ptys();
    let w = shared_words();
    let st = reap(session(m, |s| {
        let bg = child(|| {
            unsafe { libc::setpgid(0, 0) };
            let r = read_text(s, 10);
            (r == "\"fg now\\n\"") as i32
        });
        let _ = c!(libc::setpgid(bg, bg));
        say("stopped", wait_opt(bg, libc::WUNTRACED));
        say("make it foreground", c!(libc::tcsetpgrp(s, bg)));
        write(m, b"fg now\n");
        unsafe { libc::kill(bg, libc::SIGCONT) };
        say("reads", wait_opt(bg, 0));
        set_action(libc::SIGTTOU, libc::SIG_IGN);
        c!(libc::tcsetpgrp(s, getpid()));
        let bg = child(|| {
            unsafe { libc::setpgid(0, 0) };
            set_action(libc::SIGTTIN, libc::SIG_IGN);
            say("SIGTTIN ignored", read_text(s, 1));
            set_action(libc::SIGTTIN, libc::SIG_DFL);
            mask(libc::SIG_BLOCK, &[libc::SIGTTIN]);
            say("SIGTTIN blocked", read_text(s, 1));
            0
        });
        reap(bg);
        let mid = child(|| {
            // The grandchild's group is orphaned once this one has ended.
            unsafe { libc::setpgid(0, 0) };
            let parent = getpid();
            child(|| {
                while unsafe { libc::getppid() } == parent {
                    pause_poll();
                }
                publish(&w[0], -read_error(s));
                0
            });
            0
        });
        reap(mid);
        await_change(&w[0], 0);
        say("orphaned group reads", errno_name(w[0].load(SeqCst)));
        0
    }));
    say("session", st);
}

fn read_error(fd: i32) -> i32 {
    match read(fd, 1) {
        Ok(_) => 0,
        Err(r) => r.0 as i32,
    }
}

fn background_write() {
    let (m, _k) = ptys();
    let st = reap(session(m, |s| {
        let bg = child(|| {
            unsafe { libc::setpgid(0, 0) };
            // Without TOSTOP a background group may write.
            write(s, b"w").0 as i32
        });
        say("write without TOSTOP", reap(bg));
        change(s, |t| t.c_lflag |= libc::TOSTOP);
        let bg = child(|| {
            unsafe { libc::setpgid(0, 0) };
            write(s, b"w").0 as i32
        });
        say("with TOSTOP", wait_opt(bg, libc::WUNTRACED));
        c!(libc::tcsetpgrp(s, bg));
        unsafe { libc::kill(bg, libc::SIGCONT) };
        say("in the foreground", wait_opt(bg, 0));
        set_action(libc::SIGTTOU, libc::SIG_IGN);
        c!(libc::tcsetpgrp(s, getpid()));
        let bg = child(|| {
            unsafe { libc::setpgid(0, 0) };
            write(s, b"w").0 as i32
        });
        say("SIGTTOU ignored", reap(bg));
        set_action(libc::SIGTTOU, libc::SIG_DFL);
        change(s, |t| t.c_lflag &= !libc::TOSTOP);
        let bg = child(|| {
            unsafe { libc::setpgid(0, 0) };
            let t = attr(s);
            set_attr(s, &t).is_ok() as i32
        });
        say("tcsetattr by the background stops", wait_opt(bg, libc::WUNTRACED));
        unsafe { libc::kill(bg, libc::SIGKILL) };
        reap(bg);
        let bg = child(|| {
            unsafe { libc::setpgid(0, 0) };
            c!(libc::tcsetpgrp(s, getpid())).is_ok() as i32
        });
        say("tcsetpgrp by the background stops", wait_opt(bg, libc::WUNTRACED));
        unsafe { libc::kill(bg, libc::SIGKILL) };
        reap(bg);
        0
    }));
    say("session", st);
    say("written", drain(m, 3));
}

fn foreground_groups() {
    let (m, _k) = ptys();
    let st = reap(session(m, |s| {
        let ready = Event::new();
        let fg = child(|| {
            unsafe { libc::setpgid(0, 0) };
            ready.post();
            loop {
                unsafe { libc::pause() };
            }
        });
        ready.wait();
        say("give the terminal away", c!(libc::tcsetpgrp(s, fg)));
        say("who has it", unsafe { libc::tcgetpgrp(s) } == fg);
        say("by the master", unsafe { libc::tcgetpgrp(m) } == fg);
        write(m, b"\x03");
        say("INTR goes to the foreground", reap(fg));
        set_action(libc::SIGTTOU, libc::SIG_IGN);
        say("group that is gone", c!(libc::tcsetpgrp(s, fg)));
        say("group of another session", c!(libc::tcsetpgrp(s, 1)));
        say("negative", c!(libc::tcsetpgrp(s, -5)));
        say("take it back", c!(libc::tcsetpgrp(s, getpid())));
        0
    }));
    say("session", st);
    say("from outside the session", c!(libc::tcgetpgrp(_k)));
    say("set from outside", c!(libc::tcsetpgrp(_k, getpid())));
}

fn hangup_by_master() {
    let m = master();
    let w = shared_words();
    let pid = session(m, |s| {
        // Only the parent's descriptor keeps the master open.
        close(m);
        on_signal(libc::SIGHUP, note, 0);
        on_signal(libc::SIGCONT, note, 0);
        publish(&w[0], 1);
        while LAST.load(SeqCst) == 0 {
            pause_poll();
        }
        say("read after", read_text(s, 10));
        say("write after", write(s, b"x"));
        let mut t: libc::termios = unsafe { std::mem::zeroed() };
        say("tcgetattr after", c!(libc::tcgetattr(s, &mut t)));
        say("/dev/tty after", open("/dev/tty", libc::O_RDWR));
        let mut p = libc::pollfd { fd: s, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
        unsafe { libc::poll(&mut p, 1, 0) };
        say("poll after", format!("{:#x}", p.revents));
        0
    });
    await_change(&w[0], 0);
    close(m);
    say("leader", reap(pid));
    let m = master();
    w[0].store(0, SeqCst);
    let pid = session(m, |_| {
        close(m);
        publish(&w[0], 1);
        loop {
            unsafe { libc::pause() };
        }
    });
    await_change(&w[0], 0);
    close(m);
    say("default action", reap(pid));
}

fn hangup_by_leader() {
    let (m, keep) = ptys();
    let w = shared_words();
    let pid = session(m, |s| {
        let fg = child(|| {
            on_signal(libc::SIGHUP, note, 0);
            publish(&w[0], 1);
            while LAST.load(SeqCst) == 0 {
                pause_poll();
            }
            publish(&w[1], LAST.load(SeqCst));
            let lost = open("/dev/tty", libc::O_RDWR);
            publish(&w[2], -lost.0 as i32);
            0
        });
        let _ = (s, fg);
        await_change(&w[0], 0);
        0
    });
    say("leader", reap(pid));
    await_change(&w[2], 0);
    say("foreground got", signal_name(w[1].load(SeqCst)));
    say("terminal lost", errno_name(w[2].load(SeqCst)));
    say("a descriptor of another session still works", write(keep, b"x"));
}

fn session_rules() {
    let (m, _s) = ptys();
    let st = in_child(|| {
        unsafe { libc::setsid() };
        let s = open(&slave_name(m), libc::O_RDWR).fd();
        say("opened by a leader without terminal: becomes it", open("/dev/tty", 0).ok());
        let k = in_child(|| {
            say("child has it too", open("/dev/tty", 0).ok());
            unsafe { libc::setsid() };
            say("not after setsid", open("/dev/tty", 0));
            0
        });
        say("child", k);
        let (m2, _) = (master(), 0);
        let s2 = open(&slave_name(m2), libc::O_RDWR).fd();
        say("a second one is not taken", c!(libc::tcgetpgrp(s2)));
        say("first remains", unsafe { libc::tcgetpgrp(s) } == getpid());
        0
    });
    say("status", st);
}

fn dev_tty() {
    let (m, _k) = ptys();
    let st = reap(session(m, |s| {
        no_echo(s);
        let t = open("/dev/tty", libc::O_RDWR).fd();
        write(t, b"by tty");
        write(m, b"typed\n");
        say("read", read_text(t, 10));
        say("isatty", unsafe { libc::isatty(t) });
        let mut st: libc::stat = unsafe { std::mem::zeroed() };
        unsafe { libc::fstat(t, &mut st) };
        say("is 5:0", format!("{}:{}", libc::major(st.st_rdev), libc::minor(st.st_rdev)));
        0
    }));
    say("status", st);
    say("master", drain(m, 6));
}
