//! A profile as it is written: one file of `profiles/`. Its types are the one truth about the format; the JSON Schema
//! that editors and the checks read is made from them, descriptions included.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::value::{Argument, Destination, Fingerprint, Line, Mirror, Mode, Name, Package, Size, Unit, Url, Version};
use crate::digest::Sha256;
use crate::document::{At, Value as _};

/// # castiron profile
///
/// What a role's image contains, over what the profile that it extends contains already.
/// Lists add up, the parent's first; of single values the child's wins.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ProfileFile {
    /// What the role is for, in one line.
    // Required by the schema; optional here so that the rest can be read where it is missing.
    #[schemars(required)]
    pub(super) description: Option<At<Line>>,
    /// The profile that this one adds to: the name of a file of `profiles/` without `.toml`.
    #[schemars(extend("examples" = ["base"]))]
    pub(super) extends: Option<At<Name>>,
    /// Debian packages, optionally at one version (`name=version`). Packages marked Essential come by themselves.
    #[serde(default)]
    pub(super) packages: Vec<At<Package>>,
    /// Folders of `overlays/` that are laid over the image, in this order.
    #[serde(default)]
    #[schemars(extend("examples" = [["base"]]))]
    pub(super) overlays: Vec<At<Name>>,
    /// systemd units to enable, of `firstboot/` or of a package. Those named `castiron-…` are always of `firstboot/`.
    #[serde(default)]
    pub(super) units: Vec<At<Unit>>,
    /// Files of other publishers, each pinned by its digest.
    #[serde(default, rename = "file")]
    pub(super) files: Vec<FileTable>,
    /// The version of Kubernetes: the name of a file of `profiles/kubernetes/` without `.toml`.
    pub(super) kubernetes: Option<At<Version>>,
    /// Programs of that version set.
    #[serde(default)]
    #[schemars(extend("examples" = [["kubelet", "kubeadm"]]))]
    pub(super) programs: Vec<At<Name>>,
    /// Container images of that version set: they run straight from the root image.
    #[serde(default)]
    #[schemars(extend("examples" = [["pause", "kube-proxy"]]))]
    pub(super) images: Vec<At<Name>>,
    /// The kernel.
    #[serde(default)]
    pub(super) kernel: KernelTable,
    /// What only the initrd is made with; nothing of it comes into the image.
    #[serde(default)]
    pub(super) initrd: InitrdTable,
    /// What the machine boots with before there is a kernel.
    #[serde(default)]
    pub(super) boot: BootTable,
    /// Sizes of the disk image: a whole number and K, M, G or T.
    #[serde(default)]
    pub(super) image: ImageTable,
    /// Ubuntu's archive. Only in a profile that extends nothing.
    #[schemars(with = "Option<ArchiveTable>")]
    pub(super) archive: Option<Spanned<ArchiveTable>>,
}

/// A pinned file.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct FileTable {
    /// Where its publisher has it.
    pub(super) url: At<Url>,
    /// The SHA-256 digest of its bytes.
    pub(super) sha256: At<Sha256>,
    /// Its absolute path in the image.
    pub(super) destination: At<Destination>,
    /// Its permission bits in octal digits; `0644` when nothing is said.
    #[serde(default = "plain_file")]
    pub(super) mode: At<Mode>,
}

fn plain_file() -> At<Mode> {
    let text = "0644".to_owned();
    At { value: Mode::parse(&text).expect("it is octal"), text, span: 0..0 }
}

/// The kernel.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct KernelTable {
    /// Ubuntu's flavour: the package is `linux-image-<flavour>`.
    #[schemars(extend("examples" = ["virtual", "generic"]))]
    pub(super) flavour: Option<At<Name>>,
    /// Arguments after those that castiron itself gives.
    #[serde(default)]
    pub(super) arguments: Vec<At<Argument>>,
}

/// The initrd.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct InitrdTable {
    /// Packages that are installed only while the initrd is made.
    #[serde(default)]
    #[schemars(extend("examples" = [["dracut"]]))]
    pub(super) packages: Vec<At<Package>>,
    /// Folders of `overlays/` that are laid down only while the initrd is made.
    #[serde(default)]
    #[schemars(extend("examples" = [["initrd"]]))]
    pub(super) overlays: Vec<At<Name>>,
}

/// The boot files.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct BootTable {
    /// Packages that carry shim and GRUB; they are unpacked, never installed.
    #[serde(default)]
    #[schemars(extend("examples" = [["shim-signed", "grub-efi-amd64-signed"]]))]
    pub(super) packages: Vec<At<Package>>,
}

/// The sizes.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ImageTable {
    /// The whole disk as it is delivered; on a larger disk `/var` grows.
    #[schemars(extend("examples" = ["4G"]))]
    pub(super) size: Option<At<Size>>,
    /// One slot's root. There are two slots.
    #[schemars(extend("examples" = ["1G"]))]
    pub(super) slot: Option<At<Size>>,
    /// One slot's hash tree: at least 0.8 % of the slot.
    #[schemars(extend("examples" = ["16M"]))]
    pub(super) verity: Option<At<Size>>,
    /// The EFI system partition.
    #[schemars(extend("examples" = ["256M"]))]
    pub(super) esp: Option<At<Size>>,
}

/// Ubuntu's archive.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ArchiveTable {
    /// Copies of the archive, addresses or folders, tried in this order.
    #[schemars(length(min = 1))]
    pub(super) mirrors: Vec<At<Mirror>>,
    /// The snapshot service: packages that have left the archive are looked for there.
    #[schemars(extend("examples" = ["https://snapshot.ubuntu.com/ubuntu"]))]
    pub(super) snapshot: At<Url>,
    /// Suites in rising precedence.
    #[schemars(length(min = 1), extend("examples" = [["noble", "noble-updates", "noble-security"]]))]
    pub(super) suites: Vec<At<Name>>,
    /// Components.
    #[schemars(length(min = 1), extend("examples" = [["main", "universe"]]))]
    pub(super) components: Vec<At<Name>>,
    /// The fingerprint of the key that signs the suites, 40 hexadecimal digits.
    pub(super) key: At<Fingerprint>,
}

impl ProfileFile {
    /// The sizes of `[image]`: name and value.
    pub(super) fn sizes(&self) -> [(&'static str, Option<&At<Size>>); 4] {
        let ImageTable { size, slot, verity, esp } = &self.image;
        [("size", size.as_ref()), ("slot", slot.as_ref()), ("verity", verity.as_ref()), ("esp", esp.as_ref())]
    }
}
