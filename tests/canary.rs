//! Every secret of a site as a canary: all that castiron writes, says and starts is searched for it, unpacked, in raw, base64 and
//! hexadecimal form. It is found in what is for a node that may know it, and nowhere else.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod common;
mod seeding;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, Cursor, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use castiron::region::SIZE;
use castiron::seed::Secrets;
use castiron::seed::secrets::identities;
use common::World;
use seeding::Site;
use walkdir::WalkDir;

/// The nodes of the starter's site, and what they are.
const NODES: [(&str, &str); 10] = [
    ("cp1", "control-plane"),
    ("cp2", "control-plane"),
    ("cp3", "control-plane"),
    ("worker1", "worker"),
    ("worker2", "worker"),
    ("worker3", "worker"),
    ("gpu1", "gpu-worker"),
    ("db1", "db"),
    ("db2", "db"),
    ("db3", "db"),
];
/// What a service of the site is given is the control planes' alone.
const SERVICE: &str = "value-of-a-service-8d1f";
/// What proves who the operator is.
const IDENTITY: &str = "identity";

/// The secrets by name, `name@node` where a node has its own, and what they look like.
struct Canaries {
    names: Vec<String>,
    /// Which secret each form is one of.
    forms: Vec<usize>,
    search: AhoCorasick,
}

impl Canaries {
    fn of(site: &Site) -> Self {
        let identity = site.path(IDENTITY);
        let secrets = Secrets::load(&site.path("secrets.age"), &identities(&identity).unwrap()).unwrap();
        let mut texts: BTreeMap<String, String> =
            secrets.site.iter().map(|(name, secret)| (name.clone(), secret.reveal().to_owned())).collect();
        for (node, own) in &secrets.nodes {
            texts.extend(own.items.iter().map(|(name, secret)| (format!("{name}@{node}"), secret.reveal().to_owned())));
        }
        texts.retain(|name, _| {
            let name = name.split('@').next().unwrap();
            !name.ends_with(".crt") && !name.ends_with(".pub")
        });
        let own = fs::read_to_string(&identity).unwrap();
        texts.insert(IDENTITY.into(), own.lines().find(|line| line.starts_with("AGE-SECRET-KEY")).unwrap().to_owned());
        texts.insert("service".into(), SERVICE.to_owned());
        let (mut names, mut forms, mut patterns) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (name, text)) in texts.into_iter().enumerate() {
            for pattern in cores(&name, &text).iter().flat_map(|core| encoded(core)) {
                forms.push(index);
                patterns.push(pattern);
            }
            names.push(name);
        }
        Self { names, forms, search: AhoCorasick::new(patterns).unwrap() }
    }

    /// The secrets in these bytes.
    fn within(&self, bytes: impl Read) -> BTreeSet<&str> {
        let found = self.search.stream_find_iter(bytes).map(|hit| self.forms[hit.unwrap().pattern().as_usize()]);
        found.map(|index| self.names[index].as_str()).collect()
    }

    /// What nodes with these names may know together.
    fn known_by(&self, nodes: &[&str]) -> BTreeSet<&str> {
        self.names.iter().map(String::as_str).filter(|name| nodes.iter().any(|node| may_know(node, name))).collect()
    }
}

/// Who may know what, written down by hand.
fn may_know(node: &str, secret: &str) -> bool {
    let role = NODES.iter().find(|(name, _)| *name == node).unwrap().1;
    match secret.split_once('@') {
        // The workers' tokens are what control planes let them in by.
        Some(("kubernetes/token", of)) => of == node || role == "control-plane",
        Some((_, of)) => of == node,
        None => match secret {
            "kubernetes/ca.key"
            | "front-proxy/ca.key"
            | "etcd/ca.key"
            | "service-account/sa.key"
            | "encryption/secretbox.keys"
            | "keepalived/api.password"
            | "service" => role == "control-plane",
            "keepalived/database.password" => role == "db",
            _ => role == "db" && secret.starts_with("postgresql/"),
        },
    }
}

