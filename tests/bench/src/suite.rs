//! The workloads: what is done, how often, over how many connections.

use crate::data::Kind;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What one operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// PutObject of a fresh body.
    Put,
    /// GetObject of one that `prefix` has.
    Get,
    /// HeadObject.
    Head,
    /// A range of 64 KiB somewhere in the object.
    Range,
    /// A page of 1,000 keys; the next one continues.
    List,
    /// The folders below a prefix: a listing with a delimiter.
    Folders,
    /// One part of 16 MiB of a multipart upload of `size` bytes.
    Multipart,
    /// One version of six with 1% edited in runs of `edit` bytes.
    Versions {
        /// Bytes of a run.
        edit: usize,
    },
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// Its name in the table.
    pub name: &'static str,
    /// The operation.
    pub action: Action,
    /// Prefix of the keys; reads use what an earlier line wrote there.
    pub prefix: &'static str,
    /// Bytes of a body.
    pub size: usize,
    /// Objects written, or to read from, at scale 1.
    pub objects: u64,
    /// Operations at scale 1.
    pub operations: u64,
    /// Connections.
    pub connections: usize,
    /// What bodies are made of.
    pub kind: Kind,
    /// The server's files are dropped from the page cache before the run.
    pub evicted: bool,
}

const BASE: Workload = Workload {
    name: "",
    action: Action::Put,
    prefix: "",
    size: 0,
    objects: 0,
    operations: 0,
    connections: 1,
    kind: Kind::Random,
    evicted: false,
};

const fn put(name: &'static str, prefix: &'static str, size: usize, count: u64, connections: usize) -> Workload {
    Workload { name, prefix, size, objects: count, operations: count, connections, ..BASE }
}

const fn read(name: &'static str, of: Workload, action: Action, operations: u64, connections: usize) -> Workload {
    Workload { name, action, operations, connections, ..of }
}

const SMALL: Workload = put("PUT 4 KiB, 16", "s4k", 4 * KIB, 10_000, 16);
const MEDIUM: Workload = put("PUT 64 KiB, 16", "s64k", 64 * KIB, 4_000, 16);
const LARGE: Workload = put("PUT 1 MiB random, 8", "s1m", MIB, 1_000, 8);
const HUGE: Workload = put("PUT 64 MiB, 4", "s64m", 64 * MIB, 24, 4);

/// All lines, in the order in which they run.
pub const SUITE: &[Workload] = &[
    put("PUT 4 KiB, 1 connection", "one", 4 * KIB, 2_000, 1),
    SMALL,
    read("HEAD, 16", SMALL, Action::Head, 60_000, 16),
    read("GET 4 KiB, 16", SMALL, Action::Get, 40_000, 16),
    read("LIST, pages of 1,000", SMALL, Action::List, 200, 1),
    read("LIST with delimiter, 64 folders", SMALL, Action::Folders, 200, 1),
    MEDIUM,
    read("GET 64 KiB, 16", MEDIUM, Action::Get, 20_000, 16),
    LARGE,
    read("ranges of 64 KiB in 1 MiB, 8", LARGE, Action::Range, 20_000, 8),
    read("GET 1 MiB, 8", LARGE, Action::Get, 3_000, 8),
    HUGE,
    read("GET 64 MiB, 4", HUGE, Action::Get, 48, 4),
    Workload { evicted: true, ..read("GET 64 MiB, 4, from disk", HUGE, Action::Get, 24, 4) },
    Workload {
        name: "multipart 256 MiB, 4",
        action: Action::Multipart,
        prefix: "mp",
        size: 256 * MIB,
        objects: 4,
        operations: 64,
        connections: 4,
        ..BASE
    },
    Workload {
        name: "six versions of 256 MiB, 4 KiB runs",
        action: Action::Versions { edit: 4 * KIB },
        prefix: "v4k",
        size: 256 * MIB,
        objects: 6,
        operations: 6,
        ..BASE
    },
    Workload {
        name: "six versions of 256 MiB, 64 KiB runs",
        action: Action::Versions { edit: 64 * KIB },
        prefix: "v64k",
        size: 256 * MIB,
        objects: 6,
        operations: 6,
        ..BASE
    },
    Workload { name: "PUT 1 MiB text, 8", kind: Kind::Text, prefix: "text", ..put("", "", MIB, 500, 8) },
    Workload { name: "PUT 1 MiB log lines, 8", kind: Kind::Log, prefix: "log", ..put("", "", MIB, 500, 8) },
];
