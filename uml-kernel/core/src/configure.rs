//! Devices that can be configured while the machine runs: what the management console's `config` and `remove`
//! find (mconsole(7)).
//!
//! A driver registers its prefix (`ubd`, `con`) at boot; texts after the prefix are the driver's to
//! understand. Replies are part of an interface that scripts parse, so a refusal carries its code and
//! its text.

use std::fmt;
use std::sync::Arc;

use uml_base::{Mutex, Rank};

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 1, or a negative errno.
    pub err: i32,
    pub text: String,
}

impl Refusal {
    /// A refusal with the general code.
    pub fn general(text: impl Into<String>) -> Refusal {
        Refusal { err: 1, text: text.into() }
    }

    /// A refusal with an errno (positive, as in errno(3)).
    pub fn errno(errno: i32, text: impl Into<String>) -> Refusal {
        Refusal { err: -errno, text: text.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Outcome of a request: the reply's text.
pub type Outcome = Result<String, Refusal>;

/// A family of devices. Texts are what follows the prefix. Calls come from the management console's thread,
/// with no lock held; they may wait for the host, but not for the guest.
pub trait Configurable: Send + Sync {
    /// What requests start with (`ubd`).
    fn prefix(&self) -> &'static str;

    /// `config ubd0=file`: the text contains a `=`.
    fn set(&self, text: &str) -> Outcome;

    /// `config ubd0`: the present configuration. `None` when this family tells none.
    fn get(&self, text: &str) -> Option<Outcome>;

    /// `remove ubd0`.
    fn remove(&self, text: &str) -> Outcome;
}

/// The families of a machine.
pub struct Configurables(Mutex<Vec<Arc<dyn Configurable>>>);

impl Default for Configurables {
    fn default() -> Self {
        Configurables(Mutex::new(Rank::LEAF, Vec::new()))
    }
}

impl Configurables {
    /// Adds a family.
    pub fn add(&self, family: Arc<dyn Configurable>) {
        self.0.lock().push(family);
    }

    /// The family whose prefix `request` starts with (the youngest, as the stock kernel looks them up), and the
    /// rest of the request.
    pub fn find<'a>(&self, request: &'a str) -> Option<(Arc<dyn Configurable>, &'a str)> {
        let families = self.0.lock();
        families
            .iter()
            .rev()
            .find_map(|f| request.strip_prefix(f.prefix()).map(|rest| (f.clone(), rest)))
    }

    /// Prefixes, in order of registration.
    pub fn prefixes(&self) -> Vec<&'static str> {
        self.0.lock().iter().map(|f| f.prefix()).collect()
    }
}
