//! One file a verb.

pub mod boot;
pub mod build;
pub mod check;
pub mod diff;
pub mod doctor;
pub mod fetch;
pub mod lab;
pub mod lock;
pub mod schema;
pub mod show;
pub mod site;
pub mod store;
pub mod why;
