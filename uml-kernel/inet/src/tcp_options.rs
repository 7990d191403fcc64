//! Options at the level IPPROTO_TCP (tcp(7)), and those of SOL_SOCKET that connections follow.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;
use uml_ipc::socket::Options;
use uml_ipc::socket::options::{SO_RCVBUFFORCE, SO_SNDBUFFORCE};
use uml_net::tcp::congestion::Algorithm;
use uml_net::tcp::info::Info;
use uml_net::tcp_socket::TcpSocket;

use crate::ip_options::{Extra, int, one};

const SEC: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// An option that [`Options`] keeps was changed.
pub fn common_changed(tcp: &Arc<TcpSocket>, o: &Options, name: i32) {
    match name {
        libc::SO_SNDBUF | SO_SNDBUFFORCE => {
            let n = o.sndbuf.load(Ordering::Relaxed);
            tcp.set(|s| (s.sndbuf, s.sndbuf_locked) = (n, true));
        }
        libc::SO_RCVBUF | SO_RCVBUFFORCE => {
            let n = o.rcvbuf.load(Ordering::Relaxed);
            tcp.set(|s| (s.rcvbuf, s.rcvbuf_locked) = (n, true));
        }
        libc::SO_RCVLOWAT => {
            let n = o.rcvlowat.load(Ordering::Relaxed).max(1) as usize;
            tcp.set(|s| s.rcv_lowat = n);
        }
        libc::SO_KEEPALIVE => {
            let on = o.is_on(name);
            tcp.set(|s| s.keepalive = on);
        }
        libc::SO_OOBINLINE => {
            let on = o.is_on(name);
            tcp.set(|s| s.oob_inline = on);
        }
        libc::SO_REUSEADDR => tcp.opts.lock().reuse_addr = o.is_on(name),
        libc::SO_REUSEPORT => tcp.opts.lock().reuse_port = o.is_on(name),
        libc::SO_MARK | libc::SO_PRIORITY => {
            let (mark, priority) = o.mark();
            let mut p = tcp.opts.lock();
            (p.mark, p.priority) = (mark, priority);
        }
        _ => return,
    }
    if matches!(name, libc::SO_REUSEADDR | libc::SO_REUSEPORT | libc::SO_MARK) {
        tcp.options_changed();
    }
}

fn number(v: &[u8]) -> Result<i32> {
    if v.len() < 4 { Err(EINVAL) } else { int(v) }
}

fn within(v: &[u8], lo: i32, hi: i32) -> Result<u64> {
    let n = number(v)?;
    if (lo..=hi).contains(&n) { Ok(n as u64) } else { Err(EINVAL) }
}

const TCP_NOTSENT_LOWAT: i32 = 25;
const TCP_INQ: i32 = 36;
const TCP_TX_DELAY: i32 = 37;

