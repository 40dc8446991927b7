//! What a virtual machine is made of, and the command line that tells QEMU.
//!
//! In: a [`Spec`]. Out: arguments. Names of files are those of the run folder; what is never written is bound beside it.

use std::path::PathBuf;

use serde::Deserialize;

use crate::lab::image::{Format, Image};
use crate::verdict;

/// What starts a machine's boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
    /// OVMF with Secure Boot on and Microsoft's keys, as machines are delivered.
    #[value(name = "secureboot")]
    #[serde(rename = "secureboot")]
    SecureBoot,
}

impl Firmware {
    /// Its name on the command line and in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::SecureBoot => "secureboot",
        }
    }

    /// Code and variables of the tools tree's package `ovmf`.
    fn flash(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bios => None,
            Self::Uefi => Some(("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")),
            Self::SecureBoot => Some(("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd")),
        }
    }
}

/// What the disk is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// virtio-blk.
    #[default]
    Virtio,
    /// AHCI.
    Sata,
    /// NVMe.
    Nvme,
    /// virtio-scsi.
    Scsi,
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

impl Accelerator {
    /// How much longer things may take than on KVM.
    pub fn patience(self) -> u32 {
        match self {
            Self::Kvm => 1,
            // Seen on two shared cores: a boot of 40 to 100 s instead of 10.
            Self::Tcg => 8,
        }
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (slow)",
        }
    }
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Where its bytes are.
    pub source: Source,
    /// What it is attached to.
    pub bus: Bus,
    /// Its serial number: at most 20 characters on virtio.
    pub serial: Option<String>,
    /// A byte from which on, for one block, writes end in an input/output error.
    pub fails_at: Option<u64>,
    /// A file that is filled with all that is written, in order (see `writelog`).
    pub log: Option<String>,
}

impl Disk {
    /// A disk that nothing is wrong with.
    pub fn new(source: Source, bus: Bus) -> Self {
        Self { source, bus, serial: None, fails_at: None, log: None }
    }
}

/// Where the bytes of a disk are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In an overlay over an image; made at the first start, `size` bytes large. There is one of the kind.
    Overlay {
        /// The image; never written.
        image: Image,
        /// The disk's size, where it is larger than the image.
        size: Option<u64>,
    },
    /// In a raw disk of the run folder.
    Raw(String),
}

/// What an installer medium is attached as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Attach {
    /// A drive for CDs, as a BMC's virtual media has one.
    #[default]
    Cd,
    /// A USB stick.
    Usb,
}

/// An installer medium. It comes before the disks in the firmware's order.
#[derive(Clone, Debug)]
pub struct Medium {
    /// The ISO; never written.
    pub path: PathBuf,
    /// As what.
    pub attach: Attach,
}

/// A network card, on a network of the machine's own that a DHCP server (QEMU's) is in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Card {
    /// Its MAC address.
    pub mac: String,
    /// Whether there is no cable in it.
    #[serde(default)]
    pub unplugged: bool,
    /// The network, such as `192.0.2.0/24`.
    #[serde(default = "network")]
    pub network: String,
}

fn network() -> String {
    "192.0.2.0/24".to_owned()
}

/// A kernel that is started without a boot loader.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its file.
    pub file: String,
    /// Its arguments.
    pub arguments: String,
}

/// What the maker wrote into a machine (SMBIOS 3.6, §7.2).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Maker {
    /// The serial number.
    pub serial: Option<String>,
    /// The UUID.
    pub uuid: Option<String>,
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Firmware.
    pub firmware: Firmware,
    /// What executes it.
    pub accelerator: Accelerator,
    /// Memory in MiB.
    pub memory: u64,
    /// Its disks, in the order in which the firmware tries them.
    pub disks: Vec<Disk>,
    /// An installer medium.
    pub medium: Option<Medium>,
    /// A kernel instead of all that.
    pub kernel: Option<Kernel>,
    /// Its network cards.
    pub cards: Vec<Card>,
    /// What its maker says.
    pub maker: Maker,
}

/// Name of the console's copy in the run folder.
pub const SERIAL_LOG: &str = "serial.log";
/// The run folder, as QEMU sees it.
pub const RUN: &str = "/mnt/run";
/// The name under which the installer medium is bound.
pub const MEDIUM: &str = "medium";
/// The overlay of [`Source::Overlay`].
pub const OVERLAY: &str = "disk.qcow2";
/// The firmware's variables.
pub const VARIABLES: &str = "firmware-variables.fd";
/// Names in the run folder that hold disks and firmware variables: large, and of no use once a run is over.
pub const DISKS: [&str; 2] = [OVERLAY, VARIABLES];
/// The USB controller, to plug things into while the machine runs.
pub const USB: &str = "usb";

const CPUS: u32 = 2;
const FIRMWARE_FILES: &str = "/usr/share/OVMF";
const SECTOR: u64 = 512;

