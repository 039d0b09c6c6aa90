//! The workload: writers with keys of their own, beside what the store does by itself. And what must be there after a cut.

use super::common::{Dice, body, copy, get, noise};
use super::log::{Event, Log};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tidegate_tiering::engine::*;

pub const BUCKET: &str = "bkt";

/// Uploads: the id (none before it is known), and the parts' ETags by number.
pub type Upload = (Option<String>, BTreeMap<u32, Option<String>>);

/// What a key holds.
#[derive(Clone, Default, PartialEq)]
pub struct State {
    pub object: Option<Arc<Vec<u8>>>,
    pub upload: Option<Upload>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let object = self.object.as_ref().map(|b| (b.len(), blake3::hash(b).to_hex()[..8].to_owned()));
        write!(f, "object {object:?}, upload {:?}", self.upload)
    }
}

impl State {
    /// Whether what was found is this, where this is known.
    fn is(&self, found: &State) -> bool {
        let upload = match (&self.upload, &found.upload) {
            (None, None) => true,
            (Some((id, parts)), Some((found_id, found_parts))) => {
                let fits = |(n, etag): (&u32, &Option<String>)| {
                    found_parts.get(n).is_some_and(|found| etag.is_none() || etag == found)
                };
                (id.is_none() || id == found_id) && parts.len() == found_parts.len() && parts.iter().all(fits)
            }
            _ => false,
        };
        upload && self.object == found.object
    }
}

struct Op {
    key: String,
    after: State,
}

/// All operations of a run, by their number.
#[derive(Default)]
pub struct History {
    ops: Mutex<Vec<Op>>,
}

/// What a cut after some events may leave of each key: what was acknowledged last, and what was under way.
#[derive(Clone, Default)]
pub struct Allowed(pub BTreeMap<String, (State, Option<(usize, State)>)>);

impl History {
    pub fn allowed(&self, events: &[Event]) -> Allowed {
        let ops = self.ops.lock().unwrap();
        let mut allowed = Allowed::default();
        for event in events {
            let n = match event {
                Event::OpBegins(n) | Event::OpEnds(n) | Event::OpGone(n) => *n,
                _ => continue,
            };
            let entry = allowed.0.entry(ops[n].key.clone()).or_default();
            match event {
                Event::OpBegins(_) => entry.1 = Some((n, ops[n].after.clone())),
                Event::OpEnds(_) => *entry = (ops[n].after.clone(), None),
                _ => entry.1 = None,
            }
        }
        allowed
    }

    /// What was acknowledged of each key.
    pub fn acknowledged(&self, events: &[Event]) -> BTreeMap<String, State> {
        let all = self.allowed(events).0.into_iter().map(|(key, (state, _))| (key, state));
        all.filter(|(_, state)| *state != State::default()).collect()
    }

    fn begin(&self, log: &Log, key: &str, after: State) -> usize {
        let mut ops = self.ops.lock().unwrap();
        ops.push(Op { key: key.to_owned(), after });
        log.push(Event::OpBegins(ops.len() - 1));
        ops.len() - 1
    }

    fn end(&self, log: &Log, n: usize, after: &State) {
        self.ops.lock().unwrap()[n].after = after.clone();
        log.push(Event::OpEnds(n));
    }
}

impl Allowed {
    /// Compares, and answers what each key holds.
    pub async fn check(&self, engine: &Engine) -> Result<BTreeMap<String, State>, String> {
        let mut states = BTreeMap::new();
        for (key, (acknowledged, under_way)) in &self.0 {
            let found = found(engine, key).await.map_err(|e| format!("{key}: {e}"))?;
            let state = [Some(acknowledged), under_way.as_ref().map(|(_, state)| state)];
            if !state.into_iter().flatten().any(|state| state.is(&found)) {
                return Err(format!("{key} has {found:?}; acknowledged {acknowledged:?}, under way {under_way:?}"));
            }
            states.insert(key.clone(), found);
        }
        let listed = match list(engine) {
            Err(EngineError::NoSuchBucket(_)) => BTreeSet::new(),
            listed => listed.map_err(|e| format!("listing: {e}"))?,
        };
        let want: BTreeSet<&str> = states.iter().filter(|(_, s)| s.object.is_some()).map(|(k, _)| k.as_str()).collect();
        match listed.iter().map(String::as_str).eq(want.iter().copied()) {
            true => Ok(states),
            false => Err(format!("listed {listed:?}, but there are {want:?}")),
        }
    }

