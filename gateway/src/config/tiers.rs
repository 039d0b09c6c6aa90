//! What only the configuration knows about tiers, for reports and for checking policies.

use tidegate_policies::Class;
use tidegate_tiering::engine::TierReport;
use tidegate_tiering::tier::TierSettings;
use tidegate_tiering::tier::oss::StorageClass;

/// The storage class of a tier as the price book knows it; `None` for stores that nobody bills by class.
pub fn price_class(settings: &TierSettings) -> Option<Class> {
    match settings {
        TierSettings::Oss(oss) => Some(match oss.storage_class {
            StorageClass::Standard => Class::Standard,
            StorageClass::IA => Class::Ia,
            StorageClass::Archive => Class::Archive,
            StorageClass::ColdArchive => Class::ColdArchive,
            StorageClass::DeepColdArchive => Class::DeepColdArchive,
        }),
        TierSettings::S3(_) | TierSettings::Directory(_) => None,
    }
}

/// Fills in what the engine does not know.
pub fn complete(report: &mut TierReport, settings: &TierSettings) {
    let (kind, target, class) = match settings {
        TierSettings::Oss(oss) => {
            let target = format!("{} {}/{}", oss.endpoint, oss.bucket, oss.prefix);
            ("oss", target, Some(oss.storage_class.name().to_owned()))
        }
        TierSettings::S3(s3) => {
            ("s3", format!("{} {}/{}", s3.endpoint, s3.bucket, s3.prefix), s3.storage_class.clone())
        }
        TierSettings::Directory(directory) => ("directory", directory.path.display().to_string(), None),
    };
    report.kind = kind.to_owned();
    report.target = without_credentials(&target);
    report.class = class;
}

/// `https://user:secret@host` is an endpoint that somebody will write one day.
fn without_credentials(target: &str) -> String {
    let Some((scheme, rest)) = target.split_once("://") else { return target.to_owned() };
    let end = rest.find(['/', ' ']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => target.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_shows_no_credentials() {
        assert_eq!(without_credentials("https://u:p@h:1/x b/p"), "https://h:1/x b/p");
        assert_eq!(without_credentials("https://h b/p@q"), "https://h b/p@q");
        assert_eq!(without_credentials("/mnt/nas"), "/mnt/nas");
    }
}
