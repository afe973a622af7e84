//! Which endpoint a request goes to.
//!
//! A [`Picker`] is made once per worker for a cluster in one state of health, and remade when that changes: then a pick is
//! a few loads, with no lock and no allocation. It decides in Envoy's order: the priority by its load, the locality by
//! its weight, the endpoint by the algorithm. Everything that outlives a snapshot (ejections, requests in flight, since
//! when an endpoint is healthy) is given to it.

pub mod hash;
mod load;
mod ring;
mod schedule;

use std::sync::Arc;
use std::time::{Duration, Instant};

use celerity_model::snapshot::{Algorithm, Cluster, Health, LocalityGroup, SlowStart};

use load::Loads;
pub use ring::{MaglevTable, Ring};
use schedule::{Edf, splitmix};

/// How often weights are recomputed while an endpoint warms up: a hundred steps over the ramp, but not a rebuild for
/// every few requests.
const SLOW_START_STEPS: u32 = 100;
const SLOW_START_STEP_MIN: Duration = Duration::from_millis(100);

/// What is known of an endpoint beside its configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndpointState {
    pub ejected: bool,
    /// Since when it has been healthy; `None`: for longer than anyone remembers, so that it does not warm up.
    pub healthy_since: Option<Instant>,
}

/// What is known of the moment of a pick.
pub trait PickView {
    /// Requests in flight to an endpoint, by its index in the cluster.
    fn active(&self, index: usize) -> u32;

    /// An endpoint that a retry should not go to.
    fn avoid(&self, _index: usize) -> bool {
        false
    }

    /// Picks until one is found that need not be avoided (Envoy `host_selection_retry_max_attempts`).
    fn attempts_max(&self) -> u32 {
        1
    }

    /// Priorities that were tried, as bits; a retry avoids them where another is left.
    fn tried_priorities(&self) -> u64 {
        0
    }
}

/// A chosen endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Index into `Cluster::endpoints`.
    pub index: usize,
    pub priority: u32,
    /// Health was not looked at: too few endpoints were healthy.
    pub panic: bool,
}

/// One worker's balancer for a cluster in one state of health.
#[derive(Debug)]
pub struct Picker {
    loads: Loads,
    priorities: Box<[Priority]>,
    algorithm: Algorithm,
    /// When it must be made anew though nothing was reported: an endpoint is warming up.
    pub expires: Option<Instant>,
}

#[derive(Debug)]
struct Priority {
    panic: bool,
    healthy: Pool,
    degraded: Pool,
}

/// Endpoints among which the algorithm chooses.
#[derive(Debug, Default)]
struct Pool {
    groups: Box<[Group]>,
    /// Sum of the groups' weights.
    total: u64,
    table: Option<Table>,
}

#[derive(Debug)]
struct Group {
    weight: u64,
    endpoints: Box<[u32]>,
    /// `None`: all weights are equal, and the algorithm needs no schedule.
    schedule: Option<Edf>,
    next: std::cell::Cell<usize>,
}

#[derive(Debug)]
enum Table {
    Ring(Arc<Ring>),
    Maglev(Arc<MaglevTable>),
}

impl Picker {
    /// `state` tells what is known of an endpoint, by its index. `seed` spreads the workers' first picks.
    pub fn new(cluster: &Cluster, state: impl Fn(usize) -> EndpointState, now: Instant, seed: u64) -> Self {
        let settings = &cluster.policy.load_balancing;
        let mut members: Vec<Members> = Vec::new();
        for group in &cluster.localities {
            if members.last().is_none_or(|last| last.priority != group.priority) {
                members.push(Members { priority: group.priority, ..Members::default() });
            }
            if let Some(last) = members.last_mut() {
                last.add(cluster, group, &state);
            }
        }
        let counts: Vec<load::Counts> = members.iter().map(Members::counts).collect();
        let loads = Loads::new(&counts, settings.panic_threshold_percent, settings.overprovisioning_percent);
        let ramp =
            Ramp { cluster, state: &state, now, slow_start: slow_start(settings.algorithm, settings.slow_start) };
        let priorities = members
            .iter()
            .enumerate()
            .map(|(at, members)| {
                let panic = loads.panic(at);
                let healthy = if panic {
                    members.pool(&ramp, seed, |_| true, true)
                } else {
                    members.pool(&ramp, seed, |health| health == Usable::Healthy, false)
                };
                let degraded = members.pool(&ramp, seed, |health| health == Usable::Degraded, false);
                Priority { panic, healthy, degraded }
            })
            .collect();
        let expires = ramp.expires();
        Self { loads, priorities, algorithm: settings.algorithm, expires }
    }

