//! Tests of the table and of the allocation, most of them with random sequences of changes.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kermode_model::{ServiceName, VirtualIpRange};
use proptest::prelude::*;

use super::*;

fn mk_range(text: &str) -> VirtualIpRange {
    text.parse().expect("a range")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
}

fn set(names: &[&str]) -> BTreeSet<ServiceName> {
    names.iter().map(|name| ServiceName::from(*name)).collect()
}

fn allocator(range: &str) -> Allocator {
    Allocator::new("default".into(), mk_range(range), MAX_TEXT_LENGTH)
}

fn parse(text: &str) -> (Table, Vec<String>) {
    let (table, problems) = Table::parse(text, VirtualIpRange::default());
    (table, problems.iter().map(ToString::to_string).collect())
}

fn table(text: &str) -> Table {
    let (table, problems) = parse(text);
    assert_eq!(problems, Vec::<String>::new());
    table
}

fn address_of(table: &Table, service: &str) -> Option<String> {
    table.get(&service.into()).map(|entry| entry.address.to_string())
}

#[test]
fn entry_whose_key_is_no_name_of_a_mesh_is_ignored() {
    let data = [("default", "a"), ("Other", "b"), ("x.y", "c")];
    let config_map = ConfigMap {
        data: Some(data.map(|(key, text)| (key.to_owned(), text.to_owned())).into()),
        ..ConfigMap::default()
    };
    assert_eq!(
        texts_of(&config_map),
        Texts::from([(MeshName::from("default"), "a".to_owned())])
    );
}

#[test]
fn first_address_depends_only_on_the_names_of_mesh_and_service() {
    let allocate = |mesh: &str| {
        let allocator = Allocator::new(mesh.into(), VirtualIpRange::default(), MAX_TEXT_LENGTH);
        let services = set(&["web_shop_svc_80"]);
        let empty = Table::default();
        allocator.allocate(&empty, &empty, &services, at(0)).table
    };
    // Another version must allocate the same addresses.
    assert_eq!(
        address_of(&allocate("default"), "web_shop_svc_80").as_deref(),
        Some("243.149.131.87")
    );
    assert_eq!(
        address_of(&allocate("other"), "web_shop_svc_80").as_deref(),
        Some("252.32.254.93")
    );
}

#[test]
fn invalid_lines_are_ignored_and_reported() {
    let text = "240.0.0.1 web\n\
                240.0.0.2\n\
                \n\
                10.0.0.1 outside\n\
                240.0.0.1 same-address\n\
                240.0.0.4 web\n\
                240.0.0.5 worker unused-since=yesterday\n\
                240.0.0.6 worker unused-since=2026-11-30T02:31:00Z more\n\
                fd00::1 six\n\
                240.0.0.7 last unused-since=2026-11-30T02:31:00.5Z\n";
    let (table, problems) = parse(text);
    assert_eq!(
        table.to_string(),
        "240.0.0.7 last unused-since=2026-11-30T02:31:00Z\n240.0.0.1 same-address\n240.0.0.4 web\n"
    );
    let form = "not of the form `<address> <service>`, optionally with `unused-since=<time>` or other `<key>=<value>`";
    let expected = [
        format!("line 2: {form}"),
        format!("line 3: {form}"),
        "line 4: 10.0.0.1 is not a usable address of 240.0.0.0/4".to_owned(),
        format!("line 7: {form}"),
        format!("line 8: {form}"),
        format!("line 9: {form}"),
        "line 1: another line has the same address or the same service".to_owned(),
    ];
    assert_eq!(problems, expected);
}

#[test]
fn words_of_a_later_version_are_kept_and_change_no_address() {
    let text = "240.0.0.1 web port=8080 weight=2\n\
                240.0.0.2 worker unused-since=2026-11-30T02:31:00Z port=9000\n";
    let current = table(text);
    assert_eq!(current.to_string(), text);
    let reordered = table("240.0.0.2 worker port=9000 unused-since=2026-11-30T02:31:00Z\n");
    assert_eq!(reordered.get(&"worker".into()), current.get(&"worker".into()));
    // An unchanged text means that the leader does not write the ConfigMap.
    let allocator = allocator("240.0.0.0/4");
    let empty = Table::default();
    let now = "2026-11-30T02:32:00Z".parse().expect("a time");
    let allocate = |services| allocator.allocate(&current, &empty, &set(services), now).table;
    assert_eq!(allocate(&["web"]).to_string(), text);
    let both = allocate(&["web", "worker"]);
    assert_eq!(
        both.to_string(),
        "240.0.0.1 web port=8080 weight=2\n240.0.0.2 worker port=9000\n"
    );
    assert_eq!(both.text_length(), both.to_string().len());
}

