//! What is measured, the command that does it, and how its output is read.

use serde_json::Value;

use crate::connect;

/// A figure of a connection between the asking end (the guest) and the serving end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// TCP from the asking to the serving end.
    Send,
    /// TCP the other way.
    Receive,
    /// Datagrams of 18 bytes from the asking end, a system call each: what arrives.
    SmallSend,
    /// The other way.
    SmallReceive,
    /// Round trip of an echo, median: a mean says how often the machine had something else to do.
    Ping,
    /// TCP through a router with that many filter rules.
    Forward(u32),
    /// TCP where one of that many data packets is lost, with a round trip of a millisecond.
    Loss(u32),
    /// Connections made and ended, four at a time.
    Connect,
    /// [`What::Send`] beside ten thousand idle sockets, or as many in TIME_WAIT, as a share of it without them.
    Beside(Idle),
}

/// What ten thousand sockets do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// They are connected.
    Connected,
    /// They are in TIME_WAIT.
    Waiting,
}

/// Makes the sockets and runs a command.
const BESIDE: &str = include_str!("beside.py");

impl What {
    pub fn name(&self) -> &'static str {
        match self {
            What::Send => "tcp send",
            What::Receive => "tcp receive",
            What::SmallSend => "udp send",
            What::SmallReceive => "udp receive",
            What::Ping => "ping",
            What::Forward(0) => "forward",
            What::Forward(10) => "10 rules",
            What::Forward(_) => "1000 rules",
            What::Loss(100) => "loss 1/100",
            What::Loss(1000) => "loss 1/1000",
            What::Loss(_) => "loss 1/10^4",
            What::Connect => "connect",
            What::Beside(Idle::Connected) => "10^4 idle",
            What::Beside(Idle::Waiting) => "10^4 waiting",
        }
    }

    pub fn unit(&self) -> &'static str {
        match self {
            What::Send | What::Receive | What::Forward(_) | What::Loss(_) => "Gbit/s",
            What::SmallSend | What::SmallReceive => "kpps",
            What::Connect => "k/s",
            What::Ping => "us",
            What::Beside(_) => "of none",
        }
    }

    pub fn more_is_better(&self) -> bool {
        *self != What::Ping
    }

    /// Datagrams are counted by [`crate::count`] where they arrive; iperf3 only makes them.
    pub fn is_counted(&self) -> bool {
        matches!(self, What::SmallSend | What::SmallReceive)
    }

    /// The command at the asking end.
    pub fn command(&self, server: &str, seconds: u32) -> Vec<String> {
        let seconds = seconds.to_string();
        let mut w = vec!["iperf3", "-c", server, "-J", "-t", &seconds];
        match self {
            What::Send | What::Forward(_) | What::Loss(_) | What::Beside(_) => {
                w.extend(["-C", "cubic"])
            }
            What::Receive => w.extend(["-C", "cubic", "-R"]),
            What::SmallSend => w.extend(["-u", "-b", "0", "-l", "18"]),
            What::SmallReceive => w.extend(["-u", "-b", "0", "-l", "18", "-R"]),
            What::Connect => {
                let me = std::env::current_exe().unwrap_or_default();
                let at = format!("{server}:{}", connect::PORT);
                return vec![me.display().to_string(), connect::CLIENT.into(), at, seconds];
            }
            What::Ping => {
                // Of a machine that is up for less than a second ping believes that it has not looked at the clock yet, and
                // does not wait between packets.
                let script = format!("sleep 1.1; exec ping -n -c 1000 -i 0.001 {server}");
                return vec!["sh".into(), "-c".into(), script];
            }
        }
        if let What::Beside(idle) = self {
            let kind = if *idle == Idle::Connected { "idle" } else { "wait" };
            w.splice(0..0, ["python3", "-c", BESIDE, kind]);
        }
        w.into_iter().map(String::from).collect()
    }

    /// The figure in what the command printed, among which there may be other lines.
    pub fn read(&self, said: &str) -> Result<f64, String> {
        if *self == What::Ping {
            // 64 bytes from 10.7.0.1: icmp_seq=1 ttl=64 time=0.031 ms
            let time = |l: &str| l.split_once(" time=")?.1.split(' ').next()?.parse::<f64>().ok();
            let mut times: Vec<f64> = said.lines().filter_map(time).collect();
            times.sort_by(f64::total_cmp);
            let median = times.get(times.len() / 2).map(|ms| ms * 1e3);
            return median.ok_or(format!("no round-trip times in:\n{said}"));
        }
        if *self == What::Connect {
            return connect::read(said);
        }
        let end = report(said)?;
        number(&end, "sum_received", "bits_per_second").map(|b| b / 1e9)
    }
}

/// The end of iperf3's report; what it complains of is an error.
pub fn report(said: &str) -> Result<Value, String> {
    let whole = said.find('{').zip(said.rfind('}')).and_then(|(a, b)| said.get(a..=b));
    let mut v: Value = whole
        .and_then(|t| serde_json::from_str(t).ok())
        .ok_or(format!("no JSON of iperf3 in:\n{said}"))?;
    match v.get("error") {
        Some(e) => Err(format!("iperf3: {e}")),
        None => Ok(v["end"].take()),
    }
}

fn number(end: &Value, part: &str, name: &str) -> Result<f64, String> {
    end[part][name].as_f64().ok_or(format!("no {part}.{name} in iperf3's end: {end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_among_other_lines() {
        let said = "random: noise\r\n{\"end\": {\"sum_received\": {\"bits_per_second\": 2.5e9}}}\n";
        assert_eq!(What::Send.read(said), Ok(2.5));
        let line = |n: u32, ms: &str| {
            format!("64 bytes from 10.7.0.1: icmp_seq={n} ttl=64 time={ms} ms\n")
        };
        let said =
            [line(1, "0.250"), line(2, "0.031"), line(3, "0.030"), "rtt min/avg = 0\n".into()];
        let said = &said.concat();
        assert_eq!(What::Ping.read(said), Ok(31.0));
    }

    #[test]
    fn what_failed_is_an_error() {
        assert!(
            What::Send.read(r#"{"end": {}, "error": "refused"}"#).unwrap_err().contains("refused")
        );
        assert!(What::Send.read("nothing").is_err());
        assert!(What::Ping.read("100% packet loss").is_err());
    }
}
