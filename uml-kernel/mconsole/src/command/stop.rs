//! `stop` and `go`. The console serves every command in between.

use crate::server::Client;

pub fn stop(client: &Client<'_>) {
    if client.kernel().stop_machine() {
        client.ok("stopped");
    } else {
        client.fail("Already stopped");
    }
}

pub fn go(client: &Client<'_>) {
    if client.kernel().resume_machine() {
        client.ok("");
    } else {
        client.fail("Not stopped");
    }
}
