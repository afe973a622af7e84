use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use celerity_model::snapshot::{
    Address, ClusterPolicy, Discovery, Endpoint, LoadBalancing, Locality, ServiceName, Transport,
};
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

use super::*;

/// A cluster of localities: priority, weight of the locality, weights of its endpoints.
fn cluster(settings: LoadBalancing, localities: &[(u32, Option<u32>, &[u32])]) -> Cluster {
    let (mut endpoints, mut groups) = (Vec::new(), Vec::new());
    for (priority, weight, weights) in localities {
        let start = endpoints.len() as u32;
        for weight in *weights {
            let address = format!("127.0.0.1:{}", 90 + endpoints.len());
            endpoints.push(Endpoint {
                identity: Endpoint::identity_of(&address),
                hostname: Some((90 + endpoints.len()).to_string().into()),
                address: Address::Socket(address.parse().expect("an address")),
                weight: *weight,
                health: Health::Healthy,
                transport: 0,
                workload: None,
            });
        }
        groups.push(LocalityGroup {
            locality: Arc::new(Locality::default()),
            priority: *priority,
            weight: *weight,
            start,
            len: endpoints.len() as u32 - start,
        });
    }
    Cluster {
        name: "c".into(),
        identity: 1,
        pool_key: 1,
        fingerprint: 1,
        service: ServiceName::default(),
        described: None,
        discovery: Discovery::Eds,
        policy: Arc::new(ClusterPolicy { load_balancing: settings, ..ClusterPolicy::default() }),
        endpoints: endpoints.into(),
        localities: groups.into(),
        transports: Arc::new([Transport::Raw]),
        lacks_identity: false,
    }
}

fn settings(algorithm: Algorithm) -> LoadBalancing {
    LoadBalancing { algorithm, ..LoadBalancing::default() }
}

fn healthy(_: usize) -> EndpointState {
    EndpointState::default()
}

#[derive(Default)]
struct View {
    active: RefCell<Vec<u32>>,
    avoid: Vec<usize>,
    attempts: u32,
}

impl PickView for View {
    fn active(&self, index: usize) -> u32 {
        self.active.borrow().get(index).copied().unwrap_or(0)
    }

    fn avoid(&self, index: usize) -> bool {
        self.avoid.contains(&index)
    }

    fn attempts_max(&self) -> u32 {
        self.attempts
    }
}

fn counts(picker: &Picker, picks: u64, endpoints: usize) -> Vec<u64> {
    let mut counts = vec![0; endpoints];
    for draw in 0..picks {
        let pick = picker.pick(None, splitmix(draw), &View::default()).expect("an endpoint");
        counts[pick.index] += 1;
    }
    counts
}

/// The vectors, or `None` where the machine has none. In CI they must be there.
fn vectors() -> Option<serde_json::Value> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let named = std::env::var_os("CELERITY_SHARED").map(PathBuf::from);
    let places = named.into_iter().chain([root.join("../shared"), root.join("../../shared")]);
    let text = places
        .map(|place| place.join("corpora/envoy-hash-vectors/vectors.json"))
        .find_map(|path| std::fs::read_to_string(path).ok());
    assert!(text.is_some() || std::env::var_os("CI").is_none(), "the hash vectors are missing; set CELERITY_SHARED");
    text.map(|text| serde_json::from_str(&text).expect("the vectors are JSON"))
}

#[test]
fn a_ring_picks_as_envoy_does() {
    let Some(vectors) = vectors() else { return };
    let ring = |use_hostname| Algorithm::RingHash { ring_size_min: 12, ring_size_max: 1 << 23, use_hostname };
    let cluster_of = |use_hostname| cluster(settings(ring(use_hostname)), &[(0, None, &[1; 6])]);
    let now = Instant::now();
    let mut checked = 0;
    for (key, use_hostname) in [("by_address", false), ("by_hostname", true)] {
        let cluster = cluster_of(use_hostname);
        let picker = Picker::new(&cluster, healthy, now, 0);
        for (name, hashes) in vectors["ring_hash"][key].as_object().expect("an object") {
            for hash in hashes.as_array().expect("a list") {
                let pick = picker.pick(hash.as_u64(), 7, &View::default()).expect("a pick");
                let endpoint = &cluster.endpoints[pick.index];
                let is = match use_hostname {
                    true => endpoint.hostname.as_deref().unwrap_or_default().to_owned(),
                    false => endpoint.address.to_string(),
                };
                assert_eq!(&is, name, "{hash}");
                checked += 1;
            }
        }
    }
    let cluster = cluster_of(false);
    let picker = Picker::new(&cluster, healthy, now, 0);
    for pick in vectors["ring_hash"]["picks_by_address"].as_array().expect("a list") {
        let found = picker.pick(pick[0].as_u64(), 7, &View::default()).expect("a pick");
        assert_eq!(Some(cluster.endpoints[found.index].address.to_string().as_str()), pick[1].as_str());
        checked += 1;
    }
    assert_eq!(checked, 29);
}

