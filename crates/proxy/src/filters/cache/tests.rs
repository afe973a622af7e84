//! The cache as an exchange uses it, from lookup to answer.

use super::*;

const NOW: u64 = 1_700_000_000;

fn cache() -> Cache {
    Cache::new(CacheLimits::default())
}

fn scope() -> Scope {
    Scope { cluster: "outbound|80||shop".into(), is_inbound: false, changes: 0 }
}

fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead { method, authority: b"shop".to_vec(), path: path.into(), ..RequestHead::default() };
    for (name, value) in headers {
        head.headers.push(name.as_bytes(), value.as_bytes());
    }
    head
}

fn get(headers: &[(&str, &str)]) -> RequestHead {
    request(Method::Get, "/a", headers)
}

fn response(status: u16, headers: &[(&str, &str)]) -> ResponseHead {
    let mut head = ResponseHead::new(status);
    for (name, value) in headers {
        head.headers.push(name.as_bytes(), value.as_bytes());
    }
    head
}

/// Sends a request through; the origin answers what it is given. Says whether the answer was stored.
fn fetch(cache: &Cache, request: &RequestHead, response: &ResponseHead, body: &str, now_s: u64) -> bool {
    let pending = match cache.lookup(scope(), request, now_s) {
        Lookup::Miss(pending) => pending,
        Lookup::Revalidate(revalidation) => revalidation.into_pending(),
        other => panic!("expected to forward, got {other:?}"),
    };
    let Some(mut writer) = cache.begin_store(pending, response, now_s) else { return false };
    body.as_bytes().chunks(3).for_each(|piece| _ = writer.push(piece));
    writer.finish()
}

fn hit(cache: &Cache, request: &RequestHead, now_s: u64) -> Box<Served> {
    match cache.lookup(scope(), request, now_s) {
        Lookup::Served(served) => served,
        other => panic!("expected an answer, got {other:?}"),
    }
}

fn revalidation(cache: &Cache, request: &RequestHead, now_s: u64) -> Revalidation {
    match cache.lookup(scope(), request, now_s) {
        Lookup::Revalidate(revalidation) => revalidation,
        other => panic!("expected a revalidation, got {other:?}"),
    }
}

fn header<'a>(head: &'a ResponseHead, name: &str) -> Option<&'a str> {
    head.headers.get(name.as_bytes()).and_then(|value| std::str::from_utf8(value).ok())
}

#[test]
fn a_fresh_response_is_served_with_its_age() {
    let cache = cache();
    let origin = response(
        200,
        &[("cache-control", "max-age=60"), ("content-length", "5"), ("connection", "x-b"), ("x-b", "1"), ("age", "2")],
    );
    assert!(fetch(&cache, &get(&[]), &origin, "hello", NOW));
    let served = hit(&cache, &get(&[]), NOW + 10);
    assert_eq!((served.head.status, &served.body[..], served.kind), (200, &b"hello"[..], ServedKind::Fresh));
    assert_eq!(header(&served.head, "age"), Some("12"));
    assert_eq!(header(&served.head, "content-length"), Some("5"));
    assert_eq!(header(&served.head, "x-b"), None);
    assert!(header(&served.head, "date").is_some());
    assert!(matches!(cache.lookup(scope(), &get(&[]), NOW + 58), Lookup::Revalidate(_)));
}

#[test]
fn head_is_answered_from_a_stored_get() {
    let cache = cache();
    fetch(&cache, &get(&[]), &response(200, &[("cache-control", "max-age=60")]), "hello", NOW);
    let served = hit(&cache, &request(Method::Head, "/a", &[]), NOW);
    assert!(served.body.is_empty());
    assert_eq!(header(&served.head, "content-length"), Some("5"));
    assert!(!fetch(
        &cache,
        &request(Method::Head, "/b", &[]),
        &response(200, &[("cache-control", "max-age=60")]),
        "",
        NOW
    ));
}

#[test]
fn truncated_and_oversized_bodies_are_not_stored() {
    let cache = Cache::new(CacheLimits { bytes_max: 1_000_000, object_bytes_max: 100 });
    let fresh = [("cache-control", "max-age=60"), ("content-length", "9")];
    assert!(!fetch(&cache, &get(&[]), &response(200, &fresh), "hello", NOW));
    assert!(!fetch(&cache, &get(&[]), &response(200, &fresh[..1]), &"x".repeat(101), NOW));
    let announced = [("cache-control", "max-age=60"), ("content-length", "101")];
    assert!(!fetch(&cache, &get(&[]), &response(200, &announced), &"x".repeat(101), NOW));
    assert_eq!(cache.building_bytes.load(Relaxed), 0);
    assert!(matches!(cache.lookup(scope(), &get(&[]), NOW), Lookup::Miss(_)));
    assert!(fetch(&cache, &get(&[]), &response(200, &fresh[..1]), &"x".repeat(100), NOW));
    assert_eq!(cache.building_bytes.load(Relaxed), 0);
}

