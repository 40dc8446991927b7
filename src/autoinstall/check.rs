//! What a user's autoinstall file says, and everything in it that castiron does not carry out.
//!
//! In: the file. Out: [`Autoinstall`], or all its problems at once: what is no YAML, what Ubuntu's schema refuses, then what
//! castiron does not carry out, each at its place and with where to say it instead.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::Value as Json;

use super::keys::{self, Fate};
use super::yaml::{self, Node, Value};
use super::{Autoinstall, Command, Demands, Extreme, Match, Shutdown};
use crate::diagnostic::{self, Diagnostic, Source, literal, suggest};

/// Ubuntu's schema.
pub const SCHEMA: &str = include_str!("noble.schema.json");

/// Reads a file.
pub fn parse(source: &Arc<Source>) -> Result<Autoinstall> {
    let whose = "the autoinstall file has";
    let document = yaml::read(source).map_err(|problem| diagnostic::failure(whose, vec![problem]))?;
    // Since 24.04 the file may be wrapped as in cloud-config: one key, and the rest below it.
    let root = match document.pairs() {
        [(key, below)] if key.name == "autoinstall" => below,
        _ => &document,
    };
    let mut check = Check { source, problems: Vec::new() };
    check.schema(root)?;
    let read = check.file(root);
    if check.problems.is_empty() { Ok(read) } else { Err(diagnostic::failure(whose, check.problems).into()) }
}

struct Check<'a> {
    source: &'a Arc<Source>,
    problems: Vec<Diagnostic>,
}

