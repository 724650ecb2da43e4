//! Checks which modules of `src` use which others. Crate boundaries and `clippy.toml` check the rest.

use std::path::Path;

/// Words, and the only files and folders of `src` in which they may occur. So the nouns use no other
/// module, registry and store do not use each other, and only the command line reads the environment.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("crate::registry", &["registry", "sync", "cli"]),
    ("crate::store", &["store", "sync", "cli"]),
    (
        "crate::database",
        &["database", "store", "sync", "report", "cli"],
    ),
    ("crate::sync", &["sync", "cli"]),
    ("crate::report", &["report", "cli"]),
    ("crate::cli", &["cli"]),
    ("sqlx::", &["database", "store", "sync", "cli"]),
    ("reqwest::", &["registry", "cli"]),
    ("hyper", &["registry", "cli"]),
    ("serde::", &["registry", "report", "cli"]),
    ("clap", &["report", "cli"]),
    ("env::var", &["cli"]),
    // Both escape hidden characters.
    ("io::stderr", &["cli/console", "cli/telemetry"]),
];

#[test]
fn each_part_names_only_what_it_may_know() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![false; ONLY_IN.len()];
    let mut breaches = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let file = path.strip_prefix(&root).unwrap().with_extension("");
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for (index, (word, places)) in ONLY_IN.iter().enumerate() {
                if !text.contains(word) {
                    continue;
                }
                found[index] = true;
                if !places.iter().any(|place| file.starts_with(place)) {
                    breaches.push(format!("{} names {word}", path.display()));
                }
            }
        }
    }
    assert_eq!(breaches, [""; 0]);
    // A misspelt word would check nothing.
    assert!(found.iter().all(|found| *found));
}
