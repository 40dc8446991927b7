//! Profiles as their authors meet them: `castiron check`, `show` and `schema`, and every message by its picture.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;
use serde_json::Value as Json;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A project in a temporary folder: the good one, with other profiles laid over it.
struct Project(tempfile::TempDir);

impl Project {
    fn good() -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        copy(&fixtures().join("profile-good"), project.0.path());
        project
    }

    fn profile(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.0.path().join("profiles").join(name), content).unwrap();
        self
    }

    fn castiron(&self, args: &[&str]) -> Output {
        castiron(self.0.path(), args)
    }
}

fn castiron(project: &Path, args: &[&str]) -> Output {
    let store = project.join("store");
    let mut command = Command::new(env!("CARGO_BIN_EXE_castiron"));
    // Whoever runs the tests may have named a lock; these projects have their own.
    command.env_remove("CASTIRON_LOCK");
    command.arg("--project").arg(project).arg("--store").arg(store).args(args).output().unwrap()
}

fn fixtures() -> PathBuf {
    Path::new(ROOT).join("tests/fixtures")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &to) } else { assert!(fs::copy(entry.path(), to).is_ok()) }
    }
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

/// Each folder of `profile-wrong` holds profiles and, in `expected.txt`, what `castiron check` says to them.
#[test]
fn every_message_by_its_picture() {
    let mut cases = 0;
    for case in fs::read_dir(fixtures().join("profile-wrong")).unwrap().map(|entry| entry.unwrap().path()) {
        let mut project = Project::good();
        for file in fs::read_dir(&case).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().unwrap() == "toml" {
                project = project.profile(file.file_name().unwrap().to_str().unwrap(), fs::read(&file).unwrap());
            }
        }
        let output = project.castiron(&["check"]);
        assert_eq!(output.status.code(), Some(2), "{}", case.display());
        assert!(output.stdout.is_empty(), "stdout carries data only");
        assert_golden(&case.join("expected.txt"), &stderr(&output));
        cases += 1;
    }
    assert!(cases > 12);
}

#[test]
fn bytes_that_are_no_text_are_shown_where_they_stand() {
    let project = Project::good().profile("db.toml", b"description = \"a\"\nextends = \"b\xffse\"\n");
    insta::assert_snapshot!(stderr(&project.castiron(&["check"])), @r#"
    error: the profiles have a problem

    not UTF-8: this byte is no text
     --> profiles/db.toml:2:13
      |
    2 | extends = "b�se"
      |             ^
    "#);
}

#[test]
fn right_profiles_are_counted() {
    let output = Project::good().castiron(&["check"]);
    assert_eq!((stderr(&output).as_str(), stdout(&output).as_str()), ("3 profiles are right\n", ""));
}

#[test]
fn without_profiles_there_is_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let output = castiron(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("hint: name the project's folder with `-C`"), "{}", stderr(&output));
}

#[test]
fn show_says_where_each_setting_came_from() {
    let output = Project::good().castiron(&["show", "gpu-worker"]);
    assert_golden(&fixtures().join("profile-good/show-gpu-worker.txt"), &stdout(&output));
}

#[test]
fn what_is_shown_is_a_profile_that_means_the_same() {
    for role in ["worker", "gpu-worker"] {
        let project = Project::good();
        let shown = stdout(&project.castiron(&["show", role]));
        let alone = Project::good();
        for other in ["base", "worker", "gpu-worker"] {
            fs::remove_file(alone.0.path().join(format!("profiles/{other}.toml"))).unwrap();
        }
        let alone = alone.profile(&format!("{role}.toml"), &shown);
        let (mut merged, mut flat) = (load(&project, role), load(&alone, role));
        let packages =
            |p: &castiron::profile::Profile| -> Vec<_> { p.layers.iter().flat_map(|l| l.packages.clone()).collect() };
        assert_eq!(packages(&merged), packages(&flat));
        merged.layers.clear();
        flat.layers.clear();
        assert_eq!(format!("{merged:?}"), format!("{flat:?}"));
    }
}

fn load(project: &Project, role: &str) -> castiron::profile::Profile {
    let ctx = castiron::context::Context::new(
        castiron::ui::Ui::new(false, castiron::ui::Verbosity::Quiet),
        project.0.path().to_owned(),
        project.0.path().join("store"),
    );
    castiron::profile::load(&ctx, role).unwrap()
}

#[test]
fn children_win_and_lists_add_up() {
    let profile = load(&Project::good(), "gpu-worker");
    let layers: Vec<_> = profile.layers.iter().map(|l| (l.name.as_str(), l.packages.join(" "))).collect();
    let own = "pciutils=1:3.10.0-2build1";
    assert_eq!(layers, [("base", "systemd udev".into()), ("worker", "socat".into()), ("gpu-worker", own.to_owned())]);
    assert_eq!(profile.kernel.flavour, "generic");
    assert_eq!(profile.kernel.arguments, ["quiet", "console=ttyS0,115200"]);
    assert_eq!((profile.image.size, profile.image.slot), (8 << 30, 1 << 30));
    assert_eq!(profile.files.iter().map(|f| f.mode).collect::<Vec<_>>(), [0o755, 0o644]);
    assert_eq!(profile.archive.key, "F6ECB3762474EDA9D21B7022871920D1991BC93C");
}

