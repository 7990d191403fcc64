//! The interactive client on a pseudo-terminal.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{CLIENT, Home, VERSION};
use nix::pty::openpty;
use nix::sys::termios::{Termios, tcgetattr};
use uml_formats::mconsole::{Notification, NotificationKind};

struct Terminal {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
    /// Kept open: its settings must be restored at the end.
    line: File,
    before: Termios,
}

impl Terminal {
    fn open(home: &Home, arguments: &[&str]) -> Self {
        let pty = openpty(None, None).expect("pty");
        let line = File::from(pty.slave);
        let mut master = File::from(pty.master);
        let keyboard = master.try_clone().expect("dup");
        let before = tcgetattr(&line).expect("termios");
        let child = Command::new(CLIENT)
            .args(arguments)
            .env("HOME", home.path())
            .env("XDG_STATE_HOME", home.path().join("state"))
            .env("TERM", "xterm")
            .stdin(line.try_clone().expect("dup"))
            .stdout(line.try_clone().expect("dup"))
            .stderr(line.try_clone().expect("dup"))
            .spawn()
            .expect("client");
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = master.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, keyboard, screen, seen: String::new(), line, before }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("keyboard");
    }

    /// Waits until `text` appears after everything waited for before.
    fn wait_for(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            match self.screen.recv_timeout(Duration::from_secs(20)) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no {text:?} on the screen, only {:?}", self.seen),
            }
        }
    }
}

#[test]
fn a_session_with_completion_notification_history_and_restored_terminal() {
    let home = Home::new();
    let _first = home.start("box");
    let _second = home.start("other");
    let events = home.path().join("events");
    let events_text = events.display().to_string();
    let mut terminal = Terminal::open(&home, &["--notify", &events_text, "box"]);
    terminal.wait_for("(box) ");
    terminal.press("vers\t\r");
    terminal.wait_for(&format!("OK {VERSION}"));
    terminal.wait_for("(box) ");

    // In the middle of a line: the notification appears, the line survives.
    terminal.press("config u");
    terminal.wait_for("config u");
    let hello = Notification { kind: NotificationKind::User, payload: b"he\x1b[31mllo\n".to_vec() };
    let kernel = UnixDatagram::unbound().expect("socket");
    kernel.send_to(&hello.encode(), &events).expect("listener");
    terminal.wait_for("[user] he^[[31mllo");
    terminal.press("\t0\r");
    terminal.wait_for("OK /img/root");
    terminal.wait_for("(box) ");

    terminal.press("proc evil\r");
    terminal.wait_for("OK ^[]0;title^G");
    terminal.wait_for("(box) ");
    terminal.press("switch oth\t\r");
    terminal.wait_for("Switched to 'other'");
    terminal.wait_for("(other) ");
    // Ctrl-C drops the line, cursor-up brings the first command back.
    terminal.press("half a line\x03");
    terminal.wait_for("(other) ");
    terminal.press("\x1b[A\x1b[A\x1b[A\x1b[A\r");
    terminal.wait_for(&format!("OK {VERSION}"));
    terminal.wait_for("(other) ");
    terminal.press("\x04");
    let status = terminal.child.wait().expect("wait");
    assert_eq!(status.code(), Some(0));
    assert!(!events.exists(), "the notification socket must be removed");
    let after = tcgetattr(&terminal.line).expect("termios");
    assert_eq!(after, terminal.before, "the terminal's settings must be restored");
    let history = home.path().join("state/uml_mconsole/history");
    let history = std::fs::read_to_string(history).expect("history");
    assert!(history.lines().any(|line| line.trim() == "version"), "{history}");
}