#[test]
fn a_maglev_table_is_filled_as_envoy_fills_it() {
    let Some(vectors) = vectors() else { return };
    for (key, use_hostname) in [("table_by_address", false), ("table_by_hostname", true)] {
        let cluster = cluster(settings(Algorithm::Maglev { table_size: 7, use_hostname }), &[(0, None, &[1; 6])]);
        let picker = Picker::new(&cluster, healthy, Instant::now(), 0);
        let at = |hash| picker.pick(Some(hash), 1, &View::default()).expect("a pick").index as u64;
        let table: Vec<u64> = (0..7).map(at).collect();
        let wanted = vectors["maglev"][key].as_array().expect("a list");
        let wanted: Vec<u64> = wanted.iter().filter_map(serde_json::Value::as_u64).collect();
        assert_eq!(table, wanted, "{key}");
    }
}

#[test]
fn weights_shape_hash_tables() {
    for algorithm in [
        Algorithm::Maglev { table_size: 65_537, use_hostname: false },
        Algorithm::RingHash { ring_size_min: 40_000, ring_size_max: 1 << 23, use_hostname: false },
    ] {
        let cluster = cluster(settings(algorithm), &[(0, None, &[1, 2, 5])]);
        let picker = Picker::new(&cluster, healthy, Instant::now(), 0);
        let mut counts = [0_u32; 3];
        for draw in 0..80_000 {
            counts[picker.pick(Some(splitmix(draw)), 0, &View::default()).expect("a pick").index] += 1;
        }
        for (count, wanted) in counts.iter().zip([10_000_u32, 20_000, 50_000]) {
            assert!(count.abs_diff(wanted) < wanted / 10, "{algorithm:?}: {counts:?}");
        }
    }
}

#[test]
fn panic_looks_at_everyone_and_a_threshold_of_zero_never_panics() {
    let ejected = |index: usize| EndpointState { ejected: index != 0, ..EndpointState::default() };
    let mut balancing = settings(Algorithm::RoundRobin);
    let panicking = cluster(balancing.clone(), &[(0, None, &[1; 4])]);
    let picker = Picker::new(&panicking, ejected, Instant::now(), 0);
    assert_eq!(counts(&picker, 40, 4), [10; 4]);
    assert!(picker.pick(None, 0, &View::default()).is_some_and(|pick| pick.panic));
    balancing.panic_threshold_percent = 0.0;
    let calm = cluster(balancing, &[(0, None, &[1; 4])]);
    assert_eq!(counts(&Picker::new(&calm, ejected, Instant::now(), 0), 40, 4), [40, 0, 0, 0]);
    let nobody = Picker::new(&calm, |_| EndpointState { ejected: true, ..EndpointState::default() }, Instant::now(), 0);
    assert_eq!(nobody.pick(None, 0, &View::default()), None);
    assert!(nobody.is_empty());
}

#[test]
fn a_lower_priority_takes_what_the_higher_one_cannot() {
    let mut balancing = settings(Algorithm::RoundRobin);
    balancing.panic_threshold_percent = 0.0;
    let cluster = cluster(balancing, &[(0, None, &[1; 10]), (1, None, &[1; 10])]);
    // Half of ten healthy, times 1.4: 70 % stay.
    let ejected = |index: usize| EndpointState { ejected: (5..10).contains(&index), ..EndpointState::default() };
    let counts = counts(&Picker::new(&cluster, ejected, Instant::now(), 0), 10_000, 20);
    let first: u64 = counts[..10].iter().sum();
    assert!(first.abs_diff(7_000) < 300, "{first}");
    assert_eq!(counts[5..10].iter().sum::<u64>(), 0);
}

#[test]
fn localities_take_their_share_and_less_when_they_are_ill() {
    let mut balancing = settings(Algorithm::RoundRobin);
    balancing.locality_weighted = true;
    // A quarter of one locality is healthy below: panic would hide what is asked here.
    balancing.panic_threshold_percent = 0.0;
    let cluster = cluster(balancing, &[(0, Some(80), &[1; 4]), (0, Some(20), &[1; 4]), (0, Some(0), &[1; 4])]);
    let all = counts(&Picker::new(&cluster, healthy, Instant::now(), 0), 10_000, 12);
    assert!(all[..4].iter().sum::<u64>().abs_diff(8_000) < 300, "{all:?}");
    assert_eq!(all[8..].iter().sum::<u64>(), 0, "a weight of 0 gets nothing");
    // One of four healthy, times 1.4: the first keeps 28 of its 80; 28 to 20.
    let ejected = |index: usize| EndpointState { ejected: (1..4).contains(&index), ..EndpointState::default() };
    let ill = counts(&Picker::new(&cluster, ejected, Instant::now(), 0), 10_000, 12);
    assert!(ill[0].abs_diff(5_833) < 300, "{ill:?}");
}

