use kermode_model::{Inbound, tag};

use super::*;

/// Returns a Dataplane of the mesh `default` with one inbound of the service `<name>_<namespace>_svc_80`.
pub(crate) fn mk_dataplane(namespace: &str, name: &str) -> Dataplane {
    let service: Arc<str> = format!("{name}_{namespace}_svc_80").into();
    Dataplane {
        key: ObjectKey::new(namespace, name),
        mesh: MeshName::new(kermode_model::DEFAULT_MESH),
        address: [10, 0, 0, 1].into(),
        additional_addresses: Vec::new(),
        inbounds: vec![Inbound {
            port: 8080,
            tags: [(tag::SERVICE.into(), service)].into(),
            ready: Some(true),
        }],
        gateway: None,
        transparent_proxying: None,
        admin_port: None,
        probes: None,
        metrics: None,
    }
}

const SYNCHRONISED: ProxySummary = ProxySummary {
    sent: 4,
    acknowledged: 4,
    rejected_resources: 0,
};

fn mk_dataplanes(names: &[&str]) -> Vec<Arc<Dataplane>> {
    names
        .iter()
        .map(|name| Arc::new(mk_dataplane("shop", name)))
        .collect()
}

fn mk_snapshot(names: &[&str]) -> Snapshot {
    Snapshot::default().next(mk_dataplanes(names), |_| Some(SYNCHRONISED))
}

/// Returns the names of the changed rows.
fn changed(list: &List) -> Vec<&str> {
    list.rows.iter().map(|row| &*row.name).collect()
}

#[test]
fn state_tells_what_the_proxy_has_acknowledged() {
    let summary = |sent, acknowledged, rejected_resources| ProxySummary {
        sent,
        acknowledged,
        rejected_resources,
    };
    assert_eq!(SyncState::of(None), SyncState::NotConnected);
    assert_eq!(SyncState::of(Some(&summary(4, 4, 0))), SyncState::Synchronised);
    assert_eq!(SyncState::of(Some(&summary(5, 4, 0))), SyncState::Pending);
    assert_eq!(SyncState::of(Some(&summary(0, 0, 0))), SyncState::Pending);
    assert_eq!(SyncState::of(Some(&summary(5, 4, 1))), SyncState::Rejected);
}

#[test]
fn pages_contain_every_row_once_in_order() {
    let snapshot = mk_snapshot(&["e", "b", "d", "a", "c"]);
    let mut query = ListQuery {
        limit: Some(2),
        ..ListQuery::default()
    };
    let mut names = Vec::new();
    loop {
        let list = snapshot.list(&query, None);
        assert_eq!((list.total, list.matching), (5, 5));
        names.extend(list.names);
        match list.next {
            Some(next) => query.after = next,
            None => break,
        }
    }
    assert_eq!(names, ["shop/a", "shop/b", "shop/c", "shop/d", "shop/e"]);
}

#[test]
fn page_continues_after_its_cursor_was_removed() {
    let query = ListQuery {
        after: "shop/b".to_owned(),
        ..ListQuery::default()
    };
    assert_eq!(mk_snapshot(&["a", "c"]).list(&query, None).names, ["shop/c"]);
}

#[test]
fn number_of_rows_is_bounded() {
    let names: Vec<_> = (0..300).map(|number| format!("p{number:03}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let query = ListQuery {
        limit: Some(100_000),
        ..ListQuery::default()
    };
    assert_eq!(mk_snapshot(&names).list(&query, None).rows.len(), MAX_LIMIT);
}

#[test]
fn filters_are_combined() {
    let mut dataplanes = mk_dataplanes(&["web-1", "web-2", "db-1"]);
    dataplanes.push(Arc::new(mk_dataplane("other", "web-1")));
    let other_mesh = Dataplane {
        mesh: MeshName::new("second"),
        ..mk_dataplane("shop", "web-3")
    };
    dataplanes.push(Arc::new(other_mesh));
    let rejected = ProxySummary {
        rejected_resources: 1,
        ..SYNCHRONISED
    };
    let snapshot = Snapshot::default().next(dataplanes, |key| {
        Some(if &*key.name == "web-2" {
            rejected
        } else {
            SYNCHRONISED
        })
    });
    let mut query = ListQuery {
        mesh: "default".to_owned(),
        namespace: "shop".to_owned(),
        text: "WEB".to_owned(),
        ..ListQuery::default()
    };
    assert_eq!(snapshot.list(&query, None).names, ["shop/web-1", "shop/web-2"]);
    query.state = Some(SyncState::Rejected);
    let list = snapshot.list(&query, None);
    assert_eq!(list.names, ["shop/web-2"]);
    assert_eq!((list.total, list.matching), (5, 1));
    let states = [(SyncState::Rejected, 1), (SyncState::Synchronised, 1)];
    assert_eq!(
        list.states,
        states.into(),
        "the counts ignore the filter by state"
    );
    query = ListQuery {
        text: "db-1_shop_svc_80".to_owned(),
        ..ListQuery::default()
    };
    assert_eq!(
        snapshot.list(&query, None).names,
        ["shop/db-1"],
        "services are searched"
    );
}

#[test]
fn update_contains_only_changed_rows() {
    let dataplanes = mk_dataplanes(&["a", "b", "c"]);
    let first = Snapshot::default().next(dataplanes.clone(), |_| Some(SYNCHRONISED));
    let second = first.next(dataplanes.clone(), |key| {
        (&*key.name != "b").then_some(SYNCHRONISED)
    });
    let list = second.list(&ListQuery::default(), Some(first.number));
    assert_eq!(changed(&list), ["b"]);
    assert_eq!(list.rows[0].state, SyncState::NotConnected);
    assert_eq!(list.names, ["shop/a", "shop/b", "shop/c"]);
    // The change is also in the update of a client that has missed a snapshot.
    let mut dataplanes = dataplanes;
    dataplanes[2] = {
        let mut not_ready = mk_dataplane("shop", "c");
        not_ready.inbounds[0].ready = Some(false);
        Arc::new(not_ready)
    };
    let third = second.next(dataplanes, |key| (&*key.name != "b").then_some(SYNCHRONISED));
    assert_eq!(
        changed(&third.list(&ListQuery::default(), Some(first.number))),
        ["b", "c"]
    );
    assert_eq!(
        changed(&third.list(&ListQuery::default(), Some(second.number))),
        ["c"]
    );
}

#[test]
fn number_grows_only_if_a_row_changed() {
    let first = mk_snapshot(&["a", "b"]);
    let same = first.next(mk_dataplanes(&["a", "b"]), |_| Some(SYNCHRONISED));
    assert_eq!(same.number, first.number, "equal Dataplanes are no change");
    let newer = ProxySummary {
        sent: 9,
        acknowledged: 9,
        rejected_resources: 0,
    };
    let same = same.next(mk_dataplanes(&["a", "b"]), |_| Some(newer));
    assert_eq!(same.number, first.number, "versions are not part of a row");
    let replaced = same.next(mk_dataplanes(&["a", "c"]), |_| Some(SYNCHRONISED));
    assert_eq!(replaced.number, first.number + 1);
    let removed = replaced.next(mk_dataplanes(&["a"]), |_| Some(SYNCHRONISED));
    assert_eq!(removed.number, replaced.number + 1);
}
