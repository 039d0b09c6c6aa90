//! Object lock: the configuration of a bucket, retention and legal hold of versions, and the headers that bring and show them.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::clock::Timestamp as Moment;
use tidegate_tiering::engine::{
    BucketLock, DefaultRetention as Default_, ObjectInfo, Period, Retention, RetentionMode,
};

use super::admit::{Admitted, asking, caller_of};
use super::authority::{Look, Place};
use super::error::{custom, from_engine};
use super::{Gateway, context, time, versions};
use crate::auth::decide::Decision;
use crate::auth::needs::{Shape, needs};
use crate::server::metrics::Operation;

const MODE: HeaderName = HeaderName::from_static("x-amz-object-lock-mode");
const UNTIL: HeaderName = HeaderName::from_static("x-amz-object-lock-retain-until-date");
const HOLD: HeaderName = HeaderName::from_static("x-amz-object-lock-legal-hold");
const OF_BUCKET: &str = "x-amz-bucket-object-lock-enabled";

/// Headers of object lock where they would be passed over: whoever sends them believes that they hold.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn refuse(headers: &HeaderMap, operation: Operation) -> S3Result<()> {
    let begins = matches!(operation, Operation::PutObject | Operation::CopyObject | Operation::CreateMultipartUpload);
    let is_false = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"false");
    let misplaced = |(name, value): &(&HeaderName, &HeaderValue)| match name.as_str() {
        OF_BUCKET => operation != Operation::CreateBucket && !is_false(value),
        name => name.starts_with("x-amz-object-lock-") && !begins,
    };
    match headers.iter().find(misplaced) {
        Some((name, _)) => Err(s3_error!(InvalidArgument, "{name} header is not supported for this operation.")),
        None => Ok(()),
    }
}

/// The retention and the legal hold that a new object comes with.
///
/// # Errors
/// `InvalidArgument` for what is neither, and for one half of a retention.
pub(super) fn of_headers(headers: &HeaderMap) -> S3Result<(Option<Retention>, Option<bool>)> {
    let text = |name: &HeaderName| -> S3Result<Option<&str>> {
        let value = headers.get(name).map(|value| value.to_str());
        value.transpose().map_err(|_| s3_error!(InvalidArgument, "{name} is not text."))
    };
    let retention = match (text(&MODE)?, text(&UNTIL)?) {
        (None, None) => None,
        (Some(mode), Some(until)) => {
            let mode =
                mode_of(mode).ok_or_else(|| s3_error!(InvalidArgument, "Unknown wormMode directive: {mode:?}."))?;
            let until = Timestamp::parse(TimestampFormat::DateTime, until).map_err(|_| {
                s3_error!(
                    InvalidArgument,
                    "The retain until date must be provided in ISO 8601 format, not as {until:?}."
                )
            })?;
            Some(Retention { mode, until: moment(until) })
        }
        _ => {
            return Err(s3_error!(InvalidArgument, "{UNTIL} and {MODE} must both be supplied."));
        }
    };
    let hold = text(&HOLD)?.map(|hold| match hold {
        ObjectLockLegalHoldStatus::ON => Ok(true),
        ObjectLockLegalHoldStatus::OFF => Ok(false),
        other => Err(s3_error!(InvalidArgument, "Legal Hold must be either of 'ON' or 'OFF', not {other:?}.")),
    });
    Ok((retention, hold.transpose()?))
}

/// As S3, a PUT that locks what it brings must say what that is.
///
/// # Errors
/// `InvalidRequest` for one with a lock and without a digest.
pub(super) fn require_digest(headers: &HeaderMap) -> S3Result<()> {
    if ![MODE, UNTIL, HOLD].iter().any(|name| headers.contains_key(name)) {
        return Ok(());
    }
    const NOT_DIGESTS: [&str; 3] = ["x-amz-checksum-algorithm", "x-amz-checksum-mode", "x-amz-checksum-type"];
    let digests = |name: &str| {
        name == "content-md5"
            || name == "x-amz-trailer"
            || (name.starts_with("x-amz-checksum-") && !NOT_DIGESTS.contains(&name))
    };
    if headers.keys().any(|name| digests(name.as_str())) {
        return Ok(());
    }
    Err(s3_error!(
        InvalidRequest,
        "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
    ))
}

fn mode_of(text: &str) -> Option<RetentionMode> {
    [RetentionMode::Governance, RetentionMode::Compliance].into_iter().find(|mode| mode.as_str() == text)
}

/// A date before 1970 is over in any case, and so is its beginning.
fn moment(date: Timestamp) -> Moment {
    let millis = ::time::OffsetDateTime::from(date).unix_timestamp_nanos().max(0) / 1_000_000;
    Moment(u64::try_from(millis).unwrap_or(u64::MAX))
}

