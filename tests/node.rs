//! `castiron-node` on machines made of folders: every check in both states, and each verb's effects.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use castiron::digest::Sha256;
use castiron::verdict::Verdict;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

const ROOTHASH: &str = "842cbae425be5774a8c237cf8b0225fdf150d29fe95eb478d427fba5379b03ee";
const ID: &str = "0123456789abcdef0123456789abcdef";
const VAR_BYTES: u64 = 4 << 30;

/// A healthy machine below a temporary folder, to be broken by a test.
struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        machine.file("/proc/cmdline", &format!("ro roothash={ROOTHASH} castiron.slot=a console=ttyS0\n"));
        machine.file("/proc/uptime", "42.17 80.00\n");
        machine.file("/proc/sys/kernel/osrelease", "6.8.0-151-generic\n");
        machine.file("/proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n");
        machine.file(
            "/proc/1/mountinfo",
            "22 1 253:0 / / ro,relatime shared:1 - squashfs /dev/mapper/root ro,errors=continue,threads=percpu\n\
             30 22 254:7 / /var rw,nosuid,nodev,noatime shared:9 - ext4 /dev/vda7 rw\n\
             31 22 0:29 / /etc rw,relatime shared:10 - overlay overlay rw,lowerdir=/sysroot/etc,\
             upperdir=/sysroot/var/lib/overlay/etc/upper,workdir=/sysroot/var/lib/overlay/etc/work\n",
        );
        let disk = "/sys/devices/pci0000:00/virtio1/block/vda";
        machine.file(&format!("{disk}/size"), &format!("{}\n", 6 << 21));
        for (partition, start, size) in [(3, 528_384, 2_097_152), (4, 2_625_536, 32_768), (7, 4 << 20, VAR_BYTES / 512)]
        {
            machine.file(&format!("{disk}/vda{partition}/start"), &format!("{start}\n"));
            machine.file(&format!("{disk}/vda{partition}/size"), &format!("{size}\n"));
        }
        machine.file(&format!("{disk}/vda7/uevent"), "MAJOR=254\nDEVNAME=vda7\nPARTN=7\n");
        machine.file("/sys/devices/virtual/block/dm-0/dm/uuid", "CRYPT-VERITY-00000000-root\n");
        machine.file("/sys/devices/virtual/block/dm-0/dm/name", "root\n");
        machine.link("/sys/dev/block/253:0", "../../devices/virtual/block/dm-0");
        machine.link("/sys/dev/block/254:7", "../../devices/pci0000:00/virtio1/block/vda/vda7");
        for partition in ["vda3", "vda4"] {
            let target = format!("../../../../pci0000:00/virtio1/block/vda/{partition}");
            machine.link(&format!("/sys/devices/virtual/block/dm-0/slaves/{partition}"), &target);
        }
        machine.filesystem("/dev/vda7", VAR_BYTES);
        machine.link("/dev/disk/by-partlabel/var", "../../vda7");
        machine.file("/dev/kmsg", "");
        machine.file("/run/castiron/node.json", r#"{"node": null, "problems": []}"#);
        machine.file("/etc/machine-id", &format!("{ID}\n"));
        machine.file("/var/lib/overlay/etc/upper/machine-id", &format!("{ID}\n"));
        machine.file("/usr/lib/castiron/image.json", r#"{"role": "db", "version": "2025.11.1", "debug-shell": false}"#);
        machine.grubenv("order=a b\na=3\nb=0\n");
        let files = [("vmlinuz", "a kernel"), ("initrd", "an initrd")].map(|(name, text)| {
            machine.file(&format!("/efi/slots/a/{name}"), text);
            format!(r#""{name}": {{"sha256": "{}", "size": {}}}"#, Sha256::of(text), text.len())
        });
        machine.file("/usr/lib/castiron/boot.json", &format!("{{{}}}", files.join(", ")));
        machine.tool("systemctl", "case \"$1\" in is-system-running) echo running;; *) echo '[]';; esac");
        machine.tool("journalctl", "echo 'first word'; echo 'last word'");
        machine.veritysetup("verified", ROOTHASH);
        machine
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.folder.path().join(absolute.trim_start_matches('/'))
    }

    fn file(&self, absolute: &str, content: &str) {
        fs::create_dir_all(self.path(absolute).parent().unwrap()).unwrap();
        fs::write(self.path(absolute), content).unwrap();
    }

    fn link(&self, absolute: &str, target: &str) {
        fs::create_dir_all(self.path(absolute).parent().unwrap()).unwrap();
        symlink(target, self.path(absolute)).unwrap();
    }

    fn replace(&self, absolute: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(absolute)).unwrap();
        assert!(text.contains(from), "`{absolute}` has no `{from}`");
        fs::write(self.path(absolute), text.replace(from, to)).unwrap();
    }

    fn remove(&self, absolute: &str) {
        fs::remove_file(self.path(absolute)).unwrap();
    }

    fn filesystem(&self, absolute: &str, bytes: u64) {
        let mut superblock = vec![0; 2048];
        superblock[1024 + 0x04..1024 + 0x08].copy_from_slice(&u32::try_from(bytes / 4096).unwrap().to_le_bytes());
        superblock[1024 + 0x18] = 2;
        superblock[1024 + 0x68..1024 + 0x78].copy_from_slice(&[0x5a; 16]);
        superblock[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        fs::create_dir_all(self.path(absolute).parent().unwrap()).unwrap();
        fs::write(self.path(absolute), superblock).unwrap();
    }

    fn grubenv(&self, variables: &str) {
        let text = format!("# GRUB Environment Block\n{variables}");
        self.file("/efi/EFI/ubuntu/grubenv", &format!("{text:#<1024}"));
    }

    fn tool(&self, name: &str, script: &str) {
        self.file(&format!("/bin/{name}"), &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(self.path(&format!("/bin/{name}")), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn veritysetup(&self, status: &str, roothash: &str) {
        self.tool(
            "veritysetup",
            &format!(
                "test \"$1 $2\" = 'status root' && cat <<END\n/dev/mapper/root is active and is in use.\n  type:        VERITY\n  \
                 status:      {status}\n  hash type:   1\n  mode:        readonly\n  root hash:   {roothash}\n  \
                 flags:       panic_on_corruption\nEND"
            ),
        );
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_castiron-node"));
        command.arg("--root").arg(self.folder.path()).args(args).stdin(Stdio::null());
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("/bin").display()));
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran(self.command(args).output().unwrap())
    }

    fn kernel_log(&self) -> String {
        fs::read_to_string(self.path("/dev/kmsg")).unwrap()
    }

    /// The only check that is wrong, and what it found.
    fn wrong(&self) -> (String, String) {
        let ran = self.run(&["status", "--json"]);
        assert_eq!(ran.code(), 6, "{}", ran.out());
        let status: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
        assert_eq!(status["healthy"], false);
        let wrong: Vec<_> = status["checks"].as_array().unwrap().iter().filter(|c| c["passed"] == false).collect();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        (wrong[0]["name"].as_str().unwrap().into(), wrong[0]["found"].as_str().unwrap().into())
    }
}

struct Ran(Output);

impl Ran {
    fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }

    fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }
}

