//! ELF images (elf(5)): checking headers, and mapping a program into an address space.
//!
//! The file is untrusted: every number is range-checked before use.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_mm::vma::{Backing, PROT_EXEC, PROT_READ, PROT_WRITE};
use uml_mm::{MapRequest, Mm, PAGE};
use uml_platform::Context;

use crate::file::File;
use crate::io::BufSink;
use crate::shm::MappedFile;
use crate::task::Task;

/// Largest program-header table accepted (as Linux: 64 KiB).
const MAX_PHDRS: usize = 65536;
const EHDR_SIZE: usize = 64;
const PHDR_SIZE: usize = 56;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;

/// One program header.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub filesz: u64,
    pub memsz: u64,
    pub align: u64,
}

/// A checked ELF header with its program headers.
#[derive(Clone, Debug)]
pub struct Image {
    /// ET_DYN: may be placed anywhere.
    pub dynamic: bool,
    pub entry: u64,
    pub phoff: u64,
    pub phnum: u16,
    pub segments: Vec<Segment>,
    /// Path of the interpreter, without the NUL.
    pub interp: Option<Vec<u8>>,
}

/// Reads exactly `buf.len()` bytes at `off`, or `ENOEXEC`.
pub fn read_exact(file: &File, task: &Task, off: u64, buf: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let n = file.read_at(task, off + done as u64, &mut BufSink::new(&mut buf[done..]))?;
        if n == 0 {
            return Err(ENOEXEC);
        }
        done += n;
    }
    Ok(())
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

/// Reads and checks the headers of `file`, whose first bytes are `head`.
pub fn parse(file: &File, task: &Task, head: &[u8]) -> Result<Image> {
    if head.len() < EHDR_SIZE || head[..4] != *b"\x7fELF" {
        return Err(ENOEXEC);
    }
    // 64-bit, little-endian.
    if head[4] != 2 || head[5] != 1 || u16_at(head, 18) != EM_X86_64 {
        return Err(ENOEXEC);
    }
    let kind = u16_at(head, 16);
    if kind != ET_EXEC && kind != ET_DYN {
        return Err(ENOEXEC);
    }
    let phoff = u64_at(head, 32);
    let phnum = u16_at(head, 56);
    let table = usize::from(phnum) * PHDR_SIZE;
    if usize::from(u16_at(head, 54)) != PHDR_SIZE || phnum == 0 || table > MAX_PHDRS {
        return Err(ENOEXEC);
    }
    if phoff > i64::MAX as u64 - MAX_PHDRS as u64 {
        return Err(ENOEXEC);
    }
    let mut raw = vec![0; table];
    read_exact(file, task, phoff, &mut raw)?;
    let segments: Vec<Segment> = raw
        .chunks_exact(PHDR_SIZE)
        .map(|p| Segment {
            kind: u32_at(p, 0),
            flags: u32_at(p, 4),
            offset: u64_at(p, 8),
            vaddr: u64_at(p, 16),
            filesz: u64_at(p, 32),
            memsz: u64_at(p, 40),
            align: u64_at(p, 48),
        })
        .collect();
    let interp = match segments.iter().find(|s| s.kind == PT_INTERP) {
        Some(s) => Some(read_interp(file, task, s)?),
        None => None,
    };
    Ok(Image { dynamic: kind == ET_DYN, entry: u64_at(head, 24), phoff, phnum, segments, interp })
}

fn read_interp(file: &File, task: &Task, s: &Segment) -> Result<Vec<u8>> {
    if s.filesz < 2 || s.filesz > libc::PATH_MAX as u64 || s.offset > i64::MAX as u64 - s.filesz {
        return Err(ENOEXEC);
    }
    let mut path = vec![0; s.filesz as usize];
    read_exact(file, task, s.offset, &mut path)?;
    if path.pop() != Some(0) {
        return Err(ENOEXEC);
    }
    if let Some(n) = path.iter().position(|b| *b == 0) {
        path.truncate(n);
    }
    Ok(path)
}

