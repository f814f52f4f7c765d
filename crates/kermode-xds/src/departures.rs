//! Which clients still have an endpoint that is on its way out.
//!
//! An endpoint whose pod ends or is no longer ready is taken out of its services. From then on until every proxy of
//! the mesh has acknowledged that, requests may still come. This module keeps account: the engine says who departs,
//! streams say what they have confirmed, and the departing sidecar (and the operator) can ask how far it is. What is
//! known is known of this replica's streams; a proxy that is connected to another one is that one's to account for. So
//! whoever asks is told of the other replicas, and whether all of them together can have missed somebody.

mod ledger;
pub mod service;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{self, Stream};
use kermode_model::{MeshName, ObjectKey};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

pub(crate) use ledger::ABSENCE;
use ledger::Ledger;

use crate::replicas::Replicas;

/// How many proxies that have not confirmed a departure are named.
const NAMED: usize = 20;

/// How often whoever follows a departure looks, if none begins or ends.
const LOOK: Duration = Duration::from_secs(1);

/// How the departure of an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not depart, as far as is known here.
    Present,
    /// So many proxies have not confirmed its removal.
    Known {
        /// How many.
        by: usize,
    },
    /// Everybody has.
    Forgotten {
        /// How long that took, from the publication of the removal.
        took: Duration,
    },
}

/// What one replica can say of a departure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// How it stands, as far as the proxies are concerned that have a stream here.
    pub standing: Standing,
    /// Where the other replicas serve proxies, to be asked too.
    pub others: Arc<[SocketAddr]>,
    /// Whether every proxy that could have the endpoint has lately had a stream at this replica or at one of those. That
    /// cannot be known when one of them has just begun, or ended.
    pub complete: bool,
}

/// Says how far a proxy's mesh has been published; none for one that has no Dataplane, or before anything was.
pub type Position = dyn Fn(&ObjectKey) -> Option<(MeshName, u64)> + Send + Sync;

/// A departure that some proxies have not confirmed, for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDeparture {
    /// Whose endpoint it is.
    pub proxy: ObjectKey,
    /// How long ago its removal was published.
    pub age: Duration,
    /// How many proxies have not confirmed it.
    pub waiting: usize,
    /// The first of them.
    pub named: Vec<ObjectKey>,
}

/// The account of all departures. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Departures {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ledger: Mutex<Ledger>,
    streams: AtomicU64,
    /// Turns over whenever a departure begins or ends.
    turned: watch::Sender<()>,
    open: Gauge,
    took: Histogram,
}

/// A stream's entry in the account, struck out when dropped.
#[derive(Debug)]
pub(crate) struct Confirmations {
    shared: Arc<Shared>,
    proxy: ObjectKey,
    stream: u64,
    confirmed: u64,
}

// === impl Departures ===

impl Default for Departures {
    fn default() -> Self {
        let buckets = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
        Self {
            shared: Arc::new(Shared {
                ledger: Mutex::default(),
                streams: AtomicU64::default(),
                turned: watch::Sender::new(()),
                open: Gauge::default(),
                took: Histogram::new(buckets),
            }),
        }
    }
}

