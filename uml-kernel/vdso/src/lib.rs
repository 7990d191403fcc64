//! The guest's vDSO (vdso(7)): the ELF image that programs find through AT_SYSINFO_EHDR, and the page of
//! clock offsets it reads, one for each time namespace whose clocks differ.
//!
//! Key types: [`VdsoImage`]. Neighbours: `uml-stub` holds the code, `uml-core` maps the image at execve. Nothing
//! here reads clocks.
#![forbid(unsafe_code)]

mod elf;

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::EIO;
use uml_base::{Mutex, Rank};
use uml_core::kernel::Vdso;
use uml_core::ns::{self, TimeNs};
use uml_core::shm::next_key;
use uml_mm::vma::{Backing, PROT_EXEC, PROT_READ, Purpose};
use uml_mm::{MapAccess, MapRequest, Mappable, Mm, PAGE};
use uml_platform::{Context, Limits};
use uml_stub::vdso::data;

/// Offsets of the guest's clocks against the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// Nanoseconds to add to CLOCK_REALTIME and its kin.
    pub real_ns: i64,
    /// Nanoseconds to add to CLOCK_MONOTONIC, CLOCK_BOOTTIME and their kin.
    pub mono_ns: i64,
}

struct Memory {
    fd: OwnedFd,
    key: u64,
}

impl Memory {
    fn new(len: u64) -> Result<(Arc<Memory>, File)> {
        let fd = uml_host::memfd::create("uml-vdso", len)?;
        let file = File::from(fd.try_clone()?);
        Ok((Arc::new(Memory { fd, key: next_key() }), file))
    }
}

impl Mappable for Memory {
    fn host_fd(&self, _: u64, _: u64, _: MapAccess) -> Result<RawFd> {
        Ok(self.fd.as_raw_fd())
    }

    fn key(&self) -> u64 {
        self.key
    }
}

/// A data page: page 0 of some memory.
struct Data {
    memory: Arc<Memory>,
    file: File,
    /// What the namespace adds to the machine's clocks.
    added: ns::time::Offsets,
}

impl Data {
    /// Writes everything for the first time.
    fn fill(&self, functions: [u64; 2]) -> Result<()> {
        let [clock, cpu] = functions.map(u64::to_le_bytes);
        self.file.write_all_at(&clock, data::HOST_CLOCK_GETTIME as u64)?;
        self.file.write_all_at(&cpu, data::HOST_GETCPU as u64)?;
        Ok(())
    }

    /// Readers see either the old offsets or the new.
    fn publish(&self, seq: u64, o: Offsets) -> Result<()> {
        const NS: i64 = 1_000_000_000;
        let put = |v: u64, at: usize| self.file.write_all_at(&v.to_le_bytes(), at as u64);
        let pair = |ns: i64, sec: usize, nsec: usize| {
            put(ns.div_euclid(NS) as u64, sec)?;
            put(ns.rem_euclid(NS) as u64, nsec)
        };
        put(seq + 1, data::SEQ)?;
        pair(o.real_ns, data::REAL_SEC, data::REAL_NSEC)?;
        let mono = o.mono_ns.saturating_add(self.added.monotonic);
        pair(mono, data::MONO_SEC, data::MONO_NSEC)?;
        pair(o.mono_ns.saturating_add(self.added.boottime), data::BOOT_SEC, data::BOOT_NSEC)?;
        put(seq + 2, data::SEQ)?;
        Ok(())
    }
}

/// The page of a time namespace, made when a program is the first to need it.
#[derive(Default)]
struct OwnData(OnceLock<Arc<Data>>);

struct State {
    seq: u64,
    offsets: Offsets,
    /// Pages of time namespaces.
    others: Vec<Weak<Data>>,
}

/// The image and the initial time namespace's data page, shared by all guest programs.
pub struct VdsoImage {
    /// Page 0: data; pages 1 and 2: ELF headers, code.
    data: Data,
    /// Addresses of the host's functions.
    functions: [u64; 2],
    state: Mutex<State>,
}

/// Pages of the image after the data page: headers and tables, then code.
const IMAGE_PAGES: u64 = 2;

/// Whether the host's own vDSO reads its clock without entering the host kernel. Otherwise its fallback
/// system call would be the guest's, and offsets would be added twice.
fn host_clock_is_fast() -> bool {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    match std::fs::read_to_string(path) {
        Ok(s) => matches!(s.trim(), "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page"),
        Err(_) => false,
    }
}

