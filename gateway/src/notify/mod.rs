//! Sends the events that wait in the engine's queues to the targets of the configuration.
//!
//! Architecture invariant: an event leaves its queue only after its target has answered with 2xx, or has refused it for a
//! day; and requests go to URLs of the
//! configuration alone: what S3 clients set names a target, never an address.

mod deliver;
mod held;
mod message;
mod target;

pub use deliver::{Delivery, DeliveryMetrics};
pub use target::{Target, Wrong};

/// The name of the target that an ARN names: `arn:tidegate:sqs:REGION:NAME:webhook`, with `sns` or `lambda` for `sqs`, and with or
/// without the region.
pub fn target_of_arn<'a>(arn: &'a str, region: &str) -> Option<&'a str> {
    let parts: Vec<&str> = arn.split(':').collect();
    match parts.as_slice() {
        ["arn", "tidegate", "sqs" | "sns" | "lambda", of, name, "webhook"] if of.is_empty() || *of == region => {
            Some(name)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_a_target() {
        let cases = [
            ("arn:tidegate:sqs::hook:webhook", Some("hook")),
            ("arn:tidegate:sns:eu:hook:webhook", Some("hook")),
            ("arn:tidegate:lambda:us:hook:webhook", None),
            ("arn:tidegate:sqs::hook", None),
            ("arn:tidegate:sqs::hook:webhook:more", None),
            ("arn:aws:sqs:eu:123456789012:hook", None),
            ("", None),
        ];
        for (arn, name) in cases {
            assert_eq!(target_of_arn(arn, "eu"), name, "{arn}");
        }
    }
}
