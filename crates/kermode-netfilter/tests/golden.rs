//! Golden tests: settings (`*.input.yaml`) and the text for nft that results from them (`*.golden.nft`).
//!
//! `UPDATE_GOLDENS=1 cargo test -p kermode-netfilter --test golden` rewrites the texts. The test `netns` validates each
//! text with the real nft.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

#[path = "support/golden.rs"]
mod golden;

use std::fs;

use golden::cases;

#[test]
fn every_input_gives_its_golden_text() {
    let cases = cases();
    assert!(cases.len() > 5, "golden files are missing");
    let mut differing = Vec::new();
    for case in cases {
        let text = case.rules().to_string();
        let golden_path = case.golden_path();
        if is_update_requested() {
            fs::write(&golden_path, &text).expect("a writable golden file");
        } else if fs::read_to_string(&golden_path).unwrap_or_default() != text {
            differing.push(format!("{}:\n{text}", golden_path.display()));
        }
    }
    assert!(
        differing.is_empty(),
        "results differ from the golden files; if intended, rewrite them with UPDATE_GOLDENS=1:\n{}",
        differing.join("\n")
    );
}

/// Returns whether the variable `UPDATE_GOLDENS` is 1.
#[allow(clippy::disallowed_methods, reason = "switch of the golden tests")]
fn is_update_requested() -> bool {
    std::env::var("UPDATE_GOLDENS").is_ok_and(|value| value == "1")
}