impl Check<'_> {
    fn report(&mut self, message: impl Into<String>, span: Range<usize>, help: impl Into<Option<String>>) {
        let problem = Diagnostic::new(message, self.source, span).help(help);
        self.problems.push(problem);
    }

    /// What Ubuntu's schema says.
    fn schema(&mut self, root: &Node) -> Result<()> {
        let schema: Json = serde_json::from_str(SCHEMA).context("reading Ubuntu's autoinstall schema")?;
        let validator = jsonschema::draft202012::new(&schema).context("reading Ubuntu's autoinstall schema")?;
        for error in validator.iter_errors(&root.json()) {
            let path = error.instance_path().to_string();
            let place = root.find(path.split('/').skip(1));
            let at =
                if path.is_empty() { "the file".to_owned() } else { format!("`{}`", path.trim_start_matches('/')) };
            let help = "Ubuntu's schema for autoinstall says so; docs/autoinstall.md has the keys".to_owned();
            self.report(format!("{at}: {error}"), place.span.clone(), help);
        }
        Ok(())
    }

    /// The value of each key of a map that is carried out; the others are problems.
    fn known<'n>(&mut self, map: &'n Node, keys: &[(&str, Fate)], of: &str) -> Vec<(&'n str, &'n Node, Range<usize>)> {
        let mut known = Vec::new();
        if !matches!(map.value, Value::Map(_)) {
            self.report(format!("{of} must be a map of keys and values"), map.span.clone(), None);
        }
        for (key, value) in map.pairs() {
            match keys.iter().find(|(name, _)| *name == key.name) {
                Some((_, Fate::Done)) => known.push((key.name.as_str(), value, key.span.clone())),
                Some((_, Fate::Elsewhere(help))) => {
                    let message = format!("castiron does not carry out `{}` of {of}", key.name);
                    self.report(message, key.span.clone(), (*help).to_owned());
                }
                None => {
                    let help = suggest(&key.name, keys.iter().map(|(name, _)| *name));
                    self.report(format!("unknown key {} of {of}", literal(&key.name)), key.span.clone(), help);
                }
            }
        }
        known
    }

    fn file(&mut self, root: &Node) -> Autoinstall {
        let mut read = Autoinstall::default();
        for (key, value, span) in self.known(root, keys::KEYS, "an autoinstall file") {
            match key {
                "early-commands" => read.early_commands = commands(value),
                "late-commands" => read.late_commands = commands(value),
                "error-commands" => read.error_commands = commands(value),
                "interactive-sections" if !value.items().is_empty() => {
                    let help = "nobody types anything: leave it out".to_owned();
                    self.report("castiron asks no questions, and has no interactive sections", span, help);
                }
                "reporting" => self.reporting(value),
                "storage" => read.disks = self.storage(value),
                "identity" => self.identity(value, &mut read.demands),
                "ssh" => self.ssh(value, &mut read.demands),
                "network" => self.network(value),
                "refresh-installer" if value.json()["update"] == true => {
                    let help = "build a new medium instead, and leave this out".to_owned();
                    self.report("castiron's installer does not change itself", span, help);
                }
                "shutdown" => {
                    read.shutdown = match value.text() {
                        Some("reboot") => Some(Shutdown::Reboot),
                        Some("poweroff") => Some(Shutdown::Poweroff),
                        // The schema has told.
                        _ => None,
                    }
                }
                _ => {}
            }
        }
        read
    }

    fn reporting(&mut self, value: &Node) {
        for (name, handler) in value.pairs() {
            let kind = handler.find(["type"].into_iter());
            match kind.text() {
                Some("print") | None => {}
                Some(other) => {
                    let message =
                        format!("castiron does not carry out reporting by {} (`{}`)", literal(other), name.name);
                    let help = "`type: print` is what happens on all consoles; programs read JSON on the virtio-serial port \
                                `io.castiron.events`; the installer uses no network";
                    self.report(message, kind.span.clone(), help.to_owned());
                }
            }
        }
    }

    fn storage(&mut self, value: &Node) -> Vec<Match> {
        let mut disks = Vec::new();
        for (key, value, _) in self.known(value, keys::STORAGE, "`storage`") {
            if key == "layout" {
                for (key, value, span) in self.known(value, keys::LAYOUT, "`storage.layout`") {
                    match (key, value.text()) {
                        ("name", Some("dd")) => {}
                        ("name", _) => {
                            let help = "write `name: dd`".to_owned();
                            let message = "castiron writes the release's disk as it is, and no layout but `dd`";
                            self.report(message, value.span.clone(), help);
                        }
                        _ => disks = self.matches(value, &span),
                    }
                }
                if !value.pairs().iter().any(|(key, _)| key.name == "name") {
                    let help = "write `name: dd`".to_owned();
                    self.report("`storage.layout` lacks `name`", value.span.clone(), help);
                }
            }
        }
        disks
    }

    fn matches(&mut self, value: &Node, span: &Range<usize>) -> Vec<Match> {
        let alternatives: Vec<&Node> = match &value.value {
            Value::List(items) => items.iter().collect(),
            _ => vec![value],
        };
        if alternatives.is_empty() {
            let help = "leave it out where the site alone says which disk".to_owned();
            self.report("`match` has no alternative, so it agrees with no disk", span.clone(), help);
        }
        alternatives.into_iter().map(|one| self.one_match(one)).collect()
    }

    fn one_match(&mut self, value: &Node) -> Match {
        let mut read = Match::default();
        let known = self.known(value, keys::MATCH, "`match`");
        if known.is_empty() {
            let help = "name `serial`, `model`, `path`, `size` …, or leave `match` out".to_owned();
            self.report("a `match` without keys agrees with every disk", value.span.clone(), help);
        }
        for (key, value, _) in known {
            let span = value.span.clone();
            let place = match key {
                "ssd" => {
                    read.ssd = if let Value::Bool(ssd) = value.value { Some(ssd) } else { None };
                    if read.ssd.is_none() {
                        self.report("`ssd` must be true or false", span, None);
                    }
                    continue;
                }
                "size" => {
                    read.size = match value.text() {
                        Some("largest") => Some(Extreme::Largest),
                        Some("smallest") => Some(Extreme::Smallest),
                        _ => None,
                    };
                    if read.size.is_none() {
                        let help =
                            "bytes are said in the node's `disk` of site.toml: `min-size`, `max-size`".to_owned();
                        self.report("`size` must be `largest` or `smallest`", span, help);
                    }
                    continue;
                }
                "install-media" => {
                    if !matches!(value.value, Value::Bool(false)) {
                        let help = "leave it out: the medium is never written".to_owned();
                        self.report("castiron never installs onto the medium that it runs from", span, help);
                    }
                    continue;
                }
                "serial" => &mut read.serial,
                "model" => &mut read.model,
                "vendor" => &mut read.vendor,
                "path" => &mut read.path,
                "id_path" => &mut read.id_path,
                _ => &mut read.devpath,
            };
            // A serial number of digits alone is a number to YAML.
            let text = match &value.value {
                Value::Text(text) => Some(text.clone()),
                Value::Number(number) => {
                    self.source.text.get(span.clone()).map(str::to_owned).or(Some(number.to_string()))
                }
                _ => None,
            };
            match text.as_deref().map(glob::Pattern::new) {
                Some(Ok(_)) => *place = text,
                Some(Err(error)) => self.report(format!("`{key}` is no pattern: {error}"), span, None),
                None => self.report(format!("`{key}` must be a text"), span, None),
            }
        }
        read
    }

    fn identity(&mut self, value: &Node, demands: &mut Demands) {
        for (key, value, _) in self.known(value, keys::IDENTITY, "`identity`") {
            let text = value.text().map(str::to_owned);
            match key {
                "hostname" => demands.hostname = text,
                "username" => demands.username = text,
                _ => demands.password = text,
            }
        }
    }

    fn ssh(&mut self, value: &Node, demands: &mut Demands) {
        for (key, value, span) in self.known(value, keys::SSH, "`ssh`") {
            match (key, &value.value) {
                ("install-server", Value::Bool(false)) => {
                    let help = "leave it out, or write `true`: without a key in site.toml nobody is let in".to_owned();
                    self.report("castiron's machines have an ssh server", span, help);
                }
                ("allow-pw", Value::Bool(true)) => {
                    let help = "leave it out, or write `false`, and give keys".to_owned();
                    self.report("castiron's ssh takes keys alone, no passwords", span, help);
                }
                ("authorized-keys", _) => {
                    let keys = value.items().iter().filter_map(Node::text);
                    demands.authorized_keys = keys.map(|key| key.trim().to_owned()).collect();
                }
                _ => {}
            }
        }
    }

    /// A network without interfaces is what the installer has.
    fn network(&mut self, value: &Node) {
        let inner = match value.pairs() {
            [(key, below)] if key.name == "network" => below,
            _ => value,
        };
        for (key, below) in inner.pairs() {
            if key.name != "version" && !below.pairs().is_empty() {
                let help = "say it in site.toml: `[[networks]]`, or the node's own `network`, in netplan's words too"
                    .to_owned();
                self.report(format!("castiron does not carry out `{}` of `network`", key.name), key.span.clone(), help);
            }
        }
    }
}

