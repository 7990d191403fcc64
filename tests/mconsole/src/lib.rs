//! System tests of an instance's outside faces: the management console, consoles and serial lines, the instance directory.
//!
//! [`machine`] starts kernels (ours, and the stock ones where they are) whose root is the host's, [`request`] speaks the console's
//! protocol datagram by datagram, [`wrong`] makes datagrams that no client sends, [`tmux`] is a person at a terminal. The tests are modules named after what they try: [`pairs`]
//! (our and the stock client with our and the stock kernels), [`hostile`], [`names`], [`homes`], [`restored`], [`watchdog`], [`helpers`], [`pause`], [`keys`], [`watch`], [`flow`],
//! [`sessions`].
//!
//! Neighbours: `storage-tests` counts and finds programs. Does not belong here: unit tests of crates.
#![forbid(unsafe_code)]

pub mod flow;
pub mod helpers;
pub mod homes;
pub mod hostile;
pub mod keys;
pub mod machine;
pub mod names;
pub mod pairs;
pub mod pause;
pub mod request;
pub mod restored;
pub mod sessions;
pub mod tmux;
pub mod watch;
pub mod watchdog;
pub mod wrong;
