//! The functions of Kubernetes' CEL for addresses and prefixes. Both are strings here.

use std::{net::IpAddr, sync::Arc};

use cel::{Context, ExecutionError, ResolveResult, extractors::This};
use ipnet::IpNet;

type Text = Arc<String>;

fn address(text: &str) -> Result<IpAddr, ExecutionError> {
    let error =
        |error| ExecutionError::function_error("ip", format!("IP Address {text:?} parse error: {error}"));
    text.parse().map_err(error)
}

fn prefix(text: &str) -> Result<IpNet, ExecutionError> {
    let error = |error| {
        let message = format!("network address parse error during conversion from string: {text:?}: {error}");
        ExecutionError::function_error("cidr", message)
    };
    text.parse().map_err(error)
}

/// Whether a text is an address or a prefix as Kubernetes takes it: no zeros in front, nothing mapped.
fn is_canonical(text: &str) -> bool {
    let address = text.split('/').next().unwrap_or_default();
    !address.starts_with("::ffff:")
}

/// Lets rules use them.
pub(super) fn add_to(context: &mut Context) {
    let added = [
        context.add_function("isIP", |text: Text| address(&text).is_ok() && is_canonical(&text)),
        context.add_function("isCIDR", |text: Text| {
            prefix(&text).is_ok() && is_canonical(&text)
        }),
        context.add_function("cidr", |text: Text| {
            ResolveResult::Ok(prefix(&text)?.to_string().into())
        }),
        context.add_function("ip", ip),
        context.add_function("family", |This(text): This<Text>| {
            let is_v4 = address(text.split('/').next().unwrap_or_default())?.is_ipv4();
            Ok(if is_v4 { 4_i64 } else { 6 })
        }),
        context.add_function("containsCIDR", |This(outer): This<Text>, inner: Text| {
            Ok(prefix(&outer)?.contains(&prefix(&inner)?))
        }),
        context.add_function("containsIP", |This(outer): This<Text>, inner: Text| {
            Ok(prefix(&outer)?.contains(&address(&inner)?))
        }),
        context.add_function("prefixLength", |This(text): This<Text>| {
            Ok(i64::from(prefix(&text)?.prefix_len()))
        }),
        context.add_function("masked", |This(text): This<Text>| {
            ResolveResult::Ok(prefix(&text)?.trunc().to_string().into())
        }),
    ];
    for added in added {
        added.expect("the standard library has none of these names");
    }
}

/// `ip("192.0.2.1")`, and `cidr("192.0.2.0/24").ip()`.
fn ip(This(text): This<Text>) -> ResolveResult {
    match text.split_once('/') {
        Some(_) => Ok(prefix(&text)?.addr().to_string().into()),
        None => Ok(address(&text)?.to_string().into()),
    }
}
