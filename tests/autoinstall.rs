//! A user's autoinstall file: what castiron does not carry out stops the build, before anything is fetched or made.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::path::Path;
use std::process::Command;

/// Builds a medium with this file, in a store that is empty; its exit code and stderr.
fn build(text: &str, format: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.yaml");
    std::fs::write(&file, text).unwrap();
    std::fs::write(folder.path().join("castiron-node"), "").unwrap();
    let ran = Command::new(env!("CARGO_BIN_EXE_castiron"))
        .current_dir(folder.path())
        .env_remove("CASTIRON_LOCK")
        .args(["build", "db", "--format", format, "--node", "castiron-node", "--autoinstall", "mine.yaml"])
        .arg("--project")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")))
        .arg("--store")
        .arg(folder.path().join("store"))
        .output()
        .unwrap();
    assert!(!folder.path().join("out").exists());
    (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
}

#[test]
fn a_key_that_is_not_carried_out_stops_the_build_with_its_line() {
    let (code, said) = build("version: 1\nsnaps: [{name: lxd}]\nlate-comands: [sync]\n", "iso");
    assert_eq!(code, Some(2), "{said}");
    for part in [
        "the autoinstall file has 2 problems",
        "castiron does not carry out `snaps`",
        "mine.yaml:2:1",
        "what an image holds is said in `profiles/<role>.toml`",
        "unknown key `late-comands`",
        "mine.yaml:3:1",
        "the nearest name is `late-commands`",
    ] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[test]
fn a_file_that_no_medium_would_have_is_refused() {
    let (code, said) = build("version: 1\n", "qcow2");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("`--autoinstall` is for an installer medium") && said.contains("--format iso"), "{said}");
}
