//! When which status is written: each key at most once, not before its time, and never more than so many a second.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use kermode_model::ObjectKey;

/// Keys by the time from which they may be written. The clock is passed in.
#[derive(Debug)]
pub(super) struct WriteSchedule {
    due: HashMap<ObjectKey, Instant>,
    order: BTreeSet<(Instant, ObjectKey)>,
    /// Time between writes when there are many.
    interval: Duration,
    /// How far writes may run ahead of that after a quiet time.
    burst: Duration,
    next: Option<Instant>,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextWrite {
    /// Write this one.
    Write(ObjectKey),
    /// Nothing before then.
    Wait(Instant),
    /// Nothing until something is pushed.
    Idle,
}

impl WriteSchedule {
    /// A schedule of that many writes a second, and as many at once after a quiet second.
    pub(super) fn new(per_second: u32) -> Self {
        let burst = Duration::from_secs(1);
        Self {
            due: HashMap::new(),
            order: BTreeSet::new(),
            interval: burst / per_second.max(1),
            burst,
            next: None,
        }
    }

    /// Has a key written from `at` on, or earlier if that was said before.
    pub(super) fn push(&mut self, key: ObjectKey, at: Instant) {
        if let Some(before) = self.due.get(&key).copied() {
            if before <= at {
                return;
            }
            self.order.remove(&(before, key.clone()));
        }
        self.order.insert((at, key.clone()));
        self.due.insert(key, at);
    }

    /// The next step. A key that is handed out is forgotten.
    pub(super) fn step(&mut self, now: Instant) -> NextWrite {
        let Some((due, key)) = self.order.first().cloned() else {
            return NextWrite::Idle;
        };
        let slot = self.next.map_or(due, |next| next.max(due));
        if slot > now {
            return NextWrite::Wait(slot);
        }
        self.order.remove(&(due, key.clone()));
        self.due.remove(&key);
        let earliest = now.checked_sub(self.burst).unwrap_or(now);
        self.next = Some(self.next.map_or(earliest, |next| next.max(earliest)) + self.interval);
        NextWrite::Write(key)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.due.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> ObjectKey {
        ObjectKey::new("ns", number.to_string())
    }

    #[test]
    fn a_key_is_written_once_however_often_it_is_pushed() {
        let now = Instant::now();
        let mut schedule = WriteSchedule::new(10);
        schedule.push(key(1), now + Duration::from_secs(5));
        schedule.push(key(1), now);
        schedule.push(key(1), now + Duration::from_secs(9));
        assert_eq!(
            schedule.step(now),
            NextWrite::Write(key(1)),
            "the earliest time counts"
        );
        assert_eq!(schedule.step(now), NextWrite::Idle);
    }

    #[test]
    fn nothing_is_written_before_its_time() {
        let now = Instant::now();
        let mut schedule = WriteSchedule::new(10);
        let later = now + Duration::from_secs(30);
        schedule.push(key(1), later);
        assert_eq!(schedule.step(now), NextWrite::Wait(later));
        assert_eq!(schedule.step(later), NextWrite::Write(key(1)));
    }

    #[test]
    fn many_are_spread_over_time() {
        let start = Instant::now();
        let mut schedule = WriteSchedule::new(10);
        for number in 0..100 {
            schedule.push(key(number), start);
        }
        let (mut now, mut written) = (start, 0);
        let end = start + Duration::from_secs(5);
        while now < end {
            match schedule.step(now) {
                NextWrite::Write(_) => written += 1,
                NextWrite::Wait(until) => now = until,
                NextWrite::Idle => break,
            }
        }
        assert!((50..=61).contains(&written), "{written} in 5 s at 10 a second");
    }
}
