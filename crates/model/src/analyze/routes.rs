//! VirtualServices: routes that are never reached, destinations that are not there, retries and faults.

use std::collections::HashMap;

use super::shadow::{EVERYTHING, match_covers, shadowed_by};
use super::world::{Host, World, full_name};
use super::{Code, Findings, codes};
use crate::istio::{Config, Destination, Document, HttpMatch, HttpRoute, StringMatch, VirtualService, duration_text};

const KIND: &str = "VirtualService";
/// Conditions that may retry what the service has processed.
const REPEATING_CONDITIONS: [&str; 8] = [
    "5xx",
    "gateway-error",
    "reset",
    "retriable-4xx",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "retriable-status-codes",
];
/// Methods that may be done twice without harm (RFC 9110, 9.2.2).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

pub(super) fn check(config: &Config, world: &World<'_>, findings: &mut Findings) {
    let mut first_of: HashMap<String, &Document<VirtualService>> = HashMap::new();
    for document in &config.virtual_services {
        for (index, host) in document.spec.hosts.iter().enumerate() {
            // Documents that only their own namespace sees do not meet those of another.
            let own = document.spec.export_to.iter().all(|to| to == ".") && !document.spec.export_to.is_empty();
            let scope = if own { document.meta.namespace.as_str() } else { "*" };
            let host = full_name(host, &document.meta.namespace);
            let key = format!("{scope}|{host}");
            match first_of.get(&key) {
                Some(first) if !std::ptr::eq(*first, document) => findings.add(
                    &codes::SECOND_VIRTUAL_SERVICE,
                    KIND,
                    document,
                    &format!("spec.hosts[{index}]"),
                    format!("for {host} the VirtualService {} stands ({}:{}), which was read first; the routes here do not act", first.id(), first.source.file, first.source.line),
                    codes::SECOND_VIRTUAL_SERVICE.mend.to_owned(),
                ),
                _ => {
                    first_of.insert(key, document);
                }
            }
        }
        hosts(document, world, findings);
        routes(document, world, findings);
        for_gateways(document, findings);
    }
}

/// Hosts that no service has, and conditions on ports that none of the hosts has.
fn hosts(document: &Document<VirtualService>, world: &World<'_>, findings: &mut Findings) {
    let names: Vec<String> = document.spec.hosts.iter().map(|host| full_name(host, &document.meta.namespace)).collect();
    for (index, host) in names.iter().enumerate() {
        // A wildcard is for whatever comes.
        if !host.starts_with('*') && world.knows_hosts_like(host) && !world.is_known(host) {
            let code = &codes::UNKNOWN_ROUTES_HOST;
            let reason = format!(
                "no Service and no ServiceEntry has the host {host}: only requests to its port 80 meet the routes"
            );
            findings.add(code, KIND, document, &format!("spec.hosts[{index}]"), reason, code.mend.to_owned());
        }
    }
    let known: Option<Vec<&Host>> = names.iter().map(|host| world.hosts.get(host)).collect();
    let Some(known) = known else { return };
    for (at, route) in document.spec.http.iter().enumerate() {
        for (index, one) in route.matches.iter().enumerate() {
            let Some(port) = one.port.filter(|port| !known.iter().any(|host| host.ports.contains(port))) else {
                continue;
            };
            let code = &codes::MATCH_OF_NO_PORT;
            let ports: Vec<String> = known.iter().map(|host| host.ports_text()).collect();
            let reason = format!("no host of the VirtualService has a port {port}; they have {}", ports.join(", "));
            findings.add(
                code,
                KIND,
                document,
                &format!("spec.http[{at}].match[{index}].port"),
                reason,
                code.mend.to_owned(),
            );
        }
    }
}

/// What only a gateway would do.
fn for_gateways(document: &Document<VirtualService>, findings: &mut Findings) {
    let mut check = |gateways: &[String], field: &str| {
        let others: Vec<&str> = gateways.iter().map(String::as_str).filter(|name| *name != MESH).collect();
        if !others.is_empty() {
            let alone = if others.len() == gateways.len() { "so no sidecar uses it" } else { "the mesh's part acts" };
            let code = &codes::GATEWAY_ROUTES;
            let reason = format!("there is no gateway {}; {alone}", others.join(", "));
            findings.add(code, KIND, document, field, reason, code.mend.to_owned());
        }
    };
    check(&document.spec.gateways, "spec.gateways");
    for (at, route) in document.spec.http.iter().enumerate() {
        for (index, one) in route.matches.iter().enumerate() {
            check(&one.gateways, &format!("spec.http[{at}].match[{index}].gateways"));
        }
    }
}

/// The gateway that means every sidecar.
const MESH: &str = "mesh";

pub(super) fn is_for_sidecars(one: &HttpMatch) -> bool {
    one.gateways.is_empty() || one.gateways.iter().any(|gateway| gateway == MESH)
}

