//! Interfaces between namespaces (network_namespaces(7)): moving one, numbers of other namespaces, the end of a
//! namespace.

use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;

use crate::interface::Interface;
use crate::stack::{Stack, check_name};

impl Stack {
    /// Moves an interface to another namespace, down and without addresses, under `name` if one is given. `EINVAL` for
    /// one that belongs to its namespace (the loopback, a bridge), `EEXIST` when the name is taken there.
    pub fn move_interface(
        self: &Arc<Stack>,
        i: &Arc<Interface>,
        to: &Arc<Stack>,
        name: Option<&str>,
    ) -> Result<Arc<Interface>> {
        if i.is_loopback() || i.device.kind() == "bridge" {
            return Err(EINVAL);
        }
        let name = to.free_name(name.unwrap_or(&i.name()));
        check_name(&name)?;
        if Arc::ptr_eq(self, to) {
            self.rename(i, &name)?;
            return Ok(i.clone());
        }
        if to.interface_named(&name).is_some() {
            return Err(EEXIST);
        }
        if !self.take_out(i) {
            return Err(ENODEV);
        }
        // Between the question and the answer somebody may take name or number; the interface must go somewhere.
        let mut name = name;
        loop {
            let new = i.transplant(to.free_index(i.index), &name, to);
            match to.enter_interface(&new) {
                Ok(()) => {
                    for v in new.vlans() {
                        v.parent_moved(&new, to);
                    }
                    return Ok(new);
                }
                Err(_) if to.interface_named(&name).is_some() => name = to.free_name("dev%d"),
                Err(_) => {}
            }
        }
    }

    /// The number by which this namespace knows `other`, if it has one.
    pub fn known_as(&self, other: &Arc<Stack>) -> Option<i32> {
        let t = self.peers.lock();
        t.iter().find(|(_, s)| std::ptr::eq(s.as_ptr(), Arc::as_ptr(other))).map(|(n, _)| *n)
    }

    /// The same; one without a number gets the first that is free.
    pub fn number_of(&self, other: &Arc<Stack>) -> i32 {
        if let Some(n) = self.known_as(other) {
            return n;
        }
        let mut t = self.peers.lock();
        t.retain(|_, s| s.strong_count() > 0);
        let n = (0..i32::MAX).find(|n| !t.contains_key(n)).unwrap_or(i32::MAX);
        t.insert(n, Arc::downgrade(other));
        n
    }

    /// Gives `other` the number: `EEXIST` when it has one, `ENOSPC` when another one has this number.
    pub fn set_number(&self, other: &Arc<Stack>, n: i32) -> Result<()> {
        if self.known_as(other).is_some() {
            return Err(EEXIST);
        }
        if n < 0 {
            self.number_of(other);
            return Ok(());
        }
        let mut t = self.peers.lock();
        t.retain(|_, s| s.strong_count() > 0);
        if t.contains_key(&n) {
            return Err(ENOSPC);
        }
        t.insert(n, Arc::downgrade(other));
        Ok(())
    }

    /// The namespace ends: virtual interfaces go, those with something of the host behind them move to `home`.
    pub fn end(self: &Arc<Stack>, home: Option<Arc<Stack>>) {
        for i in self.interfaces() {
            match &home {
                Some(h) if !i.is_loopback() && i.device.kind().is_empty() => {
                    let name = i.name();
                    let free = h.interface_named(&name).is_none();
                    let _ = self.move_interface(&i, h, Some(if free { &name } else { "dev%d" }));
                }
                _ => self.remove_interface(&i),
            }
        }
    }
}

/// An interface with its namespace, as devices remember them.
#[derive(Clone, Default)]
pub(crate) struct Place(Option<(Weak<Interface>, Weak<Stack>)>);

impl Place {
    /// The interface in its namespace.
    pub fn new(i: &Arc<Interface>, s: &Arc<Stack>) -> Place {
        Place(Some((Arc::downgrade(i), Arc::downgrade(s))))
    }

    /// Both, while they live.
    pub fn get(&self) -> Option<(Arc<Interface>, Arc<Stack>)> {
        let (i, s) = self.0.as_ref()?;
        Some((i.upgrade()?, s.upgrade()?))
    }
}