#[test]
fn the_bound_on_bytes_holds() {
    let cache = Cache::new(CacheLimits { bytes_max: 100_000, object_bytes_max: 50_000 });
    for n in 0..200 {
        let request = request(Method::Get, &format!("/{n}"), &[]);
        fetch(&cache, &request, &response(200, &[("cache-control", "max-age=60")]), &"x".repeat(5_000), NOW);
    }
    cache.entries.run_pending_tasks();
    assert!(cache.bytes() <= 100_000, "{}", cache.bytes());
    assert!(cache.bytes() > 0);
}

#[test]
fn variants_are_chosen_by_vary_and_bounded() {
    let cache = cache();
    let origin = response(200, &[("cache-control", "max-age=60"), ("vary", "accept-language")]);
    for language in ["de", "en"] {
        assert!(fetch(&cache, &get(&[("accept-language", language)]), &origin, language, NOW));
    }
    assert_eq!(&hit(&cache, &get(&[("accept-language", "de")]), NOW).body[..], b"de");
    assert_eq!(&hit(&cache, &get(&[("accept-language", "en")]), NOW).body[..], b"en");
    assert!(matches!(cache.lookup(scope(), &get(&[]), NOW), Lookup::Miss(_)));
    for n in 0..VARIANTS_MAX {
        fetch(&cache, &get(&[("accept-language", &n.to_string())]), &origin, "x", NOW);
    }
    assert!(matches!(cache.lookup(scope(), &get(&[("accept-language", "de")]), NOW), Lookup::Miss(_)));
}

#[test]
fn a_304_freshens_and_updates_fields() {
    let cache = cache();
    let origin = response(
        200,
        &[
            ("cache-control", "max-age=10"),
            ("etag", "\"v1\""),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("x-a", "old"),
            ("x-b", "kept"),
            ("content-encoding", "gzip"),
        ],
    );
    fetch(&cache, &get(&[]), &origin, "hello", NOW);
    let client = get(&[("if-none-match", "\"mine\"")]);
    let revalidation = revalidation(&cache, &client, NOW + 20);
    let mut upstream = client.clone();
    revalidation.conditions(&mut upstream);
    assert_eq!(upstream.headers.all_id(HeaderId::IfNoneMatch).collect::<Vec<_>>(), [b"\"v1\""]);
    assert!(upstream.headers.contains_id(HeaderId::IfModifiedSince));
    let not_modified = response(
        304,
        &[
            ("cache-control", "max-age=30"),
            ("etag", "\"v1\""),
            ("x-a", "new"),
            ("content-encoding", "br"),
            ("content-length", "0"),
        ],
    );
    let Freshened::Serve(served) = cache.freshen(&revalidation, &not_modified, NOW + 20) else { panic!("must serve") };
    assert_eq!((served.head.status, &served.body[..], served.kind), (200, &b"hello"[..], ServedKind::Revalidated));
    for head in [&served.head, &hit(&cache, &get(&[]), NOW + 45).head] {
        assert_eq!(header(head, "x-a"), Some("new"));
        assert_eq!(header(head, "x-b"), Some("kept"));
        assert_eq!(header(head, "content-encoding"), Some("gzip"));
        assert_eq!(header(head, "content-length"), Some("5"));
    }
    assert!(matches!(cache.lookup(scope(), &get(&[]), NOW + 50), Lookup::Revalidate(_)));
}

#[test]
fn a_304_of_another_representation_is_not_believed() {
    let cache = cache();
    fetch(&cache, &get(&[]), &response(200, &[("cache-control", "no-cache"), ("etag", "\"v1\"")]), "hello", NOW);
    let first = revalidation(&cache, &get(&[]), NOW);
    assert!(matches!(cache.freshen(&first, &response(304, &[("etag", "\"v2\"")]), NOW), Freshened::Retry));
    assert!(matches!(cache.lookup(scope(), &get(&[]), NOW), Lookup::Miss(_)));
}

