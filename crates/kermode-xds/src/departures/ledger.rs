//! Who has confirmed what, and which departures are still waited for. No IO, no clock.
//!
//! A proxy confirms points of the store's sequence: it has applied every change of endpoints up to there. So what a
//! departure waits for is a range of an ordered set, and memory follows the proxies, not proxies times departures.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use kermode_model::{MeshName, ObjectKey};

use super::Standing;

/// How long a proxy without a stream is waited for. It keeps what it has; if it comes back, it does so sooner, here
/// or at another replica.
pub(crate) const ABSENCE: Duration = Duration::from_mins(1);

/// A proxy that has, or lately had, a stream.
#[derive(Debug)]
struct Client {
    id: u64,
    mesh: MeshName,
    /// Its newest stream; none once that has ended.
    stream: Option<u64>,
    confirmed: u64,
    /// When its last stream ended.
    closed: Option<Instant>,
    /// Its Dataplane has gone: when its stream ends, nobody is left who could have anything.
    gone: bool,
}

/// An endpoint that its clients are to forget.
#[derive(Debug)]
struct Departure {
    mesh: MeshName,
    sequence: u64,
    begun: Instant,
    /// Something was published, rather than somebody asked.
    published: bool,
    /// How long it took until nobody had it any more. A client that comes later may have it yet.
    took: Option<Duration>,
    /// Nobody is left who could ask.
    gone: bool,
}

#[derive(Debug, Default)]
struct Roster {
    /// What was confirmed, and by which client.
    confirmed: BTreeSet<(u64, u64)>,
    /// Departures that somebody has not confirmed: when they were published, and whose they are.
    open: BTreeSet<(u64, ObjectKey)>,
}

/// The state of [`super::Departures`]. What a method returns: removals took that long until nobody had them any more.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    rosters: HashMap<MeshName, Roster>,
    clients: HashMap<ObjectKey, Client>,
    ids: u64,
    /// Proxies whose streams have ended, in the order in which that happened.
    absent: VecDeque<(Instant, ObjectKey)>,
    /// Proxies that requests may be sent to, and their meshes.
    present: HashMap<ObjectKey, MeshName>,
    departures: HashMap<ObjectKey, Departure>,
    /// How many of the open ones are questions: nothing was removed.
    questions: usize,
}

// === impl Ledger ===

impl Ledger {
    /// A proxy may be sent requests from now on.
    pub(super) fn arrive(&mut self, proxy: ObjectKey, mesh: MeshName) {
        self.forget_departure(&proxy);
        self.present.insert(proxy, mesh);
    }

    /// The mesh of a proxy that may be sent requests.
    pub(super) fn mesh_of(&self, proxy: &ObjectKey) -> Option<&MeshName> {
        self.present.get(proxy)
    }

    /// A proxy is to get no requests any more, as was published at that point.
    pub(super) fn depart(&mut self, proxy: &ObjectKey, sequence: u64, now: Instant) -> Vec<Duration> {
        let Some(mesh) = self.present.remove(proxy) else {
            return Vec::new();
        };
        self.begin(proxy, mesh, sequence, true, now)
    }

    /// Whether anything is known of a proxy as an endpoint, now or on its way out.
    pub(super) fn knows(&self, proxy: &ObjectKey) -> bool {
        self.present.contains_key(proxy) || self.departures.contains_key(proxy)
    }

    /// A proxy that has been no endpoint since this account began asks who might send it requests: a client that has
    /// come from another replica, or is still to come, and has not applied what has been published here up to that
    /// point.
    pub(super) fn ask(
        &mut self,
        proxy: &ObjectKey,
        mesh: MeshName,
        sequence: u64,
        now: Instant,
    ) -> Vec<Duration> {
        if self.knows(proxy) {
            return Vec::new();
        }
        self.begin(proxy, mesh, sequence, false, now)
    }