/// What the monitor calls the `n`th card.
pub fn card(n: usize) -> String {
    format!("card{n}")
}

/// The command that gives a machine its own copy of the firmware's variables.
pub fn copy_variables(firmware: Firmware) -> Option<[String; 3]> {
    let (_, variables) = firmware.flash()?;
    Some(["cp".to_owned(), format!("{FIRMWARE_FILES}/{variables}"), format!("{RUN}/{VARIABLES}")])
}

/// The command that makes the overlay.
pub fn create_overlay(format: Format, size: Option<u64>) -> Vec<String> {
    let mut argv: Vec<String> =
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/mnt/image", "-F", format.name()].map(Into::into).into();
    argv.push(format!("{RUN}/{OVERLAY}"));
    argv.extend(size.map(|bytes| bytes.to_string()));
    argv
}

/// QEMU, for this machine.
pub fn command_line(spec: &Spec) -> Vec<String> {
    let secure = spec.firmware == Firmware::SecureBoot;
    let mut argv: Vec<String> = vec!["qemu-system-x86_64".into()];
    let mut add = |option: &str, value: String| argv.extend([format!("-{option}"), value]);
    add("name", "castiron".into());
    add("machine", format!("q35,smm={}", if secure { "on" } else { "off" }));
    add("accel", if spec.accelerator == Accelerator::Kvm { "kvm" } else { "tcg,thread=multi" }.into());
    // Without SVM: a guest that sees it loads KVM's modules, which took up to 40 s of a boot on TCG (seen).
    add("cpu", "max,svm=off".into());
    add("smp", CPUS.to_string());
    add("m", spec.memory.to_string());
    add("display", "none".into());
    add("vga", "std".into());
    add("chardev", format!("stdio,id=console,signal=off,logfile={RUN}/{SERIAL_LOG},logappend=on"));
    add("serial", "chardev:console".into());
    add("chardev", format!("socket,id=monitor,path={RUN}/qmp"));
    add("mon", "chardev=monitor,mode=control".into());
    add("device", "virtio-serial-pci".into());
    add("chardev", format!("socket,id=port,path={RUN}/port"));
    add("device", format!("virtserialport,id=port,chardev=port,name={}", verdict::PORT));
    if secure {
        // Only code in system management mode may write the variables, keys among them.
        add("global", "driver=cfi.pflash01,property=secure,value=on".into());
    }
    if let Some((code, _)) = spec.firmware.flash() {
        add("drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE_FILES}/{code}"));
        add("drive", format!("if=pflash,unit=1,format=raw,file={RUN}/{VARIABLES}"));
    }
    let maker = [("serial", &spec.maker.serial), ("uuid", &spec.maker.uuid)];
    let maker: Vec<String> = maker.iter().filter_map(|(k, v)| Some(format!("{k}={}", escape(v.as_ref()?)))).collect();
    if !maker.is_empty() {
        add("smbios", format!("type=1,{}", maker.join(",")));
    }
    if let Some(kernel) = &spec.kernel {
        add("kernel", format!("{RUN}/{}", kernel.file));
        add("append", kernel.arguments.clone());
    }
    if let Some(medium) = &spec.medium {
        add("drive", format!("id=medium,if=none,format=raw,readonly=on,file=/mnt/{MEDIUM}"));
        add("device", format!("qemu-xhci,id={USB}"));
        let device = match medium.attach {
            Attach::Cd => "ide-cd,bus=ide.5",
            Attach::Usb => "usb-storage,bus=usb.0",
        };
        add("device", format!("{device},drive=medium,bootindex=0"));
    }
    if spec.disks.iter().any(|disk| disk.bus == Bus::Scsi) {
        add("device", "virtio-scsi-pci,id=scsi".into());
    }
    let mut ports = 0;
    for (n, disk) in spec.disks.iter().enumerate() {
        for (option, value) in bytes(n, disk) {
            add(option, value);
        }
        let device = match disk.bus {
            Bus::Virtio => "virtio-blk-pci".to_owned(),
            Bus::Sata => {
                ports += 1;
                format!("ide-hd,bus=ide.{}", ports - 1)
            }
            Bus::Nvme => "nvme".to_owned(),
            Bus::Scsi => "scsi-hd,bus=scsi.0".to_owned(),
        };
        // An NVMe disk has a serial number, always.
        let fallback = (disk.bus == Bus::Nvme).then(|| format!("castiron{n}"));
        let serial = disk.serial.clone().or(fallback).map(|serial| format!(",serial={}", escape(&serial)));
        let (serial, order) = (serial.unwrap_or_default(), n + 1);
        add("device", format!("{device}{serial},drive=disk{n},bootindex={order}"));
    }
    if spec.cards.is_empty() {
        add("nic", "none".into());
    }
    for (n, it) in spec.cards.iter().enumerate() {
        let name = card(n);
        add("netdev", format!("user,id=net{n},net={},restrict=on", it.network));
        add("device", format!("virtio-net-pci,id={name},netdev=net{n},mac={},romfile=", it.mac));
    }
    argv.extend(["-nodefaults", "-no-user-config"].map(String::from));
    argv
}

