//! `config` and `remove`: devices at run time.

use uml_core::configure::Refusal;
use uml_formats::mconsole::argument;

use crate::server::Client;

const BAD_CONFIG: &str = "Bad configuration option";
const BAD_REMOVE: &str = "Bad remove option";
const NO_GETTER: &str = "No get_config routine defined";

/// Options are text: a name that is not UTF-8 cannot be given on the command line either.
fn text(rest: &[u8]) -> Option<&str> {
    std::str::from_utf8(argument(rest)).ok()
}

pub fn config(rest: &[u8], client: &Client<'_>) {
    let kernel = client.kernel();
    let Some((family, request)) = text(rest).and_then(|t| kernel.configurables.find(t)) else {
        return client.fail(BAD_CONFIG);
    };
    let outcome = if request.contains('=') {
        family.set(request)
    } else {
        match family.get(request) {
            // A getter's refusal has the general code, whatever the device says.
            Some(outcome) => outcome.map_err(|r| Refusal::general(r.text)),
            None => Err(Refusal::general(NO_GETTER)),
        }
    };
    match outcome {
        Ok(text) => client.ok(text),
        Err(Refusal { err, text }) => client.reply(err, text.as_bytes(), false),
    }
}

pub fn remove(rest: &[u8], client: &Client<'_>) {
    let kernel = client.kernel();
    let Some((family, request)) = text(rest).and_then(|t| kernel.configurables.find(t)) else {
        return client.fail(BAD_REMOVE);
    };
    match family.remove(request) {
        Ok(_) => client.ok(""),
        Err(Refusal { err, text }) => {
            // What the stock kernel says when the driver says nothing.
            let text = match -err {
                _ if !text.is_empty() => text,
                libc::ENODEV => "Device doesn't exist".into(),
                libc::EBUSY => "Device is currently open".into(),
                _ => text,
            };
            client.reply(err, text.as_bytes(), false);
        }
    }
}
