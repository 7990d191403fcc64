//! landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::landlock::{ABI, Domain, ERRATA, Handled, Ruleset, fs, net, scope};
use uml_core::task::{Cap, Task};
use uml_core::user;
use uml_ipc::socket::Socket;

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(444, "landlock_create_ruleset", create_ruleset(Ptr, Size, Flags)),
    call!(445, "landlock_add_rule", add_rule(Fd, Int, Ptr, Flags)),
    call!(446, "landlock_restrict_self", restrict_self(Fd, Flags)),
];

/// LANDLOCK_CREATE_RULESET_*.
const VERSION: u32 = 1;
const GET_ERRATA: u32 = 2;

/// LANDLOCK_RESTRICT_SELF_LOG_*: what is written to the audit log, which this kernel does not have.
const LOG_FLAGS: u32 = 7;
const LOG_SUBDOMAINS_OFF: u32 = 4;

/// LANDLOCK_RULE_*.
const PATH_BENEATH: i32 = 1;
const NET_PORT: i32 = 2;

fn word(raw: &[u8], at: usize) -> u64 {
    raw.iter().skip(at).take(8).rev().fold(0, |a, b| a << 8 | u64::from(*b))
}

fn create_ruleset(cx: &mut Ctx<'_>, attr: u64, size: usize, flags: u32) -> Result<u64> {
    /// `struct landlock_ruleset_attr`, and its first member, which must be there.
    const KNOWN: usize = 24;
    const FIRST: usize = 8;
    if flags != 0 {
        if attr != 0 || size != 0 {
            return Err(EINVAL);
        }
        return match flags {
            VERSION => Ok(ABI),
            GET_ERRATA => Ok(ERRATA),
            _ => Err(EINVAL),
        };
    }
    let task = &cx.task;
    if attr == 0 {
        return Err(EFAULT);
    }
    if size < FIRST {
        return Err(EINVAL);
    }
    if size > 4096 {
        return Err(E2BIG);
    }
    let raw = user::read_bytes(task, attr, size)?;
    if raw.iter().skip(KNOWN).any(|b| *b != 0) {
        return Err(E2BIG);
    }
    let known = |value: u64, mask: u32| {
        if value & !u64::from(mask) != 0 { Err(EINVAL) } else { Ok(value as u32) }
    };
    let handled = Handled {
        fs: known(word(&raw, 0), fs::ALL)?,
        net: known(word(&raw, 8), net::ALL)?,
        scoped: known(word(&raw, 16), scope::ALL)?,
    };
    let file = Ruleset::new(handled)?.open(task);
    Ok(task.install_fd(file, true)? as u64)
}

fn add_rule(cx: &mut Ctx<'_>, fd: i32, kind: i32, attr: u64, flags: u32) -> Result<u64> {
    if flags != 0 {
        return Err(EINVAL);
    }
    let task = &cx.task;
    let ruleset = Ruleset::of(&*task.file(fd)?)?;
    match kind {
        PATH_BENEATH => {
            // `struct landlock_path_beneath_attr`, which is packed.
            let raw = user::read_bytes(task, attr, 12)?;
            let access = ruleset.check_files(word(&raw, 0))?;
            let parent = task.file_any(word(&raw, 8) as u32 as i32)?;
            ruleset.allow_beneath(&parent.path, access)?;
        }
        NET_PORT => {
            let raw = user::read_bytes(task, attr, 16)?;
            ruleset.allow_port(word(&raw, 8), word(&raw, 0))?;
        }
        _ => return Err(EINVAL),
    }
    Ok(0)
}

fn restrict_self(cx: &mut Ctx<'_>, fd: i32, flags: u32) -> Result<u64> {
    let task = &cx.task;
    let cred = task.cred();
    if !cred.no_new_privs && !cred.capable_here(Cap::SysAdmin) {
        return Err(EPERM);
    }
    if flags & !LOG_FLAGS != 0 {
        return Err(EINVAL);
    }
    if fd == -1 && flags == LOG_SUBDOMAINS_OFF {
        return Ok(0);
    }
    let ruleset = Ruleset::of(&*task.file(fd)?)?;
    let mut new = (*cred).clone();
    new.landlock = Some(Domain::enter(cred.landlock.as_ref(), &ruleset)?);
    task.set_cred(Arc::new(new));
    Ok(0)
}

/// bind(2) or connect(2) (`access`: [`net`] bits) of a socket to `addr`: `EACCES` for a TCP port that the task's domain
/// does not grant; `EINVAL` and `EAFNOSUPPORT` for what the call itself would refuse.
pub fn check_address(task: &Task, socket: &dyn Socket, addr: &[u8], access: u32) -> Result<()> {
    const IN: usize = size_of::<libc::sockaddr_in>();
    /// `struct sockaddr_in6` without the scope, as of RFC 2133.
    const IN6: usize = 24;
    let cred = task.cred();
    let Some(domain) = cred.landlock.as_ref().filter(|d| d.restricts_net(access)) else {
        return Ok(());
    };
    let (own, kind, protocol) = socket.identity();
    let inet = matches!(own, libc::AF_INET | libc::AF_INET6);
    if !inet || kind != libc::SOCK_STREAM || protocol != libc::IPPROTO_TCP {
        return Ok(());
    }
    let [a, b, ..] = *addr else { return Err(EINVAL) };
    let family = i32::from(u16::from_le_bytes([a, b]));
    let least = match (family, own) {
        // Ends an association, whatever the port.
        (libc::AF_UNSPEC, _) if access == net::CONNECT_TCP => return Ok(()),
        (libc::AF_INET, _) | (libc::AF_UNSPEC, libc::AF_INET) => IN,
        (libc::AF_INET6, _) | (libc::AF_UNSPEC, _) => IN6,
        _ => return Ok(()),
    };
    if addr.len() < least {
        return Err(EINVAL);
    }
    if family == libc::AF_UNSPEC {
        // bind(2) takes it for AF_INET with the wildcard.
        if own != libc::AF_INET || addr[4..8] != [0; 4] {
            return Err(EAFNOSUPPORT);
        }
    } else if family != own {
        return Err(EINVAL);
    }
    domain.check_port(u16::from_be_bytes([addr[2], addr[3]]), access)
}
