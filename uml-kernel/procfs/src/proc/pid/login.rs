//! `/proc/<pid>/{loginuid,sessionid}`: who logged in (pam_loginuid(8)).

use std::sync::atomic::{AtomicU32, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::{Cap, Task};

use super::Target;
use crate::synth::{Text, parse_u64, words};

pub fn show_uid(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    write!(out, "{}", t.task()?.process.loginuid.load(Ordering::Relaxed));
    Ok(())
}

pub fn show_session(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    write!(out, "{}", t.task()?.process.sessionid.load(Ordering::Relaxed));
    Ok(())
}

/// A process sets its own, once; CAP_AUDIT_CONTROL may change it. Every login is a new session.
pub fn store_uid(t: &Target, writer: &Task, data: &[u8]) -> Result<()> {
    static NEXT_SESSION: AtomicU32 = AtomicU32::new(1);
    let task = t.task()?;
    if task.process.pid != writer.process.pid {
        return Err(EPERM);
    }
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    // "-1" unsets it.
    let uid =
        if word == "-1" { u32::MAX } else { parse_u64(word)?.try_into().map_err(|_| EINVAL)? };
    let p = &task.process;
    if p.loginuid.load(Ordering::Relaxed) != u32::MAX {
        writer.require(Cap::AuditControl)?;
    }
    let session =
        if uid == u32::MAX { u32::MAX } else { NEXT_SESSION.fetch_add(1, Ordering::Relaxed) };
    p.loginuid.store(uid, Ordering::Relaxed);
    p.sessionid.store(session, Ordering::Relaxed);
    Ok(())
}
