//! Whom a domain lets its tasks reach: only those who are at least as restricted, where a layer is scoped, and for
//! ptrace(2) always.

use std::sync::Arc;

use super::Domain;
use crate::task::Cred;

/// LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET.
pub const ABSTRACT_UNIX_SOCKET: u32 = 1 << 0;
/// LANDLOCK_SCOPE_SIGNAL.
pub const SIGNAL: u32 = 1 << 1;
/// All of them.
pub const ALL: u32 = 3;

/// Somebody with the domain `from` reaches for somebody with the domain `to`: a layer of `from` with the scope `what` that
/// does not enclose `to` keeps them apart.
pub fn forbids(from: Option<&Arc<Domain>>, to: Option<&Arc<Domain>>, what: u32) -> bool {
    let Some(d) = from.filter(|d| d.any.scoped & what != 0) else { return false };
    let theirs = to.map_or(&[][..], |t| &t.layers);
    d.layers.iter().enumerate().any(|(n, l)| {
        l.handled.scoped & what != 0 && !theirs.get(n).is_some_and(|t| Arc::ptr_eq(t, l))
    })
}

/// Somebody with the credentials `tracer` may trace `tracee`: only who has all of its restrictions (ptrace(2) and everything
/// that asks for the same access).
pub fn may_trace(tracer: &Cred, tracee: &Cred) -> bool {
    let Some(d) = &tracer.landlock else { return true };
    let theirs = tracee.landlock.as_ref().map_or(&[][..], |t| &t.layers);
    let last = d.layers.len() - 1;
    theirs.get(last).is_some_and(|l| Arc::ptr_eq(l, &d.layers[last]))
}

#[cfg(test)]
mod tests {
    use super::super::{Handled, Ruleset};
    use super::*;

    fn enter(of: Option<&Arc<Domain>>, scoped: u32) -> Arc<Domain> {
        let handled = Handled { scoped, net: 1, ..Handled::default() };
        Domain::enter(of, &Ruleset::new(handled).unwrap()).unwrap()
    }

    #[test]
    fn scopes_enclose_what_is_below() {
        let outer = enter(None, 0);
        let mid = enter(Some(&outer), SIGNAL);
        let inner = enter(Some(&mid), 0);
        let beside = enter(Some(&outer), SIGNAL);
        let f = |a: Option<&Arc<Domain>>, b: Option<&Arc<Domain>>| forbids(a, b, SIGNAL);
        assert!(!f(None, Some(&inner)));
        assert!(!f(Some(&outer), None));
        assert!(f(Some(&mid), None));
        assert!(f(Some(&mid), Some(&outer)));
        assert!(!f(Some(&mid), Some(&mid)));
        assert!(!f(Some(&mid), Some(&inner)));
        assert!(!f(Some(&inner), Some(&mid)));
        assert!(f(Some(&inner), Some(&outer)));
        assert!(f(Some(&mid), Some(&beside)));
        assert!(!forbids(Some(&mid), None, ABSTRACT_UNIX_SOCKET));
    }

    #[test]
    fn tracers_are_no_more_restricted() {
        let with = |d: Option<&Arc<Domain>>| Cred { landlock: d.cloned(), ..Cred::root() };
        let outer = enter(None, 0);
        let inner = enter(Some(&outer), 0);
        let beside = enter(None, 0);
        assert!(may_trace(&with(None), &with(Some(&inner))));
        assert!(may_trace(&with(Some(&outer)), &with(Some(&inner))));
        assert!(may_trace(&with(Some(&inner)), &with(Some(&inner))));
        assert!(!may_trace(&with(Some(&inner)), &with(Some(&outer))));
        assert!(!may_trace(&with(Some(&beside)), &with(Some(&outer))));
        assert!(!may_trace(&with(Some(&outer)), &with(None)));
    }
}