fn routes(document: &Document<VirtualService>, world: &World<'_>, findings: &mut Findings) {
    let routes = &document.spec.http;
    let shadowed = shadowed_by(routes);
    for (index, route) in routes.iter().enumerate() {
        let path = format!("spec.http[{index}]");
        if let Some(before) = shadowed.get(index).copied().flatten() {
            let name = routes.get(before).and_then(|r| r.name.clone()).unwrap_or_else(|| format!("http[{before}]"));
            let line = document.line(&format!("spec.http[{before}]"));
            findings.add(
                &codes::SHADOWED_ROUTE,
                KIND,
                document,
                &path,
                format!("{name} (line {line}) matches everything that this route matches, so it is never reached"),
                codes::SHADOWED_ROUTE.mend.to_owned(),
            );
        }
        Route { document, path: &path }.check(route, world, findings);
    }
    if !routes.is_empty()
        && !routes.iter().any(|route| route.matches.is_empty() || route.matches.iter().any(is_catch_all))
    {
        let add = format!(
            "{}\nHere: add after line {} a route without match.",
            codes::NO_CATCH_ALL.mend,
            document.line(&format!("spec.http[{}]", routes.len() - 1))
        );
        findings.add(&codes::NO_CATCH_ALL, KIND, document, "spec.http", codes::NO_CATCH_ALL.reason.to_owned(), add);
    }
}

struct Route<'a> {
    document: &'a Document<VirtualService>,
    path: &'a str,
}

