//! `castiron diff`: packages, sizes and files of two releases, side by side.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::release::compare::{self, Change, FileChange, PackageChange, SizeChange};
use crate::release::manifest::Manifest;
use crate::system::PathEntry;

/// Arguments of `castiron diff`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  castiron diff out/db-20240425 out/db-20240501               what the newer one changes
  castiron diff --exit-code out/db-20240425 elsewhere/db-20240425 && echo the same

With `--json` each data event's line is an object whose `kind` is `header`, `package`, `size`, `file` or `end`.")]
pub struct Diff {
    /// The release that was
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The release that is
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Compare only these roles
    #[arg(value_name = "ROLE")]
    roles: Vec<String>,
    /// End with exit code 1 when the releases differ, as `git diff` does
    #[arg(long)]
    exit_code: bool,
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Diff) -> Result<ExitCode> {
    let (old, new) = (Manifest::read(&args.old)?, Manifest::read(&args.new)?);
    let roles = roles(&old, &new, &args)?;
    let say = Say { ctx };
    let mut differ = headers(&say, &args, &old, &new);
    for role in &roles {
        differ |= compare_role(&say, role, (&args.old, &old), (&args.new, &new))?;
    }
    say.object("end", None, json!({"differ": differ}));
    say.line(if differ { "\nthe releases differ" } else { "\nthe releases do not differ" });
    Ok(ExitCode::from(u8::from(args.exit_code && differ)))
}

/// The roles to compare: those asked for, or all of both releases.
fn roles(old: &Manifest, new: &Manifest, args: &Diff) -> Result<Vec<String>> {
    let all: BTreeSet<&String> = old.roles.keys().chain(new.roles.keys()).collect();
    let unknown: Vec<String> = args.roles.iter().filter(|r| !all.contains(r)).map(|r| format!("`{r}`")).collect();
    if !unknown.is_empty() {
        let known: Vec<String> = all.iter().map(|role| format!("`{role}`")).collect();
        return Err(Failure::new(Kind::Input, format!("neither release has the role {}", unknown.join(", ")))
            .hint(format!("they have {}", known.join(", ")))
            .into());
    }
    if args.roles.is_empty() {
        return Ok(all.into_iter().cloned().collect());
    }
    Ok(args.roles.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect())
}

fn headers(say: &Say<'_>, args: &Diff, old: &Manifest, new: &Manifest) -> bool {
    say.line(format!("old  {}\nnew  {}", args.old.display(), args.new.display()));
    let headers = compare::headers(old, new);
    let width = headers.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    for (index, (name, old, new)) in headers.iter().enumerate() {
        let gap = if index == 0 { "\n" } else { "" };
        say.line(format!("{gap}{name:<width$}  {old} → {new}"));
        say.object("header", None, json!({"name": name, "old": old, "new": new}));
    }
    !headers.is_empty()
}

fn compare_role(say: &Say<'_>, role: &str, old: (&Path, &Manifest), new: (&Path, &Manifest)) -> Result<bool> {
    let (before, now) = (old.1.roles.get(role), new.1.roles.get(role));
    let whole = match (before, now) {
        (None, _) => " (only in the new release)",
        (_, None) => " (only in the old release)",
        _ => "",
    };
    say.line(format!("\n{role}{whole}"));
    let facts = compare::facts(before, now);
    packages(say, role, &facts.packages);
    sizes(say, role, &facts.sizes);

    say.line("  files");
    let mut counts = Counts::default();
    compare::files(before.map(|r| (old.0, r)), now.map(|r| (new.0, r)), |change| {
        say.ctx.check_interrupt()?;
        counts.add(change.change);
        say.line(format!("    {}", file_text(&change)));
        say.object("file", Some(role), change);
        Ok(())
    })?;
    say.line(format!("    {}", counts.text("")));
    Ok(facts.differ || counts.any())
}

