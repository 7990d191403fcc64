//! `stack PID`: where a task is.

use uml_base::pr_info;
use uml_formats::mconsole::argument;

use crate::capture::capture;
use crate::describe;
use crate::server::Client;

/// The number at the start of an argument.
pub fn leading_number(arg: &[u8]) -> Option<i32> {
    let digits = arg.iter().position(|b| !b.is_ascii_digit()).unwrap_or(arg.len());
    let text = std::str::from_utf8(arg.get(..digits)?).ok().filter(|t| !t.is_empty())?;
    // A number that no pid can have is one that does not exist.
    Some(text.parse().unwrap_or(0))
}

pub fn run(rest: &[u8], client: &Client<'_>) {
    let Some(pid) = leading_number(argument(rest)) else {
        return client.fail("Please specify a pid");
    };
    let Some(task) = client.kernel().tree.read().task(pid) else {
        return client.fail("Couldn't find that pid");
    };
    let text = capture(|| pr_info!("{}", describe::stack(&task).join("\n")));
    client.output(&text);
}

#[cfg(test)]
mod tests {
    use super::leading_number;

    #[test]
    fn pids_are_read_as_the_stock_kernel_does() {
        assert_eq!(leading_number(b"12abc"), Some(12));
        assert_eq!(leading_number(b""), None);
        assert_eq!(leading_number(b"abc"), None);
        assert_eq!(leading_number(b"-1"), None);
        assert_eq!(leading_number(b"99999999999999999999"), Some(0));
    }
}
