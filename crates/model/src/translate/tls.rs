//! Transport sockets: TLS towards endpoints and from callers.

use envoy_types::pb::envoy::config::core::v3::TransportSocket;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SubjectAltNameMatcher, TlsCertificate,
    UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::util::pack_any;

use super::node::{Certificates, Node};
use super::wire::{boolean, file};
use crate::istio::ClientTls;

/// What a sidecar offers a sidecar. `istio` tells the other side that mesh mTLS is meant; the others that it may speak either.
const ALPN_MESH: &[&str] = &["istio", "h2", "http/1.1"];
/// Where HTTP/1.1 is asked for by the policy.
const ALPN_MESH_HTTP1: &[&str] = &["istio", "http/1.1"];
const ALPN_MESH_OPAQUE: &[&str] = &["istio"];
/// Where HTTP/2 is.
const ALPN_MESH_HTTP2: &[&str] = &["istio", "h2"];
const ALPN_INBOUND: &[&str] = &["h2", "http/1.1"];

/// Identities that an endpoint may show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identities {
    pub(super) exact: Vec<String>,
    /// Where no service account is known, every identity of the namespace passes.
    pub(super) prefix: Option<String>,
}

/// What is spoken inside the TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inner {
    Http1,
    Http2,
    /// Whichever the endpoint takes; HTTP/2 is preferred.
    Either,
    /// The client's own protocol. What is offered must follow it, connection by connection: Envoy does so where the context
    /// names no protocol, and so must any other proxy.
    AsClient,
    /// No HTTP.
    Opaque,
}

/// Mutual TLS with the mesh's own certificates.
pub(super) fn mesh_upstream(
    certificates: &Certificates,
    sni: String,
    identities: Identities,
    inner: Inner,
) -> TransportSocket {
    let alpn = match inner {
        Inner::Http1 => ALPN_MESH_HTTP1,
        Inner::Http2 => ALPN_MESH_HTTP2,
        Inner::Either => ALPN_MESH,
        Inner::AsClient => &[],
        Inner::Opaque => ALPN_MESH_OPAQUE,
    };
    let mut names: Vec<SubjectAltNameMatcher> =
        identities.exact.into_iter().map(|id| san(SanType::Uri, MatchPattern::Exact(id))).collect();
    names.extend(identities.prefix.map(|prefix| san(SanType::Uri, MatchPattern::Prefix(prefix))));
    let validation = CertificateValidationContext {
        trusted_ca: Some(file(&certificates.roots)),
        match_typed_subject_alt_names: names,
        ..CertificateValidationContext::default()
    };
    upstream(UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: vec![certificate(&certificates.chain, &certificates.key)],
            alpn_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        sni,
        ..UpstreamTlsContext::default()
    })
}

/// SIMPLE or MUTUAL, with the files of the rule.
pub(super) fn client_upstream(node: &Node, tls: &ClientTls, alt_names: &[String], inner: Inner) -> TransportSocket {
    let mut validation = CertificateValidationContext::default();
    if tls.insecure_skip_verify == Some(true) {
        validation.trust_chain_verification = TrustChainVerification::AcceptUntrusted as i32;
    } else {
        validation.trusted_ca = Some(file(tls.ca_certificates.as_deref().unwrap_or(&node.mesh.system_roots)));
        let names = if tls.subject_alt_names.is_empty() { alt_names } else { &tls.subject_alt_names };
        validation.match_typed_subject_alt_names = names
            .iter()
            .flat_map(|name| {
                // A name says nothing of its type; Istio asks for any type too.
                let kinds: &[SanType] =
                    if name.contains("://") { &[SanType::Uri] } else { &[SanType::Dns, SanType::IpAddress] };
                kinds.iter().map(|kind| san(*kind, MatchPattern::Exact(name.clone())))
            })
            .collect();
    }
    let certificates = match (&tls.client_certificate, &tls.private_key) {
        (Some(chain), Some(key)) => vec![certificate(chain, key)],
        _ => Vec::new(),
    };
    upstream(UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: certificates,
            alpn_protocols: if inner == Inner::Http2 { vec!["h2".to_owned()] } else { Vec::new() },
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        sni: tls.sni.clone().unwrap_or_default(),
        ..UpstreamTlsContext::default()
    })
}

/// From callers of the mesh: their certificate is asked for and must come from the mesh's roots.
pub(super) fn inbound(certificates: &Certificates) -> TransportSocket {
    let validation = CertificateValidationContext {
        trusted_ca: Some(file(&certificates.roots)),
        ..CertificateValidationContext::default()
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: vec![certificate(&certificates.chain, &certificates.key)],
            alpn_protocols: ALPN_INBOUND.iter().map(|&name| name.to_owned()).collect(),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: Some(boolean(true)),
        ..DownstreamTlsContext::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack_any(context))),
    }
}

/// No TLS.
pub(super) fn raw() -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack_any(RawBuffer::default()))),
    }
}

fn upstream(context: UpstreamTlsContext) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack_any(context))),
    }
}

fn certificate(chain: &str, key: &str) -> TlsCertificate {
    TlsCertificate { certificate_chain: Some(file(chain)), private_key: Some(file(key)), ..TlsCertificate::default() }
}

fn san(kind: SanType, pattern: MatchPattern) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }),
        ..SubjectAltNameMatcher::default()
    }
}
