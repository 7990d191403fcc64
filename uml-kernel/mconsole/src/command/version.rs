//! `version`: the fields of uname(2).

use uml_core::version::{RELEASE, VERSION};

use crate::server::Client;

pub fn run(client: &Client<'_>) {
    let node = client.kernel().namespaces.uts.hostname.lock().clone();
    let node = String::from_utf8_lossy(&node);
    client.ok(format!("Linux {node} {RELEASE} {VERSION} x86_64"));
}
