//! The one table of codes. `docs/analysis.md` is made from it.

use std::fmt::Write;

use super::Severity::{self, Error, Info, Warning};

/// What a code means, for the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub id: &'static str,
    pub title: &'static str,
    pub severity: Severity,
    pub reason: &'static str,
    pub mend: &'static str,
    /// YAML that gives the finding.
    pub example: &'static str,
}

macro_rules! codes {
    ($( $name:ident = $id:literal $severity:ident $title:literal reason $reason:literal mend $mend:literal example $example:literal; )*) => {
        $( pub(super) const $name: Code = Code {
            id: $id, title: $title, severity: $severity, reason: $reason, mend: $mend, example: $example,
        }; )*

        /// Every code, in the order of its number. A number is never given twice, and never changes its meaning.
        pub const CODES: &[Code] = &[$($name),*];
    };
}

codes! {
    SYNTAX = "CEL0001" Error "The YAML is broken"
        reason "The text is no YAML, a key is written twice, or it goes beyond the bounds on size and depth. The document is not read; the others of the file are."
        mend "Mend the YAML at this place." example "spec: [";
    UNKNOWN_KEY = "CEL0002" Error "Unknown field"
        reason "The kind has no such field. Elsewhere it may be dropped in silence, and the setting never acts."
        mend "Write the field's right name, or remove it." example "connectionPool: {tcp: {maxConnection: 5}}";
    WRONG_TYPE = "CEL0003" Error "Wrong type"
        reason "The value is of another type than the field: text for a number, or a number without quotes for text."
        mend "Write a value of the field's type." example "labels: {version: 1}";
    BAD_VALUE = "CEL0004" Error "Value out of range"
        reason "The value is outside the field's range or list of words."
        mend "Write a value within the range." example "outlierDetection: {maxEjectionPercent: 110}";
    MISSING = "CEL0005" Error "Missing field"
        reason "A field that must be there is not."
        mend "Add the field." example "spec: {}";
    CONFLICT = "CEL0006" Error "Fields exclude each other"
        reason "Two fields or items cannot stand together."
        mend "Keep one of them." example "loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}";
    FIELD_NOT_SUPPORTED = "CEL0007" Error "Field not supported yet"
        reason "The field is known and does not act here yet. It is refused rather than swallowed."
        mend "Remove the field." example "trafficPolicy: {tunnel: {targetHost: a, targetPort: 1}}";
    KIND_NOT_SUPPORTED = "CEL0008" Error "Kind not supported yet"
        reason "The kind or its API version is unknown or does not act here yet. It is refused rather than swallowed."
        mend "Remove the document." example "kind: AuthorizationPolicy";
    DUPLICATE_DOCUMENT = "CEL0009" Error "The same document twice"
        reason "Two documents have the same kind, namespace and name. In Kubernetes the later one would replace the earlier."
        mend "Remove or rename one." example "two documents with metadata: {name: a}";
    PASSED_OVER = "CEL0010" Info "Not mesh configuration"
        reason "The document is of a kind of Kubernetes that says nothing to a mesh, such as Deployment, Namespace or Secret; or it was found in a folder and is another program's, by its API group or because it names no kind. It was passed over. Kinds that a mesh acts on and this one does not yet are refused by name (CEL0008)."
        mend "Nothing, if the document is not meant for the mesh." example "apiVersion: apps/v1, kind: Deployment";

    RULE_WITHOUT_EFFECT = "CEL0101" Warning "Another DestinationRule of the host wins"
        reason "Several DestinationRules name the same host. Their subsets unite, but only the trafficPolicy of the first one read (in Istio: of the oldest) stands; the others are without effect."
        mend "Write one DestinationRule. The finding at the winner shows the merged one." example "two rules with host: user-service";
    MERGED_RULE = "CEL0102" Info "One rule could stand for several"
        reason "The host has several DestinationRules. This is the one rule that gives all of what they ask for, as far as they do not contradict each other."
        mend "Replace the rules by the one shown." example "two rules with host: user-service";
    SUBSET_WITHOUT_EFFECT = "CEL0103" Warning "The subset is defined by an earlier rule"
        reason "Another DestinationRule of the host defines a subset of this name first; that one stands."
        mend "Remove or rename the subset." example "two rules with a subset v1";
    UNKNOWN_RULE_HOST = "CEL0104" Warning "The rule's host is unknown"
        reason "No Service and no ServiceEntry has this host, so the rule acts on nothing. A short name is looked up in the rule's own namespace."
        mend "Write the host's full name, or add the service." example "host: no-such-service";
    EMPTY_SUBSET = "CEL0105" Warning "The subset has no endpoint"
        reason "No endpoint of the host carries all labels of the subset; a request to it fails with 503."
        mend "Mend the labels, or add endpoints that carry them." example "labels: {version: v9}";
    SUBSETS_WITHOUT_WEIGHTS = "CEL0106" Warning "Subsets that no route uses"
        reason "A DestinationRule only names subsets. Without a VirtualService that routes to them, requests go to all endpoints alike and no weights are set anywhere."
        mend "Add a VirtualService with a weight for each subset." example "subsets: [{name: v1}, {name: v2}] without a VirtualService";

    SHORT_CONNECT_TIMEOUT = "CEL0201" Warning "connectTimeout shorter than a retransmitted SYN"
        reason "A lost SYN is sent again after 1 s (RFC 6298). A shorter connectTimeout turns each lost packet, and each moment of a full accept queue, into a failed connection."
        mend "Use more than 1 s, or keep it well above the measured p99 of connecting and let retries cover a lost SYN." example "tcp: {connectTimeout: 30ms}";
    UPGRADE_BEATEN = "CEL0202" Warning "useClientProtocol beats h2UpgradePolicy"
        reason "With useClientProtocol: true the upstream gets the client's protocol, so h2UpgradePolicy: UPGRADE never upgrades an HTTP/1.1 request."
        mend "Remove useClientProtocol to have HTTP/2 towards the service, or remove h2UpgradePolicy." example "http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}";
    LEAST_CONN = "CEL0203" Warning "LEAST_CONN is a deprecated name"
        reason "LEAST_CONN is the old name of LEAST_REQUEST and does the same. It is also the default."
        mend "simple: LEAST_REQUEST" example "loadBalancer: {simple: LEAST_CONN}";
    OUTLIER_COUPLES_LOCALITY = "CEL0204" Info "outlierDetection switches locality failover on"
        reason "Any outlierDetection, even an empty one, lets requests prefer the endpoints of their own zone and fail over by locality, and sets the panic threshold to minHealthPercent (0)."
        mend "Say what you mean: localityLbSetting: {enabled: false} to use all endpoints alike, or a failover list." example "outlierDetection: {}";
    LOCALITY_UNKNOWN = "CEL0205" Warning "Locality settings without localities"
        reason "The rule balances by locality, but no endpoint of the host says where it runs, so it does nothing."
        mend "Give endpoints a locality: `locality: REGION/ZONE` in a WorkloadEntry, or the label topology.kubernetes.io/region and `zone` in an EndpointSlice." example "localityLbSetting: {failover: [{from: a, to: b}]}";
    FAILOVER_WITHOUT_OUTLIER = "CEL0206" Warning "Failover without outlierDetection"
        reason "Failover moves traffic when endpoints are unhealthy; without outlierDetection none is ever found unhealthy."
        mend "outlierDetection: {consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s}" example "localityLbSetting: {failover: [{from: a, to: b}]} without outlierDetection";
    EJECTS_NONE = "CEL0207" Warning "maxEjectionPercent may eject none"
        reason "The cap is a true one: endpoints x maxEjectionPercent / 100, rounded down. With the default of 10 % and fewer than 10 endpoints that is none. (Older versions of Envoy eject at least one all the same.)"
        mend "Choose a percentage that allows at least one: 100 / endpoints, rounded up." example "outlierDetection: {maxEjectionPercent: 10} with 4 endpoints";
    HASH_WITHOUT_KEY = "CEL0208" Warning "consistentHash without a key"
        reason "No header, cookie, query parameter or source address is named, so every request picks at random."
        mend "consistentHash: {httpHeaderName: x-user-id}" example "loadBalancer: {consistentHash: {}}";
    HASH_ON_HEADER = "CEL0209" Info "Requests without the hashed key are spread at random"
        reason "Consistent hashing pins only requests that carry the key. Others go to any endpoint, and a key with few values overloads some endpoints. It also turns off least request."
        mend "See that every client sends the key, and watch the spread of load." example "consistentHash: {httpHeaderName: x-user-id}";
    PORT_INHERITS_NOTHING = "CEL0210" Warning "A port's policy inherits nothing"
        reason "The policy of a port stands alone. What the enclosing policy sets and the port does not is back at its default for that port."
        mend "Repeat the settings under the port, or move all of them up." example "trafficPolicy: {outlierDetection: {}, portLevelSettings: [{port: {number: 80}}]}";
    ZERO_LIMIT = "CEL0211" Warning "A limit of zero is no limit"
        reason "As in Istio, a limit of 0 counts as unset: the default of 2^32-1 stands."
        mend "Write 1 for the smallest limit, or remove the field." example "tcp: {maxConnections: 0}";
    IDLE_BEATEN = "CEL0212" Info "http.idleTimeout beats tcp.idleTimeout"
        reason "Both idle timeouts are set; for HTTP the one under http stands."
        mend "Remove tcp.idleTimeout." example "connectionPool: {tcp: {idleTimeout: 1h}, http: {idleTimeout: 30s}}";
    WARMUP_WITHOUT_EFFECT = "CEL0213" Warning "Warm-up needs ROUND_ROBIN or LEAST_REQUEST"
        reason "Warm-up changes weights; RANDOM, PASSTHROUGH and consistentHash do not look at them so."
        mend "simple: LEAST_REQUEST" example "loadBalancer: {simple: RANDOM, warmup: {duration: 30s}}";
    NO_VERIFICATION = "CEL0214" Warning "The server is not verified"
        reason "insecureSkipVerify accepts any certificate: whoever sits in between can read and change the traffic."
        mend "Remove insecureSkipVerify and give caCertificates and subjectAltNames." example "tls: {mode: SIMPLE, insecureSkipVerify: true}";
    OLD_FIELD = "CEL0215" Info "A deprecated field"
        reason "The field still acts, under a name that newer versions replace."
        mend "Use the new field." example "outlierDetection: {consecutiveErrors: 5}";
    CLIENT_TLS_AGAINST_STRICT = "CEL0216" Error "Plain text towards a workload that is STRICT"
        reason "The rule sends plain text or ordinary TLS, but PeerAuthentication asks the host's workloads for mutual TLS of the mesh: every request fails with 503."
        mend "tls: {mode: ISTIO_MUTUAL}, or remove tls." example "tls: {mode: DISABLE} with mtls: {mode: STRICT}";
    MUTUAL_WITH_SNI = "CEL0217" Info "ISTIO_MUTUAL with sni of its own"
        reason "Sidecars use mutual TLS among each other without being told. Here the sni of the rule is sent; sessions are resumed, and the peer's identity is checked again on each resumption."
        mend "Remove tls unless the server needs this name." example "tls: {mode: ISTIO_MUTUAL, sni: a.default.svc.cluster.local}";
    NO_KEEP_ALIVE = "CEL0218" Warning "One request per connection"
        reason "maxRequestsPerConnection: 1 switches keep-alive off: each request pays for connecting and the TLS handshake."
        mend "Remove maxRequestsPerConnection, or write 1000." example "http: {maxRequestsPerConnection: 1}";
    LONG_QUEUE = "CEL0219" Info "A queue longer than anyone waits"
        reason "http1MaxPendingRequests allows far more waiting requests than connections can serve before clients give up; under overload latency grows instead of failing fast."
        mend "Bound the queue by time: connections x (the longest wait you accept / mean service time)." example "http: {http1MaxPendingRequests: 100000}";
    TLS_FIELDS_IDLE = "CEL0220" Warning "TLS settings that the mode does not use"
        reason "mode: DISABLE sends plain text, whatever else is set; ISTIO_MUTUAL verifies its peer in any case."
        mend "Write mode: SIMPLE or MUTUAL, or remove the other fields." example "tls: {mode: DISABLE, sni: a.example.com}";
    POLICY_OF_NO_PORT = "CEL0221" Warning "A policy for a port that the host does not have"
        reason "The host has no such port, so the policy acts on nothing. It is the service's port that is meant, not the endpoints'."
        mend "Name one of the service's ports." example "portLevelSettings: [{port: {number: 81}}]";
    PASSES_THROUGH = "CEL0222" Warning "PASSTHROUGH goes past the service's endpoints"
        reason "A request goes to the address that its client connected to, whatever endpoints the service has. That address is known of connections that iptables redirected; a request that a client sends to the proxy itself has none and fails with 503."
        mend "Use another balancer, such as simple: LEAST_REQUEST, unless every client's connections are redirected." example "loadBalancer: {simple: PASSTHROUGH}";

    SHADOWED_ROUTE = "CEL0301" Warning "The route is never reached"
        reason "An earlier route of the same VirtualService matches everything that this one matches."
        mend "Move the route up, or remove it." example "http: [{route: …}, {match: [{uri: {prefix: /a}}], route: …}]";
    SECOND_VIRTUAL_SERVICE = "CEL0302" Warning "Another VirtualService of the host wins"
        reason "For sidecars only the first VirtualService of a host acts; routes are not merged."
        mend "Put the routes into one VirtualService, in the order in which they are to match." example "two VirtualServices with hosts: [reviews]";
    UNKNOWN_SUBSET = "CEL0303" Error "The route's subset is not defined"
        reason "No DestinationRule of the destination defines the subset: every request of this route fails with 503."
        mend "Define the subset in a DestinationRule." example "destination: {host: reviews, subset: v9}";
    UNKNOWN_DESTINATION = "CEL0304" Error "The destination is unknown"
        reason "No Service and no ServiceEntry has this host: every request of this route fails with 503. A short name is looked up in the VirtualService's namespace."
        mend "Write the host's full name, or add the service." example "destination: {host: no-such-service}";
    UNKNOWN_PORT = "CEL0305" Error "The destination has no such port"
        reason "The service does not have the port that the route names."
        mend "Name one of the service's ports." example "destination: {host: reviews, port: {number: 81}}";
    FAULT_NEVER = "CEL0306" Warning "A fault of 0 %"
        reason "The fault applies to no request. An unset percentage means 0 %, as in Istio."
        mend "percentage: {value: 100} for every request, or remove the fault." example "fault: {delay: {fixedDelay: 1s}}";
    FAULT_ALWAYS = "CEL0307" Warning "Every request is aborted"
        reason "The abort applies to all requests of the route; nothing reaches the service."
        mend "percentage: {value: 1}" example "fault: {abort: {httpStatus: 500, percentage: {value: 100}}}";
    WEIGHT_ZERO = "CEL0308" Info "A destination without a share"
        reason "With several destinations a weight of 0, or none, gets no request."
        mend "Give it a weight, or remove it." example "route: [{weight: 100, …}, {weight: 0, …}]";
    RETRIES_REPEAT_WRITES = "CEL0309" Warning "Retries may do a write twice"
        reason "The conditions retry requests that the service may have processed already, and the route also takes POST, PATCH and the like."
        mend "Match methods: one route for GET and HEAD with these retries, another with retryOn: connect-failure,refused-stream." example "retries: {attempts: 3, retryOn: 5xx}";
    TRY_OUTLASTS_REQUEST = "CEL0310" Warning "perTryTimeout is no shorter than timeout"
        reason "The whole request ends before a single try may, so a slow try is never retried."
        mend "Make timeout at least (attempts + 1) x perTryTimeout." example "timeout: 1s, retries: {attempts: 2, perTryTimeout: 1s}";
    RETRIES_OFF = "CEL0311" Info "Retries are off"
        reason "attempts is 0 or unset under retries; that switches off even the default of 2 retries."
        mend "retries: {attempts: 2}" example "retries: {perTryTimeout: 1s}";
    NO_CATCH_ALL = "CEL0312" Info "Requests that match no route get 404"
        reason "Every route of the VirtualService has conditions. A request that meets none of them is answered with 404 and does not reach the service. Only where port, sourceLabels or sourceNamespace rule out every route for a client is the service reached as if there were no VirtualService."
        mend "Add a last route without match." example "http: [{match: [{uri: {prefix: /a}}], route: …}]";
    IDLE_BESIDE_ANSWER = "CEL0313" Warning "Without effect beside redirect or directResponse"
        reason "The proxy answers itself: nothing is sent anywhere, so there is nothing to time, to retry or to mirror."
        mend "Remove the field." example "directResponse: {status: 200}, timeout: 1s";
    MIRROR_SHARE_IDLE = "CEL0314" Warning "mirrorPercentage without mirror"
        reason "mirrorPercentage is the share of mirror alone. Each of mirrors has a percentage of its own; unset it is 100 %."
        mend "mirrors: [{destination: {…}, percentage: {value: 10}}]" example "mirrors: [{destination: {host: a}}], mirrorPercentage: {value: 10}";
    UNKNOWN_MIRROR = "CEL0315" Warning "The mirror leads nowhere"
        reason "The host, the port or the subset of a mirror is not known, so the copies of the requests are lost. The requests themselves are not harmed."
        mend "Mend the mirror's destination, or remove the mirror." example "mirror: {host: no-such-service}";
    GATEWAY_ROUTES = "CEL0316" Info "Routes for gateways do not act here"
        reason "There are sidecars only. What is for mesh acts, what is for a gateway waits for one."
        mend "Nothing, if a gateway elsewhere has these routes." example "gateways: [mesh, my-gateway]";
    UNKNOWN_ROUTES_HOST = "CEL0317" Warning "The VirtualService's host is unknown"
        reason "No Service and no ServiceEntry has this host. A short name is looked up in the VirtualService's own namespace."
        mend "Write the host's full name, or add the service." example "hosts: [no-such-service]";
    MATCH_OF_NO_PORT = "CEL0318" Warning "A match for a port that no host has"
        reason "match.port is the port of the service that the client asked for. None of the hosts has it, so the match holds for no request."
        mend "Name one of the service's ports, or remove port." example "match: [{port: 81}]";

    FILTER_NAMED_BY_VALUE = "CEL0401" Warning "A filter is named by value instead of subFilter"
        reason "The patch has no subFilter. On Istio such a REMOVE or REPLACE does nothing, and such a MERGE goes into every filter, the router included. Here it acts on the filter that value.name names."
        mend "Name the filter under match.listener.filterChain.filter.subFilter." example "operation: REMOVE, value: {name: envoy.filters.http.fault}";
    WRONG_FORM = "CEL0402" Warning "The value has a field that Envoy does not"
        reason "The value is understood as its author meant it, but Envoy itself refuses it."
        mend "Write the right form." example "CacheConfig with cache_config instead of typed_config";
    OLD_FILTER_NAME = "CEL0403" Info "An old name of a filter"
        reason "The name is deprecated in Envoy."
        mend "Use the new name." example "name: envoy.router";
    PATCH_UNMATCHED = "CEL0404" Warning "The patch matches nothing"
        reason "No resource meets the patch's conditions, so it has no effect. Patches stop matching in silence when names or ports change."
        mend "Compare the conditions with `celerity translate`." example "match: {routeConfiguration: {vhost: {name: no-such-host:80}}}";
    PATCH_REFUSED = "CEL0405" Error "The patch cannot be applied"
        reason "The value is no Envoy message of the expected type, or asks for what is not supported."
        mend "Mend the value." example "value: {typed_config: {\"@type\": type.googleapis.com/unknown}}";
    GATEWAY_PATCH = "CEL0406" Warning "The patch is for gateways only"
        reason "context: GATEWAY matches no sidecar."
        mend "context: SIDECAR_OUTBOUND" example "match: {context: GATEWAY}";
    INSERTED_AT_FRONT = "CEL0407" Info "The filter goes to the front of the chain"
        reason "INSERT_BEFORE without subFilter puts the filter before all others."
        mend "Name the filter to stand before: subFilter: {name: envoy.filters.http.router}" example "operation: INSERT_BEFORE without subFilter";
    STREAM_IDLE_BEFORE_TIMEOUT = "CEL0408" Warning "stream_idle_timeout ends requests before request_timeout"
        reason "A stream on which no byte moves for stream_idle_timeout is ended, also while the service is still working, so the longer timeout is never reached and streams and long polls are cut."
        mend "Make stream_idle_timeout longer than the slowest answer." example "stream_idle_timeout: 5s, request_timeout: 30s";
    BUFFER_HOLDS_BODIES = "CEL0409" Info "The buffer filter holds whole request bodies"
        reason "A request is sent on only when its whole body has arrived; streaming ends, memory grows with concurrent requests, and a body beyond max_request_bytes gets 413."
        mend "Set it on the routes that need it, or remove it." example "envoy.filters.http.buffer with max_request_bytes";
    VALUE_IGNORED = "CEL0410" Info "REMOVE does not read a value"
        reason "The match already says which resource is removed; the value has no effect."
        mend "Remove value." example "operation: REMOVE with a subFilter and a value";
    PATCH_NOT_TAKEN = "CEL0411" Error "The proxy refuses what the patch makes"
        reason "The patch is right for Envoy, but its outcome holds something that this proxy does not do, such as a Lua filter. The proxy refuses the whole configuration."
        mend "Remove the patch, or what the reason names from its value." example "operation: INSERT_BEFORE, value: {name: envoy.filters.http.lua, …}";
    OTHER_VERSION = "CEL0412" Info "The patch is for another version of Istio"
        reason "match.proxy.proxyVersion is a regular expression over the version of Istio; the semantics here are those of 1.30.0. The patch is passed over, as Istio does."
        mend "Remove match.proxy.proxyVersion if the patch is meant for this proxy." example "match: {proxy: {proxyVersion: '^1\\.9.*'}}";
    PATCH_NOT_TAKEN_BY_ALL = "CEL0413" Warning "Some sidecars refuse what the patch makes"
        reason "Sidecars with and without a certificate, and of different services, have different listeners. For some of them the outcome of the patch is one that the proxy does not run with, such as a listener whose only filter chain was removed; those refuse the whole configuration. Others act on it."
        mend "Give every workload that the patch is for a certificate, or narrow the patch by a workloadSelector." example "applyTo: FILTER_CHAIN, operation: REMOVE, match: {context: SIDECAR_INBOUND, listener: {filterChain: {transportProtocol: raw_buffer}}}";

    CONFIG_MAP_WITHOUT_EFFECT = "CEL0501" Info "The ConfigMap has no effect"
        reason "Only the keys dns.yaml, and config.yaml with proxy in it, mean something to the mesh; outside istio-system only if they hold one of its settings, and proxy alone, for other programs have files of these names too. What is nearly the mesh's is refused (CEL0002): a misspelt proxy over a setting, a setting without proxy above it (outside istio-system only one that no other program has, such as thread_pool), and such a text under config.yml."
        mend "Remove the document, or use these keys." example "data: {settings.txt: a}";
    SETTINGS_DISAGREE = "CEL0502" Warning "ConfigMaps disagree"
        reason "Several ConfigMaps set the same setting to different values; the later one read stands."
        mend "Set it once." example "concurrency: 2 in one, 4 in another";
    METADATA_WITHOUT_EFFECT = "CEL0503" Info "proxyMetadata without effect"
        reason "The entry is only compared with match.proxy.metadata of EnvoyFilters; it switches nothing."
        mend "Remove it unless a patch asks for it." example "proxyMetadata: {ISTIO_META_X: \"1\"}";
    WORKERS_ABOVE_CPU = "CEL0504" Warning "More workers than CPU"
        reason "More worker threads than the CPU limit allows makes the kernel stop all of them for the rest of a 100 ms period once the quota is spent: tail latency."
        mend "Raise limits.cpu to the number of workers, or lower concurrency." example "concurrency: 2, limits: {cpu: 500m}";
    BAD_IDLE_TIMEOUT = "CEL0505" Warning "ISTIO_META_IDLE_TIMEOUT is no duration"
        reason "The value cannot be read, so the default stands."
        mend "ISTIO_META_IDLE_TIMEOUT: \"30s\"" example "proxyMetadata: {ISTIO_META_IDLE_TIMEOUT: \"30\"}";
    PUBLIC_RESOLVERS = "CEL0506" Info "Resolvers outside the cluster"
        reason "These servers do not know names of the cluster. The mesh's own services come from the documents; other names, such as a private database's, do not resolve there."
        mend "List the cluster's own DNS server first." example "resolvers: [udp://8.8.8.8:53]";
    SETTINGS_ELSEWHERE = "CEL0507" Info "Settings for one namespace"
        reason "Outside istio-system the settings hold only for workloads of the ConfigMap's namespace."
        mend "namespace: istio-system" example "metadata: {name: a, namespace: team}";

    ALERT_GOES_SILENT = "CEL0601" Warning "The alert cannot fire once the series are gone"
        reason "The alert compares a rate with a lower bound. It fires while the series exist with a low rate; when they vanish (all instances gone, or never a request) the expression has no result and the alert goes silent, just when it matters most."
        mend "Add an alert on absence: absent(istio_requests_total{destination_service=\"…\"})" example "expr: sum(rate(istio_requests_total[5m])) by (destination_service) < 100";
    LABEL_AGGREGATED_AWAY = "CEL0602" Warning "The text uses a label that the expression drops"
        reason "The expression aggregates the label away, so the annotation shows nothing in its place."
        mend "Add the label to by (…)." example "sum(rate(x[5m])) > 1 with {{ $labels.pod }}";
    QUANTILE_WITHOUT_LE = "CEL0603" Error "histogram_quantile without le"
        reason "The buckets' label le is aggregated away, so the quantile has no result and the alert never fires."
        mend "sum(rate(…_bucket[5m])) by (le)" example "histogram_quantile(0.95, sum(rate(x_bucket[5m])) by (job))";
    SHORT_WINDOW = "CEL0604" Info "A window of fewer than four scrapes"
        reason "rate() needs two scrapes within its window. Prometheus' default scrape interval is 1 min: a window of less than 2 min is empty with it, and one of less than four scrapes breaks with each lost scrape."
        mend "Use a window of at least four scrape intervals, or scrape every 15 s." example "rate(x[1m])";
    ALERT_AT_ONCE = "CEL0605" Info "The alert fires without waiting"
        reason "Without for, a single evaluation fires the alert."
        mend "for: 5m" example "an alert without for";
    NO_PROMQL = "CEL0606" Error "The expression is no PromQL"
        reason "Prometheus refuses the whole file of rules when one expression cannot be read, calls a function that there is not, or joins what does not go together, such as rate of a series without a range. The reason names the first character that does not fit, counted from 1 within the expression. The measure is Prometheus 2.42 with the functions of later releases."
        mend "Mend the expression at this place." example "expr: sum(rate(x[5m]) > 1";
    NO_TEMPLATE = "CEL0607" Error "The text is no template"
        reason "Labels and annotations of an alert are templates of Go. Prometheus refuses the whole file of rules when braces are not closed, a function is unknown or a variable is not defined."
        mend "Mend the text at this place." example "summary: 'down: {{ $labels.instance '";

    SLICE_WITHOUT_SERVICE = "CEL0701" Warning "The EndpointSlice belongs to no service"
        reason "The label kubernetes.io/service-name is missing, or names a Service that is not there."
        mend "labels: {kubernetes.io/service-name: NAME}" example "an EndpointSlice without labels";
    SERVICE_WITHOUT_ENDPOINTS = "CEL0702" Warning "The service has no endpoint"
        reason "Every request to it fails with 503."
        mend "Add an EndpointSlice, endpoints, or WorkloadEntries that the selector meets." example "a Service without an EndpointSlice";
    HOST_TWICE = "CEL0703" Warning "The host is defined twice"
        reason "Two services have the same host; the first one read stands."
        mend "Remove one." example "two ServiceEntries with hosts: [a.example.com]";
    SECOND_PEER_AUTHENTICATION = "CEL0704" Warning "Another PeerAuthentication of the namespace wins"
        reason "Of several with the same selector, or without one, in a namespace only the first read (in Istio: the oldest) stands."
        mend "Keep one." example "two PeerAuthentications without selector";
    ENDPOINT_WITHOUT_ADDRESS = "CEL0705" Warning "An endpoint without an address"
        reason "An endpoint with a network and no address is reached through the gateway of that network in Istio. There are no gateways and one network here, so the endpoint gets no request."
        mend "Give the endpoint an address." example "endpoints: [{network: other}]";
    SERVICE_FIELD_IDLE = "CEL0706" Warning "A field of the Service that does not act here"
        reason "kube-proxy acts on the field. A sidecar chooses the endpoint itself, before kube-proxy sees the request, and does not act on it."
        mend "Say it in a DestinationRule, where it can be said." example "sessionAffinity: ClientIP";
    NAME_WITHOUT_DNS = "CEL0707" Warning "A name where addresses are wanted"
        reason "A WorkloadEntry whose address is a name is left out by a ServiceEntry that does not ask DNS, as in Istio."
        mend "Write the IP address, or resolution: DNS in the ServiceEntry." example "address: db.example.com under resolution: STATIC";
    SELECTOR_MEETS_NONE = "CEL0708" Info "The selector meets no workload that is known"
        reason "No endpoint that was read carries the labels, so the document acts on nothing here. A client that serves nothing is not among the endpoints."
        mend "Mend the labels, unless they are those of a client that serves nothing." example "workloadSelector: {labels: {app: no-such}}";
    PORT_IN_NO_SLICE = "CEL0709" Warning "No EndpointSlice has the port"
        reason "The endpoints of a port are those of the slices' port of the same name; an only port may be without a name on both sides."
        mend "Give both the same name." example "ports: [{name: http, port: 80}] with a slice's ports: [{name: web, port: 8080}]";
    PORT_NOT_CARRIED = "CEL0710" Warning "The port's traffic is not carried yet"
        reason "The port speaks TCP, TLS, HTTPS or another protocol than HTTP, by its appProtocol or protocol or else by its name up to the first dash. Only HTTP is carried so far: a request for the port gets 503 unless a route leads there, and a sidecar does not serve it."
        mend "Name the port http-NAME, or write appProtocol: http (in a ServiceEntry protocol: HTTP), if it speaks HTTP; if not, let clients connect to it without the proxy." example "ports: [{name: tcp-db, port: 5432}]";
    NAMED_TARGET_PORT = "CEL0711" Warning "The application's port is known by name alone"
        reason "The EndpointSlice names the sidecar's inbound port, so the Service's targetPort says where the application listens; a name of a Pod's port means nothing without the Pod. The Service's own port is taken."
        mend "targetPort: 8080" example "ports: [{name: http, port: 80, targetPort: web}] with a slice's ports: [{name: http, port: 15006}]";
    RESOLUTION_NONE = "CEL0712" Info "Only redirected requests reach the host"
        reason "With resolution NONE, the default, a request goes to the address that its client connected to. That address is known of connections that iptables redirected; a request that a client sends to the proxy itself has none and fails with 503."
        mend "resolution: DNS, or STATIC with endpoints, unless every client's connections are redirected." example "hosts: [api.example.com], resolution: NONE";
}

/// The reference of all codes, as `docs/analysis.md` has it.
pub fn reference() -> String {
    let mut text = String::from(
        "# Findings of `celerity analyze`\n\n\
         This page is generated from the table of codes. A code is stable: its number is never given to another meaning.\n\n\
         `celerity analyze PATH...` ends with 0 when there is no error, with 1 when there is one. `--format json` gives the same \
         findings as a list of objects with the keys `code`, `severity`, `title`, `file`, `line`, `document`, `field`, `reason` and `mend`.\n\n\
         | code | severity | title |\n|---|---|---|\n",
    );
    // Writing to a String cannot fail.
    for code in CODES {
        let _ = writeln!(
            text,
            "| [{0}](#{1}) | {2} | {3} |",
            code.id,
            code.id.to_lowercase(),
            code.severity.as_str(),
            code.title
        );
    }
    for code in CODES {
        let _ = write!(
            text,
            "\n## {}\n\n**{}** ({}). {}\n\nExample: `{}`\n\nMend: {}\n",
            code.id,
            code.title,
            code.severity.as_str(),
            code.reason,
            code.example,
            if code.mend.ends_with('.') { code.mend.to_owned() } else { format!("`{}`", code.mend) }
        );
    }
    text
}
