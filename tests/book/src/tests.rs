//! Tests of the blocks of the book, and of their parser.

use kermode_checkout::Checkout;
use kermode_crds::validate;
use kermode_inject::validate_container_patch;
use kermode_manifests::documents;
use serde_json::Value;

use super::*;

/// Namespace of the control plane in the examples.
const SYSTEM_NAMESPACE: &str = "kong-mesh-system";

fn blocks_of_the_book() -> Vec<(String, Block)> {
    let repository = Checkout::find().expect("the checkout").repository;
    let pages = pages(&repository).expect("a summary");
    let of_page = |page: &String| {
        let blocks = blocks(&repository, page).expect("blocks");
        blocks
            .into_iter()
            .map(|block| (page.clone(), block))
            .collect::<Vec<_>>()
    };
    pages.iter().flat_map(of_page).collect()
}

#[test]
fn commands_are_run_or_have_a_reason_why_not() {
    let mut run = 0;
    for (page, block) in blocks_of_the_book() {
        if let Kind::Shell(Execution::Run { .. }) = block.kind {
            run += 1;
            assert!(
                RUN_PAGES.contains(&page.as_str()),
                "{}: no test runs the commands of this page; add no-run: REASON",
                block.place
            );
        }
    }
    assert!(run > 0, "no commands are run");
}

#[test]
fn pages_with_commands_that_are_run_are_in_the_book() {
    let repository = Checkout::find().expect("the checkout").repository;
    let pages = pages(&repository).expect("a summary");
    for page in RUN_PAGES {
        assert!(pages.iter().any(|known| known == page), "{page}");
    }
}

#[test]
fn every_page_of_docs_is_in_the_summary() {
    let docs = Checkout::find().expect("the checkout").repository.join("docs");
    let mut found = Vec::new();
    for folder in ["", "reference/"] {
        for entry in std::fs::read_dir(docs.join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            if name != "SUMMARY.md" && !docs.join(folder).join(&name).is_dir() {
                found.push(format!("{folder}{name}"));
            }
        }
    }
    let mut listed = pages(&Checkout::find().expect("the checkout").repository).expect("a summary");
    found.sort();
    listed.sort();
    assert_eq!(found, listed, "left: in docs, right: in docs/SUMMARY.md");
}

#[test]
fn tests_that_the_book_names_exist() {
    let repository = Checkout::find().expect("the checkout").repository;
    let cases =
        std::fs::read_to_string(repository.join("tests/e2e/src/cases.rs")).expect("the list of tests");
    let mut count = 0;
    for page in ["manual-page.md", "security.md"] {
        let text = read(&repository, page).expect("a page");
        let names = text
            .split('`')
            .filter(|code| code.contains("::") && code.len() > "::".len());
        for name in names {
            count += 1;
            assert!(
                cases.contains(&format!("{name},")),
                "docs/{page}: there is no test {name}"
            );
        }
    }
    assert!(count > 0, "no test is named");
}

#[test]
fn output_follows_commands_that_are_run() {
    let mut previous = Kind::Other;
    for (_, block) in blocks_of_the_book() {
        if block.kind == Kind::Output {
            let is_run = matches!(previous, Kind::Shell(Execution::Run { .. }));
            assert!(is_run, "{}: the block before it is not run", block.place);
        }
        previous = block.kind;
    }
}

#[test]
fn yaml_can_be_parsed_and_resources_of_the_mesh_are_valid() {
    for (_, block) in blocks_of_the_book() {
        if block.kind != Kind::Yaml {
            continue;
        }
        let documents =
            documents::parse(&block.text).unwrap_or_else(|error| panic!("{}: {error}", block.place));
        for object in documents::objects(&documents) {
            assert_eq!(problems(&object), [""; 0], "{}", block.place);
        }
    }
}

fn problems(object: &Value) -> Vec<String> {
    fn texts<P: ToString>(problems: Vec<P>) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    match object["kind"].as_str().unwrap_or_default() {
        "Mesh" => texts(validate::mesh(object)),
        "Dataplane" => texts(validate::dataplane(object, |_| true)),
        "MeshTrafficPermission" => texts(validate::traffic_permission(object, namespace, SYSTEM_NAMESPACE)),
        "ContainerPatch" => texts(
            validate_container_patch(object, SYSTEM_NAMESPACE)
                .err()
                .unwrap_or_default(),
        ),
        _ => Vec::new(),
    }
}

fn one(text: &str) -> Block {
    let mut blocks = blocks_of("operations.md", text).expect("blocks");
    assert_eq!(blocks.len(), 1);
    blocks.remove(0)
}

#[test]
fn block_has_place_text_and_use() {
    let block = one("# Title\n\n1. step:\n\n   ```sh exit=3 eventually\n   a\n     b\n   ```\n");
    assert_eq!(block.place, "docs/operations.md:5");
    assert_eq!(block.text, "a\n  b\n");
    let run = Execution::Run {
        code: 3,
        eventually: true,
    };
    assert_eq!(block.kind, Kind::Shell(run));
    let skipped = one("```sh no-run: needs two clusters\na\n```");
    assert_eq!(
        skipped.kind,
        Kind::Shell(Execution::Skip("needs two clusters".to_owned()))
    );
}

#[test]
fn unknown_words_and_a_missing_reason_or_end_are_errors_with_their_line() {
    for text in [
        "```sh sometimes\n```",
        "```sh no-run:\n```",
        "```yaml run\n```",
        "```sh\na",
    ] {
        let error = blocks_of("operations.md", text)
            .expect_err("an error")
            .to_string();
        assert!(error.starts_with("docs/operations.md:1: "), "{error}");
    }
}

#[test]
fn expected_lines_are_found_in_any_order_with_gaps() {
    let output = one("```text output\nNAME   READY\nweb-…  1/1 …\n```");
    assert_eq!(output.missing_line("other\nweb-1 1/1 3m\nNAME READY AGE"), None);
    assert_eq!(
        output.missing_line("NAME READY\nweb-1 0/1 3m"),
        Some("web-…  1/1 …")
    );
}
