//! Files of namespaces (namespaces(7)), and the filesystems that end with them.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{kernel, tmpfs};
use uml_core::ns::{Namespace, UserNs};

/// The order of locks is checked: a mount namespace that ends takes some.
#[test]
fn looking_for_a_namespace_ends_no_other() {
    let k = kernel();
    let looking = AtomicBool::new(true);
    std::thread::scope(|s| {
        s.spawn(|| {
            while looking.load(Ordering::Relaxed) {
                drop(k.nsfs().path(&k, &Namespace::User(UserNs::initial())));
            }
        });
        for _ in 0..5000 {
            let (_, fs) = k.vfs.first_namespace(tmpfs(&k), b"root", libc::MS_RELATIME);
            let file = k.nsfs().path(&k, &Namespace::Mnt(fs.mounts()));
            drop(fs);
            // All that is left of it.
            drop(file);
        }
        looking.store(false, Ordering::Relaxed);
    });
}
