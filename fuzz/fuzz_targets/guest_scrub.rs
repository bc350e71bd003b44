#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| hushswarm_fuzz::targets::guest_scrub(input));
