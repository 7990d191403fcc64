//! Multicast group membership of interfaces.

use std::net::IpAddr;
use std::sync::Arc;

use crate::icmp;
use crate::interface::Interface;
use crate::stack::{Cx, Stack};

impl Stack {
    /// One more member of a group on an interface.
    pub fn join_group(&self, cx: &mut Cx, i: &Arc<Interface>, group: IpAddr) {
        let first = {
            let mut g = i.groups.lock();
            let n = g.entry(group).or_insert(0);
            *n += 1;
            *n == 1
        };
        if first {
            icmp::report_group(cx, i, group, true);
        }
    }

    /// One member less.
    pub fn leave_group(&self, cx: &mut Cx, i: &Arc<Interface>, group: IpAddr) {
        let last = {
            let mut g = i.groups.lock();
            match g.get_mut(&group) {
                Some(n) if *n > 1 => {
                    *n -= 1;
                    false
                }
                Some(_) => {
                    g.remove(&group);
                    true
                }
                None => false,
            }
        };
        if last {
            icmp::report_group(cx, i, group, false);
        }
    }
}
