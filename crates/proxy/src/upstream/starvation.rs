//! What a worker does when a cluster's connection limit is reached.
//!
//! The limit is the proxy's, the pools are the workers'. So the workers that have requests without a connection stand in
//! one line per cluster; a unit of the limit that becomes free goes to its head. Whoever holds connections makes room:
//!
//! ```text
//!   a request waits -- a unit is free and nobody stands in line --------------------------> connect
//!      |                                                                                      ^
//!      +- join the line, then ask: this worker's idle connections, else the other workers'    |
//!             |                                                                               |
//!             +- head of the line - unit freed (connection closed), or connection given ------+
//!
//!   a connection is idle, or becomes so    -> given (HTTP/1.1 without TLS, same endpoint) or closed, at once
//!   HTTP/1.1, never idle                   -> one release of `GIVE_ONE_IN` goes to the line
//!   HTTP/2, never idle                     -> after its turn it takes no new streams, and closes with its last one
//! ```
//!
//! No wake-up is lost, since everybody registers first and looks second: a unit that is given back while somebody is
//! registered wakes the head of the line; one that was given back before is found by the first to register. Who leaves
//! the line, or takes one of several units, wakes the next.

use super::connect::{Connected, Protocol};
use super::endpoint::EndpointPool;
use super::shared::ClusterShared;
use crate::h1::{ClientConn, Wire};
use crate::net::{Io, Socket};
use crate::worker::Command;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

/// Places in another worker's queue that asking for connections leaves to the control side: a drain or a new
/// configuration must never find it full. A question that is not put is made up for by the other's next sweep.
const COMMANDS_KEPT_FREE: usize = 256;

/// A worker's part in the sharing of a cluster's connection limit.
pub struct Starvation {
    cluster: u64,
    shared: Arc<ClusterShared>,
    /// Those fed last stand last.
    pools: RefCell<Vec<Weak<EndpointPool>>>,
    others: Rc<[mpsc::Sender<Command>]>,
    /// This worker stands in line.
    in_line: Cell<bool>,
    /// A request of this worker waits no more.
    served: Notify,
}

impl Starvation {
    pub fn new(cluster: u64, shared: Arc<ClusterShared>, others: Rc<[mpsc::Sender<Command>]>) -> Rc<Self> {
        Rc::new(Self {
            cluster,
            shared,
            pools: RefCell::default(),
            others,
            in_line: Cell::new(false),
            served: Notify::new(),
        })
    }

    pub fn add(&self, pool: &Rc<EndpointPool>) {
        self.pools.borrow_mut().push(Rc::downgrade(pool));
    }

