//! A simulator of Alibaba Cloud OSS's native protocol, strict enough to prove a client right: signatures V1 and V4, five
//! storage classes with restores, lifecycle, versioning, multipart, a virtual clock, a bill, and a plan of faults.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use oss_sim::{Class, OssSim};
//! let sim = OssSim::builder().bucket("cold", Class::Standard).access_key("ak", "sk").start().await?;
//! println!("{}", sim.endpoint());
//! sim.advance_seconds(3600);
//! # Ok(()) }
//! ```
//!
//! It runs on threads of its own, so it serves whatever the calling test does.

mod admin;
mod auth;
mod auth_v1;
mod auth_v4;
mod blob;
mod bucket;
mod clock;
mod copy;
mod error;
mod extras;
mod faults;
mod get;
mod ledger;
mod lifecycle;
mod list;
mod model;
mod multipart;
mod objects;
mod persist;
mod ram;
mod record;
mod request;
mod restore;
mod routing;
mod send;
mod server;
mod sim;
mod store;
mod strikes;
#[cfg(test)]
mod vectors;
mod xml;

pub use auth::AccessKey;
pub use blob::{crc64, crc64_combine};
pub use clock::VirtualClock;
pub use faults::{CODES_503, Fault, FaultPlan, FaultRule};
pub use ledger::{Code, Line};
pub use model::Class;
pub use ram::Policy;
pub use record::Exchange;
pub use restore::Tier;
pub use sim::{Count, ObjectState, Sim};

use blob::Blobs;
use clock::DAY;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::BucketMeta;
use sim::lock;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Threads that serve requests.
const WORKERS: usize = 2;

/// How long a connection may wait for its next request, as the service has it. A server that closes earlier than a
/// client's pool does takes requests down with it that it has never seen.
const IDLE: Duration = Duration::from_secs(60);

/// Entry point: [`OssSim::builder`].
#[derive(Debug)]
pub struct OssSim;

impl OssSim {
    /// A builder: region `cn-hangzhou`, no keys, no buckets, in memory, the clock flowing from the real time.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// Settings of a simulator.
#[derive(Debug, Clone)]
pub struct Builder {
    region: String,
    keys: Vec<AccessKey>,
    buckets: Vec<(String, Class)>,
    cname: BTreeMap<String, String>,
    data_dir: Option<PathBuf>,
    seed: u64,
    start: Option<u64>,
    frozen: bool,
    skew_check: bool,
    record: bool,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Default for Builder {
    fn default() -> Builder {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Builder {
            region: "cn-hangzhou".into(),
            keys: Vec::new(),
            buckets: Vec::new(),
            cname: BTreeMap::new(),
            data_dir: None,
            seed: 0,
            start: None,
            frozen: false,
            skew_check: true,
            record: false,
            listen: any_port,
            admin: any_port,
        }
    }
}

impl Builder {
    /// The region, without the `oss-` prefix.
    pub fn region(mut self, region: impl Into<String>) -> Builder {
        self.region = region.into();
        self
    }

    /// A permanent access key.
    pub fn access_key(self, id: impl Into<String>, secret: impl Into<String>) -> Builder {
        self.key(AccessKey::new(id, secret))
    }

    /// An access key with all its fields, for temporary ones.
    pub fn key(mut self, key: AccessKey) -> Builder {
        self.keys.push(key);
        self
    }

    /// A bucket that exists from the start.
    pub fn bucket(mut self, name: impl Into<String>, class: Class) -> Builder {
        self.buckets.push((name.into(), class));
        self
    }

    /// A custom domain bound to a bucket.
    pub fn cname(mut self, host: impl Into<String>, bucket: impl Into<String>) -> Builder {
        self.cname.insert(host.into().to_ascii_lowercase(), bucket.into());
        self
    }

    /// Keep the state in this directory, and continue what is there.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Builder {
        self.data_dir = Some(dir.into());
        self
    }

