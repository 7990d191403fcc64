//! `/proc/<pid>/maps` (proc_pid_maps(5)).

use uml_abi::Result;
use uml_core::task::Task;
use uml_mm::vma::{PROT_EXEC, PROT_READ, PROT_WRITE, Purpose, Vma};

use super::{Target, memory};
use crate::synth::Text;

/// Column at which names start.
const NAME_COLUMN: usize = 73;

/// One line, without its newline.
pub fn line(v: &Vma, out: &mut Text) -> Result<()> {
    let start = out.len();
    let bit = |b: u32, c: char| if v.flags.prot & b != 0 { c } else { '-' };
    // The kernel's own pages are objects only here; programs expect to see special mappings.
    let kernel_page = matches!(v.flags.purpose, Purpose::Vdso | Purpose::Vvar);
    let (dev, ino) = memory::area_file(v);
    let off = if kernel_page { 0 } else { v.backing.as_ref().map_or(0, |b| b.off) };
    write!(
        out,
        "{:08x}-{:08x} {}{}{}{} {off:08x} {:02x}:{:02x} {ino} ",
        v.start,
        v.end,
        bit(PROT_READ, 'r'),
        bit(PROT_WRITE, 'w'),
        bit(PROT_EXEC, 'x'),
        if v.flags.shared && !kernel_page { 's' } else { 'p' },
        dev.major,
        dev.minor,
    );
    let name = memory::area_name(v)?;
    if !name.is_empty() {
        while out.len() - start < NAME_COLUMN {
            out.raw(b" ");
        }
        for &b in &name {
            // Only a newline would break the format.
            if b == b'\n' { out.raw(b"\\012") } else { out.raw(&[b]) }
        }
    }
    Ok(())
}

/// The areas of the target, copied so that naming them holds no lock.
pub fn areas(t: &Target, reader: &Task) -> Result<Vec<Vma>> {
    Ok(match t.inspect_mm(reader)? {
        Some(mm) => mm.map().vmas.iter().cloned().collect(),
        None => Vec::new(),
    })
}

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    for v in areas(t, reader)? {
        line(&v, out)?;
        out.raw(b"\n");
    }
    Ok(())
}
