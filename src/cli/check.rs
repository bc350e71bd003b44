//! `hushswarm check`: looks at what the other commands will read, and says what they will make of it. Nothing is sent
//! and nothing is changed.

use std::path::{Path, PathBuf};

use hushswarm_circuits::relay_list::{Proto, RelayList};
use hushswarm_circuits::target::Target;
use serde::Serialize;

use super::connect::network_path;
use super::progress::json_line;
use super::routes::RoutesArgs;
use super::table::{Side, date, table, until};
use super::tor::HAS_TOR;
use crate::config::{FirstLink, NetworkFile, ROUTES_EXAMPLE, unix_now};
use crate::error::{Error, Exit, Kind};
use crate::route::policy::{Decider, Reason, Verdict};
use crate::state::StateDir;

/// The list's life that is left when the user is told, seconds: relays renew theirs earlier.
const SOON: u64 = 86_400;
/// How far a file may have been written in the future before the clock is doubted, seconds: clocks of file servers.
const CLOCK_SLACK: u64 = 600;

/// Arguments of `hushswarm check`.
#[derive(clap::Args)]
pub struct Args {
    /// Say where this would go, and which rule decides: a name or an address with a port
    #[arg(value_name = "HOST:PORT")]
    target: Option<String>,
    /// Ask about UDP instead of TCP
    #[arg(long, requires = "target")]
    udp: bool,
    /// Print a routes file that explains every entry, and do nothing else
    #[arg(long, conflicts_with_all = ["target", "json"])]
    example: bool,
    /// Network file [default: ~/.config/hushswarm/network.toml]
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// Folder for guards and resume records [default: ~/.local/state/hushswarm]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Write what was found as JSON lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    routes: RoutesArgs,
}

/// How one check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Good,
    /// It works, and something is to be known or done.
    Note,
    Bad,
}

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    outcome: Outcome,
    says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip)]
    exit: Option<Exit>,
}

impl Finding {
    fn good(what: &'static str, says: impl Into<String>) -> Self {
        Self {
            what,
            outcome: Outcome::Good,
            says: says.into(),
            hint: None,
            exit: None,
        }
    }

