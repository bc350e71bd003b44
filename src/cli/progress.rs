//! What a transfer shows while it runs: a bar on a terminal, plain lines elsewhere, JSON lines on request.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::dht::Counters;
use crate::hidden::HostStatus;

/// How often plain lines come while nothing special happens.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// How often JSON lines come.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// How a transfer stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct View {
    /// What is being done, one or two words: `downloading`, `checking`, `waiting`.
    pub state: &'static str,
    /// Why it waits, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Verified bytes.
    pub done: u64,
    /// All bytes; 0 while unknown.
    pub total: u64,
    /// Bytes a second.
    pub down: u64,
    /// Bytes a second.
    pub up: u64,
    /// How the last lookup in the DHT goes or went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dht: Option<String>,
    /// Lookups in the DHT: those that wait, run and ended, what they found and sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookups: Option<Counters>,
    /// Peers connected.
    pub peers: usize,
    /// Peers known.
    pub known: usize,
    /// Web seeds that give something.
    #[serde(skip_serializing_if = "is_none")]
    pub web_seeds: usize,
    /// Relays on the way; 0 by Tor alone.
    pub hops: usize,
    /// Circuits open.
    pub circuits: usize,
    /// Seconds left, where it can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// Of hidden seeds alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Visits>,
}

/// How hidden seeds stand, together: counts alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Visits {
    /// Introduction points that stand.
    pub points: usize,
    /// Visitors' streams that are open now: one who downloads may have several.
    pub visitors: usize,
    /// Visitors that were met so far.
    pub met: usize,
    /// Introductions that were turned away so far, unanswered: more than the limits, not to be read, or from who is not let in.
    pub refused: usize,
    /// The most work that visitors are asked for before they are introduced, tries on average; 0, and not said, while there is no need.
    #[serde(skip_serializing_if = "none_asked")]
    pub effort: u32,
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

fn none_asked(effort: &u32) -> bool {
    *effort == 0
}

impl Visits {
    /// Of one.
    pub fn of(status: HostStatus) -> Self {
        let HostStatus { standing, counters } = status;
        Self {
            points: standing,
            visitors: counters.open,
            met: counters.met,
            refused: counters.refused + counters.foreign,
            effort: counters.effort,
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            points: self.points + other.points,
            visitors: self.visitors + other.visitors,
            met: self.met + other.met,
            refused: self.refused + other.refused,
            effort: self.effort.max(other.effort),
        }
    }
}

/// Where progress goes.
pub enum Progress {
    /// A bar that is drawn over.
    Bar(ProgressBar),
    /// A line now and then.
    Plain {
        /// When the last one was written.
        last: Option<Instant>,
        /// What it said was being done.
        state: &'static str,
    },
    /// A JSON object a line, on standard output.
    Json {
        /// When the last one was written.
        last: Option<Instant>,
    },
    /// Nothing.
    Quiet,
}