fn commands(value: &Node) -> Vec<Command> {
    let one = |item: &Node| match &item.value {
        Value::List(words) => Some(Command::Words(words.iter().filter_map(Node::text).map(str::to_owned).collect())),
        Value::Text(line) => Some(Command::Shell(line.clone())),
        // The schema has told.
        _ => None,
    };
    value.items().iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoinstall::DEFAULT;

    fn source(text: &str) -> Arc<Source> {
        Arc::new(Source { path: "autoinstall.yaml".to_owned(), text: text.to_owned() })
    }

    fn read(text: &str) -> Result<Autoinstall, String> {
        parse(&source(text)).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_castiron_writes_is_valid_and_carried_out() {
        assert_eq!(read(DEFAULT).expect("is right"), Autoinstall::default());
    }

    #[test]
    fn everything_that_is_carried_out_is_read() {
        let text = r#"
autoinstall:
  version: 1
  interactive-sections: []
  early-commands: ["echo early", [echo, "two words"]]
  late-commands: [sync]
  error-commands: [[dmesg]]
  identity: {hostname: db1, username: ubuntu, password: "$y$j9T$x"}
  ssh: {install-server: true, allow-pw: false, authorized-keys: ["ssh-ed25519 AAAA me"]}
  network: {version: 2}
  refresh-installer: {update: false}
  storage:
    layout:
      name: dd
      match: [{serial: "S3*", ssd: true}, {model: 0123, size: largest, install-media: false}]
  reporting: {screen: {type: print}}
  shutdown: reboot
"#;
        let read = read(text).expect("is right");
        assert_eq!(read.early_commands[1], Command::Words(vec!["echo".into(), "two words".into()]));
        assert_eq!((read.late_commands.len(), read.error_commands.len()), (1, 1));
        assert_eq!(read.demands.hostname.as_deref(), Some("db1"));
        assert_eq!(read.demands.authorized_keys, ["ssh-ed25519 AAAA me"]);
        assert_eq!(read.shutdown, Some(Shutdown::Reboot));
        assert_eq!(read.disks[0], Match { serial: Some("S3*".into()), ssd: Some(true), ..Match::default() });
        let second = Match { model: Some("0123".into()), size: Some(Extreme::Largest), ..Match::default() };
        assert_eq!(read.disks[1], second);
        let json = serde_json::to_string(&read).expect("is JSON");
        assert_eq!(serde_json::from_str::<Autoinstall>(&json).expect("reads"), read);
    }

    #[test]
    fn what_is_not_carried_out_is_told_with_its_place() {
        let text = "\
version: 1
latecommands: [sync]
packages: [vim]
storage:
  layout: {name: lvm, match: {seriel: x, size: 20G}}
network:
  version: 2
  ethernets: {eno1: {dhcp4: true}}
ssh: {allow-pw: true}
reporting: {hook: {type: webhook, endpoint: https://example.com}}
shutdown: halt
";
        insta::assert_snapshot!(read(text).expect_err("is refused"));
    }

    #[test]
    fn what_is_no_yaml_and_no_map_is_told() {
        insta::assert_snapshot!(read("version: [1\n").expect_err("is refused"));
        insta::assert_snapshot!(read("- version: 1\n").expect_err("is refused"));
        insta::assert_snapshot!(read("a: 1\na: 2\n").expect_err("is refused"));
    }

    #[test]
    fn every_key_of_ubuntus_schema_has_its_fate_and_its_row() {
        let schema: Json = serde_json::from_str(SCHEMA).expect("is JSON");
        let table = include_str!("../../docs/autoinstall.md");
        let mut known: Vec<&str> = keys::KEYS.iter().map(|(key, _)| *key).collect();
        let mut all: Vec<&String> = schema["properties"].as_object().expect("is a map").keys().collect();
        known.sort_unstable();
        all.sort_unstable();
        assert_eq!(known, all);
        for (key, fate) in keys::KEYS {
            let row = table.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{key}`")));
            let row = row.unwrap_or_else(|| panic!("docs/autoinstall.md has no row of `{key}`"));
            assert_eq!(row.contains("| no"), *fate != Fate::Done, "{row}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-:a-z {}\\[\\]\n\"'&*!0-9]{0,200}") {
            let _ = read(&text);
        }
    }
}