/// setsockopt(2).
pub fn set(tcp: &Arc<TcpSocket>, extra: &Extra, _task: &Task, name: i32, v: &[u8]) -> Result<()> {
    match name {
        libc::TCP_NODELAY => {
            let on = number(v)? != 0;
            tcp.set(|s| s.nodelay = on);
            if on {
                let _ = tcp.with(|t, now, out| t.push_pending(now, out));
            }
        }
        libc::TCP_CORK => {
            let on = number(v)? != 0;
            tcp.set(|s| s.cork = on);
        }
        libc::TCP_MAXSEG => {
            let n = number(v)?;
            if n != 0 && !(88..=32_767).contains(&n) {
                return Err(EINVAL);
            }
            tcp.set(|s| s.max_segment = n as usize);
        }
        libc::TCP_KEEPIDLE => {
            let n = within(v, 1, 32_767)?;
            tcp.set(|s| s.keep_idle = n * SEC);
        }
        libc::TCP_KEEPINTVL => {
            let n = within(v, 1, 32_767)?;
            tcp.set(|s| s.keep_interval = n * SEC);
        }
        libc::TCP_KEEPCNT => {
            let n = within(v, 1, 127)?;
            tcp.set(|s| s.keep_count = n as u32);
        }
        libc::TCP_SYNCNT => {
            let n = within(v, 1, 127)?;
            tcp.set(|s| s.syn_retries = n as u32);
        }
        libc::TCP_LINGER2 => {
            let n = number(v)?;
            let ns = if n < 0 { -1 } else { i64::from(n.min(120)) * SEC as i64 };
            tcp.set(|s| s.fin_timeout = ns);
        }
        libc::TCP_DEFER_ACCEPT => {
            let n = number(v)?.max(0) as u64;
            extra.defer.store(n, Ordering::Relaxed);
            tcp.set_defer(n * SEC);
        }
        libc::TCP_WINDOW_CLAMP => {
            let n = number(v)?;
            let n = usize::try_from(n).map_err(|_| EINVAL)?;
            tcp.set(|s| s.window_clamp = n);
        }
        libc::TCP_QUICKACK => {
            let n = number(v)?;
            tcp.set(|s| s.quickack = (n & 1 != 0).then_some(true));
        }
        libc::TCP_USER_TIMEOUT => {
            let n = number(v)?;
            let n = u64::try_from(n).map_err(|_| EINVAL)?;
            tcp.set(|s| s.user_timeout = n * MS);
        }
        libc::TCP_CONGESTION => {
            let end = v.iter().position(|b| *b == 0).unwrap_or(v.len()).min(15);
            if end == 0 {
                return Err(EINVAL);
            }
            let a = Algorithm::by_name(&v[..end]).ok_or(ENOENT)?;
            tcp.set(|s| s.congestion = a);
        }
        TCP_NOTSENT_LOWAT => {
            let n = number(v)? as u32;
            tcp.set(|s| s.notsent_lowat = n as usize);
        }
        TCP_INQ | libc::TCP_THIN_LINEAR_TIMEOUTS | libc::TCP_THIN_DUPACK => {
            if !(0..=1).contains(&number(v)?) {
                return Err(EINVAL);
            }
            if name == TCP_INQ {
                return Err(ENOPROTOOPT);
            }
        }
        // Refused cleanly: no fast open, no repair, no upper-layer protocols, no delays.
        libc::TCP_FASTOPEN | libc::TCP_FASTOPEN_CONNECT => return Err(EOPNOTSUPP),
        libc::TCP_ULP => return Err(ENOENT),
        libc::TCP_REPAIR => return Err(EPERM),
        TCP_TX_DELAY => return Err(ENOPROTOOPT),
        _ => return Err(ENOPROTOOPT),
    }
    Ok(())
}

/// getsockopt(2).
pub fn get(tcp: &Arc<TcpSocket>, extra: &Extra, name: i32, max: usize) -> Result<Vec<u8>> {
    let secs = |ns: u64| one((ns / SEC) as i32);
    let flag = |b: bool| one(i32::from(b));
    tcp.settings(|s| s.clone());
    let s = tcp.settings(|s| s.clone());
    match name {
        libc::TCP_NODELAY => flag(s.nodelay),
        libc::TCP_CORK => flag(s.cork),
        libc::TCP_MAXSEG => {
            let m = tcp.look(|t| t.mss()).ok();
            one(m.unwrap_or(if s.max_segment != 0 { s.max_segment } else { 536 }) as i32)
        }
        libc::TCP_KEEPIDLE => secs(s.keep_idle),
        libc::TCP_KEEPINTVL => secs(s.keep_interval),
        libc::TCP_KEEPCNT => one(s.keep_count as i32),
        libc::TCP_SYNCNT => one(s.syn_retries as i32),
        libc::TCP_LINGER2 => {
            one(if s.fin_timeout < 0 { -1 } else { (s.fin_timeout / SEC as i64) as i32 })
        }
        libc::TCP_DEFER_ACCEPT => one(defer_shown(extra.defer.load(Ordering::Relaxed))),
        libc::TCP_WINDOW_CLAMP => one(s.window_clamp as i32),
        libc::TCP_QUICKACK => flag(s.quickack != Some(false)),
        libc::TCP_USER_TIMEOUT => one((s.user_timeout / MS) as i32),
        libc::TCP_CONGESTION => {
            let mut b = s.congestion.name().as_bytes().to_vec();
            b.resize(16, 0);
            Ok(b)
        }
        TCP_NOTSENT_LOWAT => one(s.notsent_lowat.min(u32::MAX as usize) as u32 as i32),
        libc::TCP_INFO => Ok(info(&tcp.info(), max)),
        TCP_INQ | libc::TCP_FASTOPEN | libc::TCP_FASTOPEN_CONNECT | libc::TCP_REPAIR => one(0),
        libc::TCP_THIN_LINEAR_TIMEOUTS | libc::TCP_THIN_DUPACK => one(0),
        libc::TCP_ULP => Ok(Vec::new()),
        _ => Err(ENOPROTOOPT),
    }
}

