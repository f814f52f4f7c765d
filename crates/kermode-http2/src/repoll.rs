//! A future that is polled again immediately if it was woken during its own poll.
//!
//! The calls of a connection and the connection itself are polled in one task, and each wakes the task for the other: a
//! call by sending a response, the connection by receiving a request. The runtime would queue the woken task behind all
//! other tasks: thousands of tasks while a change is pushed to a whole mesh. The connection's memory would leave the
//! CPU caches in the meantime.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;
use futures::task::AtomicWaker;

/// Maximum number of consecutive polls before the task yields to other tasks.
const MAX_POLLS: usize = 8;

/// State between polls: the next wake-up has to wake the task.
const IDLE: u8 = 0;
/// State during a poll.
const POLLING: u8 = 1;
/// State after a wake-up, until the next poll.
const WOKEN: u8 = 2;

/// Future that polls an inner future until the inner future no longer wakes itself, at most [`MAX_POLLS`] times in a
/// row.
pub(crate) struct Repoll<T> {
    future: BoxFuture<'static, T>,
    wake_state: Arc<WakeState>,
    /// Waker of the inner future: calls [`WakeState::wake`].
    waker: Waker,
}

/// Records whether the inner future was woken, and wakes the task if necessary.
#[derive(Debug, Default)]
struct WakeState {
    /// [`IDLE`], [`POLLING`] or [`WOKEN`].
    state: AtomicU8,
    /// Waker of the task that polls the [`Repoll`].
    task_waker: AtomicWaker,
}

impl<T> Repoll<T> {
    pub(crate) fn new(future: BoxFuture<'static, T>) -> Self {
        let wake_state = Arc::new(WakeState::default());
        let waker = Waker::from(wake_state.clone());
        Self {
            future,
            wake_state,
            waker,
        }
    }
}

impl<T> Future for Repoll<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Self {
            future,
            wake_state,
            waker,
        } = &mut *self;
        wake_state.task_waker.register(context.waker());
        for _ in 0..MAX_POLLS {
            // A swap and not a store: if the swap replaces `WOKEN`, the poll sees everything that was written before
            // the wake-up.
            wake_state.state.swap(POLLING, Ordering::AcqRel);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            let was_woken = wake_state
                .state
                .compare_exchange(POLLING, IDLE, Ordering::AcqRel, Ordering::Acquire)
                .is_err();
            if !was_woken {
                return Poll::Pending;
            }
        }
        // The state stays `WOKEN`, so that further wake-ups do not wake the task a second time.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for WakeState {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == IDLE {
            self.task_waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// Counts wake-ups.
    #[derive(Default)]
    struct WakeCounter(AtomicU8);

    impl Wake for WakeCounter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(repoll: &mut Repoll<u8>, task: &Arc<WakeCounter>) -> Poll<u8> {
        repoll.poll_unpin(&mut Context::from_waker(&Waker::from(task.clone())))
    }

    /// Makes a future that wakes itself during each of its first `times` polls. The output is the number of polls.
    fn mk_self_waking(times: u8) -> Repoll<u8> {
        let mut poll_count = 0;
        Repoll::new(Box::pin(std::future::poll_fn(move |context| {
            poll_count += 1;
            if poll_count > times {
                return Poll::Ready(poll_count);
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })))
    }

    #[test]
    fn future_that_wakes_itself_is_polled_without_waking_its_task() {
        let task = Arc::new(WakeCounter::default());
        assert_eq!(poll(&mut mk_self_waking(3), &task), Poll::Ready(4));
        assert_eq!(task.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn future_that_always_wakes_itself_yields_after_eight_polls() {
        let task = Arc::new(WakeCounter::default());
        let mut repoll = mk_self_waking(10);
        assert_eq!(poll(&mut repoll, &task), Poll::Pending);
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(&mut repoll, &task), Poll::Ready(11));
    }

    #[test]
    fn wake_up_between_polls_wakes_the_task_of_the_last_poll_once() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<u8>(4);
        let mut repoll = Repoll::new(Box::pin(async move {
            let first = receiver.recv().await.unwrap_or_default();
            first + receiver.recv().await.unwrap_or_default()
        }));
        let (old, new) = (Arc::new(WakeCounter::default()), Arc::new(WakeCounter::default()));
        assert_eq!(poll(&mut repoll, &old), Poll::Pending);
        assert_eq!(poll(&mut repoll, &new), Poll::Pending);
        sender.try_send(1).expect("capacity");
        sender.try_send(2).expect("capacity");
        assert_eq!(old.0.load(Ordering::Relaxed), 0);
        assert_eq!(new.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(&mut repoll, &new), Poll::Ready(3));
    }
}
