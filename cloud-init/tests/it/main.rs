//! One test program, so that its parts share their support.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod front_door;
mod goldens;
mod seed;
mod support;
