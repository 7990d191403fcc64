//! Tests of the `uml_switch` program with clients that speak its protocol.

mod common;
mod more;
mod protocol;
