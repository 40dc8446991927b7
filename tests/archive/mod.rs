//! What tests of `lock`, `fetch` and `store` stand on: a project, a signed archive, and a server that misbehaves as told.
//!
//! Keys are made on the spot and servers listen on the loopback: no test needs a network.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, mpsc};

use castiron::digest::Sha256;
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, EncryptionCaps, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
    SignedSecretKey,
};
use pgp::ser::Serialize as _;
use pgp::types::{KeyDetails as _, Password};

/// An address where nobody listens: port 1 is never given to a server.
pub const NOBODY: &str = "http://127.0.0.1:1/ubuntu";

/// A package of a test archive.
#[derive(Clone)]
pub struct Deb {
    pub name: String,
    pub version: String,
    pub path: String,
    pub bytes: Vec<u8>,
    pub fields: String,
}

impl Deb {
    /// A package without files. `fields` are further lines of its control stanza.
    pub fn new(name: &str, version: &str, fields: &str) -> Self {
        Self::with_files(name, version, fields, &[])
    }

    pub fn with_files(name: &str, version: &str, fields: &str, files: &[(&str, &[u8])]) -> Self {
        let fields = format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\n{fields}");
        let control = tar(&[("./control", fields.as_bytes())]);
        let bytes = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control), ("data.tar", &tar(files))]);
        let path = format!("pool/{name}_{version}_amd64.deb");
        Self { name: name.into(), version: version.into(), path, bytes, fields }
    }

    /// A "package" of that many bytes that nobody will unpack.
    pub fn blob(name: &str, length: usize) -> Self {
        let bytes = name.bytes().cycle().enumerate().map(|(i, c)| c.wrapping_add((i * 7 + i / 251) as u8)).take(length);
        let bytes = bytes.collect();
        let path = format!("pool/{name}_1_amd64.deb");
        Self { name: name.into(), version: "1".into(), path, bytes, fields: String::new() }
    }

    pub fn sha256(&self) -> Sha256 {
        Sha256::of(&self.bytes)
    }

    fn stanza(&self) -> String {
        let (path, size, digest) = (&self.path, self.bytes.len(), self.sha256());
        format!("{}Filename: {path}\nSize: {size}\nSHA256: {digest}\nDescription: a test\n\n", self.fields)
    }

    /// Its block in a lock.
    pub fn locked(&self, layer: &str) -> String {
        format!(
            "\n[[package]]\nname = \"{}\"\nversion = \"{}\"\narchitecture = \"amd64\"\npath = \"{}\"\nsize = {}\nsha256 = \"{}\"\n\
             pocket = \"noble\"\nlayers = [\"{layer}\"]\n",
            self.name,
            self.version,
            self.path,
            self.bytes.len(),
            self.sha256()
        )
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut deb = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        deb.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, bytes.len()).bytes());
        deb.extend(*bytes);
        deb.extend(vec![b'\n'; bytes.len() % 2]);
    }
    deb
}

/// A key that signs archives.
pub struct Signer(SignedSecretKey);

impl Signer {
    pub fn new() -> Self {
        let mut params = SecretKeyParamsBuilder::default();
        params
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .can_encrypt(EncryptionCaps::None)
            .primary_user_id("Test Archive <test@example.org>".into());
        Self(params.build().unwrap().generate(rand::thread_rng()).unwrap())
    }

    pub fn fingerprint(&self) -> String {
        format!("{:X}", self.0.fingerprint())
    }

    pub fn sign(&self, text: &str) -> String {
        let signed =
            CleartextSignedMessage::sign(rand::thread_rng(), text, &self.0.primary_key, &Password::empty()).unwrap();
        signed.to_armored_string(ArmorOptions::default()).unwrap()
    }

    /// The ubuntu-keyring package that carries it.
    pub fn package(&self) -> Deb {
        let keyring = SignedPublicKey::from(self.0.clone()).to_bytes().unwrap();
        let path = "usr/share/keyrings/ubuntu-archive-keyring.gpg";
        Deb::with_files("ubuntu-keyring", "1", "", &[(path, &keyring)])
    }
}

