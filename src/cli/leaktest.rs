//! `hushswarm leaktest`: shows what a program leaks, plain and through hushswarm.
//!
//! The program runs in a world of its own, where leaking is possible: namespaces with a tracker, a DHT, a seeding peer, a
//! name server and relays, all on this machine and with no way out. What leaves the program's own network interface is
//! captured from its first packet on. One process is the world (`world`): this program once more, started by
//! `stage`; it makes one run and ends with everything in it.

pub mod addresses;
pub mod classify;
pub mod dht;
pub mod dns;
pub mod outcome;
pub mod peek;
mod program;
mod report;
mod services;
mod stage;
mod strangers;
mod tally;
pub mod udp_tracker;
mod world;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::{Error, Exit, Kind};
use crate::state::StateDir;
use outcome::{Fault, Outcome, Said, Settings, Way};
use report::{Runs, Verdict};

/// Longest outcome that a world may tell, bytes.
const MAX_OUTCOME: u64 = 8 << 20;
/// Time for a world beyond the program's own: set-up, checks, ending.
const AROUND: Duration = Duration::from_secs(180);

/// Arguments of `hushswarm leaktest`.
#[derive(clap::Args)]
#[command(
    after_help = "Placeholders in PROGRAM, ARGS, --env and templates: {magnet} {torrent} {dir} (where the file is to arrive) \
{tracker} {url} (the file by HTTP) {proxy} {proxy-host} {proxy-port}.\n\nExample:\n  \
hushswarm leaktest -- aria2c --dir {dir} {magnet}\n  \
hushswarm leaktest --through proxy -- curl -x socks5h://{proxy} -o {dir}/file {url}"
)]
pub struct Args {
    /// How the program is run through hushswarm: in the jail of "hushswarm run", or told by its own settings to use
    /// "hushswarm proxy"
    #[arg(long, value_enum, default_value_t = Through::Run)]
    through: Through,
    /// Make only one of the two runs
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Longest time of each run, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
    time: u64,
    /// Size of the torrent's file, MiB
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1024))]
    size: u64,
    /// Relays between the program and the world
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=3))]
    hops: u8,
    /// Let something go wrong in the middle of the transfer through hushswarm, and count what escapes then
    #[arg(long, value_enum)]
    fault: Option<Fault>,
    /// How long the program is watched after the fault, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    outage: u64,
    /// The torrent names no tracker: the peer must be found by the DHT
    #[arg(long)]
    no_tracker: bool,
    /// The torrent names a web seed
    #[arg(long)]
    web_seed: bool,
    /// Let the program use your own home folder, with your settings; otherwise it gets an empty one
    #[arg(long)]
    keep_home: bool,
    /// A file made for the program before it starts: FILE, with its placeholders filled in, becomes TARGET, relative to
    /// its home folder
    #[arg(long = "template", value_name = "FILE=TARGET")]
    templates: Vec<String>,
    /// A variable of the program's environment
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Write one JSON object instead of the report
    #[arg(long)]
    json: bool,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

/// How a program is run through hushswarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Through {
    Run,
    Proxy,
}

/// One of the two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Plain,
    Through,
}

/// Takes over when this process is the world of a leak test. Called first of all, before there are threads.
pub fn stage_main() -> Option<ExitCode> {
    let marked = std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == stage::MARKER);
    marked.then(world::main)
}

/// Runs the command.
///
/// # Errors
/// The world can't be made, or something escaped through hushswarm.
pub async fn run(args: Args) -> Result<(), Error> {
    let flags = stage::how()?;
    let scratch = Scratch::new()?;
    let seed = rand::random();
    let way = match args.through {
        Through::Run => Way::Run,
        Through::Proxy => Way::Proxy,
    };
    let say = |text: &str| print(args.json, text);
    say(&format!(
        "A world of its own on this computer: {} relays, trackers, {} DHT nodes, a seeding peer, a name\nserver. \
No packet leaves. The program: {}\n\n",
        addresses::RELAYS,
        addresses::DHT_NODES,
        report_name(&args.program)
    ))?;
    let mut runs = Runs {
        plain: None,
        through: None,
    };
    if args.only != Some(Only::Through) {
        say("Running it plain ...\n")?;
        let settings = args.settings(Way::Plain, seed, scratch.folder("plain")?)?;
        runs.plain = Some(make_run(&flags, &settings).await?);
    }
    if args.only != Some(Only::Plain) {
        say("Running it through hushswarm ...\n")?;
        let settings = args.settings(way, seed, scratch.folder("through")?)?;
        runs.through = Some(make_run(&flags, &settings).await?);
    }
    let verdict = runs.verdict();
    if args.json {
        let value = json!({
            "verdict": verdict.word(),
            "plain": runs.plain,
            "through": runs.through,
        });
        print(false, &format!("{value}\n"))?;
    } else {
        print(false, &format!("\n{}", runs.text()))?;
    }
    match verdict {
        Verdict::Clean | Verdict::Unproven | Verdict::PlainOnly => Ok(()),
        Verdict::Unknown => Err(
            Error::local("the capture lost packets, so nothing is proven")
                .with_hint("run it again while the computer is idle"),
        ),
        Verdict::Leak => Err(Error::new(Kind::Policy, "something escaped past hushswarm")
            .with_hint("tell the developers what is above, and with which program")),
    }
}

