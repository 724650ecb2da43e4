//! Makes text from outside, such as names and error messages, safe to display.
//!
//! Data keeps its bytes: database tables, CSV and JSON never pass through here, except logs in JSON,
//! where [`visible_json`] changes the spelling and not the value.

use std::borrow::Cow;

/// Writes each character that would move the cursor, end the line, be invisible, or change the text
/// direction as `\u{…}`. The result is one line.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hidden(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// The same for a line of JSON, with JSON escapes. A serializer escapes C0 only.
pub fn visible_json(line: &str) -> Cow<'_, str> {
    let is_left_raw = |character: char| character >= '\u{7f}' && is_hidden(character);
    if !line.contains(is_left_raw) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len() + 16);
    for character in line.chars() {
        if is_left_raw(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// Controls (C0, DEL, C1), line and paragraph separators, and invisible characters: marks of text
/// direction, joiners, byte order marks, tags.
pub fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_of_any_language_stays() {
        for text in ["", "team/app", "名字 é ü עברית 🚀 a\u{a0}b"] {
            assert_eq!(visible(text), text);
            assert_eq!(visible_json(text), text);
        }
    }

    #[test]
    fn what_hides_or_moves_is_spelt_out() {
        for (text, shown) in [
            ("\u{1b}]0;x\u{7}", "\\u{1b}]0;x\\u{7}"),
            ("a\nERROR b\r\t\0", "a\\u{a}ERROR b\\u{d}\\u{9}\\u{0}"),
            ("\u{7f}\u{85}\u{9b}31m", "\\u{7f}\\u{85}\\u{9b}31m"),
            (
                "\u{202e}\u{2066}\u{200f}\u{61c}",
                "\\u{202e}\\u{2066}\\u{200f}\\u{61c}",
            ),
            (
                "\u{2028}\u{2029}\u{feff}\u{e0041}",
                "\\u{2028}\\u{2029}\\u{feff}\\u{e0041}",
            ),
        ] {
            assert_eq!(visible(text), shown);
        }
    }

    #[test]
    fn json_keeps_its_value() {
        let value =
            serde_json::json!({"name": "a\u{1b}\n\u{9b}\u{202e}\u{2028}\u{feff}\u{e0041}é"});
        let line = format!("{value}\n");
        let shown = visible_json(&line);
        assert!(!shown.trim_end().contains(is_hidden), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }
}
