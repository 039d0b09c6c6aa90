//! The lifecycle of a bucket: PutBucketLifecycleConfiguration and its kin, and the headers that tell of endings.

mod given;
mod shown;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tidegate_policies::bucket::{BucketLifecycle, SmallObjects};
use tidegate_tiering::engine::{Ending, EngineError, LIFECYCLE_SETTING};

use super::Gateway;
use super::error::from_engine;

/// Longest document, as it is stored. S3's own limit is the number of rules; a thousand full ones are below this.
const MAX_STORED_BYTES: usize = 4 << 20;

pub(super) async fn put(
    gateway: &Gateway,
    request: S3Request<PutBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
    let input = request.input;
    let minimum = input.transition_default_minimum_object_size;
    let small_objects = minimum.as_ref().map(|minimum| small_objects(minimum.as_str())).transpose()?;
    let Some(configuration) = input.lifecycle_configuration else {
        return Err(given::malformed("The request has no LifecycleConfiguration."));
    };
    let rules = given::rules(configuration.rules, &gateway.storage_classes)?;
    let stored = serde_json::to_vec(&BucketLifecycle { rules, small_objects })
        .map_err(|e| from_engine(EngineError::Internal(format!("store a lifecycle: {e}"))))?;
    if stored.len() > MAX_STORED_BYTES {
        return Err(s3_error!(InvalidRequest, "The lifecycle is too long: merge rules, or shorten their filters."));
    }
    let store = |settings: &mut tidegate_tiering::engine::BucketSettings| {
        settings.config.insert(LIFECYCLE_SETTING.to_owned(), stored.clone());
        Ok(())
    };
    gateway.engine.configure_bucket(&input.bucket, store).await.map_err(from_engine)?;
    Ok(S3Response::new(PutBucketLifecycleConfigurationOutput { transition_default_minimum_object_size: minimum }))
}

pub(super) async fn get(
    gateway: &Gateway,
    request: S3Request<GetBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
    let bucket = gateway.engine.bucket(&request.input.bucket).map_err(from_engine)?;
    let Some(stored) = bucket.settings.config.get(LIFECYCLE_SETTING) else {
        return Err(s3s::S3Error::with_message(
            S3ErrorCode::NoSuchLifecycleConfiguration,
            "The lifecycle configuration does not exist",
        ));
    };
    let lifecycle: BucketLifecycle = serde_json::from_slice(stored)
        .map_err(|e| from_engine(EngineError::Corrupt(format!("the lifecycle of {}: {e}", bucket.name))))?;
    let minimum = lifecycle.small_objects.map(|small| {
        TransitionDefaultMinimumObjectSize::from_static(match small {
            SmallObjects::AllStay => TransitionDefaultMinimumObjectSize::ALL_STORAGE_CLASSES_128K,
            SmallObjects::StayUnlessArchived => TransitionDefaultMinimumObjectSize::VARIES_BY_STORAGE_CLASS,
        })
    });
    Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
        rules: Some(lifecycle.rules.into_iter().map(shown::rule).collect()),
        transition_default_minimum_object_size: minimum,
    }))
}

/// As in S3, deleting what is not there is no error.
pub(super) async fn delete(
    gateway: &Gateway,
    request: S3Request<DeleteBucketLifecycleInput>,
) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
    let remove = |settings: &mut tidegate_tiering::engine::BucketSettings| {
        settings.config.remove(LIFECYCLE_SETTING);
        Ok(())
    };
    gateway.engine.configure_bucket(&request.input.bucket, remove).await.map_err(from_engine)?;
    Ok(S3Response::new(DeleteBucketLifecycleOutput {}))
}

fn small_objects(minimum: &str) -> S3Result<SmallObjects> {
    match minimum {
        TransitionDefaultMinimumObjectSize::ALL_STORAGE_CLASSES_128K => Ok(SmallObjects::AllStay),
        TransitionDefaultMinimumObjectSize::VARIES_BY_STORAGE_CLASS => Ok(SmallObjects::StayUnlessArchived),
        other => Err(s3_error!(
            InvalidArgument,
            "x-amz-transition-default-minimum-object-size is {other}; it must be all_storage_classes_128K or \
             varies_by_storage_class."
        )),
    }
}

/// What stays as it is in a rule's id within a header.
const ID: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The value of `x-amz-expiration`. A date of headers has whole seconds: the next one, as nothing ends before its time.
pub(super) fn expiration(ending: Option<&Ending>) -> Option<String> {
    let ending = ending?;
    let rule = utf8_percent_encode(&ending.rule, ID);
    Some(format!("expiry-date=\"{}\", rule-id=\"{rule}\"", date(ending)))
}

fn date(ending: &Ending) -> String {
    let whole = ending.at.millis().div_ceil(1000).saturating_mul(1000);
    httpdate::fmt_http_date(tidegate_tiering::clock::Timestamp(whole.min(LAST_DATE)).to_system_time())
}

/// The end of the year 9999, in milliseconds since the epoch: what a date in a header can say at most.
const LAST_DATE: u64 = 253_402_300_799_000;

/// `x-amz-abort-date` and `x-amz-abort-rule-id`.
pub(super) fn add_abort(headers: &mut HeaderMap, ending: Option<&Ending>) {
    let Some(ending) = ending else { return };
    let rule = utf8_percent_encode(&ending.rule, ID).to_string();
    for (name, value) in [("x-amz-abort-date", date(ending)), ("x-amz-abort-rule-id", rule)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_tiering::clock::Timestamp;

    #[test]
    fn headers_of_endings_are_those_of_s3() {
        let ending = Ending { at: Timestamp(1_356_220_799_001), rule: "picture deletion/1".into() };
        let value = "expiry-date=\"Sun, 23 Dec 2012 00:00:00 GMT\", rule-id=\"picture%20deletion%2F1\"";
        assert_eq!(expiration(Some(&ending)).as_deref(), Some(value));
        assert_eq!(expiration(None), None);
        let mut headers = HeaderMap::new();
        add_abort(&mut headers, Some(&ending));
        assert_eq!(headers["x-amz-abort-date"], "Sun, 23 Dec 2012 00:00:00 GMT");
        assert_eq!(headers["x-amz-abort-rule-id"], "picture%20deletion%2F1");
        let beyond = Ending { at: Timestamp(u64::MAX), rule: "r".into() };
        assert!(expiration(Some(&beyond)).unwrap().contains("Fri, 31 Dec 9999 23:59:59 GMT"));
    }
}
