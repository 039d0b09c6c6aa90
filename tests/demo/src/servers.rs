//! Starts the real `tidegate` and the OSS simulator on loopback, and talks to their command line and admin pages.

use serde_json::Value;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// The S3 key of the demo. It guards nothing but a store on loopback that lives for a minute.
pub const S3_KEY: (&str, &str) = ("DEMOACCESSKEY0000001", "demo-secret-key-for-loopback-only-000001");
/// The OSS key of the demo.
const OSS_KEY: (&str, &str) = ("LTAIdemoaccesskey001", "demosecretforthesimulator000001");
/// The bucket in the simulated cloud.
const OSS_BUCKET: &str = "demo-cold";
/// The region that requests are signed for.
pub const REGION: &str = "us-east-1";

/// A server that dies with the demo.
struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Server {
    fn start(name: &'static str, mut command: Command, log: PathBuf) -> Result<Server, String> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| format!("cannot write {}: {e}", log.display()))?;
        let err = out.try_clone().map_err(|e| format!("cannot write {}: {e}", log.display()))?;
        let command = command.stdin(Stdio::null()).stdout(out).stderr(err).kill_on_drop(true);
        let child = command.spawn().map_err(|e| format!("cannot start {name}: {e}"))?;
        Ok(Server { name, child, log })
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// An error that holds the end of the log when the server has ended.
    fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            ended => {
                let said = self.said();
                let tail: Vec<&str> = said.lines().rev().take(15).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                Err(format!("{} ended ({ended:?}); its log ends with:\n{tail}", self.name))
            }
        }
    }

    /// SIGTERM and a bounded wait.
    async fn stop(&mut self) -> Result<(), String> {
        if let Some(pid) = self.child.id() {
            let ended = Command::new("kill").arg(pid.to_string()).status().await;
            ended.map_err(|e| format!("cannot run kill: {e}"))?;
        }
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        let status =
            ended.map_err(|_| format!("{} did not stop within 30 s", self.name))?.map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("{} stopped with {status}", self.name)) }
    }
}

/// Both servers, running.
pub struct World {
    sim: Server,
    gateway: Server,
    sim_admin: String,
    tidegate: PathBuf,
    config: PathBuf,
    /// The S3 endpoint.
    pub endpoint: String,
    /// The admin listener of the gateway.
    pub admin: String,
    /// The PID of the gateway.
    pub pid: u32,
    http: reqwest::Client,
    folder: PathBuf,
}

/// Builds `tidegate` and `oss-sim` with the profile that the demo itself was built with; gives the folder they are in.
pub async fn build() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| format!("cannot find the demo's own program: {e}"))?;
    let folder = own.parent().ok_or("the demo's program has no folder")?.to_path_buf();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // The demo itself is among them for the sake of its features: without it cargo would build the libraries again.
    command.args(["build", "--quiet", "-p", "demo", "-p", "tidegate-gateway", "-p", "oss-sim", "--bins"]);
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let status = command.current_dir(workspace()).status().await.map_err(|e| format!("cannot run cargo: {e}"))?;
    if status.success() { Ok(folder) } else { Err("cargo could not build tidegate and oss-sim".to_owned()) }
}

