//! What a person is shown: what escaped, what the world learned, and the verdict. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::classify::{CLASSES, Class};
use super::outcome::{Ended, Escaped, Outcome, Party, Way};

/// Columns of the text: what every terminal has room for.
const WIDTH: usize = 100;
/// Width of the first column.
const FIRST: usize = 24;
/// Width of a column of numbers.
const NUMBER: usize = 9;
/// Width of a column of text.
const TEXT: usize = 36;

/// Lines shown of a program that did not get its file.
const LAST: usize = 8;

/// The runs that were made, the plain one first.
pub(super) struct Runs {
    /// Without hushswarm.
    pub(super) plain: Option<Outcome>,
    /// Through hushswarm.
    pub(super) through: Option<Outcome>,
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing escaped through hushswarm, and the plain run shows that it could have.
    Clean,
    /// Nothing escaped through hushswarm, but nothing did plain either, or the program did nothing: this proves little.
    Unproven,
    /// Something escaped.
    Leak,
    /// Packets were lost by the capture: nothing is known.
    Unknown,
    /// There was no run through hushswarm.
    PlainOnly,
}

impl Verdict {
    /// For scripts.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Unproven => "unproven",
            Self::Leak => "leak",
            Self::Unknown => "unknown",
            Self::PlainOnly => "plain-only",
        }
    }
}

impl Runs {
    fn all(&self) -> impl Iterator<Item = &Outcome> {
        self.plain.iter().chain(&self.through)
    }

    /// Whether something escaped.
    pub(super) fn verdict(&self) -> Verdict {
        let Some(through) = &self.through else {
            return Verdict::PlainOnly;
        };
        if !through.faults().is_empty() {
            return Verdict::Leak;
        }
        if self.all().any(|run| run.lost > 0) {
            return Verdict::Unknown;
        }
        // A program that never reached hushswarm's circuits shows nothing; nor does one that can't leak.
        let could = self.plain.as_ref().is_none_or(|plain| plain.packets() > 0);
        if could && through.guard_packets > 0 && !through.learned.parties.is_empty() {
            Verdict::Clean
        } else {
            Verdict::Unproven
        }
    }

