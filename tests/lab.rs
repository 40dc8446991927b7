//! The lab without a machine: arguments, images, scenarios, the verdict's protocol, QEMU's monitor, the console's keys.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use castiron::lab::console::keys;
use castiron::lab::link::{Answer, Heard, Link};
use castiron::lab::qmp::{Event, Qmp};
use castiron::lab::scenario;
use proptest::prelude::*;
use serde_json::{Value, json};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(60);

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn castiron(project: &Path, args: &[&str]) -> Ran {
    let store = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_castiron"))
        .env_remove("CASTIRON_LOCK")
        .args(["--project", project.to_str().unwrap(), "--store", store.path().to_str().unwrap()])
        .args(args)
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn write(project: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = project.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
}

fn cut_to(path: &Path, length: u64) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// A raw disk of 4 MiB with an empty partition table.
fn raw_disk(path: &Path) {
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(4 << 20).unwrap();
    gpt::GptConfig::new().writable(true).create_from_device(file, None).unwrap().write().unwrap();
}

#[test]
fn what_can_not_be_booted_is_said_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path();
    write(project, "noise.raw", [7; 4096]);
    write(project, "empty.raw", "");
    write(project, "packed.raw.zst", b"\x28\xb5\x2f\xfd rest");
    raw_disk(&project.join("short.raw"));
    cut_to(&project.join("short.raw"), (4 << 20) - 1);
    std::fs::create_dir(project.join("folder")).unwrap();
    for (args, says) in [
        (vec!["nothing"], "does not exist"),
        (vec!["folder"], "is no release: it has no `manifest.json`"),
        (vec!["noise.raw"], "neither qcow2 nor a raw disk with a GUID partition table"),
        (vec!["empty.raw"], "neither qcow2 nor a raw disk with a GUID partition table"),
        (vec!["packed.raw.zst"], "unzstd --keep"),
        (vec!["short.raw"], "is cut short: its partition table ends at byte 4194304, the file at byte 4194303"),
        (vec!["short.raw", "db"], "there is no role `db` to choose"),
    ] {
        let path = project.join(args[0]);
        let ran = castiron(project, &[&["boot", path.to_str().unwrap()], &args[1..]].concat());
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn a_release_s_images_are_chosen_by_role_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path();
    let role = |size: u64, format: &str| {
        json!({
            "description": "", "kernel": "", "roothash": "", "root-bytes": 0, "verity-bytes": 0, "inputs": {},
            "carriers": [{"file": format!("x.{format}"), "format": format, "size": size, "sha256": "0".repeat(64)}],
            "contents": "", "packages": [],
        })
    };
    let manifest = json!({
        "schema": 1, "version": "1", "debug-shell": false,
        "lock": {"made": "", "sha256": "0".repeat(64), "tools-sha256": "0".repeat(64)}, "tools": {},
        "roles": {"db": role(100, "raw"), "worker": role(100, "raw.zst")},
    });
    write(project, "release/manifest.json", manifest.to_string());
    write(project, "release/x.raw", [0; 99]);
    let release = project.join("release");
    for (args, says) in [
        (vec![], "holds several roles\nhint: name one of `db`, `worker`"),
        (vec!["dbb"], "holds no role `dbb`\nhint: it holds `db`, `worker`"),
        (vec!["worker"], "holds no disk image of the role `worker`\nhint: castiron build worker --format qcow2"),
        (vec!["db"], "it has 99 bytes, the release's manifest says 100"),
    ] {
        let ran = castiron(project, &[&["boot", release.to_str().unwrap()], args.as_slice()].concat());
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    }
}

/// A qcow2 image (`docs/interop/qcow2.txt`, version 2) of 1 MiB with one cluster of data, in six clusters of 64 KiB: header,
/// table of reference counts, reference counts, first table, second table, data.
fn qcow2() -> Vec<u8> {
    const CLUSTER: usize = 1 << 16;
    let mut image = vec![0; 6 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let cluster = |n: usize| (n * CLUSTER) as u64;
    put(0, b"QFI\xfb");
    put(4, &2_u32.to_be_bytes());
    put(20, &16_u32.to_be_bytes());
    put(24, &(1_u64 << 20).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &cluster(3).to_be_bytes());
    put(48, &cluster(1).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(CLUSTER, &cluster(2).to_be_bytes());
    for used in 0..6 {
        put(2 * CLUSTER + 2 * used, &1_u16.to_be_bytes());
    }
    // The top bit: this cluster belongs to nobody else.
    put(3 * CLUSTER, &(cluster(4) | 1 << 63).to_be_bytes());
    put(4 * CLUSTER, &(cluster(5) | 1 << 63).to_be_bytes());
    put(5 * CLUSTER, &vec![7; CLUSTER]);
    image
}

#[test]
#[ignore = "needs the tools tree"]
fn a_qcow2_that_is_cut_short_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.qcow2");
    let boot = |length: usize| {
        std::fs::write(&path, &qcow2()[..length]).unwrap();
        // The store that `castiron` uses, so that the tools tree is made once.
        let output = Command::new(env!("CARGO_BIN_EXE_castiron"))
            .env_remove("CASTIRON_LOCK")
            .args(["boot", path.to_str().unwrap(), "--verdict", "--within", "1"])
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let damaged = "it is cut short or damaged";
    let whole = qcow2().len();
    let (_, stderr) = boot(whole);
    assert!(!stderr.contains(damaged), "{stderr}");
    for length in [4, 100, 70_000, whole / 2, whole - 70_000] {
        let (code, stderr) = boot(length);
        assert_eq!(code, 2, "{length}: {stderr}");
        assert!(stderr.contains(damaged), "{length}: {stderr}");
    }
}

#[test]
fn every_problem_of_every_scenario_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path();
    write(project, "vm-tests/one/scenario.toml", "description = \"x\"\nfirmware = [\"biso\"]\nsteps = []\n");
    let two = "description = \"x\"\nfirmware = [\"bios\"]\nsteps = [\n  { healthy = { within = 0 } },\n  \"start\",\n  \
               { same = [\"machine-id\"] },\n]\n";
    write(project, "vm-tests/two/scenario.toml", two);
    let three = "description = \"x\"\nfirmware = [\"bios\"]\nsteps = [\"start\", { healthy = { wihtin = 5 } }]\n";
    write(project, "vm-tests/three/scenario.toml", three);
    let four = "description = \"x\"\nfirmware = [\"bios\"]\nsteps = [\"start\", \"take-out\", { untouched = 0 }, { off = { \
                within = 9 } }]\n[[disks]]\nsize = \"1G\"\nshort = \"1M\"\n";
    write(project, "vm-tests/four/scenario.toml", four);
    let five = "description = \"x\"\nfirmware = [\"bios\"]\nsteps = [{ install-cuts = { count = 0, within = 9, boot = 9 } }]\n\
                [medium]\n";
    write(project, "vm-tests/five/scenario.toml", five);
    let ran = castiron(project, &["lab", "one", "two", "three", "four", "five", "thre", "--release", "x"]);
    assert_eq!(ran.code, 2);
    for says in [
        "vm-tests/one/scenario.toml:2:13: unknown variant `biso`, expected one of `bios`, `uefi`, `secureboot`; \
         did you mean `bios`?\n",
        "  | firmware = [\"biso\"]\n  |             ^^^^^^\n",
        "vm-tests/two/scenario.toml:4:3: the machine is off: a `\"start\"` step must come before\n",
        "vm-tests/two/scenario.toml:4:3: a limit must be at least 1 second\n",
        "vm-tests/two/scenario.toml:6:3: `machine-id` was not remembered by a step before\n",
        "vm-tests/three/scenario.toml:3:33: unknown field `wihtin`, expected one of `within`, `facts`, `at-least`; \
         did you mean `within`?\n",
        "four/scenario.toml:2:12: `disks` are those of a machine with a `medium`; the image's is `disk`\n",
        "four/scenario.toml:2:12: `short` is less than the role's image has: a disk with a `size` has no `short`\n",
        "four/scenario.toml:3:19: there is no medium in the machine\n",
        "four/scenario.toml:3:19: the machine is on: it must be off for this\n",
        "four/scenario.toml:3:31: the machine is on: it must be off for this\n",
        "four/scenario.toml:3:50: nothing must be seen: such a scenario cannot fail\n",
        "five/scenario.toml:2:12: a machine that starts from `medium` needs `disks`\n",
        "five/scenario.toml:3:10: `count` must be at least 1\n",
        "there is no scenario `thre`: did you mean `three`?\n",
    ] {
        assert!(ran.stderr.contains(says), "`{says}` is missing in:\n{}", ran.stderr);
    }
}

#[test]
fn a_scenario_that_needs_another_build_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let text = "description = \"x\"\nfirmware = [\"bios\"]\nsteps = [\"start\", { healthy = { within = 5 } }]\n\
                [disk]\nfill-slot-b = true\n";
    write(folder.path(), "vm-tests/one/scenario.toml", text);
    let ran = castiron(folder.path(), &["lab", "one", "--release", "x"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("hint: --other-release"), "{}", ran.stderr);
    let text = "description = \"x\"\nfirmware = [\"bios\"]\nsteps = [\"start\", { healthy = { within = 5 } }]\n\
                [medium]\n[[disks]]\nholds = \"other-build\"\n";
    write(folder.path(), "vm-tests/one/scenario.toml", text);
    let ran = castiron(folder.path(), &["lab", "one", "--release", "x"]);
    assert!(ran.stderr.contains("has a disk with another build, and no other build was named"), "{}", ran.stderr);
    let ran = castiron(folder.path(), &["lab", "one", "--release", "x", "--other-release", "x", "--firmware", "uefi"]);
    assert!(ran.stderr.contains("the scenario `one` runs on bios alone"), "{}", ran.stderr);
    let ran = castiron(folder.path(), &["lab", "--list"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "one                x\n"));
}

#[test]
fn every_scenario_of_the_project_is_right_and_listed() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = scenario::names(project).unwrap();
    let scenarios = scenario::load(project, &names).unwrap();
    assert!(scenarios.len() >= 10);
    let ran = castiron(project, &["lab", "--list"]);
    assert_eq!(ran.stdout.lines().count(), scenarios.len());
}

/// A link with a port that is open in the machine, and the machine's end of that port.
fn link() -> (Link, UnixStream) {
    let (ours, machine) = UnixStream::pair().unwrap();
    let mut link = Link::new();
    link.attach_port(ours).unwrap();
    link.sender().send(opens(true)).unwrap();
    (link, machine)
}

/// QEMU tells that somebody in the machine opened or closed the port.
fn opens(open: bool) -> Heard {
    Heard::Monitor(Event { name: "VSERPORT_CHANGE".into(), data: json!({"id": "port", "open": open}) })
}

fn nonce_of(line: &str) -> String {
    serde_json::from_str::<Value>(line).unwrap()["nonce"].as_str().unwrap().to_owned()
}

fn verdict(nonce: &str, healthy: bool, passed: bool) -> String {
    let checks = json!([{"name": "verity", "passed": passed, "found": "verified"}]);
    format!("{}\n", json!({"nonce": nonce, "healthy": healthy, "checks": checks, "facts": {"slot": "a"}}))
}

/// Answers each question with what `answer` makes of its nonce.
fn answering(machine: UnixStream, answer: impl Fn(&str) -> String + Send + 'static) {
    std::thread::spawn(move || {
        let mut writer = machine.try_clone().unwrap();
        for line in BufReader::new(machine).lines() {
            let Ok(line) = line else { return };
            if writer.write_all(answer(&nonce_of(&line)).as_bytes()).is_err() {
                return;
            }
        }
    });
}

#[test]
fn the_right_nonce_counts_whatever_came_before_it() {
    let (mut link, machine) = link();
    answering(machine, |nonce| format!("noise\n{}{}", verdict("old", true, true), verdict(nonce, true, true)));
    let answer = link.ask(LONG).unwrap();
    assert!(answer.is_healthy());
    assert_eq!(answer.facts()["slot"], "a");
    assert!(link.ask(LONG).unwrap().is_healthy(), "a second question has its own answer");
}

#[test]
fn a_machine_with_one_failed_check_is_not_healthy() {
    for (healthy, passed) in [(false, true), (true, false), (false, false)] {
        let (mut link, machine) = link();
        answering(machine, move |nonce| verdict(nonce, healthy, passed));
        let answer = link.ask(LONG).unwrap();
        assert!(!answer.is_healthy());
        assert!(matches!(answer, Answer::Verdict(_)));
        assert_eq!(answer.lines()[0], "verdict: not healthy");
    }
}

#[test]
fn silence_garbage_and_another_nonce_are_no_verdict() {
    type Answering = fn(&str) -> String;
    let answers: [(Answering, &str); 3] = [
        (|_| String::new(), "nothing that counts within"),
        (|_| "login: \n".into(), "`login:` is no verdict"),
        (|nonce| verdict(&nonce[1..], true, true), "a verdict with the nonce"),
    ];
    for (answer, says) in answers {
        let (mut link, machine) = link();
        link.sender().send(Heard::Console(b"\x1b[1mKernel panic\x1b[0m\r\n".to_vec())).unwrap();
        answering(machine, answer);
        let Answer::NoVerdict { why, console } = link.ask(SHORT).unwrap() else { panic!("{says}") };
        assert!(why.contains(says), "`{says}` is missing in: {why}");
        assert_eq!(console, ["Kernel panic"]);
    }
}

#[test]
fn a_machine_that_ends_is_not_waited_for() {
    let (mut link, _machine) = link();
    let (console, other) = UnixStream::pair().unwrap();
    link.attach_console(console);
    drop(other);
    let Answer::NoVerdict { why, .. } = link.ask(LONG).unwrap() else { panic!("there is no verdict") };
    assert_eq!(why, "the machine ended before it answered");
}

#[test]
fn a_firmware_that_swallows_the_question_does_not_matter() {
    let (mut link, machine) = link();
    let sender = link.sender();
    std::thread::spawn(move || {
        let mut writer = machine.try_clone().unwrap();
        let mut lines = BufReader::new(machine).lines();
        let first = nonce_of(&lines.next().unwrap().unwrap());
        for open in [false, true] {
            sender.send(opens(open)).unwrap();
        }
        let second = nonce_of(&lines.next().unwrap().unwrap());
        assert_eq!(first, second);
        writer.write_all(verdict(&second, true, true).as_bytes()).unwrap();
    });
    assert!(link.ask(LONG).unwrap().is_healthy());
}

#[test]
fn a_machine_that_resets_is_asked_again() {
    let (mut link, machine) = link();
    let sender = link.sender();
    std::thread::spawn(move || {
        let mut writer = machine.try_clone().unwrap();
        let mut lines = BufReader::new(machine).lines();
        // The first life takes the question and dies over it.
        let first = nonce_of(&lines.next().unwrap().unwrap());
        sender.send(Heard::Monitor(Event { name: "RESET".into(), data: Value::Null })).unwrap();
        sender.send(opens(true)).unwrap();
        let second = nonce_of(&lines.next().unwrap().unwrap());
        assert_eq!(first, second);
        writer.write_all(verdict(&second, true, true).as_bytes()).unwrap();
    });
    assert!(link.ask(LONG).unwrap().is_healthy());
    assert_eq!(link.resets(), 1);
}

#[test]
fn half_an_answer_before_a_reset_does_not_spoil_the_next() {
    let (mut link, machine) = link();
    let sender = link.sender();
    answering(machine, move |nonce| {
        let whole = verdict(nonce, true, true);
        // In one queue, so that their order is certain.
        sender.send(Heard::Port(whole.as_bytes()[..20].to_vec())).unwrap();
        sender.send(Heard::Monitor(Event { name: "RESET".into(), data: Value::Null })).unwrap();
        sender.send(Heard::Port(whole.into_bytes())).unwrap();
        String::new()
    });
    assert!(link.ask(LONG).unwrap().is_healthy());
}

#[test]
fn the_monitor_answers_between_its_events() {
    let (ours, server) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut writer = server.try_clone().unwrap();
        writeln!(writer, "{}", json!({"QMP": {"version": {}, "capabilities": []}})).unwrap();
        for line in BufReader::new(server).lines() {
            let asked: Value = serde_json::from_str(&line.unwrap()).unwrap();
            writeln!(writer, "{}", json!({"event": "RESET", "data": {"guest": true}, "timestamp": {}})).unwrap();
            let answer = match asked["execute"].as_str().unwrap() {
                "screendump" => json!({"error": {"class": "GenericError", "desc": "no screen"}, "id": asked["id"]}),
                name => json!({"return": {"was": name}, "id": asked["id"]}),
            };
            writeln!(writer, "{answer}").unwrap();
        }
    });
    let (sender, events) = std::sync::mpsc::channel();
    let mut monitor = Qmp::connect(ours, LONG, move |event| drop(sender.send(event))).unwrap();
    assert_eq!(monitor.execute("query-status", json!({})).unwrap(), json!({"was": "query-status"}));
    let error = format!("{:#}", monitor.screendump("/x.png", "png").unwrap_err());
    assert_eq!(error, "asking QEMU's monitor for `screendump`: QEMU says: no screen");
    assert_eq!(events.recv().unwrap(), Event { name: "RESET".into(), data: json!({"guest": true}) });
}