#[test]
fn duplicates_are_resolved_in_favour_of_the_service_in_use() {
    let unused = "unused-since=2026-11-30T02:31:00Z";
    let older = "unused-since=2026-11-29T02:31:00Z";
    let lines = [
        format!("240.0.0.1 a {unused}"),
        "240.0.0.1 b".to_owned(),
        format!("240.0.0.2 c {unused}"),
        format!("240.0.0.2 d {older}"),
        "240.0.0.4 e".to_owned(),
        "240.0.0.3 e".to_owned(),
    ];
    let expected = format!("240.0.0.1 b\n240.0.0.2 d {older}\n240.0.0.3 e\n");
    let (forwards, problems) = parse(&lines.join("\n"));
    assert_eq!(forwards.to_string(), expected);
    assert_eq!(problems.len(), 3);
    let reversed: Vec<_> = lines.into_iter().rev().collect();
    assert_eq!(parse(&reversed.join("\n")).0, forwards);
}

#[test]
fn service_that_disappears_keeps_its_address_for_a_day() {
    let allocator = allocator("240.0.0.0/4");
    let empty = Table::default();
    let both = set(&["web", "worker"]);
    let first = allocator.allocate(&empty, &empty, &both, at(0)).table;
    let worker = first.get(&"worker".into()).expect("an entry").address;
    let only_web = set(&["web"]);
    let unused = allocator.allocate(&first, &first, &only_web, at(60)).table;
    assert_eq!(
        unused.get(&"worker".into()),
        Some(Entry {
            unused_since: Some(at(60)),
            ..Entry::new(worker)
        })
    );
    assert_eq!(
        unused.time_to_expiry(at(61)),
        Some(Duration::from_hours(24) - Duration::from_secs(1))
    );
    let day = 24 * 60 * 60;
    let almost = allocator
        .allocate(&unused, &unused, &only_web, at(60 + day - 1))
        .table;
    assert_eq!(
        almost, unused,
        "the time since which a service is unused does not change"
    );
    let again = allocator.allocate(&almost, &almost, &both, at(60 + day)).table;
    assert_eq!(again.get(&"worker".into()), Some(Entry::new(worker)));
    let expired = allocator
        .allocate(&unused, &unused, &only_web, at(60 + day))
        .table;
    assert_eq!(expired.get(&"worker".into()), None);
    assert_eq!(expired.time_to_expiry(at(0)), None);
}

#[test]
fn time_in_the_future_does_not_delay_the_removal() {
    let current = table("240.0.0.1 web unused-since=2099-01-01T00:00:00Z\n");
    let empty = Table::default();
    let allocation = allocator("240.0.0.0/4").allocate(&current, &empty, &BTreeSet::new(), at(5));
    assert_eq!(
        allocation
            .table
            .get(&"web".into())
            .and_then(|entry| entry.unused_since),
        Some(at(5))
    );
}

#[test]
fn remembered_address_is_restored_unless_another_service_has_it() {
    let remembered = table("240.0.0.1 a\n240.0.0.2 b\n240.0.0.3 c\n");
    let current = table("240.0.0.9 a\n240.0.0.2 new\n");
    let services = set(&["a", "b", "c", "new"]);
    let restored = allocator("240.0.0.0/4")
        .allocate(&current, &remembered, &services, at(0))
        .table;
    assert_eq!(address_of(&restored, "a").as_deref(), Some("240.0.0.9"));
    assert_eq!(address_of(&restored, "new").as_deref(), Some("240.0.0.2"));
    assert_eq!(address_of(&restored, "c").as_deref(), Some("240.0.0.3"));
    assert!(address_of(&restored, "b").is_some_and(|address| address != "240.0.0.2"));
}

#[test]
fn address_outside_of_the_range_is_replaced() {
    let current = table("240.0.0.1 web\n");
    let services = set(&["web"]);
    let moved = allocator("10.1.0.0/16")
        .allocate(&current, &current, &services, at(0))
        .table;
    let entry = moved.get(&"web".into()).expect("an entry");
    assert!(mk_range("10.1.0.0/16").contains(entry.address));
}

#[test]
fn in_a_full_range_a_new_service_takes_the_address_of_an_unused_service() {
    let allocator = allocator("10.0.0.0/28");
    let names: Vec<_> = (10..26).map(|index| format!("s{index}")).collect();
    let all: BTreeSet<_> = names
        .iter()
        .map(|name| ServiceName::from(name.as_str()))
        .collect();
    let first: BTreeSet<_> = all.iter().take(14).cloned().collect();
    let empty = Table::default();
    let full = allocator.allocate(&empty, &empty, &first, at(0));
    assert_eq!((full.table.len(), full.without_address.len()), (14, 0));
    let fewer: BTreeSet<_> = first.iter().skip(1).cloned().collect();
    let with_unused = allocator.allocate(&full.table, &full.table, &fewer, at(1)).table;
    assert_eq!(with_unused.unused_count(), 1);
    let more: BTreeSet<_> = all.iter().skip(1).cloned().collect();
    let overfull = allocator.allocate(&with_unused, &with_unused, &more, at(2));
    assert_eq!((overfull.table.len(), overfull.table.unused_count()), (14, 0));
    assert_eq!(overfull.without_address, [ServiceName::from("s25")]);
}

