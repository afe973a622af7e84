//! Keeps one sidecar in step with its files: a change of one service of thousands costs one service.

use std::time::{Duration, Instant};

use celerity_model::istio::Config;
use celerity_model::snapshot::BuildReport;

use crate::config::files;
use crate::config::inventory::{Difference, Inventory};
use crate::config::{LoadError, Loader, unmatched_notes};
use crate::sidecar::{Plan, Sidecar};

/// A sidecar, and what of its files it has taken up.
pub(crate) struct Follower {
    pub(crate) sidecar: Sidecar,
    loader: Loader,
    inventory: Inventory,
    /// The newest change was refused, so that the files are not what runs.
    refused: bool,
}

/// What taking a change up has done.
#[derive(Clone, Debug)]
pub(crate) struct TakenUp {
    pub(crate) documents: usize,
    /// Parts of files that were read; `None`: all of them.
    pub(crate) parts_new: Option<usize>,
    pub(crate) report: BuildReport,
    pub(crate) took: Duration,
    /// What does not act, or not before a restart.
    pub(crate) notes: Vec<String>,
}

impl Follower {
    /// Reads everything and starts. [`Follower::settle`] does what may come after.
    pub(crate) fn start(loader: Loader, plan: Plan) -> anyhow::Result<(Self, Unsettled)> {
        let read = Unsettled::read(&loader)?;
        let sidecar = Sidecar::start(&read.config, plan)?;
        Ok((Self { sidecar, loader, inventory: Inventory::default(), refused: false }, read))
    }

    /// Notes what was read, and gives back the memory that reading it needed. For when requests are answered already.
    pub(crate) fn settle(&mut self, read: Unsettled) {
        let Unsettled { listed, sources, config } = read;
        let node = self.sidecar.node(&config);
        self.inventory = Inventory::of(&listed, &sources, &config, &node);
        let index = celerity_model::translate::Index::new(&config, &node);
        let served = celerity_model::translate::served_hosts(&index);
        self.inventory.served = served.map(celerity_model::translate::host_key).collect();
        drop(index);
        drop((sources, config));
        self.sidecar.settle();
    }

    /// Takes up what the files are now, whole or not at all. `None`: they say what they said.
    ///
    /// # Errors
    /// Why nothing of it is taken up; it was told to the proxy already.
    pub(crate) fn follow(&mut self) -> Result<Option<TakenUp>, String> {
        let begun = Instant::now();
        let done = self.change(begun);
        self.refused = done.is_err();
        done.map_err(|error| {
            let reason = error.to_string();
            self.sidecar.reject(&reason);
            reason
        })
    }

    fn change(&mut self, begun: Instant) -> Result<Option<TakenUp>, LoadError> {
        if !self.refused {
            let node = self.sidecar.node(&Config::default());
            match self.inventory.difference(&self.loader.paths, &node)? {
                Difference::None(next) => {
                    self.inventory = next;
                    return Ok(None);
                }
                Difference::Some(change) => {
                    if let Some((prepared, served)) = self.sidecar.prepare_change(&change.config, &change.hosts)? {
                        let (report, before) = (prepared.report(), self.sidecar.unmatched());
                        self.sidecar.apply(prepared, &change.config)?;
                        let notes = self.notes(&change.config, &before);
                        self.inventory = change.next;
                        self.inventory.served = served;
                        let (documents, parts_new) = (self.inventory.len(), Some(change.parts_new));
                        let took = begun.elapsed();
                        self.sidecar.settle();
                        return Ok(Some(TakenUp { documents, parts_new, report, took, notes }));
                    }
                }
                Difference::All => {}
            }
        }
        let read = Unsettled::read(&self.loader)?;
        self.inventory.consider(&read.sources, read.config.len())?;
        let prepared = self.sidecar.prepare(&read.config)?;
        let (report, before) = (prepared.report(), self.sidecar.unmatched());
        self.sidecar.apply(prepared, &read.config)?;
        let took = begun.elapsed();
        let notes = self.notes(&read.config, &before);
        let documents = read.config.len();
        self.settle(read);
        Ok(Some(TakenUp { documents, parts_new: None, report, took, notes }))
    }