    /// What was under way and is there, and what is not.
    pub fn settle(&self, states: &BTreeMap<String, State>, log: &Log) {
        for (key, (_, under_way)) in &self.0 {
            if let Some((n, after)) = under_way {
                log.push(if after.is(&states[key]) { Event::OpEnds(*n) } else { Event::OpGone(*n) });
            }
        }
    }
}

fn list(engine: &Engine) -> Result<BTreeSet<String>, EngineError> {
    let mut list = ListObjects { bucket: BUCKET.into(), max_keys: 7, ..Default::default() };
    let mut all = BTreeSet::new();
    loop {
        let page = engine.list_objects(&list)?;
        all.extend(page.objects.into_iter().map(|o| o.key));
        match page.next {
            Some(next) => list.after = Some(next),
            None => return Ok(all),
        }
    }
}

async fn found(engine: &Engine, key: &str) -> Result<State, EngineError> {
    let object = match get(engine, key).await {
        Ok(bytes) => Some(Arc::new(bytes)),
        Err(EngineError::NoSuchKey { .. }) => None,
        Err(EngineError::NoSuchBucket(_)) => return Ok(State::default()),
        Err(e) => return Err(e),
    };
    let uploads = ListUploads { bucket: BUCKET.into(), prefix: key.into(), max_uploads: 10, ..Default::default() };
    let uploads = engine.list_uploads(&uploads)?.uploads;
    let upload = match uploads.first() {
        None => None,
        Some(upload) => {
            let parts = engine.list_parts(BUCKET, key, &upload.upload_id, 0, 100)?.parts;
            let parts = parts.into_iter().map(|p| (p.number, Some(p.etag))).collect();
            Some((Some(upload.upload_id.clone()), parts))
        }
    };
    Ok(State { object, upload })
}

/// One writer: its keys and what they hold.
pub struct Writer {
    dice: Dice,
    keys: Vec<(String, State)>,
    /// Bytes of parts, by their ETag.
    parts: BTreeMap<String, Vec<u8>>,
}

/// Pieces of a few long strings, so that bodies share chunks across writers, some of it compressible.
fn any_body(dice: &mut Dice) -> Vec<u8> {
    let most = [60, 3_000, 3_000, 30_000, 160_000][dice.below(5) as usize];
    let len = 1 + dice.below(most) as usize;
    match dice.below(5) {
        0 => vec![dice.below(3) as u8; len],
        1..=2 => noise(dice.roll(), len),
        _ => {
            let long = noise(dice.below(2), 180_000);
            let from = dice.below(10) as usize * 2_000;
            long[from..(from + len).min(long.len())].to_vec()
        }
    }
}

impl Writer {
    pub fn new(number: u64, seed: u64, keys: u64) -> Writer {
        // No key is a prefix of another: uploads are listed by it.
        let keys = (0..keys).map(|n| (format!("w{number}/{n:02}"), State::default())).collect();
        Writer { dice: Dice(seed ^ (number << 32)), keys, parts: BTreeMap::new() }
    }

    /// After a kill: what was done since it is forgotten, and what was under way has happened or not.
    pub fn found(&mut self, states: &BTreeMap<String, State>) {
        for (key, state) in &mut self.keys {
            *state = states.get(key).cloned().unwrap_or_default();
        }
    }