/// Writes one suite of an archive into `folder`: pool, index, `InRelease` of that day.
pub fn publish(folder: &Path, signer: &Signer, suite: &str, date: &str, packages: &[Deb]) {
    let stanzas: String = packages.iter().map(Deb::stanza).collect();
    let mut index = Vec::new();
    flate2::write::GzEncoder::new(&mut index, flate2::Compression::fast()).write_all(stanzas.as_bytes()).unwrap();
    let (digest, length) = (Sha256::of(&index), index.len());
    write(&folder.join(format!("dists/{suite}/main/binary-amd64/Packages.gz")), &index);
    let release = format!(
        "Origin: Test\nSuite: {suite}\nCodename: noble\nDate: {date}\nArchitectures: amd64\nComponents: main\n\
         SHA256:\n {digest} {length} main/binary-amd64/Packages.gz\n {} {} main/binary-amd64/Packages\n",
        Sha256::of(&stanzas),
        stanzas.len()
    );
    write(&folder.join(format!("dists/{suite}/InRelease")), signer.sign(&release).as_bytes());
    publish_pool(folder, packages);
}

/// Writes packages into an archive's pool, without an index.
pub fn publish_pool(folder: &Path, packages: &[Deb]) {
    for package in packages {
        write(&folder.join(&package.path), &package.bytes);
    }
}

pub fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A project with one role, `node`, on `base`, in a temporary folder with a store beside it.
pub struct Project {
    pub folder: tempfile::TempDir,
}

impl Project {
    /// `mirrors` and the key's fingerprint go into `[archive]`.
    pub fn new(mirrors: &[&str], snapshot: &str, key: &str) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        let base = format!(
            "description = \"base\"\npackages = [\"basis\"]\n\n[kernel]\nflavour = \"virtual\"\n\n[initrd]\npackages = [\"dracut\"]\n\n\
             [boot]\npackages = [\"shim\"]\n\n[image]\nsize = \"4G\"\nslot = \"1G\"\nverity = \"16M\"\nesp = \"256M\"\n\n\
             [archive]\nmirrors = {mirrors:?}\nsnapshot = \"{snapshot}\"\nsuites = [\"noble\", \"noble-security\"]\n\
             components = [\"main\"]\nkey = \"{key}\"\n"
        );
        write(&project.path("profiles/base.toml"), base);
        project.profile("node", "description = \"node\"\nextends = \"base\"\npackages = [\"extra\"]\n");
        for folder in ["overlays", "firstboot"] {
            fs::create_dir_all(project.path(folder)).unwrap();
        }
        project
    }

    pub fn profile(&self, name: &str, content: &str) {
        write(&self.path(&format!("profiles/{name}.toml")), content);
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Where the store keeps an object.
    pub fn object(&self, digest: &Sha256) -> PathBuf {
        let digest = digest.to_string();
        self.path(&format!("store/sha256-v1/{}/{digest}", &digest[..2]))
    }

    pub fn partial(&self, digest: &Sha256) -> PathBuf {
        self.path(&format!("store/partial/{digest}"))
    }

    /// A lock that answers the profiles, with these packages, all of layer `base`.
    pub fn lock(&self, packages: &[Deb]) {
        let mut text =
            "schema = 1\nmade = \"2026-01-02T03:04:05Z\"\n\n[request]\nbase = [\"basis\", \"linux-image-virtual\"]\n\
                        boot = [\"shim\"]\ninitrd = [\"dracut\"]\nnode = [\"extra\"]\n"
                .to_owned();
        text.push_str(&self.asked());
        text.extend(packages.iter().map(|p| p.locked("base")));
        write(&self.path("profiles/castiron.lock"), text);
    }

    /// The tools' lock, with the package that carries the archive's key.
    pub fn tools_lock(&self, keyring: &Deb) {
        let text =
            "schema = 1\nmade = \"2024-04-25T00:00:00Z\"\n\n[request]\ntools = [\"ubuntu-keyring\"]\n".to_owned();
        write(&self.path("profiles/tools.lock"), text + &self.asked() + &keyring.locked("tools"));
    }

    /// A lock's table of the archive that `[archive]` in base.toml names.
    fn asked(&self) -> String {
        let base = fs::read_to_string(self.path("profiles/base.toml")).unwrap();
        let wanted = ["suites", "components", "key"];
        let lines = base.lines().filter(|line| wanted.iter().any(|w| line.starts_with(&format!("{w} = "))));
        format!("\n[archive]\n{}\n", lines.collect::<Vec<_>>().join("\n"))
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_castiron"));
        // Whoever runs the tests may have named a lock; these projects have their own.
        command.env_remove("CASTIRON_LOCK");
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.arg("--project").arg(self.folder.path()).arg("--store").arg(self.path("store")).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Asserts the exit code and that stderr holds each of `parts`.
    #[track_caller]
    pub fn expect(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in\n{}", self.stderr);
        }
    }
}

