//! Golden pairs: settings (`*.input.yaml`) beside the text for nft they become (`*.golden.nft`).
//!
//! `UPDATE_GOLDENS=1 cargo test -p kermode-netfilter --test golden` rewrites the second. That the real nft accepts
//! each of them is shown by the test `netns`.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "support/golden.rs"]
mod golden;

use std::fs;

use golden::cases;

#[test]
fn every_input_becomes_its_golden_text() {
    let cases = cases();
    assert!(cases.len() > 5, "the goldens are missing");
    let mut differing = Vec::new();
    for case in cases {
        let text = case.rules().to_string();
        let golden = case.golden();
        if updating() {
            fs::write(&golden, &text).expect("writable");
        } else if fs::read_to_string(&golden).unwrap_or_default() != text {
            differing.push(format!("{}:\n{text}", golden.display()));
        }
    }
    assert!(
        differing.is_empty(),
        "run with UPDATE_GOLDENS=1 and review the difference:\n{}",
        differing.join("\n")
    );
}

/// Whether the goldens are to be rewritten.
#[allow(
    clippy::disallowed_methods,
    reason = "the one switch of the golden tests; not configuration of a binary"
)]
fn updating() -> bool {
    std::env::var("UPDATE_GOLDENS").is_ok_and(|value| value == "1")
}
