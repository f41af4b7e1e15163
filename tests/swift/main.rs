//! What goes wrong with a Swift, a Keystone and the way to them, seen through the real
//! mount; and how few requests are sent while nothing does.

#[path = "../common/mod.rs"]
mod common;

mod case;
mod faults;
mod login;
mod quotas;
mod requests;
mod rows;
mod tokens;