#[test]
fn a_304_of_another_representation_gives_the_client_s_conditions_back() {
    let cache = cache();
    fetch(&cache, &get(&[]), &response(200, &[("cache-control", "no-cache"), ("etag", "\"v1\"")]), "hello", NOW);
    for own in [&[][..], &[("if-none-match", "\"mine\""), ("if-none-match", "\"too\"")][..]] {
        let client = get(own);
        let revalidation = revalidation(&cache, &client, NOW);
        let mut upstream = client.clone();
        revalidation.conditions(&mut upstream);
        revalidation.own_conditions(&mut upstream);
        let conditions = |head: &RequestHead| -> Vec<Vec<u8>> {
            let both = head.headers.all_id(HeaderId::IfNoneMatch).chain(head.headers.all_id(HeaderId::IfModifiedSince));
            both.map(<[u8]>::to_vec).collect()
        };
        assert_eq!(conditions(&upstream), conditions(&client));
    }
}

#[test]
fn clusters_and_directions_keep_apart_and_are_forgotten_together() {
    let cache = cache();
    let origin = response(200, &[("cache-control", "max-age=60")]);
    let scopes = [
        scope(),
        Scope { cluster: "outbound|80|canary|shop".into(), ..scope() },
        Scope { is_inbound: true, ..scope() },
        Scope { changes: 1, ..scope() },
    ];
    for scope in &scopes {
        let Lookup::Miss(pending) = cache.lookup(scope.clone(), &get(&[]), NOW) else {
            panic!("{scope:?} has its own")
        };
        let mut writer = cache.begin_store(pending, &origin, NOW).expect("it may be stored");
        writer.push(scope.cluster.as_bytes());
        assert!(writer.finish());
    }
    for scope in &scopes {
        let Lookup::Served(served) = cache.lookup(scope.clone(), &get(&[]), NOW) else { panic!("{scope:?} is stored") };
        assert_eq!(&served.body[..], scope.cluster.as_bytes());
    }
    cache.invalidate(&request(Method::Post, "/a", &[]), &response(200, &[]));
    for scope in scopes {
        assert!(matches!(cache.lookup(scope, &get(&[]), NOW), Lookup::Miss(_)));
    }
}

#[test]
fn a_part_does_not_remove_the_whole() {
    let cache = cache();
    let fresh = [("cache-control", "max-age=10"), ("etag", "\"v1\"")];
    fetch(&cache, &get(&[]), &response(200, &fresh), "hello", NOW);
    let part = get(&[("range", "bytes=0-1")]);
    for kept in [response(206, &[("etag", "\"v1\"")]), response(206, &[]), response(416, &[])] {
        assert!(!fetch(&cache, &part, &kept, "he", NOW + 20));
        assert!(matches!(cache.lookup(scope(), &get(&[]), NOW + 20), Lookup::Revalidate(_)), "{}", kept.status);
    }
    assert!(!fetch(&cache, &part, &response(206, &[("etag", "\"v2\"")]), "HE", NOW + 20));
    assert!(matches!(cache.lookup(scope(), &get(&[]), NOW + 20), Lookup::Miss(_)));
}

#[test]
fn a_newer_answer_that_may_not_be_stored_removes_the_old_one() {
    let cache = cache();
    let fresh = [("cache-control", "max-age=10"), ("etag", "\"v1\"")];
    fetch(&cache, &get(&[]), &response(200, &fresh), "hello", NOW);
    assert!(!fetch(&cache, &get(&[]), &response(503, &[]), "", NOW + 20));
    assert!(matches!(cache.lookup(scope(), &get(&[]), NOW + 20), Lookup::Revalidate(_)));
    assert!(!fetch(&cache, &get(&[]), &response(200, &[("cache-control", "no-store")]), "", NOW + 20));
    assert!(matches!(cache.lookup(scope(), &get(&[]), NOW + 20), Lookup::Miss(_)));
}

#[test]
fn a_client_s_condition_is_answered_from_the_store() {
    let cache = cache();
    let origin = response(200, &[("cache-control", "max-age=60"), ("etag", "\"v1\""), ("content-type", "text/plain")]);
    fetch(&cache, &get(&[]), &origin, "hello", NOW);
    let served = hit(&cache, &get(&[("if-none-match", "W/\"v1\"")]), NOW);
    assert_eq!(served.head.status, 304);
    assert!(served.body.is_empty() && header(&served.head, "content-length").is_none());
    assert!(header(&served.head, "content-type").is_none() && header(&served.head, "etag").is_some());
    assert_eq!(hit(&cache, &get(&[("if-none-match", "\"v2\"")]), NOW).head.status, 200);
    assert!(matches!(cache.lookup(scope(), &get(&[("if-match", "\"v1\"")]), NOW), Lookup::Bypass));
}

