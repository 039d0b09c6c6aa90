//! Lets a request in, or not, before its operation runs.

use http::{Extensions, HeaderMap};
use s3s::access::S3AccessContext;
use s3s::dto::{CopySource, CreateBucketInput, PutObjectTaggingInput};
use s3s::path::S3Path;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, s3_error};
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_tiering::engine::ObjectHandle;

use super::authority::{Authority, Look, Place, access_denied};
use super::condition_keys::{Asking, Content};
use super::copy::named_source;
use crate::auth::decide::{BucketFacts, Decision};
use crate::auth::identity::{Account, Caller};
use crate::auth::needs::{Governed, Need, On, Shape, governed, needs};
use crate::server::Verified;
use crate::server::request::RequestContext;

/// In the extensions of a request that was let in: the bucket that it is about, as it was then.
#[derive(Clone)]
pub(crate) struct Admitted(pub(crate) Arc<BucketFacts>);

impl Admitted {
    /// That of a request.
    ///
    /// # Errors
    /// `InternalError` when the request came past the gate.
    pub(crate) fn of<T>(request: &S3Request<T>) -> S3Result<Arc<BucketFacts>> {
        let admitted = request.extensions.get::<Self>().map(|admitted| Arc::clone(&admitted.0));
        admitted.ok_or_else(|| s3_error!(InternalError, "The request came past the gate."))
    }
}

/// In the extensions of a request that reads an object: the caller may not know which objects there are.
#[derive(Clone, Copy)]
pub(crate) struct Unlisted;

impl Unlisted {
    /// Whether a request is such a one.
    pub(crate) fn is<T>(request: &S3Request<T>) -> bool {
        request.extensions.get::<Self>().is_some()
    }

    /// The error that such a caller sees: as in S3, an object that is not there looks like one that is not the caller's.
    pub(crate) fn hide(error: S3Error) -> S3Error {
        match error.code() {
            S3ErrorCode::NoSuchKey | S3ErrorCode::NoSuchVersion => {
                s3_error!(
                    AccessDenied,
                    "Access Denied: nothing allows s3:ListBucket, so that it is not said whether the object exists."
                )
            }
            _ => error,
        }
    }
}

/// In the extensions of a request: its object, where the decision was about that. What was decided about is read.
#[derive(Clone)]
pub(crate) struct Found(Arc<Mutex<Option<ObjectHandle>>>);

impl Found {
    fn new(object: ObjectHandle) -> Self {
        Self(Arc::new(Mutex::new(Some(object))))
    }

    /// That of a request; once.
    pub(crate) fn take(extensions: &Extensions) -> Option<ObjectHandle> {
        extensions.get::<Self>()?.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Who sent a request.
pub(crate) fn caller_of(extensions: &Extensions) -> Caller {
    let context = extensions.get::<Arc<RequestContext>>();
    context.and_then(|context| context.identity()).map_or(Caller::Anonymous, |known| Caller::Known(Arc::clone(known)))
}

/// The request as policies see it.
pub(crate) fn asking<'a>(
    authority: &Authority,
    caller: &'a Caller,
    context: Option<&RequestContext>,
    (headers, query): (&'a HeaderMap, &'a str),
) -> Asking<'a> {
    let (peer, tls) = context.map_or((None, None), |context| (context.peer(), context.tls()));
    let signed = context.and_then(RequestContext::signed);
    Asking { caller, headers, query, peer, tls, signed, now: authority.now(), content: None }
}

/// Operations that are decided about once their body is read, as policies ask for what it says.
const BY_BODY: [&str; 3] = ["PutObjectRetention", "PutObjectLegalHold", "PutObjectTagging"];

