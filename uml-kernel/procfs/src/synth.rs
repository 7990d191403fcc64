//! The toolkit for trees whose files are made by code: inodes from small ready parts.
//!
//! A filesystem gives its root as a [`Spec`]; every further inode comes from a [`Directory`]'s `lookup`. A
//! [`Node`] is the inode around a part ([`Body`]); it keeps number, mode, owner and times and
//! hands out the same node for the same name while anybody holds it. [`Rows`] is a directory given by a
//! table, [`TextBody`] a file whose text is generated when it is read from the start.
//!
//! Lock order: a node's own locks are leaves; parts are called without any of them.

mod dir;
mod file;
mod node;
mod rows;
mod superblock;
mod text;
mod watched;

pub use dir::{Directory, Entry};
pub use file::{Show, Store, TextBody, TextFile, TextFn, WRITE_MAX, WholeFile};
pub use node::{Access, Body, Link, Node, Regular, Spec};
pub use rows::{Part, Row, Rows};
pub use superblock::{SynthFs, child_ino};
pub use text::{Text, parse_i64, parse_u64, words};
pub use watched::{Seen, WatchedText};
