//! Who may ask, and what a browser may do with the answer.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// What every answer says: nothing but our own style sheet, pictures and forms, in nobody's frame, kept nowhere.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Lets pass who asks for this machine by its own name and comes from no other site.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let mut response = match refusal(request.headers()) {
        None => next.run(request).await,
        Some(why) => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
    };
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refusal(headers: &HeaderMap) -> Option<&'static str> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    // A name of a stranger's that leads to 127.0.0.1 is how a website gets at what is here (DNS rebinding).
    if !text(header::HOST).is_some_and(is_own_name) {
        return Some("ask for localhost, 127.0.0.1 or [::1]: this page has no other name");
    }
    // Browsers say where a request comes from; other clients say nothing.
    match text(HeaderName::from_static("sec-fetch-site")) {
        None | Some("none" | "same-origin") => None,
        Some(_) => Some("another site asked for this"),
    }
}

/// Whether it is a name of this machine's loopback. The port may be another's, as of `kubectl port-forward`.
fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|octet| octet.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_has_the_page() {
        for own in [
            "localhost",
            "localhost:9465",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:9465",
        ] {
            assert!(is_own_name(own), "{own}");
        }
        for other in [
            "",
            ":",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org:80",
            "10.0.0.1",
            "::1",
            "localhost:x",
        ] {
            assert!(!is_own_name(other), "{other}");
        }
    }

    #[test]
    fn other_sites_are_sent_away() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            pairs.collect::<HeaderMap>()
        };
        assert_eq!(refusal(&headers(&[("host", "localhost")])), None);
        assert_eq!(
            refusal(&headers(&[("host", "localhost"), ("sec-fetch-site", "none")])),
            None
        );
        assert!(
            refusal(&headers(&[
                ("host", "localhost"),
                ("sec-fetch-site", "cross-site")
            ]))
            .is_some()
        );
        assert!(refusal(&headers(&[])).is_some());
    }
}