    /// `before`: the patches that matched nothing until now.
    fn notes(&self, config: &Config, before: &[String]) -> Vec<String> {
        let notes = self.sidecar.restart_note(config).into_iter().chain(self.sidecar.identity_note());
        notes.chain(unmatched_notes(self.sidecar.unmatched(), before)).collect()
    }
}

/// What was read for a start, until there is time to note it.
pub(crate) struct Unsettled {
    listed: Vec<(std::path::PathBuf, files::Mark)>,
    sources: Vec<files::Source>,
    pub(crate) config: Config,
}

impl Unsettled {
    fn read(loader: &Loader) -> Result<Self, LoadError> {
        let listed = files::list(&loader.paths)?;
        let sources = files::read_listed(&listed)?;
        let config = crate::config::read(&sources, &loader.paths)?;
        Ok(Self { listed, sources, config })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use celerity_model::translate::Node;
    use celerity_testkit::TempDir;

    use super::*;
    use crate::log::Log;
    use crate::sidecar::Listen;

    fn service(name: &str, address: &str, endpoints: u8) -> String {
        let list: String = (1..=endpoints).map(|n| format!("- addresses: [{address}.{n}]\n")).collect();
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
             ports: [{{name: http, port: 8080}}]\nendpoints:\n{list}"
        )
    }

