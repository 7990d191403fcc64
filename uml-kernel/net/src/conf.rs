//! Settings of a namespace (/proc/sys/net).

use std::sync::atomic::{AtomicI64, Ordering};

use uml_abi::Result;
use uml_abi::errno::EINVAL;

/// A number with a range.
pub struct Value {
    value: AtomicI64,
    min: i64,
    max: i64,
}

impl Value {
    const fn new(value: i64, min: i64, max: i64) -> Value {
        Value { value: AtomicI64::new(value), min, max }
    }

    /// The present value.
    pub fn get(&self) -> i64 {
        self.value.load(Ordering::Relaxed)
    }

    /// Changes it; `EINVAL` outside the range.
    pub fn set(&self, v: i64) -> Result<()> {
        if !(self.min..=self.max).contains(&v) {
            return Err(EINVAL);
        }
        self.value.store(v, Ordering::Relaxed);
        Ok(())
    }
}

macro_rules! settings {
    ($($field:ident $path:literal = $value:expr, $min:expr, $max:expr;)*) => {
        /// The settings, named as the last part of their path.
        pub struct Conf {
            $(#[doc = $path] pub $field: Value,)*
        }

        impl Default for Conf {
            fn default() -> Self {
                Conf { $($field: Value::new($value, $min, $max),)* }
            }
        }

        impl Conf {
            /// Every setting with its path below /proc/sys.
            pub fn all(&self) -> Vec<(&'static str, &Value)> {
                vec![$(($path, &self.$field)),*]
            }
        }
    };
}

const INT: i64 = i32::MAX as i64;

settings! {
    ip_forward "net/ipv4/ip_forward" = 0, 0, 1;
    ip_default_ttl "net/ipv4/ip_default_ttl" = 64, 1, 255;
    ip_nonlocal_bind "net/ipv4/ip_nonlocal_bind" = 0, 0, 1;
    ip_no_pmtu_disc "net/ipv4/ip_no_pmtu_disc" = 0, 0, 3;
    ip_unprivileged_port_start "net/ipv4/ip_unprivileged_port_start" = 1024, 0, 65535;
    icmp_echo_ignore_all "net/ipv4/icmp_echo_ignore_all" = 0, 0, 1;
    icmp_echo_ignore_broadcasts "net/ipv4/icmp_echo_ignore_broadcasts" = 1, 0, 1;
    icmp_ratelimit "net/ipv4/icmp_ratelimit" = 1000, 0, INT;
    icmp_ratemask "net/ipv4/icmp_ratemask" = 6168, 0, INT;
    icmp6_ratelimit "net/ipv6/icmp/ratelimit" = 1000, 0, INT;
    icmp_msgs_per_sec "net/ipv4/icmp_msgs_per_sec" = 1000, 0, INT;
    tcp_syncookies "net/ipv4/tcp_syncookies" = 1, 0, 2;
    tcp_timestamps "net/ipv4/tcp_timestamps" = 1, 0, 2;
    tcp_sack "net/ipv4/tcp_sack" = 1, 0, 1;
    tcp_window_scaling "net/ipv4/tcp_window_scaling" = 1, 0, 1;
    tcp_syn_retries "net/ipv4/tcp_syn_retries" = 6, 1, 127;
    tcp_synack_retries "net/ipv4/tcp_synack_retries" = 5, 0, 255;
    tcp_retries2 "net/ipv4/tcp_retries2" = 15, 0, 255;
    tcp_fin_timeout "net/ipv4/tcp_fin_timeout" = 60, 0, INT;
    tcp_keepalive_time "net/ipv4/tcp_keepalive_time" = 7200, 1, 32767;
    tcp_keepalive_intvl "net/ipv4/tcp_keepalive_intvl" = 75, 1, 32767;
    tcp_keepalive_probes "net/ipv4/tcp_keepalive_probes" = 9, 1, 255;
    tcp_max_syn_backlog "net/ipv4/tcp_max_syn_backlog" = 512, 0, INT;
    tcp_max_tw_buckets "net/ipv4/tcp_max_tw_buckets" = 65536, 0, INT;
    tcp_tw_reuse "net/ipv4/tcp_tw_reuse" = 2, 0, 2;
    tcp_abort_on_overflow "net/ipv4/tcp_abort_on_overflow" = 0, 0, 1;
    port_min "net/ipv4/ip_local_port_min" = 32768, 1, 65535;
    port_max "net/ipv4/ip_local_port_max" = 60999, 1, 65535;
    v6_forwarding "net/ipv6/conf/all/forwarding" = 0, 0, 1;
    v6_bindv6only "net/ipv6/bindv6only" = 0, 0, 1;
    somaxconn "net/core/netns_somaxconn" = 4096, 0, INT;
}