pub(super) async fn put_configuration(
    gateway: &Gateway,
    request: S3Request<PutObjectLockConfigurationInput>,
) -> S3Result<S3Response<PutObjectLockConfigurationOutput>> {
    let input = request.input;
    let configuration = input
        .object_lock_configuration
        .ok_or_else(|| s3_error!(MalformedXML, "The body must be an ObjectLockConfiguration."))?;
    let enabled = configuration.object_lock_enabled.as_ref().map(ObjectLockEnabled::as_str);
    if enabled != Some(ObjectLockEnabled::ENABLED) {
        return Err(s3_error!(MalformedXML, "ObjectLockEnabled must be {}.", ObjectLockEnabled::ENABLED));
    }
    let default = configuration.rule.map(|rule| default_of(rule.default_retention)).transpose()?;
    gateway.engine.set_object_lock(&input.bucket, BucketLock { default }).await.map_err(from_engine)?;
    Ok(S3Response::new(PutObjectLockConfigurationOutput { request_charged: None }))
}

/// # Errors
/// `MalformedXML` unless there are a mode and either days or years; `InvalidRetentionPeriod`, `InvalidArgument` for none or too many.
fn default_of(default: Option<DefaultRetention>) -> S3Result<Default_> {
    let default = default.ok_or_else(|| s3_error!(MalformedXML, "A Rule needs a DefaultRetention."))?;
    let mode = default.mode.as_ref().and_then(|mode| mode_of(mode.as_str()));
    let mode =
        mode.ok_or_else(|| s3_error!(MalformedXML, "The Mode of a DefaultRetention is GOVERNANCE or COMPLIANCE."))?;
    let number = |number: i32| u32::try_from(number).ok().filter(|number| *number > 0);
    let period = match (default.days, default.years) {
        (Some(days), None) => number(days).map(Period::Days),
        (None, Some(years)) => number(years).map(Period::Years),
        _ => return Err(s3_error!(MalformedXML, "A DefaultRetention has either Days or Years.")),
    };
    let period = period.ok_or_else(|| {
        let what = "Default retention period must be a positive integer value.";
        custom("InvalidRetentionPeriod", StatusCode::BAD_REQUEST, what)
    })?;
    if !period.is_valid() {
        return Err(s3_error!(
            InvalidArgument,
            "Default retention period value is too large: 36500 days, or 100 years."
        ));
    }
    Ok(Default_ { mode, period })
}

pub(super) async fn get_configuration(
    gateway: &Gateway,
    request: S3Request<GetObjectLockConfigurationInput>,
) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
    let bucket = gateway.engine.bucket(&request.input.bucket).map_err(from_engine)?;
    let Some(lock) = bucket.settings.object_lock().map_err(from_engine)? else {
        return Err(s3_error!(
            ObjectLockConfigurationNotFoundError,
            "Object Lock configuration does not exist for this bucket"
        ));
    };
    let rule = lock.default.map(|default| {
        let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        let (days, years) = match default.period {
            Period::Days(days) => (Some(number(days)), None),
            Period::Years(years) => (None, Some(number(years))),
        };
        let mode = Some(ObjectLockRetentionMode::from_static(default.mode.as_str()));
        ObjectLockRule { default_retention: Some(DefaultRetention { days, mode, years }) }
    });
    let object_lock_enabled = Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED));
    let configuration = ObjectLockConfiguration { object_lock_enabled, rule };
    Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration: Some(configuration) }))
}

