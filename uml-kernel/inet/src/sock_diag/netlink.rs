//! AF_NETLINK sockets (`struct netlink_diag_req`, `struct netlink_diag_msg`; <linux/netlink_diag.h>).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_ipc::netlink::all;

use super::{BY_FAMILY, Query};
use crate::nlmsg::Reply;

/// Length of `struct netlink_diag_req`.
const REQUEST: usize = 20;
/// NDIAG_PROTO_ALL.
const EVERY: u8 = 255;
/// NDIAG_SHOW_MEMINFO and NDIAG_SHOW_GROUPS, and the attributes for them.
const SHOW_MEMINFO: u32 = 1;
const SHOW_GROUPS: u32 = 2;
const MEMINFO: u16 = 0;
const GROUPS: u16 = 1;
/// NETLINK_UNCONNECTED, NETLINK_CONNECTED.
const UNCONNECTED: u8 = 0;
const CONNECTED: u8 = 1;

/// Answers a dump; single sockets cannot be asked for, as on Linux.
pub(super) fn answer(q: &Query<'_>, out: &mut Reply) -> Result<()> {
    let b = q.body.get(..REQUEST).ok_or(EINVAL)?;
    if !q.dump {
        return Err(EOPNOTSUPP);
    }
    let wanted = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
    for r in all(q.net).iter().filter(|r| b[1] == EVERY || i32::from(b[1]) == r.protocol) {
        let state = if r.to.is_some() { CONNECTED } else { UNCONNECTED };
        let mut fixed = vec![libc::AF_NETLINK as u8, r.kind as u8, r.protocol as u8, state];
        let (port, group) = r.to.unwrap_or((0, 0));
        for w in [r.portid, port, group, r.ino as u32, r.ino as u32, (r.ino >> 32) as u32] {
            fixed.extend_from_slice(&w.to_le_bytes());
        }
        let mut m = out.message(BY_FAMILY, true, &fixed);
        if wanted & SHOW_GROUPS != 0 {
            m.put(GROUPS, &r.groups.to_le_bytes());
        }
        if wanted & SHOW_MEMINFO != 0 {
            let words = [r.used, r.rcvbuf, 0, r.sndbuf, 0, 0, 0, 0, 0];
            m.put(MEMINFO, &words.map(|w| (w as u32).to_le_bytes()).concat());
        }
        out.push(m);
    }
    Ok(())
}
