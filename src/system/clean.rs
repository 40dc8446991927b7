//! What an installed tree holds that an image must not: state, caches, identities, and documents nobody reads on a server.

use std::path::Path;

/// Trees of which only the folder itself stays, and why.
///
/// `/var` is a partition that is made at first boot: what lay below it would never be seen. The kernel in `/boot` goes to
/// the ESP.
const EMPTIED: [(&str, &str); 7] = [
    ("boot", "kernel and initrd lie on the EFI system partition"),
    ("dev", "the kernel fills `/dev` on the machine"),
    ("proc", "the kernel fills `/proc` on the machine"),
    ("run", "`/run` is made anew at each boot"),
    ("sys", "the kernel fills `/sys` on the machine"),
    ("tmp", "`/tmp` is made anew at each boot"),
    ("var", "`/var` is a partition of the machine, made at its first boot"),
];

const DOCUMENT: &str = "of documents only the copyright files stay";
const TRACE: &str = "it is a trace of the installation, and no package's file";

/// Trees that go whole, and why.
const DROPPED: [(&str, &str); 12] = [
    ("usr/share/bug", DOCUMENT),
    ("usr/share/info", DOCUMENT),
    ("usr/share/lintian", "it serves those who check packages"),
    ("usr/share/locale", "a server's messages are not translated"),
    ("usr/share/man", DOCUMENT),
    ("usr/share/doc-base", DOCUMENT),
    ("etc/hostname", "a machine has its name from its site"),
    ("etc/hosts.bak", TRACE),
    ("etc/apt/sources.list", "it names the folder that the packages were installed from"),
    ("etc/apt/apt.conf.d/99mmdebstrap", TRACE),
    ("etc/dpkg/dpkg.cfg.d/99mmdebstrap", TRACE),
    ("etc/.pwd.lock", TRACE),
];

/// Whether a path (relative to the root) is left out of the image.
pub fn is_dropped(path: &Path) -> bool {
    left_out(path).is_some()
}

/// Why castiron leaves a path (relative to the root) out of every image, if it does.
pub fn left_out(path: &Path) -> Option<&'static str> {
    let emptied = EMPTIED.iter().find(|(tree, _)| path.starts_with(tree) && path != Path::new(tree));
    let dropped = || DROPPED.iter().find(|(tree, _)| path.starts_with(tree));
    if let Some((_, why)) = emptied.or_else(dropped) {
        return Some(why);
    }
    if is_host_key(path) {
        return Some("a machine has its ssh host key from its seed; one in an image would be everybody's");
    }
    if is_backup(path) {
        return Some("it is a copy of an account file before its last change");
    }
    is_document(path).then_some(DOCUMENT)
}

/// What openssh-server makes when it is installed.
fn is_host_key(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.parent() == Some(Path::new("etc/ssh")) && name.starts_with("ssh_host_")
}

/// `/etc/passwd-` and its like: shadow-utils' copy of the file before the last change.
fn is_backup(path: &Path) -> bool {
    let names = ["passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-"];
    path.parent() == Some(Path::new("etc")) && path.file_name().is_some_and(|n| names.iter().any(|b| n == *b))
}

/// Below `/usr/share/doc` only the copyright files stay: licences ask for them, and the SBOM is made of them.
fn is_document(path: &Path) -> bool {
    let Ok(rest) = path.strip_prefix("usr/share/doc") else { return false };
    let depth = rest.components().count();
    match depth {
        0 | 1 => false,
        2 => path.file_name().is_some_and(|n| n != "copyright"),
        _ => true,
    }
}

/// `/etc/shadow` with the day of every account's last change set to `day`: the clock of the build is no part of an image.
pub fn fix_shadow(shadow: &[u8], day: u64) -> Vec<u8> {
    let text = String::from_utf8_lossy(shadow);
    let mut fixed = String::with_capacity(text.len());
    for line in text.lines() {
        let mut fields: Vec<&str> = line.split(':').collect();
        let day = day.to_string();
        if let Some(changed) = fields.get_mut(2).filter(|f| !f.is_empty()) {
            *changed = &day;
        }
        fixed.push_str(&fields.join(":"));
        fixed.push('\n');
    }
    fixed.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_goes_and_mount_points_stay() {
        for (path, dropped) in [
            ("var", false),
            ("var/log/dpkg.log", true),
            ("boot/vmlinuz-6.8", true),
            ("etc/passwd", false),
            ("etc/passwd-", true),
            ("usr/share/doc/bash/copyright", false),
            ("usr/share/doc/bash", false),
            ("usr/share/doc/bash/README.gz", true),
            ("usr/share/doc/bash/examples/copyright", true),
            ("usr/share/manpages-of-mine", false),
            ("etc/ssh/ssh_host_rsa_key", true),
            ("etc/ssh/ssh_host_ed25519_key.pub", true),
            ("etc/ssh/sshd_config", false),
        ] {
            assert_eq!(is_dropped(Path::new(path)), dropped, "{path}");
        }
    }

    #[test]
    fn the_day_of_the_build_leaves_shadow() {
        let shadow = b"root:*:20781:0:99999:7:::\nsshd:!:20781::::::\nx:!:::::::\n";
        let fixed = String::from_utf8(fix_shadow(shadow, 19838)).expect("is text");
        assert_eq!(fixed, "root:*:19838:0:99999:7:::\nsshd:!:19838::::::\nx:!:::::::\n");
    }
}
