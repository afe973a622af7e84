//! What every sample instance is: a listener, a service time, a switch, and an application behind them.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::http::{self, Handler, Request, Response};
use super::switch::Mode;
use crate::rng::{LogNormal, Rng};
use crate::timer::Timer;

/// Who an instance is.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    /// Such as `user-service-v1-1`.
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) version: String,
    /// `region/zone`.
    pub(crate) locality: String,
    /// Where the application listens.
    pub(crate) address: SocketAddr,
}

/// What a service does with a request that was neither slowed nor failed.
pub(crate) trait Application {
    fn answer(&self, me: &Instance, request: Request) -> impl Future<Output = Response>;
}

/// Connections that one instance serves at a time; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 4096;

/// Binds the instance's address and serves on the current `LocalSet` until that is dropped.
pub(crate) async fn start<A: Application + 'static>(
    me: Instance,
    application: A,
    service_time: LogNormal,
    timer: Timer,
    seed: u64,
) -> anyhow::Result<()> {
    let address = me.address;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("{} cannot listen on {address}: choose other ports with --port-base", me.name))?;
    let service = Rc::new(Service {
        me,
        application,
        service_time,
        timer,
        rng: RefCell::new(Rng::new(seed)),
        switch: Cell::new((Mode::Ok, Instant::now())),
    });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::task::spawn_local(async move {
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely: give others time to close theirs.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let service = Rc::clone(&service);
            tokio::task::spawn_local(async move {
                let _ = http::serve(stream, &*service).await;
                drop(place);
            });
        }
    });
    Ok(())
}

struct Service<A> {
    me: Instance,
    application: A,
    service_time: LogNormal,
    timer: Timer,
    rng: RefCell<Rng>,
    switch: Cell<(Mode, Instant)>,
}

impl<A: Application> Handler for Service<A> {
    async fn handle(&self, request: Request) -> Response {
        let arrived = Instant::now();
        match request.path() {
            "/switch" => return self.turn(&request),
            "/healthz" => return Response::json(200, &json!({ "status": "ok" })),
            _ => {}
        }
        let (mode, since) = self.switch.get();
        let effect = mode.effect(arrived.duration_since(since));
        let service_time = self.service_time.draw(&mut self.rng.borrow_mut());
        self.timer.sleep_until(arrived + service_time + effect.extra).await;
        let response = if effect.fails {
            Response::error(503, format_args!("{} is switched to {mode}", self.me.name))
        } else {
            self.application.answer(&self.me, request).await
        };
        response.with("x-served-by", &*self.me.name)
    }
}

impl<A> Service<A> {
    fn turn(&self, request: &Request) -> Response {
        if request.method == "POST" {
            match Mode::parse(request.query("mode"), request.query("ms")) {
                Ok(mode) => self.switch.set((mode, Instant::now())),
                Err(reason) => return Response::error(400, reason),
            }
        }
        Response::json(200, &json!({ "instance": self.me.name, "mode": self.switch.get().0.to_string() }))
    }
}
