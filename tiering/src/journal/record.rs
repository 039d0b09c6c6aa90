//! One record: a 64-byte header and the batch's operations, padded to 8 bytes. Pure functions on slices.

use crate::meta::{MAX_RECORD_BYTES, Op, Table};

/// First four bytes of a record.
pub const RECORD_MAGIC: [u8; 4] = *b"TGJ1";
/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 64;
/// Bytes of an operation before its key: table, kind, key length, value length.
pub(crate) const OP_HEADER_BYTES: usize = 8;
pub(crate) const VERSION: u8 = 1;
/// Offset of the checksum in the header; it covers what is before it and the body.
const CHECKSUM_AT: usize = 48;
const ALIGN: usize = 8;

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// The reason's number, see [`crate::meta::Reason`].
    pub reason: u16,
    /// Bytes of the body, without padding.
    pub body_len: u32,
    /// Operations in the body.
    pub ops: u32,
    /// The epoch of the process that wrote it.
    pub epoch: u64,
    /// The sequence number: one more than the record before it.
    pub seq: u64,
    /// The latest sequence number that was known durable when this record was written. A reader that finds damage at
    /// or below a later record's `durable` knows that acknowledged data is damaged, not a torn tail.
    pub durable: u64,
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

impl RecordHeader {
    /// Bytes of the whole record on disk: header, body, padding.
    pub fn record_len(&self) -> u64 {
        padded(RECORD_HEADER_BYTES as u64 + u64::from(self.body_len))
    }

    fn to_bytes(self) -> [u8; CHECKSUM_AT] {
        let mut out = [0u8; CHECKSUM_AT];
        out[0..4].copy_from_slice(&RECORD_MAGIC);
        out[4] = VERSION;
        out[6..8].copy_from_slice(&self.reason.to_le_bytes());
        out[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.ops.to_le_bytes());
        out[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        out[24..32].copy_from_slice(&self.seq.to_le_bytes());
        out[32..40].copy_from_slice(&self.durable.to_le_bytes());
        out[40..48].copy_from_slice(&self.time_ms.to_le_bytes());
        out
    }

    /// Reads a header; the reason in words when it cannot be one. The checksum is [`verify`]'s business.
    pub(crate) fn parse(bytes: &[u8; RECORD_HEADER_BYTES]) -> Result<RecordHeader, &'static str> {
        if bytes[0..4] != RECORD_MAGIC {
            return Err("no record begins here");
        }
        if bytes[4] != VERSION {
            return Err("a record of an unknown version");
        }
        let header = RecordHeader {
            reason: u16::from_le_bytes([bytes[6], bytes[7]]),
            body_len: u32_at(bytes, 8),
            ops: u32_at(bytes, 12),
            epoch: u64_at(bytes, 16),
            seq: u64_at(bytes, 24),
            durable: u64_at(bytes, 32),
            time_ms: u64_at(bytes, 40),
        };
        if header.body_len as usize > MAX_RECORD_BYTES {
            return Err("a record's length is beyond the limit");
        }
        Ok(header)
    }
}

