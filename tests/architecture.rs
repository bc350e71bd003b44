//! The house rules as checks: who may import whom, who may touch sockets and clocks, which crates stay out, and that
//! every claim of threat-model.md names a test that exists. ARCHITECTURE.md says why.
#![allow(clippy::unwrap_used)] // what can't be read fails the test

#[path = "architecture/claims.rs"]
mod claims;
#[path = "architecture/rules.rs"]
mod rules;
#[path = "architecture/source.rs"]
mod source;

use std::path::Path;
use std::process::Command;

use source::SourceFile;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The source of the package and of `circuits`.
fn product() -> Vec<SourceFile> {
    let mut files = SourceFile::read_all(Path::new(ROOT), "src");
    files.extend(SourceFile::read_all(Path::new(ROOT), "circuits/src"));
    assert!(files.len() > 20, "the source was not found below {ROOT}");
    files
}

/// All Rust of the repository.
fn all() -> Vec<SourceFile> {
    let mut files = product();
    for folder in [
        "tests",
        "benches",
        "examples",
        "fuzz",
        "circuits/tests",
        "circuits/benches",
    ] {
        files.extend(SourceFile::read_all(Path::new(ROOT), folder));
    }
    files
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn none_of(violations: &[String]) {
    assert!(
        violations.is_empty(),
        "house rules broken:\n{}\n",
        violations.join("\n")
    );
}

/// What the linker would take in: `name version` lines of `cargo tree`.
fn cargo_tree(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(arguments)
        .current_dir(ROOT)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "cargo tree {arguments:?}: {errors}"
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn only_the_command_line_makes_a_dialer() {
    none_of(&rules::one_dialer(&product()));
}

#[test]
fn modules_import_only_what_lies_below_them() {
    none_of(&rules::imports(&product()));
}

#[test]
fn torrent_codecs_know_no_runtime() {
    none_of(&rules::codecs(&product()));
}

#[test]
fn circuits_and_krpc_have_no_runtime_clock_file_or_socket() {
    none_of(&rules::sans_io(&product()));
}

#[test]
fn one_file_owns_the_sockets() {
    none_of(&rules::one_socket_owner(&product()));
}

#[test]
fn capabilities_are_in_the_right_hands() {
    none_of(&rules::capabilities(&product()));
}

#[test]
fn nothing_unsafe_anywhere() {
    none_of(&rules::no_unsafe(&all()));
}

#[test]
fn there_is_no_direct_route() {
    none_of(&rules::no_direct_route(&product()));
}

#[test]
fn no_file_is_too_long_to_read() {
    none_of(&rules::file_lengths(&all()));
}

#[test]
fn every_package_inherits_the_lints_that_hold_the_rules() {
    let lints = &toml::from_str::<toml::Table>(&read("Cargo.toml")).unwrap()["workspace"]["lints"];
    assert_eq!(lints["rust"]["unsafe_code"].as_str(), Some("forbid"));
    for lint in [
        "disallowed_methods",
        "disallowed_types",
        "unwrap_used",
        "wildcard_enum_match_arm",
    ] {
        let level = lints["clippy"][lint].as_str();
        assert!(
            matches!(level, Some("warn" | "deny" | "forbid")),
            "{lint} is {level:?}"
        );
    }
    for manifest in ["Cargo.toml", "circuits/Cargo.toml"] {
        let package: toml::Table = toml::from_str(&read(manifest)).unwrap();
        let inherits = &package["lints"]["workspace"];
        assert_eq!(
            inherits.as_bool(),
            Some(true),
            "{manifest} goes its own way in lints"
        );
    }
}

#[test]
fn circuits_repeat_the_whole_clippy_list() {
    let paths = |file: &str, key: &str| -> Vec<String> {
        let table: toml::Table = toml::from_str(&read(file)).unwrap();
        let entries = table[key].as_array().unwrap().iter();
        entries
            .map(|entry| entry["path"].as_str().unwrap().to_owned())
            .collect()
    };
    for (key, more) in [
        ("disallowed-types", "std::fs::File"),
        ("disallowed-methods", "std::time::Instant::now"),
    ] {
        let (whole, circuits) = (
            paths("clippy.toml", key),
            paths("circuits/clippy.toml", key),
        );
        let missing: Vec<_> = whole
            .iter()
            .filter(|path| !circuits.contains(path))
            .collect();
        assert!(missing.is_empty(), "circuits/clippy.toml lacks {missing:?}");
        assert!(
            circuits.iter().any(|path| path == more),
            "circuits/clippy.toml lacks {more}"
        );
    }
}

#[test]
fn circuits_depend_on_no_runtime_and_no_sockets() {
    let tree = cargo_tree(&["-p", "hushswarm-circuits", "-e", "normal"]);
    assert!(
        tree.contains("snow "),
        "this is not the tree of circuits:\n{tree}"
    );
    none_of(&rules::banned_packages(
        &tree,
        &["tokio", "mio", "socket2", "rustix", "async-io"],
    ));
}

#[test]
fn banned_crates_stay_out() {
    let deny: toml::Table = toml::from_str(&read("deny.toml")).unwrap();
    let entries = deny["bans"]["deny"].as_array().unwrap();
    let banned: Vec<&str> = entries
        .iter()
        .map(|entry| entry["crate"].as_str().unwrap())
        .collect();
    for name in [
        "openssl-sys",
        "native-tls",
        "reqwest",
        "hickory-resolver",
        "aws-lc-sys",
    ] {
        assert!(banned.contains(&name), "deny.toml no longer bans {name}");
    }
    let tree = cargo_tree(&["--workspace", "--all-features", "-e", "normal,build,dev"]);
    assert!(
        tree.contains("tokio "),
        "this is not the tree of the workspace:\n{tree}"
    );
    none_of(&rules::banned_packages(&tree, &banned));
}

#[test]
fn every_claim_names_a_test_that_exists() {
    // Without the file there is no claim to hold; .ci/run demands the file itself.
    if let Ok(text) = std::fs::read_to_string(Path::new(ROOT).join("threat-model.md")) {
        none_of(&claims::broken(&text, &all()));
    }
}
