//! The operator's program. Everything is in the library; this only hands over the arguments.

use std::process::ExitCode;

fn main() -> ExitCode {
    castiron::cli::main()
}
