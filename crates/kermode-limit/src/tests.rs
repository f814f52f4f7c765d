//! Tests of the limits, and of the revocation of permits. `KeyedLimit::new` takes the limit of each key, then the limit
//! of all keys.

use super::*;

fn acquire(limit: &KeyedLimit<&'static str>, key: &'static str) -> RevocablePermit<&'static str> {
    limit.acquire_superseding(&key).expect("below the limit")
}

#[tokio::test]
async fn oldest_permit_of_a_key_is_superseded_and_keys_without_permits_take_no_memory() {
    let limit = KeyedLimit::new(2, 100);
    let mut first = acquire(&limit, "web-0");
    let second = acquire(&limit, "web-0");
    let _other = acquire(&limit, "web-1");
    assert!(futures::poll!(std::pin::pin!(first.revoked())).is_pending());
    drop(second);
    let mut third = acquire(&limit, "web-0");
    assert!(futures::poll!(std::pin::pin!(first.revoked())).is_pending());
    let fourth = acquire(&limit, "web-0");
    assert_eq!(first.revoked().await, Revoked::Superseded);
    drop(first);
    assert!(futures::poll!(std::pin::pin!(third.revoked())).is_pending());
    drop((third, fourth));
    assert_eq!((limit.key_count(), limit.permit_count()), (1, 1));
}

#[tokio::test]
async fn key_is_evicted_once_and_can_acquire_a_new_permit() {
    let limit = KeyedLimit::new(2, 100);
    let mut permit = acquire(&limit, "web-0");
    assert_eq!(limit.evict_keys(5), 1);
    assert_eq!(limit.evict_keys(5), 0);
    assert_eq!(permit.revoked().await, Revoked::Evicted);
    let next = acquire(&limit, "web-0");
    drop(permit);
    assert_eq!((limit.key_count(), limit.permit_count()), (1, 1));
    drop(next);
    assert_eq!((limit.key_count(), limit.permit_count()), (0, 0));
}

#[test]
fn key_at_the_total_limit_can_only_supersede_its_own_permits() {
    let limit = KeyedLimit::new(2, 3);
    let mut permits: Vec<_> = (0..3)
        .map(|key| limit.acquire_superseding(&key).expect("below the limit"))
        .collect();
    let reached = limit.acquire_superseding(&3).err();
    assert_eq!(reached, Some(TotalLimitReached(3)));
    let newer = limit
        .acquire_superseding(&2)
        .expect("the key supersedes its older permit");
    // The superseded permit counts until it is dropped.
    assert_eq!((limit.key_count(), limit.permit_count()), (3, 4));
    drop(newer);
    permits.pop();
    assert!(limit.acquire_superseding(&3).is_ok());
}

#[test]
fn request_for_an_irrevocable_permit_is_rejected_at_the_limit_of_its_key() {
    let limit = KeyedLimit::new(2, 100);
    let first = limit.try_acquire(&"web").expect("below the limit");
    let second = limit.try_acquire(&"web").expect("below the limit");
    assert_eq!(limit.try_acquire(&"web").err(), Some(LimitReached::PerKey(2)));
    let revocable = limit.acquire_superseding(&"web");
    assert!(
        revocable.is_ok(),
        "irrevocable permits do not count as revocable permits"
    );
    drop(revocable);
    assert!(limit.try_acquire(&"api").is_ok());
    drop(first);
    assert!(limit.try_acquire(&"web").is_ok());
    drop(second);
    assert_eq!((limit.key_count(), limit.permit_count()), (0, 0));
}

#[test]
fn request_for_an_irrevocable_permit_is_rejected_at_the_total_limit() {
    let limit = KeyedLimit::new(1, 2);
    let permits = [1, 2].map(|key| limit.try_acquire(&key).expect("below the limit"));
    assert_eq!(limit.try_acquire(&3).err(), Some(LimitReached::Total(2)));
    drop(permits);
    assert!(limit.try_acquire(&3).is_ok());
}
