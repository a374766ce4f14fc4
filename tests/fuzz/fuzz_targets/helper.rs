//! See `syncmount_tests::fuzzed`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| syncmount_tests::fuzzed::run("helper", data));