impl Departures {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Removed endpoints that some proxy of this replica has not acknowledged to be removed";
        registry.register("xds_endpoint_removals_open", help, self.shared.open.clone());
        let help = "Time from publishing the removal of an endpoint until every proxy of this replica has acknowledged it";
        registry.register_with_unit(
            "xds_endpoint_removal_acknowledgement",
            help,
            Unit::Seconds,
            self.shared.took.clone(),
        );
    }

    /// A proxy of that mesh may be sent requests.
    pub fn arrive(&self, proxy: ObjectKey, mesh: MeshName) {
        self.shared.with(|ledger, _| {
            ledger.arrive(proxy, mesh);
            Vec::new()
        });
    }

    /// A proxy that could be sent requests is to get no more, which has been published. `published` says up to which
    /// point of the store's sequence the changes of a mesh have been.
    pub fn depart(&self, proxy: &ObjectKey, published: impl FnOnce(&MeshName) -> u64) {
        let Some(mesh) = self.shared.ledger().mesh_of(proxy).cloned() else {
            return;
        };
        let sequence = published(&mesh);
        self.shared
            .with(|ledger, now| ledger.depart(proxy, sequence, now));
    }

    /// A proxy's Dataplane is no more.
    pub fn leave(&self, proxy: &ObjectKey) {
        self.shared.with(|ledger, now| ledger.leave(proxy, now));
    }

    /// How a proxy's departure stands.
    pub fn standing(&self, proxy: &ObjectKey) -> Standing {
        // Whoever asks is the one who would wait in vain for proxies that do not come back.
        self.shared.with(Ledger::give_up);
        self.shared.ledger().standing(proxy)
    }

    /// What waits, the oldest first.
    pub fn open(&self) -> Vec<OpenDeparture> {
        let now = Instant::now();
        let ledger = self.shared.ledger();
        let mut open: Vec<_> = ledger
            .open_departures()
            .map(|(proxy, begun, waiting)| OpenDeparture {
                proxy: proxy.clone(),
                age: now.saturating_duration_since(begun),
                waiting: waiting.len(),
                named: waiting.into_iter().take(NAMED).cloned().collect(),
            })
            .collect();
        open.sort_by_key(|departure| std::cmp::Reverse(departure.age));
        open
    }

    /// Opens a stream's entry.
    pub(crate) fn connect(&self, proxy: &ObjectKey, mesh: &MeshName) -> Confirmations {
        let stream = self.shared.streams.fetch_add(1, Ordering::Relaxed);
        self.shared
            .with(|ledger, now| ledger.open(proxy, mesh, stream, now));
        Confirmations {
            shared: self.shared.clone(),
            proxy: proxy.clone(),
            stream,
            confirmed: 0,
        }
    }

    /// What can be said of a proxy's departure, now and whenever that changes, for as long as somebody listens: a client
    /// that comes later may have the endpoint yet.
    pub fn watch(
        &self,
        proxy: ObjectKey,
        position: Arc<Position>,
        replicas: watch::Receiver<Replicas>,
    ) -> impl Stream<Item = Account> + Send + 'static {
        let (departures, turned) = (self.clone(), self.shared.turned.subscribe());
        let told: Option<Account> = None;
        stream::unfold(
            (turned, replicas, told),
            move |(mut turned, mut replicas, told)| {
                let (departures, proxy, position) = (departures.clone(), proxy.clone(), position.clone());
                async move {
                    loop {
                        turned.mark_unchanged();
                        let account = departures.account(&proxy, &*position, &replicas.borrow_and_update());
                        if told.as_ref() != Some(&account) {
                            return Some((account.clone(), (turned, replicas, Some(account))));
                        }
                        // The sender lives in the account, which is held here. A look in between shows that fewer wait, and
                        // that time has passed.
                        let _ = tokio::time::timeout(LOOK, async {
                            tokio::select! {
                                _ = turned.changed() => {}
                                Ok(()) = replicas.changed() => {}
                            }
                        })
                        .await;
                    }
                }
            },
        )
    }

    fn account(&self, proxy: &ObjectKey, position: &Position, replicas: &Replicas) -> Account {
        if !self.shared.ledger().knows(proxy)
            && let Some((mesh, sequence)) = position(proxy)
        {
            // It is no endpoint, so up to there nobody was told of it here.
            self.shared
                .with(|ledger, now| ledger.ask(proxy, mesh, sequence, now));
        }
        Account {
            standing: self.standing(proxy),
            others: replicas.others.clone(),
            complete: replicas.are_settled(),
        }
    }
}

// === impl Confirmations ===

impl Confirmations {
    /// The proxy has applied every change of endpoints up to that point.
    pub(crate) fn confirm(&mut self, sequence: Option<u64>) {
        let Some(sequence) = sequence.filter(|sequence| *sequence > self.confirmed) else {
            return;
        };
        self.confirmed = sequence;
        let (proxy, stream) = (&self.proxy, self.stream);
        self.shared
            .with(|ledger, now| ledger.confirm(proxy, stream, sequence, now));
    }
}

impl Drop for Confirmations {
    fn drop(&mut self) {
        let (proxy, stream) = (&self.proxy, self.stream);
        self.shared.with(|ledger, now| ledger.close(proxy, stream, now));
    }
}

