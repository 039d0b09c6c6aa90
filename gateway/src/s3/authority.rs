//! Gathers the facts that a decision needs, and asks for it.
//!
//! What a bucket says is parsed once and kept as long as the bucket's record says the same (`parsed`); of the request itself, nothing is
//! looked up before a policy or an access control list asks for it.

use s3s::dto;
use s3s::{S3Error, S3Result, s3_error};
use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use tidegate_tiering::clock::{Clock, Timestamp};
use tidegate_tiering::engine::{BucketInfo, Engine, EngineError, ObjectAttributes, ObjectHandle};

use super::condition_keys::{Asking, AskingFor};
use super::error::from_engine;
use super::parsed::Parsed;
use super::versions;
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

/// What is asked about.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    pub(crate) bucket: &'a str,
    /// Empty for the bucket itself.
    pub(crate) key: &'a str,
    pub(crate) version: Option<&'a str>,
    /// The object is made by the request: whose the one of that name was does not matter.
    pub(crate) is_new: bool,
    /// It is asked whether a list of the bucket may tell of this key: to policies, the prefix of that list.
    pub(crate) listed: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// The bucket itself.
    pub(crate) fn of_bucket(&self) -> Place<'a> {
        Place { bucket: self.bucket, ..Place::default() }
    }

    fn arn(&self) -> String {
        match (self.bucket, self.key) {
            ("", _) => "arn:aws:s3:::*".to_owned(),
            (bucket, "") => format!("arn:aws:s3:::{bucket}"),
            (bucket, key) => format!("arn:aws:s3:::{bucket}/{key}"),
        }
    }
}

/// Who may do what.
pub(crate) struct Authority {
    engine: Engine,
    identities: Arc<dyn IdentitySource>,
    clock: Arc<dyn Clock>,
    parsed: Parsed<BucketFacts>,
    /// The ownership controls of new buckets.
    pub(crate) default_ownership: Ownership,
}

impl Authority {
    pub(crate) fn new(engine: Engine, identities: Arc<dyn IdentitySource>, default_ownership: Ownership) -> Self {
        let clock = engine.clock();
        Self { engine, identities, clock, parsed: Parsed::new(&KEPT), default_ownership }
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
        self.parsed.of(bucket, || {
            self.parse(bucket).map_err(|what| {
                let error = format!("the {what} that is kept for the bucket {} cannot be read", bucket.name);
                from_engine(EngineError::Corrupt(error))
            })
        })
    }

    fn parse(&self, bucket: &BucketInfo) -> Result<BucketFacts, &'static str> {
        let kept = |name: &str| bucket.settings.config.get(name).map(Vec::as_slice);
        let text =
            |name: &'static str| kept(name).map(|bytes| std::str::from_utf8(bytes).map_err(|_| name)).transpose();
        let policy = text(POLICY)?
            .map(|text| PolicyDocument::stored(text, &bucket.name).map(Arc::new).map_err(|_| POLICY))
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

    /// The object at a place; `None` when there is none.
    fn open(&self, place: &Place<'_>) -> S3Result<Option<ObjectHandle>> {
        // What is no version id the operation itself refuses.
        let Ok(version) = versions::named(place.version) else { return Ok(None) };
        match self.engine.open_version(place.bucket, place.key, version) {
            Ok(object) => Ok(Some(object)),
            Err(
                EngineError::NoSuchKey { .. } | EngineError::NoSuchVersion { .. } | EngineError::DeleteMarker { .. },
            ) => Ok(None),
            Err(error) => Err(from_engine(error)),
        }
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
        look: &Look<'_>,
    ) -> S3Result<Decision> {
        let context =
            AskingFor { asking, bucket_owner: Some(&bucket.owner), look: Some(look), failed: Cell::default() };
        let place = &look.place;
        let ask = Ask { caller: asking.caller, action, resource: &place.arn(), context: &context };
        let decision = decide(bucket, &ask, || {
            let object = if place.is_new { None } else { look.object()? };
            object.map(|object| self.object_facts(bucket, &object.info().attributes)).transpose()
        });
        // What could not be looked up is no fact, and what was decided without it is no decision.
        match context.failed.take() {
            Some(error) => Err(error),
            None => decision,
        }
    }

    /// Decides about what belongs to no bucket, or to one that is to be made.
    pub(crate) fn decide_alone(&self, asking: &Asking<'_>, action: &str, place: &Place<'_>) -> Decision {
        let context = AskingFor { asking, bucket_owner: None, look: None, failed: Cell::default() };
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
        match self.decide(asking, action, bucket, &Look::new(self, *place))? {
            Decision::Allowed => Ok(()),
            refused => Err(access_denied(refused, action, place)),
        }
    }
}

/// A look at a place: the object there is looked up once, when it is first asked for.
pub(crate) struct Look<'a> {
    authority: &'a Authority,
    pub(crate) place: Place<'a>,
    found: OnceCell<Option<ObjectHandle>>,
}

impl<'a> Look<'a> {
    pub(crate) fn new(authority: &'a Authority, place: Place<'a>) -> Self {
        Self { authority, place, found: OnceCell::new() }
    }

    /// The object; `None` where there is none.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn object(&self) -> S3Result<Option<&ObjectHandle>> {
        if let Some(found) = self.found.get() {
            return Ok(found.as_ref());
        }
        let found = self.authority.open(&self.place)?;
        Ok(self.found.get_or_init(|| found).as_ref())
    }

    /// What was found, if it was looked for.
    pub(crate) fn into_object(self) -> Option<ObjectHandle> {
        self.found.into_inner().flatten()
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
    let why = match decision {
        Decision::Denied => "a policy denies",
        Decision::OutsideSession => "the session's policy does not allow",
        Decision::Allowed | Decision::NotAllowed => "nothing allows",
    };
    s3_error!(AccessDenied, "Access Denied: {why} {action} on {} for this caller.", place.arn())
}
