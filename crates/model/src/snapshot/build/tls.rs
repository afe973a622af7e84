//! Transport sockets: TLS contexts of both sides.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SubjectAltNameMatcher, UpstreamTlsContext,
    certificate_validation_context::TrustChainVerification, common_tls_context::ValidationContextType,
    subject_alt_name_matcher::SanType,
};
use envoy_types::pb::google::protobuf::Any;

use super::super::cluster::{
    CertificateSource, SanKind, SanMatcher, SanPattern, Transport, TrustSource, UpstreamTls, Validation,
};
use super::super::listener::DownstreamTls;
use super::super::matching::StringPattern;
use super::check::{Check, Data, is_type};
use crate::server_name;

fn configuration(socket: &TransportSocket) -> Option<&Any> {
    match &socket.config_type {
        Some(transport_socket::ConfigType::TypedConfig(any)) => Some(any),
        None => None,
    }
}

pub(super) fn upstream(check: &mut Check, socket: &TransportSocket) -> Option<Transport> {
    let Some(any) = configuration(socket) else {
        // The name alone is enough for plain text, as in Envoy.
        if socket.name == "envoy.transport_sockets.raw_buffer" {
            return Some(Transport::Raw);
        }
        check.error("typed_config", format!("transport socket {} has no configuration", socket.name));
        return None;
    };
    check.within("typed_config", |check| {
        if is_type::<RawBuffer>(any) {
            return Some(Transport::Raw);
        }
        let mut context: UpstreamTlsContext = check.unpack(any)?;
        let common = context.common_tls_context.take().unwrap_or_default();
        let sni = std::mem::take(&mut context.sni);
        if !sni.is_empty() && !server_name::is_sendable(&sni) {
            check.error("sni", format!("{sni:?} cannot be sent as a server name; give a DNS name"));
        }
        let (auto_sni, auto_san) =
            (std::mem::take(&mut context.auto_host_sni), std::mem::take(&mut context.auto_sni_san_validation));
        // Sessions are kept per connection key by the TLS library; the number is only a hint of memory.
        context.max_session_keys = None;
        check.leftover(&context);
        let parts = check.within("common_tls_context", |check| common_context(check, common));
        Some(Transport::Tls(Arc::new(UpstreamTls {
            sni: (!sni.is_empty()).then(|| sni.into()),
            auto_sni,
            auto_san_validation: auto_san,
            alpn: parts.alpn,
            identity: parts.identity,
            validation: parts.validation.unwrap_or_default(),
        })))
    })
}

pub(super) fn downstream(check: &mut Check, socket: &TransportSocket) -> Option<Arc<DownstreamTls>> {
    let any = configuration(socket)?;
    check.within("typed_config", |check| {
        if is_type::<RawBuffer>(any) {
            return None;
        }
        let mut context: DownstreamTlsContext = check.unpack(any)?;
        let common = context.common_tls_context.take().unwrap_or_default();
        let require = context.require_client_certificate.take().is_some_and(|value| value.value);
        check.leftover(&context);
        let parts = check.within("common_tls_context", |check| common_context(check, common));
        let Some(identity) = parts.identity else {
            check.error("common_tls_context.tls_certificates", "a server needs a certificate; give one");
            return None;
        };
        if require && parts.validation.is_none() {
            check.error(
                "common_tls_context.validation_context",
                "client certificates are required but nothing checks them",
            );
        }
        Some(Arc::new(DownstreamTls {
            identity,
            alpn: parts.alpn,
            require_client_certificate: require,
            validation: parts.validation,
        }))
    })
}

struct Parts {
    alpn: Box<[Box<str>]>,
    identity: Option<CertificateSource>,
    validation: Option<Validation>,
}

