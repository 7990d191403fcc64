//! Calls of peers: commands, viewers, the daemon.

use super::*;

impl Holder {
    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let peer = getsockopt(&stream, PeerCredentials);
            let me = nix::unistd::geteuid().as_raw();
            let allowed = peer.is_ok_and(|p| p.uid() == me || p.uid() == 0);
            let Ok(mut c) = Client::new(stream) else { continue };
            if !allowed {
                c.reply(&error("PermissionDenied", code::PERMISSION, "only the owner may connect"));
                continue;
            }
            self.clients.push(c);
        }
    }

    pub(super) fn serve(&mut self, i: usize) {
        loop {
            let c = &mut self.clients[i];
            if let Mode::Viewer { line, watch } = c.mode {
                match decode_frame(&mut c.input) {
                    Ok(Some(f)) => self.typed(i, line, watch, f),
                    Ok(None) => return,
                    Err(_) => return c.dead = true,
                }
                continue;
            }
            match decode::<Call>(&mut c.input) {
                Ok(Some(call)) => self.call(i, &call),
                Ok(None) => return,
                Err(e) => {
                    c.reply(&error("InvalidMessage", code::USAGE, &e));
                    c.closing = true;
                    return c.flush();
                }
            }
        }
    }

    pub(super) fn typed(&mut self, i: usize, line: usize, watch: bool, f: Frame) {
        match f {
            Frame::Data(d) if !watch && !self.lines[line].type_in(&d) => {
                let text = "\r\n[the guest does not read; input dropped]\r\n";
                self.clients[i].frame(&Frame::Data(text.into()));
            }
            Frame::Resize(rows, cols)
                if !watch
                    && rows > 0
                    && cols > 0
                    && self.lines[line].resize(rows, cols).is_ok() =>
            {
                // The kernel reads the sizes of all its lines then.
                self.signal_kernel(rustix::process::Signal::WINCH);
            }
            _ => {}
        }
    }

    pub(super) fn call(&mut self, i: usize, call: &Call) {
        let method = call.method.rsplit('.').next().unwrap_or_default();
        let text =
            |k: &str| call.parameters.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
        let ok = Reply { parameters: object(json!(self.status)), ..Reply::default() };
        let answer = match method {
            "Status" => ok,
            "Wait" => match self.waiting(&text("for")) {
                Some(None) => ok,
                Some(Some(what)) => return self.clients[i].mode = Mode::Waits(what),
                None => error(
                    "InvalidParameter",
                    code::USAGE,
                    "for: expected boot, login, ready or exit",
                ),
            },
            "Stop" => {
                let times = call.parameters.get("times").cloned();
                let times = times.and_then(|t| serde_json::from_value(t).ok());
                self.clients[i].mode = Mode::Stops;
                return self.begin_stop(times);
            }
            "Lend" => {
                self.lend();
                ok
            }
            "Pause" | "Resume" => self.pause(method == "Pause"),
            "Attach" => {
                let number =
                    |k: &str| call.parameters.get(k).and_then(Value::as_u64).unwrap_or(0) as u16;
                let watch = call.parameters.get("watch").and_then(Value::as_bool).unwrap_or(false);
                return self.attach(i, &text("line"), watch, number("rows"), number("cols"));
            }
            m => error("MethodNotFound", code::USAGE, &format!("no method {m}")),
        };
        if !call.oneway {
            self.clients[i].reply(&answer);
        }
    }

    /// None: no such thing. Some(None): it has happened.
    pub(super) fn waiting(&self, what: &str) -> Option<Option<Await>> {
        let (what, at) = match what {
            "boot" => (Await::Boot, self.status.booted),
            "login" => (Await::Login, self.status.login),
            "ready" => (Await::Ready, self.status.ready),
            "exit" => (Await::Exit, None),
            _ => return None,
        };
        Some(if at.is_some() { None } else { Some(what) })
    }

    pub(super) fn attach(&mut self, i: usize, name: &str, watch: bool, rows: u16, cols: u16) {
        let name =
            if name.is_empty() { self.lines.first().map_or("con0", |l| &l.name) } else { name };
        let Some(line) = self.lines.iter().position(|l| l.name == name) else {
            let held: Vec<&str> = self.lines.iter().map(|l| l.name.as_str()).collect();
            let known = if held.is_empty() { "none".into() } else { held.join(", ") };
            let text = format!("line {name} is not held by umld; held are: {known}");
            return self.clients[i].reply(&error("NoSuchLine", code::FAILURE, &text));
        };
        let scroll = self.lines[line].scroll_back();
        let c = &mut self.clients[i];
        c.reply(&Reply { parameters: object(json!({"line": name})), ..Reply::default() });
        for part in scroll.chunks(crate::wire::MAX_FRAME) {
            c.frame(&Frame::Data(part.to_vec()));
        }
        c.mode = Mode::Viewer { line, watch };
        self.typed(i, line, watch, Frame::Resize(rows, cols));
    }

    pub(super) fn pause(&mut self, pause: bool) -> Reply {
        let socket = self.console();
        let command = if pause { "stop" } else { "go" };
        match mconsole::request(&socket, command) {
            Ok(_) => {
                self.status.state = if pause { State::Paused } else { State::Running };
                self.record(if pause { "pause" } else { "resume" }, "");
                self.save();
                Reply { parameters: object(json!(self.status)), ..Reply::default() }
            }
            Err(e) => error("Refused", e.code, &e.text),
        }
    }
}
