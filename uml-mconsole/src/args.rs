//! The command line.

use std::time::Duration;

use clap::Parser;

/// Controls a running User Mode Linux instance through its management console.
#[derive(Debug, Parser)]
#[command(name = "uml_mconsole", version, about)]
#[command(
    after_help = "Without a name the running instances are listed. Without a command, commands \
    are read from standard input: with line editing on a terminal, as a script otherwise.\n\
    Exit status: 0; the low byte of the kernel's error number after ERR (1 if that is 0); 124 when \
    the kernel did not answer in time; 1 or 2 when nothing was sent. See uml_mconsole(1)."
)]
pub struct Args {
    /// Print answers and listings as JSON, one object per line
    #[arg(long)]
    pub json: bool,

    /// Seconds to wait for each datagram of an answer; 0 waits for ever
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    pub timeout: f64,

    /// Receive notifications on this socket (for the boot option mconsole=notify:SOCKET) and
    /// print them; without a name, do nothing else
    #[arg(long, value_name = "SOCKET")]
    pub notify: Option<String>,

    /// umid, instance directory or socket path
    pub name: Option<String>,

    /// Command for the kernel or a local command (quit, help, switch, log, mconsole-version, int)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && (0.0..=1e6).contains(&value) => Ok(value),
        _ => Err("expected a number of seconds from 0 to 1000000".to_owned()),
    }
}

impl Args {
    /// The time to wait, `None` for ever.
    pub fn timeout(&self) -> Option<Duration> {
        (self.timeout > 0.0).then(|| {
            // Zero would mean for ever to the socket.
            Duration::from_secs_f64(self.timeout).max(Duration::from_micros(1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_after_the_name_belong_to_the_command() {
        let args =
            Args::try_parse_from(["uml_mconsole", "--json", "box", "log", "-f", "--timeout", "x"]);
        let args = args.expect("valid");
        assert_eq!(args.command, ["log", "-f", "--timeout", "x"]);
        assert!(args.json && args.timeout() == Some(Duration::from_secs(10)));
        for bad in ["-1", "nan", "inf", "x", "1e300"] {
            assert!(Args::try_parse_from(["m", &format!("--timeout={bad}")]).is_err(), "{bad}");
        }
        let forever = Args::try_parse_from(["m", "--timeout=0"]).expect("valid");
        assert_eq!(forever.timeout(), None);
    }
}
