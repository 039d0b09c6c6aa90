//! Gathers the facts that a decision needs, and asks for it.
//!
//! What a bucket says is parsed once and kept as long as the bucket's record says the same; of the request itself, nothing is looked
//! up before a policy or an access control list asks for it.

use s3s::dto;
use s3s::{S3Error, S3Result, s3_error};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use tidegate_tiering::clock::{Clock, Timestamp};
use tidegate_tiering::engine::{BucketInfo, BucketSettings, Engine, EngineError, ObjectAttributes};

use super::condition_keys::{Asking, AskingFor};
use super::error::from_engine;
use crate::auth::acl::Acl;
use crate::auth::decide::{BucketFacts, Decision, ObjectFacts, decide, decide_alone};
use crate::auth::identity::IdentitySource;
use crate::auth::policy::{Ask, PolicyDocument};
use crate::auth::settings::{Ownership, OwnershipControls, PublicAccessBlock};

/// Under these names a bucket keeps its documents.
pub(crate) const POLICY: &str = "policy";
pub(crate) const ACL: &str = "acl";
pub(crate) const OWNERSHIP: &str = "ownership";
pub(crate) const PUBLIC_ACCESS_BLOCK: &str = "public-access-block";
const KEPT: [&str; 4] = [POLICY, ACL, OWNERSHIP, PUBLIC_ACCESS_BLOCK];

/// Buckets whose documents are kept parsed. A policy has at most 20 KiB.
const MAX_PARSED: usize = 1024;

/// What is asked about.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    pub(crate) bucket: &'a str,
    /// Empty for the bucket itself.
    pub(crate) key: &'a str,
    pub(crate) version: Option<&'a str>,
    /// The object is made by the request: whose the one of that name was does not matter.
    pub(crate) is_new: bool,
}

impl Place<'_> {
    fn arn(&self) -> String {
        match (self.bucket, self.key) {
            ("", _) => "arn:aws:s3:::*".to_owned(),
            (bucket, "") => format!("arn:aws:s3:::{bucket}"),
            (bucket, key) => format!("arn:aws:s3:::{bucket}/{key}"),
        }
    }
}

struct Parsed {
    from: Vec<Option<Vec<u8>>>,
    owner: Option<String>,
    facts: Arc<BucketFacts>,
}

impl Parsed {
    fn is_of(&self, settings: &BucketSettings) -> bool {
        self.owner == settings.owner
            && KEPT.iter().zip(&self.from).all(|(name, kept)| settings.config.get(*name) == kept.as_ref())
    }
}

/// Who may do what.
pub(crate) struct Authority {
    engine: Engine,
    identities: Arc<dyn IdentitySource>,
    clock: Arc<dyn Clock>,
    parsed: RwLock<HashMap<String, Parsed>>,
    /// The ownership controls of new buckets.
    pub(crate) default_ownership: Ownership,
}

impl Authority {
    pub(crate) fn new(engine: Engine, identities: Arc<dyn IdentitySource>, default_ownership: Ownership) -> Self {
        let clock = engine.clock();
        Self { engine, identities, clock, parsed: RwLock::default(), default_ownership }
    }

    pub(crate) fn identities(&self) -> &dyn IdentitySource {
        self.identities.as_ref()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The account that a record names as its owner.
    pub(crate) fn owner_id(&self, recorded: Option<&String>) -> String {
        recorded.cloned().unwrap_or_else(|| self.identities.first_account().id.clone())
    }

    /// How a record names this account.
    pub(crate) fn recorded(&self, id: &str) -> Option<String> {
        (self.identities.first_account().id != id).then(|| id.to_owned())
    }

    /// An owner as answers show it.
    pub(crate) fn shown(&self, id: &str) -> dto::Owner {
        let name = self.identities.account(id).map(|account| account.display_name.clone());
        dto::Owner { id: Some(id.to_owned()), display_name: name }
    }

    /// What the bucket says.
    ///
    /// # Errors
    /// `NoSuchBucket`; `InternalError` when what is kept for it cannot be read.
    pub(crate) fn bucket(&self, name: &str) -> S3Result<Arc<BucketFacts>> {
        self.facts(&self.engine.bucket(name).map_err(from_engine)?)
    }

    /// [`Authority::bucket`] of a record that was looked up already.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn facts(&self, bucket: &BucketInfo) -> S3Result<Arc<BucketFacts>> {
        let settings = &bucket.settings;
        {
            let parsed = self.parsed.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = parsed.get(&bucket.name).filter(|known| known.is_of(settings)) {
                return Ok(Arc::clone(&known.facts));
            }
        }
        let facts = self.parse(bucket).map_err(|what| {
            let error = format!("the {what} that is kept for the bucket {} cannot be read", bucket.name);
            from_engine(EngineError::Corrupt(error))
        })?;
        let facts = Arc::new(facts);
        let from = KEPT.iter().map(|name| settings.config.get(*name).cloned()).collect();
        let known = Parsed { from, owner: settings.owner.clone(), facts: Arc::clone(&facts) };
        let mut parsed = self.parsed.write().unwrap_or_else(PoisonError::into_inner);
        if parsed.len() >= MAX_PARSED && !parsed.contains_key(&bucket.name) {
            let any = parsed.keys().next().cloned();
            any.map(|name| parsed.remove(&name));
        }
        parsed.insert(bucket.name.clone(), known);
        Ok(facts)
    }

