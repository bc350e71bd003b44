//! A small reader of Rust source: tokens without comments, the paths that a file names, and which of them stand in
//! test-only code. Enough to check who imports whom; macros are read as the tokens that they are.

use std::path::{Path, PathBuf};

/// A piece of source text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier or keyword, without a raw prefix.
    Ident(String),
    /// One character of punctuation; `::` is one token, written `':'`.
    Punct(char),
    /// A single colon.
    Colon,
    /// A string, character, byte or number literal, or a lifetime.
    Other,
}

/// A token and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// What it is.
    pub(crate) kind: Kind,
    /// Line, from 1.
    pub(crate) line: usize,
    /// Whether it belongs to an item under `#[cfg(test)]`.
    pub(crate) test: bool,
}

impl Token {
    /// The identifier, where it is one.
    pub(crate) fn ident(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            Kind::Punct(_) | Kind::Colon | Kind::Other => None,
        }
    }

    fn is(&self, punct: char) -> bool {
        self.kind == Kind::Punct(punct)
    }
}

/// A path that a file names, with `crate`, `self` and `super` resolved to a leading `crate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Its segments; a glob import ends with `*`.
    pub(crate) path: Vec<String>,
    /// Line, from 1.
    pub(crate) line: usize,
    /// Whether it stands in test-only code.
    pub(crate) test: bool,
}

impl Reference {
    /// Whether these segments stand next to each other somewhere in the path.
    pub(crate) fn has(&self, segments: &[&str]) -> bool {
        self.path
            .windows(segments.len())
            .any(|window| window == segments)
    }
}

/// A source file with its tokens.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    /// Path from the repository's root, with `/`.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
    /// Its tokens.
    pub(crate) tokens: Vec<Token>,
}

