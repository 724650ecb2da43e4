//! Pages of the artifact list and of the catalog: no body may end the program, and a page that
//! can be read has a row or a data issue for each of its entries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use swr_sync::registry::fuzzing;

fuzz_target!(|body: &[u8]| {
    // What serde_json can read, and is a page by its own reading, must be one here.
    let entries = |name| {
        let document: Value = serde_json::from_slice(body).ok()?;
        let text = std::str::from_utf8(body).ok()?;
        // Given twice, in whatever spelling, it is no answer here; and serde_json takes names of
        // its own for instructions.
        let is_sole =
            text.matches(name).count() == 1 && !text.contains("\\u00") && !text.contains("$serde");
        is_sole.then(|| document.get(name)?.as_array().map(Vec::len))?
    };
    let listed = fuzzing::artifact_page(body);
    if let Some(expected) = entries("artifacts") {
        let stored_or_dropped = listed.ok().map(|(rows, dropped)| rows + dropped);
        assert_eq!(stored_or_dropped, Some(expected));
    }
    fuzzing::catalog_page(body);
});