impl VdsoImage {
    /// Builds the image. `same_cpu_numbers`: guest CPU n is host CPU n.
    pub fn new(limits: &Limits, offsets: Offsets, same_cpu_numbers: bool) -> Result<VdsoImage> {
        let (memory, file) = Memory::new(PAGE * (1 + IMAGE_PAGES))?;
        let image = elf::build(uml_stub::vdso::code(), &uml_stub::vdso::functions());
        if image.len() as u64 > PAGE * IMAGE_PAGES {
            return Err(EIO);
        }
        file.write_all_at(&image, PAGE)?;
        let fast = limits.host_clock_gettime != 0 && host_clock_is_fast();
        let clock = if fast { limits.host_clock_gettime } else { 0 };
        let cpu = if same_cpu_numbers { limits.host_getcpu } else { 0 };
        let v = VdsoImage {
            data: Data { memory, file, added: ns::time::Offsets::default() },
            functions: [clock, cpu],
            state: Mutex::new(Rank::LEAF, State { seq: 0, offsets, others: Vec::new() }),
        };
        v.data.fill(v.functions)?;
        v.set_offsets(offsets)?;
        Ok(v)
    }

    /// Publishes new clock offsets of the machine; readers see either the old pair or the new.
    pub fn set_offsets(&self, o: Offsets) -> Result<()> {
        let mut state = self.state.lock();
        let seq = state.seq;
        state.offsets = o;
        state.seq += 2;
        state.others.retain(|d| d.strong_count() != 0);
        self.data.publish(seq, o)?;
        for d in state.others.iter().filter_map(Weak::upgrade) {
            d.publish(seq, o)?;
        }
        Ok(())
    }

    /// The memory whose first page is the data page of `time`.
    fn memory_of(&self, time: &TimeNs) -> Result<Arc<Memory>> {
        let added = time.offsets();
        if added == ns::time::Offsets::default() {
            return Ok(self.data.memory.clone());
        }
        let own = time.parts.get::<OwnData>();
        if let Some(d) = own.0.get() {
            return Ok(d.memory.clone());
        }
        let (memory, file) = Memory::new(PAGE)?;
        let made = Arc::new(Data { memory, file, added });
        made.fill(self.functions)?;
        let mut state = self.state.lock();
        // Somebody else may have been faster; this one then has no readers.
        let d = own.0.get_or_init(|| made);
        d.publish(state.seq, state.offsets)?;
        state.seq += 2;
        state.others.push(Arc::downgrade(d));
        Ok(d.memory.clone())
    }
}

fn part(object: Arc<Memory>, off: u64, pages: u64, prot: u32, purpose: Purpose) -> MapRequest {
    let mut r = MapRequest::anonymous(pages * PAGE, prot);
    r.may = prot;
    r.shared = true;
    r.purpose = purpose;
    r.backing = Some(Backing { object, off });
    r
}

impl Vdso for VdsoImage {
    fn map(&self, hw: &mut dyn Context, mm: &Mm, time: &TimeNs) -> Result<u64> {
        let clocks = part(self.memory_of(time)?, 0, 1, PROT_READ, Purpose::Vvar);
        let image = self.data.memory.clone();
        let code = part(image, PAGE, IMAGE_PAGES, PROT_READ | PROT_EXEC, Purpose::Vdso);
        // One reservation keeps the pages together.
        let base = mm.mmap(hw, &MapRequest::anonymous((1 + IMAGE_PAGES) * PAGE, 0))?;
        mm.mmap(hw, &clocks.at(base))?;
        mm.mmap(hw, &code.at(base + PAGE))?;
        Ok(base + PAGE)
    }

    fn renew(&self, hw: &mut dyn Context, mm: &Mm, time: &TimeNs) -> Result<()> {
        let place = {
            let map = mm.map();
            map.vmas.iter().find(|v| v.flags.purpose == Purpose::Vvar).map(|v| v.start)
        };
        let Some(place) = place else { return Ok(()) };
        let clocks = part(self.memory_of(time)?, 0, 1, PROT_READ, Purpose::Vvar);
        mm.mmap(hw, &clocks.at(place))?;
        Ok(())
    }
}
