//! Units: those of `firstboot/` are laid down, and those that the profile names are enabled.
//!
//! Enabling is what `systemctl enable` does (systemd.unit(5), [Install]): links in `<target>.wants/`, made below
//! `/usr/lib/systemd/system`, for `/etc` belongs to the machine. systemd itself is not run for it: the tree is a tar.

use std::path::Path;

use anyhow::{Result, bail};

use crate::fs;
use crate::rootfs::overlay::Overlay;

const UNITS: &str = "usr/lib/systemd/system";

/// Adds the unit files of `folder` and the links that enable `names`.
pub fn add(folder: &Path, names: &[String], overlay: &mut Overlay) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for path in fs::list(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if is_unit(&name) {
            overlay.add_file(Path::new(UNITS).join(&name), &path, 0o644, "firstboot");
        }
    }
    for name in names {
        let path = folder.join(name);
        if !path.is_file() {
            bail!("the unit `{name}` is not in `{}`", folder.display());
        }
        let links = links(&fs::read_to_string(&path)?);
        if links.is_empty() {
            bail!("`{}` has no `WantedBy=` or `RequiredBy=` in its [Install]: it can not be enabled", path.display());
        }
        for target in links {
            overlay.add_link(Path::new(UNITS).join(target).join(name), format!("../{name}"), "firstboot");
        }
    }
    Ok(())
}

fn is_unit(name: &str) -> bool {
    let kinds = ["service", "socket", "target", "timer", "path", "mount", "automount", "slice"];
    name.rsplit_once('.').is_some_and(|(_, kind)| kinds.contains(&kind))
}

/// The folders of links that a unit's [Install] asks for.
fn links(unit: &str) -> Vec<String> {
    let install = unit.lines().map(str::trim).skip_while(|line| *line != "[Install]").skip(1);
    install
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .filter_map(|(key, value)| match key.trim() {
            "WantedBy" => Some(("wants", value)),
            "RequiredBy" => Some(("requires", value)),
            _ => None,
        })
        .flat_map(|(kind, value)| value.split_whitespace().map(move |target| format!("{target}.{kind}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_those_of_the_install_section() {
        let unit =
            "[Unit]\nWantedBy=no.target\n[Install]\nWantedBy=a.target b.target\nRequiredBy=c.target\n[X]\nWantedBy=d\n";
        assert_eq!(links(unit), ["a.target.wants", "b.target.wants", "c.target.requires"]);
    }

    #[test]
    fn a_unit_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = add(folder.path(), &["x.service".into()], &mut Overlay::default()).expect_err("is missing");
        assert!(error.to_string().contains("x.service"), "{error}");
    }
}