#[test]
fn ranges_come_out_of_the_whole() {
    let cache = cache();
    let origin = response(200, &[("cache-control", "max-age=60"), ("etag", "\"v1\"")]);
    fetch(&cache, &get(&[]), &origin, "hello world", NOW);
    let served = hit(&cache, &get(&[("range", "bytes=6-8")]), NOW);
    assert_eq!((served.head.status, &served.body[..]), (206, &b"wor"[..]));
    assert_eq!(header(&served.head, "content-range"), Some("bytes 6-8/11"));
    assert_eq!(header(&served.head, "content-length"), Some("3"));
    let served = hit(&cache, &get(&[("range", "bytes=11-")]), NOW);
    assert_eq!((served.head.status, header(&served.head, "content-range")), (416, Some("bytes */11")));
    assert_eq!(hit(&cache, &get(&[("range", "bytes=0-1"), ("if-range", "\"v1\"")]), NOW).head.status, 206);
    assert_eq!(hit(&cache, &get(&[("range", "bytes=0-1"), ("if-range", "\"v2\"")]), NOW).head.status, 200);
}

#[test]
fn unsafe_methods_invalidate_their_uri_and_those_of_their_origin() {
    let cache = cache();
    let origin = response(200, &[("cache-control", "max-age=60")]);
    let fill = || {
        for path in ["/a", "/b", "/c"] {
            if let Lookup::Miss(pending) = cache.lookup(scope(), &request(Method::Get, path, &[]), NOW) {
                cache.begin_store(pending, &origin, NOW).map(StoreWriter::finish);
            }
        }
    };
    let stored = |path| matches!(cache.lookup(scope(), &request(Method::Get, path, &[]), NOW), Lookup::Served(_));
    fill();
    for method in [Method::Get, Method::Head, Method::Options] {
        cache.invalidate(&request(method, "/a", &[]), &response(200, &[]));
    }
    cache.invalidate(&request(Method::Post, "/a", &[]), &response(500, &[]));
    cache.invalidate(&request(Method::Post, "/x", &[]), &response(200, &[("location", "http://other/a")]));
    assert!(stored("/a") && stored("/b") && stored("/c"));
    let changed = response(201, &[("location", "/b"), ("content-location", "http://SHOP/c")]);
    cache.invalidate(&request(Method::Other("FROB".into()), "/a", &[]), &changed);
    assert!(!stored("/a") && !stored("/b") && !stored("/c"));
}

#[test]
fn only_if_cached_never_goes_upstream() {
    let cache = cache();
    let client = get(&[("cache-control", "only-if-cached")]);
    assert!(matches!(cache.lookup(scope(), &client, NOW), Lookup::OnlyIfCached));
    fetch(&cache, &get(&[]), &response(200, &[("cache-control", "max-age=10"), ("etag", "\"v\"")]), "hello", NOW);
    assert_eq!(hit(&cache, &client, NOW).head.status, 200);
    assert!(matches!(cache.lookup(scope(), &client, NOW + 10), Lookup::OnlyIfCached));
}

#[test]
fn a_stale_response_stands_in_for_an_error_where_the_origin_allows() {
    let cache = cache();
    fetch(&cache, &get(&[]), &response(200, &[("cache-control", "max-age=10, stale-if-error=60")]), "hello", NOW);
    let served = revalidation(&cache, &get(&[]), NOW + 20).on_error(NOW + 20).expect("may stand in");
    assert_eq!((&served.body[..], served.kind), (&b"hello"[..], ServedKind::StaleOnError));
    assert_eq!(header(&served.head, "age"), Some("20"));
    assert!(revalidation(&cache, &get(&[]), NOW + 71).on_error(NOW + 71).is_none());
}

#[test]
fn a_304_to_the_client_s_own_condition_is_passed_on() {
    let cache = cache();
    fetch(&cache, &get(&[]), &response(200, &[("cache-control", "max-age=10, stale-if-error=60")]), "hello", NOW);
    let client = get(&[("if-none-match", "\"mine\"")]);
    let revalidation = revalidation(&cache, &client, NOW + 20);
    let mut upstream = client.clone();
    revalidation.conditions(&mut upstream);
    assert_eq!(upstream.headers.get_id(HeaderId::IfNoneMatch), Some(&b"\"mine\""[..]));
    assert!(matches!(cache.freshen(&revalidation, &response(304, &[]), NOW + 20), Freshened::Forward));
}

#[test]
fn private_and_no_cache_fields_are_not_stored() {
    let cache = cache();
    let control = "max-age=60, private=\"x-user\", no-cache=\"set-cookie\"";
    let origin = response(200, &[("cache-control", control), ("x-user", "7"), ("set-cookie", "a=b"), ("x-c", "1")]);
    assert!(fetch(&cache, &get(&[]), &origin, "hello", NOW));
    let served = hit(&cache, &get(&[]), NOW);
    assert_eq!((header(&served.head, "x-user"), header(&served.head, "set-cookie")), (None, None));
    assert_eq!(header(&served.head, "x-c"), Some("1"));
}
