//! Sites as their authors meet them: `castiron site`, every message by its picture, and what netplan and Ansible get.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use castiron::site::{self, NodeKind, Roles};
use proptest::prelude::*;
use serde_json::Value as Json;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn fixtures() -> PathBuf {
    Path::new(ROOT).join("tests/fixtures")
}

/// The program in a folder, with this project's profiles.
fn castiron(folder: &Path, args: &[&str]) -> Output {
    let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join("site-store");
    let mut command = Command::new(env!("CARGO_BIN_EXE_castiron"));
    command.current_dir(folder).env_remove("CASTIRON_LOCK").arg("--project").arg(ROOT).arg("--store").arg(store);
    command.args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Compares with a file that holds what is right; `CASTIRON_GOLDEN=write` writes it anew, for `git diff` to judge.
fn assert_golden(file: &Path, found: &str) {
    if std::env::var_os("CASTIRON_GOLDEN").is_some_and(|v| v == "write") {
        fs::write(file, found).unwrap();
    }
    let expected = fs::read_to_string(file).unwrap_or_default();
    assert!(found == expected, "{} differs; found:\n{found}", file.display());
}

fn roles() -> Roles {
    let chain = |role: &str, chain: &[&str]| (role.to_owned(), chain.iter().map(|&p| p.to_owned()).collect());
    [
        chain("control-plane", &["base", "control-plane"]),
        chain("worker", &["base", "worker"]),
        chain("gpu-worker", &["base", "worker", "gpu-worker"]),
        chain("db", &["base", "db"]),
        chain("mysql", &["base", "db", "mysql"]),
    ]
    .into()
}

/// Each folder of `site-wrong` holds a site and, in `expected.txt`, what `castiron site check` says to it.
#[test]
fn every_message_by_its_picture() {
    let mut cases = 0;
    for case in fs::read_dir(fixtures().join("site-wrong")).unwrap().map(|entry| entry.unwrap().path()) {
        let output = castiron(&case, &["site", "check"]);
        assert_eq!(output.status.code(), Some(2), "{}: {}", case.display(), stderr(&output));
        assert!(output.stdout.is_empty(), "stdout carries data only");
        assert_golden(&case.join("expected.txt"), &stderr(&output));
        cases += 1;
    }
    assert!(cases > 15);
}

#[test]
fn weak_choices_are_warned_of_and_pass() {
    let folder = fixtures().join("site-weak");
    let output = castiron(&folder, &["site", "check"]);
    assert_eq!(output.status.code(), Some(0));
    assert_golden(&folder.join("expected.txt"), &stderr(&output));
}

#[test]
fn a_right_site_is_passed_without_a_word_more() {
    let output = castiron(&fixtures().join("site-good"), &["site", "check"]);
    let expected = "`site.toml` is right: 8 nodes\n";
    // The network for documents is there on purpose.
    assert!(stderr(&output).ends_with(expected), "{}", stderr(&output));
    assert_eq!(stderr(&output).matches("warning: ").count(), 2, "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
}

#[test]
fn netplan_gets_what_the_site_means() {
    let folder = fixtures().join("site-good");
    for node in ["static", "named", "kept", "lease", "tagged", "six", "bond", "two"] {
        let yaml = stdout(&castiron(&folder, &["site", "show", "--netplan", node]));
        assert_golden(&folder.join(format!("netplan-{node}.yaml")), &yaml);
    }
}

#[test]
fn show_and_inventory() {
    let folder = fixtures().join("site-good");
    assert_golden(&folder.join("show.txt"), &stdout(&castiron(&folder, &["site", "show"])));
    assert_golden(&folder.join("inventory.yaml"), &stdout(&castiron(&folder, &["site", "inventory"])));
    let event: Json =
        serde_json::from_str(&stdout(&castiron(&folder, &["--json", "site", "show"]))).expect("one event");
    let shown: Json = serde_json::from_str(event["line"].as_str().unwrap()).unwrap();
    assert_golden(&folder.join("show.json"), &format!("{}\n", serde_json::to_string_pretty(&shown).unwrap()));
}

#[test]
fn a_new_site_is_right_and_says_what_to_fill_in() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(stdout(&castiron(folder.path(), &["site", "new"])), "site.toml\n");
    let output = castiron(folder.path(), &["site", "check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stderr(&output);
    for warning in ["nobody could ever log in", "10 machines that are examples", "the network `nodes` is an example"] {
        assert!(said.contains(warning), "{said}");
    }
    let (site, _) = site::read("site.toml", site::STARTER.as_bytes(), &roles()).unwrap();
    let count = |role: &str| site.nodes.iter().filter(|n| n.role == role).count();
    assert_eq!(["control-plane", "worker", "gpu-worker", "db"].map(count), [3, 3, 1, 3]);

    let again = castiron(folder.path(), &["site", "new"]);
    assert_eq!(again.status.code(), Some(2));
    assert_eq!(stderr(&again), "error: `site.toml` is there already\nhint: name another file with `--output`\n");
}

#[test]
fn a_new_site_with_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPU0GN3ZlvP3nTEeVLT4dX6P9yHvmSRjkZ4UQZSXt7G4 \"me\"@example.com";
    fs::write(folder.path().join("id.pub"), format!("{key}\n")).unwrap();
    fs::write(folder.path().join("id"), "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
    stdout(&castiron(folder.path(), &["site", "new", "--ssh-key", "id.pub"]));
    let text = fs::read(folder.path().join("site.toml")).unwrap();
    let (site, warnings) = site::read("site.toml", &text, &roles()).unwrap();
    assert_eq!(site.authorized_keys, [key]);
    assert!(!warnings.iter().any(|w| w.contains("log in")), "{warnings:?}");

    let wrong = castiron(folder.path(), &["site", "new", "--output", "b.toml", "--ssh-key", "id"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("hint: this is a private key"), "{}", stderr(&wrong));
    assert!(!folder.path().join("b.toml").exists());
}

#[test]
fn without_a_site_file_there_is_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let output = castiron(folder.path(), &["site", "show"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), "error: no site file `site.toml`\nhint: begin one with `castiron site new`\n");
}

#[test]
fn an_unknown_node_has_a_nearest_one() {
    let output = castiron(&fixtures().join("site-good"), &["site", "show", "--netplan", "statik"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), "error: no node `statik`\nhint: the nearest name is `static`\n");
}

#[test]
fn bytes_that_are_no_text_are_shown_where_they_stand() {
    let error = site::read("site.toml", b"[cluster]\nname = \"\xff\"\n", &roles()).unwrap_err();
    assert!(error.to_string().contains("not UTF-8: this byte is no text\n --> site.toml:2:9"), "{error}");
}

#[test]
fn a_role_that_extends_another_is_of_its_kind() {
    let text = site::STARTER.replace("role = \"db\"", "role = \"mysql\"");
    let (site, _) = site::read("site.toml", text.as_bytes(), &roles()).unwrap();
    assert!(site.nodes.iter().filter(|n| n.role == "mysql").all(|n| n.kind == NodeKind::Db));
    assert_eq!(site.nodes.iter().filter(|n| n.kind == NodeKind::Worker).count(), 4);
}

/// The keys of a schema with what they are: `cluster.vip`, `services.<name>.enabled`.
fn keys(schema: &Json, path: &str, all: &mut Vec<(String, Json)>) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        keys(property, &path, all);
        keys(&property["items"], &path, all);
        keys(&property["additionalProperties"], &format!("{path}.<name>"), all);
        all.push((path, property.clone()));
    }
}

fn schema() -> Json {
    serde_json::to_value(site::schema()).unwrap()
}

#[test]
fn the_committed_schema_is_the_programs() {
    let printed = stdout(&castiron(Path::new(ROOT), &["site", "schema"]));
    assert_golden(&Path::new(ROOT).join("docs/site.schema.json"), &printed);
    let schema: Json = serde_json::from_str(&printed).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let mut all = Vec::new();
    keys(&schema, "", &mut all);
    for (key, property) in &all {
        assert!(property["description"].is_string() && property["title"].is_string(), "{key} is explained");
        let free = key.ends_with(".values") || property["additionalProperties"].is_object();
        assert!(property["type"] != "object" || free || property["additionalProperties"] == false, "{key} is closed");
    }
}

#[test]
fn every_key_is_in_the_documentation_and_in_a_site() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/site.md")).unwrap();
    let used = fs::read_to_string(fixtures().join("site-good/site.toml")).unwrap();
    let mut all = Vec::new();
    keys(&schema(), "", &mut all);
    let mut missing = BTreeSet::new();
    for (key, property) in &all {
        let name = key.rsplit('.').next().unwrap();
        // What netplan explains itself is listed by name.
        let row = match key.strip_prefix("nodes.network.") {
            Some(_) => format!("`{name}`"),
            None => format!("| `{name}` | {} |", property["description"].as_str().unwrap().replace('\n', " ")),
        };
        if !page.contains(&row) {
            missing.insert(row);
        }
        if !key.starts_with("nodes.network.") && !property["properties"].is_object() {
            assert!(used.contains(name), "no fixture uses `{key}`");
        }
    }
    assert!(missing.is_empty(), "docs/site.md lacks these:\n{}", Vec::from_iter(missing).join("\n"));
}