    /// A proxy's Dataplane is no more; its departure has been told before.
    pub(super) fn leave(&mut self, proxy: &ObjectKey, now: Instant) -> Vec<Duration> {
        let settled = self.departures.get_mut(proxy).is_some_and(|departure| {
            departure.gone = true;
            departure.took.is_some()
        });
        if settled {
            self.departures.remove(proxy);
        }
        let Some(client) = self.clients.get_mut(proxy) else {
            return Vec::new();
        };
        client.gone = true;
        if client.stream.is_none() {
            self.strike(proxy, now)
        } else {
            Vec::new()
        }
    }

    /// A stream of a proxy has begun. What the proxy has is not known before it confirms something.
    pub(super) fn open(
        &mut self,
        proxy: &ObjectKey,
        mesh: &MeshName,
        stream: u64,
        now: Instant,
    ) -> Vec<Duration> {
        let moved = self.clients.get(proxy).is_some_and(|client| client.mesh != *mesh);
        let settled = if moved {
            self.strike(proxy, now)
        } else {
            Vec::new()
        };
        let roster = self.rosters.entry(mesh.clone()).or_default();
        let ids = &mut self.ids;
        let client = self.clients.entry(proxy.clone()).or_insert_with(|| {
            *ids += 1;
            roster.confirmed.insert((0, *ids));
            Client {
                id: *ids,
                mesh: mesh.clone(),
                stream: None,
                confirmed: 0,
                closed: None,
                gone: false,
            }
        });
        client.stream = client.stream.max(Some(stream));
        client.gone = false;
        settled
    }

    /// The proxy has applied everything up to that point.
    pub(super) fn confirm(
        &mut self,
        proxy: &ObjectKey,
        stream: u64,
        sequence: u64,
        now: Instant,
    ) -> Vec<Duration> {
        let Some(client) = self.clients.get_mut(proxy) else {
            return Vec::new();
        };
        if client.stream != Some(stream) || sequence <= client.confirmed {
            return Vec::new();
        }
        let mesh = client.mesh.clone();
        let roster = self.rosters.entry(mesh.clone()).or_default();
        roster.confirmed.remove(&(client.confirmed, client.id));
        client.confirmed = sequence;
        roster.confirmed.insert((sequence, client.id));
        self.settle(&mesh, now)
    }

    /// A stream of a proxy has ended. The proxy still has what it had.
    pub(super) fn close(&mut self, proxy: &ObjectKey, stream: u64, now: Instant) -> Vec<Duration> {
        let Some(client) = self.clients.get_mut(proxy) else {
            return Vec::new();
        };
        if client.stream != Some(stream) {
            return Vec::new();
        }
        client.stream = None;
        client.closed = Some(now);
        if client.gone {
            return self.strike(proxy, now);
        }
        self.absent.push_back((now, proxy.clone()));
        Vec::new()
    }