    /// The endpoint for a request. `hash` is the request's, where the route has a hash policy; `rng` is drawn anew for
    /// each pick. `None`: no endpoint may take it.
    pub fn pick(&self, hash: Option<u64>, rng: u64, view: &impl PickView) -> Option<Pick> {
        // Envoy draws the priority by the request's hash where the balancer hashes, so that a client stays where it is.
        let consistent = self.algorithm.is_consistent_hash();
        let key = if consistent { hash.unwrap_or(rng) } else { rng };
        let (at, degraded) = self.loads.choose(key, view.tried_priorities())?;
        let priority = self.priorities.get(at)?;
        let pool = if degraded { &priority.degraded } else { &priority.healthy };
        let mut last = None;
        for attempt in 0..view.attempts_max().max(1) {
            let index = self.pick_from(pool, key, splitmix(rng ^ u64::from(attempt)), attempt, view)?;
            last = Some(index);
            if !view.avoid(index) {
                return Some(Pick { index, priority: at as u32, panic: priority.panic });
            }
        }
        // A scan finds the one endpoint that was not tried, where chance did not; only retries come here.
        let untried = pool.groups.iter().flat_map(|group| group.endpoints.iter()).map(|&index| index as usize);
        let index = untried.into_iter().find(|&index| !view.avoid(index)).or(last)?;
        Some(Pick { index, priority: at as u32, panic: priority.panic })
    }

    /// True where no endpoint may take a request.
    pub fn is_empty(&self) -> bool {
        self.priorities.iter().all(|priority| priority.healthy.groups.is_empty() && priority.degraded.groups.is_empty())
    }

    fn pick_from(&self, pool: &Pool, key: u64, rng: u64, attempt: u32, view: &impl PickView) -> Option<usize> {
        match &pool.table {
            Some(Table::Ring(ring)) => return ring.pick(key, attempt),
            Some(Table::Maglev(table)) => return table.pick(key, attempt),
            None => {}
        }
        let group = match pool.groups.as_ref() {
            [one] => one,
            groups => {
                let mut left = rng % pool.total.max(1);
                groups.iter().find(|group| {
                    let found = left < group.weight;
                    left = left.saturating_sub(group.weight);
                    found
                })?
            }
        };
        let count = group.endpoints.len();
        let at = match (self.algorithm, &group.schedule) {
            (Algorithm::LeastRequest { active_request_bias: bias, .. }, Some(schedule)) => {
                schedule.pick(|at, weight| {
                    let index = group.endpoints.get(at).map_or(0, |&index| index as usize);
                    weight / f64::from(view.active(index).saturating_add(1)).powf(bias)
                })?
            }
            (_, Some(schedule)) => schedule.pick(|_, weight| weight)?,
            (Algorithm::LeastRequest { choices, .. }, None) => {
                let (mut best, mut least, mut rng) = (0, u32::MAX, rng);
                for _ in 0..choices {
                    rng = splitmix(rng);
                    let at = (rng % count.max(1) as u64) as usize;
                    let active = view.active(group.endpoints.get(at).map_or(0, |&index| index as usize));
                    if active < least {
                        (best, least) = (at, active);
                    }
                }
                best
            }
            (Algorithm::RoundRobin | Algorithm::ClusterProvided, None) => {
                let at = group.next.get() % count.max(1);
                group.next.set(at + 1);
                at
            }
            (_, None) => (rng % count.max(1) as u64) as usize,
        };
        group.endpoints.get(at).map(|&index| index as usize)
    }
}