#[test]
fn the_example_of_the_documentation_is_right() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/site.md")).unwrap();
    let blocks = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let whole: Vec<&str> = blocks.filter(|block| block.contains("[cluster]")).collect();
    assert!(!whole.is_empty());
    for block in whole {
        site::read("docs/site.md", block.as_bytes(), &roles()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever a file holds, the answer is a site or problems, never a panic.
    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = site::read("site.toml", &bytes, &roles());
    }

    #[test]
    fn any_text_is_answered(text in "(?s)[\"'\\[\\]{}=.#\\r\\n a-z0-9é\u{0}\u{feff}\u{1F600}]{0,300}") {
        let _ = site::read("site.toml", text.as_bytes(), &roles());
    }

    /// Of good sites: letters cut out and put in.
    #[test]
    fn any_change_of_a_good_site_is_answered(at in any::<prop::sample::Index>(), cut in 0_usize..60, put in "(?s).{0,8}") {
        for text in [site::STARTER, include_str!("fixtures/site-good/site.toml")] {
            let mut letters: Vec<char> = text.chars().collect();
            let start = at.index(letters.len());
            let end = (start + cut).min(letters.len());
            letters.splice(start..end, put.chars());
            answered(&letters.into_iter().collect::<String>());
        }
    }

    /// Of good sites: a line's value exchanged with another's, which mostly is TOML still.
    #[test]
    fn values_at_other_keys_are_answered(a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
        for text in [site::STARTER, include_str!("fixtures/site-good/site.toml")] {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let pairs: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains(" = ") && !lines[*i].starts_with('#')).collect();
            let (a, b) = (*a.get(&pairs), *b.get(&pairs));
            let value = lines[b].split_once(" = ").unwrap().1.to_owned();
            let key = lines[a].split_once(" = ").unwrap().0.to_owned();
            lines[a] = format!("{key} = {value}");
            answered(&lines.join("\n"));
        }
    }
}

/// A site that is read can be shown, in each way.
fn answered(text: &str) {
    if let Ok((site, _)) = site::read("site.toml", text.as_bytes(), &roles()) {
        for node in &site.nodes {
            site::netplan::render(node).unwrap();
        }
        site::inventory::render(&site).unwrap();
    }
}
