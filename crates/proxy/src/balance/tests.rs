//! Each policy by itself: shares follow weights, equal hashes lead to equal endpoints, few move when one goes.

use super::*;
use proptest::prelude::*;

pub(super) fn endpoints(weights: &[u32]) -> Arc<Vec<Endpoint>> {
    let endpoint = |(i, weight): (usize, &u32)| Endpoint {
        address: SocketAddr::from(([127, 0, 0, 1], 1000 + i as u16)),
        weight: *weight,
        peer: Arc::default(),
    };
    Arc::new(weights.iter().enumerate().map(endpoint).collect())
}

fn spec(policy: LbPolicy) -> ClusterSpec {
    ClusterSpec {
        policy,
        ..crate::config::decode::cluster(&[]).unwrap()
    }
}

fn cluster(spec: ClusterSpec, weights: &[u32]) -> Cluster {
    Cluster::new(Arc::new(spec), endpoints(weights), None)
}

fn outlier() -> Outlier {
    Outlier {
        server_errors: (1, 100),
        gateway_errors: (1, 100),
        local_errors: (1, 100),
        split: true,
        interval: Duration::from_secs(1),
        base: Duration::from_secs(3600),
        max: Duration::from_secs(3600),
        max_percent: 50,
        always_one: false,
    }
}

fn counts(cluster: &Cluster, picks: u32) -> Vec<u32> {
    let mut balancer = Balancer::default();
    let mut counts = vec![0; cluster.endpoints.len()];
    for _ in 0..picks {
        counts[balancer.next(cluster, None, &[]).unwrap().place] += 1;
    }
    counts
}

const POLICIES: [LbPolicy; 6] = [
    LbPolicy::RoundRobin,
    LbPolicy::LeastRequest { choices: 2 },
    LbPolicy::Random,
    LbPolicy::RingHash { min: 1024, max: 8192 },
    LbPolicy::Maglev { size: 251 },
    LbPolicy::PeakEwma,
];

#[test]
fn one_hundred_to_ten() {
    let cluster = cluster(spec(LbPolicy::RoundRobin), &[100, 10]);
    assert_eq!(counts(&cluster, 110), [100, 10]);
    assert_eq!(counts(&cluster, 11), [10, 1]);
}

#[test]
fn the_avoided_is_taken_only_when_it_is_the_only_one() {
    for policy in POLICIES {
        let two = cluster(spec(policy), &[1, 1]);
        let address = |i: usize| two.endpoints[i].address;
        let mut balancer = Balancer::default();
        for hash in 0..20 {
            let mut next = |avoid: &[SocketAddr]| balancer.next(&two, Some(hash), avoid).unwrap().place;
            assert_eq!(next(&[address(0)]), 1, "{policy:?}");
            assert_eq!(next(&[address(1), address(0)]), 1, "{policy:?}");
        }
        let one = cluster(spec(policy), &[1]);
        let only = one.endpoints[0].address;
        assert_eq!(Balancer::default().next(&one, None, &[only]).unwrap().place, 0);
        let none = cluster(spec(policy), &[]);
        assert!(Balancer::default().next(&none, None, &[]).is_none());
    }
}

#[test]
fn the_one_with_fewer_requests_is_preferred() {
    for policy in [LbPolicy::LeastRequest { choices: 2 }, LbPolicy::PeakEwma] {
        let cluster = cluster(spec(policy), &[1, 1]);
        for place in 0..2 {
            cluster
                .members
                .host(place)
                .unwrap()
                .took(Duration::from_millis(5), false);
        }
        for _ in 0..10 {
            cluster.members.host(0).unwrap().begin();
        }
        let [busy, idle] = counts(&cluster, 1000).try_into().unwrap();
        assert!(idle > 700 && busy < 300, "{policy:?}: {busy} {idle}");
    }
    let weighted = cluster(spec(LbPolicy::LeastRequest { choices: 2 }), &[3, 1]);
    assert_eq!(counts(&weighted, 400), [300, 100]);
    (0..2).for_each(|_| weighted.members.host(0).unwrap().begin());
    assert_eq!(counts(&weighted, 400), [200, 200]);
}

