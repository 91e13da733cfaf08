//! From HTTP to the objects and back.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{Response, StatusCode, header},
};
use futures_util::stream;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    Shared, access,
    call::{Call, Query, Target, Verb},
    discovery, list, objects, rbac,
    refusal::Refusal,
    table,
    watch::Watch,
};

/// As the real server has it.
const LONGEST_BODY: usize = 3 << 20;
const JSON: &str = "application/json";

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let mut faults = shared.faults.subscribe();
    // The sender is in what is shared.
    let delay = faults
        .wait_for(|faults| !faults.stalled)
        .await
        .map(|faults| faults.delay);
    sleep(delay.unwrap_or_default()).await;
    serve(&shared, request).await.unwrap_or_else(|refusal| {
        let (content, body) = refusal.body();
        respond(refusal.code, content, Body::from(body))
    })
}

async fn serve(shared: &Arc<Shared>, request: Request) -> Result<Response<Body>, Refusal> {
    let (parts, body) = request.into_parts();
    let authorization = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let user = shared
        .tokens()
        .user(authorization)
        .ok_or_else(Refusal::unauthorized)?;
    let path = parts.uri.path();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let Some(target) = Target::parse(path) else {
        rbac::may_read_path(&user, path)?;
        if ["/readyz", "/livez", "/healthz"].contains(&path) {
            return Ok(respond(200, "text/plain; charset=utf-8", Body::from("ok")));
        }
        let document = discovery::document(&shared.store(), path)?;
        return Ok(json(200, &document));
    };
    let body = to_bytes(body, LONGEST_BODY)
        .await
        .map_err(|error| Refusal::bad_request(error.to_string()))?;
    let call = Call::new(&parts.method, target, query, &parts.headers, user, body)?;
    shared.authorize(&call)?;
    match call.verb {
        Verb::Watch => {
            let watch = Watch::begin(shared, call)?;
            let lines = stream::unfold(watch, |mut watch| async {
                let line = watch.next().await?;
                Some((Ok::<Bytes, std::io::Error>(line), watch))
            });
            Ok(respond(200, JSON, Body::from_stream(lines)))
        }
        Verb::List => {
            let list = list::list(&shared.store(), &call)?;
            let version = &call.target.version;
            if table::is_wanted(&call.accept) {
                let objects = list.objects(version);
                return Ok(json(
                    200,
                    &table::table(&list.resource, version, list.version, &objects),
                ));
            }
            Ok(respond(200, JSON, Body::from(list.body(version))))
        }
        Verb::Create if call.target.is_token() => {
            let review = access::token_request(&mut shared.tokens(), &call.target);
            Ok(json(201, &review))
        }
        Verb::Get | Verb::Create | Verb::Update | Verb::Patch | Verb::Delete | Verb::Deletecollection => {
            let (code, object) = objects::serve(&mut shared.store(), &call)?;
            Ok(json(code, &object))
        }
    }
}

fn json(code: u16, value: &Value) -> Response<Body> {
    respond(code, JSON, Body::from(value.to_string()))
}

fn respond(code: u16, content: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content = header::HeaderValue::from_static(content);
    response.headers_mut().insert(header::CONTENT_TYPE, content);
    response
}
