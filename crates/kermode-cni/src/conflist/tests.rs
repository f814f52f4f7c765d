//! Tests of the edits with examples, hostile input and random lists.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn mk_entry() -> Value {
    json!({"type": "kuma-cni", "kubernetes": {"kubeconfig": "/k"}})
}

fn added(text: &str) -> String {
    match with_entry(text, &mk_entry()).expect("a list") {
        Edit::Changed(text) => text,
        Edit::Unchanged => panic!("the entry is present in {text}"),
    }
}

fn types(text: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(text).expect("JSON");
    let plugins = list["plugins"].as_array().expect("plugins").iter();
    plugins
        .map(|plugin| plugin["type"].as_str().expect("a type").to_owned())
        .collect()
}

#[test]
fn entry_becomes_the_last_plugin_and_everything_else_keeps_its_text() {
    let text = r#"{"z": 1, "cniVersion": "1.0.0", "name": "n", "huge": 123456789012345678901234567890.10,
        "plugins": [{"type": "ptp", "mtu": 1.50 , "b": 1, "a": 2}, {"type": "portmap"}], "disableCheck": true}"#;
    let expected = r#"{
  "z": 1,
  "cniVersion": "1.0.0",
  "name": "n",
  "huge": 123456789012345678901234567890.10,
  "disableCheck": true,
  "plugins": [
    {"type": "ptp", "mtu": 1.50 , "b": 1, "a": 2},
    {"type": "portmap"},
    {"kubernetes":{"kubeconfig":"/k"},"type":"kuma-cni"}
  ]
}
"#;
    assert_eq!(added(text), expected);
    assert_eq!(
        with_entry(expected, &mk_entry()).expect("a list"),
        Edit::Unchanged
    );
}

#[test]
fn present_entry_is_replaced_at_its_position_and_its_copies_are_removed() {
    let list = |plugins: &[&str]| {
        let plugins: Vec<Value> = plugins.iter().map(|kind| json!({"type": kind})).collect();
        json!({"cniVersion": "0.3.1", "name": "n", "plugins": plugins}).to_string()
    };
    for (before, after) in [
        (
            &["ptp", "kuma-cni", "portmap"][..],
            &["ptp", "kuma-cni", "portmap"][..],
        ),
        (&["ptp", "kuma-cni", "kuma-cni"], &["ptp", "kuma-cni"]),
        // The first plugin creates the interfaces, so the entry must not be the first.
        (&["kuma-cni", "ptp"], &["ptp", "kuma-cni"]),
    ] {
        assert_eq!(types(&added(&list(before))), after);
    }
    assert!(with_entry(&list(&["kuma-cni"]), &mk_entry()).is_err());
}

#[test]
fn removal_restores_the_plugins() {
    let text = r#"{"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "ptp"}, {"type": "portmap"}]}"#;
    let with = added(text);
    let Edit::Changed(without) = without_entry(&with).expect("a list") else {
        panic!("the entry is present");
    };
    assert_eq!(
        serde_json::from_str::<Value>(&without).expect("JSON"),
        serde_json::from_str::<Value>(text).expect("JSON")
    );
    assert_eq!(without_entry(text).expect("a list"), Edit::Unchanged);
}

#[test]
fn single_configuration_becomes_a_list_with_its_name_and_version() {
    let text = r#"{"cniVersion": "0.3.1", "name": "pods", "type": "bridge", "ipam": {"type": "host-local", "x": 1.0}}"#;
    let list: Value =
        serde_json::from_str(&list_of_single(text, &mk_entry()).expect("a list")).expect("JSON");
    let expected = json!({
        "cniVersion": "0.3.1",
        "name": "pods",
        "plugins": [{"type": "bridge", "ipam": {"type": "host-local", "x": 1.0}}, mk_entry()],
    });
    assert_eq!(list, expected);
}