/// The root of the checkout.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl World {
    /// Starts both below `folder` with `policy`.
    pub async fn start(binaries: &Path, folder: &Path, policy: &Path) -> Result<World, String> {
        let mut command = Command::new(binaries.join("oss-sim"));
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--bucket", OSS_BUCKET]);
        command.arg("--data-dir").arg(folder.join("cloud"));
        command.args(["--access-key", &format!("{}:{}", OSS_KEY.0, OSS_KEY.1)]);
        let mut sim = Server::start("oss-sim", command, folder.join("oss-sim.log"))?;
        let cloud = line_of(&mut sim, "listening on http://").await?;
        let sim_admin = format!("http://{}", line_of(&mut sim, "admin on http://").await?);

        let (port, admin_port) = (free_port()?, free_port()?);
        let config = folder.join("tidegate.yaml");
        std::fs::write(&config, configuration(folder, &cloud, [port, admin_port], policy))
            .map_err(|e| format!("cannot write {}: {e}", config.display()))?;
        let tidegate = binaries.join("tidegate");
        let gateway = serve(&tidegate, &config, folder)?;
        let pid = gateway.child.id().unwrap_or_default();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build();
        let mut world = World {
            sim,
            gateway,
            sim_admin,
            tidegate,
            config,
            endpoint: format!("http://127.0.0.1:{port}"),
            admin: format!("http://127.0.0.1:{admin_port}"),
            pid,
            http: http.map_err(|e| format!("cannot make an HTTP client: {e}"))?,
            folder: folder.to_path_buf(),
        };
        world.ready().await?;
        Ok(world)
    }

    async fn ready(&mut self) -> Result<(), String> {
        let end = Instant::now() + Duration::from_secs(30);
        while self.page("/readyz").await.is_err() {
            self.gateway.check()?;
            in_time(end, "tidegate to be ready").await?;
        }
        Ok(())
    }

    /// Stops the gateway, deletes its local packs, and starts it again: what is cold must then come from the cloud.
    /// Gives the bytes that were deleted.
    pub async fn lose_local_packs(&mut self) -> Result<u64, String> {
        self.gateway.stop().await?;
        let packs = self.folder.join("data/packs");
        let unreadable = |e: std::io::Error| format!("cannot empty {}: {e}", packs.display());
        let mut bytes = 0;
        for entry in std::fs::read_dir(&packs).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            bytes += entry.metadata().map_err(unreadable)?.len();
            std::fs::remove_file(entry.path()).map_err(unreadable)?;
        }
        self.gateway = serve(&self.tidegate, &self.config, &self.folder)?;
        self.pid = self.gateway.child.id().unwrap_or_default();
        self.ready().await?;
        Ok(bytes)
    }

    /// A page of the gateway's admin listener.
    pub async fn page(&self, path: &str) -> Result<String, String> {
        let url = format!("{}{path}", self.admin);
        let answer = self.http.get(&url).send().await.and_then(reqwest::Response::error_for_status);
        answer.map_err(|e| format!("{url}: {e}"))?.text().await.map_err(|e| format!("{url}: {e}"))
    }

    /// The simulator's bill as JSON.
    pub async fn ledger(&self) -> Result<Value, String> {
        let url = format!("{}/ledger", self.sim_admin);
        let text = self.http.get(&url).send().await.map_err(|e| format!("{url}: {e}"))?.text().await;
        let text = text.map_err(|e| format!("{url}: {e}"))?;
        serde_json::from_str(&text).map_err(|e| format!("{url} gave no JSON: {e}: {text}"))
    }

    /// What a command of `tidegate` prints.
    pub async fn cli(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.tidegate);
        command.args(arguments).arg("--config").arg(&self.config).stdin(Stdio::null());
        let done = command.output().await.map_err(|e| format!("cannot run tidegate: {e}"))?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        Err(format!("tidegate {}: {}: {}", arguments.join(" "), done.status, String::from_utf8_lossy(&done.stderr)))
    }

    /// `tidegate stats --json`.
    pub async fn stats(&self) -> Result<Value, String> {
        let text = self.cli(&["stats", "--json"]).await?;
        serde_json::from_str(&text).map_err(|e| format!("tidegate stats --json gave no JSON: {e}: {text}"))
    }

    /// Turns both clocks forward, the cloud's first: no request may come from its future.
    pub async fn advance(&self, seconds: u64) -> Result<(), String> {
        let url = format!("{}/clock/advance", self.sim_admin);
        let body = format!("{{\"seconds\": {seconds}}}");
        let answer = self.http.post(&url).body(body).send().await.and_then(reqwest::Response::error_for_status);
        answer.map_err(|e| format!("{url}: {e}"))?;
        self.cli(&["clock", "advance", &format!("{seconds}s")]).await.map(drop)
    }

    /// Waits until `stats` of the gateway satisfy `condition`; fails after `limit`, telling what they were.
    pub async fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value, String> {
        let end = Instant::now() + limit;
        loop {
            self.gateway.check()?;
            self.sim.check()?;
            let stats = self.stats().await?;
            if condition(&stats) {
                return Ok(stats);
            }
            in_time(end, what).await.map_err(|e| format!("{e}; the last stats were {stats}"))?;
        }
    }

    /// Stops both in good order.
    pub async fn stop(mut self) -> Result<(), String> {
        self.gateway.stop().await?;
        // The simulator has nothing to finish: it is just ended.
        self.sim.child.kill().await.map_err(|e| format!("cannot end {}: {e}", self.sim.name))
    }
}

/// Waits a moment; an error once `end` has passed.
pub async fn in_time(end: Instant, what: &str) -> Result<(), String> {
    if Instant::now() > end {
        return Err(format!("waited too long for {what}"));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(())
}

fn serve(tidegate: &Path, config: &Path, folder: &Path) -> Result<Server, String> {
    let mut command = Command::new(tidegate);
    command.arg("serve").arg("--config").arg(config);
    Server::start("tidegate", command, folder.join("tidegate.log"))
}

async fn line_of(server: &mut Server, start: &str) -> Result<String, String> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(rest) = server.said().lines().find_map(|line| line.strip_prefix(start).map(str::to_owned)) {
            return Ok(rest.trim().trim_end_matches('/').to_owned());
        }
        server.check()?;
        in_time(end, start).await?;
    }
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    listener.map(|address| address.port()).map_err(|e| format!("cannot find a free port: {e}"))
}

/// The configuration file. JSON strings are YAML strings, so any path survives.
fn configuration(folder: &Path, cloud: &str, [port, admin_port]: [u16; 2], policy: &Path) -> String {
    let quote = |path: &Path| Value::from(path.to_string_lossy().into_owned()).to_string();
    let tier = |name: &str, class: &str| {
        format!(
            "  {name}:\n    type: oss\n    endpoint: http://{cloud}\n    region: cn-hangzhou\n    bucket: {OSS_BUCKET}\n    \
             prefix: tidegate/{name}\n    storage_class: {class}\n    credentials: {{source: static, access_key_id: {}, \
             access_key_secret: {}}}\n",
            OSS_KEY.0, OSS_KEY.1
        )
    };
    format!(
        "data_dir: {data}\npolicy: {policy}\n\
         s3:\n  listen: 127.0.0.1:{port}\n  region: {REGION}\n  access_keys:\n    - {{access_key: {id}, secret_key: {secret}}}\n\
         admin:\n  listen: 127.0.0.1:{admin_port}\n  socket: {socket}\n\
         debug:\n  adjustable_clock: true\n\
         store:\n  tiering: {{linger_ms: 500, poll_ms: 100, thaw_poll_ms: 200}}\n\
         classes: {{STANDARD: hot, STANDARD_IA: ia, GLACIER: archive}}\n\
         tiers:\n{ia}{archive}",
        data = quote(&folder.join("data")),
        policy = quote(policy),
        socket = quote(&folder.join("admin.sock")),
        id = S3_KEY.0,
        secret = S3_KEY.1,
        ia = tier("ia", "IA"),
        archive = tier("archive", "Archive"),
    )
}
