//! `log`: a line for the kernel log.

use uml_base::klog::{self, Level};
use uml_formats::mconsole::log_text;

use crate::server::Client;

pub fn run(rest: &[u8], client: &Client<'_>) {
    let text = String::from_utf8_lossy(log_text(rest)).into_owned();
    klog::log(Level::Warning, format_args!("{text}"));
    client.ok("");
}