    /// Seed of request ids and upload ids.
    pub fn seed(mut self, seed: u64) -> Builder {
        self.seed = seed;
        self
    }

    /// What the clock shows at the start, in milliseconds since the Unix epoch. A stored state's clock wins.
    pub fn clock_start(mut self, ms: u64) -> Builder {
        self.start = Some(ms);
        self
    }

    /// The clock moves only when told, so that bills are exact.
    pub fn frozen_clock(mut self) -> Builder {
        self.frozen = true;
        self
    }

    /// Whether requests whose date is more than 15 minutes off are refused (yes by default).
    pub fn skew_check(mut self, on: bool) -> Builder {
        self.skew_check = on;
        self
    }

    /// Keep what became of each request, for [`Running::exchanges`]: about 200 bytes each, the first million of them.
    pub fn record_exchanges(mut self) -> Builder {
        self.record = true;
        self
    }

    /// Where to listen; 127.0.0.1 with a free port by default.
    pub fn listen(mut self, addr: SocketAddr) -> Builder {
        self.listen = addr;
        self
    }

    /// Where the administrator's listener is; 127.0.0.1 with a free port by default.
    pub fn admin_listen(mut self, addr: SocketAddr) -> Builder {
        self.admin = addr;
        self
    }

    fn build(&self) -> io::Result<Sim> {
        let blobs = Blobs::open(self.data_dir.as_deref())?;
        let clock = VirtualClock::new(self.start, self.frozen, self.skew_check);
        let mut store = store::Store::default();
        if let Some(dir) = &self.data_dir {
            let (stored, offset) = persist::open(dir, &blobs)?;
            store = stored;
            if let Some(offset) = offset {
                clock.set_offset(offset);
            }
        }
        let now = clock.now();
        if store.lifecycle_ran == 0 {
            store.lifecycle_ran = now / DAY * DAY;
            store.write(&persist::Record::LifecycleRan(store.lifecycle_ran));
        }
        store.write(&persist::Record::Clock(clock.offset()));
        for (name, class) in &self.buckets {
            if store.bucket(name).is_err() {
                store.put_bucket(name, BucketMeta::new(*class, now));
            }
        }
        Ok(Sim {
            clock,
            blobs,
            region: self.region.clone(),
            keys: self.keys.clone().into(),
            policies: BTreeMap::new().into(),
            cname: self.cname.clone(),
            store: store.into(),
            faults: faults::Faults::default().into(),
            counts: BTreeMap::new().into(),
            exchanges: self.record.then(Default::default),
            looked: AtomicU64::new(0),
            // Ids differ from those of the run before: the time is part of them when state is kept.
            sequence: AtomicU64::new(if self.data_dir.is_some() { now } else { 0 }),
            seed: self.seed,
        })
    }

    /// Starts the simulator.
    ///
    /// # Errors
    /// When an address is taken or the data directory cannot be read.
    pub async fn start(self) -> io::Result<Running> {
        tokio::task::spawn_blocking(move || self.start_blocking()).await.map_err(io::Error::other)?
    }

    /// Starts the simulator from code that is not async.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn start_blocking(self) -> io::Result<Running> {
        let sim = Arc::new(self.build()?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("oss-sim")
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(self.listen))?;
        let admin = runtime.block_on(TcpListener::bind(self.admin))?;
        let (addr, admin_addr) = (listener.local_addr()?, admin.local_addr()?);
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::clone(&sim);
        let thread = std::thread::Builder::new().name("oss-sim".into()).spawn(move || {
            let mut end = stopped.clone();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, Arc::clone(&shared), false) => {}
                    () = accept(admin, shared, true) => {}
                    _ = end.changed() => {}
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(Running { sim, addr, admin_addr, stop, thread: Some(thread) })
    }
}

/// Accepts connections for ever.
async fn accept(listener: TcpListener, sim: Arc<Sim>, admin: bool) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: a short pause, then again.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Small answers must not wait for Nagle; a socket that refuses still works.
        let _ = socket.set_nodelay(true);
        let sim = Arc::clone(&sim);
        tokio::spawn(async move {
            let io = TokioIo::new(socket);
            let mut http = http1::Builder::new();
            http.half_close(true).timer(TokioTimer::new()).header_read_timeout(IDLE);
            // Errors here are clients that went away, and resets that the fault plan asked for.
            if admin {
                let service = service_fn(move |request| admin::serve(Arc::clone(&sim), request));
                let _ = http.serve_connection(io, service).await;
            } else {
                let service = service_fn(move |request| Box::pin(server::serve(Arc::clone(&sim), request)));
                let _ = http.serve_connection(io, service).await;
            }
        });
    }
}

