use futures::FutureExt;

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

/// Names of the changes since the last look; `None` for "everything".
fn look(watcher: &mut Watcher) -> Option<Vec<String>> {
    watcher.read(|_, changes| match changes {
        Changes::All => None,
        Changes::Some(changes) => Some(changes.iter().map(|change| change.key.name.to_string()).collect()),
    })
}

/// Name and version of every cluster it sees.
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
fn a_stream_sees_everything_at_first_and_then_only_what_changed() {
    let store = Arc::new(Store::default());
    store.replace_mesh(&mesh(), vec![mk_cluster("a", "1"), mk_cluster("b", "1")]);
    store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "1")]);
    let mut watcher = store.watch(&proxy("web"));
    assert_eq!(look(&mut watcher), None);
    assert_eq!(look(&mut watcher), Some(vec![]));

    assert_eq!(
        store.replace_mesh(&mesh(), vec![mk_cluster("a", "2"), mk_cluster("b", "1")]),
        1
    );
    assert_eq!(look(&mut watcher), Some(vec!["a".into()]));
    assert_eq!(clusters(&mut watcher), ["a=2", "b=1", "own=1"]);
}

#[test]
fn publishing_the_same_again_changes_nothing_and_wakes_nobody() {
    let store = Arc::new(Store::default());
    store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "1")]);
    store.replace_mesh(&mesh(), vec![mk_cluster("a", "1")]);
    let mut watcher = store.watch(&proxy("web"));
    look(&mut watcher);
    assert_eq!(store.replace_mesh(&mesh(), vec![mk_cluster("a", "1")]), 0);
    assert_eq!(
        store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "1")]),
        0
    );
    assert_eq!(watcher.changed().now_or_never(), None);
}

#[test]
fn a_change_wakes_the_streams_that_see_its_scope_and_no_others() {
    let store = Arc::new(Store::default());
    for name in ["web", "api"] {
        store.replace_proxy(&proxy(name), mk_profile(), Vec::new());
    }
    let other = Profile {
        mesh: "other".into(),
        ..mk_profile()
    };
    store.replace_proxy(&proxy("far"), other, Vec::new());
    let mut all = ["web", "api", "far"].map(|name| store.watch(&proxy(name)));
    for watcher in &mut all {
        look(watcher);
    }
    let mut woken = || {
        all.each_mut()
            .map(|watcher| watcher.changed().now_or_never().is_some())
    };

    store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "1")]);
    assert_eq!(woken(), [true, false, false]);
    store.replace_mesh(&mesh(), vec![mk_cluster("a", "1")]);
    assert_eq!(woken(), [true, true, false]);
}

#[test]
fn a_stream_that_fell_behind_the_log_compares_everything_and_the_log_stays_bounded() {
    let store = Arc::new(Store::with_log_capacity(3));
    store.replace_proxy(&proxy("web"), mk_profile(), Vec::new());
    let mut watcher = store.watch(&proxy("web"));
    look(&mut watcher);
    for version in ["1", "2", "3"] {
        store.replace_mesh(&mesh(), vec![mk_cluster("a", version)]);
    }
    assert_eq!(look(&mut watcher).map(|names| names.len()), Some(3));
    for version in ["4", "5", "6", "7"] {
        store.replace_mesh(&mesh(), vec![mk_cluster("a", version)]);
    }
    assert_eq!(look(&mut watcher), None);
    assert_eq!(clusters(&mut watcher), ["a=7"]);
}

#[test]
fn a_proxy_sees_its_own_before_the_shared_and_not_what_is_hidden_from_it() {
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
fn limited_reach_shows_the_services_named_and_what_belongs_to_none() {
    let store = Arc::new(Store::default());
    store.replace_mesh(&mesh(), vec![mk_cluster("passthrough", "1")]);
    for name in ["a", "b"] {
        store.replace_service(&mesh(), &name.into(), vec![mk_cluster(name, "1")]);
    }
    let visibility = Visibility::Only(HashSet::from(["b".into()]));
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
    assert_eq!(look(&mut watcher), None, "another reach means another view");
    assert_eq!(clusters(&mut watcher), ["a=1", "b=1", "passthrough=1"]);
}

#[test]
fn of_one_name_in_two_services_the_first_that_the_proxy_sees_counts() {
    let store = Arc::new(Store::default());
    store.replace_service(&mesh(), &"b".into(), vec![mk_cluster("same", "of b")]);
    store.replace_service(&mesh(), &"a".into(), vec![mk_cluster("same", "of a")]);
    store.replace_proxy(&proxy("web"), mk_profile(), Vec::new());
    let visibility = Visibility::Only(HashSet::from(["b".into()]));
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
fn replacing_a_service_leaves_the_others_alone() {
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
fn a_proxy_that_was_never_published_has_no_view_until_it_is() {
    let store = Arc::new(Store::default());
    store.replace_mesh(&mesh(), vec![mk_cluster("a", "1")]);
    let mut watcher = store.watch(&proxy("web"));
    assert!(watcher.read(|view, _| view.is_none()));
    assert_eq!(watcher.changed().now_or_never(), None);
    store.replace_proxy(&proxy("web"), mk_profile(), Vec::new());
    assert_eq!(watcher.changed().now_or_never(), Some(()));
    assert_eq!(look(&mut watcher), None);
    assert_eq!(clusters(&mut watcher), ["a=1"]);
}

#[test]
fn a_removed_proxy_freezes_its_streams_and_leaves_nothing_behind() {
    let store = Arc::new(Store::default());
    store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "1")]);
    let mut watcher = store.watch(&proxy("web"));
    look(&mut watcher);
    store.remove_proxy(&proxy("web"));
    assert!(watcher.read(|view, _| view.is_none()));
    assert_eq!(
        store.len(),
        (1, 1),
        "kept for the stream, should the proxy come back"
    );
    store.replace_proxy(&proxy("web"), mk_profile(), vec![mk_cluster("own", "2")]);
    assert_eq!(look(&mut watcher), None);
    assert_eq!(clusters(&mut watcher), ["own=2"]);
    store.remove_proxy(&proxy("web"));
    drop(watcher);
    assert_eq!(store.len(), (1, 0));
}

#[test]
fn a_proxy_that_moves_to_another_mesh_sees_that_one() {
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
    assert_eq!(look(&mut watcher), None);
    assert_eq!(clusters(&mut watcher), ["b=1"]);
}
