//! The program under test: its placeholders, its start in the namespaces of its computer, and its end.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::outcome::{Settings, Way};
use super::stage::Computer;
use crate::error::{Error, Kind};

/// Where `hushswarm proxy` listens.
pub(super) const PROXY_HOST: &str = "127.0.0.1";
/// The same, its port: also that of `hushswarm run`.
pub(super) const PROXY_PORT: u16 = 1080;
/// How long a proxy may take until it listens.
const PROXY_READY: Duration = Duration::from_secs(60);
/// How long a program may take to end when it is asked to.
const END: Duration = Duration::from_secs(10);
/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of a program's output that are shown.
const TAIL: u64 = 1500;
/// Variables of the user's own session that lead out of the world, or name other proxies.
const DROPPED: [&str; 14] = [
    "ALL_PROXY",
    "all_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "XDG_RUNTIME_DIR",
    "SSH_AUTH_SOCK",
];

/// What placeholders stand for.
pub(super) struct Places {
    values: Vec<(&'static str, String)>,
}

impl Places {
    /// `dir` is where the file is to arrive; the rest describes the torrent.
    pub(super) fn new(dir: &Path, torrent: &Path, magnet: &str, tracker: &str, url: &str) -> Self {
        let values = vec![
            ("{dir}", dir.display().to_string()),
            ("{torrent}", torrent.display().to_string()),
            ("{magnet}", magnet.to_owned()),
            ("{tracker}", tracker.to_owned()),
            ("{url}", url.to_owned()),
            ("{proxy-host}", PROXY_HOST.to_owned()),
            ("{proxy-port}", PROXY_PORT.to_string()),
            ("{proxy}", format!("{PROXY_HOST}:{PROXY_PORT}")),
        ];
        Self { values }
    }

    /// A text with its placeholders filled in.
    pub(super) fn fill(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (place, value) in &self.values {
            out = out.replace(place, value);
        }
        out
    }
}

/// The processes of one run.
pub(super) struct Running {
    /// What the time and the faults are about: the program, or the `hushswarm run` around it.
    program: Child,
    /// The `hushswarm proxy` beside it.
    proxy: Option<Child>,
    logs: Vec<PathBuf>,
}

fn local(what: &str) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::local(format!("can't {what}")).with_source(source)
}

/// A command of the program's computer that starts in `dir`.
fn command(computer: &Computer, dir: &Path, log: &Path) -> Result<Command, Error> {
    let log = std::fs::File::create(log).map_err(local("write the program's output"))?;
    let errors = log
        .try_clone()
        .map_err(local("write the program's output"))?;
    let mut sh = computer.command("sh");
    sh.args(["-c", "cd \"$1\" && shift && exec \"$@\"", "sh"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    for name in DROPPED {
        sh.env_remove(name);
    }
    Ok(sh)
}

impl Running {
    /// Starts the program, and what it is to go through. `network` is the file of the world's relays.
    ///
    /// # Errors
    /// A file can't be written, or the proxy does not come up.
    pub(super) fn start(
        settings: &Settings,
        computer: &Computer,
        network: &Path,
        places: &Places,
    ) -> Result<Self, Error> {
        let (dir, home) = (settings.dir.join("files"), settings.dir.join("home"));
        std::fs::create_dir_all(&dir).map_err(local("make a folder for the program"))?;
        std::fs::create_dir_all(&home).map_err(local("make a folder for the program"))?;
        for (target, text) in &settings.templates {
            let target = home.join(places.fill(target));
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent).map_err(local("write a template"))?;
            }
            std::fs::write(target, places.fill(text)).map_err(local("write a template"))?;
        }
        let log = settings.dir.join("program.log");
        let mut running = command(computer, &dir, &log)?;
        let mut logs = vec![log];
        let ours = |command: &mut Command, name: &str| {
            command.arg(&settings.exe).arg(name);
            command.arg("--network").arg(network);
            command.arg("--state").arg(settings.dir.join("state"));
            command.args(["--hops", &settings.hops.to_string()]);
        };
        let mut proxy = None;
        match settings.way {
            Way::Plain => {}
            Way::Run => {
                ours(&mut running, "run");
                running.arg("--");
            }
            Way::Proxy => {
                let log = settings.dir.join("proxy.log");
                let mut command = command(computer, &settings.dir, &log)?;
                ours(&mut command, "proxy");
                logs.push(log.clone());
                let listen = format!("{PROXY_HOST}:{PROXY_PORT}");
                let child = command
                    .args(["--listen", &listen])
                    .spawn()
                    .map_err(local("start hushswarm proxy"))?;
                proxy = Some(await_proxy(child, computer, &log)?);
            }
        }
        running.args(settings.program.iter().map(|arg| places.fill(arg)));
        if !settings.keep_home {
            running.env("HOME", &home);
            for (name, folder) in [
                ("XDG_CONFIG_HOME", ".config"),
                ("XDG_DATA_HOME", ".local/share"),
                ("XDG_STATE_HOME", ".local/state"),
                ("XDG_CACHE_HOME", ".cache"),
            ] {
                running.env(name, home.join(folder));
            }
        }
        for (name, value) in &settings.env {
            running.env(name, places.fill(value));
        }
        let program = running.spawn().map_err(local("start the program"))?;
        Ok(Self {
            program,
            proxy,
            logs,
        })
    }

    /// How the program ended, where it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.program.try_wait().ok().flatten()
    }

    /// Kills the hushswarm that serves the program.
    pub(super) fn kill_hushswarm(&mut self, way: Way) {
        let victim = match (way, &mut self.proxy) {
            (Way::Run, _) => &mut self.program,
            (_, Some(proxy)) => proxy,
            (Way::Plain | Way::Proxy, None) => return,
        };
        let _ = victim.kill();
    }

    /// Asks the program to end, then makes it. Everything else ends with the namespaces.
    pub(super) fn stop(&mut self) {
        if let Some(id) = i32::try_from(self.program.id())
            .ok()
            .and_then(Pid::from_raw)
            && self.ended().is_none()
        {
            let _ = kill_process(id, Signal::TERM);
        }
        let deadline = Instant::now() + END;
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        for child in std::iter::once(&mut self.program).chain(&mut self.proxy) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The end of what was written.
    pub(super) fn tail(&self) -> String {
        let tails = self.logs.iter().map(|log| tail(log));
        tails.collect::<Vec<_>>().join("")
    }
}

