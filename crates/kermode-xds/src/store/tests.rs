//! Tests of the store through its watchers. The methods of the store that replace or update resources return the number
//! of resources that changed.

use futures::FutureExt;
use kermode_envoy::OnDemand;

use super::*;

fn mk_resource(kind: ResourceKind, name: &str, version: &str) -> Resource {
    Resource {
        kind,
        name: name.into(),
        version: version.into(),
        body: bytes::Bytes::copy_from_slice(version.as_bytes()),
        service: None,
        on_demand: None,
    }
}

fn mk_cluster(name: &str, version: &str) -> Resource {
    mk_resource(ResourceKind::Cluster, name, version)
}

fn mk_profile() -> Profile {
    Profile::new("default".into())
}

fn proxy(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn mesh() -> MeshName {
    MeshName::new("default")
}

/// Reads the view, so that the watcher is up to date. Returns the names that changed since the last read, or `None` if
/// the changes are unknown.
fn changed_names(watcher: &mut Watcher) -> Option<Vec<String>> {
    watcher.read(|_, changes| match changes {
        Changes::Unknown => None,
        Changes::Known(changes) => Some(changes.iter().map(|change| change.key.name.to_string()).collect()),
    })
}

/// Returns every cluster that a wildcard subscription includes, as `name=version`.
fn clusters(watcher: &mut Watcher) -> Vec<String> {
    let mut all: Vec<String> = watcher.read(|view, _| {
        let entries = view.map(|view| view.wildcard(ResourceKind::Cluster).collect::<Vec<_>>());
        let resources = entries.into_iter().flatten().map(|entry| &entry.versioned_name);
        resources
            .map(|resource| format!("{}={}", resource.name, resource.version))
            .collect()
    });
    all.sort();
    all
}

#[test]
fn changes_are_unknown_at_the_first_read_and_known_at_later_reads() {
    let store = Arc::new(Store::default());
    store.replace_mesh(&mesh(), vec![mk_cluster("a", "1"), mk_cluster("b", "1")]);
    store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "1")]);
    let mut watcher = store.watch(&proxy("web"));
    assert_eq!(changed_names(&mut watcher), None);
    assert_eq!(changed_names(&mut watcher), Some(vec![]));

    assert_eq!(
        store.replace_mesh(&mesh(), vec![mk_cluster("a", "2"), mk_cluster("b", "1")]),
        1
    );
    assert_eq!(changed_names(&mut watcher), Some(vec!["a".into()]));
    assert_eq!(clusters(&mut watcher), ["a=2", "b=1", "own=1"]);
}

#[test]
fn publishing_unchanged_resources_wakes_no_watcher() {
    let store = Arc::new(Store::default());
    store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "1")]);
    store.replace_mesh(&mesh(), vec![mk_cluster("a", "1")]);
    let mut watcher = store.watch(&proxy("web"));
    changed_names(&mut watcher);
    assert_eq!(store.replace_mesh(&mesh(), vec![mk_cluster("a", "1")]), 0);
    assert_eq!(
        store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "1")]),
        0
    );
    assert_eq!(watcher.changed().now_or_never(), None);
}

#[test]
fn change_wakes_only_the_watchers_that_read_its_scope() {
    let store = Arc::new(Store::default());
    for name in ["web", "api"] {
        store.replace_proxy(&proxy(name), mk_profile(), Vec::new());
    }
    let profile_in_other_mesh = Profile {
        mesh: "other".into(),
        ..mk_profile()
    };
    store.replace_proxy(&proxy("elsewhere"), profile_in_other_mesh, Vec::new());
    let mut watchers = ["web", "api", "elsewhere"].map(|name| store.watch(&proxy(name)));
    for watcher in &mut watchers {
        changed_names(watcher);
    }
    let mut woken = || {
        watchers
            .each_mut()
            .map(|watcher| watcher.changed().now_or_never().is_some())
    };

    store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "1")]);
    assert_eq!(woken(), [true, false, false]);
    store.replace_mesh(&mesh(), vec![mk_cluster("a", "1")]);
    assert_eq!(woken(), [true, true, false]);
}

#[test]
fn changes_are_unknown_to_a_watcher_behind_the_bounded_log() {
    let store = Arc::new(Store::with_log_capacity(3));
    store.replace_proxy(&proxy("web"), mk_profile(), Vec::new());
    let mut watcher = store.watch(&proxy("web"));
    changed_names(&mut watcher);
    for version in ["1", "2", "3"] {
        store.replace_mesh(&mesh(), vec![mk_cluster("a", version)]);
    }
    assert_eq!(changed_names(&mut watcher).map(|names| names.len()), Some(3));
    for version in ["4", "5", "6", "7"] {
        store.replace_mesh(&mesh(), vec![mk_cluster("a", version)]);
    }
    assert_eq!(changed_names(&mut watcher), None);
    assert_eq!(clusters(&mut watcher), ["a=7"]);
}

