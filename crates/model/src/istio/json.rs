//! Typed kinds back to the form in which they are written, for mends that show YAML.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::config_map::{CpuQuantity, MemoryQuantity, Resolver, ResolverTransport};
use super::kubernetes::TargetPort;
use super::policy::PortPolicy;
use super::prometheus_rule::Expression;
use super::scalar::PromDuration;
use super::service_entry::Locality;
use super::virtual_service::{GrpcStatus, ResponseBody, StringMatch};

/// Gives the value as it would stand in YAML; `None` for what is unset.
pub trait ToJson {
    fn json(&self) -> Option<Value>;
}

impl<T: ToJson> ToJson for Option<T> {
    fn json(&self) -> Option<Value> {
        self.as_ref().and_then(ToJson::json)
    }
}

impl<T: ToJson> ToJson for Vec<T> {
    fn json(&self) -> Option<Value> {
        (!self.is_empty()).then(|| Value::Array(self.iter().filter_map(ToJson::json).collect()))
    }
}

impl<K: Display, T: ToJson> ToJson for BTreeMap<K, T> {
    fn json(&self) -> Option<Value> {
        let entries = || self.iter().filter_map(|(key, value)| Some((key.to_string(), value.json()?)));
        (!self.is_empty()).then(|| Value::Object(Map::from_iter(entries())))
    }
}

macro_rules! as_json {
    ($($ty:ty: |$value:ident| $body:expr;)*) => {
        $( impl ToJson for $ty {
            fn json(&self) -> Option<Value> {
                let $value = self;
                Some($body)
            }
        } )*
    };
}

as_json! {
    String: |v| Value::from(v.as_str());
    bool: |v| Value::from(*v);
    u16: |v| Value::from(*v);
    u32: |v| Value::from(*v);
    u64: |v| Value::from(*v);
    i32: |v| Value::from(*v);
    f64: |v| Value::from(*v);
    Value: |v| v.clone();
    IpAddr: |v| Value::from(v.to_string());
    Locality: |v| Value::from(v.to_string());
    Expression: |v| Value::from(v.0.as_str());
    GrpcStatus: |v| Value::from(v.name());
    Duration: |v| Value::from(duration_text(*v));
    PromDuration: |v| Value::from(duration_text(v.0));
    CpuQuantity: |v| Value::from(format!("{}m", v.millicores));
    MemoryQuantity: |v| Value::from(v.bytes.to_string());
    ResponseBody: |v| json!({ "string": String::from_utf8_lossy(&v.0) });
    Resolver: |v| Value::from(format!("{}://{}", if v.transport == ResolverTransport::Tcp { "tcp" } else { "udp" }, v.address));
    TargetPort: |v| match v { TargetPort::Number(number) => Value::from(*number), TargetPort::Name(name) => Value::from(name.as_str()) };
    StringMatch: |v| match v {
        StringMatch::Present => json!({}),
        StringMatch::Exact(text) => json!({ "exact": text }),
        StringMatch::Prefix(text) => json!({ "prefix": text }),
        StringMatch::Regex(text) => json!({ "regex": text }),
    };
    PortPolicy: |v| {
        let mut whole = Map::from_iter([("port".to_owned(), json!({ "number": v.port }))]);
        if let Some(Value::Object(policy)) = v.policy.json() {
            whole.extend(policy);
        }
        Value::Object(whole)
    };
}

/// A duration as Istio writes it.
pub fn duration_text(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        nanos if nanos % 1_000_000 == 0 => format!("{}ms", duration.as_millis()),
        _ => format!("{}ns", duration.as_nanos()),
    }
}