/// What Linux makes of the seconds: the time of as many SYN+ACK retransmissions.
fn defer_shown(secs: u64) -> i32 {
    if secs == 0 {
        return 0;
    }
    let mut total = 1;
    let mut step = 1;
    while total < secs && step < 64 {
        step *= 2;
        total += step;
    }
    total as i32
}

/// `struct tcp_info`, as long as the caller has room.
pub(crate) fn info(i: &Info, max: usize) -> Vec<u8> {
    let mut b = vec![i.state, i.ca_state, i.retransmits, i.probes, i.backoff, i.options];
    b.push(i.snd_wscale | i.rcv_wscale << 4);
    b.push(0);
    let words = [
        i.rto,
        i.ato,
        i.snd_mss,
        i.rcv_mss,
        i.unacked,
        i.sacked,
        i.lost,
        i.retrans,
        0,
        i.last_data_sent,
        0,
        i.last_data_recv,
        i.last_ack_recv,
        i.pmtu,
        i.rcv_ssthresh,
        i.rtt,
        i.rttvar,
        i.snd_ssthresh,
        i.snd_cwnd,
        i.advmss,
        i.reordering,
        0,
        i.rcv_space,
        i.total_retrans,
    ];
    for w in words {
        b.extend_from_slice(&w.to_le_bytes());
    }
    // pacing_rate, max_pacing_rate
    b.extend_from_slice(&u64::MAX.to_le_bytes());
    b.extend_from_slice(&u64::MAX.to_le_bytes());
    b.extend_from_slice(&i.bytes_acked.to_le_bytes());
    b.extend_from_slice(&i.bytes_received.to_le_bytes());
    for w in [i.segs_out, i.segs_in, i.notsent_bytes, i.min_rtt, i.data_segs_in, i.data_segs_out] {
        b.extend_from_slice(&w.to_le_bytes());
    }
    // delivery_rate, busy_time, rwnd_limited, sndbuf_limited
    b.extend_from_slice(&[0; 32]);
    for w in [i.delivered, 0] {
        b.extend_from_slice(&w.to_le_bytes());
    }
    b.extend_from_slice(&i.bytes_sent.to_le_bytes());
    b.extend_from_slice(&i.bytes_retrans.to_le_bytes());
    for w in [i.dsack_dups, i.reord_seen, 0, i.snd_wnd, i.rcv_wnd, 0] {
        b.extend_from_slice(&w.to_le_bytes());
    }
    b.truncate(max);
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_info_has_the_layout_of_its_structure() {
        let i =
            Info { state: 1, rtt: 0x0102_0304, snd_cwnd: 10, bytes_acked: 77, ..Info::default() };
        let b = info(&i, 500);
        let at = std::mem::offset_of!(libc::tcp_info, tcpi_rtt);
        assert_eq!(b[at..at + 4], 0x0102_0304u32.to_le_bytes());
        let at = std::mem::offset_of!(libc::tcp_info, tcpi_snd_cwnd);
        assert_eq!(b[at..at + 4], 10u32.to_le_bytes());
        assert_eq!(b[120..128], 77u64.to_le_bytes(), "tcpi_bytes_acked");
        assert_eq!(info(&i, 104).len(), 104);
    }
}
