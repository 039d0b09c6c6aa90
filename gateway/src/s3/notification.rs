//! Notifications of a bucket: which events are told to which target.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use std::collections::HashSet;
use tidegate_tiering::engine::{Destination, NOTIFICATION_SETTING, NotificationRule, is_covered};

use super::Gateway;
use super::error::from_engine;
use crate::notify::target_of_arn;

/// S3's limits.
const MAX_RULES: usize = 100;
const MAX_ID_CHARS: usize = 255;
const MAX_FILTER_BYTES: usize = 1024;
/// Most bytes of all rules of a bucket as they are stored: they are in the bucket's record.
const MAX_STORED_BYTES: usize = 64 << 10;

/// The events that S3 knows, those that never happen here among them: whoever asks for them too waits for none in vain there.
const EVENTS: [&str; 27] = [
    "s3:ReducedRedundancyLostObject",
    "s3:ObjectCreated:*",
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
    "s3:ObjectRemoved:*",
    "s3:ObjectRemoved:Delete",
    "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectRestore:*",
    "s3:ObjectRestore:Post",
    "s3:ObjectRestore:Completed",
    "s3:ObjectRestore:Delete",
    "s3:Replication:*",
    "s3:Replication:OperationFailedReplication",
    "s3:Replication:OperationNotTracked",
    "s3:Replication:OperationMissedThreshold",
    "s3:Replication:OperationReplicatedAfterThreshold",
    "s3:LifecycleTransition",
    "s3:IntelligentTiering",
    "s3:ObjectAcl:Put",
    "s3:LifecycleExpiration:*",
    "s3:LifecycleExpiration:Delete",
    "s3:LifecycleExpiration:DeleteMarkerCreated",
    "s3:ObjectTagging:*",
    "s3:ObjectTagging:Put",
    "s3:ObjectTagging:Delete",
];

pub(super) async fn put(
    gateway: &Gateway,
    request: S3Request<PutBucketNotificationConfigurationInput>,
) -> S3Result<S3Response<PutBucketNotificationConfigurationOutput>> {
    let input = request.input;
    let given = input.notification_configuration;
    if given.event_bridge_configuration.is_some() {
        return Err(s3_error!(
            NotImplemented,
            "EventBridgeConfiguration is not implemented: there is no EventBridge here; name a webhook of the configuration."
        ));
    }
    let rules = rules_of(given, &gateway.region)?;
    check(&rules)?;
    for rule in &rules {
        if !gateway.engine.has_event_target(&rule.target) {
            return Err(unknown_target(&rule.arn));
        }
    }
    let test = !input.skip_destination_validation.unwrap_or(false);
    gateway.engine.set_notifications(&input.bucket, &rules, test).await.map_err(from_engine)?;
    Ok(S3Response::new(PutBucketNotificationConfigurationOutput {}))
}

pub(super) async fn get(
    gateway: &Gateway,
    request: S3Request<GetBucketNotificationConfigurationInput>,
) -> S3Result<S3Response<GetBucketNotificationConfigurationOutput>> {
    let bucket = gateway.engine.bucket(&request.input.bucket).map_err(from_engine)?;
    let rules = match bucket.settings.config.get(NOTIFICATION_SETTING) {
        None => Vec::new(),
        Some(json) => NotificationRule::decode(json).map_err(|error| {
            tracing::error!(bucket = bucket.name, %error, "the notifications of a bucket cannot be read");
            s3_error!(InternalError, "The stored document cannot be read; the server's log has the reason.")
        })?,
    };
    Ok(S3Response::new(shown(rules)))
}

fn unknown_target(arn: &str) -> s3s::S3Error {
    s3_error!(
        InvalidArgument,
        "Unable to validate the following destination configurations: {arn} names no target of this server. Targets are \
         arn:tidegate:sqs::NAME:webhook, with the NAME of one in the server's configuration."
    )
}