impl Progress {
    /// Chooses by what standard error is.
    pub fn new(json: bool) -> Self {
        if json {
            return Self::Json { last: None };
        }
        if !std::io::stderr().is_terminal() {
            return Self::Plain {
                last: None,
                state: "",
            };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self::Bar(bar)
    }

    /// Shows how it stands now.
    pub fn show(&mut self, view: &View) {
        match self {
            Self::Bar(bar) => {
                bar.set_style(style(view));
                if view.total > 0 {
                    bar.set_length(view.total);
                }
                bar.set_position(view.done);
                bar.set_prefix(view.state);
                bar.set_message(details(view));
            }
            Self::Plain { last, state } => {
                let due = last.is_none_or(|last| last.elapsed() >= PLAIN_EVERY);
                if due || *state != view.state {
                    (*last, *state) = (Some(Instant::now()), view.state);
                    // A closed standard error is no reason to stop a transfer.
                    let _ = writeln!(std::io::stderr(), "{}", line(view));
                }
            }
            Self::Json { last } => {
                if last.is_none_or(|last| last.elapsed() >= JSON_EVERY) {
                    *last = Some(Instant::now());
                    json_line("progress", view);
                }
            }
            Self::Quiet => {}
        }
    }

    /// Says something once, above the bar.
    pub fn say(&self, text: &str) {
        match self {
            Self::Bar(bar) => bar.println(text),
            Self::Plain { .. } => {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
            Self::Json { .. } | Self::Quiet => {}
        }
    }

    /// Ends the display; the last state stays in view.
    pub fn finish(&self, view: &View) {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Json { .. } => json_line("progress", view),
            Self::Plain { .. } | Self::Quiet => {}
        }
    }
}

/// Writes one JSON object with its kind.
pub fn json_line(event: &str, content: &impl Serialize) {
    #[derive(Serialize)]
    struct Line<'a, T> {
        event: &'a str,
        #[serde(flatten)]
        content: &'a T,
    }
    if let Ok(text) = serde_json::to_string(&Line { event, content }) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

fn style(view: &View) -> ProgressStyle {
    let template = if view.total > 0 {
        "{prefix:>11} {percent:>3}% [{bar:28}] {msg}"
    } else {
        "{prefix:>11} {spinner} {msg}"
    };
    // Both templates are constants that are known to be good.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn details(view: &View) -> String {
    let mut parts = Vec::new();
    if view.total > 0 {
        parts.push(format!(
            "{} of {}",
            BinaryBytes(view.done),
            BinaryBytes(view.total)
        ));
    }
    if view.down > 0 {
        parts.push(format!("{}/s", BinaryBytes(view.down)));
    }
    if view.up > 0 {
        parts.push(format!("{}/s up", BinaryBytes(view.up)));
    }
    parts.push(count(view.peers, "peer"));
    if view.web_seeds > 0 {
        parts.push(count(view.web_seeds, "web seed"));
    }
    if let Some(hidden) = view.hidden {
        parts.push(count(hidden.points, "introduction point"));
        parts.push(count(hidden.visitors, "visit"));
        if hidden.refused > 0 {
            parts.push(format!("{} refused", hidden.refused));
        }
        if hidden.effort > 0 {
            parts.push(format!("under load: visitors work ({})", hidden.effort));
        }
    }
    parts.push(match view.hops {
        0 => "through Tor".to_owned(),
        hops => count(hops, "hop"),
    });
    if let Some(left) = view.left {
        parts.push(format!("{} left", duration(left)));
    }
    if let Some(reason) = &view.reason {
        parts.push(reason.clone());
    }
    parts.join(", ")
}

fn line(view: &View) -> String {
    let percent = (view.done * 100).checked_div(view.total);
    let percent = percent.map_or(String::new(), |percent| format!(" {percent}%,"));
    format!("{}:{percent} {}", view.state, details(view))
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `42 s`, `3:07 min`, `2:05 h`, `4 d`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        3600..172_800 => format!("{}:{:02} h", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plain_line_says_how_far_how_fast_and_how_long() {
        let view = View {
            state: "downloading",
            done: 220 << 20,
            total: 512 << 20,
            down: 24 << 20,
            peers: 1,
            hops: 3,
            left: Some(72),
            ..View::default()
        };
        assert_eq!(
            line(&view),
            "downloading: 42%, 220.00 MiB of 512.00 MiB, 24.00 MiB/s, 1 peer, 3 hops, 1:12 min left"
        );
    }

    #[test]
    fn a_hidden_seed_says_how_it_stands_in_counts_alone() {
        let one = |standing, open, refused| {
            Visits::of(HostStatus {
                standing,
                counters: crate::hidden::Counters {
                    open,
                    refused,
                    foreign: 1,
                    met: 5,
                    taken: 7,
                    effort: 0,
                },
            })
        };
        let view = View {
            state: "seeding",
            hops: 3,
            hidden: Some(one(3, 2, 0).plus(one(1, 0, 2))),
            ..View::default()
        };
        assert_eq!(
            line(&view),
            "seeding: 0 peers, 4 introduction points, 2 visits, 4 refused, 3 hops"
        );
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(
            json["hidden"],
            serde_json::json!({"points": 4, "visitors": 2, "met": 10, "refused": 4})
        );
        let none = serde_json::to_value(View::default()).unwrap();
        assert!(none.get("hidden").is_none());
        let loaded = Visits {
            effort: 512,
            ..one(1, 0, 0)
        };
        let view = View {
            state: "seeding",
            hops: 3,
            hidden: Some(loaded.plus(one(3, 2, 0))),
            ..View::default()
        };
        assert_eq!(
            line(&view),
            "seeding: 0 peers, 4 introduction points, 2 visits, 2 refused, under load: visitors work (512), 3 hops"
        );
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["hidden"]["effort"], 512);
    }

    #[test]
    fn waiting_says_why() {
        let view = View {
            state: "waiting",
            reason: Some("no guard relay answers".to_owned()),
            hops: 3,
            ..View::default()
        };
        assert_eq!(
            line(&view),
            "waiting: 0 peers, 3 hops, no guard relay answers"
        );
    }
}