impl SourceFile {
    /// Reads source text as if it stood at `path`.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let mut tokens = tokenize(text);
        mark_tests(&mut tokens, is_test_file(path));
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens,
        }
    }

    /// Every `.rs` file below `folder` (from `root`), in order of path.
    pub(crate) fn read_all(root: &Path, folder: &str) -> Vec<Self> {
        let mut found = Vec::new();
        let mut folders = vec![root.join(folder)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries.map(|entry| entry.unwrap().path()) {
                if entry.is_dir() && !entry.ends_with("target") {
                    folders.push(entry);
                } else if entry.extension().is_some_and(|extension| extension == "rs") {
                    let path = entry.strip_prefix(root).map(PathBuf::from).unwrap();
                    let text = std::fs::read_to_string(&entry).unwrap();
                    found.push(Self::new(&path.to_string_lossy().replace('\\', "/"), &text));
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    /// The module that this file is, from the crate's root: `src/a/b.rs` is `[a, b]`.
    pub(crate) fn module(&self) -> Vec<String> {
        let inside = self
            .path
            .split_once("src/")
            .map_or(self.path.as_str(), |(_, rest)| rest);
        let mut parts: Vec<String> = inside
            .trim_end_matches(".rs")
            .split('/')
            .map(str::to_owned)
            .collect();
        if parts
            .last()
            .is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main"))
        {
            parts.pop();
        }
        parts
    }

    /// Names of the functions that a test attribute marks.
    pub(crate) fn test_functions(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let mut marked = false;
        for (at, token) in self.tokens.iter().enumerate() {
            if token.is('#') && self.tokens.get(at + 1).is_some_and(|next| next.is('[')) {
                let attribute = self.tokens[at + 2..]
                    .iter()
                    .take_while(|token| !token.is(']'));
                marked |= attribute
                    .filter_map(Token::ident)
                    .take_while(|name| !matches!(*name, "cfg" | "cfg_attr"))
                    .any(|name| name == "test");
            } else if token.ident() == Some("fn") {
                if marked && let Some(name) = self.tokens.get(at + 1).and_then(Token::ident) {
                    names.push(name);
                }
                marked = false;
            }
        }
        names
    }

    /// Every path with two segments or more, and every `use`, in the order of the text.
    pub(crate) fn references(&self) -> Vec<Reference> {
        let mut out = Vec::new();
        let mut module = self.module();
        // Brace depths at which an inline module was opened.
        let mut inline = Vec::new();
        let mut depth = 0_usize;
        let mut at = 0;
        while let Some(token) = self.tokens.get(at) {
            if token.is('{') {
                depth += 1;
            } else if token.is('}') {
                if inline.last() == Some(&depth) {
                    inline.pop();
                    module.pop();
                }
                depth = depth.saturating_sub(1);
            } else if let Some(name) = token.ident() {
                let next = self.tokens.get(at + 1);
                if name == "mod" && self.tokens.get(at + 2).is_some_and(|open| open.is('{')) {
                    module.extend(next.and_then(Token::ident).map(str::to_owned));
                    depth += 1;
                    inline.push(depth);
                    at += 3;
                    continue;
                }
                if name == "use" && !next.is_some_and(|next| next.is('<')) {
                    at = self.use_tree(at + 1, &[], &module, &mut out);
                    continue;
                }
                if name == "extern" && next.and_then(Token::ident) == Some("crate") {
                    at = self.use_tree(at + 2, &[], &module, &mut out);
                    continue;
                }
                if next.is_some_and(|next| next.is(':')) {
                    at = self.plain_path(at, &module, &mut out);
                    continue;
                }
            }
            at += 1;
        }
        out
    }

    fn plain_path(&self, mut at: usize, module: &[String], out: &mut Vec<Reference>) -> usize {
        let (start, mut path) = (at, Vec::new());
        while let Some(name) = self.tokens.get(at).and_then(Token::ident) {
            path.push(name.to_owned());
            at += 1;
            if !self.tokens.get(at).is_some_and(|next| next.is(':')) {
                break;
            }
            at += 1;
        }
        self.push(start, path, module, out);
        at
    }

    /// Reads one tree of a `use`; gives the position after it.
    fn use_tree(
        &self,
        mut at: usize,
        prefix: &[String],
        module: &[String],
        out: &mut Vec<Reference>,
    ) -> usize {
        let (start, mut path) = (at, prefix.to_vec());
        while let Some(token) = self.tokens.get(at) {
            match &token.kind {
                Kind::Ident(name) if name == "as" => at += 1,
                Kind::Ident(name) => path.push(name.clone()),
                Kind::Punct('*') => path.push("*".to_owned()),
                Kind::Punct(':') => {}
                Kind::Punct('{') => {
                    at += 1;
                    while !self.tokens.get(at).is_none_or(|token| token.is('}')) {
                        at = self.use_tree(at, &path, module, out);
                        at += usize::from(self.tokens.get(at).is_some_and(|token| token.is(',')));
                    }
                    return at + 1;
                }
                Kind::Punct(_) | Kind::Colon | Kind::Other => break,
            }
            at += 1;
        }
        self.push(start, path, module, out);
        at.max(start + usize::from(at == start))
    }

    fn push(&self, at: usize, mut path: Vec<String>, module: &[String], out: &mut Vec<Reference>) {
        let supers = path.iter().take_while(|name| *name == "super").count();
        let (skip, keep) = match path.first().map(String::as_str) {
            Some("self") => {
                let more = path[1..].iter().take_while(|name| *name == "super").count();
                (1 + more, module.len().saturating_sub(more))
            }
            Some("super") => (supers, module.len().saturating_sub(supers)),
            _ => (0, 0),
        };
        if skip > 0 {
            let mut whole = vec!["crate".to_owned()];
            whole.extend_from_slice(&module[..keep]);
            whole.extend_from_slice(&path[skip..]);
            path = whole;
        }
        if let Some(token) = self.tokens.get(at).filter(|_| !path.is_empty()) {
            out.push(Reference {
                path,
                line: token.line,
                test: token.test,
            });
        }
    }
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/")
        || path.contains("/tests/")
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
}

/// Marks every token of an item that `#[cfg(test)]` guards.
fn mark_tests(tokens: &mut [Token], whole_file: bool) {
    if whole_file {
        tokens.iter_mut().for_each(|token| token.test = true);
    }
    let mut at = 0;
    while at < tokens.len() {
        let inner = tokens.get(at + 1).is_some_and(|token| token.is('!'));
        let open = at + 1 + usize::from(inner);
        if !(tokens[at].is('#') && tokens.get(open).is_some_and(|token| token.is('['))) {
            at += 1;
            continue;
        }
        let close = matching(tokens, open, '[', ']');
        let names: Vec<&str> = tokens[open..close]
            .iter()
            .filter_map(Token::ident)
            .collect();
        let guards = names.first() == Some(&"cfg")
            && names.contains(&"test")
            && !names.iter().any(|name| matches!(*name, "not" | "any"));
        if !guards {
            at = close;
            continue;
        }
        let end = if inner {
            tokens.len() - 1
        } else {
            item_end(tokens, close + 1)
        };
        for token in &mut tokens[at..=end] {
            token.test = true;
        }
        at = end + 1;
    }
}

/// Position of the bracket that closes the one at `open`, or of the last token.
fn matching(tokens: &[Token], open: usize, left: char, right: char) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if token.is(left) {
            depth += 1;
        } else if token.is(right) {
            depth -= 1;
            if depth == 0 {
                return at;
            }
        }
    }
    tokens.len() - 1
}

/// Last token of the item that starts at `start`: its `;` or the end of its braces.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut at = start;
    while let Some(token) = tokens.get(at) {
        if token.is(';') {
            return at;
        }
        at = if token.is('{') {
            return matching(tokens, at, '{', '}');
        } else if token.is('[') {
            matching(tokens, at, '[', ']')
        } else if token.is('(') {
            matching(tokens, at, '(', ')')
        } else {
            at
        } + 1;
    }
    tokens.len() - 1
}

