//! order-service: an order names a user, so every order is one more request through the mesh.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Client, Request, Response};
use super::service::{Application, Instance};

pub(crate) struct Orders {
    /// The outbound side of this service's own sidecar.
    sidecar: Client,
}

/// Longer than the sidecar's own timeouts, so that its answer is what a caller sees.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Only so many users have orders, so that a cache or a hash has something to repeat.
const BUYERS: u64 = 1000;

/// What ties the two requests together in logs and traces; an application must copy it, no sidecar can.
const CARRIED: [&str; 11] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-user-id",
];

impl Orders {
    pub(crate) fn new(sidecar: SocketAddr) -> Self {
        Self { sidecar: Client::new(sidecar) }
    }

    async fn buyer(&self, order: u64, request: &Request) -> Result<Value, String> {
        let call = Request {
            method: "GET".into(),
            target: format!("/api/users/{}", order % BUYERS + 1),
            headers: CARRIED
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), request.header(name)?.to_owned())))
                .collect(),
            body: Vec::new(),
        };
        match tokio::time::timeout(CALL_TIMEOUT, self.sidecar.send("user-service", &call)).await {
            Err(_) => Err("user-service did not answer in time".into()),
            Ok(Err(error)) => Err(format!("the sidecar cannot be reached: {error}")),
            Ok(Ok(answer)) if answer.status == 200 => {
                serde_json::from_slice(&answer.body).map_err(|error| format!("user-service sent no JSON: {error}"))
            }
            Ok(Ok(answer)) => Err(format!("user-service answered {}", answer.status)),
        }
    }
}

impl Application for Orders {
    async fn answer(&self, me: &Instance, request: Request) -> Response {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Response::error(405, "use GET").with("allow", "GET, HEAD");
        }
        let id = match request.path().strip_prefix("/api/orders/").map(str::parse::<u64>) {
            Some(Ok(id)) => id,
            Some(Err(_)) => return Response::error(400, "an order's id is a whole number"),
            None => return Response::error(404, "nothing here: try /api/orders/7"),
        };
        match self.buyer(id, &request).await {
            Ok(user) => Response::json(
                200,
                &json!({ "id": id, "user": user, "total_cents": 500 + id % 97 * 25, "served_by": me.name }),
            ),
            Err(reason) => Response::error(502, reason),
        }
    }
}