#[test]
fn versions_without_support_are_named() {
    for (version, is_supported) in [
        (r#""cniVersion": "0.3.1","#, true),
        (r#""cniVersion": "1.1.0","#, true),
        (
            r#""cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0"],"#,
            true,
        ),
        (r#""cniVersion": "1.0.0", "cniVersions": ["2.0.0"],"#, false),
        (r#""cniVersion": "1.2.0","#, false),
        (r#""cniVersion": "0.2.0","#, false),
        ("", false),
    ] {
        let text = format!(r#"{{{version} "name": "n", "plugins": [{{"type": "ptp"}}]}}"#);
        let result = with_entry(&text, &mk_entry());
        assert_eq!(result.is_ok(), is_supported, "{version}");
        if let Err(error) = result {
            assert!(error.to_string().contains("kuma-cni supports"), "{error}");
        }
    }
}

#[test]
fn text_that_is_no_list_of_plugins_is_rejected() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for text in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"plugins": null}"#,
        r#"{"plugins": {}}"#,
        r#"{"plugins": []}"#,
        r#"{"plugins": [1]}"#,
        r#"{"plugins": [{}]}"#,
        r#"{"plugins": [{"type": ""}]}"#,
        r#"{"plugins": [{"type": ["ptp"]}]}"#,
        r#"{"plugins": [{"type": "ptp"}]} trailing"#,
        r#"{"cniVersion": 1, "plugins": [{"type": "ptp"}]}"#,
        &format!(r#"{{"cniVersion": "1.0.0", "plugins": [{{"type": "ptp", "x": {deep}}}]}}"#),
    ] {
        let beginning: String = text.chars().take(50).collect();
        assert!(with_entry(text, &mk_entry()).is_err(), "{beginning}");
    }
}

#[test]
fn last_of_several_equal_keys_counts() {
    let text = r#"{"cniVersion": "1.0.0", "plugins": [{"type": "a"}], "plugins": [{"type": "b"}]}"#;
    assert_eq!(types(&added(text)), ["b", "kuma-cni"]);
}

prop_compose! {
    fn any_list()(
        plugins in prop::collection::vec("[a-c]|kuma-cni", 1..6),
        members in prop::collection::btree_map("[x-z]{1,2}", any::<i64>(), 0..4),
        text in ".{0,12}",
    ) -> Value {
        let mut list = json!({"cniVersion": "1.0.0", "name": text});
        for (key, value) in members {
            list[key] = value.into();
        }
        let plugins: Vec<Value> = plugins.iter().map(|kind| json!({"type": kind, "text": text})).collect();
        list["plugins"] = plugins.into();
        list
    }
}

proptest! {
    #[test]
    fn any_text_is_edited_or_rejected(text in ".{0,200}") {
        let _ = with_entry(&text, &mk_entry());
        let _ = without_entry(&text);
        let _ = list_of_single(&text, &mk_entry());
    }

    #[test]
    fn other_plugins_and_members_are_kept_and_a_second_edit_changes_nothing(list in any_list()) {
        let others = |list: &Value| {
            let mut list = list.clone();
            let plugins = list["plugins"].as_array().expect("plugins").iter();
            list["plugins"] = plugins.filter(|plugin| plugin["type"] != PLUGIN).cloned().collect();
            list
        };
        let text = list.to_string();
        if others(&list)["plugins"].as_array().is_some_and(Vec::is_empty) {
            prop_assert!(with_entry(&text, &mk_entry()).is_err());
            prop_assert!(without_entry(&text).is_err());
            return Ok(());
        }
        let with = added(&text);
        let value: Value = serde_json::from_str(&with).expect("JSON");
        prop_assert_eq!(others(&value), others(&list));
        prop_assert_eq!(types(&with).iter().filter(|kind| *kind == PLUGIN).count(), 1);
        prop_assert_ne!(&types(&with)[0], PLUGIN);
        prop_assert_eq!(with_entry(&with, &mk_entry()).expect("a list"), Edit::Unchanged);
        let Edit::Changed(without) = without_entry(&with).expect("a list") else {
            return Err(TestCaseError::fail("the entry is present"));
        };
        prop_assert_eq!(serde_json::from_str::<Value>(&without).expect("JSON"), others(&list));
    }
}
