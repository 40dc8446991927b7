//! The command line of `castiron`: what may be said, and which verb's file hears it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::ui::{Ui, Verbosity};

/// Immutable Ubuntu 24.04 machines for a production Kubernetes site.
#[derive(Debug, Parser)]
#[command(name = "castiron", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Examples:
  castiron doctor                      what this host lacks, and how to mend it
  castiron lock                        decide which bytes: resolve every package
  castiron build db --format qcow2     make a release of one role
  castiron boot out/RELEASE            boot it in QEMU, console on this terminal

Exit codes: 0 done, 1 other, 2 wrong input, 3 network, 4 signature or digest, 5 a tool failed,
6 no healthy verdict, 130 interrupted.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Global {
    /// Folder that holds `profiles/`, `overlays/` and `firstboot/` [default: this one or the nearest above]
    #[arg(long, short = 'C', global = true, value_name = "DIR", env = "CASTIRON_PROJECT")]
    project: Option<PathBuf>,
    /// Folder of the content-addressed store and of cached stages [default: the XDG cache folder]
    #[arg(long, global = true, value_name = "DIR", env = "CASTIRON_STORE")]
    store: Option<PathBuf>,
    /// Lock to write and read [default: profiles/castiron.lock]
    #[arg(long, global = true, value_name = "FILE", env = "CASTIRON_LOCK")]
    lock_file: Option<PathBuf>,
    /// A mirror (URL or folder) to try before the archive and the publishers; may be repeated (docs/mirrors.md)
    #[arg(long, global = true, value_name = "URL|DIR", env = "CASTIRON_MIRROR", value_delimiter = ' ')]
    mirror: Vec<String>,
    /// Say what happens as JSON events on stdout, one a line
    #[arg(long, global = true)]
    json: bool,
    /// Say only warnings and errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say every command that is run
    #[arg(long, short, global = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Find every problem of the profiles, offline
    Check(commands::check::Check),
    /// Print the JSON Schema of profiles, for editors
    Schema(commands::schema::Schema),
    /// Show a role's resolved profile, and which file each setting came from
    Show(commands::show::Show),
    /// Try what this host must give, and say how to mend what fails
    Doctor(commands::doctor::Doctor),
    /// Resolve every package of every role into `profiles/castiron.lock`
    Lock(commands::lock::Lock),
    /// Bring what the lock names into the store
    Fetch(commands::fetch::Fetch),
    /// Copy all that the lock names into a folder, for places without a network
    Mirror(commands::mirror::Mirror),
    /// Make the tools tree, unless it is there, and print its folder
    Tools(commands::tools::Tools),
    /// Look into the store, check it, clean it
    Store(commands::store::Store),
    /// Build a release of one or more roles
    Build(commands::build::Build),
    /// Compare two releases: packages, files, sizes
    Diff(commands::diff::Diff),
    /// Say which package, overlay or unit put a file into the image
    Why(commands::why::Why),
    /// Begin a site file, check it, show it, hand it to other tools
    Site(commands::site::Site),
    /// Make a site's secrets, share them, make them anew
    Secrets(commands::secrets::Secrets),
    /// Write a site's seed as a volume or a file
    Seed(commands::seed::Seed),
    /// Write a site's seed into an ISO or a disk image, in place; show it; take it out
    Stamp(commands::stamp::Stamp),
    /// Boot a release or an image in QEMU, its console on this terminal
    Boot(commands::boot::Boot),
    /// Run scenarios: boot, break and judge machines
    Lab(commands::lab::Lab),
}

/// Runs the program.
pub fn main() -> ExitCode {
    // The user's umask would reach into trees and images: what programs in a sandbox create, and who may read it there.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    if args.get(1).is_some_and(|verb| verb == crate::sandbox::VERB) {
        return crate::sandbox::main(&args[2..]).into();
    }
    let cli = Cli::parse();
    let verbosity = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    };
    let ui = Ui::new(cli.global.json, verbosity);
    match context(&cli.global, ui.clone()).and_then(|ctx| run(&ctx, cli.verb)) {
        Ok(code) => code,
        Err(error) => ui.fail(&error).into(),
    }
}

fn run(ctx: &Context, verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Check(args) => commands::check::run(ctx, args),
        Verb::Schema(args) => commands::schema::run(ctx, args),
        Verb::Show(args) => commands::show::run(ctx, args),
        Verb::Doctor(args) => commands::doctor::run(ctx, args),
        Verb::Lock(args) => commands::lock::run(ctx, args),
        Verb::Fetch(args) => commands::fetch::run(ctx, args),
        Verb::Mirror(args) => commands::mirror::run(ctx, args),
        Verb::Tools(args) => commands::tools::run(ctx, args),
        Verb::Store(args) => commands::store::run(ctx, args),
        Verb::Build(args) => commands::build::run(ctx, args),
        Verb::Diff(args) => commands::diff::run(ctx, args),
        Verb::Why(args) => commands::why::run(ctx, args),
        Verb::Site(args) => commands::site::run(ctx, args),
        Verb::Secrets(args) => commands::secrets::run(ctx, args),
        Verb::Seed(args) => commands::seed::run(ctx, args),
        Verb::Stamp(args) => commands::stamp::run(ctx, args),
        Verb::Boot(args) => commands::boot::run(ctx, args),
        Verb::Lab(args) => commands::lab::run(ctx, args),
    }
}

fn context(global: &Global, ui: Ui) -> Result<Context> {
    let here = std::env::current_dir().context("finding the current folder")?;
    let project = match &global.project {
        Some(folder) => here.join(folder),
        None => here.ancestors().find(|f| f.join("profiles/base.toml").is_file()).unwrap_or(&here).to_owned(),
    };
    let store = match &global.store {
        Some(folder) => here.join(folder),
        None => cache_home()?.join("castiron"),
    };
    let mut ctx = Context::new(ui, project, store);
    ctx.lock_file = global.lock_file.as_ref().map(|file| here.join(file));
    ctx.mirrors.clone_from(&global.mirror);
    ctx.children.watch_signals()?;
    Ok(ctx)
}

/// `$XDG_CACHE_HOME`, or `~/.cache` (XDG Base Directory Specification 0.8).
fn cache_home() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache"))).ok_or_else(|| {
        Failure::new(Kind::Input, "neither XDG_CACHE_HOME nor HOME is set").hint("name a folder with --store").into()
    })
}
