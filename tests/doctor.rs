//! `castiron doctor`, on the host that runs the tests.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn doctor(folder: &Path, global: &[&str], args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_castiron"))
        .env_remove("CASTIRON_LOCK")
        .current_dir(folder)
        .args(["--project", ".", "--store", "store"])
        .args(global)
        .arg("doctor")
        .args(args)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Answers one request with `status`, and gives what was asked.
fn mirror(status: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/ubuntu", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut byte = [0];
        while !asked.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap() == 1 {
            asked.push(byte[0]);
        }
        write!(client, "HTTP/1.1 {status}\r\nContent-Length: 9\r\nConnection: close\r\n\r\n").unwrap();
        String::from_utf8(asked).unwrap().lines().next().unwrap().to_owned()
    });
    (address, server)
}

#[test]
fn this_host_can_build() {
    let folder = tempfile::tempdir().unwrap();
    let output = doctor(folder.path(), &[], &[]);
    let text = stdout(&output);
    for check in ["store", "output", "memory", "namespaces", "mounts", "ids", "kvm"] {
        let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(check));
        assert!(line.is_some_and(|line| !line.starts_with("missing")), "{check}: {text}");
    }
    assert_eq!(output.status.code(), Some(0), "{text}");
    let left: Vec<_> =
        std::fs::read_dir(folder.path().join("store")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["logs"], "what was tried leaves nothing");
    assert_eq!(std::fs::read_dir(folder.path().join("store/logs")).unwrap().count(), 0);
}

#[test]
fn a_mirror_is_asked_for_its_index_and_only_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let (good, server) = mirror("200 OK");
    let text = stdout(&doctor(folder.path(), &["--mirror", &good], &[]));
    assert!(text.contains(&format!("{good} has `noble`")), "{text}");
    assert_eq!(server.join().unwrap(), "HEAD /ubuntu/dists/noble/InRelease HTTP/1.1");

    let (bad, server) = mirror("404 Not Found");
    let output = doctor(folder.path(), &["--mirror", &bad], &[]);
    let line = stdout(&output).lines().find(|l| l.contains("InRelease")).unwrap().to_owned();
    assert!(line.starts_with("warning") && line.contains("404"), "{line}");
    assert_eq!(output.status.code(), Some(0), "a warm store needs no mirror");
    server.join().unwrap();
}

#[test]
fn what_is_missing_is_said_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let output = doctor(folder.path(), &["--json"], &["--output", "/proc/out"]);
    assert_eq!(output.status.code(), Some(1));
    let event: Value = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .find(|event: &Value| event["event"] == "data")
        .unwrap();
    let report: Value = serde_json::from_str(event["line"].as_str().unwrap()).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let output = checks.iter().find(|check| check["check"] == "output").unwrap();
    assert_eq!(output["state"], "missing");
    assert_eq!(output["mend"], "name another folder with `--output DIR`");
    assert!(checks.iter().filter(|check| check["state"] == "ok").all(|check| check["mend"].is_null()));
}

/// A user without subordinate ids is told so. `setpriv` (util-linux) lends one to root.
#[test]
#[ignore = "needs root, and setpriv"]
fn an_ordinary_user_without_ids_is_told_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let program = folder.path().join("castiron");
    std::fs::copy(env!("CARGO_BIN_EXE_castiron"), &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args(["--project", ".", "--store", "store", "doctor"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("`/etc/subuid` gives no subordinate ids to `nobody`"), "{text}");
    assert!(text.contains("sudo usermod --add-subuids 100000-165535"), "{text}");
}

/// Root without the right to make namespaces, as in a container: what every verb then says leads here.
#[test]
#[ignore = "needs root, and setpriv"]
fn root_of_a_container_is_told_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"])
        .arg(env!("CARGO_BIN_EXE_castiron"))
        .args(["--project", ".", "--store", "store", "doctor"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("missing  namespaces   making mount, pid, uts, ipc and network namespaces: EPERM"), "{text}");
    assert!(text.contains("start it with `--privileged`"), "{text}");
}