#[test]
fn the_quicker_one_is_preferred() {
    let cluster = cluster(spec(LbPolicy::PeakEwma), &[1, 1, 1]);
    for (place, ms) in [(0, 50), (1, 1), (2, 50)] {
        cluster
            .members
            .host(place)
            .unwrap()
            .took(Duration::from_millis(ms), false);
    }
    let counts = counts(&cluster, 3000);
    assert!(counts[1] > 1800, "{counts:?}");
}

#[test]
fn those_left_out_get_nothing_unless_too_many_are() {
    for policy in POLICIES {
        let mut spec = spec(policy);
        (spec.outlier, spec.panic_percent) = (Some(outlier()), 50.0);
        let cluster = cluster(spec, &[1, 1, 1, 1]);
        let eject = |place| cluster.members.eject(place, &outlier());
        assert!(eject(0).is_ok() && eject(0) == Err(Refusal::Out));
        assert_eq!(counts(&cluster, 200)[0], 0, "{policy:?}");
        assert!(eject(1).is_ok());
        assert_eq!(eject(2), Err(Refusal::TooMany));
        assert_eq!(cluster.members.ejected(), 2);
        let left: Vec<u32> = counts(&cluster, 200);
        assert!(left[..2] == [0, 0] && left[2] > 0 && left[3] > 0, "{policy:?} {left:?}");
        let all = Outlier {
            max_percent: 100,
            ..outlier()
        };
        assert!(cluster.members.eject(2, &all).is_ok());
        assert!(counts(&cluster, 400).iter().all(|n| *n > 0), "{policy:?}: panic");
    }
}

#[test]
fn what_is_known_of_an_endpoint_stays_with_it() {
    let mut spec = spec(LbPolicy::RoundRobin);
    spec.outlier = Some(outlier());
    let before = cluster(spec, &[1, 1, 1]);
    before.members.eject(1, &outlier()).unwrap();
    let rest = Arc::new(before.endpoints[1..].to_vec());
    let after = Cluster::new(Arc::clone(&before.spec), rest, Some(&before));
    assert_eq!(after.members.ejected(), 1);
    assert!(after.members.host(0).unwrap().is_ejected());
    // Whoever still holds the set before decides for the one after too.
    let all = Outlier {
        max_percent: 100,
        ..outlier()
    };
    before.members.eject(2, &all).unwrap();
    assert_eq!(after.members.ejected(), 2);
}

#[test]
fn one_may_always_be_left_out_where_that_is_said() {
    let mut spec = spec(LbPolicy::RoundRobin);
    spec.outlier = Some(outlier());
    let alone = cluster(spec, &[1]);
    assert_eq!(alone.members.eject(0, &outlier()), Err(Refusal::TooMany));
    let always = Outlier {
        always_one: true,
        ..outlier()
    };
    assert!(alone.members.eject(0, &always).is_ok());
}

proptest! {
    #[test]
    fn a_full_turn_gives_each_its_weight(weights in proptest::collection::vec(1u32..40, 1..8)) {
        let turn: u32 = weights.iter().sum();
        let cluster = cluster(spec(LbPolicy::RoundRobin), &weights);
        prop_assert_eq!(counts(&cluster, turn), weights.clone());
        let twice: Vec<u32> = weights.iter().map(|w| w * 2).collect();
        prop_assert_eq!(counts(&cluster, turn * 2), twice);
    }

    #[test]
    fn draws_follow_weights(weights in proptest::collection::vec(1u32..6, 2..6)) {
        let total: u32 = weights.iter().sum();
        for policy in [LbPolicy::Random, LbPolicy::LeastRequest { choices: 2 }] {
            let counts = counts(&cluster(spec(policy), &weights), 10_000);
            for (weight, count) in weights.iter().zip(&counts) {
                let expected = 10_000.0 * f64::from(*weight) / f64::from(total);
                let off = (f64::from(*count) - expected).abs();
                prop_assert!(off < 7.0 * expected.sqrt() + 1.0, "{:?} {:?} {:?}", policy, weights, counts);
            }
        }
    }

    #[test]
    fn the_same_hash_is_for_the_same_endpoint(count in 1usize..9, hash: u64) {
        for policy in [POLICIES[3], POLICIES[4]] {
            let place = || {
                let cluster = cluster(spec(policy), &vec![1; count]);
                Balancer::default().next(&cluster, Some(hash), &[]).unwrap().place
            };
            prop_assert_eq!(place(), place());
        }
    }
}
