//! The identity of a running instance: its name (umid) and its directory
//! `<uml_dir>/<umid>` with the files `pid` and `mconsole`.
//!
//! * [`Umid`] – a valid name. [`UmlDir`] – the directory of all instances.
//! * [`UmlDir::claim`] – takes a name for this process; the [`Claim`] removes
//!   its directory again.
//! * [`UmlDir::list`], [`find_socket`] – what clients need.
//!
//! Claiming is atomic among processes that use this library: a new directory
//! is prepared, pid file included, under a temporary name and then renamed
//! while an exclusive lock on `uml_dir` is held, so of several simultaneous
//! starts with one name exactly one wins. The stock kernel's own steps are
//! respected as far as it leaves traces (mkdir first, then a pid file).

mod claim;
mod lookup;
mod name;

pub use claim::{Claim, ClaimError, InUse, claim_or_random};
pub use lookup::{Candidate, Instance, find_socket, read_pid};
pub use name::{NameError, Umid, UmlDir, UmlDirError};

/// Name of the management socket inside an instance's directory.
pub const SOCKET_NAME: &str = "mconsole";
/// Name of the file holding the host pid.
pub const PID_NAME: &str = "pid";