fn print(silent: bool, text: &str) -> Result<(), Error> {
    if silent {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| Error::local("can't write to the terminal").with_source(source))
}

fn report_name(program: &[String]) -> String {
    let name = program.first().map_or("", String::as_str);
    let name = Path::new(name).file_name().unwrap_or_default();
    name.to_string_lossy()
        .chars()
        .filter(|c| !c.is_control())
        .take(40)
        .collect()
}

impl Args {
    /// The program starts in a folder of its own, so a path that was typed from here must not depend on where "here" is.
    fn absolute_program(&self) -> Vec<String> {
        let mut program = self.program.clone();
        if let Some(name) = program.first_mut().filter(|name| name.contains('/'))
            && let Ok(path) = std::path::absolute(&name)
            && let Some(path) = path.to_str()
        {
            *name = path.to_owned();
        }
        program
    }

    fn settings(&self, way: Way, seed: [u8; 32], dir: PathBuf) -> Result<Settings, Error> {
        let pair = |text: &String, option: &str, shape: &str| -> Result<(String, String), Error> {
            let (a, b) = text.split_once('=').ok_or_else(|| {
                Error::local(format!("--{option} wants {shape}")).with_exit(Exit::Usage)
            })?;
            Ok((a.to_owned(), b.to_owned()))
        };
        let mut templates = Vec::new();
        for text in &self.templates {
            let (file, target) = pair(text, "template", "FILE=TARGET")?;
            let inside = Path::new(&target)
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_)));
            if !inside {
                return Err(Error::local(
                    "a template's target must lie inside the program's home folder",
                )
                .with_exit(Exit::Usage));
            }
            let text = std::fs::read_to_string(&file)
                .map_err(|source| Error::local("can't read a template").with_source(source))?;
            templates.push((target, text));
        }
        let env = self.env.iter().map(|text| pair(text, "env", "NAME=VALUE"));
        let exe = std::env::current_exe()
            .map_err(|source| Error::local("can't find this program itself").with_source(source))?;
        Ok(Settings {
            way,
            exe,
            program: self.absolute_program(),
            env: env.collect::<Result<_, _>>()?,
            templates,
            seed,
            size: self.size << 20,
            dir,
            seconds: self.time,
            fault: self.fault.filter(|_| way != Way::Plain),
            outage: self.outage,
            trackers: !self.no_tracker,
            web_seed: self.web_seed,
            hops: self.hops,
            keep_home: self.keep_home,
        })
    }
}

/// Starts a world, and waits for what it tells.
async fn make_run(flags: &[&str], settings: &Settings) -> Result<Outcome, Error> {
    let failed = |source| Error::local("can't start the world").with_source(source);
    let mut child = tokio::process::Command::from(stage::world(flags, &settings.exe))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let broken = || failed(std::io::ErrorKind::BrokenPipe.into());
    // Held until the end: when it closes, the world ends.
    let mut input = child.stdin.take().ok_or_else(broken)?;
    let output = child.stdout.take().ok_or_else(broken)?;
    let line = serde_json::to_string(settings)
        .map_err(|error| Error::new(Kind::Bug, "settings").with_source(error))?;
    input
        .write_all(format!("{line}\n").as_bytes())
        .await
        .map_err(failed)?;
    let limit = Duration::from_secs(settings.seconds + settings.outage) + AROUND;
    let mut text = String::new();
    let read = async {
        output.take(MAX_OUTCOME).read_to_string(&mut text).await?;
        child.wait().await
    };
    let interrupted = tokio::select! {
        done = tokio::time::timeout(limit, read) => {
            done.map_err(|_| Error::new(Kind::Bug, "the world does not end"))?.map_err(failed)?;
            false
        }
        _ = tokio::signal::ctrl_c() => true,
    };
    if interrupted {
        return Err(Error::local("interrupted").with_exit(Exit::Interrupted));
    }
    let said = text.lines().last().unwrap_or_default();
    match serde_json::from_str::<Said>(said) {
        Ok(Said::Done(outcome)) => Ok(*outcome),
        Ok(Said::Failed(what, hint)) => {
            let error = Error::local(what);
            Err(match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            })
        }
        Err(error) => {
            Err(Error::new(Kind::Bug, "the world ended without a word").with_source(error))
        }
    }
}

/// A folder that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Error> {
        let name = format!("hushswarm-leaktest-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        // Through the state folder's code, so that nobody else can look in.
        StateDir::open(&path)?;
        Ok(Self(path))
    }

    fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path)
            .map_err(|source| Error::local("can't make a folder").with_source(source))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