/// Whether the caller may do what the request asks for.
///
/// # Errors
/// `AccessDenied`, `NoSuchBucket`, `NoSuchKey` for what is missing and may be seen to be.
pub(crate) fn admit(authority: &Authority, cx: &mut S3AccessContext<'_>, caller: &Caller) -> S3Result<()> {
    let context = cx.extensions_mut().get::<Arc<RequestContext>>().cloned();
    // Then all of this was found right for the same request, signature and all.
    let decided = cx.extensions_mut().get::<Verified>().is_some();
    let asking = asking(authority, caller, context.as_deref(), (cx.headers(), cx.uri().query().unwrap_or_default()));
    let name = cx.s3_op().name();
    let shape = shape(&asking);
    let mut needs =
        needs(name, shape).ok_or_else(|| s3_error!(AccessDenied, "Access Denied: nobody may do {name}."))?;
    if BY_BODY.contains(&name) {
        needs.clear();
    }
    let version = asking.parameter("versionId").filter(|version| !version.is_empty());
    let place = match cx.s3_path() {
        S3Path::Root => Place::default(),
        S3Path::Bucket { bucket } => Place { bucket, ..Place::default() },
        S3Path::Object { bucket, key } => Place {
            bucket,
            key,
            version: version.as_deref(),
            is_new: needs.iter().any(|need| need.action == "s3:PutObject"),
            listed: None,
        },
    };
    if place.bucket.is_empty() || name == "CreateBucket" {
        if name == "CreateBucket" && is_judged_by_content(caller) {
            return Ok(());
        }
        for need in &needs {
            match authority.decide_alone(&asking, need.action, &place) {
                Decision::Allowed => {}
                refused => return Err(access_denied(refused, need.action, &place)),
            }
        }
        return Ok(());
    }
    let bucket = authority.bucket(place.bucket)?;
    expect_owner(&asking, &bucket, "x-amz-expected-bucket-owner")?;
    let admission = Admission { authority, asking: &asking, name };
    let mut unlisted = false;
    let (object, itself) = (Look::new(authority, place), Look::new(authority, place.of_bucket()));
    for need in &needs {
        unlisted |= match need.on {
            On::Source => admission.source(need, decided)?,
            On::Bucket => admission.target(need, &bucket, &itself, decided)?,
            _ => admission.target(need, &bucket, &object, decided)?,
        };
    }
    let found = object.into_object();
    if unlisted {
        cx.extensions_mut().insert(Unlisted);
    }
    if let Some(found) = found {
        cx.extensions_mut().insert(Found::new(found));
    }
    cx.extensions_mut().insert(Admitted(bucket));
    Ok(())
}

struct Admission<'a> {
    authority: &'a Authority,
    asking: &'a Asking<'a>,
    name: &'a str,
}

impl Admission<'_> {
    /// About the object that is copied from; gives whether the caller may not know which objects there are.
    fn source(&self, need: &Need, decided: bool) -> S3Result<bool> {
        // What it is else, the operation itself refuses.
        let Some(CopySource::Bucket { bucket, key, version_id }) = named_source(self.asking.headers) else {
            return Ok(false);
        };
        let facts = self.authority.bucket(&bucket)?;
        expect_owner(self.asking, &facts, "x-amz-source-expected-bucket-owner")?;
        let place = Place { bucket: &bucket, key: &key, version: version_id.as_deref(), ..Place::default() };
        self.target(need, &facts, &Look::new(self.authority, place), decided)
    }

    fn target(&self, need: &Need, bucket: &BucketFacts, look: &Look<'_>, decided: bool) -> S3Result<bool> {
        let at = &look.place;
        let decision = self.authority.decide(self.asking, need.action, bucket, look)?;
        // Whoever writes an object into the bucket of another account may own it then, and says who else has access to it.
        // So may nobody in particular, whom the bucket's list lets write.
        let is_own = need.action == "s3:PutObjectAcl"
            && self.name != "PutObjectAcl"
            && match self.asking.caller.identity() {
                Some(identity) => identity.account.id != bucket.owner,
                None => bucket.list_lets_write(self.asking.caller),
            };
        // The tags that such a writer brings along are part of what it writes.
        let is_tagged = need.action == "s3:PutObjectTagging"
            && at.is_new
            && self.asking.caller.identity().is_none()
            && bucket.list_lets_write(self.asking.caller);
        let reads = need.on != On::Bucket && !at.is_new && reads_object(need.action);
        match decision {
            _ if decided => {}
            Decision::Allowed => {}
            // A session may still only what its policy allows.
            Decision::NotAllowed if is_own || is_tagged => {}
            Decision::NotAllowed | Decision::OutsideSession
                if reads && self.may_list(bucket, at)? && look.object()?.is_none() =>
            {
                return Err(s3_error!(NoSuchKey, "The specified key does not exist."));
            }
            refused => return Err(access_denied(refused, need.action, at)),
        }
        Ok(reads && !self.may_list(bucket, at)?)
    }

    fn may_list(&self, bucket: &BucketFacts, place: &Place<'_>) -> S3Result<bool> {
        let at = Look::new(self.authority, Place { listed: Some(place.key), ..place.of_bucket() });
        let identity = self.asking.caller.identity();
        let is_plain_owner = bucket.policy.is_none()
            && bucket.acl.is_none()
            && identity.is_some_and(|identity| {
                identity.user.is_none() && identity.session.is_none() && identity.account.id == bucket.owner
            });
        // The common case, without asking.
        Ok(is_plain_owner || self.authority.decide(self.asking, "s3:ListBucket", bucket, &at)? == Decision::Allowed)
    }
}

