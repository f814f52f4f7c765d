//! The annotation with the networks of a Pod, to which injection adds the network of the CNI plugin. Its value is a
//! comma-separated list of names or a JSON list of objects.
//! <https://github.com/k8snetworkplumbingwg/multi-net-spec>, section 4.1

use kermode_model::notation;
use serde_json::Value;

use crate::annotations::with_item;

/// Network of the CNI plugin.
const CNI_NETWORK: &str = "kuma-cni";
/// The same network as an item of a JSON list.
const CNI_NETWORK_ITEM: &str = r#"{"name":"kuma-cni"}"#;

/// Returns the networks of a Pod with the network of the CNI plugin. A value that begins as a JSON list, but is none, is
/// returned unchanged: nothing can read it.
pub(crate) fn with_cni_network(networks: &str) -> String {
    if !is_json(networks) {
        return with_item(Some(networks), CNI_NETWORK);
    }
    let items = serde_json::from_str::<Vec<Value>>(networks).ok();
    let addable = items.filter(|items| !items.iter().any(is_cni_network));
    let (Some(items), Some(head)) = (addable, networks.trim_end().strip_suffix(']')) else {
        return networks.to_owned();
    };
    let comma = if items.is_empty() { "" } else { "," };
    format!("{head}{comma}{CNI_NETWORK_ITEM}]")
}

/// Returns the networks of a Pod without the network of the CNI plugin; empty if there are no others. `None` if the Pod
/// does not have this network.
pub(crate) fn without_cni_network(networks: &str) -> Option<String> {
    if is_json(networks) {
        let mut items: Vec<Value> = serde_json::from_str(networks).ok()?;
        let count = items.len();
        items.retain(|item| !is_cni_network(item));
        let text = || match items.as_slice() {
            [] => String::new(),
            items => Value::from(items).to_string(),
        };
        return (items.len() < count).then(text);
    }
    let others: Vec<&str> = notation::list(networks)
        .filter(|network| *network != CNI_NETWORK)
        .collect();
    (others.len() < notation::list(networks).count()).then(|| others.join(","))
}

fn is_json(networks: &str) -> bool {
    networks.trim_start().starts_with('[')
}

fn is_cni_network(item: &Value) -> bool {
    item.get("name").is_some_and(|name| name == CNI_NETWORK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_is_added_once_to_a_list_of_either_form() {
        for (before, after) in [
            ("", "kuma-cni"),
            ("net/macvlan@net1, sriov", "net/macvlan@net1, sriov,kuma-cni"),
            ("[]", r#"[{"name":"kuma-cni"}]"#),
            (" [ ] ", r#" [ {"name":"kuma-cni"}]"#),
            (
                "[{\"name\": \"a\", \"ips\": [\"10.1.1.1/24\"]}]\n",
                r#"[{"name": "a", "ips": ["10.1.1.1/24"]},{"name":"kuma-cni"}]"#,
            ),
        ] {
            assert_eq!(with_cni_network(before), after);
            assert_eq!(with_cni_network(after), after, "twice");
            let is_valid = |text: &str| !is_json(text) || serde_json::from_str::<Vec<Value>>(text).is_ok();
            assert!(is_valid(after));
        }
        assert_eq!(with_cni_network("[broken"), "[broken");
    }

    #[test]
    fn added_network_is_removed_from_a_list_of_either_form() {
        for (before, after) in [
            ("kuma-cni", Some("")),
            ("a,kuma-cni", Some("a")),
            ("a,b", None),
            (r#"[{"name":"kuma-cni"}]"#, Some("")),
            (r#"[{"name":"a"},{"name":"kuma-cni"}]"#, Some(r#"[{"name":"a"}]"#)),
            (r#"[{"name":"a"}]"#, None),
            ("[broken", None),
        ] {
            assert_eq!(without_cni_network(before).as_deref(), after, "{before}");
        }
    }
}
