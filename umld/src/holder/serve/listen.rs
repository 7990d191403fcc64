//! What the machine says: its lines, its log, its notifications.

use super::*;

impl Holder {
    pub(super) fn line_output(&mut self, i: usize) {
        // A guest that prints without end must not keep others waiting.
        for _ in 0..16 {
            let Some((bytes, login)) = self.lines[i].read() else { return };
            for c in &mut self.clients {
                if matches!(c.mode, Mode::Viewer { line, .. } if line == i) {
                    c.frame(&Frame::Data(bytes.clone()));
                }
            }
            if login && self.status.login.is_none() {
                self.status.login = Some(now());
                self.record("login", &self.lines[i].name.clone());
                self.booted();
                self.save();
                self.tell(Await::Login);
            }
        }
    }

    pub(super) fn kernel_output(&mut self) {
        let mut chunk = [0; 16 << 10];
        for _ in 0..16 {
            let Some(pipe) = &self.kernel_pipe else { return };
            let n = match nix::unistd::read(pipe, &mut chunk) {
                Ok(0) => {
                    self.kernel_pipe = None;
                    return;
                }
                Ok(n) => n,
                Err(_) => return,
            };
            self.kernel_log.append(&chunk[..n]);
            self.log_tail.extend_from_slice(&chunk[..n]);
            let started = self.log_tail.windows(15).any(|w| w == b"as init process")
                && self.status.booted.is_none();
            let excess = self.log_tail.len().saturating_sub(16 << 10);
            self.log_tail.drain(..excess);
            if started {
                self.booted();
            }
        }
    }

    /// The guest's init runs.
    pub(super) fn booted(&mut self) {
        if self.status.booted.is_some() {
            return;
        }
        self.status.booted = Some(now());
        if self.status.state == State::Starting {
            self.status.state = State::Running;
        }
        let took = self.status.booted.unwrap_or(0.0) - self.status.started.unwrap_or(0.0);
        self.record("boot", &format!("after {took:.3} s"));
        self.save();
        if let Some(s) = &self.supervisor {
            s.send(&format!("READY=1\nSTATUS=running, kernel pid {}", self.pid()));
        }
        self.tell(Await::Boot);
    }

    /// The kernel boots again, as the same process: what its guest said is of the past.
    fn rebooted(&mut self) {
        self.status.login = None;
        self.status.ready = None;
        self.watchdog_at = None;
        self.record("reboot", "");
        self.save();
    }

    /// Whether the kernel's log shows when init is started; otherwise its readiness must do.
    pub(super) fn log_is_quiet(&self) -> bool {
        let words = self.vm.vm.cmdline.as_deref().unwrap_or_default();
        words.split_whitespace().any(|w| w == "quiet" || w.starts_with("loglevel="))
    }

    pub(super) fn notification(&mut self) {
        let mut buf = [0; 4096];
        while let Ok(n) = self.notifications.recv(&mut buf) {
            let Ok(m) = Notification::decode(&buf[..n]) else { continue };
            let text = printable(&m.text());
            match m.kind {
                NotificationKind::Socket if self.status.booted.is_some() => self.rebooted(),
                NotificationKind::Socket if self.log_is_quiet() => self.booted(),
                NotificationKind::Panic => {
                    self.record("panic", &text);
                    self.panic_text = Some(text);
                }
                NotificationKind::User => self.user_message(&text),
                _ => {}
            }
        }
    }

    pub(super) fn user_message(&mut self, text: &str) {
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.iter().any(|w| *w == "READY=1" || *w == "ready") {
            if self.status.ready.is_none() {
                self.status.ready = Some(now());
                self.record("ready", "");
                self.booted();
                self.save();
                self.tell(Await::Ready);
            }
        } else if words.iter().any(|w| *w == "WATCHDOG=1" || *w == "watchdog") {
            self.watchdog_at = self.vm.service.watchdog.map(|t| Instant::now() + t.0);
        } else {
            self.record("message", text);
        }
    }

    /// Answers those who wait for `what`.
    pub(super) fn tell(&mut self, what: Await) {
        let reply = Reply { parameters: object(json!(self.status)), ..Reply::default() };
        for c in self.clients.iter_mut().filter(|c| c.mode == Mode::Waits(what)) {
            c.mode = Mode::Calls;
            c.reply(&reply);
        }
    }
}
