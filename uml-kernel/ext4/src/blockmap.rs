//! Classic block maps: 12 direct blocks, then single, double and triple
//! indirect ones.

use uml_abi::Result;
use uml_abi::errno::EFBIG;

use crate::bytes::{rd32, wr32};
use crate::inode::Inode;
use crate::layout::Layout;
use crate::map::Mapping;
use crate::meta::MetaRead;
use crate::txn::Txn;

const DIRECT: u64 = 12;

fn per_block(lay: &Layout) -> u64 {
    u64::from(lay.block_size) / 4
}

/// The slots to follow from `i_block`, as (slot, blocks one slot spans).
fn path(lay: &Layout, lblk: u64) -> Result<(usize, Vec<u64>)> {
    if lblk < DIRECT {
        return Ok((lblk as usize, Vec::new()));
    }
    let n = per_block(lay);
    let mut rest = lblk - DIRECT;
    let mut span = 1u64;
    for level in 1..=3usize {
        span *= n;
        if rest < span {
            let mut slots = Vec::with_capacity(level);
            let mut unit = span;
            for _ in 0..level {
                unit /= n;
                slots.push(rest / unit);
                rest %= unit;
            }
            return Ok((11 + level, slots));
        }
        rest -= span;
    }
    Err(EFBIG)
}

/// Number of logical blocks a block map can address.
pub(crate) fn max_blocks(lay: &Layout) -> u64 {
    let n = per_block(lay);
    (DIRECT + n + n * n + n * n * n).min(u64::from(u32::MAX))
}

/// Maps at most `max` blocks from `lblk`.
pub(crate) fn find(src: &dyn MetaRead, inode: &Inode, lblk: u64, max: u64) -> Result<Mapping> {
    let lay = src.lay();
    let n = per_block(lay);
    let hole = |len: u64| {
        let len = len.clamp(1, max);
        Ok(Mapping { logical: lblk, len, physical: None, unwritten: false })
    };
    let Ok((root, slots)) = path(lay, lblk) else { return hole(max) };
    let mut cur = u64::from(rd32(&inode.block, root * 4));
    let mut span = n.pow(slots.len() as u32);
    let mut inside = 0u64;
    let mut buf = None;
    for (i, &slot) in slots.iter().enumerate() {
        if cur == 0 {
            // The hole reaches to the end of what this pointer covers.
            let offset: u64 =
                slots[i..].iter().fold((0, span), |(o, s), v| (o + v * (s / n), s / n)).0;
            return hole(span - offset);
        }
        src.check_range(inode.ino, cur, 1)?;
        let b = src.block(cur)?;
        span /= n;
        cur = u64::from(rd32(&b, slot as usize * 4));
        inside = slot;
        buf = Some(b);
    }
    // Neighbouring slots of the last table extend the run.
    let (table, at, end): (&[u8], u64, u64) = match &buf {
        Some(b) => (b, inside, n),
        None => (&inode.block, root as u64, DIRECT),
    };
    let slot = |i: u64| u64::from(rd32(table, i as usize * 4));
    let mut len = 1;
    while len < max && at + len < end {
        let want = if cur == 0 { 0 } else { cur + len };
        if slot(at + len) != want {
            break;
        }
        len += 1;
    }
    if cur == 0 {
        return hole(len);
    }
    src.check_range(inode.ino, cur, len)?;
    Ok(Mapping { logical: lblk, len, physical: Some(cur), unwritten: false })
}

/// Points `lblk` at `pblk`, allocating indirect blocks near it.
pub(crate) fn set(tx: &mut Txn<'_>, inode: &mut Inode, lblk: u64, pblk: u64) -> Result<()> {
    let (root, slots) = path(tx.lay(), lblk)?;
    let value = u32::try_from(pblk).map_err(|_| EFBIG)?;
    let Some((&last, upper)) = slots.split_last() else {
        wr32(&mut inode.block, root * 4, value);
        return Ok(());
    };
    let mut table = u64::from(rd32(&inode.block, root * 4));
    if table == 0 {
        table = new_table(tx, inode, pblk)?;
        wr32(&mut inode.block, root * 4, table as u32);
    }
    for &slot in upper {
        tx.check_range(inode.ino, table, 1)?;
        let off = slot as usize * 4;
        let mut next = u64::from(rd32(&tx.block(table)?[..], off));
        if next == 0 {
            next = new_table(tx, inode, pblk)?;
            wr32(tx.modify(table)?, off, next as u32);
        }
        table = next;
    }
    tx.check_range(inode.ino, table, 1)?;
    wr32(tx.modify(table)?, last as usize * 4, value);
    Ok(())
}

