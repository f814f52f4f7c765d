//! A future that is polled again at once when it was woken while it was polled.
//!
//! What a connection's parts say to each other wakes the task that they run in: a response is handed to HTTP/2, a request
//! comes from there. The runtime would queue such a task behind all others, of which there are thousands when a change
//! goes to a whole mesh, and the connection's memory would have left the processor's caches by then.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;
use futures::task::AtomicWaker;

/// How often it is polled at most before others have their turn.
const ROUNDS: usize = 8;

/// Nobody polls; being woken has to be passed on.
const IDLE: u8 = 0;
/// It is being polled.
const POLLED: u8 = 1;
/// It is to be polled.
const WOKEN: u8 = 2;

/// See the module.
pub(super) struct Again<T> {
    future: BoxFuture<'static, T>,
    signal: Arc<Signal>,
    waker: Waker,
}

/// What wakes the future.
#[derive(Debug, Default)]
struct Signal {
    state: AtomicU8,
    task: AtomicWaker,
}

impl<T> Again<T> {
    pub(super) fn new(future: BoxFuture<'static, T>) -> Self {
        let signal = Arc::new(Signal::default());
        let waker = Waker::from(signal.clone());
        Self {
            future,
            signal,
            waker,
        }
    }
}

impl<T> Future for Again<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Self {
            future,
            signal,
            waker,
        } = &mut *self;
        signal.task.register(context.waker());
        for _ in 0..ROUNDS {
            // Not a plain store: what came with a wake-up that this takes back has to be seen by the poll.
            signal.state.swap(POLLED, Ordering::AcqRel);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            let idle = signal
                .state
                .compare_exchange(POLLED, IDLE, Ordering::AcqRel, Ordering::Acquire);
            if idle.is_ok() {
                return Poll::Pending;
            }
        }
        // It stays woken, so that nothing wakes the task twice.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == IDLE {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicU8);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(again: &mut Again<u8>, task: &Arc<Task>) -> Poll<u8> {
        again.poll_unpin(&mut Context::from_waker(&Waker::from(task.clone())))
    }

    /// Wakes itself with each poll, so often.
    fn waking_itself(times: u8) -> Again<u8> {
        let mut polled = 0;
        Again::new(Box::pin(std::future::poll_fn(move |context| {
            polled += 1;
            if polled > times {
                return Poll::Ready(polled);
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })))
    }

    #[test]
    fn what_wakes_itself_goes_on_without_its_task() {
        let task = Arc::new(Task::default());
        assert_eq!(poll(&mut waking_itself(3), &task), Poll::Ready(4));
        assert_eq!(task.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_never_stops_lets_others_have_their_turn() {
        let task = Arc::new(Task::default());
        let mut again = waking_itself(10);
        assert_eq!(poll(&mut again, &task), Poll::Pending);
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(&mut again, &task), Poll::Ready(11));
    }

    #[test]
    fn what_is_woken_from_outside_wakes_its_newest_task_once() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<u8>(4);
        let mut again = Again::new(Box::pin(async move {
            let first = receiver.recv().await.unwrap_or_default();
            first + receiver.recv().await.unwrap_or_default()
        }));
        let (old, new) = (Arc::new(Task::default()), Arc::new(Task::default()));
        assert_eq!(poll(&mut again, &old), Poll::Pending);
        assert_eq!(poll(&mut again, &new), Poll::Pending);
        sender.try_send(1).expect("room");
        sender.try_send(2).expect("room");
        assert_eq!(old.0.load(Ordering::Relaxed), 0);
        assert_eq!(new.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(&mut again, &new), Poll::Ready(3));
    }
}
