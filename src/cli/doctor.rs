//! `hushswarm doctor`: looks at a running set-up and says what is wrong, worst first, and what to do.
//!
//! It changes nothing, and asks nothing but the proxy on loopback.

mod finding;
pub mod formats;
mod probe;
#[cfg(target_os = "linux")]
mod processes;
pub mod settings;
pub mod sockets;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hushswarm_circuits::target::Target;

use self::finding::{Danger, Finding};
use self::formats::MAX_FILE;
use self::settings::Client;
use super::connect::network_path;
use crate::config::{NetworkFile, unix_now};
use crate::error::{Error, Exit, Kind};
use crate::state::StateDir;

/// Permissions that let others than the owner in.
const OTHERS: u32 = 0o077;

/// Arguments of `hushswarm doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// Where the proxy is that clients are set to use
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1080")]
    proxy: SocketAddr,
    /// Also reach this through the proxy, to see that circuits work
    #[arg(long, value_name = "HOST:PORT")]
    target: Option<String>,
    /// A client's configuration file (qBittorrent.conf, settings.json, core.conf, aria2.conf); may be repeated [default:
    /// those in your home folder]
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Network file [default: ~/.config/hushswarm/network.toml]
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// Folder for guards and resume records [default: ~/.local/state/hushswarm]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print one JSON object with all findings
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A target that is none; or something is wrong, which has then been printed.
pub async fn run(args: Args) -> Result<(), Error> {
    let target = match &args.target {
        Some(text) => Some(parse_target(text)?),
        None => None,
    };
    let mut findings = overlay(&args);
    findings.extend(probe::check(args.proxy, target.as_ref()).await);
    findings.extend(configs(&args.config)?);
    #[cfg(target_os = "linux")]
    {
        findings.extend(processes::check());
        findings.push(jail());
    }
    // Stable: what was looked at first stays first among equals.
    findings.sort_by_key(|finding| finding.danger);
    print(&findings, args.json);
    let wrong = |finding: &&Finding| finding.danger <= Danger::Broken;
    match findings.iter().filter(wrong).count() {
        0 => Ok(()),
        1 => Err(Error::new(Kind::Policy, "1 thing is wrong")),
        wrong => Err(Error::new(
            Kind::Policy,
            format!("{wrong} things are wrong"),
        )),
    }
}

fn parse_target(text: &str) -> Result<Target, Error> {
    let usage = || {
        Error::local("the target is no name or address with a port, as in example.org:443")
            .with_exit(Exit::Usage)
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(usage)?;
    let port = port.parse().map_err(|_| usage())?;
    Target::parse(host, port).map_err(|error| usage().with_source(error))
}

/// The network file, the relay list, and the state folder.
fn overlay(args: &Args) -> Vec<Finding> {
    let mut findings = Vec::new();
    let loaded =
        network_path(args.network.as_deref()).and_then(|file| NetworkFile::load(&file, unix_now()));
    findings.push(match loaded {
        Ok(_) => Finding::fine("network", "the network file and its relay list are good"),
        Err(error) => broken("network", &error),
    });
    let state = match &args.state {
        Some(path) => Ok(path.clone()),
        None => StateDir::default_path(),
    };
    findings.push(match state {
        Ok(path) => state_folder(&path),
        Err(error) => broken("state", &Error::from(error)),
    });
    findings
}

/// An error of another command as a finding.
fn broken(place: &str, error: &Error) -> Finding {
    let mut what = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        what = format!("{what}: {inner}");
        cause = inner.source();
    }
    let hint = error.hint().unwrap_or("run: hushswarm check");
    Finding::new(Danger::Broken, place, what, hint)
}

fn state_folder(path: &Path) -> Finding {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() && found.mode() & OTHERS == 0 => {
            Finding::fine("state", "the state folder is closed to others")
        }
        Ok(found) if found.is_dir() => Finding::new(
            Danger::Leak,
            "state",
            "others on this computer can read your guards and resume records",
            format!("chmod 700 {}", path.display()),
        ),
        Ok(_) => Finding::new(
            Danger::Broken,
            "state",
            "the state folder is a link or no folder",
            "move it away, or pass --state DIR",
        ),
        Err(_) => Finding::new(
            Danger::Note,
            "state",
            "there is no state folder yet",
            "it comes with the first use of hushswarm",
        ),
    }
}

/// The settings of clients, in the files that were named or else at their usual places.
fn configs(named: &[PathBuf]) -> Result<Vec<Finding>, Error> {
    let mut files: Vec<(Client, PathBuf)> = Vec::new();
    for file in named {
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let client = Client::by_file_name(name).ok_or_else(|| {
            Error::local(format!("{} is no client's configuration file", file.display()))
                .with_exit(Exit::Usage)
                .with_hint("known are qBittorrent.conf, settings.json (Transmission), core.conf (Deluge) and aria2.conf")
        })?;
        files.push((client, file.clone()));
    }
    if named.is_empty()
        && let Some(home) = std::env::var_os("HOME")
    {
        let home = PathBuf::from(home);
        let usual = Client::PLACES.map(|(client, path)| (client, home.join(path)));
        files.extend(usual.into_iter().filter(|(_, path)| path.is_file()));
    }
    let mut findings = Vec::new();
    for (client, file) in files {
        let size = fs::metadata(&file).map_or(0, |found| found.len());
        let text = match usize::try_from(size) {
            Ok(size) if size <= MAX_FILE => fs::read(&file),
            _ => Err(std::io::ErrorKind::FileTooLarge.into()),
        };
        match text {
            Ok(text) => findings.extend(client.check(&String::from_utf8_lossy(&text))),
            Err(error) => findings.push(Finding::new(
                Danger::Broken,
                client.name(),
                format!("{} can't be read ({})", file.display(), error.kind()),
                "run the doctor as the user that runs the client",
            )),
        }
    }
    Ok(findings)
}

/// Whether `hushswarm run` can make jails here.
#[cfg(target_os = "linux")]
fn jail() -> Finding {
    match crate::jail::obstacle() {
        None => Finding::fine("run", "nothing that is known forbids jails here"),
        Some(hint) => Finding::new(
            Danger::Broken,
            "run",
            "hushswarm run can make no jail here",
            hint,
        ),
    }
}

#[expect(clippy::print_stdout, reason = "what the user asked for")]
fn print(findings: &[Finding], json: bool) {
    if json {
        println!("{}", serde_json::json!({ "findings": findings }));
        return;
    }
    let widest = findings.iter().map(|finding| finding.place.len()).max();
    let (word, place) = (6, widest.unwrap_or(0));
    for finding in findings {
        println!(
            "{:word$}  {:place$}  {}",
            finding.danger.word(),
            finding.place,
            finding.what
        );
        if !finding.remedy.is_empty() {
            for line in finding.remedy.lines() {
                println!("{:word$}  {:place$}    -> {line}", "", "");
            }
        }
    }
}
