//! Every fuzz target takes its committed corpus, seeds and what fuzzing once found, also where no fuzzer runs.
#![allow(clippy::unwrap_used)] // a broken set-up is a failed test

#[path = "../fuzz/src/targets.rs"]
#[allow(dead_code, unreachable_pub, reason = "the fuzz package uses all of it")]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn names(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(folder);
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_target_survives_its_corpus() {
    for (name, run) in targets::TARGETS {
        let inputs = names(&format!("corpus/{name}"));
        assert!(
            !inputs.is_empty(),
            "{name} has no corpus: run `cargo run --example seeds` in fuzz/"
        );
        for input in inputs {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("fuzz/corpus")
                .join(name);
            // Shown only when the target fails.
            println!("{name}: {input}");
            run(&fs::read(path.join(input)).unwrap());
        }
    }
}

#[test]
fn targets_and_corpora_are_the_same_list() {
    let listed: BTreeSet<String> = targets::TARGETS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(listed.len(), targets::TARGETS.len(), "a name stands twice");
    assert_eq!(names("corpus"), listed);
}
