//! Reading the journal: from a sequence number to the end, with the one rule for damage. At the end of the last
//! segment an invalid record is a torn tail (a write that a crash cut short, never acknowledged). Anywhere else, and also
//! there when a later record says that the damaged place was durable, it is corruption: nobody may guess around it.

use super::record::{RECORD_HEADER_BYTES, RECORD_MAGIC, RecordHeader, VERSION, verify};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::meta::MetaError;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What to do about a damaged journal.
const HELP: &str = "Restore this file from a backup; if there is none, move the damaged segment and all later ones \
                    aside and run `tidegate index rebuild`, which keeps every change before the damage";

/// A segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    pub(crate) first_seq: u64,
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
}

/// The segments of `dir` in order. Files with other names are left alone.
pub(crate) fn list_segments(dir: &Path) -> Result<Vec<SegmentFile>, MetaError> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(MetaError::io("list", dir, &e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| MetaError::io("list", dir, &e))?;
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|n| n.strip_suffix(".seg")) else { continue };
        let Ok(first_seq) = stem.parse::<u64>() else { continue };
        let path = entry.path();
        let len = entry.metadata().map_err(|e| MetaError::io("examine", &path, &e))?.len();
        found.push(SegmentFile { first_seq, path, len });
    }
    found.sort_by_key(|s| s.first_seq);
    Ok(found)
}

/// Where the journal ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The last segment.
    pub(crate) path: PathBuf,
    /// Where its valid records end.
    pub(crate) used: u64,
    /// Where the records begin that nothing proves durable.
    pub(crate) doubtful: u64,
    /// The last record's number; one less than the segment's first when it has none.
    pub(crate) last_seq: u64,
    /// The largest epoch seen.
    pub(crate) epoch: u64,
    /// What follows the valid records is not zeros: a write was cut short.
    pub(crate) torn: bool,
    /// Records passed to the visitor.
    pub(crate) visited: u64,
    /// Bytes of them.
    pub(crate) bytes: u64,
}

/// A visitor of records: header and body.
pub(crate) type Visit<'a> = dyn FnMut(&RecordHeader, &[u8]) -> Result<(), MetaError> + 'a;

/// Reads every record from `from_seq` on, in order, and tells where the journal ends. `None` when there is no segment.
/// The journal must reach back to `from_seq`. The segments before it are not read.
pub(crate) fn read_from(dir: &Path, from_seq: u64, visit: &mut Visit<'_>) -> Result<Option<Tail>, MetaError> {
    let segments = list_segments(dir)?;
    let Some(first) = segments.first() else { return Ok(None) };
    if first.first_seq > from_seq {
        let what = format!("the journal begins at record {}, but record {from_seq} is needed", first.first_seq);
        return Err(MetaError::corrupt(&first.path, 0, what, HELP));
    }
    let start = segments.partition_point(|s| s.first_seq <= from_seq).saturating_sub(1);
    let mut tail: Option<Tail> = None;
    for (i, segment) in segments.iter().enumerate().skip(start) {
        let mut scan = Scan::open(segment)?;
        if let Some(before) = &tail {
            check_joint(before, segment, &scan)?;
        }
        let last = i + 1 == segments.len();
        tail = Some(scan.run(tail, last, from_seq, visit)?);
    }
    Ok(tail)
}

fn check_joint(before: &Tail, segment: &SegmentFile, scan: &Scan<'_>) -> Result<(), MetaError> {
    if before.last_seq.checked_add(1) != Some(segment.first_seq) || scan.header.epoch < before.epoch {
        let what = format!("the segment before it ends at record {}; a segment is missing or foreign", before.last_seq);
        return Err(MetaError::corrupt(&segment.path, 0, what, HELP));
    }
    Ok(())
}

struct Scan<'a> {
    segment: &'a SegmentFile,
    header: SegmentHeader,
    input: BufReader<File>,
    at: u64,
    body: Vec<u8>,
}

