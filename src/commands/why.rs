//! `castiron why`: who put a path into an image.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::release::manifest::{self, Manifest, Role};
use crate::release::paths::Paths;
use crate::system::{PathEntry, left_out};

/// How many symbolic links the kernel follows before it gives up (path_resolution(7)).
const MOST_LINKS: usize = 40;
/// How many similar paths are offered for one that is not there.
const OFFERED: usize = 3;
/// How similar a path must be to be offered, of 1.
const SIMILAR: f64 = 0.7;

/// Arguments of `castiron why`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  castiron why /usr/bin/openssl
  castiron why /bin/sh --release out/db-20240425 --role db")]
pub struct Why {
    /// A path as the machine has it
    #[arg(value_name = "PATH")]
    path: String,
    /// The release to look into [default: the newest one in `out/`]
    #[arg(long, value_name = "DIR")]
    release: Option<PathBuf>,
    /// Look into the image of this role only
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Why) -> Result<ExitCode> {
    let release = match args.release {
        Some(release) => release,
        None => newest(ctx)?,
    };
    let manifest = Manifest::read(&release)?;
    let roles: Vec<(&String, &Role)> =
        manifest.roles.iter().filter(|(name, _)| args.role.as_ref().is_none_or(|role| role == *name)).collect();
    if roles.is_empty() {
        let known: Vec<String> = manifest.roles.keys().map(|role| format!("`{role}`")).collect();
        let asked = args.role.unwrap_or_default();
        return Err(Failure::new(Kind::Input, format!("`{}` has no role `{asked}`", release.display()))
            .hint(format!("it has {}", known.join(", ")))
            .into());
    }
    let mut found = false;
    let mut resolved = Vec::new();
    for (name, role) in &roles {
        ctx.check_interrupt()?;
        let image = Image { release: &release, name, role };
        let links = image.links()?;
        let path = resolve(&args.path, &links, false)?;
        if let Some(entry) = image.find(&path)? {
            found = true;
            let end = resolve(&args.path, &links, true)?;
            let end = if end == path { None } else { image.find(&end)? };
            answer(ctx, &image, &entry, end.as_ref());
        }
        resolved.push(path);
    }
    if found {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(why) = resolved.iter().find_map(|path| left_out(Path::new(path))) {
        let path = format!("/{}", resolved[0]);
        ctx.ui.data(if ctx.ui.is_json() {
            json!({"path": path, "left-out": why}).to_string()
        } else {
            format!("{path}\n  castiron leaves it out of every image: {why}")
        });
        return Ok(ExitCode::SUCCESS);
    }
    let images: Vec<String> = roles.iter().map(|(name, _)| format!("`{name}`")).collect();
    let failure = Failure::new(
        Kind::Input,
        format!("`{}` is in no image ({}) of `{}`", args.path, images.join(", "), release.display()),
    );
    let nearest = nearest(&release, &roles, &resolved[0])?;
    Err(if nearest.is_empty() { failure } else { failure.hint(format!("near it: {}", nearest.join(", "))) }.into())
}

/// The release in the project's `out/` whose manifest was written last.
fn newest(ctx: &Context) -> Result<PathBuf> {
    let out = ctx.project.join("out");
    let none = || {
        Failure::new(Kind::Input, format!("there is no release in `{}`", ctx.display(&out)))
            .hint("`castiron build` makes one; or name one with `--release DIR`")
    };
    if !out.is_dir() {
        return Err(none().into());
    }
    let mut releases = Vec::new();
    for folder in fs::list(&out)? {
        let hidden = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if let (false, Ok(meta)) = (hidden, std::fs::metadata(folder.join(manifest::FILE))) {
            releases.push((meta.modified().ok(), folder));
        }
    }
    let (_, folder) = releases.into_iter().max().ok_or_else(none)?;
    ctx.ui.note(format!("looking into `{}`", ctx.display(&folder)));
    Ok(folder)
}

/// One image of a release.
struct Image<'a> {
    release: &'a Path,
    name: &'a str,
    role: &'a Role,
}

