//! All targets in one program, since to link each by itself took longer than to run them: `FUZZ_TARGET=NAME fuzz [libFuzzer's arguments]`.
#![no_main]

use std::sync::OnceLock;

use hushswarm_fuzz::targets::{Run, TARGETS};

static CHOSEN: OnceLock<Run> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: choose(), |input: &[u8]| chosen()(input));

fn choose() {
    chosen();
}

/// The target that the environment names.
fn chosen() -> Run {
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        match TARGETS.iter().find(|(known, _)| *known == name) {
            Some((_, run)) => *run,
            None => panic!("FUZZ_TARGET names no target: `fuzz/run --list` lists them"),
        }
    })
}
