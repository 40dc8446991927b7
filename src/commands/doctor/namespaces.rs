//! Namespaces, mounts and ids: a sandbox is really set up, and what refuses it is named.
//!
//! In: an empty tree in the store, with the mount points that a tools tree has. It runs no program: setting up is all
//! that needs the host's leave, and so the check needs no tools tree, which needs a network at first.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Finding;
use crate::cmd::Cmd;
use crate::context::Context;
use crate::error::{self, Kind};
use crate::sandbox::{self, HIGHEST_ID, PROBE};
use crate::{fs, tools};

/// All that the sandbox tells.
pub fn check(ctx: &Context) -> Result<Vec<Finding>> {
    let sysctls = Path::new("/proc/sys");
    let program = std::env::current_exe().context("finding castiron's own file")?;
    let mut findings = Vec::new();
    let user = sandbox::needs_user_namespace().then(User::this).transpose()?;
    if let Some(user) = &user {
        let missing = user.missing(Path::new("/etc"), &std::env::var_os("PATH").unwrap_or_default());
        if let Some(missing) = missing {
            findings.push(missing);
            let forbidden = forbidden(sysctls, &program);
            findings.extend(forbidden.map(|(cause, mend)| {
                Finding::warning("namespaces", format!("{cause}\nnot tried, for the ids come first"), mend)
            }));
            return Ok(findings);
        }
    }
    let owner = match attempt(ctx) {
        Ok(owner) => owner,
        Err(error) if error::kind(&error) == Kind::Interrupted => return Err(error),
        Err(error) => {
            findings.push(diagnose(&reason(&error), user.is_some(), sysctls, &program));
            return Ok(findings);
        }
    };
    let kinds = if user.is_some() { "user, mount, pid, uts, ipc, network" } else { "mount, pid, uts, ipc, network" };
    findings.push(Finding::ok("namespaces", format!("made: {kinds}")));
    findings.push(Finding::ok("mounts", "made: a root of its own, folders bound in, tmpfs, /proc, /dev, /dev/pts"));
    findings.push(Finding::ok(
        "ids",
        match user {
            Some(user) => format!("mapped: a file of {HIGHEST_ID} in there is one of {owner} for `{}` here", user.name),
            None => format!("this is root: a file of {HIGHEST_ID} in there is one of {owner} here"),
        },
    ));
    Ok(findings)
}

/// Sets up a sandbox with all that builds use, and returns whose its file is, seen from here.
fn attempt(ctx: &Context) -> Result<u32> {
    let folder = tempfile::Builder::new()
        .prefix(".doctor-")
        .tempdir_in(&ctx.store)
        .with_context(|| format!("creating a folder in `{}`", ctx.store.display()))?;
    let (root, work) = (folder.path().join("root"), folder.path().join("work"));
    for name in tools::MOUNT_POINTS {
        fs::create_dir_all(&root.join(name))?;
    }
    fs::create_dir_all(&work)?;
    Cmd::new(&root, "trying what this host allows")
        .bind(&root, "tree")
        .bind_rw(&work, "work")
        .scratch("scratch")
        .probe("work")
        .run(ctx)?;
    let file = work.join(PROBE);
    let meta = std::fs::metadata(&file).with_context(|| format!("looking at `{}`", file.display()))?;
    Ok(meta.uid())
}

/// What the sandbox itself said.
fn reason(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let lines: Vec<&str> = text.lines().filter_map(|line| line.trim_start().strip_prefix("| ")).collect();
    if lines.is_empty() { text } else { lines.join("\n") }
}

/// An ordinary user.
struct User {
    name: String,
    id: u32,
}

impl User {
    fn this() -> Result<Self> {
        let id = nix::unistd::getuid();
        let known = nix::unistd::User::from_uid(id).context("looking up the user")?;
        Ok(Self { name: known.map_or_else(|| id.to_string(), |user| user.name), id: id.as_raw() })
    }

    /// What mapping ids needs and this host does not have. `etc` holds subuid and subgid.
    fn missing(&self, etc: &Path, path: &std::ffi::OsStr) -> Option<Finding> {
        let is_here = |name: &&str| std::env::split_paths(path).any(|folder| folder.join(name).is_file());
        let (mut found, mut mend) = (Vec::new(), Vec::new());
        let absent: Vec<String> =
            ["newuidmap", "newgidmap"].iter().filter(|name| !is_here(name)).map(|name| format!("`{name}`")).collect();
        if !absent.is_empty() {
            found.push(format!("{}: not in any folder of PATH", absent.join(", ")));
            mend.push("sudo apt install uidmap".to_owned());
        }
        let ranges = ["subuid", "subgid"].map(|file| sandbox::subordinate_ids(&etc.join(file), &self.name, self.id));
        let wrong: Vec<String> = ranges.into_iter().filter_map(Result::err).map(|e| format!("{e:#}")).collect();
        if !wrong.is_empty() {
            found.extend(wrong);
            mend.push(format!(
                "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}\n\
                 (another range of 65536 ids, if somebody has this one)",
                self.name
            ));
        }
        (!found.is_empty()).then(|| Finding::missing("ids", found.join("\n"), mend.join("\n")))
    }
}