    fn note(what: &'static str, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Note,
            hint: Some(hint.into()),
            ..Self::good(what, says)
        }
    }

    fn bad(what: &'static str, error: &Error) -> Self {
        let mut says = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            says.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Self {
            outcome: Outcome::Bad,
            hint: error.hint().map(str::to_owned),
            exit: Some(error.exit()),
            ..Self::good(what, says)
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Something is wrong, which was printed; or a target would be refused.
pub async fn run(args: Args) -> Result<(), Error> {
    if args.example {
        return print(ROUTES_EXAMPLE);
    }
    match &args.target {
        Some(target) => explain(&args, target),
        None => look(&args),
    }
}

/// Says which way a target goes.
fn explain(args: &Args, text: &str) -> Result<(), Error> {
    let (host, port) = text
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .ok_or_else(|| {
            usage("write HOST:PORT, for example example.org:443 or [2001:db8::1]:443")
        })?;
    // Without brackets, the last part of an IPv6 address would be taken for the port.
    if host.contains(':') && !host.starts_with('[') {
        return Err(usage("put an IPv6 address in brackets: [2001:db8::1]:443"));
    }
    let target = Target::parse(host, port).map_err(|error| usage(&error.to_string()))?;
    let proto = if args.udp { Proto::Udp } else { Proto::Tcp };
    let loaded = args.routes.load()?;
    let (verdict, decider) = match loaded.policy.explain(proto, &target) {
        (Verdict::Tor, decider) if !HAS_TOR => (Verdict::Refuse(Reason::NoTor), decider),
        explained => explained,
    };
    let file = loaded.file.as_deref();
    let by = match decider {
        Decider::BuiltIn => "a rule that is built in, and that no file can change".to_owned(),
        Decider::Rule { line } => format!("the rule in line {line} of {}", shown(file)),
        Decider::RefusePorts => format!("refuse_ports, {}", shown(file)),
        Decider::Default => format!("the default, {}", shown(file)),
    };
    let (way, hops, reason) = match verdict {
        Verdict::Circuit { hops } => ("circuit", hops, None),
        Verdict::Tor => ("tor", None, None),
        Verdict::Refuse(reason) => ("refuse", None, Some(reason)),
    };
    if args.json {
        json_line(
            "route",
            &serde_json::json!({
                "way": way,
                "hops": hops,
                "reason": reason.map(|reason| reason.to_string()),
                "by": by,
                "line": match decider {
                    Decider::Rule { line } => Some(line),
                    Decider::BuiltIn | Decider::RefusePorts | Decider::Default => None,
                },
            }),
        );
    } else {
        let says = match (verdict, hops) {
            (Verdict::Circuit { .. }, None) => {
                "goes through a circuit, of as many relays as --hops says".to_owned()
            }
            (Verdict::Circuit { .. }, Some(1)) => {
                "goes through one relay, which knows both you and whom you reach".to_owned()
            }
            (Verdict::Circuit { .. }, Some(hops)) => {
                format!("goes through a circuit of {hops} relays")
            }
            (Verdict::Tor, _) => "goes through Tor".to_owned(),
            (Verdict::Refuse(reason), _) => format!("is refused: {reason}"),
        };
        print(&format!("{says}\ndecided by {by}\n"))?;
    }
    match verdict {
        Verdict::Circuit { .. } | Verdict::Tor => Ok(()),
        Verdict::Refuse(reason) => {
            let error = Error::new(Kind::Policy, "nothing would be sent");
            Err(match reason.hint() {
                Some(hint) => error.with_hint(hint),
                None => error,
            })
        }
    }
}

fn shown(file: Option<&Path>) -> String {
    match file {
        Some(file) => file.display().to_string(),
        None => "as there is no routes file".to_owned(),
    }
}

fn usage(what: &str) -> Error {
    Error::local(what).with_exit(Exit::Usage)
}

/// Looks at everything.
fn look(args: &Args) -> Result<(), Error> {
    let now = unix_now();
    let mut findings = Vec::new();
    match network_path(args.network.as_deref()) {
        Ok(path) => network(&path, now, &mut findings),
        Err(error) => findings.push(Finding::bad("network", &error)),
    }
    findings.push(routes(&args.routes));
    findings.push(state(args.state.as_deref()));
    if args.json {
        for finding in &findings {
            json_line("check", finding);
        }
    } else {
        print(&as_text(&findings))?;
    }
    match findings.iter().find_map(|finding| finding.exit) {
        None => Ok(()),
        Some(exit) => Err(Error::local("not everything is as it must be").with_exit(exit)),
    }
}

fn as_text(findings: &[Finding]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            let outcome = match finding.outcome {
                Outcome::Good => "good",
                Outcome::Note => "note",
                Outcome::Bad => "BAD",
            };
            [
                finding.what.to_owned(),
                outcome.to_owned(),
                finding.says.replace('\n', " "),
            ]
        })
        .collect();
    let header = [("WHAT", Side::Left), ("", Side::Left), ("SAYS", Side::Left)];
    let mut text = table(header, &rows);
    for finding in findings {
        if let Some(hint) = &finding.hint {
            text.push_str(&format!("{}: {hint}\n", finding.what));
        }
    }
    text
}

/// The network file, the relay list, and what the two tell about the clock.
fn network(path: &Path, now: u64, findings: &mut Vec<Finding>) {
    let file = match NetworkFile::load_file(path) {
        Ok(file) => file,
        Err(error) => return findings.push(Finding::bad("network", &error)),
    };
    findings.push(Finding::good(
        "network",
        format!(
            "{}, {} of {} authorities must sign",
            file.name,
            file.threshold,
            file.authorities.len()
        ),
    ));
    let list = file.load_list(now);
    findings.push(match &list {
        Ok(list) => relay_list(list, &file, now),
        Err(error) => Finding::bad("relay list", error),
    });
    findings.push(clock(&file, list.as_ref().ok(), now));
}