    /// The whole report.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        self.escaped(&mut out);
        self.learned(&mut out);
        self.transfer(&mut out);
        self.last_words(&mut out);
        out
    }

    fn heads(&self) -> Vec<&'static str> {
        self.all()
            .map(|run| match run.way {
                Way::Plain => "plain",
                Way::Run => "through hushswarm run",
                Way::Proxy => "through hushswarm proxy",
            })
            .collect()
    }

    fn escaped(&self, out: &mut String) {
        let outage = self.all().any(|run| run.fault);
        let columns = if outage { 3 } else { 2 };
        let _ = write!(out, "{:<FIRST$}", "Packets that escaped");
        for head in self.heads() {
            let _ = write!(out, "  {head:>width$}", width = columns * (NUMBER + 1));
        }
        let _ = write!(out, "\n{:<FIRST$}", "");
        for _ in self.all() {
            let _ = write!(out, "  {:>w$} {:>w$}", "IPv4", "IPv6", w = NUMBER);
            if outage {
                let _ = write!(out, " {:>NUMBER$}", "outage");
            }
        }
        out.push('\n');
        for class in CLASSES {
            if self.all().all(|run| rows(run, class).next().is_none()) && !always(class) {
                continue;
            }
            let _ = write!(out, "  {:<w$}", class.title(), w = FIRST - 2);
            for run in self.all() {
                let sum = |six: bool| -> u64 {
                    rows(run, class)
                        .filter(|row| row.ipv6 == six)
                        .map(|row| row.packets)
                        .sum()
                };
                let _ = write!(
                    out,
                    "  {:>w$} {:>w$}",
                    count(sum(false)),
                    count(sum(true)),
                    w = NUMBER
                );
                if outage {
                    let during: u64 = rows(run, class).map(|row| row.during_outage).sum();
                    let _ = write!(out, " {:>NUMBER$}", count(during));
                }
            }
            out.push('\n');
        }
        let _ = write!(out, "  {:<w$}", "all", w = FIRST - 2);
        for run in self.all() {
            let sum = |six: bool| -> u64 {
                let rows = run.escaped.iter().filter(|row| row.ipv6 == six);
                rows.map(|row| row.packets).sum()
            };
            let _ = write!(
                out,
                "  {:>w$} {:>w$}",
                grouped(sum(false)),
                grouped(sum(true)),
                w = NUMBER
            );
            if outage {
                let during: u64 = run.escaped.iter().map(|row| row.during_outage).sum();
                let _ = write!(out, " {:>NUMBER$}", grouped(during));
            }
        }
        out.push('\n');
        if let Some(through) = &self.through {
            let _ = writeln!(
                out,
                "  ({} packets went to hushswarm's guard: TCP, encrypted, the only way out it has)",
                grouped(through.guard_packets)
            );
        }
        let leaks = self.through.iter().flat_map(|run| &run.escaped);
        for leak in leaks {
            let to: Vec<&str> = leak.to.iter().map(String::as_str).collect();
            let line = format!("  escaped: {} to {}", leak.class.title(), to.join(", "));
            let _ = writeln!(out, "{}", cut(&line, WIDTH));
        }
    }

    fn learned(&self, out: &mut String) {
        let _ = write!(out, "\n{:<FIRST$}", "What the world learned");
        for head in self.heads() {
            let _ = write!(out, "  {head:<TEXT$}");
        }
        trim(out);
        let names: BTreeSet<&String> = self
            .all()
            .flat_map(|run| run.learned.parties.keys())
            .collect();
        if names.is_empty() {
            let _ = writeln!(out, "  nobody was reached");
        }
        for name in names {
            let parties: Vec<Option<&Party>> = self
                .all()
                .map(|run| run.learned.parties.get(name))
                .collect();
            line(out, &format!("  {name} saw"), &parties, |party| {
                let from: Vec<&str> = party.from.iter().map(String::as_str).collect();
                let from = from.join(", ");
                if party.from.contains(super::addresses::YOU) {
                    from.replacen("you", "YOUR ADDRESS", 1)
                } else {
                    from
                }
            });
            let kinds: BTreeSet<&String> = parties
                .iter()
                .flatten()
                .flat_map(|party| party.said.keys())
                .collect();
            for kind in kinds {
                line(out, &format!("    {kind}"), &parties, |party| {
                    let values = party.said.get(kind).into_iter().flatten();
                    let values: Vec<&str> = values.map(String::as_str).collect();
                    values.join(", ")
                });
            }
        }
        let runs: Vec<Option<&Outcome>> = self.all().map(Some).collect();
        line(out, "  your address, told", &runs, |run| {
            let places: Vec<&str> = run.learned.own_address.iter().map(String::as_str).collect();
            if places.is_empty() {
                "never".to_owned()
            } else {
                places.join(", ")
            }
        });
        line(out, "  open to strangers", &runs, |run| {
            let open = run.open.iter().map(|open| {
                let answers = if open.answers { " ANSWERS" } else { "" };
                format!("{} {}{answers}", open.proto, open.at)
            });
            let open: Vec<String> = open.collect();
            if open.is_empty() {
                "no port".to_owned()
            } else {
                open.join(", ")
            }
        });
    }

    fn transfer(&self, out: &mut String) {
        let _ = write!(out, "\n{:<FIRST$}", "Download");
        for run in self.all() {
            let text = match (run.complete, run.seconds) {
                (true, Some(seconds)) => format!("complete and intact in {seconds:.1} s"),
                _ => format!(
                    "not complete ({})",
                    match run.ended {
                        Ended::Program => "the program ended",
                        Ended::Fault => "the fault came before",
                        Ended::Time | Ended::Complete => "the time was over",
                    }
                ),
            };
            let _ = write!(out, "  {text:<TEXT$}");
        }
        trim(out);
    }

    fn last_words(&self, out: &mut String) {
        out.push('\n');
        if let Some(plain) = &self.plain {
            let kinds: BTreeSet<Class> = plain.escaped.iter().map(|row| row.class).collect();
            let _ = writeln!(
                out,
                "Plain: {} packets of {} kinds could be seen on its cable.",
                grouped(plain.packets()),
                kinds.len()
            );
        }
        let lost: u64 = self.all().map(|run| run.lost).sum();
        let _ = match self.verdict() {
            Verdict::PlainOnly => writeln!(out, "There was no run through hushswarm."),
            Verdict::Clean => writeln!(out, "Through hushswarm: NOTHING ESCAPED."),
            Verdict::Unproven => writeln!(
                out,
                "Through hushswarm: nothing escaped, but this proves little: {}.",
                self.why_unproven()
            ),
            Verdict::Unknown => writeln!(
                out,
                "NOTHING IS PROVEN: the capture lost {lost} packets. Run it again while the computer is idle."
            ),
            Verdict::Leak => {
                let faults = self.through.as_ref().map(Outcome::faults);
                writeln!(
                    out,
                    "Through hushswarm: IT LEAKS: {}.",
                    faults.unwrap_or_default().join("; ")
                )
            }
        };
        for run in self.all().filter(|run| !run.complete && !run.fault) {
            let way = if run.way == Way::Plain {
                "plain"
            } else {
                "through hushswarm"
            };
            let ended = run.status.as_deref().unwrap_or("it was stopped");
            let _ = writeln!(out, "\nThe program's last words, {way} ({ended}):");
            let lines: Vec<&str> = run
                .tail
                .lines()
                .filter(|line| !line.trim().is_empty())
                .collect();
            for line in &lines[lines.len().saturating_sub(LAST)..] {
                let _ = writeln!(out, "  {}", cut(line, WIDTH - 2));
            }
        }
    }

    fn why_unproven(&self) -> &'static str {
        let through = self.through.as_ref();
        if self
            .plain
            .as_ref()
            .is_some_and(|plain| plain.packets() == 0)
        {
            "plain it sent nothing either"
        } else if through.is_some_and(|run| run.guard_packets == 0) {
            "nothing reached a guard"
        } else {
            "the world heard nothing of it"
        }
    }
}