fn common_context(check: &mut Check, mut common: CommonTlsContext) -> Parts {
    let alpn = std::mem::take(&mut common.alpn_protocols).into_iter().map(Into::into).collect();
    let certificates = std::mem::take(&mut common.tls_certificates);
    let secrets = std::mem::take(&mut common.tls_certificate_sds_secret_configs);
    let validation = common.validation_context_type.take();
    // TLS 1.2 and 1.3 with the library's ciphers are what there is; Istio asks for a minimum of 1.2.
    if let Some(parameters) = &mut common.tls_params
        && parameters.tls_minimum_protocol_version == 3
    {
        parameters.tls_minimum_protocol_version = 0;
        if *parameters == Default::default() {
            common.tls_params = None;
        }
    }
    check.leftover(&common);
    if certificates.len() + secrets.len() > 1 {
        check.error("tls_certificates", "more than one certificate is not supported; give one");
    }
    let identity = if let Some(certificate) = certificates.into_iter().next() {
        check.item("tls_certificates", 0, |check| {
            let mut certificate = certificate;
            // Files are watched anyway.
            certificate.watched_directory = None;
            let chain = certificate.certificate_chain.take().and_then(|data| check.data("certificate_chain", &data));
            let key = certificate.private_key.take().and_then(|data| check.data("private_key", &data));
            check.leftover(&certificate);
            match (chain, key) {
                (Some(Data::File(certificate)), Some(Data::File(key))) => {
                    Some(CertificateSource::Files { certificate, key })
                }
                (Some(Data::Inline(certificate)), Some(Data::Inline(key))) => {
                    Some(CertificateSource::Inline { certificate, key })
                }
                _ => {
                    check.error("", "certificate_chain and private_key must both be files, or both be inline");
                    None
                }
            }
        })
    } else {
        secrets.into_iter().next().map(|secret| CertificateSource::Secret(secret.name.into()))
    };
    let validation = match validation {
        None => None,
        Some(ValidationContextType::ValidationContext(context)) => {
            Some(check.within("validation_context", |check| read_validation(check, context, None)))
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            Some(Validation { trust: Some(TrustSource::Secret(secret.name.into())), ..Validation::default() })
        }
        Some(ValidationContextType::CombinedValidationContext(mut combined)) => {
            Some(check.within("combined_validation_context", |check| {
                let context = combined.default_validation_context.take().unwrap_or_default();
                let secret = combined.validation_context_sds_secret_config.take();
                check.leftover(&combined);
                let trust = secret.map(|secret| TrustSource::Secret(secret.name.into()));
                check.within("default_validation_context", |check| read_validation(check, context, trust))
            }))
        }
        Some(_) => {
            check.unsupported("validation_context_certificate_provider");
            None
        }
    };
    Parts { alpn, identity, validation }
}

fn read_validation(
    check: &mut Check,
    mut context: CertificateValidationContext,
    secret: Option<TrustSource>,
) -> Validation {
    let file = context.trusted_ca.take().and_then(|data| check.data("trusted_ca", &data)).map(|data| match data {
        Data::File(name) => TrustSource::File(name),
        Data::Inline(bytes) => TrustSource::Inline(bytes),
    });
    let system = context.system_root_certs.take().map(|_| TrustSource::System);
    let crl_file = match context.crl.take().and_then(|data| check.data("crl", &data)) {
        Some(Data::File(name)) => Some(name),
        Some(Data::Inline(_)) => {
            check.error("crl", "an inline list is not supported; give a file");
            None
        }
        None => None,
    };
    let mut names = Vec::new();
    for (index, matcher) in std::mem::take(&mut context.match_typed_subject_alt_names).into_iter().enumerate() {
        names.extend(check.item("match_typed_subject_alt_names", index, |check| san(check, &matcher)));
    }
    #[allow(deprecated)]
    for (index, matcher) in std::mem::take(&mut context.match_subject_alt_names).into_iter().enumerate() {
        let pattern = check.string_matcher(&format!("match_subject_alt_names[{index}]"), &matcher);
        names.extend(
            pattern
                .and_then(|pattern| san_pattern(check, pattern.pattern))
                .map(|value| SanMatcher { kind: SanKind::Any, value }),
        );
    }
    let accept_untrusted =
        std::mem::take(&mut context.trust_chain_verification) == TrustChainVerification::AcceptUntrusted as i32;
    context.watched_directory = None;
    check.leftover(&context);
    Validation { trust: file.or(secret).or(system), crl_file, subject_alt_names: names.into(), accept_untrusted }
}

fn san(check: &mut Check, matcher: &SubjectAltNameMatcher) -> Option<SanMatcher> {
    let kind = match SanType::try_from(matcher.san_type) {
        Ok(SanType::Dns) => SanKind::Dns,
        Ok(SanType::Uri) => SanKind::Uri,
        Ok(SanType::IpAddress) => SanKind::Ip,
        Ok(SanType::Email) => SanKind::Email,
        Ok(SanType::Unspecified) => SanKind::Any,
        Ok(SanType::OtherName) | Err(_) => {
            check.unsupported("san_type");
            return None;
        }
    };
    let pattern = check.string_matcher("matcher", matcher.matcher.as_ref()?)?;
    san_pattern(check, pattern.pattern).map(|value| SanMatcher { kind, value })
}

fn san_pattern(check: &mut Check, pattern: StringPattern) -> Option<SanPattern> {
    Some(match pattern {
        StringPattern::Exact(text) => SanPattern::Exact(text),
        StringPattern::Prefix(text) => SanPattern::Prefix(text),
        StringPattern::Suffix(text) => SanPattern::Suffix(text),
        StringPattern::Contains(text) => SanPattern::Contains(text),
        StringPattern::Regex(_) => {
            check
                .error("matcher", "expressions over certificate names are not supported; give exact, prefix or suffix");
            return None;
        }
    })
}
