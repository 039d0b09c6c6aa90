//! The vocabulary of the namespace store: tables, operations, preconditions, batches.

use super::Value;
use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The ordered tables of the namespace. The number is the first byte of every key in the index and is part of
/// the journal's format: never reuse one.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Store-wide settings and marks.
    System = 1,
    /// Buckets.
    Bucket = 2,
    /// The visible version of each key.
    Object = 3,
    /// Multipart uploads in progress.
    Upload = 4,
    /// Parts of those uploads.
    Part = 5,
    /// Next action times, ordered by time.
    Due = 6,
    /// Durable jobs.
    Job = 7,
    /// Packs at a cold tier.
    RemotePack = 8,
    /// Last access times.
    Access = 9,
    /// Thaws of remote packs.
    Thaw = 10,
    /// Manifests too large for their object's record.
    Manifest = 11,
    /// Versions that are not visible, and delete markers.
    Version = 12,
    /// Accounts, users and their access keys.
    User = 13,
    /// Events that wait to be told to the targets of notifications.
    Event = 14,
}

impl Table {
    /// Every table, in key order.
    pub const ALL: [Table; 14] = [
        Table::System,
        Table::Bucket,
        Table::Object,
        Table::Upload,
        Table::Part,
        Table::Due,
        Table::Job,
        Table::RemotePack,
        Table::Access,
        Table::Thaw,
        Table::Manifest,
        Table::Version,
        Table::User,
        Table::Event,
    ];

    /// The table's number on disk.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The table with this number, if there is one.
    pub fn from_code(code: u8) -> Option<Table> {
        Table::ALL.into_iter().find(|t| t.code() == code)
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// Why a batch was committed: for the dump, for metrics, for the history of an object. Carries no meaning
        /// for replay. The numbers are part of the journal's format: never reuse one.
        #[repr(u16)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $($(#[$doc])* $name = $code,)* }

        impl Reason {
            /// The reason's number on disk.
            pub const fn code(self) -> u16 { self as u16 }

            /// The reason with this number; [`Reason::Unknown`] for one from a newer version.
            pub const fn from_code(code: u16) -> Reason {
                match code { $($code => Reason::$name,)* _ => Reason::Unknown }
            }

            /// The name, as printed by the dump and used as a metric label.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)* }
            }
        }
    };
}

reasons! {
    /// Written by a newer version, or by none.
    Unknown = 0,
    /// The store was opened; the record has no operations and starts a new epoch.
    Opened = 1,
    /// A bucket was created.
    CreateBucket = 2,
    /// A bucket was deleted.
    DeleteBucket = 3,
    /// A body was uploaded.
    PutObject = 4,
    /// A body was copied.
    CopyObject = 5,
    /// An object was deleted by a client.
    DeleteObject = 6,
    /// A multipart upload began.
    CreateUpload = 7,
    /// A part was stored.
    PutPart = 8,
    /// A multipart upload became an object.
    CompleteUpload = 9,
    /// A multipart upload was given up.
    AbortUpload = 10,
    /// An intent to write to a cold tier.
    TransitionIntent = 11,
    /// Objects became cold.
    Transition = 12,
    /// A restore was asked for.
    RestoreRequest = 13,
    /// A thaw made progress.
    Thaw = 14,
    /// A restored copy became readable.
    Restored = 15,
    /// A restored copy expired.
    RestoreExpired = 16,
    /// An object was deleted by a rule.
    Expire = 17,
    /// A job was queued, moved on, or finished.
    Job = 18,
    /// Accounts of remote packs changed.
    RemotePack = 19,
    /// Access times were noted.
    Access = 20,
    /// Due times were computed anew after rules changed.
    Reindex = 21,
    /// Rules or settings of the store changed.
    System = 22,
    /// Metadata or tags of an object changed.
    UpdateObject = 23,
    /// A cold object was brought back to local disk.
    Promote = 24,
    /// Bodies of hot objects are in a tier as well.
    Protect = 25,
    /// Hot objects are in a tier no more.
    Release = 26,
    /// What is set for a bucket changed.
    ConfigureBucket = 27,
    /// A version or a delete marker was deleted by its id.
    DeleteVersion = 28,
    /// A user was made, changed or removed.
    User = 30,
    /// An account was made.
    Account = 31,
    /// The retention or the legal hold of a version changed.
    LockObject = 32,
    /// Tiers were told of versions whose locks changed.
    TellLocks = 33,
    /// Events have arrived at a target of notifications.
    EventsSent = 34,
}

/// One physical change: `value` replaces what is at `key`, `None` removes it. Applying it twice is applying it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// The table.
    pub table: Table,
    /// The key within the table; at most [`super::MAX_KEY_BYTES`].
    pub key: Vec<u8>,
    /// The new value, or `None` to remove the key.
    pub value: Option<Vec<u8>>,
}

/// A precondition, checked by the single committer against the state with every earlier batch applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// The key is not there.
    Absent(Table, Vec<u8>),
    /// The key is there, with any value.
    Present(Table, Vec<u8>),
    /// The key is there with exactly this value.
    Equals(Table, Vec<u8>, Vec<u8>),
    /// The key is there and its value's BLAKE3 digest is this: a compare-and-swap without carrying a large value.
    EqualsDigest(Table, Vec<u8>, [u8; 32]),
    /// No key of the table begins with this prefix (an empty prefix: the table is empty).
    EmptyPrefix(Table, Vec<u8>),
}