// === impl Shared ===

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, change: impl FnOnce(&mut Ledger, Instant) -> Vec<Duration>) {
        let mut ledger = self.ledger();
        let before = ledger.open_count();
        let settled = change(&mut ledger, Instant::now());
        let open = ledger.open_count();
        drop(ledger);
        for took in &settled {
            self.took.observe(took.as_secs_f64());
        }
        if open != before || !settled.is_empty() {
            self.open.set(i64::try_from(open).unwrap_or(i64::MAX));
            self.turned.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_departure_is_told_from_its_beginning_to_its_end() {
        let departures = Departures::default();
        let (web, client) = (ObjectKey::new("shop", "web"), ObjectKey::new("shop", "a"));
        let mesh = MeshName::from("default");
        departures.arrive(web.clone(), mesh.clone());
        let mut confirmations = departures.connect(&client, &mesh);
        let (_replicas, alone) = watch::channel(settled());
        let mut told = std::pin::pin!(departures.watch(web.clone(), Arc::new(|_| None), alone));
        let mut standing = async || told.next().await.map(|account| account.standing);

        assert_eq!(standing().await, Some(Standing::Present));
        departures.depart(&web, |_| 8);
        assert_eq!(standing().await, Some(Standing::Known { by: 1 }));
        let open = departures.open();
        assert_eq!((open[0].waiting, &open[0].named), (1, &vec![client]));
        assert_eq!(departures.shared.open.get(), 1);
        confirmations.confirm(Some(7));
        confirmations.confirm(Some(8));
        assert!(matches!(standing().await, Some(Standing::Forgotten { .. })));
        assert_eq!(departures.shared.open.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_over_while_a_replica_that_has_ended_may_have_left_somebody() {
        let departures = Departures::default();
        let web = ObjectKey::new("shop", "web");
        departures.arrive(web.clone(), "default".into());
        departures.depart(&web, |_| 1);
        let other: SocketAddr = "10.0.0.2:5678".parse().expect("an address");
        let lost = |others: &[SocketAddr]| Replicas {
            others: others.into(),
            since: Some(tokio::time::Instant::now()),
            ..Replicas::default()
        };
        let (replicas, seen) = watch::channel(lost(&[other]));
        let mut told = std::pin::pin!(departures.watch(web, Arc::new(|_| None), seen));

        let first = told.next().await.expect("an account");
        assert!(matches!(first.standing, Standing::Forgotten { .. }), "{first:?}");
        assert!(!first.complete && *first.others == [other], "{first:?}");
        let begun = tokio::time::Instant::now();
        replicas.send_replace(lost(&[]));
        let second = told.next().await.expect("an account");
        assert!(!second.complete && second.others.is_empty(), "{second:?}");
        let third = told.next().await.expect("an account");
        assert!(third.complete && begun.elapsed() >= ABSENCE, "{third:?}");
    }

    #[tokio::test]
    async fn one_that_was_no_endpoint_here_asks_who_has_come_with_it_from_elsewhere() {
        let departures = Departures::default();
        let (web, client) = (ObjectKey::new("shop", "web"), ObjectKey::new("shop", "a"));
        let mesh = MeshName::from("default");
        let mut confirmations = departures.connect(&client, &mesh);
        confirmations.confirm(Some(7));
        let (_replicas, alone) = watch::channel(settled());
        let position = move |_: &ObjectKey| Some((mesh.clone(), 8));
        let told = departures.watch(web.clone(), Arc::new(position), alone);
        let mut told = std::pin::pin!(told);
        let mut standing = async || told.next().await.map(|account| account.standing);

        assert_eq!(standing().await, Some(Standing::Known { by: 1 }));
        confirmations.confirm(Some(8));
        assert!(matches!(standing().await, Some(Standing::Forgotten { .. })));
        // It may become one yet.
        departures.arrive(web.clone(), "default".into());
        assert_eq!(departures.standing(&web), Standing::Present);
    }

    fn settled() -> Replicas {
        Replicas {
            since: Some(tokio::time::Instant::now() - ABSENCE),
            ..Replicas::default()
        }
    }
}
