//! Tests of labwright-disk with real disks, QEMU and the kernel.

#![expect(clippy::unwrap_used, reason = "a test helper may panic as a test may")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod chain;
mod chain_reader;
mod corpus;
mod foreign;
mod kinds;
mod lvm;
mod support;
mod writer;
