//! seccomp(2).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::seccomp::bpf::{MAX_LEN, Program};
use uml_core::seccomp::notify::Listener;
use uml_core::seccomp::{self, ACTIONS, Install};
use uml_core::task::Cap;
use uml_core::user;

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[call!(317, "seccomp", seccomp(Int, Flags, Ptr))];

const SET_MODE_STRICT: u32 = 0;
const SET_MODE_FILTER: u32 = 1;
const GET_ACTION_AVAIL: u32 = 2;
const GET_NOTIF_SIZES: u32 = 3;

const TSYNC: u32 = 1;
const LOG: u32 = 2;
/// Speculation mitigations are the host's.
const SPEC_ALLOW: u32 = 4;
const NEW_LISTENER: u32 = 8;
const TSYNC_ESRCH: u32 = 16;
const WAIT_KILLABLE_RECV: u32 = 32;

fn seccomp(cx: &mut Ctx<'_>, op: u32, flags: u32, args: u64) -> Result<u64> {
    match op {
        SET_MODE_STRICT => {
            if flags != 0 || args != 0 {
                return Err(EINVAL);
            }
            seccomp::set_strict(&cx.task)?;
            Ok(0)
        }
        SET_MODE_FILTER => set_filter(cx, flags, args),
        GET_ACTION_AVAIL => {
            if flags != 0 {
                return Err(EINVAL);
            }
            let action: u32 = user::read_obj(&cx.task, args)?;
            if ACTIONS.contains(&action) { Ok(0) } else { Err(EOPNOTSUPP) }
        }
        GET_NOTIF_SIZES => {
            if flags != 0 {
                return Err(EINVAL);
            }
            // struct seccomp_notif, seccomp_notif_resp and seccomp_data.
            user::write_obj(&cx.task, args, &[80u16, 24, 64])?;
            Ok(0)
        }
        _ => Err(EINVAL),
    }
}

/// SECCOMP_SET_MODE_FILTER; also prctl(2) PR_SET_SECCOMP.
pub fn set_filter(cx: &mut Ctx<'_>, flags: u32, args: u64) -> Result<u64> {
    let known = TSYNC | LOG | SPEC_ALLOW | NEW_LISTENER | TSYNC_ESRCH | WAIT_KILLABLE_RECV;
    let has = |bit: u32| flags & bit != 0;
    if flags & !known != 0
        || has(TSYNC) && has(NEW_LISTENER) && !has(TSYNC_ESRCH)
        || has(WAIT_KILLABLE_RECV) && !has(NEW_LISTENER)
    {
        return Err(EINVAL);
    }
    let task = cx.task.clone();
    // struct sock_fprog.
    let head = user::read_bytes(&task, args, 16)?;
    let len = usize::from(u16::from_le_bytes([head[0], head[1]]));
    let mut at = [0; 8];
    at.copy_from_slice(&head[8..]);
    if len == 0 || len > MAX_LEN {
        return Err(EINVAL);
    }
    let cred = task.cred();
    if !cred.no_new_privs && !cred.capable_here(Cap::SysAdmin) {
        return Err(EACCES);
    }
    let program = Program::parse(&user::read_bytes(&task, u64::from_le_bytes(at), len * 8)?)?;
    let how =
        Install { all_threads: has(TSYNC), log: has(LOG), wait_killable: has(WAIT_KILLABLE_RECV) };
    let listener = has(NEW_LISTENER).then(|| Listener::new(how.wait_killable));
    let fd = match &listener {
        Some(l) => Some(task.install_fd(l.file(&task), true)?),
        None => None,
    };
    match seccomp::install(&task, program, how, listener) {
        Ok(()) => Ok(fd.unwrap_or(0) as u64),
        Err(problem) => {
            if let Some(fd) = fd {
                let _ = task.files().remove(fd);
            }
            match problem {
                Ok(_) if has(TSYNC_ESRCH) => Err(ESRCH),
                Ok(tid) => Ok(task.show_pid(tid) as u64),
                Err(e) => Err(e),
            }
        }
    }
}
