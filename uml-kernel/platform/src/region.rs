//! Where the stub lives: the region at the top of every guest address space, and the
//! host's own vDSO.

use std::ops::Range;

use uml_abi::{Result, errno};

/// End of the user half of the address space with four-level page tables.
const TASK_END: u64 = 0x7fff_ffff_f000;
const ALIGN: u64 = 16 << 20;

const CONTROL_OFF: u64 = 0x1_0000;
const REQUEST_OFF: u64 = 0x1_8000;
const VDSO_OFF: u64 = 0x2_0000;
const VDSO_MAX: u64 = 0x10_0000;
const SLOTS_OFF: u64 = ALIGN;

/// Context slots (threads) a guest process may have.
pub const POSITIONS: usize = 32 * 1024;
const SIZE: u64 = SLOTS_OFF + (POSITIONS * uml_stub::slot::SIZE) as u64;

/// One line of `/proc/self/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMap {
    pub range: Range<u64>,
    pub name: String,
}

/// The mappings of this process.
pub fn host_maps() -> Result<Vec<HostMap>> {
    Ok(std::fs::read_to_string("/proc/self/maps")?.lines().filter_map(parse_map).collect())
}

fn parse_map(line: &str) -> Option<HostMap> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    Some(HostMap { range, name: words.nth(4).unwrap_or("").to_owned() })
}

/// Where the addresses that this process may map end: [`TASK_END`], or lower where the host is a kernel
/// as this one, whose own stub is above. `mappable` says it of one page.
pub fn user_end(mappable: impl Fn(u64) -> bool) -> u64 {
    const PAGE: u64 = 4096;
    if mappable(TASK_END - PAGE) {
        return TASK_END;
    }
    // Everything below the first page that is refused can be mapped.
    let (mut good, mut bad) = (0, TASK_END / PAGE - 1);
    while good + 1 < bad {
        let middle = good.midpoint(bad);
        if mappable(middle * PAGE) { good = middle } else { bad = middle }
    }
    bad * PAGE
}

/// The stub's region and its parts, as guest addresses.
#[derive(Clone, Debug)]
pub struct Region {
    pub base: u64,
    /// Where the addresses that can be mapped end: nothing above needs to be unmapped, or can be.
    pub top: u64,
    /// Stub code.
    pub code: Range<u64>,
    /// The filter program, after the code.
    pub data: u64,
    pub control: u64,
    /// The mapper's request page.
    pub request: u64,
    /// Where the host's vvar and vDSO pages go.
    pub vdso: u64,
    pub slots: u64,
}

impl Region {
    /// Chooses the highest place below `end` that is free in this process, from which the zygote
    /// is copied. The main thread's stack counts as `[stack]` plus room to grow.
    pub fn choose(maps: &[HostMap], code_len: usize, end: u64) -> Result<Region> {
        let grow = 16 << 20;
        let mut base = end.checked_sub(SIZE).ok_or(errno::ENOMEM)? & !(ALIGN - 1);
        loop {
            let want = base..base + SIZE;
            let hit = maps.iter().find(|m| {
                let low = if m.name == "[stack]" {
                    m.range.start.saturating_sub(grow)
                } else {
                    m.range.start
                };
                low < want.end && m.range.end > want.start
            });
            let Some(m) = hit else { break };
            let top = m.range.start.saturating_sub(grow);
            if top < SIZE + ALIGN || base <= SIZE {
                return Err(errno::ENOMEM);
            }
            base = (top.min(want.end - ALIGN) - SIZE) & !(ALIGN - 1);
        }
        let code_len = code_len.next_multiple_of(4096) as u64;
        Ok(Region {
            base,
            top: end,
            code: base..base + code_len,
            data: base + code_len,
            control: base + CONTROL_OFF,
            request: base + REQUEST_OFF,
            vdso: base + VDSO_OFF,
            slots: base + SLOTS_OFF,
        })
    }

    pub fn end(&self) -> u64 {
        self.base + SIZE
    }

    /// Guest address of the slot at `position`.
    pub fn slot(&self, position: usize) -> u64 {
        self.slots + (position * uml_stub::slot::SIZE) as u64
    }
}

