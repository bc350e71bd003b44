//! Reads the routes file again on SIGHUP. New rules hold at once for whatever is opened from then on; what is open goes on.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::routes::{Loaded, RoutesArgs};
use crate::config::FirstLink;
use crate::error::Error;
use crate::route::gate::Gate;
use crate::route::policy::Policy;

/// Rules are read again on SIGHUP for as long as this is held.
pub struct Reloading(tokio::task::AbortHandle);

impl Drop for Reloading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// From now on, SIGHUP makes the gate read its rules again. `loaded` is what it holds now. A file that can't be read, or
/// is gone, leaves the rules in force as they are, and a warning says which line is wrong.
///
/// # Errors
/// The system gives no signals: tell the user. Without this, SIGHUP ends the process.
pub fn on_hangup(gate: Arc<Gate>, args: RoutesArgs, loaded: &Loaded) -> Result<Reloading, Error> {
    on_hangup_with(move |policy| gate.set_policy(policy), args, loaded)
}

/// The same for whoever holds rules otherwise: `set` is given the new ones.
///
/// # Errors
/// As [`on_hangup`].
pub(super) fn on_hangup_with(
    set: impl Fn(Policy) + Send + 'static,
    args: RoutesArgs,
    loaded: &Loaded,
) -> Result<Reloading, Error> {
    let mut hangups = signal(SignalKind::hangup())
        .map_err(|source| Error::local("can't listen for signals").with_source(source))?;
    let mut file = loaded.file.clone();
    let first_link = loaded.first_link;
    let task = tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            let new = reload(&set, &args, &mut file);
            if new.is_some_and(|new| new != first_link) {
                tell("first_link holds from the next start: links are opened as before until then");
            }
        }
    });
    Ok(Reloading(task.abort_handle()))
}

/// Reads the rules once more. `file` is the file that the rules in force came from. Gives what they say of the first link, which
/// can't change while the program runs.
fn reload(
    set: &impl Fn(Policy),
    args: &RoutesArgs,
    file: &mut Option<PathBuf>,
) -> Option<FirstLink> {
    // A file that was there is missed: rules don't vanish because an editor is just replacing it.
    let named = args.routes.clone().or_else(|| file.clone());
    let args = RoutesArgs {
        routes: named,
        ..args.clone()
    };
    match args.load() {
        Ok(loaded) => {
            let rules = loaded.policy.rules();
            *file = loaded.file;
            set(loaded.policy);
            tell(&format!("routes read again, {rules} rules in force"));
            Some(loaded.first_link)
        }
        Err(error) => {
            let mut text = Vec::new();
            // A vector takes everything.
            let _ = error.report(&mut text);
            let text = String::from_utf8_lossy(&text);
            tell(&format!(
                "the routes stay as they were; {}",
                text.trim_end()
            ));
            None
        }
    }
}

/// To the user, as every error; whatever the log's level is, who sent the signal wants to know.
fn tell(text: &str) {
    // A closed standard error is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use hushswarm_circuits::isolation::Isolation;
    use hushswarm_circuits::target::Target;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::route::gate::Ways;
    use crate::route::policy::Reason;
    use crate::route::{BoxFuture, BoxStream, Datagrams, Outside, RouteError};

    /// Streams that say back what they are told.
    struct Echo;

    impl Outside for Echo {
        fn connect<'a>(
            &'a self,
            _: &'a Target,
            _: Isolation,
        ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
            Box::pin(async {
                let (near, far) = tokio::io::duplex(64);
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(far);
                    tokio::io::copy(&mut read, &mut write).await
                });
                Ok(Box::new(near) as BoxStream)
            })
        }

        fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
            Box::pin(async { Err(RouteError::Refused) })
        }
    }

    impl Ways for Echo {
        fn circuits(&self, _: Option<u8>) -> Arc<dyn Outside> {
            Arc::new(Self)
        }
    }

    async fn echoes(stream: &mut BoxStream) -> bool {
        let mut answer = [0; 4];
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        answer == *b"ping"
    }

    async fn opens(gate: &Gate) -> Result<BoxStream, RouteError> {
        let target = Target::parse("tracker.example.org", 80).unwrap();
        gate.connect(&target, Isolation::new("test", b"", 0)).await
    }

    /// Sends this process a SIGHUP, and waits until `done`.
    async fn hang_up(done: impl AsyncFn() -> bool) {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP)
            .unwrap();
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    const REFUSES: &str = "[[rule]]\nhost = '*.example.org'\naction = 'refuse'\n";

    #[tokio::test]
    async fn a_hangup_puts_the_new_rules_in_force_and_open_streams_go_on() {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("routes.toml");
        std::fs::write(&file, "").unwrap();
        let args = RoutesArgs {
            routes: Some(file.clone()),
            ..RoutesArgs::default()
        };
        let loaded = args.load().unwrap();
        let gate = Gate::new(Arc::new(Echo), loaded.policy.clone());
        let reloading = on_hangup(Arc::clone(&gate), args, &loaded).unwrap();
        let mut open = opens(&gate).await.unwrap();

        std::fs::write(&file, REFUSES).unwrap();
        hang_up(async || opens(&gate).await.is_err()).await;
        let refused = opens(&gate).await.err();
        assert_eq!(
            refused,
            Some(RouteError::Forbidden(Reason::Rule { line: 1 }))
        );
        assert!(echoes(&mut open).await);

        std::fs::write(&file, "").unwrap();
        hang_up(async || opens(&gate).await.is_ok()).await;
        assert!(echoes(&mut open).await);
        drop(reloading);
    }

    #[test]
    fn a_file_that_is_wrong_or_gone_leaves_the_rules_as_they_are() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("routes.toml");
        std::fs::write(&path, REFUSES).unwrap();
        let args = RoutesArgs {
            routes: Some(path.clone()),
            allow_private: true,
            ..RoutesArgs::default()
        };
        let loaded = args.load().unwrap();
        let gate = Gate::new(Arc::new(Echo), loaded.policy.clone());
        let set = |policy| gate.set_policy(policy);
        let mut file = loaded.file.clone();
        for text in [
            "default = 'direct'\n",
            "rules = []\n",
            "[[rule]]\naction = 'circuit'\n",
            "\u{0}",
        ] {
            std::fs::write(&path, text).unwrap();
            reload(&set, &args, &mut file);
            assert_eq!(*gate.policy(), loaded.policy, "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        reload(&set, &args, &mut file);
        assert_eq!(*gate.policy(), loaded.policy);
        // Where no file was named, one that was there and is gone is missed too.
        reload(&set, &RoutesArgs::default(), &mut file);
        assert_eq!(*gate.policy(), loaded.policy);
        std::fs::write(&path, "default = 'refuse'\n").unwrap();
        reload(&set, &args, &mut file);
        assert_ne!(*gate.policy(), loaded.policy);
        assert!(gate.policy().allows_private());
    }
}
