//! What a target is sent: S3's event message.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use std::collections::BTreeMap;
use tidegate_tiering::engine::{Event, EventKind, QueuedEvent};

use crate::s3::shown_version;

/// The header with an event's id: the same each time that it is sent.
pub const EVENT_ID: &str = "x-tidegate-event-id";
/// Who does what no client asked for; as S3 names itself.
const ITSELF: &str = "s3.amazonaws.com";
/// What S3 leaves as it is in keys, besides letters and digits; a space becomes `+`.
const IN_KEY: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/').remove(b' ');

#[derive(Serialize)]
struct Message<'a> {
    #[serde(rename = "Records")]
    records: [Told<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    event_version: &'static str,
    event_source: &'static str,
    aws_region: &'a str,
    event_time: String,
    event_name: &'a str,
    user_identity: Principal<'a>,
    request_parameters: BTreeMap<&'static str, &'a str>,
    response_elements: BTreeMap<&'static str, &'a str>,
    s3: About<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    glacier_event_data: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifecycle_event_data: Option<serde_json::Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Principal<'a> {
    principal_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct About<'a> {
    s3_schema_version: &'static str,
    configuration_id: &'a str,
    bucket: Bucket<'a>,
    object: Object<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bucket<'a> {
    name: &'a str,
    owner_identity: Principal<'a>,
    arn: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e_tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<String>,
    sequencer: String,
}

/// As S3 shows the place of an event in the order of those of its key.
pub(super) fn sequencer(queued: &QueuedEvent) -> String {
    format!("{:032X}", queued.id)
}

/// The message of an event. `first_account`: the canonical id of the account that owns buckets whose record names none.
///
/// # Errors
/// Never in practice: all of it is text.
pub(super) fn of(queued: &QueuedEvent, region: &str, first_account: &str) -> Result<Vec<u8>, serde_json::Error> {
    let event = &queued.event;
    if event.kind == EventKind::Test {
        return serde_json::to_vec(&serde_json::json!({
            "Service": "Amazon S3",
            "Event": event.kind.name(),
            "Time": event.at.to_string(),
            "Bucket": event.bucket,
            "RequestId": event.origin.request,
            "HostId": "tidegate",
        }));
    }
    let or_itself = |text: &'_ str| if text.is_empty() { ITSELF.to_owned() } else { text.to_owned() };
    let (principal, address) = (or_itself(&event.origin.principal), or_itself(&event.origin.address));
    let request = Some(event.origin.request.as_str()).filter(|id| !id.is_empty());
    let until = event.until.map(|at| at.to_string());
    serde_json::to_vec(&Message {
        records: [Told {
            event_version: version_of(event),
            event_source: "aws:s3",
            aws_region: region,
            event_time: event.at.to_string(),
            event_name: event.kind.name().trim_start_matches("s3:"),
            user_identity: Principal { principal_id: &principal },
            request_parameters: BTreeMap::from([("sourceIPAddress", address.as_str())]),
            response_elements: request.into_iter().map(|id| ("x-amz-request-id", id)).collect(),
            s3: About {
                s3_schema_version: "1.0",
                configuration_id: &event.rule,
                bucket: Bucket {
                    name: &event.bucket,
                    owner_identity: Principal { principal_id: event.owner.as_deref().unwrap_or(first_account) },
                    arn: format!("arn:aws:s3:::{}", event.bucket),
                },
                object: Object {
                    key: utf8_percent_encode(&event.key, IN_KEY).to_string().replace(' ', "+"),
                    size: event.size,
                    e_tag: event.etag.as_deref(),
                    version_id: event.version.map(|(version, null)| shown_version(version, null)),
                    sequencer: sequencer(queued),
                },
            },
            glacier_event_data: until.map(|until| {
                serde_json::json!({ "restoreEventData": {
                    "lifecycleRestorationExpiryTime": until,
                    "lifecycleRestoreStorageClass": event.class,
                } })
            }),
            lifecycle_event_data: (event.kind == EventKind::Transition)
                .then(|| serde_json::json!({ "transitionEventData": { "destinationStorageClass": event.class } })),
        }],
    })
}

/// S3 gave the events that came later a later version.
fn version_of(event: &Event) -> &'static str {
    use EventKind as K;
    match event.kind {
        K::Transition
        | K::ExpirationDelete
        | K::ExpirationMarker
        | K::TaggingPut
        | K::TaggingDelete
        | K::AclPut
        | K::RestoreDelete => "2.3",
        _ => "2.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_tiering::clock::Timestamp;
    use tidegate_tiering::engine::{Origin, VersionId};

    fn event(kind: EventKind) -> Event {
        Event {
            kind,
            at: Timestamp(1_800_000_000_000),
            bucket: "data".into(),
            owner: None,
            rule: "all".into(),
            key: "a b/ü+(1)~.jpg".into(),
            size: Some(5),
            etag: Some("e".into()),
            version: Some((VersionId(9), true)),
            origin: Origin { principal: "AWS:ann".into(), address: "10.0.0.1".into(), request: "0A".into() },
            until: None,
            class: None,
        }
    }

    fn record(event: Event) -> serde_json::Value {
        let body = of(&QueuedEvent { id: (2 << 96) | (3 << 64) | 10, event }, "eu", "owner").unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn a_message_is_that_of_s3() {
        let expected = serde_json::json!({ "Records": [{
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu", "eventTime": "2027-01-15T08:00:00.000Z",
            "eventName": "ObjectCreated:Put", "userIdentity": { "principalId": "AWS:ann" },
            "requestParameters": { "sourceIPAddress": "10.0.0.1" }, "responseElements": { "x-amz-request-id": "0A" },
            "s3": {
                "s3SchemaVersion": "1.0", "configurationId": "all",
                "bucket": { "name": "data", "ownerIdentity": { "principalId": "owner" }, "arn": "arn:aws:s3:::data" },
                "object": {
                    "key": "a+b/%C3%BC%2B%281%29%7E.jpg", "size": 5, "eTag": "e", "versionId": "null",
                    "sequencer": "0000000200000003000000000000000A",
                },
            },
        }] });
        assert_eq!(record(event(EventKind::CreatedPut)), expected);
    }

    #[test]
    fn what_the_store_does_itself_says_so_and_restores_and_moves_tell_their_class() {
        let restored = Event {
            origin: Origin::default(),
            until: Some(Timestamp(1_800_086_400_000)),
            class: Some("GLACIER".into()),
            ..event(EventKind::RestoreCompleted)
        };
        let told = &record(restored)["Records"][0];
        assert_eq!(told["userIdentity"]["principalId"], ITSELF);
        let data = serde_json::json!({ "restoreEventData": {
            "lifecycleRestorationExpiryTime": "2027-01-16T08:00:00.000Z", "lifecycleRestoreStorageClass": "GLACIER",
        } });
        assert_eq!((&told["glacierEventData"], told.get("lifecycleEventData")), (&data, None));
        let moved = &record(Event { class: Some("STANDARD_IA".into()), ..event(EventKind::Transition) })["Records"][0];
        assert_eq!(moved["lifecycleEventData"]["transitionEventData"]["destinationStorageClass"], "STANDARD_IA");
        assert_eq!(moved["eventVersion"], "2.3");
        assert_eq!(record(event(EventKind::Test))["Event"], "s3:TestEvent");
    }
}
