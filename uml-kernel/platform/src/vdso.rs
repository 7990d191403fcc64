//! Finds a function in the host's vDSO image (vdso(7)): an ELF shared object in memory.

fn u16_at(b: &[u8], o: usize) -> Option<u16> {
    Some(u16::from_le_bytes(b.get(o..o.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(b: &[u8], o: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(o..o.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(b: &[u8], o: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(o..o.checked_add(8)?)?.try_into().ok()?))
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;

/// Offset of the dynamic symbol `name` in the image, when it is defined there.
pub fn symbol(image: &[u8], name: &str) -> Option<u64> {
    let phoff = usize::try_from(u64_at(image, 32)?).ok()?;
    let phsize = usize::from(u16_at(image, 54)?);
    let (mut bias, mut dynamic) = (None, None);
    for i in 0..usize::from(u16_at(image, 56)?) {
        let ph = phoff.checked_add(i * phsize)?;
        match u32_at(image, ph)? {
            PT_LOAD if bias.is_none() => {
                bias = Some(u64_at(image, ph + 16)?.wrapping_sub(u64_at(image, ph + 8)?))
            }
            PT_DYNAMIC => dynamic = Some(usize::try_from(u64_at(image, ph + 8)?).ok()?),
            _ => {}
        }
    }
    let (bias, mut dynamic) = (bias?, dynamic?);
    let (mut strtab, mut symtab) = (None, None);
    loop {
        let (tag, value) = (u64_at(image, dynamic)?, u64_at(image, dynamic + 8)?);
        match tag {
            0 => break,
            DT_STRTAB => strtab = usize::try_from(value.wrapping_sub(bias)).ok(),
            DT_SYMTAB => symtab = usize::try_from(value.wrapping_sub(bias)).ok(),
            _ => {}
        }
        dynamic += 16;
    }
    let (strtab, symtab) = (strtab?, symtab?);
    // The symbol table ends where the string table starts in every vDSO built so far;
    // otherwise the walk ends at the image's end.
    let end = if strtab > symtab { strtab } else { image.len() };
    let mut at = symtab;
    while at + 24 <= end {
        let (name_off, shndx, value) =
            (u32_at(image, at)? as usize, u16_at(image, at + 6)?, u64_at(image, at + 8)?);
        let s = image.get(strtab.checked_add(name_off)?..)?;
        if shndx != 0 && s.starts_with(name.as_bytes()) && s.get(name.len()) == Some(&0) {
            return Some(value.wrapping_sub(bias));
        }
        at += 24;
    }
    None
}