fn rows(run: &Outcome, class: Class) -> impl Iterator<Item = &Escaped> {
    run.escaped.iter().filter(move |row| row.class == class)
}

/// Classes that are shown even when there was nothing of them: those that people ask for.
fn always(class: Class) -> bool {
    matches!(
        class,
        Class::Dns
            | Class::Dht
            | Class::HttpTracker
            | Class::UdpTracker
            | Class::PeerTcp
            | Class::Utp
            | Class::Lsd
            | Class::Ssdp
            | Class::NatPmp
    )
}

fn count(number: u64) -> String {
    if number == 0 {
        "-".to_owned()
    } else {
        grouped(number)
    }
}

/// A number with commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn cut(text: &str, width: usize) -> String {
    // Programs of the world choose some of these texts: nothing in them may move the cursor.
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(2)).collect();
    format!("{kept}..")
}

fn trim(out: &mut String) {
    out.truncate(out.trim_end().len());
    out.push('\n');
}

/// One line of the second table; left out where there is nothing to say.
fn line<T>(out: &mut String, title: &str, of: &[Option<&T>], say: impl Fn(&T) -> String) {
    let texts: Vec<String> = of
        .iter()
        .map(|one| one.map(&say).unwrap_or_default())
        .collect();
    if texts.iter().all(String::is_empty) {
        return;
    }
    let _ = write!(out, "{:<FIRST$}", cut(title, FIRST));
    for text in texts {
        let text = if text.is_empty() { "-" } else { &text };
        let _ = write!(out, "  {:<TEXT$}", cut(text, TEXT));
    }
    trim(out);
}

#[cfg(test)]
mod tests;