/// The bytes that are secret in a secret: text, and what the text stands for.
fn cores(name: &str, text: &str) -> Vec<Vec<u8>> {
    let mut cores: Vec<Vec<u8>> = Vec::new();
    if text.starts_with("-----BEGIN") {
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(lines.concat()).unwrap();
        // Where the private number lies: PKCS #8 of P-256, and OpenSSH's format of Ed25519. What is around it is the same in
        // every key, or in its public half.
        let private = if name.starts_with("ssh/") { 161..193 } else { 36..68 };
        let width = lines[0].len() * 3 / 4;
        cores.push(lines[(private.end - 1) / width].as_bytes().to_vec());
        cores.push(der[private].to_vec());
    } else if name.starts_with("encryption/") {
        for key in text.lines().map(|line| line.split(' ').nth(1).unwrap()) {
            cores.extend([key.as_bytes().to_vec(), STANDARD.decode(key).unwrap()]);
        }
    } else {
        cores.push(text.as_bytes().to_vec());
        if name == "site/signing.key" {
            cores.push(
                (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect(),
            );
        }
    }
    assert!(cores.iter().all(|core| core.len() >= 8), "{name} has something too short to be found");
    cores
}

/// What these bytes look like as they are, in hexadecimal digits, and within base64 wherever they begin.
fn encoded(core: &[u8]) -> Vec<Vec<u8>> {
    let digits = core.iter().fold(String::new(), |digits, byte| format!("{digits}{byte:02x}"));
    let mut forms = vec![core.to_vec(), digits.to_uppercase().into_bytes(), digits.into_bytes()];
    for before in 0..3 {
        let shifted = [&[0; 2][..before], core].concat();
        // The characters that are made of these bytes alone.
        let whole = (before * 8).div_ceil(6)..shifted.len() * 8 / 6;
        forms.extend([&STANDARD, &URL_SAFE].map(|engine| engine.encode(&shifted).as_bytes()[whole.clone()].to_vec()));
    }
    forms
}

/// Runs a verb with the site, and returns all that it said. Meanwhile, what every process of this machine was started with is
/// noted, for as long as it runs.
fn watched(site: &Site, args: &[&str], processes: &mut BTreeSet<Vec<u8>>) -> Vec<u8> {
    let mut command = Command::new(common::CASTIRON);
    command.args(["-v", "--project", common::PROJECT, "--store"]).arg(site.path("store")).args(args);
    if ["secrets", "seed", "stamp"].contains(&args[0]) {
        command.arg("--site").arg(site.path("site.toml")).arg("--identity").arg(site.path(IDENTITY));
    }
    command.env_remove("CASTIRON_IDENTITY").stdin(Stdio::null());
    let output = File::create(site.path("said")).unwrap();
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let mut child = command.spawn().unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        for process in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            for file in ["cmdline", "environ"] {
                processes.extend(fs::read(process.path().join(file)));
            }
        }
    };
    let said = fs::read(site.path("said")).unwrap();
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&said));
    said
}

fn site() -> Site {
    let site = seeding::site();
    let toml = fs::read_to_string(site.path("site.toml")).unwrap();
    fs::write(site.path("site.toml"), format!("{toml}\n[services.canary]\nvalues = {{ password = \"{SERVICE}\" }}\n"))
        .unwrap();
    site
}