    /// One operation, chosen by the dice; begin and acknowledgement go to the log. A key whose operation failed is left alone from
    /// then on: what became of it is not known.
    pub async fn step(&mut self, engine: &Engine, log: &Log, history: &History) -> Result<(), EngineError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let at = self.dice.below(self.keys.len() as u64) as usize;
        let done = match self.dice.below(10) {
            0..=3 => self.put(at, engine, log, history).await,
            4 => self.delete(at, engine, log, history).await,
            5 => self.copy(at, engine, log, history).await,
            _ => self.upload(at, engine, log, history).await,
        };
        if done.is_err() {
            self.keys.remove(at);
        }
        done
    }

    async fn put(&mut self, at: usize, engine: &Engine, log: &Log, history: &History) -> Result<(), EngineError> {
        let bytes = any_body(&mut self.dice);
        let (key, state) = &mut self.keys[at];
        let after = State { object: Some(Arc::new(bytes.clone())), upload: state.upload.clone() };
        let n = history.begin(log, key, after.clone());
        super::common::put(engine, key, &bytes).await?;
        history.end(log, n, &after);
        *state = after;
        Ok(())
    }

    async fn delete(&mut self, at: usize, engine: &Engine, log: &Log, history: &History) -> Result<(), EngineError> {
        let (key, state) = &mut self.keys[at];
        let after = State { object: None, upload: state.upload.clone() };
        let n = history.begin(log, key, after.clone());
        engine.delete_object(BUCKET, key, DeleteRequest::default()).await?;
        history.end(log, n, &after);
        *state = after;
        Ok(())
    }

    async fn copy(&mut self, at: usize, engine: &Engine, log: &Log, history: &History) -> Result<(), EngineError> {
        let (from, source) = &self.keys[(at + 1) % self.keys.len()];
        let (from, Some(object)) = (from.clone(), source.object.clone()) else { return Ok(()) };
        let (key, state) = &mut self.keys[at];
        let after = State { object: Some(object), upload: state.upload.clone() };
        let n = history.begin(log, key, after.clone());
        copy(engine, &from, key, None).await?;
        history.end(log, n, &after);
        *state = after;
        Ok(())
    }

    async fn upload(&mut self, at: usize, engine: &Engine, log: &Log, history: &History) -> Result<(), EngineError> {
        let turn = self.dice.below(6);
        let (key, state) = &mut self.keys[at];
        let Some((Some(id), known)) = state.upload.clone() else {
            let mut after = State { object: state.object.clone(), upload: Some((None, BTreeMap::new())) };
            let n = history.begin(log, key, after.clone());
            let attributes = ObjectAttributes::default();
            let create = CreateUpload { bucket: BUCKET.into(), key: key.clone(), attributes, checksum: None };
            after.upload = Some((Some(engine.create_upload(create).await?), BTreeMap::new()));
            history.end(log, n, &after);
            *state = after;
            return Ok(());
        };
        if turn == 0 {
            let after = State { object: state.object.clone(), upload: None };
            let n = history.begin(log, key, after.clone());
            engine.abort_upload(BUCKET, key, &id).await?;
            history.end(log, n, &after);
            *state = after;
            return Ok(());
        }
        let bytes_of = |etag: &Option<String>| self.parts.get(etag.as_deref().unwrap_or_default()).cloned();
        // Of a part that was under way when the process died the bytes are not known here.
        let whole: Option<Vec<Vec<u8>>> = known.values().map(bytes_of).collect();
        if let Some(whole) = whole.filter(|parts| turn <= 2 && !parts.is_empty()) {
            let bytes = whole.concat();
            let after = State { object: Some(Arc::new(bytes)), upload: None };
            let n = history.begin(log, key, after.clone());
            let part = |(n, etag): (&u32, &Option<String>)| CompletedPart {
                number: *n,
                etag: etag.clone().unwrap_or_default(),
                checksum: None,
            };
            let complete = CompleteUpload {
                bucket: BUCKET.into(),
                key: key.clone(),
                upload_id: id,
                parts: known.iter().map(part).collect(),
                expect_checksum: None,
                expect_size: None,
                condition: WriteCondition::default(),
            };
            engine.complete_upload(complete).await?;
            history.end(log, n, &after);
            *state = after;
            return Ok(());
        }
        let bytes = any_body(&mut self.dice);
        let number = known.len() as u32 + 1;
        let mut after = state.clone();
        let etag = |after: &mut State, etag| {
            if let Some((_, parts)) = &mut after.upload {
                parts.insert(number, etag);
            }
        };
        etag(&mut after, None);
        let n = history.begin(log, key, after.clone());
        let part = UploadPart {
            bucket: BUCKET.into(),
            key: key.clone(),
            upload_id: id,
            number,
            expect: BodyExpectation::default(),
        };
        let info = engine.upload_part(part, body(&bytes)).await?;
        self.parts.insert(info.etag.clone(), bytes);
        etag(&mut after, Some(info.etag));
        history.end(log, n, &after);
        *state = after;
        Ok(())
    }
}
