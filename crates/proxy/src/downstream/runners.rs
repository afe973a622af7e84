//! The tasks that serve HTTP/2 requests, used again and again.
//!
//! An exchange's state is some kilobytes. A task of its own for each request is an allocation of that size and a copy or
//! two, which push the request's own data out of the first cache. A runner takes one request after another, of whichever
//! connection, and its memory stays where it is.
//!
//! ```text
//!   run(job) -- idle runner --> its slot, woken --> serves --> idle again, or ends where enough are
//!        +------ none --------> a new task ----------^
//! ```

use super::conn::Conn;
use super::stream::DownstreamStream;
use crate::exchange::{self, Begun};
use crate::h2;
use crate::http::RequestHead;
use celerity_telemetry::State;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

/// Runners that a worker keeps while they have nothing to do: the requests that are usually under way at once. More come
/// and go with a burst.
const IDLE_MAX: usize = 64;

pub(super) struct Job {
    pub conn: Rc<Conn>,
    pub control: h2::ServerControl,
    pub head: RequestHead,
    pub stream: h2::ServerStream,
    pub begun: Begun,
}

#[derive(Default)]
struct Slot {
    job: RefCell<Option<Job>>,
    waker: RefCell<Option<Waker>>,
}

/// One worker's runners without a request.
#[derive(Default)]
pub struct Runners {
    idle: RefCell<Vec<Rc<Slot>>>,
}

impl Runners {
    /// Serves a request. Must be called inside a `LocalSet`.
    pub(super) fn run(self: &Rc<Self>, job: Job) {
        let idle = self.idle.borrow_mut().pop();
        let Some(slot) = idle else {
            let slot = Rc::new(Slot { job: RefCell::new(Some(job)), waker: RefCell::default() });
            tokio::task::spawn_local(serve_all(Rc::downgrade(self), slot));
            return;
        };
        *slot.job.borrow_mut() = Some(job);
        if let Some(waker) = &*slot.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// `false`: there are enough.
    fn keep(&self, slot: &Rc<Slot>) -> bool {
        let mut idle = self.idle.borrow_mut();
        let room = idle.len() < IDLE_MAX;
        if room {
            idle.push(slot.clone());
        }
        room
    }
}

/// Weak: a worker that ends must not be held by what waits for its requests.
async fn serve_all(runners: Weak<Runners>, slot: Rc<Slot>) {
    loop {
        let job = poll_fn(|cx| {
            if let Some(job) = slot.job.borrow_mut().take() {
                return Poll::Ready(job);
            }
            let mut waker = slot.waker.borrow_mut();
            if waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
        let Job { conn, control, mut head, mut stream, mut begun } = job;
        begun.ledger.enter(State::Parse, conn.worker.clock.now());
        exchange::serve(&conn, &mut DownstreamStream::http2(&mut stream), &mut head, begun).await;
        drop(stream);
        control.recycle(head);
        drop((conn, control));
        if !runners.upgrade().is_some_and(|runners| runners.keep(&slot)) {
            return;
        }
    }
}
