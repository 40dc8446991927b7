//! A lock as a file: TOML, sorted, one block a package, so that two branches' locks merge.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Lock;
use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::fs;

/// The format that this castiron reads and writes.
pub const SCHEMA: u32 = 1;
/// The lock of all roles, below `profiles/`.
pub const FILE: &str = "castiron.lock";
/// The lock of the tools tree, below `profiles/`.
pub const TOOLS_FILE: &str = "tools.lock";

/// Where a lock lies: below `profiles/`, or for [`FILE`] where the command line says.
pub fn path(ctx: &Context, name: &str) -> PathBuf {
    match &ctx.lock_file {
        Some(file) if name == FILE => file.clone(),
        _ => ctx.profiles().join(name),
    }
}

/// The project's lock.
pub fn load(ctx: &Context) -> Result<Lock> {
    load_from(ctx, FILE)
}

/// One of the project's locks: [`FILE`] or [`TOOLS_FILE`].
pub fn load_from(ctx: &Context, name: &str) -> Result<Lock> {
    let path = path(ctx, name);
    let shown = ctx.display(&path).to_string();
    if !path.exists() {
        let verb = if name == FILE { "castiron lock" } else { "git checkout profiles/tools.lock" };
        return Err(Failure::new(Kind::Input, format!("there is no `{shown}`")).hint(verb).into());
    }
    let text = fs::read_to_string(&path)?;
    let wrong = |what: String| Failure::new(Kind::Input, what).hint("write it anew: `castiron lock`");
    let lock: Lock =
        toml::from_str(&text).map_err(|e| wrong(format!("reading `{shown}`: {}", e.to_string().trim_end())))?;
    if lock.schema != SCHEMA {
        let message = format!("`{shown}` has the format {}, this castiron reads {SCHEMA}", lock.schema);
        return Err(wrong(message).into());
    }
    lock.made().map_err(|e| wrong(format!("reading `{shown}`: {e}")))?;
    Ok(lock)
}

/// Writes a lock; the file changes only where its content does. Returns whether it did.
pub fn save(ctx: &Context, name: &str, lock: &Lock) -> Result<bool> {
    let path = path(ctx, name);
    let text = render(lock, if name == TOOLS_FILE { "castiron lock --tools" } else { "castiron lock" });
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    fs::write_atomic(&path, text).context("writing the lock")?;
    Ok(true)
}

fn render(lock: &Lock, verb: &str) -> String {
    let mut text = format!("# Written by `{verb}`: exactly which bytes. Do not edit.\n");
    // Writing into a String cannot fail.
    let _ = write!(text, "schema = {}\nmade = {}\n\n[request]\n", lock.schema, quoted(&lock.made));
    for (layer, packages) in &lock.request {
        let _ = writeln!(text, "{} = [", key(layer));
        for package in packages {
            let _ = writeln!(text, "  {},", quoted(package));
        }
        text.push_str("]\n");
    }
    let list = |names: &[String]| names.iter().map(|n| quoted(n)).collect::<Vec<_>>().join(", ");
    let archive = &lock.archive;
    let (suites, components) = (list(&archive.suites), list(&archive.components));
    let key = quoted(&archive.key);
    let _ = write!(text, "\n[archive]\nsuites = [{suites}]\ncomponents = [{components}]\nkey = {key}\n");
    if let Some(origin) = &lock.origin {
        let _ = write!(
            text,
            "\n# Not the publishers' bytes.\n[origin]\nname = {}\nabout = {}\n",
            quoted(&origin.name),
            quoted(&origin.about)
        );
    }
    for p in &lock.packages {
        let _ = write!(
            text,
            "\n[[package]]\nname = {}\nversion = {}\narchitecture = {}\npath = {}\nsize = {}\nsha256 = {}\npocket = {}\nlayers = [{}]\n",
            quoted(&p.name),
            quoted(&p.version),
            quoted(&p.architecture),
            quoted(&p.path),
            p.size,
            quoted(&p.sha256.to_string()),
            quoted(&p.pocket),
            list(&p.layers)
        );
    }
    for p in &lock.programs {
        let sha256 = quoted(&p.sha256.to_string());
        let _ = write!(text, "\n[[program]]\nurl = {}\nsize = {}\nsha256 = {sha256}\n", quoted(&p.url), p.size);
    }
    for i in &lock.images {
        let digest = quoted(&i.digest.to_string());
        let reference = quoted(&i.reference);
        let _ = write!(text, "\n[[image]]\nreference = {reference}\ndigest = {digest}\nsize = {}\nblobs = [\n", i.size);
        for blob in &i.blobs {
            let _ = writeln!(text, "  {{ sha256 = {}, size = {} }},", quoted(&blob.sha256.to_string()), blob.size);
        }
        text.push_str("]\n");
    }
    text
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn key(text: &str) -> String {
    let bare = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if bare { text.to_owned() } else { quoted(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;
    use crate::lock::{Asked, Blob, Image, Package, Program};
    use crate::mirror::Origin;
    use std::collections::BTreeMap;

    #[test]
    fn a_lock_is_read_as_it_was_written() {
        let package = Package {
            name: "libc6".into(),
            version: "2.39-0ubuntu8.6".into(),
            architecture: "amd64".into(),
            path: "pool/main/g/glibc/libc6.deb".into(),
            size: 3_263_000,
            sha256: Sha256::of("libc6"),
            pocket: "noble-security".into(),
            layers: vec!["base".into(), "boot".into()],
        };
        let lock = Lock {
            schema: SCHEMA,
            made: "2026-11-24T09:50:53Z".into(),
            request: BTreeMap::from([
                ("base".into(), vec!["libc6=2.39-0ubuntu8.6".into(), "zstd".into()]),
                ("odd \"name".into(), Vec::new()),
            ]),
            archive: Asked { suites: vec!["noble".into()], components: vec!["main".into()], key: "F6EC".into() },
            origin: Some(Origin { name: "a copy \"of\" ours".into(), about: "built from source".into() }),
            packages: vec![package.clone(), Package { name: "libc6-dev".into(), ..package }],
            programs: vec![Program { url: "https://dl.k8s.io/kubelet".into(), size: 7, sha256: Sha256::of("kubelet") }],
            images: vec![Image {
                reference: "registry.k8s.io/pause:3.9".into(),
                digest: Sha256::of("manifest"),
                size: 8,
                blobs: vec![
                    Blob { sha256: Sha256::of("config"), size: 1 },
                    Blob { sha256: Sha256::of("layer"), size: 2 },
                ],
            }],
        };
        let text = render(&lock, "castiron lock");
        assert_eq!(toml::from_str::<Lock>(&text).expect("reads"), lock);
        insta::assert_snapshot!(text);
    }
}
