//! What all replicas together have said of this endpoint's way out. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use kermode_protocol::removals::WatchRemovalResponse;

/// How many replicas are asked. With more there is no end that could be known.
const MAX_REPLICAS: usize = 16;

/// Who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Whichever replica the Service leads to.
    Service,
    /// The one at this address.
    Replica(SocketAddr),
}

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// These replicas were not known before.
    Ask(Vec<SocketAddr>),
    /// Somebody may send requests here, for all that is known.
    Wait {
        /// So many proxies have not acknowledged the removal, as far as replicas have told.
        known_by: u64,
    },
    /// Nobody will begin a request any more.
    Over {
        /// How long the slowest replica had to wait for its proxies.
        took: Duration,
        /// How many replicas there are.
        replicas: usize,
    },
}

/// The newest answer of each replica that is being asked.
#[derive(Debug, Default)]
pub(super) struct Account {
    answers: BTreeMap<Source, WatchRemovalResponse>,
    asked: BTreeSet<SocketAddr>,
}

impl Account {
    /// A replica has answered.
    pub(super) fn on_answer(&mut self, source: Source, answer: WatchRemovalResponse) -> Progress {
        self.answers.insert(source, answer);
        self.progress()
    }

    /// A replica does not answer, or no longer. What it said may not hold any more.
    pub(super) fn on_silence(&mut self, source: Source) -> Progress {
        self.answers.remove(&source);
        self.progress()
    }

    fn progress(&mut self) -> Progress {
        let others = self.others();
        let room = MAX_REPLICAS.saturating_sub(self.asked.len());
        let new: Vec<_> = others.difference(&self.asked).copied().take(room).collect();
        if !new.is_empty() {
            self.asked.extend(&new);
            return Progress::Ask(new);
        }
        let replicas = || {
            let others = others.iter().copied().map(Source::Replica);
            std::iter::once(Source::Service).chain(others)
        };
        let took = replicas().try_fold(0, |longest, source| {
            let answer = self.answers.get(&source).filter(|answer| answer.is_finished())?;
            Some(answer.took_ms.max(longest))
        });
        match took {
            Some(took) => Progress::Over {
                took: Duration::from_millis(took),
                replicas: replicas().count(),
            },
            None => Progress::Wait {
                known_by: self.answers.values().map(|answer| answer.unacknowledged_by).sum(),
            },
        }
    }

    /// The other replicas, by the word of the one that the Service leads to.
    fn others(&self) -> BTreeSet<SocketAddr> {
        let told = self.answers.get(&Source::Service);
        let told = told.into_iter().flat_map(|answer| &answer.other_replicas);
        told.filter_map(|address| address.parse().ok()).collect()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service => f.write_str("any replica"),
            Self::Replica(address) => write!(f, "replica {address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: &str = "10.0.0.2:5678";
    const C: &str = "10.0.0.3:5678";

    fn replica(address: &str) -> Source {
        Source::Replica(address.parse().unwrap())
    }

    fn waits(known_by: u64, others: &[&str]) -> WatchRemovalResponse {
        WatchRemovalResponse {
            removed: true,
            unacknowledged_by: known_by,
            other_replicas: others.iter().copied().map(String::from).collect(),
            complete: true,
            ..WatchRemovalResponse::default()
        }
    }

    fn over(took_ms: u64, others: &[&str]) -> WatchRemovalResponse {
        WatchRemovalResponse {
            took_ms,
            ..waits(0, others)
        }
    }

    #[test]
    fn one_replica_alone_is_enough() {
        let mut account = Account::default();
        let wait = account.on_answer(Source::Service, waits(2, &[]));
        assert_eq!(wait, Progress::Wait { known_by: 2 });
        let end = Progress::Over {
            took: Duration::from_millis(7),
            replicas: 1,
        };
        assert_eq!(account.on_answer(Source::Service, over(7, &[])), end);
    }

    #[test]
    fn it_is_over_when_every_replica_says_so() {
        let mut account = Account::default();
        let ask = account.on_answer(Source::Service, over(7, &[B, C]));
        assert_eq!(ask, Progress::Ask(vec![B.parse().unwrap(), C.parse().unwrap()]));
        let wait = account.on_answer(replica(B), over(9, &[]));
        assert_eq!(wait, Progress::Wait { known_by: 0 }, "C has not answered");
        let wait = account.on_answer(replica(C), waits(1, &[]));
        assert_eq!(wait, Progress::Wait { known_by: 1 });
        let end = Progress::Over {
            took: Duration::from_millis(9),
            replicas: 3,
        };
        assert_eq!(account.on_answer(replica(C), over(8, &[])), end);
    }

    #[test]
    fn it_is_not_over_while_somebody_may_have_been_missed() {
        let mut account = Account::default();
        let unsure = WatchRemovalResponse {
            complete: false,
            ..over(7, &[])
        };
        let present = WatchRemovalResponse {
            removed: false,
            ..over(0, &[])
        };
        for answer in [unsure, present] {
            let wait = account.on_answer(Source::Service, answer);
            assert_eq!(wait, Progress::Wait { known_by: 0 });
        }
    }

    #[test]
    fn a_replica_that_falls_silent_is_waited_for_until_it_is_told_to_be_gone() {
        let mut account = Account::default();
        account.on_answer(Source::Service, waits(2, &[B]));
        account.on_answer(replica(B), over(3, &[]));
        assert_eq!(account.on_silence(replica(B)), Progress::Wait { known_by: 2 });
        let wait = account.on_answer(Source::Service, over(7, &[B]));
        assert_eq!(wait, Progress::Wait { known_by: 0 });
        // Another replica answers for the Service after the next connection.
        let end = account.on_answer(Source::Service, over(7, &[]));
        assert!(matches!(end, Progress::Over { replicas: 1, .. }), "{end:?}");
    }

    #[test]
    fn no_more_replicas_are_asked_than_there_may_be() {
        let many: Vec<String> = (0..20).map(|last| format!("10.0.1.{last}:5678")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut account = Account::default();
        let ask = account.on_answer(Source::Service, over(1, &many));
        assert!(matches!(ask, Progress::Ask(asked) if asked.len() == MAX_REPLICAS));
        for address in &many[..MAX_REPLICAS] {
            let wait = account.on_answer(replica(address), over(1, &[]));
            assert_eq!(wait, Progress::Wait { known_by: 0 });
        }
    }
}