/// The options that give disk `n` its bytes, as the block device `disk<n>`.
fn bytes(n: usize, disk: &Disk) -> Vec<(&'static str, String)> {
    // No flush reaches the host's disk: a machine of the lab need not outlive a crash of the host.
    let file = match &disk.source {
        Source::Overlay { .. } => {
            let options = "if=none,format=qcow2,cache=unsafe,discard=unmap";
            return vec![("drive", format!("id=disk{n},{options},file={RUN}/{OVERLAY}"))];
        }
        Source::Raw(file) => file,
    };
    if disk.log.is_none() && disk.fails_at.is_none() {
        let options = "if=none,format=raw,cache=unsafe,discard=unmap";
        return vec![("drive", format!("id=disk{n},{options},file={RUN}/{file}"))];
    }
    let open = |node: &str, name: &str| {
        ("blockdev", format!("driver=file,node-name={node}{n},filename={RUN}/{name},cache.no-flush=on"))
    };
    let mut options = vec![open("below", file)];
    let mut below = format!("below{n}");
    if let Some(at) = disk.fails_at {
        // The rule is there from the beginning (`event=none`) and stays (`once=off`); 5 is EIO.
        let rule = format!(
            "inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.errno=5,inject-error.0.once=off,\
             inject-error.0.sector={}",
            at / SECTOR
        );
        options.push(("blockdev", format!("driver=blkdebug,node-name=faulty{n},image={below},{rule}")));
        below = format!("faulty{n}");
    }
    let top = if disk.log.is_some() { "plain" } else { "disk" };
    options.push(("blockdev", format!("driver=raw,node-name={top}{n},file={below}")));
    if let Some(log) = &disk.log {
        options.push(open("log", log));
        options.push(("blockdev", format!("driver=blklogwrites,node-name=disk{n},file=plain{n},log=log{n}")));
    }
    options
}

/// A value in QEMU's lists of options: a comma is written twice.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(firmware: Firmware) -> Spec {
        Spec {
            firmware,
            accelerator: Accelerator::Tcg,
            memory: 1024,
            disks: Vec::new(),
            medium: None,
            kernel: None,
            cards: Vec::new(),
            maker: Maker::default(),
        }
    }

    #[test]
    fn the_command_line_of_a_secure_boot_machine() {
        let disk = Disk::new(Source::Raw("disk.raw".into()), Bus::Nvme);
        let line = crate::sandbox::quote(&command_line(&Spec { disks: vec![disk], ..spec(Firmware::SecureBoot) }));
        for part in [
            "-machine q35,smm=on",
            "secure,value=on",
            "readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.ms.fd",
            "-device nvme,serial=castiron0,drive=disk0,bootindex=1",
            "virtserialport,id=port,chardev=port,name=io.castiron.report",
            "-nic none",
        ] {
            assert!(line.contains(part), "`{part}` is missing in: {line}");
        }
        assert!(!line.contains("kvm"), "{line}");
    }

    #[test]
    fn a_medium_comes_first_and_no_value_ends_its_option() {
        let raw = |name: &str| Source::Raw(name.into());
        let faulty = Disk { fails_at: Some(1 << 20), serial: Some("A,B".into()), ..Disk::new(raw("a"), Bus::Sata) };
        let logged = Disk { log: Some("log".into()), ..Disk::new(raw("b"), Bus::Sata) };
        let mut spec = spec(Firmware::Bios);
        spec.disks = vec![faulty, logged];
        spec.medium = Some(Medium { path: "/x.iso".into(), attach: Attach::Usb });
        spec.maker.serial = Some("X,uuid=0".into());
        spec.cards = vec![Card { mac: "02:00:00:00:00:01".into(), unplugged: false, network: network() }];
        let line = crate::sandbox::quote(&command_line(&spec));
        for part in [
            "usb-storage,bus=usb.0,drive=medium,bootindex=0",
            "ide-hd,bus=ide.0,serial=A,,B,drive=disk0,bootindex=1",
            "ide-hd,bus=ide.1,drive=disk1,bootindex=2",
            "driver=blkdebug,node-name=faulty0,image=below0,",
            "inject-error.0.sector=2048",
            "driver=raw,node-name=disk0,file=faulty0",
            "driver=blklogwrites,node-name=disk1,file=plain1,log=log1",
            "type=1,serial=X,,uuid=0",
            "net=192.0.2.0/24,restrict=on",
        ] {
            assert!(line.contains(part), "`{part}` is missing in: {line}");
        }
    }
}
