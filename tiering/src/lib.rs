//! Tidegate's storage engine: chunks, packs, journal, index, cold tiers, and the background work that moves objects.
//!
//! `docs/ARCHITECTURE.md` follows one request of each kind through the files. This page is the map, the promises, and the
//! reason why what runs at the same time cannot harm each other.
//!
//! # Map
//!
//! | module | what it is | knows |
//! |---|---|---|
//! | [`buffer`] | large buffers that are used again | nothing of ours |
//! | [`chunk`] | cutting, naming and compressing; no I/O | nothing of ours |
//! | [`pack`] | the pack format: encode, decode, read, write, lay out | `chunk` |
//! | [`local`] | the local chunk store: open packs, chunk index, disk budget, mark and sweep, scrub | `chunk`, `pack` |
//! | [`journal`] | segments, records, the one committer and its queue | `meta`'s vocabulary |
//! | [`meta`] | the namespace: tables, batches, preconditions, snapshots, opening; sled is named in one file | `journal` |
//! | [`tier`] | cold tiers behind one trait: OSS natively, S3-compatible stores, directories | nothing of the engine |
//! | [`engine`] | what S3 asks of a store, and the scheduler | all of the above, `tidegate-policies` |
//! | [`recovery`] | the namespace in the cloud: names, claims, what can be recovered, recovering | `meta`, `journal`, `tier`, records of `engine` |
//! | [`clock`] | the one source of time | nothing |
//! | [`disk`] | changes of files that must survive a loss of power; a test can watch them | nothing |
//! | [`failpoint`] | places where a crash test ends the process | nothing |
//! | [`mutants`] | precautions that a test lets the engine forget; nothing of it without the feature | nothing |
//!
//! Architecture invariant: nothing here knows HTTP serving, the XML of S3, actix, clap or environment variables
//! ([`tier::build`] is given a function that reads them).
//!
//! # What always holds
//!
//! 1. *Acknowledged means durable.* The committer syncs packs, then the journal, then answers (`journal/committer.rs`).
//!    With [`meta::Durability::Relaxed`] a power loss takes up to the sync interval; the death of the process takes nothing.
//! 2. *A read gives the right bytes or an error.* Every frame is checked against the chunk's BLAKE3 before it leaves, from
//!    local packs (`local/store.rs`) and from tiers (`engine/remote.rs`).
//! 3. *Moving an object changes nothing that a client set*: ETag, `Last-Modified`, parts, checksums, metadata, tags. A
//!    transition or restore writes the same record with another residency and other due times.
//! 4. *No dangling reference.* Bytes are durable before the record that names them is; a remote pack is `Live` before a
//!    version becomes cold. What a crash leaves over is an orphan and is reclaimed: local chunks by the next mark,
//!    remote packs at the next start.
//! 5. *Local metadata first, remote deletion later*, by a durable state of the pack's record. The deletion names the
//!    version that the tier gave the pack, where it gave one (`docs/oss.md`).
//! 6. *An expiring restored copy never touches the remote one*: the residency goes from `Restored` to `Cold`, no more.
//! 7. *Dry runs change nothing stored and ask no tier*: [`engine::Engine::plan`], [`engine::Engine::fsck_estimate`], and [`engine::Engine::gc`] with
//!    `dry_run`. (The second one recolours the chunk index in memory, as an abandoned mark does.)
//! 8. *Queues, buffers, retries, requests, pages and lists have bounds*, which are settings or named constants. The commits that
//!    are noted while a mark runs: `MAX_SEEN_BYTES`, then the mark is given up and the next one tries again. Restore
//!    jobs: read `WINDOW` at a time, what a round has learnt of thaws `MAX_THAWED`. Of a body that is written,
//!    `MAX_WAITING_BYTES` wait for their MD5; of the versions that wait for the pack of a job, some `READY_BYTES` of records; of one that is read, a piece of `PIECE_BYTES` is at hand, or two batches of
//!    `BATCH_BYTES`. Bounded not by a number but by what is stored: 48 bytes for each local chunk, as many for each chunk in a pack of a tier (`engine/remote_index.rs`), and
//!    some 400 bytes for each remote pack (of 48 MiB) while a mark runs. Events that wait for a target: its `max_queued`; what comes then is lost, and counted.
//! 9. *Silence is a failure.* The scheduler's last turn and the lag of the oldest due action are metrics
//!    (`docs/operations.md` has the alerts).
//! 10. *When information is missing, data is kept.* A mark that fails or is stopped removes nothing; one that cannot read
//!     something keeps all that it may name (`engine/blind.rs`). A record that does not decode stops nothing else: it is
//!     reported, passed over and left as it is (`engine/broken.rs`). Only listings refuse to go on: without the key they
//!     would lie.
//!
//! # What runs at the same time, and why that is safe
//!
//! The reasons, by letter:
//!
//! - **A, compare-and-swap.** Both change the record of one key. Each commit states the exact record (or its absence) that
//!   it was decided on; the one committer decides in order. The loser reads again (PUT, DELETE, Copy, Complete: up to
//!   32 times), or gives the version up (transition, restore, scheduler, re-index): losing is no error.
//! - **B, the reader's own version.** An `ObjectHandle` holds the record it found; chunks are named by content and never
//!   change. A read holds a lease (`ReadLeases`), and a mark counts its chunks as needed, locally and remotely. A handle
//!   opened before a deletion whose read begins only after the following mark gets an error, never other bytes.
//! - **C, pins.** A writer's session lists a chunk before it touches it, and both touching and removing take the shard's lock.
//!   See `docs/adr/0008-marking-not-counting.md`.
//! - **D, the barrier.** From before the mark begins until the walk is over, every commit is noted and walked too
//!   (`MarkBarrier`). What is named later was named by something that stood then, and so is marked.
//! - **E, counters on remote packs.** A commit that makes a version refer to a pack raises `references` in the pack's
//!   record and states the record as it was; so does the commit that dooms the pack. One of the two fails. With more packs
//!   than a commit can name, it states their records and moves the tier's fence, which dooms by a mark state.
//! - **F, equal chunks.** Two writers of one chunk meet at the shard's lock; the later one keeps the earlier frame, and its
//!   own is dead weight until compaction.
//! - **G, one at a time.** One garbage collection (`gc_running`), one scheduler loop, one request for chunks that are being
//!   fetched already (`InFlight`), one snapshot or checkpoint (`Keeper`), one claim for a version (`Claims`).
//! - **H, fuzzy snapshots.** A snapshot may hold later changes than its start; replaying physical records from there makes it exact.
//! - **I, nothing shared** but the committer's queue.
//! - **K, open files.** A sweep copies, syncs, moves the index entries, and only then unlinks. A reader that holds the file goes
//!   on; one that finds it gone looks the chunk up again.
//! - **L, stopping.** The scheduler and its jobs see `stop`; they are waited for at most 10 s. After the store is closed,
//!   commits answer `Unavailable`. Every job can be cut off anywhere, since its intent is durable and its names are fresh.
//!
//! | | PUT | GET | DELETE | Copy | Complete | transition | restore | recall | mark | sweep | doom, remote delete | snapshot | re-index | shutdown |
//! |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
//! | **PUT** | AF | | | | | | | | | | | | | |
//! | **GET** | B | G | | | | | | | | | | | | |
//! | **DELETE** | A | B | A | | | | | | | | | | | |
//! | **Copy** | A | B | A | A | | | | | | | | | | |
//! | **Complete** | AF | B | A | A | A | | | | | | | | | |
//! | **transition** | A | B | A | A | A | AEG | | | | | | | | |
//! | **restore** | A | B | A | A | A | A | AG | | | | | | | |
//! | **recall** | F | G | I | F | F | I | FG | G | | | | | | |
//! | **mark** | CD | B | D | CD | CD | E | D | C | G | | | | | |
//! | **sweep** | C | BK | I | D | CD | K | G | C | G | G | | | | |
//! | **doom, remote delete** | I | B | I | DE | I | E | D | B | E | I | A | | | |
//! | **snapshot** | H | I | H | H | H | H | H | I | I | I | H | G | | |
//! | **re-index** | A | I | A | A | A | A | A | I | D | I | I | H | A | |
//! | **shutdown** | L | L | L | L | L | L | L | L | L | L | L | L | L | L |
//!
//! Shipping to the recovery tier (`engine/ship/`) reads what is durable from the journal's files and changes nothing that others
//! see, but for the floor in the table System; snapshots are the keeper's (G, H). A fenced store commits nothing any more.
//!
//! Where the letter alone does not say it:
//!
//! - *Events of notifications* (`engine/events/`) are operations of the commit that they tell of. Their ids are drawn after it was decided what the commit replaces (A), so
//!   that those of a key are in the order of its commits; whoever sends them takes out exactly those that it was given (I).
//! - *PUT or DELETE during a restore* deletes the restore's job in its own commit; the job's next step finds that its version
//!   is gone and ends.
//! - *A version that moves* between the tables Object and Version, because another came or went, does so in one commit that states both
//!   keys' latest records (A, `engine/supersede.rs`). A mark that has passed its old place and not its new one hears of the new one (D).
//! - *Copy and the source.* A copy that shares the source's chunks states the source's record as a precondition: when it is
//!   committed, the source stands, and with it its chunks and packs. A source that changed meanwhile makes the copy fail with
//!   [`engine::EngineError::Conflict`].
//! - *Complete* states the upload's record and every part's. A part that is replaced meanwhile, or a re-index that gives the
//!   upload another due time, makes it fail with `Conflict`; the client repeats.
//! - *Transition and sweep.* A version deleted during its transition may lose its chunks; the upload then fails, the
//!   job is tried again and finds nothing to move.
//! - *Two transitions* may upload one chunk twice. Both packs are right; the second copy counts as dead bytes.
//! - *Mark and transition.* Packs to doom are listed before the walk; a pack that no version has referred to yet belongs to its
//!   job, which dooms it itself when nothing came of it.
//! - *Remote deletion* is done for packs in state `Doomed` only, which none ever leaves. Deleting twice is harmless.
//! - *A check* (`engine/fsck`) reads beside everything else and looks twice at what it takes for damage; it walks as a dry run of a
//!   collection does, and looks at pack files while no sweep runs. Its repairs are commits that state what they were decided on
//!   (A); orphans become `Doomed`, expecting that no record has come.
//! - *Two re-indexes* after two changes of policy both write by the newest policy; only its digest is noted as done.
//!
//! # Locks
//!
//! Nothing holds a lock across an `await` except `gc_running` and the credentials' refresh. Order within the local store: the table in
//! [`local`]; in the index of remote chunks, its own lock and then a shard's. The threads `md5` and their writers hold one mutex
//! at a time: of the queue, or of a body. A pool of buffers is locked last. The committer holds the namespace's index
//! exclusively while it applies one batch; single lookups share it, pages of a scan take it only to begin. Observers run on the committer's thread: they take their own mutex for a moment and never commit.

pub mod buffer;
pub mod chunk;
pub mod clock;
pub mod disk;
pub mod engine;
pub mod failpoint;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod journal;
pub mod local;
pub mod meta;
pub mod mutants;
pub mod pack;
pub mod recovery;
pub mod tier;