#[test]
fn a_secret_is_found_in_the_seeds_of_those_who_may_know_it_and_nowhere_else() {
    let site = site();
    let canaries = Canaries::of(&site);
    let (mut processes, mut said) = (BTreeSet::new(), Vec::new());
    // Which nodes each file is for.
    let mut files: BTreeMap<PathBuf, Vec<&str>> = BTreeMap::new();
    let mut run = |args: &[&str]| said.extend(watched(&site, args, &mut processes));
    let of_role = |role: &str| NODES.iter().filter(|node| node.1 == role).map(|node| node.0).collect::<Vec<_>>();

    for (node, _) in NODES {
        for format in ["cidata-iso", "cidata-fat", "guestinfo", "credential"] {
            let path = site.path(&format!("{node}.{format}"));
            run(&["seed", "--node", node, "--format", format, "--output", path.to_str().unwrap()]);
            files.insert(path, vec![node]);
        }
    }
    for role in ["control-plane", "worker", "gpu-worker", "db"] {
        let path = site.path(&format!("{role}.iso"));
        run(&["seed", "--role", role, "--format", "cidata-iso", "--output", path.to_str().unwrap()]);
        files.insert(path, of_role(role));
    }
    for (name, bytes, option, value) in [
        ("own.raw", seeding::raw(SIZE), "--node", "db1"),
        ("own.qcow2", seeding::qcow2(&seeding::raw(SIZE), false), "--node", "worker2"),
        ("role.raw", seeding::raw(SIZE), "--role", "worker"),
        ("all.iso", seeding::iso(), "", ""),
    ] {
        let path = site.carrier(name, &bytes);
        let whom = if option.is_empty() { vec![] } else { vec![option, value] };
        run(&[&["stamp", &path][..], &whom].concat());
        run(&["stamp", &path, "--show"]);
        let nodes = match option {
            "--node" => vec![value],
            "--role" => of_role(value),
            _ => NODES.map(|node| node.0).to_vec(),
        };
        files.insert(path.into(), nodes);
    }
    // Stamped for one after another: of the former nothing is left.
    let again = site.carrier("again.raw", &seeding::raw(SIZE));
    run(&["stamp", &again, "--role", "control-plane"]);
    run(&["stamp", &again, "--node", "db3"]);
    files.insert(again.into(), vec!["db3"]);
    let removed = site.carrier("removed.raw", &seeding::raw(SIZE));
    run(&["stamp", &removed, "--node", "cp1"]);
    run(&["stamp", &removed, "--remove"]);
    run(&["secrets", "show"]);
    run(&["secrets", "update"]);
    let toml = site.path("site.toml");
    run(&["site", "check", toml.to_str().unwrap()]);

    for entry in WalkDir::new(site.folder.path()).into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file()) {
        let name = entry.file_name().to_str().unwrap();
        let found = canaries.within(File::open(entry.path()).unwrap());
        match (files.get(entry.path()), name) {
            (Some(nodes), _) => assert_eq!(found, canaries.known_by(nodes), "{name}"),
            (None, IDENTITY) => assert_eq!(found, BTreeSet::from([IDENTITY])),
            (None, "site.toml") => assert_eq!(found, BTreeSet::from(["service"])),
            (None, _) => assert_eq!(found, BTreeSet::new(), "{name}"),
        }
    }
    assert_eq!(canaries.within(Cursor::new(&said)), BTreeSet::new(), "{}", String::from_utf8_lossy(&said));
    let ours = processes.iter().filter(|words| words.windows(8).any(|word| word == b"castiron"));
    assert!(ours.count() > 0, "castiron was seen while it ran");
    assert_eq!(canaries.within(Cursor::new(processes.into_iter().collect::<Vec<_>>().concat())), BTreeSet::new());
}

/// A program of the tools tree, by its own loader: the host need not have its libraries.
fn tool(world: &World, name: &str) -> Command {
    let trees = fs::read_dir(world.path("store/tools")).unwrap().map(|e| e.unwrap().path());
    let tree = trees.into_iter().find(|tree| tree.join("usr/bin").join(name).exists()).unwrap();
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(libraries).arg(tree.join("usr/bin").join(name));
    command
}

