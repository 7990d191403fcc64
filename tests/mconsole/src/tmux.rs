//! A person at a terminal: tmux, whose screen is read and whose keys are pressed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::PATIENCE;

/// A window of a tmux server of its own, 80 columns by 24 lines; its program ends with it.
pub struct Window {
    socket: String,
}

impl Window {
    /// Runs a shell command in a new window.
    pub fn open(dir: &Path, name: &str, command: &str) -> Result<Window, String> {
        let w = Window { socket: dir.join(format!("tmux-{name}")).display().to_string() };
        w.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", command])?;
        w.tmux(&["set-option", "-g", "remain-on-exit", "on"])?;
        w.tmux(&["set-option", "-g", "window-size", "manual"])?;
        Ok(w)
    }

    fn tmux(&self, args: &[&str]) -> Result<String, String> {
        let out = Command::new("tmux")
            .args(["-S", &self.socket])
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm")
            .env_remove("TMUX")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("tmux: {e}"))?;
        if out.status.success() {
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        } else {
            Err(format!("tmux {args:?}: {}", String::from_utf8_lossy(&out.stderr)))
        }
    }

    /// Presses keys, named as tmux does (`Enter`, `C-c`, `Escape`).
    pub fn keys(&self, names: &[&str]) -> Result<(), String> {
        let mut all = vec!["send-keys"];
        all.extend_from_slice(names);
        self.tmux(&all).map(|_| ())
    }

    /// Types text.
    pub fn text(&self, text: &str) -> Result<(), String> {
        self.tmux(&["send-keys", "-l", text]).map(|_| ())
    }

    /// Types a line.
    pub fn line(&self, text: &str) -> Result<(), String> {
        self.text(text)?;
        self.keys(&["Enter"])
    }

    pub fn resize(&self, columns: u16, lines: u16) -> Result<(), String> {
        let (c, l) = (columns.to_string(), lines.to_string());
        self.tmux(&["resize-window", "-x", &c, "-y", &l]).map(|_| ())
    }

    /// The device of its terminal.
    pub fn tty(&self) -> Result<String, String> {
        Ok(self.tmux(&["display-message", "-p", "#{pane_tty}"])?.trim().to_owned())
    }

    /// What is on the screen.
    pub fn screen(&self) -> Result<String, String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as `wanted` likes it.
    pub fn see(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let s = self.screen()?;
            if wanted(&s) {
                return Ok(s);
            }
            if Instant::now() > deadline {
                return Err(format!("never saw {what}; the screen:\n{}", s.trim_end()));
            }
            std::thread::park_timeout(Duration::from_millis(30));
        }
    }

    /// Waits until a line of the screen is `text`.
    pub fn see_line(&self, text: &str) -> Result<String, String> {
        self.see(&format!("{text:?}"), |s| s.lines().any(|l| l.trim_end() == text))
    }

    /// Empties the screen and what scrolled off it.
    pub fn clear(&self) -> Result<(), String> {
        self.tmux(&["send-keys", "-R"])?;
        self.tmux(&["clear-history"]).map(|_| ())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}
