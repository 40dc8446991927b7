//! The order of the stages, enforced: a stage uses what stands before it and what stands around the line, nothing later.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The line, first stage first (src/lib.rs).
const LINE: [&str; 10] = ["profile", "lock", "fetch", "rootfs", "system", "carrier", "release", "site", "seed", "lab"];
/// What may use every stage.
const ABOVE: [&str; 4] = ["build", "cli", "commands", "main"];
/// Uses of a stage's result type from around the line, each with its reason.
const EXCEPTIONS: [(&str, &str); 1] = [("tools", "lock")]; // the tools tree is locked in the lock's own format

#[test]
fn no_stage_uses_a_later_one() {
    let mut wrong = Vec::new();
    for (module, file, used) in uses() {
        if ABOVE.contains(&module.as_str()) || EXCEPTIONS.contains(&(module.as_str(), used.as_str())) {
            continue;
        }
        let place = |name: &str| LINE.iter().position(|stage| *stage == name);
        let is_wrong = match (place(&module), place(&used)) {
            (Some(mine), Some(theirs)) => theirs > mine,
            // What stands around the line knows no stage.
            (None, Some(_)) => true,
            (_, None) => ABOVE.contains(&used.as_str()),
        };
        if is_wrong {
            wrong.push(format!("{} (in `{module}`) uses `{used}`", file.display()));
        }
    }
    assert!(wrong.is_empty(), "against the order {}:\n{}", LINE.join(" → "), wrong.join("\n"));
}

#[test]
fn the_node_knows_nothing_of_the_builder() {
    let allowed =
        ["node", "autoinstall", "cidata", "grubenv", "medium", "region", "seal", "verdict", "digest", "error", "fs"];
    let wrong: Vec<String> = uses()
        .into_iter()
        .filter(|(module, _, used)| module == "node" && !allowed.contains(&used.as_str()))
        .map(|(_, file, used)| format!("{} uses `{used}`", file.display()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_whole_line_is_there() {
    for stage in LINE {
        assert!(Path::new("src").join(stage).is_dir(), "the stage `{stage}` has no folder");
    }
}

#[test]
fn files_stay_readable() {
    let long: Vec<String> = sources()
        .into_iter()
        .map(|file| (std::fs::read_to_string(&file).unwrap().lines().count(), file))
        .filter(|(lines, _)| *lines > 450)
        .map(|(lines, file)| format!("{} has {lines} lines", file.display()))
        .collect();
    assert!(long.is_empty(), "more than 450 lines are two rooms:\n{}", long.join("\n"));
}

/// (module, file, used module) of every `crate::<module>` in `src/`.
fn uses() -> BTreeSet<(String, PathBuf, String)> {
    let mut uses = BTreeSet::new();
    for file in sources() {
        let module = file.strip_prefix("src").unwrap().components().next().unwrap();
        let module = module.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        if ["lib", "bin"].contains(&module.as_str()) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for part in code.split("crate::").skip(1) {
            let names: Vec<&str> = match part.strip_prefix('{') {
                Some(group) => group.split('}').next().unwrap().split(',').collect(),
                None => vec![part],
            };
            for name in names {
                let name: String = name.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if !name.is_empty() && name != module {
                    uses.insert((module.clone(), file.clone(), name));
                }
            }
        }
    }
    uses
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files
}
