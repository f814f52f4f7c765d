use super::*;

const NONE: Vec<Duration> = Vec::new();

struct Fixture {
    ledger: Ledger,
    start: Instant,
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

impl Fixture {
    /// `web` can be sent requests, and `a` and `b` have streams 1 and 2.
    fn new() -> Self {
        let mut fixture = Self {
            ledger: Ledger::default(),
            start: Instant::now(),
        };
        fixture.arrive("web");
        fixture.open("a", 1);
        fixture.open("b", 2);
        fixture
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn open(&mut self, proxy: &str, stream: u64) {
        let now = self.at(0);
        assert_eq!(
            self.ledger.open(&key(proxy), &"default".into(), stream, now),
            NONE
        );
    }

    fn arrive(&mut self, proxy: &str) {
        self.ledger.arrive(key(proxy), "default".into());
    }

    fn depart(&mut self, proxy: &str, sequence: u64) -> Vec<Duration> {
        let now = self.at(0);
        self.ledger.depart(&key(proxy), sequence, now)
    }

    fn confirm(&mut self, proxy: &str, stream: u64, sequence: u64) -> Vec<Duration> {
        let now = self.at(1);
        self.ledger.confirm(&key(proxy), stream, sequence, now)
    }

    fn standing(&self) -> Standing {
        self.ledger.standing(&key("web"))
    }
}

fn took(seconds: u64) -> Vec<Duration> {
    vec![Duration::from_secs(seconds)]
}

#[test]
fn a_departure_is_over_when_the_last_client_has_confirmed_it() {
    let mut fixture = Fixture::new();
    fixture.confirm("a", 1, 7);
    assert_eq!(fixture.standing(), Standing::Present);
    assert_eq!(fixture.depart("web", 8), NONE);
    assert_eq!(fixture.standing(), Standing::Known { by: 2 });
    assert_eq!(fixture.confirm("a", 1, 8), NONE);
    assert_eq!(fixture.standing(), Standing::Known { by: 1 });
    let (_, _, waiting) = fixture.ledger.open_departures().next().expect("one is open");
    assert_eq!(waiting, [&key("b")]);
    assert_eq!(fixture.confirm("b", 2, 9), took(1));
    let forgotten = Standing::Forgotten { took: took(1)[0] };
    assert_eq!(fixture.standing(), forgotten);
    assert_eq!(fixture.ledger.open_count(), 0);
}

#[test]
fn without_clients_it_is_over_at_once_and_its_own_sidecar_is_none() {
    let mut ledger = Ledger::default();
    let now = Instant::now();
    ledger.arrive(key("web"), "default".into());
    ledger.open(&key("web"), &"default".into(), 1, now);
    assert_eq!(ledger.depart(&key("web"), 5, now), took(0));
}

#[test]
fn clients_of_another_mesh_are_not_waited_for() {
    let mut fixture = Fixture::new();
    fixture.ledger.arrive(key("db"), "other".into());
    assert_eq!(fixture.depart("db", 5), took(0));
}

#[test]
fn who_was_never_there_does_not_depart() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.depart("stranger", 5), NONE);
    assert_eq!(fixture.ledger.open_count(), 0);
}

#[test]
fn a_client_that_lost_its_stream_still_has_the_endpoint_until_it_comes_back_and_confirms() {
    let mut fixture = Fixture::new();
    fixture.confirm("a", 1, 9);
    let now = fixture.at(0);
    assert_eq!(fixture.ledger.close(&key("b"), 2, now), NONE);
    fixture.depart("web", 8);
    assert_eq!(fixture.standing(), Standing::Known { by: 1 });
    fixture.open("b", 3);
    assert_eq!(
        fixture.confirm("b", 2, 8),
        NONE,
        "the old stream says nothing any more"
    );
    assert_eq!(fixture.confirm("b", 3, 8), took(1));
}

#[test]
fn a_client_that_stays_away_is_given_up() {
    let mut fixture = Fixture::new();
    fixture.confirm("a", 1, 9);
    let (closed, soon, late) = (fixture.at(0), fixture.at(59), fixture.at(60));
    fixture.ledger.close(&key("b"), 2, closed);
    fixture.depart("web", 8);
    assert_eq!(fixture.ledger.give_up(soon), NONE);
    assert_eq!(fixture.ledger.give_up(late), took(60));
    assert_eq!(fixture.ledger.clients.len(), 1, "nothing is left of it");
}

#[test]
fn a_client_that_came_back_is_not_given_up() {
    let mut fixture = Fixture::new();
    let (closed, late) = (fixture.at(0), fixture.at(90));
    fixture.ledger.close(&key("b"), 2, closed);
    fixture.open("b", 3);
    fixture.depart("web", 8);
    fixture.confirm("a", 1, 8);
    assert_eq!(fixture.ledger.give_up(late), NONE);
    assert_eq!(fixture.standing(), Standing::Known { by: 1 });
}

