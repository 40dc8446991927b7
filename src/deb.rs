//! deb.