impl Route<'_> {
    fn add(&self, code: &Code, field: &str, reason: String, mend: String, findings: &mut Findings) {
        findings.add(code, KIND, self.document, &format!("{}.{field}", self.path), reason, mend);
    }

    fn check(&self, route: &HttpRoute, world: &World<'_>, findings: &mut Findings) {
        for (index, one) in route.route.iter().enumerate() {
            self.destination(&one.destination, &format!("route[{index}].destination"), world, false, findings);
            if route.route.len() > 1 && one.weight.unwrap_or(0) == 0 {
                let code = &codes::WEIGHT_ZERO;
                self.add(
                    code,
                    &format!("route[{index}].weight"),
                    code.reason.to_owned(),
                    code.mend.to_owned(),
                    findings,
                );
            }
        }
        if let Some(mirror) = &route.mirror {
            self.destination(mirror, "mirror", world, true, findings);
        }
        for (index, mirror) in route.mirrors.iter().enumerate() {
            self.destination(&mirror.destination, &format!("mirrors[{index}].destination"), world, true, findings);
        }
        self.idle(route, findings);
        self.fault(route, findings);
        self.retries(route, findings);
        if route.cors_policy.as_ref().is_some_and(|c| !c.allow_origin.is_empty()) {
            let reason = "allowOrigin is now allowOrigins".to_owned();
            self.add(
                &codes::OLD_FIELD,
                "corsPolicy.allowOrigin",
                reason,
                "allowOrigins: [{exact: …}]".to_owned(),
                findings,
            );
        }
    }

    /// Fields beside which there is nothing for them to act on.
    fn idle(&self, route: &HttpRoute, findings: &mut Findings) {
        let answers = match (&route.redirect, &route.direct_response) {
            (Some(_), _) => Some("redirect"),
            (None, Some(_)) => Some("directResponse"),
            (None, None) => None,
        };
        let code = &codes::IDLE_BESIDE_ANSWER;
        for (field, is_set) in [
            ("timeout", route.timeout.is_some()),
            ("retries", route.retries.is_some()),
            ("mirror", route.mirror.is_some()),
            ("mirrors", !route.mirrors.is_empty()),
        ] {
            if let Some(answer) = answers.filter(|_| is_set) {
                let reason = format!("{answer} answers at once, so {field} has nothing to act on");
                self.add(code, field, reason, code.mend.to_owned(), findings);
            }
        }
        if route.mirror_percentage.is_some() && route.mirror.is_none() {
            let code = &codes::MIRROR_SHARE_IDLE;
            self.add(code, "mirrorPercentage", code.reason.to_owned(), code.mend.to_owned(), findings);
        }
    }

    /// A mirror that leads nowhere costs its copies only.
    fn destination(
        &self,
        destination: &Destination,
        field: &str,
        world: &World<'_>,
        is_mirror: bool,
        findings: &mut Findings,
    ) {
        let or_mirror = |code: &'static Code| if is_mirror { &codes::UNKNOWN_MIRROR } else { code };
        let loss = if is_mirror { "every copy is lost" } else { "every request of this route fails with 503" };
        let host = full_name(&destination.host, &self.document.meta.namespace);
        if world.knows_hosts_like(&host) {
            if !world.is_destination(&host) {
                let below =
                    world.wildcards.iter().find(|suffix| !host.starts_with('*') && host.ends_with(suffix.as_str()));
                let hint = below.map(|suffix| {
                    format!(" (the ServiceEntry of *{suffix} is one destination, *{suffix}; it has none for {host})")
                });
                let reason =
                    format!("no Service and no ServiceEntry has the host {host}{}: {loss}", hint.unwrap_or_default());
                let code = or_mirror(&codes::UNKNOWN_DESTINATION);
                self.add(code, &format!("{field}.host"), reason, code.mend.to_owned(), findings);
            }
            if let (Some(known), Some(port)) = (world.hosts.get(&host), destination.port_number())
                && !known.ports.contains(&port)
            {
                let reason = format!("{host} has no port {port}; it has {}", known.ports_text());
                let code = or_mirror(&codes::UNKNOWN_PORT);
                self.add(code, &format!("{field}.port"), reason, code.mend.to_owned(), findings);
            }
        }
        let Some(subset) = &destination.subset else { return };
        // Nothing but routes was read: the rules may be elsewhere.
        if world.rules.is_empty() && !world.knows_hosts() {
            return;
        }
        let defined = world.subsets(&host);
        if !defined.contains(subset.as_str()) {
            let mut names: Vec<&str> = defined.into_iter().collect();
            names.sort_unstable();
            let known =
                if names.is_empty() { "defines none".to_owned() } else { format!("defines {}", names.join(", ")) };
            let reason = format!("the subset {subset} of {host} is not defined (a DestinationRule {known}): {loss}");
            let mend = format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: {subset}\nspec:\n  host: {}\n  subsets:\n  - name: {subset}\n    labels:\n      version: {subset}\n",
                destination.host
            );
            self.add(or_mirror(&codes::UNKNOWN_SUBSET), &format!("{field}.subset"), reason, mend, findings);
        }
    }

    fn fault(&self, route: &HttpRoute, findings: &mut Findings) {
        let Some(fault) = &route.fault else { return };
        let never = |share: f64| share <= 0.0;
        if fault.delay.as_ref().is_some_and(|d| never(d.share_percent())) {
            self.add(
                &codes::FAULT_NEVER,
                "fault.delay.percentage",
                codes::FAULT_NEVER.reason.to_owned(),
                codes::FAULT_NEVER.mend.to_owned(),
                findings,
            );
        }
        if fault.delay.as_ref().is_some_and(|d| d.percent.is_some()) {
            let reason = "percent is now percentage.value".to_owned();
            self.add(&codes::OLD_FIELD, "fault.delay.percent", reason, "percentage: {value: …}".to_owned(), findings);
        }
        let Some(abort) = &fault.abort else { return };
        if never(abort.share_percent()) {
            self.add(
                &codes::FAULT_NEVER,
                "fault.abort.percentage",
                codes::FAULT_NEVER.reason.to_owned(),
                codes::FAULT_NEVER.mend.to_owned(),
                findings,
            );
        } else if abort.share_percent() >= 100.0 {
            self.add(
                &codes::FAULT_ALWAYS,
                "fault.abort",
                codes::FAULT_ALWAYS.reason.to_owned(),
                codes::FAULT_ALWAYS.mend.to_owned(),
                findings,
            );
        }
    }

    fn retries(&self, route: &HttpRoute, findings: &mut Findings) {
        let Some(retries) = &route.retries else { return };
        let attempts = retries.attempts.unwrap_or(0);
        if attempts <= 0 {
            self.add(
                &codes::RETRIES_OFF,
                "retries",
                codes::RETRIES_OFF.reason.to_owned(),
                codes::RETRIES_OFF.mend.to_owned(),
                findings,
            );
            return;
        }
        if let (Some(each), Some(whole)) = (retries.per_try_timeout, route.timeout)
            && each >= whole
        {
            let reason = format!(
                "a try may take {}, the whole request {}: a slow try is never retried",
                duration_text(each),
                duration_text(whole)
            );
            let needed =
                each.checked_mul(u32::try_from(attempts).unwrap_or(u32::MAX).saturating_add(1)).unwrap_or(each);
            self.add(
                &codes::TRY_OUTLASTS_REQUEST,
                "retries.perTryTimeout",
                reason,
                format!("timeout: {}", duration_text(needed)),
                findings,
            );
        }
        let conditions = retries.retry_on.as_deref().unwrap_or_default();
        let repeating: Vec<&str> = conditions
            .split(',')
            .map(str::trim)
            .filter(|c| REPEATING_CONDITIONS.contains(c) || c.parse::<u16>().is_ok())
            .collect();
        if !repeating.is_empty() && takes_writes(route) {
            let reason = format!(
                "{} retries requests that the service may have processed, and this route takes POST too: a write may be done twice",
                repeating.join(", ")
            );
            self.add(
                &codes::RETRIES_REPEAT_WRITES,
                "retries.retryOn",
                reason,
                codes::RETRIES_REPEAT_WRITES.mend.to_owned(),
                findings,
            );
        }
    }
}

fn takes_writes(route: &HttpRoute) -> bool {
    let may_write = |one: &HttpMatch| match &one.method {
        Some(StringMatch::Exact(method)) => !IDEMPOTENT.contains(&method.as_str()),
        Some(StringMatch::Prefix(prefix)) => ["POST", "PATCH"].iter().any(|method| method.starts_with(prefix.as_str())),
        Some(StringMatch::Regex(pattern)) => {
            pattern.contains("POST") || pattern.contains("PATCH") || pattern.contains(".*")
        }
        Some(StringMatch::Present) | None => true,
    };
    route.matches.is_empty() || route.matches.iter().any(may_write)
}

fn is_catch_all(one: &HttpMatch) -> bool {
    match_covers(one, &EVERYTHING)
}