impl Image<'_> {
    fn paths(&self) -> Result<Paths> {
        Paths::open(self.release, self.role)
    }

    /// Every symbolic link and its target.
    fn links(&self) -> Result<BTreeMap<String, String>> {
        let mut links = BTreeMap::new();
        for entry in self.paths()? {
            let entry = entry?;
            if let ("link", Some(target)) = (entry.kind.as_str(), entry.target) {
                links.insert(entry.path, target);
            }
        }
        Ok(links)
    }

    fn find(&self, path: &str) -> Result<Option<PathEntry>> {
        for entry in self.paths()? {
            let entry = entry?;
            if entry.path == path {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// What put a path there, in words.
    fn cause(&self, entry: &PathEntry) -> String {
        let (kind, name) = entry.origin.split_once(' ').unwrap_or((entry.origin.as_str(), ""));
        let file = entry.path.rsplit('/').next().unwrap_or(&entry.path);
        match kind {
            "package" => {
                let versions: Vec<String> = self
                    .role
                    .packages
                    .iter()
                    .filter(|p| p.name == name)
                    .map(|p| format!(" {} ({})", p.version, p.pocket))
                    .collect();
                let others = if entry.kind == "folder" { ", and others that have the same folder" } else { "" };
                format!("package {name}{}{others}", versions.join(","))
            }
            "overlay" => format!("overlay {name}: `overlays/{name}/{}`", entry.path),
            "firstboot" if entry.kind == "link" => format!("unit {file}: the profile enables it"),
            "firstboot" if entry.kind == "file" => format!("unit {file}: `firstboot/{file}`"),
            "file" => format!("pinned file of the profile: {name}"),
            "castiron-node" => "castiron itself: its program on the machine".to_owned(),
            "castiron" => "castiron itself".to_owned(),
            "installation" => "the packages' own scripts, when they were installed; no package lists it".to_owned(),
            _ => entry.origin.clone(),
        }
    }
}

/// The path that the kernel would come to: links in its parents followed, and in its last part if asked for.
fn resolve(path: &str, links: &BTreeMap<String, String>, whole: bool) -> Result<String> {
    let mut done: Vec<String> = Vec::new();
    let mut ahead: VecDeque<String> = path.split('/').map(str::to_owned).collect();
    let mut followed = 0;
    while let Some(part) = ahead.pop_front() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                done.pop();
                continue;
            }
            _ => done.push(part),
        }
        let last = ahead.iter().all(String::is_empty);
        let Some(target) = links.get(&done.join("/")).filter(|_| whole || !last) else { continue };
        followed += 1;
        if followed > MOST_LINKS {
            return Err(Failure::new(Kind::Input, format!("`{path}` goes round in a circle of links")).into());
        }
        done.pop();
        if target.starts_with('/') {
            done.clear();
        }
        for part in target.split('/').rev() {
            ahead.push_front(part.to_owned());
        }
    }
    Ok(done.join("/"))
}

fn answer(ctx: &Context, image: &Image<'_>, entry: &PathEntry, end: Option<&PathEntry>) {
    if ctx.ui.is_json() {
        let end = end.map(|end| json!({"entry": end, "cause": image.cause(end)}));
        let answer = json!({"role": image.name, "entry": entry, "cause": image.cause(entry), "leads-to": end});
        return ctx.ui.data(answer.to_string());
    }
    ctx.ui.data(format!("/{} in the image of {}", entry.path, image.name));
    ctx.ui.data(format!("  from  {}\n  is    {}", image.cause(entry), description(entry)));
    if let Some(end) = end {
        ctx.ui.data(format!("  leads to /{}, from {}", end.path, image.cause(end)));
    }
}

fn description(entry: &PathEntry) -> String {
    let target = entry.target.as_deref().unwrap_or_default();
    match entry.kind.as_str() {
        "file" => {
            let digest = entry.sha256.map(|digest| format!(", sha256 {digest}")).unwrap_or_default();
            format!("a file, mode {}, {} bytes{digest}", entry.mode, entry.size)
        }
        "link" => format!("a link to `{target}`"),
        "hardlink" => format!("another name of `/{target}`"),
        kind => format!("a {kind}, mode {}", entry.mode),
    }
}

/// The paths that are most like one that is not there; those of the same name in another folder come first.
fn nearest(release: &Path, roles: &[(&String, &Role)], path: &str) -> Result<Vec<String>> {
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let wanted = name(path);
    let mut best: Vec<(f64, String)> = Vec::new();
    for (_, role) in roles {
        for entry in Paths::open(release, role)? {
            let found = entry?.path;
            let same_name = if name(&found) == wanted { 1.0 } else { 0.0 };
            let score = strsim::normalized_damerau_levenshtein(path, &found) + same_name;
            if score < SIMILAR || best.iter().any(|(_, path)| *path == found) {
                continue;
            }
            best.push((score, found));
            best.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            best.truncate(OFFERED);
        }
    }
    Ok(best.into_iter().map(|(_, path)| format!("`/{path}`")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_the_kernel_does() {
        let links = [
            ("bin", "usr/bin"),
            ("usr/bin/awk", "/etc/alternatives/awk"),
            ("etc/alternatives/awk", "/usr/bin/mawk"),
            ("a", "b"),
            ("b", "a"),
        ];
        let links = links.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        let is = |path, whole| resolve(path, &links, whole).expect("has an end");
        assert_eq!(is("/bin/awk", false), "usr/bin/awk");
        assert_eq!(is("/bin/awk", true), "usr/bin/mawk");
        assert_eq!(is("/bin", false), "bin");
        assert_eq!(is("bin/", false), "bin");
        assert_eq!(is("/bin/../lib/./x", false), "usr/lib/x");
        assert_eq!(is("/", false), "");
        assert!(resolve("/a", &links, true).is_err(), "a circle");
    }
}