#[test]
fn text_never_exceeds_the_limit() {
    let allocator = Allocator::new("default".into(), VirtualIpRange::default(), 100);
    let names: Vec<_> = (10..30).map(|index| format!("service-{index}")).collect();
    let all: BTreeSet<_> = names
        .iter()
        .map(|name| ServiceName::from(name.as_str()))
        .collect();
    let empty = Table::default();
    let allocation = allocator.allocate(&empty, &empty, &all, at(0));
    assert!(allocation.table.to_string().len() <= 100);
    assert!(!allocation.table.is_empty());
    assert_eq!(allocation.table.len() + allocation.without_address.len(), 20);
    // The times of unused services lengthen the text.
    let unused = allocator
        .allocate(&allocation.table, &empty, &BTreeSet::new(), at(1))
        .table;
    assert!(unused.to_string().len() <= 100);
    assert!(!unused.is_empty());
}

/// A change of the services of a mesh, and the time in seconds until it happens.
type Change = (BTreeSet<u8>, u32);

fn any_changes() -> impl Strategy<Value = Vec<Change>> {
    let services = prop::collection::btree_set(0..24u8, 0..24);
    prop::collection::vec((services, 0..50_000u32), 1..12)
}

fn named(services: &BTreeSet<u8>) -> BTreeSet<ServiceName> {
    services
        .iter()
        .map(|number| ServiceName::new(format!("s{number}_ns_svc_80")))
        .collect()
}

fn assert_is_consistent(table: &Table, range: VirtualIpRange, max_length: usize) {
    let text = table.to_string();
    assert_eq!(text.len(), table.text_length());
    assert!(text.len() <= max_length);
    let mut addresses = HashSet::new();
    for (service, entry) in table.entries() {
        assert!(range.contains(entry.address), "{service}: {}", entry.address);
        assert!(
            addresses.insert(entry.address),
            "{} has several services",
            entry.address
        );
    }
    assert_eq!(Table::parse(&text, range), (table.clone(), Vec::new()));
}

proptest! {
    #[test]
    fn addresses_stay_unique_and_stable_under_all_changes(
        changes in any_changes(),
        prefix_length in 4..=28u32,
        max_length in 0..2_000usize,
    ) {
        let range = mk_range(&format!("240.0.0.0/{prefix_length}"));
        let allocator = Allocator::new("default".into(), range, max_length);
        let mut table = Table::default();
        let mut time = 0;
        for (services, pause) in changes {
            time += i64::from(pause);
            let services = named(&services);
            let next = allocator.allocate(&table, &table, &services, at(time));
            assert_is_consistent(&next.table, range, max_length);
            for service in &services {
                let has_address = next.table.get(service).is_some_and(|entry| entry.unused_since.is_none());
                prop_assert_ne!(has_address, next.without_address.contains(service));
                // A service in use never loses its address. An unused one may have to make room for a service in use,
                // but not if it is in use again.
                if let Some(before) = table.get(service).filter(|entry| entry.unused_since.is_none()) {
                    prop_assert_eq!(next.table.get(service), Some(before));
                }
            }
            let unused = next.table.entries().filter(|(service, _)| !services.contains(*service));
            for (service, entry) in unused {
                let before = table.get(service);
                prop_assert_eq!(before.map(|before| before.address), Some(entry.address), "nothing is invented");
            }
            if !next.without_address.is_empty() {
                prop_assert_eq!(next.table.unused_count(), 0, "unused services make room");
            }
            prop_assert_eq!(&allocator.allocate(&next.table, &next.table, &services, at(time)), &next);
            table = next.table;
        }
    }

    #[test]
    fn lost_config_map_is_restored_with_the_same_addresses(changes in any_changes()) {
        let allocator = allocator("240.0.0.0/4");
        let empty = Table::default();
        let mut table = Table::default();
        let mut last = BTreeSet::new();
        for (services, pause) in changes {
            last = named(&services);
            table = allocator.allocate(&table, &table, &last, at(i64::from(pause))).table;
        }
        let restored = allocator.allocate(&empty, &empty, &last, at(0)).table;
        // 24 names do not collide in a range of 2^28 addresses.
        for service in &last {
            prop_assert_eq!(restored.get(service), table.get(service));
        }
    }

    #[test]
    fn any_text_is_read_without_duplicates(text in "([0-9a-f.: =\n-]|240\\.0\\.0\\.[1-3]|[a-c]|\n| ){0,60}") {
        let range = VirtualIpRange::default();
        let (table, problems) = Table::parse(&text, range);
        assert_is_consistent(&table, range, usize::MAX);
        prop_assert_eq!(table.len() + problems.len(), text.lines().count());
    }
}