#[test]
fn a_monitor_that_is_silent_or_gone_is_an_error() {
    let (ours, server) = UnixStream::pair().unwrap();
    let error = format!("{:#}", Qmp::connect(ours, SHORT, drop).err().unwrap());
    assert!(error.contains("no answer within 0.2 s"), "{error}");
    drop(server);
    let (ours, mut server) = UnixStream::pair().unwrap();
    writeln!(server, "not json\n{}", json!({"hello": 1})).unwrap();
    let error = format!("{:#}", Qmp::connect(ours, LONG, drop).err().unwrap());
    assert!(error.contains("greets with"), "{error}");
    let (ours, server) = UnixStream::pair().unwrap();
    drop(server);
    let error = format!("{:#}", Qmp::connect(ours, LONG, drop).err().unwrap());
    assert!(error.contains("closed the connection"), "{error}");
}

#[test]
fn every_key_but_one_is_the_machine_s() {
    assert_eq!(keys(b"ls\r\x03"), (&b"ls\r\x03"[..], false));
    assert_eq!(keys(b"ls\x1dmore"), (&b"ls"[..], true));
}

proptest! {
    #[test]
    fn keys_pass_unchanged_up_to_the_one_that_leaves(typed in prop::collection::vec(any::<u8>(), 0..50)) {
        let (passed, left) = keys(&typed);
        prop_assert!(typed.starts_with(passed));
        prop_assert_eq!(left, typed.contains(&0x1d));
        prop_assert!(left || passed.len() == typed.len());
    }

    #[test]
    fn sizes_are_whole_numbers_of_m_or_g(number in 1_u64..1000, text in "\\PC{0,8}") {
        let parse = |text: &str| text.parse::<scenario::Size>();
        prop_assert_eq!(parse(&format!("{number}G")), Ok(scenario::Size(number << 30)));
        prop_assert_eq!(parse(&format!("{number}M")), Ok(scenario::Size(number << 20)));
        if let Ok(scenario::Size(bytes)) = parse(&text) {
            prop_assert!(bytes > 0 && text.chars().rev().skip(1).all(|c| c.is_ascii_digit()));
        }
    }

    #[test]
    fn no_text_makes_the_scenario_reader_panic(text in "\\PC{0,200}", cut in 0_usize..400) {
        let _ = scenario::parse("x", Path::new("x"), &text);
        let whole = include_str!("../vm-tests/both-bad/scenario.toml");
        if let Some(part) = whole.get(..cut.min(whole.len())) {
            let _ = scenario::parse("x", Path::new("x"), &format!("{part}{text}"));
        }
    }
}