#[test]
fn view_prefers_own_resources_of_the_proxy_and_omits_hidden_resources() {
    let store = Arc::new(Store::default());
    store.replace_mesh(
        &mesh(),
        vec![
            mk_cluster("a", "shared"),
            mk_cluster("b", "shared"),
            mk_cluster("c", "1"),
        ],
    );
    let hidden = HashSet::from([Key {
        kind: ResourceKind::Cluster,
        name: "b".into(),
    }]);
    store.replace_proxy(
        &proxy("web"),
        Profile {
            hidden,
            ..mk_profile()
        },
        vec![mk_cluster("a", "own")],
    );
    let mut watcher = store.watch(&proxy("web"));
    assert_eq!(clusters(&mut watcher), ["a=own", "c=1"]);
    watcher.read(|view, _| {
        let view = view.unwrap();
        assert_eq!(
            &*view
                .get(ResourceKind::Cluster, "a")
                .unwrap()
                .versioned_name
                .version,
            "own"
        );
        assert!(view.get(ResourceKind::Cluster, "b").is_none());
    });
}

#[test]
fn limited_visibility_selects_the_listed_services_and_all_resources_without_service() {
    let store = Arc::new(Store::default());
    store.replace_mesh(&mesh(), vec![mk_cluster("passthrough", "1")]);
    for name in ["a", "b"] {
        store.replace_service(&mesh(), &name.into(), vec![mk_cluster(name, "1")]);
    }
    let visibility = ServiceSelection::Only(HashSet::from(["b".into()]));
    store.replace_proxy(
        &proxy("web"),
        Profile {
            visibility,
            ..mk_profile()
        },
        Vec::new(),
    );
    let mut watcher = store.watch(&proxy("web"));
    assert_eq!(clusters(&mut watcher), ["b=1", "passthrough=1"]);

    store.replace_proxy(&proxy("web"), mk_profile(), Vec::new());
    assert_eq!(
        changed_names(&mut watcher),
        None,
        "the changes must be unknown after a switch to all services"
    );
    assert_eq!(clusters(&mut watcher), ["a=1", "b=1", "passthrough=1"]);
}

#[test]
fn name_used_by_several_services_yields_the_resource_of_the_alphabetically_first_visible_service() {
    let store = Arc::new(Store::default());
    store.replace_service(&mesh(), &"b".into(), vec![mk_cluster("same", "of b")]);
    store.replace_service(&mesh(), &"a".into(), vec![mk_cluster("same", "of a")]);
    store.replace_proxy(&proxy("web"), mk_profile(), Vec::new());
    let visibility = ServiceSelection::Only(HashSet::from(["b".into()]));
    store.replace_proxy(
        &proxy("api"),
        Profile {
            visibility,
            ..mk_profile()
        },
        Vec::new(),
    );
    assert_eq!(clusters(&mut store.watch(&proxy("web"))), ["same=of a"]);
    assert_eq!(clusters(&mut store.watch(&proxy("api"))), ["same=of b"]);

    store.replace_service(&mesh(), &"a".into(), Vec::new());
    assert_eq!(clusters(&mut store.watch(&proxy("web"))), ["same=of b"]);
}

#[test]
fn replacing_the_resources_of_a_service_keeps_those_of_other_services() {
    let store = Arc::new(Store::default());
    store.replace_proxy(&proxy("web"), mk_profile(), Vec::new());
    store.replace_service(
        &mesh(),
        &"a".into(),
        vec![mk_cluster("a1", "1"), mk_cluster("a2", "1")],
    );
    store.replace_service(&mesh(), &"b".into(), vec![mk_cluster("b1", "1")]);
    assert_eq!(
        store.replace_service(&mesh(), &"a".into(), vec![mk_cluster("a2", "1")]),
        1
    );
    assert_eq!(clusters(&mut store.watch(&proxy("web"))), ["a2=1", "b1=1"]);
}

#[test]
fn proxy_has_no_view_until_it_is_published() {
    let store = Arc::new(Store::default());
    store.replace_mesh(&mesh(), vec![mk_cluster("a", "1")]);
    let mut watcher = store.watch(&proxy("web"));
    assert!(watcher.read(|view, _| view.is_none()));
    assert_eq!(watcher.changed().now_or_never(), None);
    store.replace_proxy(&proxy("web"), mk_profile(), Vec::new());
    assert_eq!(watcher.changed().now_or_never(), Some(()));
    assert_eq!(changed_names(&mut watcher), None);
    assert_eq!(clusters(&mut watcher), ["a=1"]);
}

#[test]
fn removed_proxy_has_no_view_and_its_scope_ends_with_its_last_watcher() {
    let store = Arc::new(Store::default());
    store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "1")]);
    let mut watcher = store.watch(&proxy("web"));
    changed_names(&mut watcher);
    store.remove_proxy(&proxy("web"));
    assert!(watcher.read(|view, _| view.is_none()));
    assert_eq!(
        store.scope_counts(),
        ScopeCounts {
            meshes: 1,
            proxies: 1
        },
        "the scope must remain while a watcher exists"
    );
    store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "2")]);
    assert_eq!(changed_names(&mut watcher), None);
    assert_eq!(clusters(&mut watcher), ["own=2"]);
    store.remove_proxy(&proxy("web"));
    drop(watcher);
    assert_eq!(
        store.scope_counts(),
        ScopeCounts {
            meshes: 1,
            proxies: 0
        }
    );
}

