use axum::serve::Listener as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

/// Status code and body.
async fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("somebody listens");
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).expect("a code").parse().expect("a number");
    (code, body.trim_end().to_owned())
}

async fn probed() -> (Heart, SocketAddr) {
    let (heart, probes) = heart();
    let listener = Probes::bind(([127, 0, 0, 1], 0).into())
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(probes.serve(listener));
    (heart, address)
}

fn status(ready: bool) -> Status {
    Status {
        ready,
        ..Status::default()
    }
}

#[tokio::test]
async fn it_has_started_when_the_loop_has_gone_round_once() {
    let (heart, address) = probed().await;
    assert_eq!(ask(address, "/startupz").await.0, 503);
    assert_eq!(
        ask(address, "/readyz").await,
        (503, "starting, not ready".to_owned())
    );
    heart.beat(&status(false));
    assert_eq!(ask(address, "/startupz").await, (200, "started".to_owned()));
}

#[tokio::test]
async fn it_says_why_it_is_not_ready() {
    let (heart, address) = probed().await;
    let mut unready = status(false);
    unready.problems = vec![
        Problem::new(Severity::Warning, "a gateway that nobody is"),
        Problem::new(Severity::Error, "the map is full"),
    ];
    heart.beat(&unready);
    let (code, body) = ask(address, "/readyz").await;
    assert_eq!(
        (code, body.as_str()),
        (503, "starting, not ready\nthe map is full")
    );
    heart.beat(&status(true));
    assert_eq!(ask(address, "/readyz").await, (200, "ready".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_hangs_is_not_alive() {
    let (heart, probes) = heart();
    heart.beat(&status(false));
    tokio::time::advance(STUCK / 2).await;
    assert_eq!(live(State(probes.clone())).await.0, StatusCode::OK);
    tokio::time::advance(STUCK / 2).await;
    assert_eq!(
        live(State(probes.clone())).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    heart.beat(&status(false));
    assert_eq!(live(State(probes)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let (_heart, address) = probed().await;
    let error = Probes::bind(address).await.expect_err("it is taken");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