fn await_proxy(mut child: Child, computer: &Computer, log: &Path) -> Result<Child, Error> {
    let deadline = Instant::now() + PROXY_READY;
    while Instant::now() < deadline {
        let table = std::fs::read_to_string(computer.net_file("tcp")).unwrap_or_default();
        let wanted = format!(":{PROXY_PORT:04X} ");
        let listens = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields
                .next()
                .is_some_and(|local| format!("{local} ").ends_with(&wanted));
            local && fields.nth(1) == Some("0A")
        };
        if table.lines().any(listens) {
            return Ok(child);
        }
        if child.try_wait().ok().flatten().is_some() {
            break;
        }
        std::thread::sleep(LOOK);
    }
    let _ = child.kill();
    let what = format!("hushswarm proxy did not come up: {}", tail(log).trim());
    Err(Error::new(Kind::Bug, what))
}

fn tail(log: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || {
        let mut file = std::fs::File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// Most files and folders looked at for the one that is to arrive, and how deep: a program's folder is small.
const MAX_FILES: usize = 2000;
const MAX_DEPTH: usize = 6;

/// Whether a file with this content lies somewhere below a folder, whatever it is called.
pub(super) fn arrived(dir: &Path, size: u64, hash: &blake3::Hash) -> bool {
    let (mut left, mut folders) = (MAX_FILES, vec![(dir.to_owned(), 0)]);
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            left = match left.checked_sub(1) {
                Some(left) => left,
                None => return false,
            };
            let Ok(data) = entry.metadata() else { continue };
            if data.is_dir() && depth < MAX_DEPTH {
                folders.push((entry.path(), depth + 1));
            } else if data.is_file() && data.len() == size {
                let mut hasher = blake3::Hasher::new();
                let read = std::fs::File::open(entry.path())
                    .and_then(|mut file| hasher.update_reader(&mut file).map(drop));
                if read.is_ok() && hasher.finalize() == *hash {
                    return true;
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_other_braces_left() {
        let places = Places::new(
            "/d".as_ref(),
            "/t".as_ref(),
            "magnet:?x",
            "http://t",
            "http://u",
        );
        assert_eq!(
            places.fill("--dir={dir} {magnet} {x}"),
            "--dir=/d magnet:?x {x}"
        );
        assert_eq!(places.fill("socks5h://{proxy}"), "socks5h://127.0.0.1:1080");
        assert_eq!(places.fill("{proxy-host} {proxy-port}"), "127.0.0.1 1080");
    }

    #[test]
    fn a_file_counts_by_its_content_wherever_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let hash = blake3::hash(b"content");
        assert!(!arrived(dir.path(), 7, &hash));
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        std::fs::write(dir.path().join("deep/a.part"), b"CONTENT").unwrap();
        assert!(!arrived(dir.path(), 7, &hash));
        std::fs::write(dir.path().join("deep/b"), b"content").unwrap();
        assert!(arrived(dir.path(), 7, &hash));
    }
}
