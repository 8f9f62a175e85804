//! Prints the JSON Schema of a recipe: `labwright schema recipe`, without the rest of Labwright.

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    writeln!(io::stdout(), "{:#}", labwright_recipes::schema())
}