/// What a server does once when a path is asked for.
pub enum Fault {
    /// Closes the connection after so many bytes of the body.
    Cut(usize),
    /// Sends so many bytes of the body and then nothing, until the client goes away; says when it got there.
    Stall(usize, mpsc::Sender<()>),
}

#[derive(Default)]
struct Shared {
    faults: Mutex<HashMap<String, Vec<Fault>>>,
    /// Path and `Range` of every request.
    requests: Mutex<Vec<(String, Option<String>)>>,
    no_ranges: bool,
}

/// An HTTP server on the loopback that serves a folder as `/ubuntu`, and as `/` for what is no archive.
pub struct Server {
    pub folder: tempfile::TempDir,
    pub address: String,
    shared: Arc<Shared>,
}

impl Server {
    pub fn new() -> Self {
        Self::start(Shared::default())
    }

    /// One that answers a `Range` with the whole file.
    pub fn without_ranges() -> Self {
        Self::start(Shared { no_ranges: true, ..Shared::default() })
    }

    fn start(shared: Shared) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/ubuntu", listener.local_addr().unwrap());
        let shared = Arc::new(shared);
        let server = Self { address, shared: Arc::clone(&shared), folder };
        let root = server.folder.path().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, shared) = (root.clone(), Arc::clone(&shared));
                std::thread::spawn(move || serve(&stream, &root, &shared));
            }
        });
        server
    }

    pub fn fault(&self, path: &str, fault: Fault) {
        self.shared.faults.lock().unwrap().entry(path.to_owned()).or_default().push(fault);
    }

    /// Paths and ranges of the requests so far.
    pub fn requests(&self) -> Vec<(String, Option<String>)> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The ranges that were asked for of one path.
    pub fn ranges(&self, path: &str) -> Vec<Option<String>> {
        self.requests().into_iter().filter(|(p, _)| p == path).map(|(_, range)| range).collect()
    }
}

/// Answers one request and closes the connection. A client that went away is its own affair.
fn serve(mut stream: &TcpStream, root: &Path, shared: &Shared) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next()?.ok()?;
    let headers: BTreeMap<String, String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let asked = request.split(' ').nth(1)?;
    let path = asked.strip_prefix("/ubuntu/").or(asked.strip_prefix('/'))?.to_owned();
    let range = headers.get("range").cloned();
    shared.requests.lock().unwrap().push((path.clone(), range.clone()));
    let Ok(body) = fs::read(root.join(&path)) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok();
    };
    let start = range
        .as_deref()
        .filter(|_| !shared.no_ranges)
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let (status, start) = match start {
        Some(start) => {
            (format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{}", body.len() - 1, body.len()), start)
        }
        None => ("200 OK".to_owned(), 0),
    };
    let rest = &body[start..];
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len()).ok()?;
    if request.starts_with("HEAD ") {
        return Some(());
    }
    let fault = shared.faults.lock().unwrap().get_mut(&path).filter(|f| !f.is_empty()).map(|f| f.remove(0));
    match fault {
        None => stream.write_all(rest).ok(),
        Some(Fault::Cut(at)) => stream.write_all(&rest[..at]).ok(),
        Some(Fault::Stall(at, reached)) => {
            stream.write_all(&rest[..at]).ok()?;
            reached.send(()).ok()?;
            // Until the client closes its end.
            BufReader::new(stream).lines().next().map(|_| ())
        }
    }
}
