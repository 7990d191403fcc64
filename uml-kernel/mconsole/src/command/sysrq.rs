//! `sysrq`: the action of a key, with what it prints.

use uml_formats::mconsole::argument;

use crate::capture::capture;
use crate::server::Client;

pub fn run(rest: &[u8], client: &Client<'_>) {
    // Without a letter the keys are listed, as for an unknown one.
    let key = argument(rest).first().copied().unwrap_or(b'h');
    let sysrq = &client.server().parts.sysrq;
    if sysrq.ends_the_machine(key) {
        client.ok("");
        sysrq.press(key);
        return;
    }
    let text = capture(|| sysrq.press(key));
    client.output(&text);
}
