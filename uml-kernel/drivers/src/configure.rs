//! The drivers' families of devices for the management console.

use std::sync::Arc;

use uml_core::configure::{Configurable, Outcome, Refusal};
use uml_core::kernel::Kernel;

use crate::console::line::Family;
use crate::console::{ConfigError, Consoles};
use crate::memory::Memory;
use crate::ubd::Ubd;

impl From<ConfigError> for Refusal {
    fn from(e: ConfigError) -> Refusal {
        Refusal { err: e.err, text: e.text }
    }
}

/// Makes memory, disks, consoles and serial lines known to `config` and `remove`.
pub fn register(kernel: &Arc<Kernel>, disks: &Arc<Ubd>, consoles: &Arc<Consoles>) {
    let c = &kernel.configurables;
    c.add(Memory::of(kernel));
    c.add(Arc::new(Disks(disks.clone())));
    for family in [Family::Console, Family::Serial] {
        c.add(Arc::new(Lines { consoles: consoles.clone(), family }));
    }
}

struct Disks(Arc<Ubd>);

impl Configurable for Disks {
    fn prefix(&self) -> &'static str {
        "ubd"
    }

    fn set(&self, text: &str) -> Outcome {
        Ok(self.0.config(text).map(|()| String::new())?)
    }

    fn get(&self, text: &str) -> Option<Outcome> {
        Some(self.0.query(text).map_err(Into::into))
    }

    fn remove(&self, text: &str) -> Outcome {
        Ok(self.0.remove(text).map(|()| String::new())?)
    }
}

struct Lines {
    consoles: Arc<Consoles>,
    family: Family,
}

impl Configurable for Lines {
    fn prefix(&self) -> &'static str {
        match self.family {
            Family::Console => "con",
            Family::Serial => "ssl",
        }
    }

    fn set(&self, text: &str) -> Outcome {
        Ok(self.consoles.config(self.family, text)?)
    }

    fn get(&self, text: &str) -> Option<Outcome> {
        Some(self.consoles.query(self.family, text).map_err(Into::into))
    }

    fn remove(&self, text: &str) -> Outcome {
        Ok(self.consoles.remove(self.family, text).map(|()| String::new())?)
    }
}
