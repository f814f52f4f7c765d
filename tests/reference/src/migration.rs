//! Table of the findings of `kumactl migrate report`, from `kermode-migration`.

use kermode_migration::{RULES, Rule};

use crate::{GeneratedTable, code, render_table};

pub(crate) fn tables() -> Vec<GeneratedTable> {
    let row = |rule: &Rule| {
        let lines: Vec<&str> = rule.meaning.iter().map(|line| line.trim()).collect();
        [code(rule.id), rule.verdict.name().to_owned(), lines.join(" ")]
    };
    vec![GeneratedTable {
        file: "migration.md",
        name: "findings".to_owned(),
        markdown: render_table(["id", "verdict", "meaning"], RULES.iter().map(row)),
    }]
}