/// The two algorithms that warm endpoints up (Envoy, "Slow start mode").
fn slow_start(algorithm: Algorithm, settings: Option<SlowStart>) -> Option<SlowStart> {
    matches!(algorithm, Algorithm::RoundRobin | Algorithm::LeastRequest { .. }).then_some(settings).flatten()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Usable {
    Healthy,
    Degraded,
    No,
}

type UsableEndpoints = Vec<(u32, Usable)>;

/// The endpoints of one priority, by locality.
#[derive(Default)]
struct Members {
    priority: u32,
    /// Each with its weight and its endpoints, by their indexes.
    localities: Vec<(Option<u32>, UsableEndpoints)>,
}

impl Members {
    fn add(&mut self, cluster: &Cluster, group: &LocalityGroup, state: &impl Fn(usize) -> EndpointState) {
        let mut list = Vec::with_capacity(group.len as usize);
        for index in group.start..group.start + group.len {
            let Some(endpoint) = cluster.endpoints.get(index as usize) else { continue };
            let usable = match endpoint.health {
                _ if state(index as usize).ejected => Usable::No,
                Health::Healthy => Usable::Healthy,
                Health::Degraded => Usable::Degraded,
                Health::Unhealthy | Health::Draining => Usable::No,
            };
            list.push((index, usable));
        }
        self.localities.push((group.weight, list));
    }

    fn counts(&self) -> load::Counts {
        let of = |wanted: Usable| {
            self.localities.iter().flat_map(|(_, list)| list).filter(|(_, usable)| *usable == wanted).count() as u32
        };
        let all = self.localities.iter().map(|(_, list)| list.len() as u32).sum();
        load::Counts { all, healthy: of(Usable::Healthy), degraded: of(Usable::Degraded) }
    }

    /// The endpoints that `wanted` takes. In panic localities do not count, as in Envoy.
    fn pool<S: Fn(usize) -> EndpointState>(
        &self,
        ramp: &Ramp<'_, S>,
        seed: u64,
        wanted: impl Fn(Usable) -> bool,
        panic: bool,
    ) -> Pool {
        let settings = &ramp.cluster.policy.load_balancing;
        let by_locality = settings.locality_weighted
            && !panic
            && self.localities.iter().any(|(weight, _)| weight.is_some_and(|weight| weight > 0));
        let mut lists: Vec<(f64, Vec<u32>)> = Vec::new();
        for (weight, list) in &self.localities {
            let chosen: Vec<u32> = list.iter().filter(|(_, usable)| wanted(*usable)).map(|(index, _)| *index).collect();
            if by_locality {
                // A locality that is healthy to 1/1.4 or more keeps its whole weight (Envoy, "Locality weighted").
                let share = f64::from(settings.overprovisioning_percent) / 100.0 * chosen.len() as f64
                    / list.len().max(1) as f64;
                let weight = f64::from(weight.unwrap_or(0)) * share.min(1.0);
                if weight > 0.0 && !chosen.is_empty() {
                    lists.push((weight, chosen));
                }
            } else if let Some((_, all)) = lists.first_mut() {
                all.extend(chosen);
            } else if !chosen.is_empty() {
                lists.push((1.0, chosen));
            }
        }
        lists.retain(|(_, list)| !list.is_empty());
        let table = ring::table(ramp.cluster, &lists);
        // Shares of a locality are kept to a millionth, in whole numbers: a pick then divides no floats.
        let scale = 1e6;
        let groups: Box<[Group]> = lists
            .into_iter()
            .map(|(weight, list)| {
                let weights: Vec<f64> = list.iter().map(|&index| ramp.weight(index as usize)).collect();
                let equal = weights.windows(2).all(|pair| pair.first() == pair.last());
                let scheduled = matches!(settings.algorithm, Algorithm::RoundRobin | Algorithm::LeastRequest { .. });
                let start = (splitmix(seed) % list.len().max(1) as u64) as usize;
                Group {
                    weight: ((weight * scale) as u64).max(1),
                    schedule: (scheduled && !equal).then(|| Edf::new(&weights, start)),
                    endpoints: list.into(),
                    next: std::cell::Cell::new(start),
                }
            })
            .collect();
        let total = groups.iter().map(|group| group.weight).sum();
        Pool { groups, total, table }
    }
}

/// Weights of endpoints, less what slow start takes off.
struct Ramp<'a, S> {
    cluster: &'a Cluster,
    state: &'a S,
    now: Instant,
    slow_start: Option<SlowStart>,
}

impl<S: Fn(usize) -> EndpointState> Ramp<'_, S> {
    fn warm_for(&self, index: usize) -> Option<(Duration, SlowStart)> {
        let slow_start = self.slow_start?;
        let warm = self.now.saturating_duration_since((self.state)(index).healthy_since?);
        (warm < slow_start.window).then_some((warm, slow_start))
    }

    fn weight(&self, index: usize) -> f64 {
        let weight = f64::from(self.cluster.endpoints.get(index).map_or(1, |endpoint| endpoint.weight));
        match self.warm_for(index) {
            None => weight,
            Some((warm, slow_start)) => weight * slow_start_factor(warm, slow_start),
        }
    }

    fn expires(&self) -> Option<Instant> {
        let warming = (0..self.cluster.endpoints.len()).any(|index| self.warm_for(index).is_some());
        let step = self.slow_start?.window / SLOW_START_STEPS;
        warming.then(|| self.now + step.max(SLOW_START_STEP_MIN))
    }
}

/// Envoy: `max(min_weight, (time / window)^(1 / aggression))`.
fn slow_start_factor(warm: Duration, settings: SlowStart) -> f64 {
    let share = warm.max(Duration::from_millis(1)).as_secs_f64() / settings.window.as_secs_f64().max(0.001);
    share.powf(1.0 / settings.aggression.max(0.01)).clamp(settings.min_weight_percent / 100.0, 1.0)
}

#[cfg(test)]
mod tests;
