//! Claims of threat-model.md: `[C1]` opens one at the start of a line; `test: tests/leaks.rs::name` lines below it say
//! what shows it.

use std::collections::BTreeSet;

use crate::source::SourceFile;

struct Claim<'a> {
    id: &'a str,
    line: usize,
    tests: Vec<&'a str>,
}

/// What is wrong with the claims in `text`, where `files` is all Rust of the repository.
pub(crate) fn broken(text: &str, files: &[SourceFile]) -> Vec<String> {
    let claims = parse(text);
    let mut out = Vec::new();
    if claims.is_empty() {
        out.push("threat-model.md makes no claim of the form \"[C1] ...\"".to_owned());
    }
    let mut known = BTreeSet::new();
    for claim in &claims {
        if !known.insert(claim.id) {
            out.push(format!(
                "line {}: [{}] is claimed twice",
                claim.line, claim.id
            ));
        }
        if claim.tests.is_empty() {
            out.push(format!("line {}: [{}] names no test", claim.line, claim.id));
        }
        for name in claim.tests.iter().filter(|name| !exists(name, files)) {
            out.push(format!(
                "line {}: [{}]: there is no test {name}",
                claim.line, claim.id
            ));
        }
    }
    for (line, text) in text.lines().enumerate() {
        for id in ids(text).filter(|id| !known.contains(id)) {
            out.push(format!("line {}: [{id}] is claimed nowhere", line + 1));
        }
    }
    out
}

fn parse(text: &str) -> Vec<Claim<'_>> {
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let bare = line.trim_start_matches(|c: char| c.is_whitespace() || "-*#|>".contains(c));
        if bare.starts_with('[')
            && let Some(id) = ids(bare).next()
        {
            claims.push(Claim {
                id,
                line: at + 1,
                tests: Vec::new(),
            });
        }
        let (Some(claim), Some((_, named))) = (claims.last_mut(), line.split_once("test: ")) else {
            continue;
        };
        let separators = |c: char| c.is_whitespace() || "`,;|()".contains(c);
        claim
            .tests
            .extend(named.split(separators).filter(|word| word.contains("::")));
    }
    claims
}

/// `C12` of every `[C12]` in a line.
fn ids(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("[C").filter_map(|(at, _)| {
        let (id, _) = line[at + 1..].split_once(']')?;
        (id.len() > 1 && id[1..].bytes().all(|b| b.is_ascii_digit())).then_some(id)
    })
}

/// Whether `path/to/file.rs::module::name` is a test function.
fn exists(name: &str, files: &[SourceFile]) -> bool {
    let (Some((path, _)), Some((_, function))) = (name.split_once("::"), name.rsplit_once("::"))
    else {
        return false;
    };
    files
        .iter()
        .any(|file| file.path == path && file.test_functions().contains(&function))
}

mod tests {
    use super::*;

    fn files() -> [SourceFile; 1] {
        let text =
            "#[tokio::test(flavor = \"current_thread\")]\nasync fn shown() {}\nfn helper() {}";
        [SourceFile::new("tests/leaks.rs", text)]
    }

    #[test]
    fn claims_with_their_tests_pass() {
        let text = "see [C2]\n### [C1] Nobody sees.\ntest: tests/leaks.rs::shown\n\n- [C2] x\n  test: `tests/leaks.rs::shown`";
        assert_eq!(broken(text, &files()), Vec::<String>::new());
    }

    #[test]
    fn claims_without_a_real_test_are_found() {
        for (text, complaint) in [
            ("nothing", "no claim"),
            ("[C1] alone", "names no test"),
            (
                "[C1] x\ntest: tests/leaks.rs::gone",
                "no test tests/leaks.rs::gone",
            ),
            (
                "[C1] x\ntest: tests/leaks.rs::helper",
                "no test tests/leaks.rs::helper",
            ),
            (
                "[C1] x\ntest: tests/gone.rs::shown",
                "no test tests/gone.rs::shown",
            ),
            (
                "[C1] x\ntest: tests/leaks.rs::shown\n[C1] y\ntest: tests/leaks.rs::shown",
                "twice",
            ),
            (
                "[C1] as [C9]\ntest: tests/leaks.rs::shown",
                "[C9] is claimed nowhere",
            ),
        ] {
            let found = broken(text, &files());
            assert!(
                found.iter().any(|line| line.contains(complaint)),
                "{text}: {found:?}"
            );
        }
    }
}