#[test]
fn show_tells_a_program_the_same() {
    let output = stdout(&Project::good().castiron(&["--json", "show", "gpu-worker"]));
    let event: Json = serde_json::from_str(output.lines().next().unwrap()).unwrap();
    let shown: Json = serde_json::from_str(event["line"].as_str().unwrap()).unwrap();
    assert_eq!(shown["chain"], serde_json::json!(["base", "worker", "gpu-worker"]));
    let size = serde_json::json!({ "value": "8G", "file": "profiles/worker.toml" });
    assert_eq!(shown["settings"]["image"]["size"], size);
}

#[test]
fn an_unknown_role_has_a_nearest_one() {
    let output = Project::good().castiron(&["show", "gpu-wroker"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), "error: no role `gpu-wroker`\nhint: the nearest name is `gpu-worker`\n");
    let output = Project::good().castiron(&["show", "base"]);
    assert_eq!(
        stderr(&output),
        "error: `base` is no role, but what roles extend\nhint: the names here are `gpu-worker`, `worker`\n"
    );
}

#[test]
fn every_profile_of_this_project_is_right() {
    let output = castiron(Path::new(ROOT), &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

/// The keys of a schema with their descriptions: `image.size`, `file.url`.
fn keys(schema: &Json, path: &str, keys: &mut Vec<(String, Json)>) {
    for (key, property) in schema["properties"].as_object().unwrap() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        for table in [property, &property["items"]] {
            if table["type"] == "object" {
                self::keys(table, &path, keys);
            }
        }
        keys.push((path, property.clone()));
    }
}

#[test]
fn the_committed_schema_is_the_programs() {
    let schema = stdout(&Project::good().castiron(&["schema"]));
    assert_golden(&Path::new(ROOT).join("profiles/schema.json"), &schema);
    let sets = stdout(&Project::good().castiron(&["schema", "--kubernetes"]));
    assert_golden(&Path::new(ROOT).join("profiles/kubernetes/schema.json"), &sets);
    let schema: Json = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["additionalProperties"], false);
    let mut all = Vec::new();
    keys(&schema, "", &mut all);
    for (key, property) in &all {
        assert!(property["description"].is_string() && property["title"].is_string(), "{key} is explained");
    }
}

#[test]
fn every_key_is_in_the_documentation_and_in_a_profile() {
    let schema = stdout(&Project::good().castiron(&["schema"]));
    let mut all = Vec::new();
    keys(&serde_json::from_str(&schema).unwrap(), "", &mut all);
    let page = fs::read_to_string(Path::new(ROOT).join("docs/profiles.md")).unwrap();
    let mut used = String::new();
    for profile in ["base", "worker", "gpu-worker"] {
        used += &fs::read_to_string(fixtures().join(format!("profile-good/profiles/{profile}.toml"))).unwrap();
    }
    for (key, property) in all {
        let row = format!("| `{key}` | {} |", property["description"].as_str().unwrap());
        assert!(page.contains(&row), "docs/profiles.md lacks this row:\n{row}");
        let name = key.rsplit('.').next().unwrap();
        assert!(used.contains(name), "no fixture uses `{key}`");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever a file holds, the answer is a problem or a profile, never a panic.
    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        answered(&bytes)?;
    }

    #[test]
    fn any_text_is_answered(text in "(?s)[\"'\\[\\]{}=.#\\r\\n a-z0-9é\u{0}\u{feff}\u{1F600}]{0,200}") {
        answered(text.as_bytes())?;
    }

    #[test]
    fn any_change_of_a_good_profile_is_answered(at in any::<prop::sample::Index>(), cut in 0_usize..40, put in "(?s).{0,8}") {
        for profile in ["base", "worker"] {
            let text = fs::read_to_string(fixtures().join(format!("profile-good/profiles/{profile}.toml"))).unwrap();
            let mut letters: Vec<char> = text.chars().collect();
            let start = at.index(letters.len());
            let end = (start + cut).min(letters.len());
            letters.splice(start..end, put.chars());
            answered(letters.into_iter().collect::<String>().as_bytes())?;
        }
    }
}

fn answered(bytes: &[u8]) -> Result<(), TestCaseError> {
    let output = Project::good().profile("db.toml", bytes).castiron(&["check"]);
    prop_assert!(matches!(output.status.code(), Some(0 | 2)), "{}", stderr(&output));
    Ok(())
}