/// Cuts text into tokens; comments and the content of literals disappear.
fn tokenize(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let peek = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut at, mut out) = (0, Vec::new());
    let mut line = 1;
    while at < chars.len() {
        let (start, c) = (at, chars[at]);
        let kind = match c {
            _ if c.is_whitespace() => {
                at += 1;
                None
            }
            '/' if peek(at + 1) == '/' => {
                while at < chars.len() && peek(at) != '\n' {
                    at += 1;
                }
                None
            }
            '/' if peek(at + 1) == '*' => {
                at = skip_block_comment(&chars, at);
                None
            }
            '"' => {
                at = skip_string(&chars, at);
                Some(Kind::Other)
            }
            '\'' => {
                at = skip_quote(&chars, at);
                Some(Kind::Other)
            }
            _ if c.is_ascii_digit() => {
                while word(peek(at)) {
                    at += 1;
                }
                Some(Kind::Other)
            }
            _ if word(c) => {
                while word(peek(at)) {
                    at += 1;
                }
                let name: String = chars[start..at].iter().collect();
                let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
                let prefix = matches!(name.as_str(), "r" | "b" | "br" | "c" | "cr");
                if prefix && peek(at + hashes) == '"' && (hashes == 0 || name.ends_with('r')) {
                    at = if name.ends_with('r') {
                        skip_raw_string(&chars, at + hashes, hashes)
                    } else {
                        skip_string(&chars, at)
                    };
                    Some(Kind::Other)
                } else if name == "b" && peek(at) == '\'' {
                    at = skip_quote(&chars, at);
                    Some(Kind::Other)
                } else if name == "r" && hashes == 1 && word(peek(at + 1)) {
                    at += 1;
                    None
                } else {
                    Some(Kind::Ident(name))
                }
            }
            ':' if peek(at + 1) == ':' => {
                at += 2;
                Some(Kind::Punct(':'))
            }
            ':' => {
                at += 1;
                Some(Kind::Colon)
            }
            other => {
                at += 1;
                Some(Kind::Punct(other))
            }
        };
        out.extend(kind.map(|kind| Token {
            kind,
            line,
            test: false,
        }));
        line += chars[start..at.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    out
}

fn skip_block_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < chars.len() {
        if chars[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if chars[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn skip_string(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn skip_raw_string(chars: &[char], mut at: usize, hashes: usize) -> usize {
    at += 1;
    while at < chars.len() {
        if chars[at] == '"' && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

/// Skips a character literal, or the quote of a lifetime.
fn skip_quote(chars: &[char], at: usize) -> usize {
    let escaped = chars.get(at + 1) == Some(&'\\');
    if !escaped && chars.get(at + 2) != Some(&'\'') {
        return at + 1;
    }
    let mut end = at + if escaped { 3 } else { 2 };
    while end < chars.len() && chars[end] != '\'' {
        end += 1;
    }
    end + 1
}