#[test]
fn least_request_prefers_who_has_fewer() {
    let least = Algorithm::LeastRequest { choices: 2, active_request_bias: 1.0 };
    let equal = cluster(settings(least), &[(0, None, &[1; 2])]);
    let picker = Picker::new(&equal, healthy, Instant::now(), 0);
    let view = View { active: RefCell::new(vec![9, 1]), ..View::default() };
    let idle = |draw: &u64| picker.pick(None, splitmix(*draw), &view).is_some_and(|pick| pick.index == 1);
    let count = (0..4_000).filter(idle).count() as u64;
    assert!(count.abs_diff(3_000) < 200, "{count}: both draws fall on the busy one a quarter of the time");

    let unequal = cluster(settings(least), &[(0, None, &[1, 3])]);
    let counts = counts(&Picker::new(&unequal, healthy, Instant::now(), 0), 4_000, 2);
    assert!(counts[1].abs_diff(3_000) <= 2, "{counts:?}");
}

#[test]
fn a_new_endpoint_warms_up() {
    let slow = SlowStart { window: Duration::from_secs(100), aggression: 1.0, min_weight_percent: 10.0 };
    let mut balancing = settings(Algorithm::RoundRobin);
    balancing.slow_start = Some(slow);
    let cluster = cluster(balancing, &[(0, None, &[1, 1])]);
    let born = Instant::now();
    let state = |index: usize| EndpointState { ejected: false, healthy_since: (index == 1).then_some(born) };
    for (after_s, share) in [(0, 0.1), (50, 0.5), (99, 0.99)] {
        let now = born + Duration::from_secs(after_s);
        let picker = Picker::new(&cluster, state, now, 0);
        assert_eq!(picker.expires, Some(now + Duration::from_secs(1)));
        let counts = counts(&picker, 10_000, 2);
        let found = counts[1] as f64 / counts[0] as f64;
        assert!((found - share).abs() < 0.02, "{after_s} s: {found}");
    }
    let warm = Picker::new(&cluster, state, born + Duration::from_secs(100), 0);
    assert_eq!((warm.expires, counts(&warm, 100, 2)), (None, vec![50, 50]));
}

#[test]
fn a_retry_goes_elsewhere_while_there_is_an_elsewhere() {
    for algorithm in [
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::LeastRequest { choices: 2, active_request_bias: 1.0 },
        Algorithm::Maglev { table_size: 65_537, use_hostname: false },
        Algorithm::RingHash { ring_size_min: 1024, ring_size_max: 1 << 23, use_hostname: false },
    ] {
        let cluster = cluster(settings(algorithm), &[(0, None, &[1; 3])]);
        let picker = Picker::new(&cluster, healthy, Instant::now(), 0);
        for draw in 0..100 {
            let view = View { avoid: vec![0, 2], attempts: 1, ..View::default() };
            assert_eq!(picker.pick(Some(draw), draw, &view).map(|pick| pick.index), Some(1), "{algorithm:?}");
            let view = View { avoid: vec![0, 1, 2], attempts: 3, ..View::default() };
            assert!(picker.pick(Some(draw), draw, &view).is_some(), "the last resort is somewhere");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_robin_gives_each_its_weight(weights in proptest::collection::vec(1_u32..20, 1..12), seed: u64) {
        let cluster = cluster(settings(Algorithm::RoundRobin), &[(0, None, &weights)]);
        let picker = Picker::new(&cluster, healthy, Instant::now(), seed);
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let rounds = 50;
        let counts = counts(&picker, total * rounds, weights.len());
        for (count, weight) in counts.iter().zip(&weights) {
            // A schedule that starts in the middle is off by a turn at either end.
            prop_assert!(count.abs_diff(u64::from(*weight) * rounds) <= 2, "{counts:?} of {weights:?}");
        }
    }

    #[test]
    fn nobody_ejected_is_picked_without_panic(
        ejected in proptest::collection::vec(proptest::bool::ANY, 1..30),
        algorithm in 0..5_usize,
        hash: u64,
    ) {
        let algorithm = [
            Algorithm::RoundRobin,
            Algorithm::Random,
            Algorithm::LeastRequest { choices: 2, active_request_bias: 1.0 },
            Algorithm::Maglev { table_size: 251, use_hostname: false },
            Algorithm::RingHash { ring_size_min: 64, ring_size_max: 1 << 23, use_hostname: false },
        ][algorithm];
        let weights = vec![1; ejected.len()];
        let cluster = cluster(settings(algorithm), &[(0, None, &weights)]);
        let state = |index: usize| EndpointState { ejected: ejected[index], ..EndpointState::default() };
        let picker = Picker::new(&cluster, state, Instant::now(), 3);
        for draw in 0..50 {
            let pick = picker.pick(Some(hash.wrapping_add(draw)), splitmix(draw), &View::default());
            prop_assert_eq!(pick.is_some(), true, "panic is the last resort");
            if let Some(pick) = pick {
                prop_assert!(pick.panic || !ejected[pick.index]);
            }
        }
    }
}
