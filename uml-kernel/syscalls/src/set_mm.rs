//! PR_SET_MM (PR_SET_MM(2const)): what an address space says of itself in /proc.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::{Cap, Resource, Task};
use uml_core::user;
use uml_mm::{Layout, Map};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const START_CODE: u64 = 1;
const END_CODE: u64 = 2;
const START_DATA: u64 = 3;
const END_DATA: u64 = 4;
const START_STACK: u64 = 5;
const START_BRK: u64 = 6;
const BRK: u64 = 7;
const ARG_START: u64 = 8;
const ARG_END: u64 = 9;
const ENV_START: u64 = 10;
const ENV_END: u64 = 11;
const AUXV: u64 = 12;
const MAP: u64 = 14;
const MAP_SIZE: u64 = 15;

/// Bytes of the auxiliary vector that are kept (/proc/PID/auxv).
const AUXV_MAX: usize = 46 * 8;

/// `struct prctl_mm_map`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MmMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}
const _: () = assert!(size_of::<MmMap>() == 104);

impl MmMap {
    fn of(l: &Layout, brk: u64) -> MmMap {
        MmMap {
            start_code: l.start_code,
            end_code: l.end_code,
            start_data: l.start_data,
            end_data: l.end_data,
            start_brk: l.start_brk,
            brk,
            start_stack: l.start_stack,
            arg_start: l.arg_start,
            arg_end: l.arg_end,
            env_start: l.env_start,
            env_end: l.env_end,
            exe_fd: u32::MAX,
            ..MmMap::default()
        }
    }

    /// Whether every address can be one, and none is on the wrong side of its partner: `EINVAL`. The heap and the data
    /// must keep within RLIMIT_DATA.
    fn check(&self, task: &Task, min: u64, max: u64) -> Result<()> {
        let all = [
            self.start_code,
            self.end_code,
            self.start_data,
            self.end_data,
            self.start_brk,
            self.brk,
            self.start_stack,
            self.arg_start,
            self.arg_end,
            self.env_start,
            self.env_end,
        ];
        let ordered = self.start_code < self.end_code
            && self.start_data <= self.end_data
            && self.start_brk <= self.brk
            && self.arg_start <= self.arg_end
            && self.env_start <= self.env_end;
        if !ordered || all.iter().any(|a| !(min..max).contains(a)) {
            return Err(EINVAL);
        }
        let used = (self.brk - self.start_brk).saturating_add(self.end_data - self.start_data);
        if used > task.rlimit(Resource::Data) { Err(EINVAL) } else { Ok(()) }
    }
}

/// One operation: `EPERM` without CAP_SYS_RESOURCE (but for PR_SET_MM_MAP), `EINVAL` for what is not known or no possible
/// address, `EFAULT` for a stack, arguments or environment where nothing is mapped.
pub fn set(task: &Task, what: u64, addr: u64, size: u64) -> Result<u64> {
    if size != 0 && !matches!(what, AUXV | MAP | MAP_SIZE) {
        return Err(EINVAL);
    }
    match what {
        MAP_SIZE => {
            user::write_obj(task, addr, &(size_of::<MmMap>() as u32))?;
            return Ok(0);
        }
        MAP => return set_all(task, addr, size),
        _ => {}
    }
    task.require(Cap::SysResource)?;
    let mm = task.mm()?;
    if what == AUXV {
        let len = usize::try_from(size).ok().filter(|n| *n <= AUXV_MAX).ok_or(EINVAL)?;
        mm.map().auxv = auxv(task, addr, len)?;
        return Ok(0);
    }
    let (min, max) = (mm.user_min(), mm.user_max());
    if !(min..max).contains(&addr) {
        return Err(EINVAL);
    }
    let mut map = mm.map();
    let mut new = MmMap::of(&map.layout, map.brk);
    *match what {
        START_CODE => &mut new.start_code,
        END_CODE => &mut new.end_code,
        START_DATA => &mut new.start_data,
        END_DATA => &mut new.end_data,
        START_STACK => &mut new.start_stack,
        START_BRK => &mut new.start_brk,
        BRK => &mut new.brk,
        ARG_START => &mut new.arg_start,
        ARG_END => &mut new.arg_end,
        ENV_START => &mut new.env_start,
        ENV_END => &mut new.env_end,
        _ => return Err(EINVAL),
    } = addr;
    new.check(task, min, max)?;
    if matches!(what, START_STACK | ARG_START | ARG_END | ENV_START | ENV_END)
        // An area that lies at the address or above it.
        && map.vmas.iter().all(|v| v.end <= addr)
    {
        return Err(EFAULT);
    }
    enter(&mut map, &new);
    Ok(0)
}

/// PR_SET_MM_MAP: everything at once.
fn set_all(task: &Task, addr: u64, size: u64) -> Result<u64> {
    if size != size_of::<MmMap>() as u64 {
        return Err(EINVAL);
    }
    let new: MmMap = user::read_obj(task, addr)?;
    let mm = task.mm()?;
    let (min, max) = (mm.user_min(), mm.user_max());
    new.check(task, min, max)?;
    let vector = match (new.auxv, new.auxv_size as usize) {
        (_, 0) => None,
        (0, _) => return Err(EINVAL),
        (_, n) if n > AUXV_MAX => return Err(EINVAL),
        (at, n) => Some(auxv(task, at, n)?),
    };
    if new.exe_fd != u32::MAX {
        return Err(EINVAL);
    }
    let mut map = mm.map();
    enter(&mut map, &new);
    if let Some(v) = vector {
        map.auxv = v;
    }
    Ok(0)
}

/// A vector from the program, ended by AT_NULL whatever it says.
fn auxv(task: &Task, addr: u64, len: usize) -> Result<Vec<u8>> {
    let mut v = user::read_bytes(task, addr, len)?;
    v.resize(AUXV_MAX, 0);
    v[AUXV_MAX - 16..].fill(0);
    Ok(v)
}

fn enter(map: &mut Map, new: &MmMap) {
    let l = &mut map.layout;
    (l.start_code, l.end_code) = (new.start_code, new.end_code);
    (l.start_data, l.end_data) = (new.start_data, new.end_data);
    (l.start_brk, l.start_stack) = (new.start_brk, new.start_stack);
    (l.arg_start, l.arg_end) = (new.arg_start, new.arg_end);
    (l.env_start, l.env_end) = (new.env_start, new.env_end);
    map.brk = new.brk;
}
