//! Reading on in a journal that is being written: what is durable, piece by piece, each a segment file of its own. The
//! cursor stands in an open file, so that a look costs what is new and not what is there.

use super::reader::list_segments;
use super::record::{RECORD_HEADER_BYTES, RecordHeader, verify};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::meta::MetaError;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const HELP: &str = "Stop the server and look at the journal with `tidegate journal dump`";

/// Consecutive records as a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// When the first record was written.
    pub(crate) first_ms: u64,
    /// When the last one was.
    pub(crate) last_ms: u64,
    pub(crate) bytes: Vec<u8>,
}

/// What a look came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Piece(Piece),
    /// Nothing new is durable.
    Nothing,
    /// The next record is not in the journal any more.
    Gone,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    file: File,
    first_seq: u64,
    at: u64,
}

/// A place in a journal.
#[derive(Debug)]
pub(crate) struct Follower {
    dir: PathBuf,
    next: u64,
    place: Option<Place>,
}

impl Follower {
    /// Before record `next`.
    pub(crate) fn new(dir: &Path, next: u64) -> Follower {
        Follower { dir: dir.to_owned(), next, place: None }
    }

    /// The record that comes next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The records from here to `durable`, as many as fit `max` bytes (at least one).
    pub(crate) fn take(&mut self, durable: u64, max: usize) -> Result<Taken, MetaError> {
        let mut piece: Option<Piece> = None;
        while self.next <= durable {
            let Some((header, record)) = self.record()? else {
                // What was taken so far is whole; the gap is met again at its end.
                return Ok(piece.map_or(Taken::Gone, Taken::Piece));
            };
            let piece = piece.get_or_insert_with(|| begin(&header));
            piece.bytes.extend_from_slice(&record);
            (piece.last, piece.last_ms) = (header.seq, header.time_ms);
            self.next = header.seq.saturating_add(1);
            if piece.bytes.len() >= max {
                break;
            }
        }
        Ok(piece.map_or(Taken::Nothing, Taken::Piece))
    }

    /// The next record with its padding; none when the journal begins after it.
    fn record(&mut self) -> Result<Option<(RecordHeader, Vec<u8>)>, MetaError> {
        loop {
            if self.place.is_none() && !self.find()? {
                return Ok(None);
            }
            let Some(place) = &mut self.place else { return Ok(None) };
            match read_record(place)? {
                Some((header, record)) if header.seq == self.next => {
                    place.at = place.at.saturating_add(header.record_len());
                    return Ok(Some((header, record)));
                }
                Some((header, _)) if header.seq < self.next => {
                    place.at = place.at.saturating_add(header.record_len());
                }
                _ if place.first_seq == self.next => {
                    return Err(damaged(place, "a durable record cannot be read"));
                }
                // The end of this segment: the next one begins with the record.
                _ => {
                    let before = place.path.clone();
                    self.place = None;
                    if !self.find()? {
                        return Ok(None);
                    }
                    if let Some(place) = self.place.as_ref().filter(|p| p.path == before) {
                        return Err(damaged(place, "a durable record cannot be read"));
                    }
                }
            }
        }
    }

    /// Opens the segment that has the next record, at its beginning.
    fn find(&mut self) -> Result<bool, MetaError> {
        let segments = list_segments(&self.dir)?;
        let at = segments.partition_point(|s| s.first_seq <= self.next);
        let Some(found) = at.checked_sub(1).and_then(|i| segments.into_iter().nth(i)) else { return Ok(false) };
        match File::open(&found.path) {
            Ok(file) => {
                let at = SEGMENT_HEADER_BYTES as u64;
                self.place = Some(Place { path: found.path, file, first_seq: found.first_seq, at });
                Ok(true)
            }
            // Retired meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(MetaError::io("open", &found.path, &e)),
        }
    }
}

/// A segment that begins with this record.
fn begin(header: &RecordHeader) -> Piece {
    let segment = SegmentHeader { first_seq: header.seq, epoch: header.epoch, created_ms: header.time_ms };
    Piece {
        first: header.seq,
        last: header.seq,
        first_ms: header.time_ms,
        last_ms: header.time_ms,
        bytes: segment.to_bytes().to_vec(),
    }
}

