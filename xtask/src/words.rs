//! Refuses words that make a text hard to read: archaic ones, and phrases that stand for a plain verb.
//! Where a word is right, because a program prints it or a standard defines it, the line is in `ALLOWED`.

use crate::process::{Result, command, output, read};

/// A phrase, and what to write instead. Phrases are matched as whole words in lower case.
const PHRASES: &[(&str, &str)] = &[
    ("amiss", "wrong"),
    ("anew", "again"),
    ("asked for", "requested"),
    ("bears the name", "is named"),
    ("befall", "happen to"),
    ("befalls", "happens to"),
    ("beside", "next to"),
    ("brings about", "causes"),
    ("can misbehave", "supports fault injection"),
    ("farewell", "disconnect"),
    ("for ever", "permanently"),
    ("forever", "permanently"),
    ("goes on", "continues"),
    ("going on", "running"),
    ("hang together", "are joined"),
    ("hence", "so"),
    ("in vain", "unsuccessfully, or: fails"),
    ("lest", "so that … not"),
    ("mend", "fix"),
    ("mended", "fixed"),
    ("mends", "fixes"),
    ("sees to it", "ensures"),
    ("stands in", "is in"),
    ("stands still", "stops, or: hangs"),
    ("thereby", "so"),
    ("unto", "to"),
    ("upon", "on"),
    ("whence", "from where"),
    ("whilst", "while"),
    ("whoever", "name the user or program"),
    ("without a word", "without an outcome, or: silently"),
];

/// Texts of the project.
const PLACES: &str = "src crates tests benches xtask migrations docs deploy docker dashboards .ci fuzz \
    Dockerfile docker-compose.yml Cargo.toml clippy.toml deny.toml *.md";

/// Lines that contain a phrase for a good reason: file, and part of the line.
const ALLOWED: &[(&str, &str)] = &[];

/// Reads the files of these places, by default those of the project.
pub(crate) fn check(places: &[&str]) -> Result {
    let places = match places {
        [] => PLACES.to_owned(),
        places => places.join(" "),
    };
    let listed = output(&mut command(&format!("git ls-files -- {places}")))?;
    let files: Vec<&str> = listed.lines().filter(|file| is_text(file)).collect();
    if files.is_empty() {
        return Err(format!("git tracks no text in {places}"));
    }
    let mut count = 0;
    for file in files {
        let text = read(file)?;
        for (number, phrase, instead) in find(&text) {
            let line = text.lines().nth(number).unwrap_or_default();
            let is_allowed = |(path, part): &(&str, &str)| *path == file && line.contains(part);
            if !ALLOWED.iter().any(is_allowed) {
                eprintln!("{file}:{}: \"{phrase}\"; write: {instead}", number + 1);
                count += 1;
            }
        }
    }
    match count {
        0 => Ok(()),
        _ => Err(format!("{count} phrases that are not plain English")),
    }
}

/// Data that tests read, and code of others, are no texts of the project.
fn is_text(file: &str) -> bool {
    const ENDINGS: [&str; 9] = [
        ".rs", ".md", ".sql", ".toml", ".yml", ".yaml", ".service", ".timer", ".js",
    ];
    let is_script = file.starts_with(".ci/") || file.starts_with("docker/") || file == "Dockerfile";
    let is_known = is_script || ENDINGS.iter().any(|ending| file.ends_with(ending));
    // This file is a list of such phrases.
    is_known
        && !file.contains("/data/")
        && !file.contains("charts/build/")
        && file != "xtask/src/words.rs"
}

/// The index of the line, the phrase, and what to write instead.
fn find(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let mut found = Vec::new();
    let lines: Vec<String> = text.lines().map(plain).collect();
    for (number, line) in lines.iter().enumerate() {
        // A phrase may be broken at the end of a line.
        let next = lines.get(number + 1).map_or("", String::as_str);
        let both = format!("{line}{}", next.trim_start());
        for (phrase, instead) in PHRASES {
            let wanted = format!(" {phrase} ");
            let starts_here = both.find(&wanted).is_some_and(|at| at + 1 < line.len());
            if starts_here {
                found.push((number, *phrase, *instead));
            }
        }
    }
    found
}

/// The words of a line in lower case with one space around each, without punctuation and comment marks.
fn plain(line: &str) -> String {
    let is_word =
        |character: char| character.is_alphanumeric() || matches!(character, '_' | '\'' | '-');
    let words = line.split(|character| !is_word(character));
    let words = words.filter(|word| word.contains(char::is_alphanumeric));
    let words: Vec<String> = words.map(str::to_lowercase).collect();
    format!(" {} ", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn phrases_are_found_as_whole_words_across_lines() {
        let phrases = |text| -> Vec<(usize, &str)> {
            let found = find(text).into_iter();
            found.map(|(number, phrase, _)| (number, phrase)).collect()
        };
        assert_eq!(phrases("Amended; besides, the latest."), []);
        assert_eq!(
            phrases("Mend it,\nand it GOES\n// on."),
            [(0, "mend"), (1, "goes on")]
        );
        assert_eq!(phrases("a\n\nbeside"), [(2, "beside")]);
    }
}