impl Image {
    fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|s| s.kind == PT_LOAD)
    }

    /// Segments must be in order, congruent to their file offsets, and within the address space. Checked when
    /// they are mapped, as on Linux: the old program is gone by then.
    fn check(&self) -> Result<()> {
        let mut last = 0;
        let mut any = false;
        for s in self.loads() {
            let end = s.vaddr.checked_add(s.memsz).ok_or(ENOEXEC)?;
            s.offset.checked_add(s.filesz).filter(|e| *e <= i64::MAX as u64).ok_or(ENOEXEC)?;
            let ordered = s.vaddr >= last || !any;
            if s.filesz > s.memsz
                || end > 1 << 47
                || s.vaddr & (PAGE - 1) != s.offset & (PAGE - 1)
                || !ordered
            {
                return Err(ENOEXEC);
            }
            last = s.vaddr;
            any = true;
        }
        if any { Ok(()) } else { Err(ENOEXEC) }
    }

    /// Lowest page and end of what is loaded, relative to the load bias.
    fn span(&self) -> (u64, u64) {
        let start = self.loads().map(|s| s.vaddr).min().unwrap_or(0) & !(PAGE - 1);
        let end = self.loads().map(|s| s.vaddr + s.memsz).max().unwrap_or(0);
        (start, end.next_multiple_of(PAGE))
    }

    /// Largest alignment a segment asks for, at least a page.
    fn align(&self) -> u64 {
        self.loads()
            .map(|s| s.align)
            .filter(|a| a.is_power_of_two())
            .max()
            .unwrap_or(PAGE)
            .max(PAGE)
    }

    /// True when the stack must be executable (PT_GNU_STACK absent means no on x86-64).
    pub fn exec_stack(&self) -> bool {
        self.segments.iter().any(|s| s.kind == PT_GNU_STACK && s.flags & 1 != 0)
    }
}

/// Where an image came to lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loaded {
    /// Added to every address of the file.
    pub bias: u64,
    pub entry: u64,
    /// Address of the program headers in memory.
    pub phdr: u64,
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    /// End of the bss.
    pub end: u64,
}

/// Maps `image` of `file` into `mm`. Position-independent images go near `hint` (0: anywhere).
pub fn load(
    cx: &mut dyn Context,
    mm: &Mm,
    image: &Image,
    file: &Arc<File>,
    hint: u64,
) -> Result<Loaded> {
    image.check()?;
    let object = MappedFile::wrap(file.clone(), file.ops.mappable().map_err(|_| ENOEXEC)?);
    let (start, end) = image.span();
    let mut out = Loaded { start_code: u64::MAX, start_data: 0, ..Loaded::default() };
    if image.dynamic {
        // Find room for the whole span once; the segments then replace the reservation.
        let align = image.align();
        let mut reserve = MapRequest::anonymous(end - start + align - PAGE, 0);
        reserve.addr = hint;
        let at = mm.mmap(cx, &reserve)?;
        let base = at.next_multiple_of(align);
        out.bias = base.wrapping_sub(start);
        // What the alignment left over goes back.
        let (end_want, end_have) = (base + (end - start), at + reserve.len);
        if base > at {
            mm.unmap(cx, at, base - at)?;
        }
        if end_have > end_want {
            mm.unmap(cx, end_want, end_have - end_want)?;
        }
    }
    for s in image.loads() {
        let prot = (if s.flags & 4 != 0 { PROT_READ } else { 0 })
            | (if s.flags & 2 != 0 { PROT_WRITE } else { 0 })
            | (if s.flags & 1 != 0 { PROT_EXEC } else { 0 });
        let at = out.bias.wrapping_add(s.vaddr);
        let skew = at & (PAGE - 1);
        let page = at - skew;
        let file_end = (at + s.filesz).next_multiple_of(PAGE);
        let mem_end = (at + s.memsz).next_multiple_of(PAGE);
        if s.filesz > 0 {
            let mut req = MapRequest::anonymous(file_end - page, prot).at(page);
            req.backing = Some(Backing { object: object.clone(), off: s.offset - skew });
            mm.mmap(cx, &req)?;
        }
        let anon_start = if s.filesz > 0 { file_end } else { page };
        if mem_end > anon_start {
            mm.mmap(cx, &MapRequest::anonymous(mem_end - anon_start, prot).at(anon_start))?;
        }
        // The file's bytes after the segment on its last page are not the program's.
        if s.filesz > 0 && s.memsz > s.filesz && prot & PROT_WRITE != 0 {
            let tail = at + s.filesz;
            let zeros = [0u8; PAGE as usize];
            mm.write(tail, &zeros[..(file_end - tail) as usize])?;
        }
        if s.offset <= image.phoff && image.phoff < s.offset + s.filesz {
            out.phdr = at + (image.phoff - s.offset);
        }
        if prot & PROT_EXEC != 0 {
            out.start_code = out.start_code.min(at);
            out.end_code = out.end_code.max(at + s.filesz);
        }
        out.start_data = out.start_data.max(at);
        out.end_data = out.end_data.max(at + s.filesz);
        out.end = out.end.max(at + s.memsz);
    }
    out.entry = out.bias.wrapping_add(image.entry);
    if out.entry >= mm.user_max() {
        return Err(ENOEXEC);
    }
    Ok(out)
}
