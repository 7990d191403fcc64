//! Block devices on image files of the host: raw images and COW pairs (`ubdN=`).
//!
//! Requests run on the thread that makes them, as host I/O the platform knows of
//! (`Kernel::blocking`), so as many are in flight as there are tasks with one.

pub mod disk;
pub mod driver;
pub mod node;
pub mod partition;
mod requests;
pub mod spec;
#[cfg(test)]
mod tests;

pub use disk::{Disk, UbdDevice};
pub use driver::Ubd;
pub use spec::{DiskSpec, UbdOption};