/// Decides about a request whose body says what policies ask for, as if its headers said it.
///
/// # Errors
/// `AccessDenied`.
fn authorize<T>(
    gateway: &Gateway,
    request: &S3Request<T>,
    (operation, place): (&str, &Place<'_>),
    (bypass, said): (bool, [(HeaderName, Option<String>); 2]),
) -> S3Result<()> {
    let mut headers = request.headers.clone();
    for (name, value) in said {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
    let (facts, caller) = (Admitted::of(request)?, caller_of(&request.extensions));
    let context = context(request);
    let query = request.uri.query().unwrap_or_default();
    let asking = asking(&gateway.authority, &caller, context.as_deref(), (&headers, query));
    let needs = needs(operation, Shape { bypass, ..Shape::default() }).unwrap_or_default();
    needs.iter().try_for_each(|need| gateway.authority.require(&asking, need.action, &facts, place))
}

pub(super) async fn put_retention(
    gateway: &Gateway,
    request: S3Request<PutObjectRetentionInput>,
) -> S3Result<S3Response<PutObjectRetentionOutput>> {
    let input = &request.input;
    let retention = retention_of(input.retention.as_ref())?;
    let bypass = input.bypass_governance_retention == Some(true);
    let version = input.version_id.as_deref();
    let place = Place { bucket: &input.bucket, key: &input.key, version, ..Place::default() };
    let mode = retention.map(|retention| retention.mode.as_str().to_owned());
    let said = [(MODE, mode), (UNTIL, retention.map(|retention| retention.until.to_string()))];
    authorize(gateway, &request, ("PutObjectRetention", &place), (bypass, said))?;
    let version = versions::named(version)?;
    let set = gateway.engine.set_retention((&input.bucket, &input.key), version, retention, bypass);
    set.await.map_err(from_engine)?;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

/// The retention that a document sets; an empty one removes it.
///
/// # Errors
/// `MalformedXML` for a mode that is none, and for one half of a retention.
fn retention_of(document: Option<&ObjectLockRetention>) -> S3Result<Option<Retention>> {
    let document = document.ok_or_else(|| s3_error!(MalformedXML, "The body must be a Retention."))?;
    match (&document.mode, &document.retain_until_date) {
        (None, None) => Ok(None),
        (Some(mode), Some(until)) => {
            let mode = mode_of(mode.as_str())
                .ok_or_else(|| s3_error!(MalformedXML, "The Mode of a Retention is GOVERNANCE or COMPLIANCE."))?;
            Ok(Some(Retention { mode, until: moment(until.clone()) }))
        }
        _ => Err(s3_error!(MalformedXML, "A Retention has Mode and RetainUntilDate, or neither.")),
    }
}

pub(super) async fn get_retention(
    gateway: &Gateway,
    request: S3Request<GetObjectRetentionInput>,
) -> S3Result<S3Response<GetObjectRetentionOutput>> {
    let input = request.input;
    let version = versions::named(input.version_id.as_deref())?;
    let info = gateway.engine.locked_version(&input.bucket, &input.key, version).map_err(from_engine)?;
    let retention = info.attributes.retention.ok_or_else(nothing)?;
    let document = ObjectLockRetention {
        mode: Some(ObjectLockRetentionMode::from_static(retention.mode.as_str())),
        retain_until_date: Some(time(retention.until)),
    };
    Ok(S3Response::new(GetObjectRetentionOutput { retention: Some(document) }))
}

fn nothing() -> s3s::S3Error {
    s3_error!(NoSuchObjectLockConfiguration, "The specified object does not have a ObjectLock configuration")
}

pub(super) async fn put_hold(
    gateway: &Gateway,
    request: S3Request<PutObjectLegalHoldInput>,
) -> S3Result<S3Response<PutObjectLegalHoldOutput>> {
    let input = &request.input;
    let status = input.legal_hold.as_ref().and_then(|hold| hold.status.as_ref());
    let hold = match status.map(ObjectLockLegalHoldStatus::as_str) {
        Some(ObjectLockLegalHoldStatus::ON) => true,
        Some(ObjectLockLegalHoldStatus::OFF) => false,
        _ => return Err(s3_error!(MalformedXML, "The Status of a LegalHold is ON or OFF.")),
    };
    let version = input.version_id.as_deref();
    let place = Place { bucket: &input.bucket, key: &input.key, version, ..Place::default() };
    let said = [(HOLD, status.map(|status| status.as_str().to_owned())), (MODE, None)];
    authorize(gateway, &request, ("PutObjectLegalHold", &place), (false, said))?;
    let version = versions::named(version)?;
    let set = gateway.engine.set_legal_hold((&input.bucket, &input.key), version, hold);
    set.await.map_err(from_engine)?;
    Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
}

pub(super) async fn get_hold(
    gateway: &Gateway,
    request: S3Request<GetObjectLegalHoldInput>,
) -> S3Result<S3Response<GetObjectLegalHoldOutput>> {
    let input = request.input;
    let version = versions::named(input.version_id.as_deref())?;
    let info = gateway.engine.locked_version(&input.bucket, &input.key, version).map_err(from_engine)?;
    let status = info.attributes.legal_hold.map(status_of).ok_or_else(nothing)?;
    let document = ObjectLockLegalHold { status: Some(status) };
    Ok(S3Response::new(GetObjectLegalHoldOutput { legal_hold: Some(document) }))
}

fn status_of(hold: bool) -> ObjectLockLegalHoldStatus {
    let status = if hold { ObjectLockLegalHoldStatus::ON } else { ObjectLockLegalHoldStatus::OFF };
    ObjectLockLegalHoldStatus::from_static(status)
}

/// What GET and HEAD show of a lock.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) mode: Option<ObjectLockMode>,
    pub(super) until: Option<Timestamp>,
    pub(super) hold: Option<ObjectLockLegalHoldStatus>,
}

/// Shows a lock to those who may ask for it, as S3.
///
/// # Errors
/// Those of the store.
pub(super) fn shown<T>(gateway: &Gateway, request: &S3Request<T>, info: &ObjectInfo) -> S3Result<Shown> {
    let attributes = &info.attributes;
    let mut shown = Shown::default();
    if attributes.retention.is_none() && attributes.legal_hold.is_none() {
        return Ok(shown);
    }
    let (facts, caller) = (Admitted::of(request)?, caller_of(&request.extensions));
    let context = context(request);
    let query = request.uri.query().unwrap_or_default();
    let asking = asking(&gateway.authority, &caller, context.as_deref(), (&request.headers, query));
    let version = asking.parameter("versionId");
    let place = Place { bucket: &info.bucket, key: &info.key, version: version.as_deref(), ..Place::default() };
    let may = |action| -> S3Result<bool> {
        Ok(gateway.authority.decide(&asking, action, &facts, &Look::new(&gateway.authority, place))?
            == Decision::Allowed)
    };
    if let Some(retention) = attributes.retention
        && may("s3:GetObjectRetention")?
    {
        shown.mode = Some(ObjectLockMode::from_static(retention.mode.as_str()));
        shown.until = Some(time(retention.until));
    }
    if let Some(hold) = attributes.legal_hold
        && may("s3:GetObjectLegalHold")?
    {
        shown.hold = Some(status_of(hold));
    }
    Ok(shown)
}

/// Puts what [`shown`] gives into an output. A macro, because the outputs share no trait.
macro_rules! show_lock {
    ($output:expr, $shown:expr) => {{
        let shown = $shown;
        $output.object_lock_mode = shown.mode;
        $output.object_lock_retain_until_date = shown.until;
        $output.object_lock_legal_hold_status = shown.hold;
    }};
}
pub(super) use show_lock;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    const MODE: &str = "x-amz-object-lock-mode";
    const UNTIL: &str = "x-amz-object-lock-retain-until-date";
    const HOLD: &str = "x-amz-object-lock-legal-hold";

    #[test]
    fn headers_bring_a_whole_retention_or_none() {
        let retention = |mode| Some(Retention { mode, until: Moment(1_893_456_000_000) });
        let until = (UNTIL, "2030-01-01T00:00:00Z");
        let both = headers(&[(MODE, "GOVERNANCE"), until, (HOLD, "ON")]);
        assert_eq!(of_headers(&both).unwrap(), (retention(RetentionMode::Governance), Some(true)));
        let exact = headers(&[(MODE, "COMPLIANCE"), (UNTIL, "2030-01-01T01:00:00.000+01:00")]);
        assert_eq!(of_headers(&exact).unwrap(), (retention(RetentionMode::Compliance), None));
        let early = headers(&[(MODE, "COMPLIANCE"), (UNTIL, "1960-01-01T00:00:00Z"), (HOLD, "OFF")]);
        let first = Retention { mode: RetentionMode::Compliance, until: Moment(0) };
        assert_eq!(of_headers(&early).unwrap(), (Some(first), Some(false)));
        assert_eq!(of_headers(&HeaderMap::new()).unwrap(), (None, None));
        for bad in [
            vec![(MODE, "GOVERNANCE")],
            vec![until],
            vec![(MODE, "governance"), until],
            vec![(MODE, "GOVERNANCE"), (UNTIL, "tomorrow")],
            vec![(HOLD, "on")],
        ] {
            assert_eq!(of_headers(&headers(&bad)).unwrap_err().code().as_str(), "InvalidArgument", "{bad:?}");
        }
    }

    #[test]
    fn a_lock_needs_a_digest_and_a_place() {
        assert!(require_digest(&HeaderMap::new()).is_ok());
        for (name, is_digest) in [
            ("content-md5", true),
            ("x-amz-checksum-crc32", true),
            ("x-amz-trailer", true),
            ("x-amz-checksum-type", false),
            ("x-amz-sdk-checksum-algorithm", false),
        ] {
            assert_eq!(require_digest(&headers(&[(HOLD, "ON"), (name, "x")])).is_ok(), is_digest, "{name}");
        }
        let lock = headers(&[(MODE, "GOVERNANCE")]);
        assert!(refuse(&lock, Operation::PutObject).is_ok() && refuse(&lock, Operation::UploadPart).is_err());
        for (value, taken) in [("true", false), ("false", true)] {
            let bucket = headers(&[(OF_BUCKET, value)]);
            assert!(refuse(&bucket, Operation::CreateBucket).is_ok());
            assert_eq!(refuse(&bucket, Operation::PutObject).is_ok(), taken, "{value}");
        }
    }
}