/// Whether only policies can let a caller make a bucket: they may ask for the region, which the body names.
fn is_judged_by_content(caller: &Caller) -> bool {
    caller.identity().is_some_and(|identity| identity.user.is_some() || identity.session.is_some())
}

/// As [`admit`], for PutObjectTagging: policies may ask for the tags, which the body has.
///
/// # Errors
/// As there.
pub(crate) fn admit_tags(authority: &Authority, request: &S3Request<PutObjectTaggingInput>) -> S3Result<()> {
    let bucket = Admitted::of(request)?;
    let tags = request.input.tagging.tag_set.iter();
    let tags = tags.map(|tag| (tag.key.clone().unwrap_or_default(), tag.value.clone().unwrap_or_default()));
    let caller = caller_of(&request.extensions);
    let context = super::context(request);
    let head = (&request.headers, request.uri.query().unwrap_or_default());
    let asking =
        Asking { content: Some(Content::Tags(tags.collect())), ..asking(authority, &caller, context.as_deref(), head) };
    let input = &request.input;
    let version = input.version_id.as_deref().filter(|version| !version.is_empty());
    let place = Place { bucket: &input.bucket, key: &input.key, version, ..Place::default() };
    let needs = needs("PutObjectTagging", shape(&asking)).unwrap_or_default();
    needs.iter().try_for_each(|need| authority.require(&asking, need.action, &bucket, &place))
}

/// As [`admit`], for CreateBucket by those whom only policies let.
///
/// # Errors
/// `AccessDenied`.
pub(crate) fn admit_bucket(authority: &Authority, request: &S3Request<CreateBucketInput>) -> S3Result<()> {
    let caller = caller_of(&request.extensions);
    if !is_judged_by_content(&caller) {
        return Ok(());
    }
    let context = super::context(request);
    let head = (&request.headers, request.uri.query().unwrap_or_default());
    let configuration = request.input.create_bucket_configuration.as_ref();
    let region = configuration.and_then(|configuration| configuration.location_constraint.as_ref());
    let asking = Asking {
        content: region.map(|region| Content::Location(region.as_str().to_owned())),
        ..asking(authority, &caller, context.as_deref(), head)
    };
    let place = Place { bucket: &request.input.bucket, ..Place::default() };
    for need in needs("CreateBucket", shape(&asking)).unwrap_or_default() {
        match authority.decide_alone(&asking, need.action, &place) {
            Decision::Allowed => {}
            refused => return Err(access_denied(refused, need.action, &place)),
        }
    }
    Ok(())
}

/// Whether an action tells what is in an object that exists.
fn reads_object(action: &str) -> bool {
    matches!(governed(action), Governed::Object(_))
        || action.starts_with("s3:GetObject")
        || action == "s3:RestoreObject"
}

/// What a request brings that needs an action of its own.
fn shape(asking: &Asking<'_>) -> Shape {
    let header =
        |name: &str| asking.headers.get(name).map(http::HeaderValue::as_bytes).filter(|value| !value.is_empty());
    let is_true = |name| header(name).is_some_and(|value| value.eq_ignore_ascii_case(b"true"));
    let grants = asking.headers.keys().any(|name| name.as_str().starts_with("x-amz-grant-"));
    // What the owner has anyway; clients send it by default.
    let harmless: [&[u8]; 2] = [b"private", b"bucket-owner-full-control"];
    Shape {
        version: asking.parameter("versionId").is_some_and(|version| !version.is_empty()),
        source_version: header("x-amz-copy-source").is_some_and(|source| {
            String::from_utf8_lossy(source).split_once('?').is_some_and(|(_, query)| query.contains("versionId="))
        }),
        tags: header("x-amz-tagging").is_some(),
        acl: grants || header("x-amz-acl").is_some_and(|value| !harmless.contains(&value)),
        ownership: header("x-amz-object-ownership").is_some(),
        retention: header("x-amz-object-lock-mode").or(header("x-amz-object-lock-retain-until-date")).is_some(),
        legal_hold: header("x-amz-object-lock-legal-hold").is_some(),
        bypass: is_true("x-amz-bypass-governance-retention"),
        lock: is_true("x-amz-bucket-object-lock-enabled"),
    }
}

/// Clients that know whose bucket it must be say so.
fn expect_owner(asking: &Asking<'_>, bucket: &BucketFacts, header: &str) -> S3Result<()> {
    let Some(expected) = asking.headers.get(header).map(http::HeaderValue::as_bytes) else { return Ok(()) };
    let owner = Account { id: bucket.owner.clone(), display_name: String::new(), email: None };
    if expected == owner.id.as_bytes() || expected == owner.number().as_bytes() {
        return Ok(());
    }
    Err(s3_error!(AccessDenied, "Access Denied: {header} names another account than the one that owns the bucket."))
}
