//! Events for those who listen for a while: each has a queue of its own, and a slow one loses only its own events.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::Event;

/// Most listeners at a time.
pub const MAX_SUBSCRIPTIONS: usize = 4;
/// How many events wait for a slow listener.
pub const CAPACITY: usize = 1024;

static LISTENERS: Mutex<Vec<Arc<Queue>>> = Mutex::new(Vec::new());
/// How many there are, for who only wants to know whether there are any.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Events since it began. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Arc<Event>>,
    /// Events that found the queue full since the listener last looked.
    lost: u64,
    /// When the last of these happened.
    lost_at: Duration,
    waker: Option<Waker>,
}

/// Begins to listen. `None` if [`MAX_SUBSCRIPTIONS`] do already.
#[must_use]
pub fn subscribe() -> Option<Subscription> {
    let mut listeners = lock(&LISTENERS);
    if listeners.len() >= MAX_SUBSCRIPTIONS {
        return None;
    }
    let queue = Arc::new(Queue::default());
    listeners.push(Arc::clone(&queue));
    COUNT.store(listeners.len(), Ordering::Relaxed);
    Some(Subscription { queue })
}

/// Whether anybody listens.
pub(super) fn is_any() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

/// Gives an event to all who listen. Does not wait for any of them.
pub(super) fn send(event: &Event) {
    if !is_any() {
        return;
    }
    let event = Arc::new(event.clone());
    for queue in lock(&LISTENERS).iter() {
        queue.push(&event);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    fn push(&self, event: &Arc<Event>) {
        let mut state = lock(&self.0);
        if state.events.len() < CAPACITY {
            state.events.push_back(Arc::clone(event));
        } else {
            state.lost = state.lost.saturating_add(1);
            state.lost_at = event.timestamp;
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl Subscription {
    /// What happened since the last call: a JSON object in each line. Events that were lost because the listener was
    /// too slow are told by one of source `api` and name `events-lost`, which has their `count`.
    ///
    /// If nothing happened the task is woken when something does.
    pub fn poll_lines(&self, context: &mut Context<'_>) -> Poll<String> {
        let (events, lost) = {
            let mut state = lock(&self.queue.0);
            if state.events.is_empty() && state.lost == 0 {
                state.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            let lost = std::mem::take(&mut state.lost);
            let lost = (lost > 0).then(|| Event {
                timestamp: state.lost_at,
                ..Event::new("api", "events-lost", &[("count", &lost)])
            });
            (std::mem::take(&mut state.events), lost)
        };
        let mut lines = String::new();
        for event in events.iter().map(Arc::as_ref).chain(lost.as_ref()) {
            // Strings and numbers always have a JSON form.
            lines.push_str(&serde_json::to_string(event).unwrap_or_default());
            lines.push('\n');
        }
        Poll::Ready(lines)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut listeners = lock(&LISTENERS);
        listeners.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        COUNT.store(listeners.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use serde_json::Value;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn event(name: &'static str) -> Event {
        Event::new("test", name, &[])
    }

    fn parse(lines: &str) -> Vec<Value> {
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// One test, as all listeners of the process are in one list.
    #[test]
    fn who_listens_hears_from_then_on_and_is_told_what_was_lost() {
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut context = Context::from_waker(&waker);
        send(&event("before"));
        let fast = subscribe().unwrap();
        let slow = subscribe().unwrap();
        assert!(fast.poll_lines(&mut context).is_pending());
        send(&event("first"));
        assert!(woken.0.load(Ordering::Relaxed));
        let Poll::Ready(lines) = fast.poll_lines(&mut context) else {
            panic!("nothing came")
        };
        assert_eq!(parse(&lines)[0]["event"], "first");
        assert!(fast.poll_lines(&mut context).is_pending());
        for _ in 0..CAPACITY + 9 {
            send(&event("more"));
        }
        let Poll::Ready(lines) = slow.poll_lines(&mut context) else {
            panic!("nothing came")
        };
        let all = parse(&lines);
        assert_eq!(all.len(), CAPACITY + 1);
        assert_eq!(all[CAPACITY]["event"], "events-lost");
        assert_eq!(all[CAPACITY]["properties"]["count"], "10");
        assert!(slow.poll_lines(&mut context).is_pending());

        let others: Vec<_> = std::iter::from_fn(subscribe).collect();
        assert_eq!(others.len() + 2, MAX_SUBSCRIPTIONS);
        assert!(is_any());
        drop((fast, slow, others));
        assert!(!is_any());
        assert!(subscribe().is_some());
    }
}
