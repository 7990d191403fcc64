//! The guest's vDSO (vdso(7)): the ELF image that programs find through AT_SYSINFO_EHDR, and the page of
//! clock offsets it reads.
//!
//! Key types: [`VdsoImage`]. Neighbours: `uml-stub` holds the code, `uml-core` maps the image at execve. Nothing
//! here reads clocks.
#![forbid(unsafe_code)]

mod elf;

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::EIO;
use uml_base::{Mutex, Rank};
use uml_core::kernel::Vdso;
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

impl Mappable for Memory {
    fn host_fd(&self, _: u64, _: u64, _: MapAccess) -> Result<RawFd> {
        Ok(self.fd.as_raw_fd())
    }

    fn key(&self) -> u64 {
        self.key
    }
}

/// The image and its data page, shared by all guest programs.
pub struct VdsoImage {
    /// Page 0: data; pages 1 and 2: ELF headers, code.
    memory: Arc<Memory>,
    file: File,
    seq: Mutex<u64>,
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
        let fd = uml_host::memfd::create("uml-vdso", PAGE * (1 + IMAGE_PAGES))?;
        let file = File::from(fd.try_clone()?);
        let image = elf::build(uml_stub::vdso::code(), &uml_stub::vdso::functions());
        if image.len() as u64 > PAGE * IMAGE_PAGES {
            return Err(EIO);
        }
        file.write_all_at(&image, PAGE)?;
        let fast = limits.host_clock_gettime != 0 && host_clock_is_fast();
        let clock = if fast { limits.host_clock_gettime } else { 0 };
        let cpu = if same_cpu_numbers { limits.host_getcpu } else { 0 };
        file.write_all_at(&clock.to_le_bytes(), data::HOST_CLOCK_GETTIME as u64)?;
        file.write_all_at(&cpu.to_le_bytes(), data::HOST_GETCPU as u64)?;
        let memory = Arc::new(Memory { fd, key: next_key() });
        let v = VdsoImage { memory, file, seq: Mutex::new(Rank::LEAF, 0) };
        v.set_offsets(offsets)?;
        Ok(v)
    }

    /// Publishes new clock offsets; readers see either the old pair or the new.
    pub fn set_offsets(&self, o: Offsets) -> Result<()> {
        const NS: i64 = 1_000_000_000;
        let mut seq = self.seq.lock();
        let put = |v: u64, at: usize| self.file.write_all_at(&v.to_le_bytes(), at as u64);
        put(*seq + 1, data::SEQ)?;
        put(o.real_ns.div_euclid(NS) as u64, data::REAL_SEC)?;
        put(o.real_ns.rem_euclid(NS) as u64, data::REAL_NSEC)?;
        put(o.mono_ns.div_euclid(NS) as u64, data::MONO_SEC)?;
        put(o.mono_ns.rem_euclid(NS) as u64, data::MONO_NSEC)?;
        *seq += 2;
        put(*seq, data::SEQ)?;
        Ok(())
    }
}

impl Vdso for VdsoImage {
    fn map(&self, hw: &mut dyn Context, mm: &Mm) -> Result<u64> {
        let part = |off, pages: u64, prot, purpose| {
            let mut r = MapRequest::anonymous(pages * PAGE, prot);
            r.may = prot;
            r.shared = true;
            r.purpose = purpose;
            r.backing = Some(Backing { object: self.memory.clone(), off });
            r
        };
        // One reservation keeps the pages together.
        let base = mm.mmap(hw, &MapRequest::anonymous((1 + IMAGE_PAGES) * PAGE, 0))?;
        mm.mmap(hw, &part(0, 1, PROT_READ, Purpose::Vvar).at(base))?;
        let code = part(PAGE, IMAGE_PAGES, PROT_READ | PROT_EXEC, Purpose::Vdso).at(base + PAGE);
        mm.mmap(hw, &code)?;
        Ok(base + PAGE)
    }
}
