//! Manifests of labs: their whole text, what Kubernetes' schemas say of them, and what no schema knows.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod generated;
mod goldens;
mod labs;
mod reach;
mod rules;
#[path = "../support/schema_checker.rs"]
mod schema_checker;
mod schemas;