/// Asserts that one change makes exactly one check wrong, and what it then says.
#[track_caller]
fn assert_wrong(break_it: impl FnOnce(&Fixture), check: &str, found: &str) {
    let machine = Fixture::new();
    break_it(&machine);
    let wrong = machine.wrong();
    assert_eq!((wrong.0.as_str(), wrong.1.as_str()), (check, found));
}

// status

#[test]
fn a_healthy_machine_says_so_and_what_it_is() {
    let machine = Fixture::new();
    let ran = machine.run(&["status", "--json"]);
    assert_eq!((ran.code(), ran.err().as_str()), (0, ""), "{}", ran.out());
    let status: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
    assert_eq!(status["healthy"], true);
    let names: Vec<&str> = status["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["system-running", "seed", "no-failed-unit", "verity", "var", "etc", "machine-id", "slot-good"]);
    assert_eq!(
        status["facts"],
        serde_json::json!({
            "boot-id": "11111111-2222-3333-4444-555555555555", "debug-shell": "false", "firmware": "bios",
            "grub-variables": "order=a b, a=3, b=0", "image-version": "2025.11.1", "kernel": "6.8.0-151-generic",
            "machine-id": ID, "role": "db", "roothash": ROOTHASH, "secure-boot": "absent", "slot": "a",
            "uptime-seconds": "42.17", "var-bytes": VAR_BYTES.to_string(),
            "var-uuid": "5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a",
        })
    );
}

#[test]
fn status_is_readable_without_json() {
    let machine = Fixture::new();
    let healthy = machine.run(&["status"]);
    assert!(healthy.out().contains("\nok     etc              overlay, writable, upper side"), "{}", healthy.out());
    assert!(healthy.out().ends_with("\nThis machine is healthy.\n"), "{}", healthy.out());
    machine.grubenv("a=1\nb=0\n");
    let unwell = machine.run(&["status"]);
    assert_eq!(unwell.code(), 6);
    assert!(
        unwell.out().contains("\nWRONG  slot-good        slot A is not marked good: a=1, b=0\n"),
        "{}",
        unwell.out()
    );
    assert!(unwell.out().ends_with("\nThis machine is not healthy.\n"), "{}", unwell.out());
}

#[test]
fn the_firmware_says_whether_it_checks_signatures() {
    let machine = Fixture::new();
    let variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    for (content, word) in [("\u{6}\0\0\0\u{1}", "enabled"), ("\u{6}\0\0\0\0", "disabled")] {
        machine.file(variable, content);
        let out = machine.run(&["status"]).out();
        assert!(out.contains("firmware         uefi\n"), "{out}");
        assert!(out.contains(&format!("secure-boot      {word}\n")), "{out}");
    }
    machine.remove(variable);
    assert!(machine.run(&["status"]).out().contains("secure-boot      absent\n"));
}

#[test]
fn a_seed_must_have_been_taken_as_it_is() {
    let refused = r#"{"node": null, "problems": ["the volume `/dev/sdb`: it was altered"]}"#;
    let found = "this machine is nobody: its seed is refused: the volume `/dev/sdb`: it was altered";
    assert_wrong(|m| m.file("/run/castiron/node.json", refused), "seed", found);
    let machine = Fixture::new();
    machine.remove("/run/castiron/node.json");
    let (check, found) = machine.wrong();
    assert!(check == "seed" && found.starts_with("`castiron-node config` has not run at this boot: "), "{found}");
}

#[test]
fn a_system_that_is_not_running_is_unhealthy() {
    let script = "case \"$1\" in is-system-running) echo degraded; exit 1;; *) echo '[]';; esac";
    assert_wrong(|m| m.tool("systemctl", script), "system-running", "the system is `degraded`");
}

#[test]
fn a_failed_unit_is_named_with_its_last_words() {
    let script = "case \"$1\" in is-system-running) echo running;; *) echo '[{\"unit\":\"x.service\",\"load\":\"loaded\"}]';; esac";
    let found = "`x.service` failed\n  | first word\n  | last word";
    assert_wrong(|m| m.tool("systemctl", script), "no-failed-unit", found);
}

#[test]
fn a_system_manager_that_does_not_answer_is_unhealthy() {
    let machine = Fixture::new();
    machine.tool("systemctl", "echo 'cannot connect' >&2; exit 1");
    let ran = machine.run(&["status"]);
    assert_eq!(ran.code(), 6);
    assert!(ran.out().contains("`systemctl is-system-running` failed: cannot connect"), "{}", ran.out());
    assert!(
        ran.out().contains("`systemctl list-units --state=failed --all --output=json` failed: cannot connect"),
        "{}",
        ran.out()
    );
}

#[test]
fn a_root_without_verity_is_unhealthy() {
    let machine = Fixture::new();
    machine.remove("/sys/devices/virtual/block/dm-0/dm/uuid");
    let found = "`/` is on `/dev/mapper/root`, which is no dm-verity device";
    assert_eq!(machine.wrong(), ("verity".into(), found.into()));
}

#[test]
fn a_damaged_root_is_unhealthy() {
    assert_wrong(|m| m.veritysetup("corrupted", ROOTHASH), "verity", "dm-verity says that `/` is corrupted");
}

#[test]
fn another_root_hash_than_the_kernels_is_unhealthy() {
    let other = "f".repeat(64);
    let found = format!("the root hash is `{other}`, but the kernel command line says `{ROOTHASH}`");
    assert_wrong(|m| m.veritysetup("verified", &other), "verity", &found);
    let found = "the kernel command line has no `roothash=`";
    assert_wrong(|m| m.replace("/proc/cmdline", "roothash=", "x="), "verity", found);
}

#[test]
fn a_var_that_is_not_the_disks_own_is_unhealthy() {
    let mounts = "/proc/1/mountinfo";
    assert_wrong(|m| m.replace(mounts, " /var rw", " /else rw"), "var", "nothing is mounted on `/var`");
    assert_wrong(|m| m.replace(mounts, "/dev/vda7 rw", "/dev/vda7 ro"), "var", "`/var` is read-only");
    assert_wrong(
        |m| m.replace(mounts, "ext4 /dev/vda7", "tmpfs tmpfs"),
        "var",
        "`/var` is tmpfs from `tmpfs`, not ext4",
    );
    let found = "`/var` is on `/dev/vda7`, which is no partition named `var`";
    let other_name = |m: &Fixture| {
        m.file("/dev/vda8", "");
        m.remove("/dev/disk/by-partlabel/var");
        m.link("/dev/disk/by-partlabel/var", "../../vda8");
    };
    assert_wrong(other_name, "var", found);
    let other_disk = |m: &Fixture| {
        m.file("/sys/devices/pci0000:00/virtio2/block/vdb/vdb3/size", "1");
        m.remove("/sys/devices/virtual/block/dm-0/slaves/vda3");
        m.link("/sys/devices/virtual/block/dm-0/slaves/vda3", "../../../../pci0000:00/virtio2/block/vdb/vdb3");
    };
    assert_wrong(other_disk, "var", "`/var` is on `/dev/vda7`, another disk than `/`");
}

#[test]
fn a_var_that_did_not_grow_is_unhealthy() {
    let disk = "/sys/devices/pci0000:00/virtio1/block/vda/size";
    let bigger = |m: &Fixture| m.file(disk, &format!("{}\n", 8 << 21));
    assert_wrong(bigger, "var", "the partition of `/var` leaves 2147483648 bytes free at the disk's end");
    let found = format!("the filesystem of `/var` has {} bytes, its partition {VAR_BYTES}", VAR_BYTES / 2);
    assert_wrong(|m| m.filesystem("/dev/vda7", VAR_BYTES / 2), "var", &found);
    let machine = Fixture::new();
    machine.file("/dev/vda7", &"x".repeat(4096));
    let (check, found) = machine.wrong();
    assert_eq!(check, "var");
    assert!(found.ends_with("/dev/vda7` holds no ext4 filesystem"), "{found}");
}

#[test]
fn an_etc_that_is_no_overlay_on_var_is_unhealthy() {
    let mounts = "/proc/1/mountinfo";
    assert_wrong(|m| m.replace(mounts, " /etc rw", " /else rw"), "etc", "nothing is mounted on `/etc`");
    let found = "the upper side of `/etc` is `/run/upper`, not `/var/lib/overlay/etc/upper`";
    assert_wrong(|m| m.replace(mounts, "/sysroot/var/lib/overlay/etc/upper", "/run/upper"), "etc", found);
    assert_wrong(|m| m.replace(mounts, "/etc rw,", "/etc ro,"), "etc", "`/etc` is read-only");
}

#[test]
fn a_machine_id_that_is_not_kept_is_unhealthy() {
    let kept = "/var/lib/overlay/etc/upper/machine-id";
    let found = "`/etc/machine-id` is ``, not 32 hexadecimal digits";
    assert_wrong(|m| m.file("/etc/machine-id", ""), "machine-id", found);
    let other = "f".repeat(32);
    let found = format!("`/etc/machine-id` is `{ID}`, but `/var` keeps `{other}`");
    assert_wrong(|m| m.file(kept, &other), "machine-id", &found);
    let transient = "40 31 0:25 /machine-id /etc/machine-id ro - tmpfs tmpfs rw\n";
    let found = "`/etc/machine-id` is for this boot only: something is mounted on it";
    let mount = |m: &Fixture| m.replace("/proc/1/mountinfo", "31 22", &format!("{transient}31 22"));
    assert_wrong(mount, "machine-id", found);
}

#[test]
fn a_slot_that_is_not_good_is_unhealthy() {
    assert_wrong(|m| m.grubenv("a=2\nb=3\n"), "slot-good", "slot A is not marked good: a=2, b=3");
    let found = "`castiron.slot=c` on the kernel command line names no slot: it must be `a` or `b`";
    assert_wrong(|m| m.replace("/proc/cmdline", "slot=a", "slot=c"), "slot-good", found);
}

// good

#[test]
fn good_fills_the_tries_of_the_booted_slot_only() {
    let machine = Fixture::new();
    machine.replace("/proc/cmdline", "castiron.slot=a", "castiron.slot=b");
    machine.grubenv("# WARNING: Do not edit\norder=b a\na=1\nb=2\nmore=x\n");
    let ran = machine.run(&["good"]);
    assert_eq!((ran.code(), ran.out().as_str()), (0, "slot B is good\n"));
    let text = fs::read_to_string(machine.path("/efi/EFI/ubuntu/grubenv")).unwrap();
    assert_eq!(text.len(), 1024);
    assert!(
        text.starts_with("# GRUB Environment Block\n# WARNING: Do not edit\norder=b a\na=1\nb=3\nmore=x\n##"),
        "{text}"
    );
}

#[test]
fn good_writes_nothing_when_the_slot_is_good() {
    let machine = Fixture::new();
    let path = machine.path("/efi/EFI/ubuntu/grubenv");
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    for _ in 0..2 {
        let ran = machine.run(&["good"]);
        assert_eq!((ran.code(), ran.out().as_str()), (0, "slot A was good already\n"));
    }
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
}

#[test]
fn good_leaves_a_broken_block_as_it_is_and_says_so() {
    for (content, wrong) in [
        (String::new(), "it has 0 bytes instead of 1024"),
        ("x".repeat(1024), "it does not begin with the line `# GRUB Environment Block`"),
    ] {
        let machine = Fixture::new();
        machine.file("/efi/EFI/ubuntu/grubenv", &content);
        let ran = machine.run(&["good"]);
        assert_eq!(ran.code(), 4);
        assert!(ran.err().contains(&format!("is not a GRUB environment block: {wrong}")), "{}", ran.err());
        assert_eq!(fs::read_to_string(machine.path("/efi/EFI/ubuntu/grubenv")).unwrap(), content);
        let (check, found) = machine.wrong();
        assert_eq!(check, "slot-good");
        assert!(found.contains(wrong), "{found}");
    }
}

#[test]
fn good_needs_a_slot() {
    let machine = Fixture::new();
    machine.file("/proc/cmdline", "ro\n");
    let ran = machine.run(&["good"]);
    assert_eq!(ran.code(), 1);
    assert!(ran.err().contains("this machine was not booted from a slot"), "{}", ran.err());
}

// fallback

#[test]
fn fallback_lets_a_good_slot_be() {
    let machine = Fixture::new();
    let ran = machine.run(&["fallback"]);
    assert_eq!((ran.code(), ran.out().as_str()), (0, "slot A is good\n"));
    assert_eq!(machine.kernel_log(), "");
}

#[test]
fn fallback_asks_for_a_reboot_while_a_try_is_left() {
    for (variables, left) in [("a=2\nb=0\n", "a=2"), ("a=0\nb=3\n", "b=3"), ("a=1\nb=1\n", "a=1, b=1")] {
        let machine = Fixture::new();
        machine.grubenv(variables);
        assert_eq!(machine.run(&["fallback"]).code(), 6);
        let told = format!("<2>castiron: slot A did not become good in time: rebooting; tries left: {left}\n");
        assert_eq!(machine.kernel_log(), told);
    }
}

#[test]
fn fallback_keeps_a_machine_up_that_could_not_boot_again() {
    let machine = Fixture::new();
    machine.grubenv("a=0\nb=0\n");
    let ran = machine.run(&["fallback"]);
    assert_eq!(ran.code(), 0);
    assert!(machine.kernel_log().ends_with("the machine stays as it is, since GRUB has no try left for either slot\n"));
    machine.file("/efi/EFI/ubuntu/grubenv", "broken");
    assert_eq!(machine.run(&["fallback"]).code(), 0);
    assert!(machine.kernel_log().contains("is broken: it has 6 bytes instead of 1024"), "{}", machine.kernel_log());
}

// verify-boot

#[test]
fn verify_boot_passes_the_files_that_the_image_was_built_with() {
    let machine = Fixture::new();
    let ran = machine.run(&["verify-boot"]);
    assert_eq!((ran.code(), ran.out().as_str()), (0, "kernel and initrd of slot A are those of this image\n"));
    assert_eq!(machine.kernel_log(), "");
}

#[test]
fn verify_boot_names_every_wrong_file_on_the_consoles() {
    let machine = Fixture::new();
    machine.file("/efi/slots/a/vmlinuz", "a kerneL");
    machine.file("/efi/slots/a/initrd", "cut");
    let ran = machine.run(&["verify-boot"]);
    assert_eq!(ran.code(), 4);
    let log = machine.kernel_log();
    assert!(log.starts_with("<2>castiron: this boot cannot be trusted: `vmlinuz` of slot A has the digest "), "{log}");
    assert!(log.contains("\n<2>castiron: `initrd` of slot A has 3 bytes instead of 9\n"), "{log}");
}

#[test]
fn verify_boot_does_not_pass_what_it_cannot_read() {
    for missing in ["/efi/slots/a/initrd", "/usr/lib/castiron/boot.json", "/dev/kmsg"] {
        let machine = Fixture::new();
        machine.remove(missing);
        machine.remove("/efi/slots/a/vmlinuz");
        let ran = machine.run(&["verify-boot"]);
        assert_eq!(ran.code(), 4, "{missing}");
        assert!(ran.err().starts_with("error: this boot cannot be trusted: "), "{}", ran.err());
    }
}

// banner

#[test]
fn the_banner_names_image_and_slot() {
    let machine = Fixture::new();
    assert_eq!(machine.run(&["banner"]).code(), 0);
    let issue = fs::read_to_string(machine.path("/run/castiron/issue")).unwrap();
    assert!(issue.starts_with("castiron db 2025.11.1, slot A\nno seed: this machine is nobody\n"), "{issue}");
    assert!(issue.ends_with("\nNo login is open on this machine.\n\n"), "{issue}");
    assert_eq!(machine.kernel_log(), "");
}

#[test]
fn a_refused_seed_is_no_reason_to_reboot() {
    let machine = Fixture::new();
    machine.grubenv("order=a b\na=2\nb=0\n");
    machine.file("/run/castiron/node.json", r#"{"node": null, "problems": ["the volume `/dev/sdb`: it was altered"]}"#);
    let ran = machine.run(&["fallback"]);
    assert_eq!(ran.code(), 0, "{}", ran.err());
    assert!(ran.out().contains("it is its seed that is refused"), "{}", ran.out());
    let issue = {
        machine.run(&["banner"]);
        fs::read_to_string(machine.path("/run/castiron/issue")).unwrap()
    };
    assert!(issue.contains("WRONG: the volume `/dev/sdb`: it was altered\n"), "{issue}");
}

#[test]
fn a_debug_shell_is_said_loudly() {
    let machine = Fixture::new();
    machine.replace("/usr/lib/castiron/image.json", "false", "true");
    assert_eq!(machine.run(&["banner"]).code(), 0);
    let loud = "DEBUG SHELL: anybody at this console is root; never use in production";
    let issue = fs::read_to_string(machine.path("/run/castiron/issue")).unwrap();
    assert!(issue.contains(loud), "{issue}");
    assert_eq!(machine.kernel_log(), format!("<2>castiron: {loud}\n"));
}

// report

/// The lab's end of a port, and the program at the other end.
struct Port {
    host: fs::File,
    lines: BufReader<fs::File>,
    program: Child,
    _machine_end: fs::File,
}

impl Port {
    fn new(machine: &Fixture) -> Self {
        let pair = posix_openpt(nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_NOCTTY).unwrap();
        grantpt(&pair).unwrap();
        unlockpt(&pair).unwrap();
        let name = ptsname_r(&pair).unwrap();
        let machine_end = fs::OpenOptions::new().read(true).write(true).open(&name).unwrap();
        let mut settings = tcgetattr(&machine_end).unwrap();
        cfmakeraw(&mut settings);
        tcsetattr(&machine_end, SetArg::TCSANOW, &settings).unwrap();
        machine.link("/dev/virtio-ports/io.castiron.report", &name);
        let host = fs::File::from(std::os::fd::OwnedFd::from(pair));
        let program = machine.command(&["report"]).stdout(Stdio::piped()).spawn().unwrap();
        Self { lines: BufReader::new(host.try_clone().unwrap()), host, program, _machine_end: machine_end }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.host.write_all(bytes).unwrap();
    }

    fn verdict(&mut self) -> Verdict {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn every_question_is_answered_with_its_own_nonce() {
    let machine = Fixture::new();
    let mut port = Port::new(&machine);
    port.say(b"{\"nonce\": \"one \xc3\xa9\"}\n{\"nonce\": \"two\"}\n");
    let first = port.verdict();
    assert_eq!((first.nonce.as_str(), first.healthy), ("one é", true), "{:?}", first.checks);
    assert_eq!(first.facts["role"], "db");
    machine.grubenv("a=1\nb=0\n");
    assert_eq!(port.verdict().nonce, "two");
    port.say(b"{\"nonce\": \"three\"}\n");
    let third = port.verdict();
    assert_eq!((third.nonce.as_str(), third.healthy), ("three", false));
    let wrong: Vec<&str> = third.checks.iter().filter(|c| !c.passed).map(|c| c.name.as_str()).collect();
    assert_eq!(wrong, ["slot-good"]);
}

#[test]
fn a_question_said_again_and_again_is_not_answered_each_time() {
    let machine = Fixture::new();
    let mut port = Port::new(&machine);
    port.say("{\"nonce\": \"same\"}\n".repeat(20).as_bytes());
    port.say(b"{\"nonce\": \"last\"}\n");
    let answers = std::iter::from_fn(|| Some(port.verdict())).take_while(|verdict| verdict.nonce == "same").count();
    // They may come in more than one read.
    assert!((1..20).contains(&answers), "{answers} answers");
}

#[test]
fn what_is_no_question_gets_no_answer() {
    let machine = Fixture::new();
    let mut port = Port::new(&machine);
    port.say(b"hello\n{}\n\n{\"nonce\": 7}\n\xff\xfe\n");
    for _ in 0..20 {
        port.say(&[b'x'; 500]);
    }
    port.say(b"\n{\"nonce\": \"good\"}\n");
    assert_eq!(port.verdict().nonce, "good");
    let mut log = BufReader::new(port.program.stdout.take().unwrap()).lines();
    let log: Vec<String> = log.by_ref().take(7).map(|line| line.unwrap()).collect();
    assert_eq!(
        log.iter().filter(|line| line.starts_with("a line that is no question was not answered: ")).count(),
        6,
        "{log:?}"
    );
    assert!(log[5].ends_with("it has more than 4096 bytes"), "{log:?}");
    assert_eq!(log[6], "asked, and answered: healthy");
}

#[test]
fn an_answer_waits_until_the_boot_has_ended() {
    let machine = Fixture::new();
    let gate = machine.path("/gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Opening a pipe waits for its other end: `--wait` returns when the test lets it.
    let script =
        "case \"$*\" in 'is-system-running --wait') read state <\"${0%/*}/../gate\"; echo $state;; *) echo '[]';; esac";
    machine.tool("systemctl", script);
    machine.grubenv("a=2\nb=0\n");
    let mut port = Port::new(&machine);
    port.say(b"{\"nonce\": \"early\"}\n");
    let mut gate = fs::OpenOptions::new().write(true).open(gate).unwrap();
    machine.grubenv("a=3\nb=0\n");
    gate.write_all(b"running\n").unwrap();
    let verdict = port.verdict();
    assert_eq!((verdict.nonce.as_str(), verdict.healthy), ("early", true), "{:?}", verdict.checks);
}

#[test]
fn without_a_port_report_says_so() {
    let ran = Fixture::new().run(&["report"]);
    assert_eq!(ran.code(), 1);
    assert!(ran.err().contains("opening the port `"), "{}", ran.err());
}

// units

/// systemd judges the units: unknown keys, cycles, wrong values.
#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let units: Vec<PathBuf> = fs::read_dir(project.join("firstboot")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(!units.is_empty());
    let copies = tempfile::tempdir().unwrap();
    for unit in &units {
        // The program exists in images only.
        let text = fs::read_to_string(unit).unwrap().replace("/usr/bin/castiron-node", "/bin/true");
        fs::write(copies.path().join(unit.file_name().unwrap()), text).unwrap();
    }
    let copies = units.iter().map(|unit| copies.path().join(unit.file_name().unwrap()));
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).args(copies).output() {
        Ok(judged) => assert_eq!(String::from_utf8_lossy(&judged.stderr), ""),
        Err(absent) => println!("skipped: systemd-analyze cannot be run on this host: {absent}"),
    }
}