/// `len` rounded up to the alignment of records.
fn padded(len: u64) -> u64 {
    len.next_multiple_of(ALIGN as u64)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0u8; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The first 16 bytes of BLAKE3 over `parts`.
pub(crate) fn checksum(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut out = [0u8; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

/// Whether the header's checksum fits header and body.
pub(crate) fn verify(header: &[u8; RECORD_HEADER_BYTES], body: &[u8]) -> bool {
    checksum(&[&header[..CHECKSUM_AT], body]) == header[CHECKSUM_AT..]
}

/// Appends a record of `ops` to `out`; `header.body_len` and `header.ops` are filled in here. On an error (a length
/// that the format cannot hold) `out` is as it was.
pub(crate) fn encode_record(out: &mut Vec<u8>, mut header: RecordHeader, ops: &[Op]) -> Result<(), String> {
    let start = out.len();
    out.resize(start + RECORD_HEADER_BYTES, 0);
    let body_at = out.len();
    let result = ops.iter().try_for_each(|op| encode_op(out, op.table, &op.key, op.value.as_deref())).and_then(|()| {
        let body_len = out.len() - body_at;
        if body_len > MAX_RECORD_BYTES {
            return Err(format!("a batch of {body_len} bytes; the limit is {MAX_RECORD_BYTES}"));
        }
        header.body_len = u32::try_from(body_len).map_err(|e| e.to_string())?;
        header.ops = u32::try_from(ops.len()).map_err(|e| e.to_string())?;
        Ok(())
    });
    if let Err(e) = result {
        out.truncate(start);
        return Err(e);
    }
    let head = header.to_bytes();
    let sum = checksum(&[&head, &out[body_at..]]);
    out[start..start + CHECKSUM_AT].copy_from_slice(&head);
    out[start + CHECKSUM_AT..body_at].copy_from_slice(&sum);
    out.resize(start + (out.len() - start).next_multiple_of(ALIGN), 0);
    Ok(())
}

/// Appends a record with any body and number of operations, and the right checksum.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn sealed_record(out: &mut Vec<u8>, seq: u64, ops: u32, body: &[u8]) {
    let body_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let head = RecordHeader { reason: 0, body_len, ops, epoch: 1, seq, durable: 0, time_ms: 0 }.to_bytes();
    out.extend_from_slice(&head);
    out.extend_from_slice(&checksum(&[&head, body]));
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

/// Appends one operation: table, kind (0 removes, 1 writes), key length, value length, key, value.
pub(crate) fn encode_op(out: &mut Vec<u8>, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
    let key_len = u16::try_from(key.len()).map_err(|_| format!("a key of {} bytes", key.len()))?;
    let body = value.unwrap_or_default();
    let value_len = u32::try_from(body.len()).map_err(|_| format!("a value of {} bytes", body.len()))?;
    out.push(table.code());
    out.push(u8::from(value.is_some()));
    out.extend_from_slice(&key_len.to_le_bytes());
    out.extend_from_slice(&value_len.to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(body);
    Ok(())
}

/// An operation as it lies in a record's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpView<'a> {
    pub(crate) table: Table,
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

/// Takes one operation off the front of `bytes`; returns it and the rest.
pub(crate) fn decode_op(bytes: &[u8]) -> Result<(OpView<'_>, &[u8]), String> {
    let (head, rest) = bytes.split_at_checked(OP_HEADER_BYTES).ok_or("an operation is cut short")?;
    let table = Table::from_code(head[0]).ok_or_else(|| format!("unknown table {}", head[0]))?;
    let key_len = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let value_len = u32_at(head, 4) as usize;
    let (key, rest) = rest.split_at_checked(key_len).ok_or("a key is cut short")?;
    let (value, rest) = rest.split_at_checked(value_len).ok_or("a value is cut short")?;
    let value = match head[1] {
        0 if value_len == 0 => None,
        1 => Some(value),
        kind => return Err(format!("unknown operation kind {kind}")),
    };
    Ok((OpView { table, key, value }, rest))
}

/// Every operation of a body, which must hold exactly `count` of them.
pub(crate) fn parse_ops(mut body: &[u8], count: u32) -> Result<Vec<OpView<'_>>, String> {
    let mut ops = Vec::new();
    for _ in 0..count {
        let (op, rest) = decode_op(body)?;
        ops.push(op);
        body = rest;
    }
    if !body.is_empty() {
        return Err(format!("{} bytes after the last operation", body.len()));
    }
    Ok(ops)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sample of `docs/formats.md`: PutObject, one write and one removal.
    const SAMPLE: &str = "54474a310100040016000000020000000300000000000000070000000000000006000000000000000068e5cf8b010000\
        31aa96b07973f30d8e1d170e00de65ad0301030002000000622f6b76310600010000000000640000";

    fn sample() -> (RecordHeader, Vec<Op>) {
        let header =
            RecordHeader { reason: 4, body_len: 0, ops: 0, epoch: 3, seq: 7, durable: 6, time_ms: 1_700_000_000_000 };
        let ops = vec![
            Op { table: Table::Object, key: b"b/k".to_vec(), value: Some(b"v1".to_vec()) },
            Op { table: Table::Due, key: b"d".to_vec(), value: None },
        ];
        (header, ops)
    }

    #[test]
    fn a_record_of_version_1_has_exactly_these_bytes() {
        let (header, ops) = sample();
        let mut bytes = Vec::new();
        encode_record(&mut bytes, header, &ops).unwrap();
        assert_eq!(hex::encode(&bytes), SAMPLE);
        let (head, body) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>().unwrap();
        let parsed = RecordHeader::parse(head).unwrap();
        assert_eq!(parsed, RecordHeader { body_len: 22, ops: 2, ..header });
        assert_eq!(parsed.record_len(), bytes.len() as u64);
        let body = &body[..22];
        assert!(verify(head, body));
        let views = parse_ops(body, 2).unwrap();
        assert_eq!(views[0], OpView { table: Table::Object, key: b"b/k", value: Some(b"v1") });
        assert_eq!(views[1], OpView { table: Table::Due, key: b"d", value: None });
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let (header, ops) = sample();
        let mut bytes = Vec::new();
        encode_record(&mut bytes, header, &ops).unwrap();
        let covered = RECORD_HEADER_BYTES + 22; // what follows is padding
        for bit in 0..covered * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (head, body) = bad.split_first_chunk::<RECORD_HEADER_BYTES>().unwrap();
            assert!(RecordHeader::parse(head).is_err() || !verify(head, &body[..22]), "bit {bit}");
        }
    }

    #[test]
    fn operations_that_do_not_fill_their_body_are_refused() {
        let mut body = Vec::new();
        encode_op(&mut body, Table::Object, b"key", Some(b"value")).unwrap();
        for len in 0..body.len() {
            assert!(parse_ops(&body[..len], 1).is_err());
        }
        assert!(parse_ops(&body, 0).is_err());
        assert!(parse_ops(&body, 2).is_err());
        let unknown_table = [99u8, 0, 0, 0, 0, 0, 0, 0];
        assert!(parse_ops(&unknown_table, 1).unwrap_err().contains("table 99"));
        assert!(encode_op(&mut body, Table::Object, &[0; 70_000], None).is_err());
    }
}
