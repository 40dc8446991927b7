//! Which file each setting of a role came from: the same merge as that of the values, over the written tables, so that a
//! table which the format gains later is traced without a word here. A test holds the two merges together.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::set::Written;

/// A setting, or a table of settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Traced {
    /// One value, as TOML, and the file that gives it.
    Value(toml::Value, String),
    /// A list: every item has its own file.
    List(Vec<Traced>),
    /// A table.
    Table(BTreeMap<String, Traced>),
}

/// Merges a chain, the root first.
pub(super) fn trace(chain: &[&Written]) -> Result<Traced> {
    let mut merged = Traced::Table(BTreeMap::new());
    for written in chain {
        let mut table = toml::Table::try_from(&written.file).context("writing a profile out")?;
        // What it extends is merged in: the result extends nothing.
        table.remove("extends");
        merged.lay(Traced::new(table.into(), &written.source.path));
    }
    Ok(merged)
}

impl Traced {
    fn new(value: toml::Value, path: &str) -> Self {
        match value {
            toml::Value::Array(items) => Self::List(items.into_iter().map(|item| Self::new(item, path)).collect()),
            toml::Value::Table(table) => {
                Self::Table(table.into_iter().map(|(key, value)| (key, Self::new(value, path))).collect())
            }
            value => Self::Value(value, path.to_owned()),
        }
    }

    fn lay(&mut self, over: Self) {
        match (self, over) {
            (Self::List(list), Self::List(more)) => list.extend(more),
            (Self::Table(table), Self::Table(more)) => {
                for (key, new) in more {
                    match table.get_mut(&key) {
                        Some(old) => old.lay(new),
                        None => drop(table.insert(key, new)),
                    }
                }
            }
            (this, over) => *this = over,
        }
    }
}