/// The rules of a document: its queues, then its topics, then its functions.
fn rules_of(given: NotificationConfiguration, region: &str) -> S3Result<Vec<NotificationRule>> {
    let queues = given.queue_configurations.into_iter().flatten();
    let topics = given.topic_configurations.into_iter().flatten();
    let functions = given.lambda_function_configurations.into_iter().flatten();
    let all = queues
        .map(|one| (Destination::Queue, one.id, one.queue_arn, one.events, one.filter))
        .chain(topics.map(|one| (Destination::Topic, one.id, one.topic_arn, one.events, one.filter)))
        .chain(functions.map(|one| (Destination::Function, one.id, one.lambda_function_arn, one.events, one.filter)));
    all.map(|(destination, id, arn, events, filter)| {
        let target = target_of_arn(&arn, region).ok_or_else(|| unknown_target(&arn))?.to_owned();
        Ok(NotificationRule {
            id: id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("{:032x}", rand::random::<u128>())),
            destination,
            arn,
            target,
            events: once_each(events.into_iter().map(String::from)),
            filter: filter.map(parts_of).transpose()?,
        })
    })
    .collect()
}

/// Events in their order, those that are named again left out.
fn once_each(events: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = HashSet::new();
    events.filter(|event| seen.insert(event.clone())).collect()
}

fn parts_of(filter: NotificationConfigurationFilter) -> S3Result<Vec<(String, String)>> {
    let rules = filter.key.and_then(|key| key.filter_rules).unwrap_or_default();
    let mut parts: Vec<(String, String)> = Vec::new();
    for rule in rules {
        let name = rule.name.map(|name| name.as_str().to_owned()).unwrap_or_default();
        let Some(part) = ["prefix", "suffix"].into_iter().find(|part| name.eq_ignore_ascii_case(part)) else {
            return Err(s3_error!(InvalidArgument, "filter rule name must be either prefix or suffix"));
        };
        if parts.iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(part)) {
            return Err(s3_error!(InvalidArgument, "Cannot specify more than one {part} rule in a filter."));
        }
        let value = rule.value.unwrap_or_default();
        if value.len() > MAX_FILTER_BYTES {
            return Err(s3_error!(
                InvalidArgument,
                "Size of filter rule value cannot exceed 1024 bytes in UTF-8 representation"
            ));
        }
        parts.push((name, value));
    }
    Ok(parts)
}

/// What S3 refuses of a whole document.
fn check(rules: &[NotificationRule]) -> S3Result<()> {
    if rules.len() > MAX_RULES {
        return Err(s3_error!(
            InvalidArgument,
            "A bucket may have {MAX_RULES} notification configurations; there are {}.",
            rules.len()
        ));
    }
    let mut ids = HashSet::new();
    for rule in rules {
        if rule.id.chars().count() > MAX_ID_CHARS {
            return Err(s3_error!(InvalidArgument, "The Id of a configuration has at most {MAX_ID_CHARS} characters."));
        }
        if !ids.insert(rule.id.as_str()) {
            return Err(s3_error!(
                InvalidArgument,
                "Same ID used for multiple configurations: {}. IDs must be unique",
                rule.id
            ));
        }
        if rule.events.is_empty() {
            return Err(s3_error!(MalformedXML, "The configuration {} names no Event.", rule.id));
        }
        if let Some(unknown) = rule.events.iter().find(|event| !EVENTS.contains(&event.as_str())) {
            return Err(s3_error!(InvalidArgument, "The event '{unknown}' is not supported for notifications"));
        }
    }
    let stored = serde_json::to_vec(rules).map_err(|_| s3_error!(InternalError, "The rules cannot be encoded."))?.len();
    if stored > MAX_STORED_BYTES {
        return Err(s3_error!(
            InvalidArgument,
            "The notification configurations of a bucket may have {MAX_STORED_BYTES} bytes in all as they are stored; these have {stored}. \
             Use fewer configurations, or shorter filters."
        ));
    }
    for (at, rule) in rules.iter().enumerate() {
        if rules.iter().take(at).any(|earlier| overlap(earlier, rule)) {
            return Err(s3_error!(
                InvalidArgument,
                "Configuration is ambiguously defined. Cannot have overlapping suffixes in two rules if the prefixes are overlapping \
                 for the same event type."
            ));
        }
    }
    Ok(())
}

