//! Opening of channels.

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{pr_err, pr_info};
use uml_formats::strerror;
use uml_host::pty;
use uml_host::reactor::Reactor;
use uml_host::stream::{Direction, Stream};
use uml_host::terminal::{self, RawMode};

use crate::console::channel::{Channel, Silent, Transport};
use crate::console::line::HostLine;
use crate::console::port::Ports;
use crate::console::spec::ChannelSpec;
use crate::console::xterm::XtermConfig;

/// What opening needs to know about the line.
pub struct Opener<'a> {
    pub reactor: &'a Arc<Reactor>,
    pub ports: &'a Ports,
    pub xterm: &'a XtermConfig,
    pub line: &'a Weak<HostLine>,
    /// `Virtual console 3`, `Serial line 0`.
    pub title: String,
    /// `Virtual Console #3`, `Serial Line #0`.
    pub window: String,
    /// Put terminals of the host into raw mode.
    pub raw: bool,
}

impl Opener<'_> {
    /// Opens `spec`; `Ok(None)` for the null channel.
    pub fn open(&self, spec: &ChannelSpec, direction: Direction) -> Result<Option<Arc<Channel>>> {
        match spec {
            ChannelSpec::Null => Ok(None),
            ChannelSpec::Fd(n) => {
                let stream = Stream::inherited(*n, direction);
                let stream = self.checked(stream, &format!("descriptor {n}"))?;
                let raw = self.raw_mode(&stream, spec)?;
                Ok(Some(self.terminal(Box::new(stream), spec, raw)))
            }
            ChannelSpec::Tty(path) => {
                let stream = Stream::open(Path::new(path), direction);
                let stream = self.checked(stream, path)?;
                let raw = self.raw_mode(&stream, spec)?;
                let transport: Box<dyn Transport> = match stream.is_tty() {
                    true => Box::new(Silent(stream)),
                    false => Box::new(stream),
                };
                Ok(Some(self.terminal(transport, spec, raw)))
            }
            ChannelSpec::Pts => {
                let pty = pty::open_pts().map_err(|e| {
                    pr_err!("open_pts : Failed to open pts: {}", strerror(&e));
                    Errno::from(e)
                })?;
                self.pty(pty, "pts").map(Some)
            }
            ChannelSpec::Pty => match pty::open_bsd() {
                Some(pty) => self.pty(pty, "pty").map(Some),
                None => {
                    pr_err!("getmaster - no usable host pty devices");
                    Err(ENOENT)
                }
            },
            ChannelSpec::Port { address, port, .. } => {
                let line = self.line.clone();
                let on_size = Box::new(move || {
                    if let Some(l) = line.upgrade() {
                        l.follow_size();
                    }
                });
                let transport = self.ports.open(*address, *port, on_size)?;
                let label = spec.to_string();
                Ok(Some(Channel::new(Box::new(transport), label, true, None, self.reactor)))
            }
            ChannelSpec::Xterm => {
                let transport = self.xterm.open(&self.window)?;
                let raw = if self.raw {
                    let mode = RawMode::enter(transport.stream());
                    Some(self.checked(mode, "the terminal emulator")?)
                } else {
                    None
                };
                let crlf = raw.is_some();
                let label = spec.to_string();
                Ok(Some(Channel::new(Box::new(transport), label, crlf, raw, self.reactor)))
            }
        }
    }

    fn checked<T>(&self, r: io::Result<T>, what: &str) -> Result<T> {
        r.map_err(|e| {
            pr_err!("{}: cannot open {what}: {}", self.title, strerror(&e));
            Errno::from(e)
        })
    }

    fn raw_mode(&self, stream: &Stream, spec: &ChannelSpec) -> Result<Option<RawMode>> {
        if !stream.is_tty() || !self.raw {
            return Ok(None);
        }
        self.checked(RawMode::enter(stream), &format!("{spec}: raw mode")).map(Some)
    }

    fn terminal(
        &self,
        transport: Box<dyn Transport>,
        spec: &ChannelSpec,
        raw: Option<RawMode>,
    ) -> Arc<Channel> {
        Channel::new(transport, spec.to_string(), raw.is_some(), raw, self.reactor)
    }

    fn pty(&self, pty: pty::HostPty, kind: &str) -> Result<Arc<Channel>> {
        let device = pty.slave_path().display().to_string();
        if self.raw {
            self.checked(terminal::make_raw(&pty), &device)?;
        }
        let stream = self.checked(Stream::from_fd(pty.into_master()), &device)?;
        pr_info!("{} assigned device '{device}'", self.title);
        let label = format!("{kind}:{device}");
        Ok(Channel::new(Box::new(Silent(stream)), label, self.raw, None, self.reactor))
    }
}
