//! Build histories: no body may end the program, and each entry has its step.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use swr_sync::registry::fuzzing;

fuzz_target!(|body: &[u8]| {
    let entries = || {
        let document: Value = serde_json::from_slice(body).ok()?;
        let text = std::str::from_utf8(body).ok()?;
        // Given twice, in whatever spelling, it is no answer here; and serde_json takes names of
        // its own for instructions.
        let is_sole = text.matches("build_histories").count() == 1
            && !text.contains("\\u00")
            && !text.contains("$serde");
        is_sole.then(|| document.get("build_histories")?.as_array().map(Vec::len))?
    };
    let steps = fuzzing::build_history(body);
    if let Some(expected) = entries() {
        assert_eq!(steps.ok(), Some(expected));
    }
});
