//! carrier.