    fn pools(&self) -> Vec<Rc<EndpointPool>> {
        self.pools.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether requests wait for a unit of the limit that `pool` may be holding, in another worker or at another
    /// endpoint. Looks through all pools of the cluster: for when the answer changes what is done.
    pub fn others_starve(&self, pool: &EndpointPool) -> bool {
        let own = u32::from(self.in_line.get());
        self.shared.starving() > own
            || own > 0 && self.pools().iter().any(|other| !std::ptr::eq(&**other, pool) && other.is_hungry())
    }

    /// A request got its connection or was given up: the worker may have no business in the line any more.
    pub fn served(&self) {
        if self.in_line.get() {
            self.served.notify_one();
        }
    }

    /// The connection limit is reached and a request for `endpoint` waits. `asks`: no connection was asked for that would
    /// serve it too.
    pub fn starve(self: &Rc<Self>, endpoint: u64, asks: bool) {
        let joins = !self.in_line.replace(true);
        if joins {
            let alone = self.shared.join_line();
            tokio::task::spawn_local(self.clone().stand_in_line(alone));
        }
        if !(asks || joins) || self.close_one_idle() {
            return;
        }
        for other in self.others.iter().filter(|other| other.capacity() > COMMANDS_KEPT_FREE) {
            let _ = other.try_send(Command::GiveConnection { cluster: self.cluster, endpoint });
        }
    }

    /// Another worker starves for a connection to `endpoint`, which is worth more to it than room for one.
    pub fn give(&self, endpoint: u64) {
        if self.shared.someone_starves() {
            let given = self.pools().iter().any(|pool| pool.identity == endpoint && pool.give_idle());
            let _ = given || self.close_one_idle();
        }
    }

    /// Once in a while: what stays idle although somebody starves was asked for in vain.
    pub fn sweep(&self) {
        // The memory of pools that are no more.
        self.pools.borrow_mut().retain(|pool| pool.strong_count() > 0);
        if self.shared.someone_starves() {
            self.close_one_idle();
        }
    }

    fn close_one_idle(&self) -> bool {
        self.pools().iter().any(|pool| pool.close_one_idle())
    }

    /// One task per worker and cluster, for as long as a request starves.
    async fn stand_in_line(self: Rc<Self>, alone: bool) {
        let mut my_turn = alone;
        loop {
            let freed = self.shared.freed.notified();
            tokio::pin!(freed);
            // Listening first, looking then: what is freed in between is not missed.
            freed.as_mut().enable();
            if my_turn {
                self.take_one();
                self.shared.pass_on();
            }
            my_turn = loop {
                if !self.is_hungry() {
                    break false;
                }
                tokio::select! {
                    biased;
                    () = &mut freed => break true,
                    () = self.served.notified() => {}
                }
            };
            if !my_turn {
                break;
            }
        }
        self.in_line.set(false);
        self.shared.leave_line();
        self.take_back();
    }

    fn is_hungry(&self) -> bool {
        self.pools().iter().any(|pool| pool.is_hungry())
    }

    /// Takes one unit of the limit, if there is one, for the endpoint that was fed longest ago.
    fn take_one(&self) {
        let pools = self.pools();
        let Some(hungry) = pools.iter().find(|pool| pool.is_hungry()) else { return };
        if let Some(permit) = self.shared.connection_of_line() {
            self.fed(hungry);
            return hungry.open(permit);
        }
        let wanted = |identity: u64| {
            pools.iter().find(|pool| pool.identity == identity && takes_given(pool) && pool.has_waiters())
        };
        let Some((donation, permit)) = self.shared.take_donation(|identity| wanted(identity).is_some()) else { return };
        match (wanted(donation.endpoint), TcpStream::from_std(donation.stream)) {
            (Some(pool), Ok(stream)) => {
                self.fed(pool);
                take_in(pool, stream, (donation.requests, donation.opened), permit);
            }
            // Nobody here has a use for the connection, but for its place.
            (_, stream) => {
                drop(stream);
                self.fed(hungry);
                hungry.open(permit);
            }
        }
    }

    fn fed(&self, pool: &Rc<EndpointPool>) {
        let mut pools = self.pools.borrow_mut();
        if let Some(at) = pools.iter().position(|known| std::ptr::eq(known.as_ptr(), Rc::as_ptr(pool))) {
            let known = pools.remove(at);
            pools.push(known);
        }
    }

    /// What was given and is wanted by nobody any more is idle here.
    fn take_back(&self) {
        while !self.shared.someone_starves()
            && let Some((donation, permit)) = self.shared.take_donation(|_| true)
        {
            let pools = self.pools();
            let owner = pools.iter().find(|pool| pool.identity == donation.endpoint && takes_given(pool));
            if let (Some(pool), Ok(stream)) = (owner, TcpStream::from_std(donation.stream)) {
                take_in(pool, stream, (donation.requests, donation.opened), permit);
            }
        }
    }
}

/// What workers give each other is a plain HTTP/1.1 connection.
fn takes_given(pool: &EndpointPool) -> bool {
    pool.plan.protocol != Protocol::Http2 && pool.plan.tls.is_none()
}

fn take_in(
    pool: &Rc<EndpointPool>,
    stream: TcpStream,
    (requests, opened): (u64, std::time::Instant),
    permit: super::shared::ConnectionPermit,
) {
    let local = stream.local_addr().ok();
    let mut conn = ClientConn::new(Wire::new(Io::Tcp(Socket::new(stream, pool.plan.stamped))));
    conn.requests = requests;
    pool.take_in(Connected::H1 { conn: Box::new(conn), peer: None, setup: None, opened, local }, permit);
}
