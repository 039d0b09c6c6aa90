use super::*;
use crate::config::Config;
use std::os::unix::fs::PermissionsExt;
use tidegate_tiering::clock::SystemClock;

struct World {
    folder: tempfile::TempDir,
    state: Arc<AdminState>,
    running: RunningAdmin,
    url: String,
}

/// A listener whose store is still being opened.
fn start(token: Option<&str>, adjustable: bool) -> World {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::without_file(Some(folder.path().to_owned()), &|_, _| None).unwrap();
    config.admin.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.admin.token = token.map(Secret::new);
    config.debug.adjustable_clock = adjustable;
    let server = AdminServer::bind(&config.admin, config.admin_socket()).unwrap();
    let url = format!("http://{}", server.address());
    let metrics = GatewayMetrics::new(prometheus::Registry::new()).unwrap();
    let runtime = tokio::runtime::Handle::current();
    let state = AdminState::new(config, Arc::new(SystemClock::default()), metrics, runtime);
    let running = server.run(&state).unwrap();
    World { folder, state, running, url }
}

impl World {
    fn tcp(&self) -> reqwest::Client {
        reqwest::Client::builder().no_proxy().build().unwrap()
    }

    fn unix(&self) -> reqwest::Client {
        reqwest::Client::builder().no_proxy().unix_socket(self.folder.path().join("admin.sock")).build().unwrap()
    }

    async fn get(&self, path: &str, token: &str) -> (u16, String) {
        let request = self.tcp().get(format!("{}{path}", self.url)).header("authorization", format!("Bearer {token}"));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn advance(&self, body: &'static str) -> (u16, String) {
        let answer = self.unix().post("http://tidegate/clock/advance").body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_without_a_token_has_metrics_and_health_and_nothing_else() {
    let world = start(None, false);
    assert_eq!(world.get("/livez", "").await.0, 200);
    let (status, page) = world.get("/metrics", "").await;
    assert_eq!(status, 200);
    assert!(
        page.contains("tidegate_build_info{version=\"") && page.contains("process_resident_memory_bytes "),
        "{page}"
    );
    for path in ["/stats", "/clock", "/tiers", "/object?bucket=b&key=k", "/policy"] {
        let (status, body) = world.get(path, "").await;
        assert_eq!(status, 401, "{path}");
        assert!(body.contains("admin.token"), "{body}");
    }
    assert_eq!(world.get("/nothing", "").await.0, 404);
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_opens_tcp_and_a_wrong_one_does_not() {
    let world = start(Some("a-long-enough-token"), false);
    assert_eq!(world.get("/clock", "a-long-enough-token").await.0, 200);
    for wrong in ["", "a-long-enough-toke", "a-long-enough-token2"] {
        assert_eq!(world.get("/clock", wrong).await.0, 401, "{wrong}");
    }
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_says_why_and_the_api_waits_for_the_store() {
    let world = start(Some("a-long-enough-token"), false);
    let (status, body) = world.get("/readyz", "").await;
    let readiness: Readiness = serde_json::from_str(&body).unwrap();
    assert_eq!((status, readiness.ready, readiness.phase), (503, false, Phase::Opening));
    assert_eq!(readiness.reasons, ["the store is being opened"]);
    let (status, body) = world.get("/stats", "a-long-enough-token").await;
    assert_eq!(status, 503);
    assert!(body.contains("being opened"), "{body}");
    world.state.enter(Phase::Serving);
    assert_eq!(world.get("/readyz", "").await.0, 200);
    assert!(world.get("/metrics", "").await.1.contains("\ntidegate_ready 1\n"));
    world.state.enter(Phase::Stopping);
    assert_eq!(world.get("/readyz", "").await.0, 503);
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_its_owner_and_goes_with_the_server() {
    let world = start(None, false);
    let path = world.folder.path().join("admin.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let answer = world.unix().get("http://tidegate/clock").send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let settings = AdminSettings { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..AdminSettings::default() };
    let second = AdminServer::bind(&settings, path.clone()).unwrap_err();
    assert!(second.to_string().contains(&format!("process {} serves this data", std::process::id())), "{second}");
    // Also when the address is taken by the same server.
    let settings = AdminSettings { listen: world.url.trim_start_matches("http://").parse().unwrap(), ..settings };
    assert!(matches!(AdminServer::bind(&settings, path.clone()), Err(AdminError::Running(..))));
    let settings = AdminSettings { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..settings };
    world.running.stop().await;
    assert!(!path.exists());
    // What a killed server leaves is replaced.
    drop(UnixListener::bind(&path).unwrap());
    assert!(AdminServer::bind(&settings, path).is_ok());
    let long = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
    assert!(AdminServer::bind(&settings, long).unwrap_err().to_string().contains("may have 107"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_moves_only_where_that_is_allowed() {
    let world = start(None, false);
    let (status, body) = world.advance(r#"{"by":"30d"}"#).await;
    assert_eq!(status, 403);
    assert!(body.contains("debug.adjustable_clock"), "{body}");
    world.running.stop().await;

    let world = start(None, true);
    let (status, body) = world.advance(r#"{"by":"30d"}"#).await;
    let answer: api::ClockAnswer = serde_json::from_str(&body).unwrap();
    assert_eq!((status, answer.offset_ms), (200, Some(30 * 86_400_000)));
    for bad in ["{}", r#"{"by":"30"}"#, r#"{"by":"1d","ms":1}"#, r#"{"by":"99999d"}"#, "nonsense", r#"{"days":1}"#] {
        assert_eq!(world.advance(bad).await.0, 400, "{bad}");
    }
    world.running.stop().await;
}
