//! The A/B that `celerity up` ends with: the same services under a plain configuration against the loaded one.
//!
//! A second mesh runs beside the first, with sidecars, ports and an authority of its own, before the same applications;
//! its configuration is the services and mutual TLS and nothing else. Orders are left out: the order-service calls through
//! the first mesh whichever one it was reached by, and would be a bit of both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use celerity_load::ab::{Design, Metric, Report};
use celerity_load::measure::Targets;
use celerity_load::plan::Capture;
use celerity_load::source::{Request, Source};
use celerity_load::stats::Rng;
use celerity_load::target::Origin;
use celerity_load::{Control, Plan};

use crate::config::Loader;
use crate::interrupt::Signals;
use crate::mesh::Mesh;
use crate::sample::lab::{self, Ports};
use crate::session::StatusLine;
use crate::{client, experiment};

/// Gentle enough for two cores with a mesh, its services and the sender on them; enough that what the services draw at random
/// does not drown the margin.
const PER_SECOND: f64 = 500.0;
/// 765 requests after the discarded part: enough for the median, which decides, and 38 beyond the p95.
const BLOCK: Duration = Duration::from_millis(1800);
/// One look, which the smallest possible p of 2/2^8 lets decide. With the 8 pairs of A/A a minute, and every pair that is voided
/// 4 seconds more.
const PAIRS_MAX: usize = 8;
/// However many are voided: nobody waits for longer.
const LIMIT: Duration = Duration::from_secs(80);
const SEED: u64 = 0x07e5_7ab5;
/// As the live traffic: different users, so that a hash has something to spread and a cache something to miss.
const CALLERS: usize = 1000;
const REQUESTS: usize = 2000;
/// One request in so many asks for a page of users, the others for one user.
const PAGES_ONE_IN: usize = 5;
const CONNECTIONS: u32 = 32;
const TIMEOUT: Duration = Duration::from_secs(5);
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Runs it against the mesh whose entry is `candidate`. Takes 60 to 80 seconds.
///
/// `None` if somebody skipped it before there was anything to tell.
pub(crate) fn run(
    ports: Ports,
    candidate: SocketAddr,
    name: &str,
    signals: &Signals,
) -> anyhow::Result<Option<Report>> {
    let control = Control::new();
    let interrupt = signals.stop(&control);
    let beside = ports.beside();
    let workloads = lab::workloads(beside);
    let loader = Loader::new(Vec::new()).with(beside.documents());
    let mesh = Mesh::start(&workloads, loader, StatusLine::default())
        .context("the mesh with the plain configuration cannot start")?;
    let baseline = workloads.last().context("the arrangement has no workload")?.outbound();
    let requests = requests();
    let mut arms = Targets { baseline: plan(baseline, &requests), candidate: plan(candidate, &requests), control };
    let report =
        experiment::run(&design()?, ("plain: the services and mutual TLS", name), &mut arms, &interrupt, Some(LIMIT));
    signals.at_once();
    mesh.drain(DRAIN_MAX);
    report.map(|report| Some(report).filter(|report| !(interrupt.asked() && report.pairs_kept == 0)))
}

fn design() -> anyhow::Result<Design> {
    // What the services draw at random is a floor of 2.4 % by itself, and how busy this machine is nobody knows: the margin
    // is what these pairs can answer here, and the report says how wide that is.
    let design = Design { block: BLOCK, widens: true, ..Design::new(Metric::P50, PER_SECOND, PAIRS_MAX, SEED)? };
    design.check()?;
    Ok(design)
}

fn plan(entry: SocketAddr, requests: &Arc<[Request]>) -> Plan {
    let origin = Origin { tls: false, host: "user-service".to_owned(), port: 80, addresses: vec![entry] };
    let plan = Plan::new(origin, Source::Static(Arc::clone(requests)), client::any_load());
    let capture = Capture { ledger: true, ..Capture::default() };
    Plan { connections: CONNECTIONS, timeout: TIMEOUT, capture, ..plan }
}

fn requests() -> Arc<[Request]> {
    let mut rng = Rng::new(SEED);
    let mut one = || {
        let id = rng.below(CALLERS) + 1;
        let path = if rng.below(PAGES_ONE_IN) == 0 { "/api/users".to_owned() } else { format!("/api/users/{id}") };
        let mut request = Request::get(path);
        request.headers.push(("x-user-id".to_owned(), id.to_string()));
        client::ask_for_ledger(&mut request);
        request
    };
    (0..REQUESTS).map(|_| one()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_well_within_two_minutes() {
        let design = design().expect("a design");
        // Two blocks more, in which both arms get warm, and room for four pairs that are voided.
        assert!(design.longest() + 10 * design.block <= LIMIT, "{:?}", design.longest());
        assert!(LIMIT + 2 * design.block + DRAIN_MAX < Duration::from_secs(90));
    }

    #[test]
    fn both_arms_get_the_same_requests_for_many_users() {
        let requests = requests();
        let pages = requests.iter().filter(|request| request.path == "/api/users").count();
        assert!((300..500).contains(&pages), "{pages}");
        assert!(requests.iter().all(|request| request.header("x-celerity-ledger") == Some("1")));
    }
}
