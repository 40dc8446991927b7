//! grubenv.
