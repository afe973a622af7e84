//! user-service: people, made up from their number, so that every instance knows the same ones.

use serde_json::{Value, json};

use super::http::{Request, Response};
use super::service::{Application, Instance};

pub(crate) struct Users;

/// Users there are. A larger number is answered with 404.
pub(crate) const USERS: u64 = 1_000_000;
/// Users on a page: a response of about one kilobyte.
const PAGE: u64 = 10;

const FIRST: [&str; 8] = ["Ada", "Alan", "Barbara", "Claude", "Edsger", "Grace", "Katherine", "Leslie"];
const LAST: [&str; 8] = ["Dijkstra", "Hopper", "Johnson", "Lamport", "Liskov", "Lovelace", "Shannon", "Turing"];

impl Application for Users {
    async fn answer(&self, me: &Instance, request: Request) -> Response {
        let response = match (request.method.as_str(), request.path().trim_end_matches('/')) {
            ("GET" | "HEAD", "/api/users") => {
                let users: Vec<Value> = (1..=PAGE).map(user).collect();
                Response::json(200, &json!({ "users": users, "total": USERS, "served_by": served_by(me) }))
            }
            ("POST", "/api/users") => match serde_json::from_slice::<Value>(&request.body) {
                Ok(given) => {
                    Response::json(201, &json!({ "id": USERS + 1, "user": given, "served_by": served_by(me) }))
                }
                Err(error) => Response::error(400, format_args!("the body is not JSON: {error}")),
            },
            (_, "/api/users") => Response::error(405, "use GET or POST").with("allow", "GET, HEAD, POST"),
            ("GET" | "HEAD", path) => match path.strip_prefix("/api/users/").map(str::parse::<u64>) {
                Some(Ok(id)) if (1..=USERS).contains(&id) => {
                    let mut found = user(id);
                    found["served_by"] = served_by(me);
                    Response::json(200, &found)
                }
                Some(Ok(id)) => Response::error(404, format_args!("there is no user {id}")),
                Some(Err(_)) => Response::error(400, "a user's id is a whole number"),
                None => Response::error(404, "nothing here: try /api/users or /api/users/123"),
            },
            _ => Response::error(405, "use GET").with("allow", "GET, HEAD"),
        };
        response.with("x-version", &*me.version)
    }
}

fn user(id: u64) -> Value {
    let first = FIRST[(id % 8) as usize];
    let last = LAST[(id / 8 % 8) as usize];
    json!({
        "id": id,
        "name": format!("{first} {last}"),
        "email": format!("{}.{}.{id}@example.com", first.to_lowercase(), last.to_lowercase()),
    })
}

fn served_by(me: &Instance) -> Value {
    json!({ "instance": me.name, "version": me.version, "locality": me.locality })
}