fn damaged(place: &Place, what: &str) -> MetaError {
    MetaError::corrupt(&place.path, place.at, what, HELP)
}

/// The record at the place; none where there is no good one.
fn read_record(place: &Place) -> Result<Option<(RecordHeader, Vec<u8>)>, MetaError> {
    let mut head = [0u8; RECORD_HEADER_BYTES];
    if !fill(place, &mut head, place.at)? {
        return Ok(None);
    }
    let Ok(header) = RecordHeader::parse(&head) else { return Ok(None) };
    let mut record = vec![0u8; usize::try_from(header.record_len()).unwrap_or(RECORD_HEADER_BYTES)];
    if !fill(place, &mut record, place.at)? {
        return Ok(None);
    }
    let end = RECORD_HEADER_BYTES.saturating_add(header.body_len as usize);
    let good = record.get(RECORD_HEADER_BYTES..end).is_some_and(|body| verify(&head, body));
    Ok(good.then_some((header, record)))
}

fn fill(place: &Place, buffer: &mut [u8], at: u64) -> Result<bool, MetaError> {
    match place.file.read_exact_at(buffer, at) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(MetaError::io("read", &place.path, &e)),
    }
}

/// A record of a segment file.
pub(crate) struct Lying<'a> {
    pub(crate) header: RecordHeader,
    pub(crate) body: &'a [u8],
    /// All of it, as it lies there.
    record: &'a [u8],
}

/// The records of a segment file without zeros at its end, each verified.
pub(crate) struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Records<'a>, String> {
        let (head, rest) = bytes.split_first_chunk::<SEGMENT_HEADER_BYTES>().ok_or("it is shorter than a header")?;
        SegmentHeader::parse(head)?;
        Ok(Records(rest))
    }

    /// The next one; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Lying<'a>>, String> {
        let Some(head) = self.0.first_chunk::<RECORD_HEADER_BYTES>() else {
            return if self.0.is_empty() { Ok(None) } else { Err("bytes after the last record".to_owned()) };
        };
        let header = RecordHeader::parse(head)?;
        let len = usize::try_from(header.record_len()).map_err(|e| e.to_string())?;
        let (record, after) = self.0.split_at_checked(len).ok_or("a record is cut short")?;
        let end = RECORD_HEADER_BYTES.saturating_add(header.body_len as usize);
        let body = record.get(RECORD_HEADER_BYTES..end).filter(|body| verify(head, body));
        let body = body.ok_or_else(|| format!("the checksum of record {} does not fit", header.seq))?;
        self.0 = after;
        Ok(Some(Lying { header, body, record }))
    }
}

/// Of the segment file `bytes`, the part with the records from `from` on that were written up to `until_ms`, as a segment
/// of its own, with its first and last record; none when there are none such. Every record is verified.
pub(crate) fn cut(bytes: &[u8], from: u64, to: u64, until_ms: u64) -> Result<Option<Piece>, String> {
    let mut records = Records::of(bytes)?;
    let mut piece: Option<Piece> = None;
    while let Some(Lying { header, record, .. }) = records.next()? {
        if piece.as_ref().is_some_and(|p| p.last.checked_add(1) != Some(header.seq)) {
            return Err(format!("record {} is out of order", header.seq));
        }
        if header.seq < from {
            continue;
        }
        if header.time_ms > until_ms || header.seq > to {
            return Ok(piece);
        }
        let piece = piece.get_or_insert_with(|| begin(&header));
        piece.bytes.extend_from_slice(record);
        (piece.last, piece.last_ms) = (header.seq, header.time_ms);
    }
    Ok(piece)
}

/// A segment without a record, whose first would be `first_seq`.
pub(crate) fn empty_segment(first_seq: u64, epoch: u64, created_ms: u64) -> Vec<u8> {
    SegmentHeader { first_seq, epoch, created_ms }.to_bytes().to_vec()
}
