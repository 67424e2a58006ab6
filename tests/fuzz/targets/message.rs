#![no_main]

// Each target takes one of the properties.
#[allow(dead_code, unused_imports, reason = "the others are those of other targets")]
#[path = "../properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    properties::message(bytes);
});