#[test]
fn the_end_of_a_client_s_pod_ends_the_wait_for_it() {
    let mut fixture = Fixture::new();
    fixture.confirm("a", 1, 9);
    fixture.depart("web", 8);
    let (left, closed) = (fixture.at(2), fixture.at(3));
    assert_eq!(
        fixture.ledger.leave(&key("b"), left),
        NONE,
        "its stream is still there"
    );
    assert_eq!(fixture.ledger.close(&key("b"), 2, closed), took(3));

    let mut fixture = Fixture::new();
    fixture.confirm("a", 1, 9);
    fixture.depart("web", 8);
    fixture.ledger.close(&key("b"), 2, closed);
    assert_eq!(fixture.ledger.leave(&key("b"), closed).len(), 1);
}

#[test]
fn who_comes_back_is_not_departing_any_more() {
    let mut fixture = Fixture::new();
    fixture.depart("web", 8);
    fixture.arrive("web");
    assert_eq!(fixture.standing(), Standing::Present);
    assert_eq!(fixture.ledger.open_count(), 0);
    fixture.confirm("a", 1, 9);
    assert_eq!(fixture.confirm("b", 2, 9), NONE);
}

#[test]
fn nothing_is_left_of_a_pod_that_has_gone() {
    let mut fixture = Fixture::new();
    fixture.depart("web", 8);
    let now = fixture.at(2);
    fixture.ledger.leave(&key("web"), now);
    fixture.confirm("a", 1, 8);
    assert_eq!(fixture.confirm("b", 2, 8), took(1), "it still counts");
    for (proxy, stream) in [("a", 1), ("b", 2)] {
        fixture.ledger.leave(&key(proxy), now);
        fixture.ledger.close(&key(proxy), stream, now);
    }
    let Ledger {
        rosters,
        clients,
        departures,
        present,
        ..
    } = fixture.ledger;
    assert!(rosters.is_empty() && clients.is_empty() && departures.is_empty() && present.is_empty());
}

#[test]
fn several_departures_end_in_the_order_in_which_they_began() {
    let mut fixture = Fixture::new();
    fixture.arrive("api");
    fixture.depart("web", 8);
    fixture.depart("api", 9);
    fixture.confirm("a", 1, 9);
    assert_eq!(fixture.confirm("b", 2, 8), took(1));
    assert_eq!(fixture.ledger.standing(&key("api")), Standing::Known { by: 1 });
    assert_eq!(fixture.confirm("b", 2, 9), took(1));
}

#[test]
fn a_question_is_no_removal_and_leaves_nothing_behind() {
    let mut fixture = Fixture::new();
    let (early, now) = (key("early"), fixture.at(0));
    assert_eq!(fixture.ledger.ask(&early, "default".into(), 3, now), NONE);
    assert_eq!(fixture.ledger.standing(&early), Standing::Known { by: 2 });
    fixture.confirm("a", 1, 3);
    assert_eq!(fixture.confirm("b", 2, 3), NONE, "nothing was removed");
    let forgotten = Standing::Forgotten { took: took(1)[0] };
    assert_eq!(fixture.ledger.standing(&early), forgotten);
    assert_eq!(
        fixture.ledger.ask(&early, "default".into(), 9, now),
        NONE,
        "it was answered"
    );
    assert_eq!(fixture.ledger.standing(&early), forgotten);

    let late = key("late");
    fixture.ledger.ask(&late, "default".into(), 4, now);
    assert_eq!(fixture.ledger.open_count(), 0, "nothing was removed");
    assert_eq!(fixture.ledger.open_departures().count(), 0);
    for proxy in [&early, &late] {
        fixture.ledger.leave(proxy, now);
    }
    assert!(!fixture.ledger.knows(&early) && fixture.ledger.knows(&late));
    fixture.confirm("a", 1, 4);
    fixture.confirm("b", 2, 4);
    assert!(!fixture.ledger.knows(&late) && fixture.ledger.questions == 0);
}

#[test]
fn whoever_comes_later_with_an_older_configuration_is_waited_for_too() {
    let mut fixture = Fixture::new();
    fixture.depart("web", 8);
    fixture.confirm("a", 1, 8);
    assert_eq!(fixture.confirm("b", 2, 8), took(1));
    fixture.open("c", 3);
    assert_eq!(fixture.standing(), Standing::Known { by: 1 });
    assert_eq!(fixture.confirm("c", 3, 7), NONE);
    assert_eq!(fixture.standing(), Standing::Known { by: 1 });
    assert_eq!(fixture.confirm("c", 3, 8), NONE, "that was told before");
    assert_eq!(fixture.standing(), Standing::Forgotten { took: took(1)[0] });
}

#[test]
fn the_time_for_which_one_is_waited_for_begins_with_its_last_end() {
    let mut fixture = Fixture::new();
    fixture.depart("web", 8);
    fixture.confirm("b", 2, 8);
    fixture.ledger.close(&key("a"), 1, fixture.at(0));
    fixture.open("a", 3);
    fixture.ledger.close(&key("a"), 3, fixture.at(50));
    assert_eq!(fixture.ledger.give_up(fixture.at(61)), NONE);
    assert_eq!(fixture.standing(), Standing::Known { by: 1 });
    assert_eq!(fixture.ledger.give_up(fixture.at(110)), took(110));
}
