//! `/proc/sys/net`: what does not belong to a protocol of the network.

use super::{Setting, dir, number};

pub static ROWS: &[Setting] = &[
    dir(
        "core",
        &[
            number("netdev_max_backlog", |s| &s.net_core_netdev_max_backlog),
            number("optmem_max", |s| &s.net_core_optmem_max),
            number("rmem_default", |s| &s.net_core_rmem_default),
            number("rmem_max", |s| &s.net_core_rmem_max),
            number("somaxconn", |s| &s.net_core_somaxconn),
            number("wmem_default", |s| &s.net_core_wmem_default),
            number("wmem_max", |s| &s.net_core_wmem_max),
        ],
    ),
    dir("unix", &[number("max_dgram_qlen", |s| &s.net_unix_max_dgram_qlen)]),
];
