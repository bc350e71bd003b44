//! The settings of `docs/clients.md`: tests use the very text of that page, so it can't go stale.
//!
//! A block is fenced, and its first line reads "```LANGUAGE CLIENT WAY", where WAY is `proxy`, `run`...

use std::path::Path;

/// The block of this client and way.
pub fn documented(client: &str, way: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let text = std::fs::read_to_string(page).unwrap();
    find(&text, client, way)
        .unwrap_or_else(|| panic!("docs/clients.md has no block of {client} for {way}"))
}

fn find(text: &str, client: &str, way: &str) -> Option<String> {
    let mut lines = text.lines();
    lines.find(|line| {
        let mut words = line.split_whitespace();
        let fence = words.next().is_some_and(|word| word.starts_with("```"));
        fence && words.eq([client, way])
    })?;
    let inside: Vec<&str> = lines.take_while(|line| !line.starts_with("```")).collect();
    Some(inside.join("\n") + "\n")
}

/// The words of a documented command line, with what stands in capitals replaced.
pub fn documented_command(client: &str, way: &str, replace: &[(&str, &str)]) -> Vec<String> {
    let text = documented(client, way);
    let words = text.split_whitespace();
    let replaced = |word: &str| {
        let found = replace.iter().find(|(name, _)| *name == word);
        found.map_or(word, |(_, value)| value).to_owned()
    };
    words.map(replaced).collect()
}
