//! Tables of the options of an installation, one for each group, from the declarations in `kermode-install`.

use kermode_install::{InstallOption, Names, options};

use crate::{GeneratedTable, code, render_table};

pub(crate) fn tables() -> Vec<GeneratedTable> {
    let mut groups: Vec<&str> = options().iter().map(|option| option.group).collect();
    groups.dedup();
    let table = |group: &str| {
        let options = options().iter().filter(|option| option.group == group);
        GeneratedTable {
            file: "installation.md",
            name: format!("options, {group}"),
            markdown: render_table(
                ["Helm value", "flag of kumactl", "default", "meaning"],
                options.map(row),
            ),
        }
    };
    groups.into_iter().map(table).collect()
}

fn row(option: &InstallOption) -> [String; 4] {
    let flag = format!("--{} {}", option.flag, option.placeholder());
    [
        code(option.path),
        code(&flag),
        option.default_text().as_deref().map(code).unwrap_or_default(),
        Names::Values.text(option.meaning),
    ]
}