    /// Gives up on proxies that have been away for long.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<Duration> {
        let mut settled = Vec::new();
        while let Some((since, proxy)) = self.absent.pop_front() {
            if now.saturating_duration_since(since) < ABSENCE {
                self.absent.push_front((since, proxy));
                break;
            }
            // It may have been back since, and gone again.
            let is_away = |client: &Client| {
                let closed = client.closed.unwrap_or(since);
                client.stream.is_none() && now.saturating_duration_since(closed) >= ABSENCE
            };
            if self.clients.get(&proxy).is_some_and(is_away) {
                settled.extend(self.strike(&proxy, now));
            }
        }
        settled
    }

    /// How a proxy's departure stands.
    pub(super) fn standing(&self, proxy: &ObjectKey) -> Standing {
        let Some(departure) = self.departures.get(proxy) else {
            return Standing::Present;
        };
        let by = self.waiting(proxy, departure).count();
        match departure.took.filter(|_| by == 0) {
            Some(took) => Standing::Forgotten { took },
            None => Standing::Known { by },
        }
    }

    /// Removals that are not confirmed, each with the proxies that it waits for.
    pub(super) fn open_departures(&self) -> impl Iterator<Item = (&ObjectKey, Instant, Vec<&ObjectKey>)> {
        let open = self
            .departures
            .iter()
            .filter(|(_, departure)| departure.published && departure.took.is_none());
        open.map(|(proxy, departure)| {
            let ids: HashSet<u64> = self.waiting(proxy, departure).collect();
            let waiting = self.clients.iter().filter(|(_, client)| ids.contains(&client.id));
            (proxy, departure.begun, waiting.map(|(key, _)| key).collect())
        })
    }

    /// How many removals are not confirmed.
    pub(super) fn open_count(&self) -> usize {
        let open: usize = self.rosters.values().map(|roster| roster.open.len()).sum();
        open.saturating_sub(self.questions)
    }

    fn begin(
        &mut self,
        proxy: &ObjectKey,
        mesh: MeshName,
        sequence: u64,
        published: bool,
        now: Instant,
    ) -> Vec<Duration> {
        let roster = self.rosters.entry(mesh.clone()).or_default();
        roster.open.insert((sequence, proxy.clone()));
        self.questions += usize::from(!published);
        let departure = Departure {
            mesh: mesh.clone(),
            sequence,
            begun: now,
            published,
            took: None,
            gone: false,
        };
        self.departures.insert(proxy.clone(), departure);
        self.settle(&mesh, now)
    }

    fn waiting<'a>(
        &'a self,
        proxy: &ObjectKey,
        departure: &Departure,
    ) -> impl Iterator<Item = u64> + use<'a> {
        // It need not forget itself.
        let own = self.clients.get(proxy).map(|client| client.id);
        let roster = self.rosters.get(&departure.mesh);
        let behind = roster.map(|roster| roster.confirmed.range(..(departure.sequence, 0)));
        behind
            .into_iter()
            .flatten()
            .map(|(_, id)| *id)
            .filter(move |id| Some(*id) != own)
    }

    fn settle(&mut self, mesh: &MeshName, now: Instant) -> Vec<Duration> {
        let mut settled = Vec::new();
        while let Some((_, proxy)) = self.rosters.get(mesh).and_then(|roster| roster.open.first()) {
            let proxy = proxy.clone();
            let waited_for = self
                .departures
                .get(&proxy)
                .map(|departure| self.waiting(&proxy, departure).next());
            if let Some(Some(_)) = waited_for {
                break;
            }
            settled.extend(self.conclude(&proxy, now));
        }
        settled
    }

    fn conclude(&mut self, proxy: &ObjectKey, now: Instant) -> Option<Duration> {
        let departure = self.departures.get_mut(proxy)?;
        let took = now.saturating_duration_since(departure.begun);
        departure.took = Some(took);
        let published = departure.published;
        self.questions -= usize::from(!published);
        let open = (departure.sequence, proxy.clone());
        if let Some(roster) = self.rosters.get_mut(&departure.mesh) {
            roster.open.remove(&open);
        }
        if departure.gone {
            self.departures.remove(proxy);
        }
        published.then_some(took)
    }

    fn forget_departure(&mut self, proxy: &ObjectKey) {
        let Some(departure) = self.departures.remove(proxy) else {
            return;
        };
        let open = (departure.sequence, proxy.clone());
        if let Some(roster) = self.rosters.get_mut(&departure.mesh)
            && roster.open.remove(&open)
        {
            self.questions -= usize::from(!departure.published);
        }
    }

    /// Takes a proxy off the list: nobody waits for it any more.
    fn strike(&mut self, proxy: &ObjectKey, now: Instant) -> Vec<Duration> {
        let Some(client) = self.clients.remove(proxy) else {
            return Vec::new();
        };
        if let Some(roster) = self.rosters.get_mut(&client.mesh) {
            roster.confirmed.remove(&(client.confirmed, client.id));
        }
        let settled = self.settle(&client.mesh, now);
        if self
            .rosters
            .get(&client.mesh)
            .is_some_and(|roster| roster.confirmed.is_empty() && roster.open.is_empty())
        {
            self.rosters.remove(&client.mesh);
        }
        settled
    }
}

#[cfg(test)]
mod tests;