/// A longer value (bytes) is compared by its digest.
const COMPARED_BYTES: usize = 1024;

impl Expect {
    /// The key has this value still. Of a long one no copy is made.
    pub fn unchanged(table: Table, key: Vec<u8>, value: &[u8]) -> Expect {
        match value.len() > COMPARED_BYTES {
            true => Expect::EqualsDigest(table, key, *blake3::hash(value).as_bytes()),
            false => Expect::Equals(table, key, value.to_vec()),
        }
    }

    /// The table and key (or prefix) that this precondition looks at.
    pub fn target(&self) -> (Table, &[u8]) {
        match self {
            Expect::Absent(t, k)
            | Expect::Present(t, k)
            | Expect::Equals(t, k, _)
            | Expect::EqualsDigest(t, k, _)
            | Expect::EmptyPrefix(t, k) => (*t, k),
        }
    }
}

/// Something that lives until a batch has been applied or refused, whatever becomes of the caller: the pins of the bodies
/// that it refers to. A caller that is cancelled while its batch waits takes its own variables with it, but not the batch.
/// Says nothing about equality.
#[derive(Clone, Default)]
pub struct Hold(Option<Arc<dyn Any + Send + Sync>>);

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hold(something)" } else { "Hold(nothing)" })
    }
}

impl PartialEq for Hold {
    fn eq(&self, _: &Hold) -> bool {
        true
    }
}

impl Eq for Hold {}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// All must hold, or nothing of the batch is done.
    pub expects: Vec<Expect>,
    /// The changes, applied in order.
    pub ops: Vec<Op>,
    /// The batch refers to bodies appended to packs since the last sync: they are made durable first.
    pub wrote_data: bool,
    /// Why.
    pub reason: Reason,
    /// Lives as long as the batch waits.
    pub hold: Hold,
}

impl Batch {
    /// An empty batch.
    pub fn new(reason: Reason) -> Batch {
        Batch { expects: Vec::new(), ops: Vec::new(), wrote_data: false, reason, hold: Hold::default() }
    }

    /// Adds a precondition.
    pub fn expect(mut self, expect: Expect) -> Batch {
        self.expects.push(expect);
        self
    }

    /// Adds a write.
    pub fn put(mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Batch {
        self.ops.push(Op { table, key: key.into(), value: Some(value.into()) });
        self
    }

    /// Adds a removal.
    pub fn delete(mut self, table: Table, key: impl Into<Vec<u8>>) -> Batch {
        self.ops.push(Op { table, key: key.into(), value: None });
        self
    }

    /// Keeps `pins` until the batch has been applied or refused.
    pub fn holding(mut self, pins: Arc<dyn Any + Send + Sync>) -> Batch {
        self.hold = Hold(Some(pins));
        self
    }

    /// Says that bodies were appended which this batch refers to.
    pub fn with_data(mut self) -> Batch {
        self.wrote_data = true;
        self
    }
}

/// The answer to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The sequence number of the batch's record; of the latest record when the batch had no operations.
    pub seq: u64,
}

/// One change as it was applied, with what it replaced.
#[derive(Debug, Clone)]
pub struct AppliedOp {
    /// The change.
    pub op: Op,
    /// The value before it, if there was one.
    pub old: Option<Value>,
}

/// What one group commit did, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupStats {
    /// Records written.
    pub records: usize,
    /// Batches refused because a precondition did not hold.
    pub conflicts: usize,
    /// Bytes appended to the journal.
    pub bytes: usize,
    /// Time spent making bodies durable; zero when no batch of the group wrote any.
    pub data_sync: Duration,
    /// Time spent in fdatasync of the journal; zero with relaxed durability.
    pub journal_sync: Duration,
    /// Time spent applying to the index and in observers.
    pub apply: Duration,
}

/// Makes appended bodies durable. The committer calls it before it writes the records that refer to them.
pub trait DataSync: Send + Sync {
    /// Returns when everything appended before the call is durable. An error poisons the store: after a failed
    /// fsync the kernel may have dropped the pages, and a second attempt would report a success that is none.
    fn sync(&self) -> std::io::Result<()>;

    /// Why nothing is made durable any more, if a sync failed, be it one that nobody here asked for. The store then
    /// refuses every commit, those without bodies too: an operator is told one thing, not two.
    fn failed(&self) -> Option<std::io::Error> {
        None
    }
}

/// For stores without bodies (tests, tools).
#[derive(Debug, Clone, Copy, Default)]
pub struct NoData;

impl DataSync for NoData {
    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Hears of every commit, in commit order, on the committer's thread, before the committing caller gets its answer.
/// Must be quick, must not commit and must not block.
pub trait CommitObserver: Send + Sync {
    /// A batch was made durable and applied. Not called for records replayed while opening: walk the tables then.
    fn applied(&self, seq: u64, ops: &[AppliedOp]);

    /// A group was finished; called once for each group, after its batches.
    fn group(&self, _stats: &GroupStats) {}
}
