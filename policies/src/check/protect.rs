//! Protections: the tier must read at once, and each item must have buckets of its own.

use crate::Class;
use crate::diagnostic::Sink;
use crate::parse::{At, DraftProtection};
use crate::policy::Tier;

/// Reports tiers that cannot protect, and items that another one covers.
pub(super) fn all(protections: &[DraftProtection], tiers: &[At<Tier>], sink: &mut Sink) {
    for (i, item) in protections.iter().enumerate() {
        let tier = tiers.get(item.tier.value).map(|t| &t.value);
        if let Some(Tier { name, class: Some(class) }) = tier
            && *class > Class::Ia
        {
            let message = format!("`{name}` is {class}: what lies there is not readable at once, so it cannot protect");
            let help =
                "use a tier of the class Standard or IA, or one without a class; a rule may move objects on later";
            sink.error(item.tier.at, &format!("{}.to", item.path), message, help);
        }
        let covers = |first: &DraftProtection| {
            let (first, text) = (&first.bucket.value, &item.bucket.value);
            first.text == text.text || first.text == "*" || (text.literal && first.matches(&text.text))
        };
        let earlier = protections.iter().take(i).filter(|p| p.enabled && item.enabled).find(|p| covers(p));
        if let Some(first) = earlier {
            let message = format!(
                "never counts: `{}` (line {}) comes first and names the same buckets",
                first.bucket.value.text, first.bucket.at.line
            );
            sink.error(item.bucket.at, &item.path, message, "remove one of the two, or put this one before the other");
        }
    }
}