/// The host's vDSO in this process: its mappings and the functions guests use.
#[derive(Clone, Debug, Default)]
pub struct HostVdso {
    /// vvar and vdso mappings, ascending and adjacent; empty when the host has none.
    pub maps: Vec<Range<u64>>,
    /// Offsets of `__vdso_clock_gettime` and `__vdso_getcpu` from the first mapping, 0 if absent.
    pub clock_gettime: u64,
    pub getcpu: u64,
}

impl HostVdso {
    pub fn find(maps: &[HostMap]) -> HostVdso {
        let mut mine: Vec<_> = maps
            .iter()
            .filter(|m| m.name == "[vdso]" || m.name.starts_with("[vvar"))
            .map(|m| m.range.clone())
            .collect();
        mine.sort_by_key(|r| r.start);
        let adjacent = mine.windows(2).all(|w| w[0].end == w[1].start);
        let total: u64 = mine.iter().map(|r| r.end - r.start).sum();
        let image = maps.iter().find(|m| m.name == "[vdso]").map(|m| m.range.clone());
        let (Some(image), true) = (image, adjacent && total <= VDSO_MAX) else {
            return HostVdso::default();
        };
        let first = mine[0].start;
        // SAFETY: the range is the readable vDSO image of this process, which stays mapped
        // and unchanged for its life.
        let bytes = unsafe {
            std::slice::from_raw_parts(image.start as *const u8, (image.end - image.start) as usize)
        };
        let sym = |name| crate::vdso::symbol(bytes, name).map_or(0, |v| image.start - first + v);
        HostVdso {
            clock_gettime: sym("__vdso_clock_gettime"),
            getcpu: sym("__vdso_getcpu"),
            maps: mine,
        }
    }

    pub fn start(&self) -> u64 {
        self.maps.first().map_or(0, |r| r.start)
    }

    pub fn end(&self) -> u64 {
        self.maps.last().map_or(0, |r| r.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(start: u64, end: u64, name: &str) -> HostMap {
        HostMap { range: start..end, name: name.into() }
    }

    #[test]
    fn region_avoids_what_is_there() {
        let r = Region::choose(&[], 1000, TASK_END).unwrap();
        assert!(r.end() <= TASK_END);
        let maps = [
            map(0x7fff_ffd0_0000, 0x7fff_ffe0_0000, "[stack]"),
            map(0x7fff_a000_0000, 0x7fff_a000_1000, ""),
            map(0x7fff_5000_0000, 0x7fff_5000_1000, ""),
        ];
        let r = Region::choose(&maps, 1000, TASK_END).unwrap();
        for m in &maps {
            assert!(m.range.end <= r.base || m.range.start >= r.end(), "{m:?} {r:?}");
        }
        assert_eq!(r.base % ALIGN, 0);
        assert_eq!(r.slots % uml_stub::slot::SIZE as u64, 0);
        assert!(Region::choose(&[map(0x1000, TASK_END, "")], 1000, TASK_END).is_err());
    }

    #[test]
    fn region_is_below_the_end_that_the_host_gives() {
        assert_eq!(user_end(|_| true), TASK_END);
        // As in a guest of this kernel: the outer stub has the top.
        let outer = Region::choose(&[], 1000, TASK_END).unwrap().base;
        assert_eq!(user_end(|at| at < outer), outer);
        let inner = Region::choose(&[], 1000, outer).unwrap();
        assert!(inner.end() <= outer && inner.top == outer);
        assert!(Region::choose(&[], 1000, SIZE - 1).is_err());
    }

    #[test]
    fn maps_line() {
        let m = parse_map(
            "7f691caef000-7f691caf1000 r-xp 00000000 00:00 0                          [vdso]",
        )
        .unwrap();
        assert_eq!(m, map(0x7f69_1cae_f000, 0x7f69_1caf_1000, "[vdso]"));
        assert_eq!(parse_map("zz"), None);
    }

    #[test]
    fn own_vdso_has_clock_gettime() {
        let v = HostVdso::find(&host_maps().unwrap());
        assert!(!v.maps.is_empty());
        assert!(v.clock_gettime != 0 && v.getcpu != 0);
    }
}