/// Whether there are events that both rules ask for: S3 tells each to one alone.
fn overlap(a: &NotificationRule, b: &NotificationRule) -> bool {
    let same = |a: &String, b: &String| is_covered(a, b) || is_covered(b, a);
    let events = a.events.iter().any(|one| b.events.iter().any(|other| same(one, other)));
    let ends = |part: &str, meet: fn(&str, &str) -> bool| {
        let (one, other) = (a.filter_by(part), b.filter_by(part));
        meet(one, other) || meet(other, one)
    };
    events
        && ends("prefix", |long, short| long.starts_with(short))
        && ends("suffix", |long, short| long.ends_with(short))
}

fn shown(rules: Vec<NotificationRule>) -> GetBucketNotificationConfigurationOutput {
    let mut shown = GetBucketNotificationConfigurationOutput::default();
    for NotificationRule { id, destination, arn, events, filter, .. } in rules {
        let (id, events) = (Some(id), events.into_iter().map(Event::from).collect());
        let filter = filter.map(|parts| {
            let rule = |(name, value)| FilterRule { name: Some(FilterRuleName::from(name)), value: Some(value) };
            let filter_rules = Some(parts.into_iter().map(rule).collect());
            NotificationConfigurationFilter { key: Some(S3KeyFilter { filter_rules }) }
        });
        match destination {
            Destination::Queue => {
                let all = shown.queue_configurations.get_or_insert_default();
                all.push(QueueConfiguration { events, filter, id, queue_arn: arn });
            }
            Destination::Topic => {
                let all = shown.topic_configurations.get_or_insert_default();
                all.push(TopicConfiguration { events, filter, id, topic_arn: arn });
            }
            Destination::Function => {
                let all = shown.lambda_function_configurations.get_or_insert_default();
                all.push(LambdaFunctionConfiguration { events, filter, id, lambda_function_arn: arn });
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: &str, events: &[&str], (prefix, suffix): (&str, &str)) -> NotificationRule {
        NotificationRule {
            id: id.into(),
            destination: Destination::Queue,
            arn: String::new(),
            target: "t".into(),
            events: events.iter().map(|event| (*event).to_owned()).collect(),
            filter: Some(vec![("Prefix".into(), prefix.into()), ("suffix".into(), suffix.into())]),
        }
    }

    #[test]
    fn rules_that_ask_for_the_same_events_of_the_same_keys_are_refused() {
        let (put, created) = (["s3:ObjectCreated:Put"], ["s3:ObjectCreated:*"]);
        let cases = [
            (rule("a", &put, ("", "")), rule("b", &put, ("", "")), true),
            (rule("a", &put, ("", "")), rule("b", &created, ("", "")), true),
            (rule("a", &put, ("", "")), rule("b", &["s3:ObjectRemoved:*"], ("", "")), false),
            (rule("a", &put, ("in/", "")), rule("b", &created, ("in/x", "")), true),
            (rule("a", &put, ("in/", "")), rule("b", &created, ("out/", "")), false),
            (rule("a", &put, ("in/", ".jpg")), rule("b", &created, ("in/", ".png")), false),
            (rule("a", &put, ("in/", ".jpg")), rule("b", &created, ("", "")), true),
        ];
        // As the stored form is bounded.
        let long: Vec<_> = (0..70).map(|n| rule(&n.to_string(), &put, (&format!("{n:01000}/"), ""))).collect();
        assert!(check(&long[..50]).is_ok() && check(&long).is_err());
        for (a, b, refused) in cases {
            let outcome = check(&[a.clone(), b.clone()]);
            assert_eq!(outcome.is_err(), refused, "{a:?} {b:?}");
        }
    }
}
