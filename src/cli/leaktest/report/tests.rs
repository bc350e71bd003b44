use std::collections::BTreeMap;

use super::super::outcome::{Learned, OpenPort};
use super::*;

fn run(way: Way) -> Outcome {
    Outcome {
        way,
        ended: Ended::Complete,
        status: None,
        complete: true,
        seconds: Some(2.5),
        served: 1,
        fault: false,
        escaped: Vec::new(),
        guard_packets: 7,
        captured: 7,
        lost: 0,
        open: Vec::new(),
        learned: Learned::default(),
        tail: String::new(),
    }
}

fn leak(class: Class, ipv6: bool, packets: u64) -> Escaped {
    Escaped {
        class,
        ipv6,
        packets,
        bytes: packets * 60,
        during_outage: 0,
        to: BTreeSet::from(["tracker:6969".to_owned()]),
    }
}

fn runs() -> Runs {
    let mut plain = run(Way::Plain);
    plain.escaped = vec![leak(Class::Dns, false, 1234), leak(Class::Dns, true, 2)];
    let mut party = Party::default();
    party.came("you".to_owned());
    party.said("program", "Foo\x1b[2J/1.0");
    plain.learned.parties = BTreeMap::from([("HTTP tracker".to_owned(), party)]);
    let mut through = run(Way::Run);
    let mut party = Party::default();
    party.came("relay5".to_owned());
    through.learned.parties = BTreeMap::from([("HTTP tracker".to_owned(), party)]);
    Runs {
        plain: Some(plain),
        through: Some(through),
    }
}

#[test]
fn a_clean_run_beside_a_leaking_one_is_proof() {
    let runs = runs();
    assert_eq!(runs.verdict(), Verdict::Clean);
    let text = runs.text();
    assert!(text.contains("NOTHING ESCAPED"));
    assert!(text.contains("1,234") && text.contains("YOUR ADDRESS"));
    assert!(
        !text.contains('\x1b'),
        "a program's text can't move the cursor"
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= WIDTH),
        "{text}"
    );
}

#[test]
fn every_way_of_leaking_is_a_leak() {
    let breaks: [fn(&mut Outcome); 4] = [
        |run| run.escaped = vec![leak(Class::Tcp, false, 1)],
        |run| {
            run.learned.own_address.insert("ip=".to_owned());
        },
        |run| {
            let mut party = Party::default();
            party.came("you".to_owned());
            run.learned.parties.insert("DHT nodes".to_owned(), party);
        },
        |run| {
            run.open.push(OpenPort {
                proto: "tcp".to_owned(),
                at: "0.0.0.0:6881".to_owned(),
                answers: true,
            });
        },
    ];
    for leak in breaks {
        let mut runs = runs();
        leak(runs.through.as_mut().unwrap());
        assert_eq!(runs.verdict(), Verdict::Leak);
        assert!(runs.text().contains("IT LEAKS"));
    }
}

#[test]
fn silence_proves_nothing() {
    let breaks: [fn(&mut Runs); 3] = [
        |runs| runs.plain.as_mut().unwrap().escaped.clear(),
        |runs| runs.through.as_mut().unwrap().guard_packets = 0,
        |runs| runs.through.as_mut().unwrap().learned = Learned::default(),
    ];
    for silence in breaks {
        let mut runs = runs();
        silence(&mut runs);
        assert_eq!(runs.verdict(), Verdict::Unproven);
    }
    let mut lossy = runs();
    lossy.through.as_mut().unwrap().lost = 1;
    assert_eq!(lossy.verdict(), Verdict::Unknown);
}

#[test]
fn an_outage_has_a_column_of_its_own() {
    let mut runs = runs();
    let through = runs.through.as_mut().unwrap();
    (through.fault, through.ended, through.complete) = (true, Ended::Fault, false);
    let text = runs.text();
    assert!(text.contains("outage") && text.contains("the fault came before"));
    assert!(
        text.lines().all(|line| line.chars().count() <= WIDTH),
        "{text}"
    );
}

#[test]
fn numbers_are_grouped_by_thousands() {
    for (number, text) in [
        (0, "0"),
        (999, "999"),
        (1000, "1,000"),
        (1_234_567, "1,234,567"),
    ] {
        assert_eq!(grouped(number), text);
    }
}
