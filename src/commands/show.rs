//! `castiron show`: a role's resolved profile, and which file each setting came from.
//!
//! The text is a profile itself: read as one, it means the same without extending anything.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::profile::{self, Traced};

/// Arguments of `castiron show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The role: the name of a file of `profiles/` without `.toml`
    #[arg(value_name = "ROLE")]
    role: String,
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Show) -> Result<ExitCode> {
    let (chain, settings) = profile::trace(ctx, &args.role)?;
    if ctx.ui.is_json() {
        ctx.ui.data(json!({ "role": args.role, "chain": chain, "settings": to_json(&settings) }).to_string());
    } else {
        ctx.ui.data(text(&chain, &settings));
    }
    Ok(ExitCode::SUCCESS)
}

fn to_json(traced: &Traced) -> Json {
    match traced {
        Traced::Value(value, file) => json!({ "value": value, "file": file }),
        Traced::List(items) => items.iter().map(to_json).collect(),
        Traced::Table(table) => table.iter().map(|(key, value)| (key.clone(), to_json(value))).collect(),
    }
}

fn text(chain: &[String], settings: &Traced) -> String {
    let mut lines = vec![(format!("# {}", chain.join(" ← ")), None)];
    if let Traced::Table(table) = settings {
        table_lines(table, "", &mut lines);
    }
    let width =
        lines.iter().filter(|(_, file)| file.is_some()).map(|(line, _)| line.chars().count()).max().unwrap_or(0);
    let with_file = |(line, file): &(String, Option<&str>)| match file {
        Some(file) => format!("{line}{}  # {file}", " ".repeat(width - line.chars().count())),
        None => line.clone(),
    };
    lines.iter().map(with_file).collect::<Vec<_>>().join("\n")
}

/// A line, and the file that its value came from.
type Lines<'a> = Vec<(String, Option<&'a str>)>;

/// The lines of a table: values, then lists, then the tables below it, for what follows a `[table]` belongs to it.
fn table_lines<'a>(table: &'a BTreeMap<String, Traced>, path: &str, lines: &mut Lines<'a>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, value) in table {
        if let Traced::Value(value, file) = value {
            lines.push((format!("{key} = {value}"), Some(file)));
        }
    }
    for (key, value) in table {
        match value {
            Traced::List(items) if items.iter().all(|i| matches!(i, Traced::Value(..))) && !items.is_empty() => {
                lines.push((format!("{key} = ["), None));
                for item in items {
                    if let Traced::Value(value, file) = item {
                        lines.push((format!("  {value},"), Some(file)));
                    }
                }
                lines.push(("]".to_owned(), None));
            }
            _ => {}
        }
    }
    for (key, value) in table {
        match value {
            Traced::Table(table) => {
                let start = lines.len();
                table_lines(table, &below(key), lines);
                if lines.len() > start {
                    lines.splice(start..start, [(String::new(), None), (format!("[{}]", below(key)), None)]);
                }
            }
            Traced::List(items) => {
                for item in items {
                    if let Traced::Table(table) = item {
                        lines.extend([(String::new(), None), (format!("[[{}]]", below(key)), None)]);
                        table_lines(table, &below(key), lines);
                    }
                }
            }
            Traced::Value(..) => {}
        }
    }
}
