//! Settings act on traffic: each from its Istio or Envoy field to what a client and an upstream see.

#[path = "../common/mod.rs"]
mod common;
mod grpc;
mod ledger;
mod limits;
mod mirrors;
mod replies;
mod swaps;
mod trust;
