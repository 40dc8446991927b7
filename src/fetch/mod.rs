//! tmp
use anyhow::Result;

use crate::context::Context;
use crate::lock::Lock;
use crate::profile::Profile;

/// tmp
pub fn fetch(_ctx: &Context, _p: &Profile, _l: &Lock, _layers: &[&str]) -> Result<()> {
    Ok(())
}
/// tmp
pub fn fetch_files(_ctx: &Context, _p: &Profile) -> Result<()> {
    Ok(())
}
