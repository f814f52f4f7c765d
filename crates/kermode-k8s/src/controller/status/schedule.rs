//! Schedule of status writes. An object is scheduled at most once. Its status is written at its due time or later, at a
//! limited rate. The clock is passed in.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use kermode_model::ObjectKey;

/// Schedule of status writes with a rate limit.
#[derive(Debug)]
pub(super) struct WriteSchedule {
    /// Due time of each scheduled object, by key.
    due: HashMap<ObjectKey, Instant>,
    /// The same keys, ordered by due time.
    order: BTreeSet<(Instant, ObjectKey)>,
    /// Minimum average time between writes.
    interval: Duration,
    /// Length of a burst: after an idle period, the writes that the rate allows in this time are allowed at once.
    burst: Duration,
    /// Time from which the rate limit allows the next write; may be in the past. `None` before the first write.
    next_allowed: Option<Instant>,
}

/// Next action of the writer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextAction {
    /// Write the status of the object with this key now.
    Write(ObjectKey),
    /// Wait until this time.
    Wait(Instant),
    /// Wait until a key is pushed.
    Idle,
}

impl WriteSchedule {
    /// Creates a schedule with a maximum number of writes per second, which is also the size of a burst.
    pub(super) fn new(max_per_second: u32) -> Self {
        let second = Duration::from_secs(1);
        Self {
            due: HashMap::new(),
            order: BTreeSet::new(),
            interval: second / max_per_second.max(1),
            burst: second,
            next_allowed: None,
        }
    }

    /// Schedules a key with the due time `due`, unless the key is already due earlier.
    pub(super) fn push(&mut self, key: ObjectKey, due: Instant) {
        if let Some(old_due) = self.due.get(&key).copied() {
            if old_due <= due {
                return;
            }
            self.order.remove(&(old_due, key.clone()));
        }
        self.order.insert((due, key.clone()));
        self.due.insert(key, due);
    }

    /// Returns the next action at the time `now`. A key that is returned is removed from the schedule.
    pub(super) fn next(&mut self, now: Instant) -> NextAction {
        let Some((due, key)) = self.order.first().cloned() else {
            return NextAction::Idle;
        };
        let write_at = self.next_allowed.map_or(due, |allowed| allowed.max(due));
        if write_at > now {
            return NextAction::Wait(write_at);
        }
        self.order.remove(&(due, key.clone()));
        self.due.remove(&key);
        // Writes that the rate allowed more than `burst` ago, and that were not used, are lost.
        let earliest_allowed = now.checked_sub(self.burst).unwrap_or(now);
        let allowed_since = self
            .next_allowed
            .map_or(earliest_allowed, |allowed| allowed.max(earliest_allowed));
        self.next_allowed = Some(allowed_since + self.interval);
        NextAction::Write(key)
    }

    /// Removes all keys.
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
    fn key_that_is_pushed_repeatedly_is_written_once() {
        let now = Instant::now();
        let mut schedule = WriteSchedule::new(10);
        schedule.push(key(1), now + Duration::from_secs(5));
        schedule.push(key(1), now);
        schedule.push(key(1), now + Duration::from_secs(9));
        assert_eq!(
            schedule.next(now),
            NextAction::Write(key(1)),
            "the earliest due time applies"
        );
        assert_eq!(schedule.next(now), NextAction::Idle);
    }

    #[test]
    fn key_is_not_written_before_its_due_time() {
        let now = Instant::now();
        let mut schedule = WriteSchedule::new(10);
        let later = now + Duration::from_secs(30);
        schedule.push(key(1), later);
        assert_eq!(schedule.next(now), NextAction::Wait(later));
        assert_eq!(schedule.next(later), NextAction::Write(key(1)));
    }

    #[test]
    fn rate_of_writes_is_limited() {
        let start = Instant::now();
        let mut schedule = WriteSchedule::new(10);
        for number in 0..100 {
            schedule.push(key(number), start);
        }
        let (mut now, mut written) = (start, 0);
        let end = start + Duration::from_secs(5);
        while now < end {
            match schedule.next(now) {
                NextAction::Write(_) => written += 1,
                NextAction::Wait(until) => now = until,
                NextAction::Idle => break,
            }
        }
        assert!(
            (50..=61).contains(&written),
            "{written} writes in 5 s at a limit of 10 a second"
        );
    }
}