fn relay_list(list: &RelayList, file: &NetworkFile, now: u64) -> Finding {
    let relays = list.relays();
    let guards = relays.iter().filter(|relay| relay.roles.guard).count();
    let exits = relays.iter().filter(|relay| relay.roles.exit).count();
    let left = until(list.valid_until(), now);
    let says = format!(
        "{} relays, {guards} guards, {exits} exits; signed by {} of {}; valid for {left}",
        relays.len(),
        list.signed_by(),
        file.authorities.len(),
    );
    if guards == 0 || exits == 0 {
        let hint =
            "no circuit can be built without a guard and an exit: ask the network's operators";
        return Finding::note("relay list", says, hint);
    }
    if list.valid_until().saturating_sub(now) < SOON {
        let hint = "a newer list is fetched through the first circuit; after its end there is none";
        return Finding::note("relay list", says, hint);
    }
    Finding::good("relay list", says)
}

/// A clock that is wrong makes lists of the past look good, or good lists look past.
fn clock(file: &NetworkFile, list: Option<&RelayList>, now: u64) -> Finding {
    let written = file.list.metadata().and_then(|found| found.modified()).ok();
    let written = written
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_secs());
    let newest = list.and_then(|list| list.relays().iter().map(|relay| relay.published).max());
    let latest = newest.unwrap_or(0).max(written);
    let says = date(now);
    if latest > now.saturating_add(CLOCK_SLACK) {
        let says = format!("{says}, but the relay list was written at {}", date(latest));
        let hint = "this computer's clock is behind: set it, since an old relay list would be taken for a good one";
        return Finding::note("clock", says, hint);
    }
    Finding::good("clock", says)
}

fn routes(args: &RoutesArgs) -> Finding {
    let loaded = match args.load() {
        Ok(loaded) => loaded,
        Err(error) => return Finding::bad("routes", &error),
    };
    let says = match &loaded.file {
        Some(file) => format!("{}, {} rules", file.display(), loaded.policy.rules()),
        None => "no file: names and public addresses go through circuits".to_owned(),
    };
    let says = match loaded.first_link {
        FirstLink::Tcp => says,
        FirstLink::Tor => format!("{says}; the first relay is reached through Tor"),
    };
    if loaded.policy.has_single_hops() {
        let hint = "a rule has hops = 1: the relay that it uses knows both you and whom you reach";
        return Finding::note("routes", says, hint);
    }
    if loaded.policy.allows_private() {
        let hint = "--allow-private is for relays of your own: others' exits learn what private addresses you ask for";
        return Finding::note("routes", says, hint);
    }
    Finding::good("routes", says)
}

fn state(named: Option<&Path>) -> Finding {
    let path = match named.map_or_else(StateDir::default_path, |path| Ok(path.to_owned())) {
        Ok(path) => path,
        Err(error) => return Finding::bad("state", &error.into()),
    };
    // Opening would make it.
    if path.symlink_metadata().is_err() {
        let says = format!(
            "{} is not there yet; the first use makes it",
            path.display()
        );
        return Finding::good("state", says);
    }
    let dir = match StateDir::open(&path) {
        Ok(dir) => dir,
        Err(error) => return Finding::bad("state", &error.into()),
    };
    let closed = format!("{}, closed to other users", dir.path().display());
    match dir.is_locked() {
        Ok(false) => Finding::good("state", closed),
        Ok(true) => Finding::note(
            "state",
            format!("{closed}, in use"),
            "another hushswarm is running with it: a second one needs its own --state DIR",
        ),
        Err(error) => Finding::bad("state", &error.into()),
    }
}

fn print(text: &str) -> Result<(), Error> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| Error::local("can't write to the terminal").with_source(source))
}
