//! Tests of the whole program and of the fences around its parts.

mod architecture;
mod basics;
