//! `/proc/net/unix` (proc_pid_net(5), unix(7)).

use std::sync::{Arc, Weak};

use super::addr::Name;
use super::{ALL, State, UnixSocket};

/// `__SO_ACCEPTCON`: the flag of listening sockets.
const ACCEPTS: u32 = 1 << 16;
/// SS_UNCONNECTED, SS_CONNECTING and SS_CONNECTED, SS_DISCONNECTING of <linux/net.h>.
const UNCONNECTED: u8 = 1;
const CONNECTING: u8 = 2;
const CONNECTED: u8 = 3;

/// The table with its head line.
pub fn table() -> Vec<u8> {
    let sockets: Vec<Arc<UnixSocket>> = ALL.lock().values().filter_map(Weak::upgrade).collect();
    let mut out = b"Num       RefCount Protocol Flags    Type St Inode Path\n".to_vec();
    for s in sockets {
        let file = s.file.get().and_then(Weak::upgrade);
        let (state, name) = {
            let inner = s.inner.lock();
            (inner.state, inner.name.clone())
        };
        if state == State::Dead {
            continue;
        }
        let flags = if state == State::Listening { ACCEPTS } else { 0 };
        let shown = match (&file, state) {
            (Some(_), State::Connected) => CONNECTED,
            (None, _) => CONNECTING,
            _ => UNCONNECTED,
        };
        // Addresses of the kernel are not shown. Our own hold in `s` does not count.
        let references = Arc::strong_count(&s);
        let ino = file.map_or(0, |i| i.ino());
        let line = format!(
            "0000000000000000: {references:08X} 00000000 {flags:08X} {:04X} {shown:02X} {ino:5}",
            s.kind as i32
        );
        out.extend_from_slice(line.as_bytes());
        match name {
            None => {}
            Some(Name::Path(p, _)) => {
                out.push(b' ');
                out.extend_from_slice(&p);
            }
            Some(Name::Abstract(n)) => {
                out.extend_from_slice(b" @");
                out.extend(n.iter().map(|b| if *b == 0 { b'@' } else { *b }));
            }
        }
        out.push(b'\n');
    }
    out
}