/// Which check a set-up that was refused belongs to, why it was refused, and the ways out.
fn diagnose(reason: &str, ordinary: bool, sysctls: &Path, program: &Path) -> Finding {
    let check = match reason {
        r if r.contains("namespace") => "namespaces",
        r if ["map", "subordinate"].iter().any(|word| r.contains(word)) => "ids",
        _ => "mounts",
    };
    let container = "if this is a container, run castiron outside of it";
    let (cause, mend) = match (ordinary, forbidden(sysctls, program)) {
        (true, Some((cause, mend))) => (cause, mend),
        (true, None) => (
            "no setting that castiron knows forbids it".to_owned(),
            format!("{container}, or let it make user namespaces; or run castiron as root"),
        ),
        (false, _) => (
            "root may do so on a host, but not in every container".to_owned(),
            format!("{container}, or start it with `--privileged`"),
        ),
    };
    Finding::missing(check, format!("{reason}\n{cause}"), mend)
}

/// The setting that takes user namespaces from ordinary users, and the ways out.
fn forbidden(sysctls: &Path, program: &Path) -> Option<(String, String)> {
    let is = |name: &str, value: &str| {
        fs::read_to_string(&sysctls.join(name.replace('.', "/"))).is_ok_and(|text| text.trim() == value)
    };
    let set = |setting: &str| {
        format!("sudo sysctl -w {setting}\nand to keep it: echo '{setting}' | sudo tee /etc/sysctl.d/60-castiron.conf")
    };
    if is(APPARMOR, "1") {
        let mend = format!(
            "either give castiron a profile of its own: write this into `/etc/apparmor.d/castiron`\n\n{}\n\n\
             and load it: sudo apparmor_parser --replace /etc/apparmor.d/castiron\n\
             or lift it for all programs: {}",
            apparmor_profile(program),
            set(&format!("{APPARMOR}=0"))
        );
        return Some((
            format!("AppArmor disarms the user namespaces of ordinary users here (`{APPARMOR}` is 1)"),
            mend,
        ));
    }
    if is(MOST, "0") {
        return Some((format!("no user namespace is allowed here (`{MOST}` is 0)"), set(&format!("{MOST}=15000"))));
    }
    is(CLONE, "0").then(|| {
        (format!("ordinary users may make no user namespace here (`{CLONE}` is 0)"), set(&format!("{CLONE}=1")))
    })
}

/// Ubuntu since 23.10: a namespace can be made, and gives no rights.
const APPARMOR: &str = "kernel.apparmor_restrict_unprivileged_userns";
/// Every kernel; hardened hosts set it to 0.
const MOST: &str = "user.max_user_namespaces";
/// Debian up to 10, and kernels with the same patch.
const CLONE: &str = "kernel.unprivileged_userns_clone";

/// The profile, as Ubuntu has them for programs that sandbox themselves: no confinement, and the right to user namespaces.
fn apparmor_profile(program: &Path) -> String {
    format!(
        "abi <abi/4.0>,\n\
         include <tunables/global>\n\
         profile castiron \"{}\" flags=(unconfined) {{\n\
         \x20 userns,\n\
         \x20 include if exists <local/castiron>\n\
         }}",
        program.display()
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn host(setting: &str, value: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write_atomic(&folder.path().join(setting.replace('.', "/")), format!("{value}\n")).expect("writes");
        folder
    }

    #[test]
    fn what_forbids_namespaces_is_named_with_the_way_out() {
        for (setting, value, way) in [
            (
                "kernel.apparmor_restrict_unprivileged_userns",
                "1",
                "profile castiron \"/opt/castiron\" flags=(unconfined)",
            ),
            (
                "kernel.apparmor_restrict_unprivileged_userns",
                "1",
                "sudo apparmor_parser --replace /etc/apparmor.d/castiron",
            ),
            ("kernel.apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
            ("user.max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"),
            ("kernel.unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        ] {
            let host = host(setting, value);
            let program = Path::new("/opt/castiron");
            let finding = diagnose("making a user namespace: EPERM", true, host.path(), program);
            assert_eq!((finding.check, finding.state), ("namespaces", State::Missing));
            assert!(finding.found.contains(setting), "{}", finding.found);
            assert!(finding.mend.as_ref().expect("has one").contains(way), "{way}");
            let root = diagnose("making mount namespaces: EPERM", false, host.path(), program);
            assert!(!root.found.contains(setting), "it does not concern root");
        }
    }

    #[test]
    fn a_user_without_ids_is_told_what_to_install_and_to_add() {
        let etc = tempfile::tempdir().expect("a folder");
        for file in ["subuid", "subgid"] {
            fs::write_atomic(&etc.path().join(file), "other:100000:65536\n").expect("writes");
        }
        let user = User { name: "me".into(), id: 1000 };
        let finding = user.missing(etc.path(), etc.path().as_os_str()).expect("is missing");
        assert!(finding.found.contains("`newuidmap`, `newgidmap`"), "{}", finding.found);
        assert!(finding.found.contains("gives no subordinate ids to `me`"), "{}", finding.found);
        let mend = finding.mend.expect("has one");
        assert!(mend.contains("sudo apt install uidmap") && mend.contains("sudo usermod"), "{mend}");

        let user = User { name: "other".into(), id: 1001 };
        for program in ["newuidmap", "newgidmap"] {
            fs::write_atomic(&etc.path().join(program), "").expect("writes");
        }
        assert_eq!(user.missing(etc.path(), etc.path().as_os_str()), None);
    }
}
