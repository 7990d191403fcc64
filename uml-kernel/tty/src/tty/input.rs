//! Bytes from the device.

use super::{After, ECHO_RESERVE, INCOMING_LIMIT, OUTPUT_LIMIT, State, Tty};
use crate::ldisc::Effects;
use crate::tty::{PKT_FLUSHREAD, PKT_START, PKT_STOP};

impl Tty {
    /// Takes bytes that the device received; returns how many. When it is less than all, the device keeps
    /// the rest until [`super::Line::input_room`].
    pub fn receive(&self, data: &[u8]) -> usize {
        let mut after = After::default();
        let n = {
            let mut st = self.state.lock();
            if st.gone {
                return data.len();
            }
            let mut taken = 0;
            loop {
                let room = INCOMING_LIMIT.saturating_sub(st.incoming.len());
                let n = room.min(data.len() - taken);
                if n == 0 {
                    break;
                }
                st.incoming.extend(&data[taken..taken + n]);
                taken += n;
                st.process_incoming(&mut after);
            }
            st.refused = taken < data.len();
            after.input_room = false;
            taken
        };
        self.finish(after);
        n
    }

    /// The device's input came to its end (end of file of a host file or pipe). What was received
    /// stays readable; the terminal is hung up when somebody asks for more.
    pub fn end_of_input(&self) {
        self.state.lock().input_ended = true;
        self.finish(After { readable: true, ..After::default() });
    }

    /// A break condition.
    pub fn receive_break(&self) {
        let mut after = After::default();
        {
            let mut st = self.state.lock();
            let mut fx = st.effects();
            st.ldisc.receive_break(&mut fx);
            st.apply(fx, &mut after);
        }
        self.finish(after);
    }
}

impl State {
    fn effects(&self) -> Effects {
        Effects::new((OUTPUT_LIMIT + ECHO_RESERVE).saturating_sub(self.output.len()))
    }

    /// Passes what was received through the line discipline as far as that has room.
    pub(super) fn process_incoming(&mut self, after: &mut After) {
        let was_stopped = self.ldisc.stopped();
        let before = self.incoming.len();
        while !self.incoming.is_empty() {
            let mut fx = self.effects();
            let chunk = self.incoming.as_slices().0;
            // A signal character discards input: what follows it must be looked at afterwards, so
            // chunks are processed one by one.
            let n = self.ldisc.receive(chunk, &mut fx);
            self.incoming.drain(..n);
            self.apply(fx, after);
            if n == 0 {
                break;
            }
        }
        if self.incoming.len() < INCOMING_LIMIT / 2 {
            let refused = std::mem::take(&mut self.refused);
            after.input_room |= refused || before >= INCOMING_LIMIT / 2;
        }
        if was_stopped != self.ldisc.stopped() {
            self.packet(if was_stopped { PKT_START } else { PKT_STOP });
            after.output = true;
            // Writers of a pseudo-terminal wait for the start itself.
            after.writable |= was_stopped;
        }
        after.readable |= self.ldisc.has_input();
    }

    fn apply(&mut self, fx: Effects, after: &mut After) {
        if fx.flush_output {
            self.discard_output();
            after.writable = true;
        }
        if fx.flushed_input {
            self.packet(PKT_FLUSHREAD);
            // A reader that counted on the discarded bytes looks again.
            after.readable = true;
        }
        if self.pgrp != 0 {
            after.signals.extend(fx.signals().map(|s| (self.pgrp, s.signo())));
        }
        if !fx.echo.is_empty() || fx.flush_output {
            self.output.extend(&fx.echo);
            after.output = true;
        }
    }
}
