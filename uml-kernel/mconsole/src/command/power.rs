//! `halt`, `reboot`, `cad`: answered first, since there may be no later.

use uml_core::kernel::PowerAction;

use crate::server::Client;
use crate::sysrq::in_background;

pub fn halt(client: &Client<'_>) {
    client.ok("");
    end(client, PowerAction::Halt);
}

pub fn reboot(client: &Client<'_>) {
    client.ok("");
    end(client, PowerAction::Restart);
}

pub fn cad(client: &Client<'_>) {
    client.ok("");
    let kernel = client.kernel().clone();
    in_background("cad", move || kernel.ctrl_alt_del());
}

/// At once, without asking init. The console goes on answering while devices are being shut down.
fn end(client: &Client<'_>, action: PowerAction) {
    let kernel = client.kernel().clone();
    in_background("power", move || kernel.power(action));
}
