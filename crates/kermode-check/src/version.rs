//! Versions of programs, compared by their three numbers.

use kermode_explain::{ObservedCluster, list, text};
use kermode_install::NAME;
use serde_json::Value;

/// Returns the version of the control plane: the tag of its image, if the tag starts with three numbers.
pub(crate) fn of_control_plane(cluster: &ObservedCluster) -> Option<String> {
    let deployment = cluster.of_kind("Deployment").find(|object| {
        text(object, "/metadata/name") == NAME
            && text(object, "/metadata/namespace") == cluster.config.system_namespace()
    })?;
    let container = list(deployment, "/spec/template/spec/containers").first()?;
    let tag = tag(container)?;
    numbers(tag).map(|_| tag.to_owned())
}

/// Returns the tag of a container's image.
fn tag(container: &Value) -> Option<&str> {
    let image = text(container, "/image");
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    let (_, tag) = image.rsplit_once(':')?;
    (!tag.contains('/')).then_some(tag)
}

/// Whether two versions have different numbers. Versions without numbers are not compared.
pub(crate) fn differ(left: &str, right: &str) -> bool {
    match (numbers(left), numbers(right)) {
        (Some(left), Some(right)) => left != right,
        _ => false,
    }
}

/// Returns the three numbers at the start of a version.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let version = version.trim_start_matches('v');
    let end = version.find(|character: char| !character.is_ascii_digit() && character != '.');
    let mut parts = version[..end.unwrap_or(version.len())].split('.');
    let mut next = || parts.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(!differ("0.1.0", "v0.1.0-abc123"));
        assert!(differ("0.1.0", "0.1.1"));
        assert!(differ("0.9.0", "0.10.0"));
        assert!(!differ("latest", "0.1.0"));
        assert!(!differ("0.1", "0.2"));
    }

    #[test]
    fn tag_is_separate_from_the_port_of_the_registry_and_from_the_digest() {
        let tag_of = |image: &str| tag(&json!({"image": image})).map(str::to_owned);
        assert_eq!(
            tag_of("r.example:5000/kuma-cp:0.1.0@sha256:12").as_deref(),
            Some("0.1.0")
        );
        assert_eq!(tag_of("r.example:5000/kuma-cp"), None);
    }
}
