//! Prints the JSON Schema of a lab: `labwright schema lab`, without the rest of Labwright.

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    writeln!(io::stdout(), "{:#}", labwright_lab::schema())
}