/// A running simulator. Stops when dropped.
#[derive(Debug)]
pub struct Running {
    sim: Arc<Sim>,
    addr: SocketAddr,
    admin_addr: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://ADDR`, to be used in path style.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// `http://ADDR` of the administrator's listener.
    pub fn admin_endpoint(&self) -> String {
        format!("http://{}", self.admin_addr)
    }

    /// The simulator itself: clock, bill, counts, objects, keys.
    pub fn sim(&self) -> &Sim {
        &self.sim
    }

    /// Virtual milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        self.sim.clock.now()
    }

    /// Moves the clock and runs what became due. Returns the new time in milliseconds.
    pub fn advance_seconds(&self, seconds: u64) -> u64 {
        self.sim.advance(seconds.saturating_mul(1000))
    }

    /// The bill now.
    pub fn ledger(&self) -> Vec<Line> {
        self.sim.bill()
    }

    /// Starts a new bill.
    pub fn reset_ledger(&self) {
        self.sim.reset_bill();
    }

    /// Turns versioning on for a bucket.
    pub fn keep_versions(&self, bucket: &str) {
        let enable = |meta: &mut BucketMeta| meta.versioning = Some(model::Versioning::Enabled);
        // A bucket that is not there keeps none.
        let _ = self.sim.store().change_bucket(bucket, enable);
    }

    /// Puts a fault plan into force.
    pub fn set_faults(&self, plan: FaultPlan) {
        lock(&self.sim.faults).set(plan);
    }

    /// No faults from now on.
    pub fn clear_faults(&self) {
        self.set_faults(FaultPlan::default());
    }

    /// The plan in force with its hits.
    pub fn faults(&self) -> FaultPlan {
        lock(&self.sim.faults).plan().clone()
    }

    /// Every version of a bucket.
    pub fn objects(&self, bucket: &str) -> Vec<ObjectState> {
        self.sim.objects(bucket)
    }

    /// Requests by operation, status and code.
    pub fn requests(&self) -> Vec<Count> {
        self.sim.counts()
    }

    /// What became of each request, in the order of their ends, and how many were too many to be kept. Empty without
    /// [`Builder::record_exchanges`].
    pub fn exchanges(&self) -> (Vec<Exchange>, u64) {
        self.sim.exchanges.as_ref().map_or_else(Default::default, |exchanges| lock(exchanges).all())
    }

    /// Unfinished multipart uploads of a bucket: keys and upload ids.
    pub fn uploads(&self, bucket: &str) -> Vec<(String, String)> {
        let store = self.sim.store();
        store.bucket(bucket).map_or_else(|_| Vec::new(), |bucket| bucket.uploads.keys().cloned().collect())
    }

    /// Keys that listings of objects have looked at so far: what a page costs, whatever the speed of the machine.
    pub fn keys_looked_at(&self) -> u64 {
        self.sim.looked.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Stops and waits for the end; connections are cut.
    pub fn shutdown(mut self) {
        self.halt();
    }

    /// Waits until the process is told to end.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            // It ends only by a panic of the accept loop, which has been printed.
            let _ = thread.join();
        }
    }

    fn halt(&mut self) {
        self.sim.blobs.keep_files();
        // The thread may be gone already.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.halt();
    }
}
