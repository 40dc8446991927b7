//! The program of the machine.

fn main() {}