    fn rule(host: &str, spec: &str) -> String {
        let name = host.trim_start_matches("*.");
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\n\
             spec: {{host: \"{host}\", {spec}}}\n"
        )
    }

    fn routes(name: &str, host: &str, to: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n\
             spec: {{hosts: [{host}], http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}\n"
        )
    }

    fn plan() -> Plan {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        Plan {
            node: Node::default(),
            listen: Listen { outbound: Some(any), inbound: Some(any), admin: None, prometheus: None, health: None },
            identity: None,
            workers: Some(1),
            access_log: None,
            ledger: true,
            log: Log::default(),
        }
    }

    /// Everything by name with its fingerprint.
    fn contents(follower: &Follower) -> BTreeMap<String, u128> {
        let snapshot = follower.sidecar.configured();
        let clusters = snapshot.clusters().map(|cluster| (format!("cluster {}", cluster.name), cluster.fingerprint));
        let chains = snapshot
            .listeners
            .iter()
            .flat_map(|listener| listener.chains.iter().chain(listener.default_chain.as_deref()));
        let hosts = chains.flat_map(|chain| chain.manager.routes.hosts.iter());
        clusters.chain(hosts.map(|host| (format!("host {}", host.name), host.fingerprint))).collect()
    }

    fn shown(follower: &Follower) -> BTreeMap<String, serde_json::Value> {
        let shown = follower.sidecar.shown();
        let list = shown["static_resources"]["clusters"].as_array().cloned().unwrap_or_default();
        list.into_iter().map(|cluster| (cluster["name"].to_string(), cluster)).collect()
    }

    const SERVICES: u8 = 60;

    struct Files {
        folder: TempDir,
        loader: Loader,
    }

    impl Files {
        fn new() -> Self {
            let folder = TempDir::new();
            for n in 0..SERVICES {
                folder.write(&format!("s{n}.yaml"), &service(&format!("s{n}"), &format!("10.0.{n}"), 3));
            }
            let loader = Loader::new(vec![folder.path().to_owned()]);
            Self { folder, loader }
        }

        fn follower(&self) -> Follower {
            let (mut follower, read) = Follower::start(self.loader.clone(), plan()).expect("it starts");
            follower.settle(read);
            follower
        }

        /// What was made is what a start would make of these files.
        fn check(&self, follower: &Follower) {
            let fresh = self.follower();
            assert_eq!(contents(follower), contents(&fresh));
            assert_eq!(shown(follower), shown(&fresh));
        }
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_told_with_its_rule() {
        let files = Files::new();
        let mut follower = files.follower();
        let good = rule("s7", "trafficPolicy: {loadBalancer: {simple: RANDOM}}");
        let bad = rule("s7", "trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /nowhere/ca.pem}}");
        let path = files.folder.write("rules.yaml", &format!("# of s7\n{bad}"));
        let told = format!("{}:2: DestinationRule default/s7: cluster outbound|80||s7.default", path.display());
        let reason = follower.follow().expect_err("refused");
        assert!(reason.starts_with(&told) && reason.contains("/nowhere/ca.pem: No such file"), "{reason}");
        let refused = Follower::start(files.loader.clone(), plan()).map(drop).expect_err("refused at a start too");
        assert!(refused.to_string().starts_with(&told), "{refused}");
        files.folder.write("rules.yaml", &good);
        assert!(follower.follow().expect("right").is_some());
    }

    #[test]
    fn what_becomes_empty_changes_nothing() {
        let files = Files::new();
        let mut follower = files.follower();
        let before = contents(&follower);
        let refused = |follower: &mut Follower, says: &str| {
            // Twice: the second time everything is read.
            for _ in 0..2 {
                let reason = follower.follow().expect_err("refused");
                assert!(reason.contains(says), "{reason}");
            }
            assert_eq!(contents(follower), before);
        };
        files.folder.write("s7.yaml", "");
        refused(&mut follower, "s7.yaml is empty");
        for n in 0..SERVICES {
            files.folder.write(&format!("s{n}.yaml"), "# nothing\n");
        }
        refused(&mut follower, "no document is left");
        for n in 0..SERVICES {
            files.folder.write(&format!("s{n}.yaml"), &service(&format!("s{n}"), &format!("10.0.{n}"), 3));
        }
        files.folder.write("s7.yaml", "# gone on purpose\n");
        let done = follower.follow().expect("right").expect("changed");
        assert_eq!(done.documents, 2 * usize::from(SERVICES) - 2);
        files.check(&follower);
    }

    #[test]
    fn one_service_changes_and_only_that_is_made_anew() {
        let files = Files::new();
        let mut follower = files.follower();
        assert!(follower.follow().expect("readable").is_none(), "nothing changed");
        files.folder.write("s7.yaml", &service("s7", "10.0.7", 4));
        let done = follower.follow().expect("right").expect("changed");
        let all = usize::from(SERVICES);
        assert_eq!(done.parts_new, Some(1), "the Service of the file is the same");
        // Beside the services there is the cluster of redirected connections.
        assert_eq!((done.report.clusters_rebuilt, done.report.clusters_reused), (1, all));
        assert_eq!((done.report.virtual_hosts_rebuilt, done.report.virtual_hosts_reused), (0, all + 1));
        assert_eq!(done.documents, 2 * all);
        files.check(&follower);
    }

    #[test]
    fn whatever_changes_what_runs_is_what_a_start_would_give() {
        let files = Files::new();
        let mut follower = files.follower();
        let write = |name: &str, text: &str| drop(files.folder.write(name, text));
        let policy = "trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}";
        let hash = "trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x}}}";
        let mut follow = |parts_new: Option<usize>| {
            let done = follower.follow().expect("right").expect("changed");
            assert_eq!(done.parts_new, parts_new);
            files.check(&follower);
        };
        write("rules.yaml", &rule("s1", policy));
        follow(Some(1));
        write("routes.yaml", &routes("r", "s2", "s1"));
        follow(Some(1));
        // The rule of a destination decides how its callers' requests are hashed.
        write("rules.yaml", &rule("s1", hash));
        follow(Some(1));
        // A second document for the host, read first: it wins.
        write("a.yaml", &rule("s1.default", policy).replace("name: s1.default", "name: again"));
        follow(Some(1));
        write(
            "a.yaml",
            &format!("# nothing but the lines changes\n---\n{}", rule("s1", policy).replace("name: s1", "name: again")),
        );
        follow(Some(2));
        write(
            "routes.yaml",
            &format!("{}---\n{}", routes("alone", "elsewhere.example.com", "s3"), routes("r", "s2", "s4")),
        );
        follow(Some(2));
        write("new.yaml", &service("new", "10.1.0", 2));
        follow(Some(2));
        std::fs::remove_file(files.folder.path().join("s9.yaml")).expect("removed");
        follow(Some(0));
        std::fs::remove_file(files.folder.path().join("rules.yaml")).expect("removed");
        follow(Some(0));
        // A rule for many hosts: everything is read.
        write("wild.yaml", &rule("*.default.svc.cluster.local", policy));
        follow(None);
        write("s5.yaml", &service("s5", "10.9.9", 1));
        follow(Some(1));
    }

    /// A route or a mirror without a port takes the only one of its destination: whose documents must be read with it.
    #[test]
    fn what_routes_mirrors_and_selectors_use_is_read_with_them() {
        let files = Files::new();
        let write = |name: &str, text: &str| drop(files.folder.write(name, text));
        let other_port = |name: &str, address: &str, endpoints| {
            service(name, address, endpoints).replace("port: 80}]", "port: 8081}]")
        };
        write("shadow.yaml", &other_port("shadow", "10.3.0", 2));
        write("target.yaml", &other_port("target", "10.3.1", 2));
        let mirrored = routes("m", "s2", "s2").replace("}}]}]}", "}}], mirror: {host: shadow}}]}");
        assert!(mirrored.contains("mirror"), "{mirrored}");
        write("mirror.yaml", &mirrored);
        write("wild.yaml", &routes("w", "'*.wild.example.com'", "target"));
        let workload = |name: &str, address: &str, labels: &str| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}}}\n\
                 spec: {{address: {address}{labels}}}\n"
            )
        };
        write("workload.yaml", &workload("one", "10.4.0.1", ", labels: {app: x}"));
        write(
            "all.yaml",
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: all}\n\
             spec: {hosts: [all.example.com], location: MESH_INTERNAL, resolution: STATIC, \
             ports: [{name: http, number: 80, protocol: HTTP}], workloadSelector: {labels: {}}}\n",
        );
        let mut follower = files.follower();
        let mut changed = |name: &str, text: &str| {
            write(name, text);
            assert!(follower.follow().expect("right").is_some(), "{name}");
            files.check(&follower);
        };
        changed("s2.yaml", &service("s2", "10.0.2", 4));
        changed("shadow.yaml", &service("shadow", "10.3.0", 2));
        changed("shadow.yaml", &other_port("shadow", "10.3.0", 1));
        changed("target.yaml", &service("target", "10.3.1", 2));
        changed("s5.yaml", &service("s5", "10.0.5", 1));
        changed("two.yaml", &workload("two", "10.4.0.2", ""));
        changed("workload.yaml", &workload("one", "10.4.0.9", ""));
        changed("rule.yaml", &rule("all.example.com", "trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}"));
    }

    #[test]
    fn a_broken_change_is_refused_whole_and_the_old_files_clear_it() {
        let files = Files::new();
        let mut follower = files.follower();
        let before = contents(&follower);
        files.folder.write("broken.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {prots: []}\n");
        files.folder.write("s3.yaml", &service("s3", "10.0.3", 9));
        let reason = follower.follow().expect_err("refused");
        assert!(reason.contains("broken.yaml") && reason.contains("prots"), "{reason}");
        assert_eq!(contents(&follower), before);
        files.folder.write("twice.yaml", &service("s4", "10.0.4", 9));
        std::fs::remove_file(files.folder.path().join("broken.yaml")).expect("removed");
        assert!(follower.follow().expect_err("s4 stands twice").contains("was read before"));
        std::fs::remove_file(files.folder.path().join("twice.yaml")).expect("removed");
        assert!(follower.follow().expect("right").is_some());
        files.check(&follower);
    }

    #[test]
    fn more_changes_than_are_kept_apart_are_shown_as_one() {
        let files = Files::new();
        let mut follower = files.follower();
        for n in 0..40 {
            files.folder.write("s7.yaml", &service("s7", &format!("10.2.{n}"), 2));
            assert!(follower.follow().expect("right").is_some());
        }
        files.check(&follower);
    }
}