fn packages(say: &Say<'_>, role: &str, changes: &[PackageChange]) {
    say.line("  packages");
    let mut counts = Counts::default();
    let width = changes.iter().map(|c| c.name.len()).max().unwrap_or(0);
    for change in changes {
        counts.add(change.change);
        let (old, new) = (change.old.join(", "), change.new.join(", "));
        let versions = match change.change {
            Change::Added => new,
            Change::Removed => old,
            Change::Changed => format!("{old} → {new}"),
        };
        let security = if change.security { "  (security)" } else { "" };
        say.line(format!("    {} {:<width$}  {versions}{security}", mark(change.change), change.name));
        say.object("package", Some(role), change);
    }
    let security = changes.iter().filter(|c| c.security).count();
    let security = if security > 0 { format!(" ({security} from security)") } else { String::new() };
    say.line(format!("    {}", counts.text(&security)));
}

fn sizes(say: &Say<'_>, role: &str, sizes: &[SizeChange]) {
    say.line("  sizes");
    let width = sizes.iter().map(|s| s.name.len()).max().unwrap_or(0);
    for size in sizes {
        let text = match (size.old, size.new) {
            (Some(_), Some(new)) if size.same => format!("{}, the same bytes", HumanBytes(new)),
            (Some(old), Some(new)) if old == new => format!("{}, other bytes", HumanBytes(new)),
            (Some(old), Some(new)) => {
                let (sign, by) = if new > old { ("+", new - old) } else { ("-", old - new) };
                format!("{} → {}  {sign}{}", HumanBytes(old), HumanBytes(new), HumanBytes(by))
            }
            (None, Some(new)) => format!("added, {}", HumanBytes(new)),
            (Some(old), None) => format!("removed, {}", HumanBytes(old)),
            (None, None) => continue,
        };
        say.line(format!("    {:<width$}  {text}", size.name));
        say.object("size", Some(role), size);
    }
}

fn file_text(change: &FileChange) -> String {
    let what = match (&change.old, &change.new) {
        (Some(old), Some(new)) => {
            let fields: Vec<String> = change.fields.iter().map(|field| field_text(field, old, new)).collect();
            fields.join(", ")
        }
        (old, new) => match old.as_ref().or(new.as_ref()) {
            Some(entry) if entry.kind == "file" => format!("{}, {}", HumanBytes(entry.size), entry.origin),
            Some(entry) => format!("{}, {}", entry.kind, entry.origin),
            None => String::new(),
        },
    };
    format!("{} {}  {what}", mark(change.change), change.path)
}

fn field_text(field: &str, old: &PathEntry, new: &PathEntry) -> String {
    let target = |e: &PathEntry| e.target.clone().unwrap_or_else(|| "none".to_owned());
    match field {
        "kind" => format!("kind {} → {}", old.kind, new.kind),
        "mode" => format!("mode {} → {}", old.mode, new.mode),
        "size" => format!("size {} → {}", old.size, new.size),
        "target" => format!("target {} → {}", target(old), target(new)),
        "origin" => format!("origin {} → {}", old.origin, new.origin),
        other => other.to_owned(),
    }
}

fn mark(change: Change) -> char {
    match change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Changed => '~',
    }
}

#[derive(Default)]
struct Counts {
    added: u64,
    removed: u64,
    changed: u64,
}

impl Counts {
    fn add(&mut self, change: Change) {
        match change {
            Change::Added => self.added += 1,
            Change::Removed => self.removed += 1,
            Change::Changed => self.changed += 1,
        }
    }

    fn any(&self) -> bool {
        self.added + self.removed + self.changed > 0
    }

    fn text(&self, more: &str) -> String {
        if !self.any() {
            return "no difference".to_owned();
        }
        format!("{} added, {} removed, {} changed{more}", self.added, self.removed, self.changed)
    }
}

/// Lines for people, or objects for programs; each caller says both, and one of them is heard.
struct Say<'a> {
    ctx: &'a Context,
}

impl Say<'_> {
    fn line(&self, line: impl AsRef<str>) {
        if !self.ctx.ui.is_json() {
            self.ctx.ui.data(line);
        }
    }

    fn object(&self, kind: &str, role: Option<&str>, fields: impl Serialize) {
        if !self.ctx.ui.is_json() {
            return;
        }
        let mut object = json!({"kind": kind});
        if let (Some(object), Ok(Value::Object(fields))) = (object.as_object_mut(), serde_json::to_value(fields)) {
            object.extend(role.map(|role| ("role".to_owned(), json!(role))));
            object.extend(fields);
        }
        self.ctx.ui.data(object.to_string());
    }
}