    fn parse(&self, bucket: &BucketInfo) -> Result<BucketFacts, &'static str> {
        let kept = |name: &str| bucket.settings.config.get(name).map(Vec::as_slice);
        let text =
            |name: &'static str| kept(name).map(|bytes| std::str::from_utf8(bytes).map_err(|_| name)).transpose();
        let policy = text(POLICY)?
            .map(|text| PolicyDocument::of_bucket(text, &bucket.name).map(Arc::new).map_err(|_| POLICY))
            .transpose()?;
        Ok(BucketFacts {
            owner: self.owner_id(bucket.settings.owner.as_ref()),
            controls: OwnershipControls::read(kept(OWNERSHIP)).ok_or(OWNERSHIP)?,
            acl: text(ACL)?.map(|text| Acl::from_text(text).ok_or(ACL)).transpose()?,
            policy,
            block: PublicAccessBlock::read(kept(PUBLIC_ACCESS_BLOCK)).ok_or(PUBLIC_ACCESS_BLOCK)?,
        })
    }

    /// What an object in a bucket says.
    ///
    /// # Errors
    /// `InternalError` when its access control list cannot be read.
    pub(crate) fn object_facts(&self, bucket: &BucketFacts, attributes: &ObjectAttributes) -> S3Result<ObjectFacts> {
        if !bucket.controls.ownership.has_acls() {
            return Ok(ObjectFacts { owner: bucket.owner.clone(), acl: None });
        }
        let unreadable =
            || from_engine(EngineError::Corrupt("the access control list of an object cannot be read".into()));
        let acl = attributes.acl.as_deref().map(|text| Acl::from_text(text).ok_or_else(unreadable)).transpose()?;
        Ok(ObjectFacts { owner: self.owner_id(attributes.owner.as_ref()), acl })
    }

    /// What describes an object; `None` when there is none.
    fn attributes(&self, place: &Place<'_>) -> S3Result<Option<ObjectAttributes>> {
        if super::only_null_version(place.version).is_err() {
            return Ok(None);
        }
        match self.engine.open_object(place.bucket, place.key) {
            Ok(object) => Ok(Some(object.info().attributes.clone())),
            Err(EngineError::NoSuchKey { .. }) => Ok(None),
            Err(error) => Err(from_engine(error)),
        }
    }

    /// The tags of an object; none of one that does not exist.
    pub(crate) fn object_tags(&self, place: &Place<'_>) -> Vec<(String, String)> {
        self.attributes(place).ok().flatten().map(|attributes| attributes.tags).unwrap_or_default()
    }

    /// Decides about a bucket or an object in it.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn decide(
        &self,
        asking: &Asking<'_>,
        action: &str,
        bucket: &BucketFacts,
        place: &Place<'_>,
    ) -> S3Result<Decision> {
        let context = AskingFor { asking, authority: self, bucket_owner: Some(&bucket.owner), place };
        let ask = Ask { caller: asking.caller, action, resource: &place.arn(), context: &context };
        decide(bucket, &ask, || {
            let attributes = if place.is_new { None } else { self.attributes(place)? };
            attributes.map(|attributes| self.object_facts(bucket, &attributes)).transpose()
        })
    }

    /// Decides about what belongs to no bucket, or to one that is to be made.
    pub(crate) fn decide_alone(&self, asking: &Asking<'_>, action: &str, place: &Place<'_>) -> Decision {
        let context = AskingFor { asking, authority: self, bucket_owner: None, place };
        decide_alone(&Ask { caller: asking.caller, action, resource: &place.arn(), context: &context })
    }

    /// Whether an action on an object is allowed.
    ///
    /// # Errors
    /// `AccessDenied`; those of the store.
    pub(crate) fn require(
        &self,
        asking: &Asking<'_>,
        action: &str,
        bucket: &BucketFacts,
        place: &Place<'_>,
    ) -> S3Result<()> {
        match self.decide(asking, action, bucket, place)? {
            Decision::Allowed => Ok(()),
            refused => Err(access_denied(refused, action, place)),
        }
    }

    /// Whether an object does not exist.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn is_missing(&self, place: &Place<'_>) -> S3Result<bool> {
        Ok(self.attributes(place)?.is_none())
    }
}

/// Owners as a page shows them: most entries have the same.
pub(crate) struct Owners<'a> {
    authority: &'a Authority,
    bucket: Arc<BucketFacts>,
    last: Option<(String, dto::Owner)>,
}

impl<'a> Owners<'a> {
    pub(crate) fn new(authority: &'a Authority, bucket: Arc<BucketFacts>) -> Self {
        Self { authority, bucket, last: None }
    }

    /// Of an entry whose record names this owner.
    pub(crate) fn of(&mut self, recorded: Option<&String>) -> dto::Owner {
        let id = match self.bucket.controls.ownership.has_acls() {
            true => self.authority.owner_id(recorded),
            false => self.bucket.owner.clone(),
        };
        match &self.last {
            Some((last, shown)) if *last == id => shown.clone(),
            _ => {
                let shown = self.authority.shown(&id);
                self.last = Some((id, shown.clone()));
                shown
            }
        }
    }

    /// The same as whoever began an upload.
    pub(crate) fn initiator(&mut self, recorded: Option<&String>) -> dto::Initiator {
        let dto::Owner { id, display_name } = self.of(recorded);
        dto::Initiator { id, display_name }
    }
}

/// The error of a decision.
pub(crate) fn access_denied(decision: Decision, action: &str, place: &Place<'_>) -> S3Error {
    let why = if decision == Decision::Denied { "a policy denies" } else { "nothing allows" };
    s3_error!(AccessDenied, "Access Denied: {why} {action} on {} for this caller.", place.arn())
}