#[test]
fn proxy_that_moves_to_another_mesh_reads_that_mesh() {
    let store = Arc::new(Store::default());
    store.replace_mesh(&mesh(), vec![mk_cluster("a", "1")]);
    store.replace_mesh(&"other".into(), vec![mk_cluster("b", "1")]);
    store.replace_proxy(&proxy("web"), mk_profile(), Vec::new());
    let mut watcher = store.watch(&proxy("web"));
    assert_eq!(clusters(&mut watcher), ["a=1"]);
    store.replace_proxy(
        &proxy("web"),
        Profile {
            mesh: "other".into(),
            ..mk_profile()
        },
        Vec::new(),
    );
    assert_eq!(changed_names(&mut watcher), None);
    assert_eq!(clusters(&mut watcher), ["b=1"]);
}

fn only(services: &[&str]) -> ServiceSelection {
    ServiceSelection::Only(services.iter().map(|name| ServiceName::from(*name)).collect())
}

#[test]
fn change_of_a_profile_reports_only_the_names_that_it_affects() {
    let store = Arc::new(Store::default());
    for name in ["a", "b", "c", "d"] {
        store.replace_service(&mesh(), &name.into(), vec![mk_cluster(name, "1")]);
    }
    let profile = Profile {
        visibility: only(&["a", "b", "c"]),
        wildcard: only(&["a"]),
        ..mk_profile()
    };
    store.replace_proxy(&proxy("web"), profile, Vec::new());
    let mut watcher = store.watch(&proxy("web"));
    assert_eq!(changed_names(&mut watcher), None);
    assert_eq!(clusters(&mut watcher), ["a=1"]);

    let add_to_wildcard = |profile: &mut Profile| profile.wildcard = only(&["a", "b"]);
    assert!(store.update_profile(&proxy("web"), add_to_wildcard));
    assert!(
        !store.update_profile(&proxy("web"), add_to_wildcard),
        "an equal profile must not count as a change"
    );
    assert_eq!(changed_names(&mut watcher), Some(vec!["b".into()]));
    assert_eq!(clusters(&mut watcher), ["a=1", "b=1"]);

    // The service `a` becomes invisible, and the cluster `b` hidden.
    let hidden = Key {
        kind: ResourceKind::Cluster,
        name: "b".into(),
    };
    assert!(store.update_profile(&proxy("web"), |profile| {
        profile.visibility = only(&["b", "c"]);
        profile.hidden.insert(hidden);
    }));
    let mut changed = changed_names(&mut watcher).expect("known changes");
    changed.sort();
    assert_eq!(changed, ["a", "b"]);
    assert_eq!(clusters(&mut watcher), [] as [&str; 0]);
}

#[test]
fn wildcard_subscription_excludes_on_demand_resources_and_unselected_services() {
    let store = Arc::new(Store::default());
    let on_demand = Resource {
        on_demand: Some(Box::new(OnDemand::default())),
        ..mk_cluster("on-demand", "1")
    };
    store.replace_service(&mesh(), &"a".into(), vec![mk_cluster("a", "1"), on_demand]);
    store.replace_service(&mesh(), &"b".into(), vec![mk_cluster("b", "1")]);
    let profile = Profile {
        wildcard: only(&["a"]),
        ..mk_profile()
    };
    store.replace_proxy(&proxy("web"), profile, Vec::new());
    let mut watcher = store.watch(&proxy("web"));
    assert_eq!(clusters(&mut watcher), ["a=1"]);
    watcher.read(|view, _| {
        let view = view.unwrap();
        for name in ["on-demand", "b"] {
            assert!(view.get(ResourceKind::Cluster, name).is_some(), "{name}");
            assert!(
                view.get_by_wildcard(ResourceKind::Cluster, name).is_none(),
                "{name}"
            );
        }
    });
    assert!(store.update_profile(&proxy("web"), |profile| profile.wildcard = ServiceSelection::All));
    assert_eq!(clusters(&mut watcher), ["a=1", "b=1"]);
}

#[test]
fn update_of_a_proxy_keeps_the_resources_that_are_not_listed() {
    let store = Arc::new(Store::default());
    assert_eq!(
        store.update_proxy(&proxy("web"), Vec::new(), &[]),
        None,
        "the proxy is not published"
    );
    let own = vec![mk_cluster("a", "1"), mk_cluster("b", "1"), mk_cluster("c", "1")];
    store.replace_proxy(&proxy("web"), mk_profile(), own);
    let mut watcher = store.watch(&proxy("web"));
    changed_names(&mut watcher);
    let removed = ["b", "unknown"].map(|name| Key {
        kind: ResourceKind::Cluster,
        name: name.into(),
    });
    let upserts = vec![mk_cluster("a", "1"), mk_cluster("c", "2")];
    assert_eq!(store.update_proxy(&proxy("web"), upserts, &removed), Some(2));
    assert_eq!(changed_names(&mut watcher), Some(vec!["b".into(), "c".into()]));
    assert_eq!(clusters(&mut watcher), ["a=1", "c=2"]);
}
