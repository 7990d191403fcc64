//! How a machine ends: stops that were asked for, ends that were not, and what follows.

use super::*;

impl Holder {
    pub(super) fn begin_stop(&mut self, times: Option<StopTimes>) {
        if self.stopping.is_some() {
            return;
        }
        let Some(pid) = self.status.pid else {
            // Between two restarts there is nothing to stop.
            self.again_at = None;
            self.status.reason = "stopped while waiting for a restart".into();
            return self.finish(State::Stopped, 0);
        };
        self.status.state = State::Stopping;
        self.save();
        let times = times.unwrap_or(self.vm.stop.times());
        let socket = self.console();
        let begun = UnixStream::pair().and_then(|(ours, theirs)| {
            ours.set_nonblocking(true)?;
            let process = Process::open(pid)?;
            std::thread::Builder::new().name("stop".into()).spawn(move || {
                let mut theirs = theirs;
                let mut say = |v: Value| {
                    // In one piece: the reader does not put lines together.
                    let _ = theirs.write_all(format!("{v}\n").as_bytes());
                };
                let worked = stop::stop(&process, Some(&socket), &times, &mut |step, problem| {
                    say(json!({"step": step, "problem": problem}));
                });
                if worked.is_none() {
                    say(json!({"gave_up": true}));
                }
            })?;
            Ok(ours)
        });
        match begun {
            Ok(ours) => {
                self.stopping =
                    Some(Stopping { progress: BufReader::new(ours), last: None, over: false });
            }
            // It ended just now; its SIGCHLD is on the way.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                let reply = error("CannotStop", code::FAILURE, &e.to_string());
                self.stopped_clients(&reply);
            }
        }
    }

    pub(super) fn stopped_clients(&mut self, reply: &Reply) {
        for c in self.clients.iter_mut().filter(|c| c.mode == Mode::Stops) {
            c.mode = Mode::Calls;
            c.reply(reply);
        }
    }

    pub(super) fn progress(&mut self) {
        loop {
            let Some(s) = &mut self.stopping else { return };
            let mut text = String::new();
            match s.progress.read_line(&mut text) {
                Ok(0) => return s.over = true,
                Ok(_) => {}
                Err(_) => return,
            }
            let Ok(v) = serde_json::from_str::<Value>(&text) else { continue };
            if v.get("gave_up").is_some() {
                self.stopping = None;
                self.status.state = State::Running;
                self.save();
                let text = "not even SIGKILL ended the kernel process in time";
                return self.stopped_clients(&error("CannotStop", code::TIMEOUT, text));
            }
            let step: Option<Step> =
                v.get("step").and_then(|s| serde_json::from_value(s.clone()).ok());
            let problem = v.get("problem").and_then(Value::as_str).map(str::to_owned);
            if let Some(step) = step {
                if problem.is_none() {
                    s.last = Some(step);
                }
                self.record(
                    "stop",
                    &format!(
                        "{}{}",
                        step.name(),
                        problem.map_or(String::new(), |p| format!(": {p}"))
                    ),
                );
            }
            let reply = Reply { parameters: object(v), continues: true, error: None };
            for c in self.clients.iter_mut().filter(|c| c.mode == Mode::Stops) {
                c.reply(&reply);
            }
        }
    }

    pub(super) fn reap(&mut self) {
        if let Some(Running::Child(child)) = &mut self.kernel {
            match child.try_wait() {
                Ok(Some(status)) => {
                    self.kernel = None;
                    leftovers::end_stopped();
                    self.ended(Ended::of(status));
                }
                Ok(None) => {}
                Err(e) => eprintln!("wait for the kernel: {e}"),
            }
        }
        let kernel = match &self.kernel {
            Some(Running::Child(child)) => Some(child.id() as i32),
            _ => None,
        };
        leftovers::collect(kernel);
    }

    /// An adopted kernel ended, which is no child of this holder.
    pub(super) fn adopted_ended(&mut self) {
        let Some(Running::Adopted(process)) = self.kernel.take() else { return };
        let ended = process.exit_status().map_or_else(|| self.unseen(), Ended::of);
        self.ended(ended);
    }

    /// How an adopted kernel ended, where the host tells nobody but its parent. It removes its directory when it halts
    /// in order; the status of umld's own init is then the command's, which nobody knows.
    fn unseen(&self) -> Ended {
        let own = crate::spec::cmdline::own_init(&self.vm);
        let halted = !self.store.uml.path().join(&self.dir.name).exists();
        if halted && !own { Ended::Exit(0) } else { Ended::Unseen }
    }

    /// The kernel process is gone.
    pub(super) fn ended(&mut self, ended: Ended) {
        self.kernel_output();
        self.notification();
        for i in 0..self.lines.len() {
            self.line_output(i);
        }
        if let Some(s) = &self.stopping {
            // The kernel may be gone before the stop's thread has said by which step; it says so at once.
            let socket = s.progress.get_ref();
            let _ = socket
                .set_nonblocking(false)
                .and_then(|()| socket.set_read_timeout(Some(LAST_STEP)));
        }
        self.progress();
        self.kernel_pipe = None;
        self.watchdog_at = None;
        let asked = self.stopping.take();
        let asked_for = asked.is_some() || self.status.state == State::Stopping;
        let step = asked.and_then(|s| s.last);
        self.status.pid = None;
        self.status.ended = Some(now());
        self.status.exit = ended.status();
        let panicked = self.panic_text.is_some() || ended == Ended::Signal(libc::SIGABRT);
        self.status.reason = match (step, ended) {
            _ if panicked => {
                let text = self.panic_text.clone().or_else(|| self.panic_in_log());
                format!("kernel panic: {}", text.unwrap_or("no message".into()))
            }
            (Some(s), _) => s.worked(),
            (None, Ended::Exit(0)) => "powered off by the guest".into(),
            (None, Ended::Exit(n)) => format!("ended with status {n}"),
            (None, Ended::Signal(n)) => format!("ended by signal {n}"),
            (None, Ended::Unseen) => {
                "ended with a status that nobody knows: the holder that was its parent had been killed".into()
            }
        };
        let never_up = self.status.booted.is_none() && !asked_for;
        let failed = (panicked || ended.is_failure() || never_up) && !asked_for;
        if failed {
            self.status.last_messages = self.last_words();
        }
        self.record("exit", &self.status.reason.clone());
        let verdict = if asked_for || never_up && self.status.restarts == 0 {
            Verdict::Stay
        } else {
            self.restarts.decide(ended, Instant::now())
        };
        match verdict {
            Verdict::Again(after) => {
                self.status.state = State::Restarting;
                self.again_at = Some(Instant::now() + after);
                self.save();
            }
            Verdict::Stay | Verdict::CrashLoop => {
                if verdict == Verdict::CrashLoop {
                    let text = format!("crash loop, given up: {}", self.status.reason);
                    self.record("crash-loop", &text);
                    self.status.reason = text;
                }
                let status = match ended.status() {
                    _ if asked_for => 0,
                    _ if panicked => code::PANIC,
                    _ if never_up => code::FAILURE,
                    Some(n) => u8::try_from(n).unwrap_or(code::FAILURE),
                    None => code::FAILURE,
                };
                self.finish(if failed { State::Failed } else { State::Stopped }, status);
            }
        }
    }

    /// The last messages; around the panic's own when there is one, because a stack dump follows it.
    pub(super) fn last_words(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.log_tail);
        let lines: Vec<String> =
            text.lines().filter(|l| !l.trim().is_empty()).map(printable).collect();
        let panic = lines.iter().rposition(|l| l.contains("Kernel panic"));
        let end = panic.map_or(lines.len(), |p| p + 1);
        lines[end.saturating_sub(LAST_WORDS)..end].to_vec()
    }

    pub(super) fn panic_in_log(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.log_tail);
        let line = text.lines().rev().find_map(|l| l.split_once("Kernel panic - not syncing: "));
        line.map(|(_, t)| printable(t))
    }

    /// It is down for good.
    pub(super) fn finish(&mut self, state: State, status: u8) {
        self.status.state = state;
        self.status.holder = None;
        self.save();
        let parameters = object(json!(self.status));
        let ok = Reply { parameters: parameters.clone(), ..Reply::default() };
        let mut bad = Reply { parameters, ..error("Ended", 0, "") };
        bad.parameters
            .insert("code".into(), json!(if status == 0 { code::STOPPED } else { status }));
        let mut text = format!("instance \"{}\" {}", self.dir.name, self.status.reason);
        for l in &self.status.last_messages {
            text += &format!("\n  {l}");
        }
        bad.parameters.insert("text".into(), json!(text));
        let reason = self.status.reason.clone();
        for c in &mut self.clients {
            match c.mode {
                Mode::Stops | Mode::Waits(Await::Exit) => c.reply(&ok),
                Mode::Waits(_) => c.reply(&bad),
                Mode::Viewer { .. } => c.frame(&Frame::End(reason.clone())),
                Mode::Calls => {}
            }
            // The last words reach even those who are slow, for a moment.
            let _ = c.stream.set_nonblocking(false);
            let _ = c.stream.set_write_timeout(Some(Duration::from_millis(500)));
            c.flush();
        }
        self.done = Some(status);
    }
}