fn new_table(tx: &mut Txn<'_>, inode: &mut Inode, goal: u64) -> Result<u64> {
    let b = tx.alloc_meta(inode, goal)?;
    if b > u64::from(u32::MAX) {
        return Err(EFBIG);
    }
    tx.create(b);
    Ok(b)
}

/// Unmaps logical blocks `from..to`, at most about `budget` data blocks, and
/// returns the freed runs and the first logical block not looked at.
pub(crate) fn clear(
    tx: &mut Txn<'_>,
    inode: &mut Inode,
    from: u64,
    to: u64,
    budget: u64,
) -> Result<(Vec<(u64, u64)>, u64)> {
    let lay = tx.lay().clone();
    let n = per_block(&lay);
    let mut freed: Vec<(u64, u64)> = Vec::new();
    let mut left = budget.max(1);
    let to = to.min(max_blocks(&lay));
    let mut at = from;
    while at < to && left > 0 {
        let (root, slots) = path(&lay, at)?;
        if slots.is_empty() {
            let b = u64::from(rd32(&inode.block, root * 4));
            if b != 0 {
                tx.check_range(inode.ino, b, 1)?;
                push(&mut freed, b);
                wr32(&mut inode.block, root * 4, 0);
                left -= 1;
            }
            at += 1;
            continue;
        }
        // First logical block under this root pointer, and past its last.
        let base = DIRECT + (1..slots.len() as u32).map(|l| n.pow(l)).sum::<u64>();
        let span = n.pow(slots.len() as u32);
        let table = u64::from(rd32(&inode.block, root * 4));
        if table == 0 {
            at = base + span;
            continue;
        }
        let end = to.min(base + span);
        let r = Range { from: at - base, to: end - base };
        let level = slots.len() as u32;
        let (done, empty) = clear_table(tx, inode, table, level, r, &mut left, &mut freed)?;
        if empty {
            tx.free_meta(inode, table)?;
            wr32(&mut inode.block, root * 4, 0);
        }
        at = base + done;
    }
    Ok((freed, at.max(from)))
}

struct Range {
    from: u64,
    to: u64,
}

fn push(freed: &mut Vec<(u64, u64)>, b: u64) {
    match freed.last_mut() {
        Some((s, l)) if *s + *l == b => *l += 1,
        _ => freed.push((b, 1)),
    }
}

/// Clears part of one table; returns where it stopped and whether it is empty.
fn clear_table(
    tx: &mut Txn<'_>,
    inode: &mut Inode,
    table: u64,
    level: u32,
    r: Range,
    left: &mut u64,
    freed: &mut Vec<(u64, u64)>,
) -> Result<(u64, bool)> {
    tx.check_range(inode.ino, table, 1)?;
    let n = per_block(tx.lay());
    let unit = n.pow(level - 1);
    let mut bytes = tx.block(table)?.to_vec();
    let mut changed = false;
    let mut at = r.from;
    while at < r.to && *left > 0 {
        let slot = at / unit;
        let off = slot as usize * 4;
        let b = u64::from(rd32(&bytes, off));
        let next = (slot + 1) * unit;
        if b == 0 {
            at = next.min(r.to);
            continue;
        }
        if level == 1 {
            tx.check_range(inode.ino, b, 1)?;
            push(freed, b);
            wr32(&mut bytes, off, 0);
            changed = true;
            *left -= 1;
            at += 1;
        } else {
            let base = slot * unit;
            let sub = Range { from: at - base, to: r.to.min(next) - base };
            let (done, empty) = clear_table(tx, inode, b, level - 1, sub, left, freed)?;
            if empty {
                tx.free_meta(inode, b)?;
                wr32(&mut bytes, off, 0);
                changed = true;
            }
            at = base + done;
        }
    }
    if changed {
        tx.modify(table)?.copy_from_slice(&bytes);
    }
    Ok((at, bytes.iter().all(|b| *b == 0)))
}
