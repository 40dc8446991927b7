//! The kernel's table of mounts, `proc_pid_mountinfo(5)`.

use anyhow::{Context as _, Result};

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The device's numbers, `254:7`.
    pub(crate) device: String,
    /// The mount point.
    pub(crate) point: String,
    /// The filesystem's type.
    pub(crate) kind: String,
    /// What is mounted, `/dev/vda7`.
    pub(crate) source: String,
    /// Options of the mount and of the filesystem, in this order.
    pub(crate) options: Vec<String>,
}

impl Mount {
    /// Whether neither the mount nor its filesystem is read-only.
    pub(crate) fn is_writable(&self) -> bool {
        self.options.iter().all(|option| option != "ro")
    }

    /// The value of an option such as `upperdir`.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// All lines of a table, in its order: a later mount on the same point lies over an earlier one.
pub(crate) fn parse(table: &str) -> Result<Vec<Mount>> {
    table.lines().map(|line| mount(line).with_context(|| format!("`{line}` is not a line of mountinfo"))).collect()
}

fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let right: Vec<&str> = right.split(' ').collect();
    let [_, _, device, _, point, mount_options, ..] = left[..] else { return None };
    let [kind, source, super_options] = right[..] else { return None };
    Some(Mount {
        device: device.to_owned(),
        point: plain(point),
        kind: kind.to_owned(),
        source: plain(source),
        options: mount_options.split(',').chain(super_options.split(',')).map(plain).collect(),
    })
}

/// Undoes the kernel's octal escapes of space, tab, line break and backslash.
fn plain(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_with_its_escapes() {
        let table = "22 1 253:0 / / ro,relatime shared:1 - squashfs /dev/mapper/root ro,errors=continue\n\
                     40 22 0:30 / /a\\040b rw shared:2 master:1 - overlay overlay rw,upperdir=/sysroot/var/x";
        let mounts = parse(table).expect("is a table");
        assert_eq!((mounts[0].device.as_str(), mounts[0].point.as_str()), ("253:0", "/"));
        assert!(!mounts[0].is_writable());
        assert_eq!(mounts[1].point, "/a b");
        assert_eq!(mounts[1].option("upperdir"), Some("/sysroot/var/x"));
        assert!(mounts[1].is_writable());
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert_eq!(parse("one two").expect_err("is none").to_string(), "`one two` is not a line of mountinfo");
    }
}
