//! One file a verb.

pub mod boot;
pub mod build;
pub mod check;
pub mod diff;
pub mod doctor;
pub mod fetch;
pub mod lab;
pub mod lock;
pub mod mirror;
pub mod schema;
pub mod secrets;
pub mod seed;
pub mod show;
pub mod site;
mod site_args;
pub mod stamp;
pub mod store;
pub mod tools;
pub mod why;