/// What stands at a place in a segment.
enum Found {
    Record(RecordHeader),
    /// Nothing but the end of the file or a header of zeros.
    Blank,
    Invalid(&'static str),
    /// A record of a version that only later servers write. Magic and version lie in one aligned word, so no write that was cut
    /// short looks like this; to take it for one would cut off what a later server has acknowledged.
    Foreign(u8),
}

impl<'a> Scan<'a> {
    fn open(segment: &'a SegmentFile) -> Result<Scan<'a>, MetaError> {
        let file = File::open(&segment.path).map_err(|e| MetaError::io("open", &segment.path, &e))?;
        let mut input = BufReader::with_capacity(256 * 1024, file);
        let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
        read_up_to(&mut input, &mut bytes).map_err(|e| MetaError::io("read", &segment.path, &e))?;
        // A segment gets its name only after its header is durable, so this is never a torn write.
        let header = SegmentHeader::parse(&bytes).map_err(|what| MetaError::corrupt(&segment.path, 0, what, HELP))?;
        if header.first_seq != segment.first_seq {
            let what = format!("its name says first record {}, its header {}", segment.first_seq, header.first_seq);
            return Err(MetaError::corrupt(&segment.path, 0, what, HELP));
        }
        Ok(Scan { segment, header, input, at: SEGMENT_HEADER_BYTES as u64, body: Vec::new() })
    }

    fn run(
        &mut self,
        before: Option<Tail>,
        last: bool,
        from_seq: u64,
        visit: &mut Visit<'_>,
    ) -> Result<Tail, MetaError> {
        let (mut visited, mut bytes) = before.as_ref().map_or((0, 0), |b| (b.visited, b.bytes));
        let mut epoch = before.map_or(0, |b| b.epoch).max(self.header.epoch);
        let mut last_seq = self.header.first_seq.saturating_sub(1);
        let mut ends: std::collections::VecDeque<(u64, u64)> = std::collections::VecDeque::new();
        let mut doubtful = self.at;
        let torn = loop {
            let found = self.next().map_err(|e| MetaError::io("read", &self.segment.path, &e))?;
            let header = match found {
                Found::Record(h) if h.seq == last_seq.saturating_add(1) && h.epoch >= epoch => h,
                Found::Record(_) => break self.judge("a record out of order", last_seq, last)?,
                Found::Blank => break self.judge_blank(last_seq, last)?,
                Found::Invalid(what) => break self.judge(what, last_seq, last)?,
                Found::Foreign(version) => return Err(self.foreign(version)),
            };
            if header.seq >= from_seq {
                visit(&header, &self.body)?;
                visited += 1;
                bytes += header.record_len();
            }
            self.at += header.record_len();
            (last_seq, epoch) = (header.seq, header.epoch);
            ends.push_back((header.seq, self.at));
            while let Some(&(_, end)) = ends.front().filter(|(seq, _)| *seq <= header.durable) {
                doubtful = end;
                ends.pop_front();
            }
        };
        let path = self.segment.path.clone();
        Ok(Tail { path, used: self.at, doubtful, last_seq, epoch, torn, visited, bytes })
    }

    /// Reads what stands at `self.at`, the body into `self.body`.
    fn next(&mut self) -> std::io::Result<Found> {
        let mut head = [0u8; RECORD_HEADER_BYTES];
        let got = read_up_to(&mut self.input, &mut head)?;
        if head.iter().all(|b| *b == 0) {
            return Ok(Found::Blank);
        }
        if got < head.len() {
            return Ok(Found::Invalid("a record's header is cut short"));
        }
        let header = match RecordHeader::parse(&head) {
            Ok(header) => header,
            Err(_) if head[..4] == RECORD_MAGIC && head[4] != VERSION => return Ok(Found::Foreign(head[4])),
            Err(what) => return Ok(Found::Invalid(what)),
        };
        let with_padding = header.record_len() - RECORD_HEADER_BYTES as u64;
        if self.at.saturating_add(header.record_len()) > self.segment.len {
            return Ok(Found::Invalid("a record is longer than its file"));
        }
        self.body.resize(usize::try_from(with_padding).unwrap_or(usize::MAX), 0);
        if read_up_to(&mut self.input, &mut self.body)? < self.body.len() {
            return Ok(Found::Invalid("a record's body is cut short"));
        }
        self.body.truncate(header.body_len as usize);
        if !verify(&head, &self.body) {
            return Ok(Found::Invalid("a record's checksum does not fit"));
        }
        Ok(Found::Record(header))
    }

    fn foreign(&self, version: u8) -> MetaError {
        let (file, at) = (self.segment.path.display(), self.at);
        MetaError::Invalid(format!(
            "{file} has at byte {at} a record of version {version}, which this server does not know (it knows {VERSION}); \
             start the newer server that wrote it"
        ))
    }

    /// Zeros at the place of a record: the end, unless something stands behind them.
    fn judge_blank(&self, last_seq: u64, last: bool) -> Result<bool, MetaError> {
        let rest = self.rest()?;
        if rest.iter().all(|b| *b == 0) {
            return Ok(false);
        }
        self.judge("zeros where a record should be", last_seq, last)
    }

    /// Decides about an invalid place after record `last_seq`: a torn tail (true) or corruption.
    fn judge(&self, what: &str, last_seq: u64, last: bool) -> Result<bool, MetaError> {
        if !last {
            let what = format!("after record {last_seq}: {what}, and later segments follow");
            return Err(MetaError::corrupt(&self.segment.path, self.at, what, HELP));
        }
        match later_proof(&self.rest()?, last_seq) {
            Some(seq) => {
                let what = format!("after record {last_seq}: {what}, but the later record {seq} proves it was durable");
                Err(MetaError::corrupt(&self.segment.path, self.at, what, HELP))
            }
            None => Ok(true),
        }
    }

    /// The bytes from `self.at` to the end of the file: at most a segment, read only where a crash or damage was.
    fn rest(&self) -> Result<Vec<u8>, MetaError> {
        let read = || {
            let mut file = File::open(&self.segment.path)?;
            file.seek(SeekFrom::Start(self.at))?;
            let mut rest = Vec::new();
            file.read_to_end(&mut rest)?;
            Ok::<_, std::io::Error>(rest)
        };
        read().map_err(|e| MetaError::io("read", &self.segment.path, &e))
    }
}

/// A valid record in `rest` that was written when something after `last_seq` was already durable. Records of the same
/// unfinished write do not count: a power cut may keep the later pages of a write and lose the earlier ones.
fn later_proof(rest: &[u8], last_seq: u64) -> Option<u64> {
    let (words, _) = rest.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        if word[..4] != RECORD_MAGIC {
            continue;
        }
        let Some((head, body)) = rest[i * 8..].split_first_chunk::<RECORD_HEADER_BYTES>() else { break };
        let Ok(header) = RecordHeader::parse(head) else { continue };
        let Some(body) = body.get(..header.body_len as usize) else { continue };
        if header.durable > last_seq && header.seq > last_seq && verify(head, body) {
            return Some(header.seq);
        }
    }
    None
}

/// Fills `buffer` as far as the input goes; returns how far. Whether less is a torn tail or damage, each file decides.
pub(crate) fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match input.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}