fn ran(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What is in a file, unpacked as far as it goes: zstd, ISO, squashfs, qcow2, and a zstd within, as in an initrd.
fn unpacked<'a>(canaries: &'a Canaries, world: &World, path: &Path) -> BTreeSet<&'a str> {
    let mut file = File::open(path).unwrap();
    let mut start = vec![0; 40 << 10];
    let length = file.read(&mut start).unwrap();
    let start = &start[..length];
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut found = data_of(canaries, &file);
    let folder = tempfile::tempdir_in(world.folder.path()).unwrap();
    let inside = folder.path().join("inside");
    if start.starts_with(b"hsqs") {
        ran(tool(world, "unsquashfs").args(["-no-progress", "-no-xattrs", "-force", "-dest"]).arg(&inside).arg(path));
    } else if start.get(0x8001..0x8006) == Some(b"CD001") {
        ran(tool(world, "xorriso").args(["-osirrox", "on", "-indev"]).arg(path).args(["-extract", "/"]).arg(&inside));
    } else if start.starts_with(b"QFI\xfb") {
        fs::create_dir(&inside).unwrap();
        ran(tool(world, "qemu-img").args(["convert", "-O", "raw"]).arg(path).arg(inside.join("disk")));
    } else {
        // A file that is compressed, or an archive that begins with one that is not: dracut's early cpio.
        if path.extension().is_some_and(|end| end == "zst") || path.ends_with("initrd") {
            let packed = fs::read(path).unwrap();
            let at = packed.windows(4).position(|word| word == [0x28, 0xb5, 0x2f, 0xfd]).unwrap();
            found.extend(canaries.within(zstd::Decoder::new(&packed[at..]).unwrap()));
        }
    }
    for entry in WalkDir::new(&inside).into_iter().filter_map(Result::ok).filter(|e| e.file_type().is_file()) {
        found.extend(unpacked(canaries, world, entry.path()));
    }
    found
}

/// What is in a sparse file, without its holes.
fn data_of<'a>(canaries: &'a Canaries, file: &File) -> BTreeSet<&'a str> {
    let (mut found, mut at) = (BTreeSet::new(), 0);
    while let Some(data) = castiron::fs::next_data(file, at).unwrap() {
        let mut reader = file;
        reader.seek(SeekFrom::Start(data.start)).unwrap();
        found.extend(canaries.within(BufReader::new(reader.take(data.end - data.start))));
        at = data.end;
    }
    found
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn nothing_of_a_release_holds_a_secret_until_it_is_stamped() {
    let site = site();
    let canaries = Canaries::of(&site);
    let world = World::new(&["rootfs", "initrd", "system", "loader"]);
    // Built where the site is, by somebody whose secrets are at hand.
    let mut build = world.build(&["--format", "raw", "--format", "qcow2", "--format", "iso"]);
    build.current_dir(site.folder.path()).env("CASTIRON_IDENTITY", site.path(IDENTITY));
    let output = build.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(canaries.within(Cursor::new([output.stdout, output.stderr].concat())), BTreeSet::new());

    let release: Vec<PathBuf> = WalkDir::new(world.path("out"))
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect();
    let with = |end: &str| release.iter().find(|path| path.extension().is_some_and(|found| found == end)).unwrap();
    for path in &release {
        assert_eq!(unpacked(&canaries, &world, path), BTreeSet::new(), "{}", path.display());
    }
    for log in
        WalkDir::new(world.path("store/logs")).into_iter().filter_map(Result::ok).filter(|e| e.file_type().is_file())
    {
        assert_eq!(canaries.within(File::open(log.path()).unwrap()), BTreeSet::new(), "{}", log.path().display());
    }

    // The same carriers, stamped: what a node may know is there, and only that.
    let everybody = NODES.map(|node| node.0);
    for (end, whom, nodes) in [("raw", "db1", &["db1"][..]), ("qcow2", "db2", &["db2"]), ("iso", "", &everybody)] {
        let stamped = site.path("stamped").with_extension(end);
        let mut args = vec!["stamp", with(end).to_str().unwrap(), "--output", stamped.to_str().unwrap()];
        if !whom.is_empty() {
            args.extend(["--node", whom]);
        }
        let mut processes = BTreeSet::new();
        let said = watched(&site, &args, &mut processes);
        let known = canaries.known_by(nodes);
        assert_eq!(unpacked(&canaries, &world, &stamped), known, "{end}");
        assert_eq!(canaries.within(Cursor::new(said)), BTreeSet::new());
        assert_eq!(canaries.within(Cursor::new(processes.into_iter().collect::<Vec<_>>().concat())), BTreeSet::new());
        site.good(&["stamp", stamped.to_str().unwrap(), "--remove"]);
        let file = File::open(&stamped).unwrap();
        assert_eq!(data_of(&canaries, &file), BTreeSet::new(), "{end}, its stamp removed");
    }
}
